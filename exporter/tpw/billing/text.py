"""Bills as text: one line by line, several side by side, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from textwrap import wrap
from zoneinfo import ZoneInfo

from tpw.billing.bill import Bill

_SECTIONS = {
    "energy": "energy",
    "grid": "network",
    "levies": "levies",
    "demand": "demand",
    "capacity": "capacity",
    "fixed": "fixed",
    "minimum": "minimum bill",
    "taxes": "taxes",
    "vat": "VAT",
}
_WIDTH = 100


def bill_text(name: str, bill: Bill, timezone: str, fields: Mapping[str, Sequence[str]]) -> str:
    """A bill line by line, and what of its rates was read and was not."""
    rows = [["", "QUANTITY", "", "PRICE", bill.currency]]
    for section, title in _SECTIONS.items():
        found = [line for line in bill.lines if line.section == section]
        for line in found:
            price = "" if line.price is None else f"{line.price:.6g}"
            text = line.text if line.text.startswith(title) else f"{title}: {line.text}"
            rows.append([text, f"{line.quantity:,.3f}", line.unit, price, f"{line.amount:,.2f}"])
        if len(found) > 1:
            rows.append([f"{title}, all", "", "", "", f"{bill.of(section):,.2f}"])
    rows.append(["total", f"{bill.kwh:,.3f}", "kWh", _mean(bill), f"{bill.total:,.2f}"])
    out = [f"{name}: {_span(bill, timezone)}", "", *_table(rows), ""]
    for remark in remarks(bill):
        out += wrap(remark, _WIDTH, subsequent_indent="  ")
    for title, names in fields.items():
        out += wrap(f"{title}: {', '.join(names) or 'none'}", _WIDTH, subsequent_indent="  ")
    return "\n".join(line.rstrip() for line in out) + "\n"


def remarks(bill: Bill) -> list[str]:
    """What a reader of the bill should know."""
    found = []
    if bill.unpriced_kwh > 0.0:
        found.append(f"without a price, and not in the bill: {bill.unpriced_kwh:,.3f} kWh")
    found += [f"no price: {problem}" for problem in bill.problems]
    if bill.covered < 1.0 - 1e-9:
        found.append(f"there is a load for {bill.covered:.1%} of the time")
    found += bill.notes
    found += [f"not in the bill: {sentence}" for sentence in bill.excluded]
    return found


def comparison_text(bills: Mapping[str, Bill], timezone: str) -> str:
    """Bills of the same load side by side, each with what it saves to the first."""
    (first, *_) = bills.values()
    rows = [["", *bills]]
    for section, title in _SECTIONS.items():
        if any(bill.of(section) for bill in bills.values()):
            rows.append([title, *(f"{bill.of(section):,.2f}" for bill in bills.values())])
    rows.append(["total", *(f"{bill.total:,.2f}" for bill in bills.values())])
    rows.append(["per kWh", *(_mean(bill) for bill in bills.values())])
    rows.append(["saving", *(_saving(bill, first) for bill in bills.values())])
    out = [f"{_span(first, timezone)}, {first.kwh:,.3f} kWh, {first.currency}", "", *_table(rows), ""]
    for name, bill in bills.items():
        for remark in remarks(bill):
            out += wrap(f"{name}: {remark}", _WIDTH, subsequent_indent="  ")
    return "\n".join(line.rstrip() for line in out) + "\n"


def bills_json(bills: Mapping[str, Bill], timezone: str) -> str:
    """Every bill with all its lines."""
    zone = ZoneInfo(timezone)

    def local(seconds: float) -> str:
        return datetime.fromtimestamp(seconds, UTC).astimezone(zone).isoformat()

    document = [
        {
            "name": name,
            **{key: value for key, value in asdict(bill).items() if not key.endswith("_seconds")},
            "start": local(bill.start_seconds),
            "end": local(bill.end_seconds),
            "total": bill.total,
        }
        for name, bill in bills.items()
    ]
    return json.dumps(document, indent=2) + "\n"


def _saving(bill: Bill, first: Bill) -> str:
    """What a bill saves. Not known where one of them lacks energy."""
    if bill is first:
        return ""
    if bill.unpriced_kwh > 0.0 or first.unpriced_kwh > 0.0 or bill.currency != first.currency:
        return "unknown"
    return f"{first.total - bill.total:,.2f}"


def _mean(bill: Bill) -> str:
    priced = bill.kwh - bill.unpriced_kwh
    return f"{bill.total / priced:.6g}" if priced > 0.0 else ""


def _span(bill: Bill, timezone: str) -> str:
    zone = ZoneInfo(timezone)
    start, end = (
        datetime.fromtimestamp(moment, UTC).astimezone(zone) for moment in (bill.start_seconds, bill.end_seconds)
    )
    return f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}, {timezone}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows in columns; the first is text, the others are numbers."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
