"""Advice as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from textwrap import wrap

from tpw.advice.advise import Findings
from tpw.advice.fleet import WEEK, Fleet
from tpw.exposition.figures import plain
from tpw.ledger.calendar import Calendar

_WIDTH = 100
_NOTE = (
    "Saving: money a month, the mean of the days seen and the 95 % interval of that mean. PAID is the part by which bills"
    " fall: electricity and rent; the rest is time of GPUs that are paid for already, which others can use. Each line is"
    " calculated alone: those of one server or GPU overlap. Nothing is set or stopped by this."
)


def findings_text(findings: Findings, fleet: Fleet, calendar: Calendar) -> str:
    """A table, each line with how it was calculated and how it is done, and what is not known."""
    return "\n".join(line.rstrip() for line in _text(findings, fleet, calendar)) + "\n"


def _text(findings: Findings, fleet: Fleet, calendar: Calendar) -> Iterator[str]:
    weeks = fleet.quarters // WEEK
    yield (
        f"{weeks} {'week' if weeks == 1 else 'weeks'} up to {calendar.local(fleet.at(fleet.quarters)):%Y-%m-%d %H:%M},"
        f" {calendar.timezone}, {fleet.currency} a month"
    )
    yield ""
    if not findings.advice:
        yield "Nothing would save money, as far as these books show."
    else:
        rows = [["", "SAVING", "LOW", "HIGH", "PAID", "KIND", "SUBJECT"]]
        for number, one in enumerate(findings.advice, 1):
            money = (one.saving.value, one.saving.low, one.saving.high, one.paid_per_month)
            rows.append([str(number), *(f"{amount:,.2f}" for amount in money), one.kind, plain(one.subject)])
        widths = [max(len(row[place]) for row in rows) for place in range(7)]
        for row in rows:
            cells = zip(row, widths, range(7), strict=True)
            yield "  ".join(cell.ljust(width) if place > 4 else cell.rjust(width) for cell, width, place in cells)
        for number, one in enumerate(findings.advice, 1):
            yield ""
            yield from _wrapped(f"{number:>2}. {one.what}", "    ")
            if one.since_seconds is not None:
                yield f"    Since {calendar.local(one.since_seconds):%Y-%m-%d %H:%M}."
            yield from _wrapped(f"    {one.why}", "    ")
            yield from _wrapped(f"    How: {one.how}", "         ")
        yield ""
        yield from _wrapped(_NOTE, "")
    if findings.missing:
        yield ""
        yield "What the books do not show:"
        for lack in findings.missing:
            yield from _wrapped(f"  - {lack.text}", "    ")


def _wrapped(text: str, indent: str) -> list[str]:
    return wrap(plain(text), _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def findings_json(findings: Findings, fleet: Fleet, calendar: Calendar) -> str:
    """All of it."""
    document = {
        "currency": fleet.currency,
        "start": calendar.local(fleet.start_seconds).isoformat(),
        "end": calendar.local(fleet.at(fleet.quarters)).isoformat(),
        "advice": [
            {
                "kind": one.kind,
                "subject": one.subject,
                "saving_per_month": asdict(one.saving),
                "paid_per_month": one.paid_per_month,
                "what": one.what,
                "why": one.why,
                "how": one.how,
                "since": None if one.since_seconds is None else calendar.local(one.since_seconds).isoformat(),
                "details": dict(one.details),
            }
            for one in findings.advice
        ],
        "answered": list(findings.answered),
        "note": _NOTE,
        "missing": [{"kind": lack.kind, "subject": lack.subject, "text": lack.text} for lack in findings.missing],
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"
