"""A report for machines: CSV and JSON. Full precision, no number where nothing is known."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from textwrap import indent
from typing import Any

from tpw.ledger.amounts import JOULES_PER_KWH
from tpw.model import Gpu, TokenKind
from tpw.report.periods import Calendar
from tpw.report.tabulate import Dimension, Label, Line, Report, Totals, per_joule

_KINDS = (TokenKind.INPUT, TokenKind.CACHED_INPUT, TokenKind.OUTPUT)

Value = str | float | int | None


class _Row:
    """A file that returns what is written to it: the csv module then makes one row at a time."""

    @staticmethod
    def write(text: str) -> str:
        return text


_FORMULA = re.compile(r"[=@\t\r\n]|[+-](?!\d+(\.\d+)?\Z)")


def cell(value: Value) -> Value:
    """A value for a CSV that a spreadsheet may open: text that would be a formula there begins with an apostrophe, and is
    on one line (the csv module does not quote a carriage return)."""
    if not isinstance(value, str):
        return value
    text = value.replace("\r", " ").replace("\n", " ")
    return f"'{text}" if _FORMULA.match(value) else text


def csv_rows(header: Sequence[str], rows: Iterable[Mapping[str, Value]]) -> Iterator[str]:
    """The lines of a CSV."""
    writer = csv.DictWriter(_Row(), header, lineterminator="\n")
    yield str(writer.writer.writerow(header))
    for row in rows:
        yield str(writer.writerow({name: cell(value) for name, value in row.items()}))


def csv_text(report: Report, calendar: Calendar, gpus: Mapping[str, Gpu]) -> Iterator[str]:
    """One row per line, names with units in the first; an empty field is unknown. No row of totals: rows sum to them."""
    rows = ({**_key(report.by, line, calendar, gpus), **_totals(report, line.totals)} for line in report.lines)
    return csv_rows([*_key_names(report.by), *_totals(report, report.totals)], rows)


def json_text(report: Report, calendar: Calendar, gpus: Mapping[str, Gpu], notes: Sequence[str]) -> Iterator[str]:
    """Everything in one document; null is unknown."""
    head = {
        "from": calendar.local(report.covered.start_seconds).isoformat(timespec="minutes"),
        "to": calendar.local(report.covered.end_seconds).isoformat(timespec="minutes"),
        "timezone": report.timezone,
        "currency": report.currency or None,
        "by": list(report.by),
    }
    yield _json(head).removesuffix("\n}") + ',\n  "rows": ['
    for number, line in enumerate(report.lines):
        row = {**_key(report.by, line, calendar, gpus), **_totals(report, line.totals)}
        yield ("," if number else "") + indent("\n" + _json(row), "    ")
    yield ("\n  " if report.lines else "") + "],\n"
    yield _json({"totals": _totals(report, report.totals), "notes": list(notes)}).removeprefix("{\n") + "\n"


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)


_COLUMNS: dict[Dimension | Label, tuple[str, ...]] = {
    Dimension.GPU: ("gpu", "gpu_uuid"),
    Dimension.WORKLOAD: ("workload", "workload_kind"),
}
"""Columns of a dimension, where it is not one of its own name."""


def _key_names(by: Sequence[Dimension | Label]) -> Iterator[str]:
    for dimension in by:
        yield from _COLUMNS.get(dimension, (dimension.value,))


def _key(by: Sequence[Dimension | Label], line: Line, calendar: Calendar, gpus: Mapping[str, Gpu]) -> dict[str, Value]:
    key: dict[str, Value] = {}
    for dimension in by:
        match dimension:
            case Dimension.SERVER:
                key["server"] = line.server
            case Dimension.MODEL:
                key["model"] = line.model
            case Dimension.STATE:
                key["state"] = line.state
            case Dimension.COMPONENT:
                key["component"] = line.component
            case Dimension.TENANT:
                key["tenant"] = line.tenant
            case Dimension.NAMESPACE | Label():
                key[dimension.value] = line.owner(dimension)
            case Dimension.WORKLOAD:
                key["workload"] = "" if line.workload is None else line.workload.name
                key["workload_kind"] = "" if line.workload is None else line.workload.kind
            case Dimension.GPU:
                gpu = gpus.get(line.gpu)
                key["gpu"] = None if gpu is None else gpu.index
                key["gpu_uuid"] = line.gpu
            case _:
                unit = dimension.unit
                assert unit is not None and line.period is not None  # noqa: S101, PT018 - it is grouped by time
                key[dimension.value] = calendar.name(unit, calendar.period(unit, line.period.start_seconds))
    return key


def _totals(report: Report, line: Totals) -> dict[str, Value]:
    """The same keys for every line: all that occur in the report."""
    amounts, served, of_report = line.amounts, line.served, report.totals
    output, total = line.output_tokens, line.tokens
    record: dict[str, Value] = {"gpu_seconds": amounts.seconds}
    for kind in _KINDS:
        record[f"tokens_{kind}"] = served.tokens.get(kind, 0.0)
    record |= {"tokens_total": total, "requests": served.requests}
    for unit in sorted(of_report.served.work):
        record[f"work_{unit}"] = served.work.get(unit, 0.0)
    record |= {
        "energy_gpu_kwh": amounts.joules / JOULES_PER_KWH,
        "energy_facility_kwh": amounts.facility_joules / JOULES_PER_KWH,
        "energy_unpriced_kwh": amounts.unpriced_joules / JOULES_PER_KWH,
        **({"energy_untariffed_kwh": line.untariffed_joules / JOULES_PER_KWH} if of_report.is_partly_tariffed else {}),
        "output_tokens_per_joule_gpu": per_joule(output, amounts.joules),
        "output_tokens_per_joule_facility": per_joule(output, amounts.facility_joules),
        "tokens_per_joule_gpu": per_joule(total, amounts.joules),
        "tokens_per_joule_facility": per_joule(total, amounts.facility_joules),
    }
    for basis in sorted(of_report.amounts.emissions_grams):
        record[f"emissions_{basis}_grams"] = amounts.emissions_grams.get(basis, 0.0)
    record["currency"] = report.currency or None
    for component in report.components:
        record[f"cost_{component}"] = amounts.cost.get(component)
    energy, net = line.energy_cost, line.net_cost
    record |= {
        "credit": amounts.credit if amounts.cost else None,
        "cost_net": net,
        "cost_energy_per_million_output_tokens": line.per_million(energy, output),
        "cost_full_per_million_output_tokens": line.per_million(line.full_cost, output),
        "cost_energy_per_million_tokens": line.per_million(energy, total),
        "cost_full_per_million_tokens": line.per_million(line.full_cost, total),
    }
    for reference in sorted(of_report.served.reference_cost):
        record[f"reference_cost_{reference}"] = served.reference_cost.get(reference, 0.0)
    return record
