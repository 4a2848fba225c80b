"""Notes beside the numbers of a report, in whole sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tpw.exposition.figures import figure
from tpw.ledger.amounts import ENERGY, JOULES_PER_KWH
from tpw.ledger.books import Correction
from tpw.report.periods import Calendar
from tpw.report.tabulate import Dimension, Report


def notes(
    report: Report,
    calendar: Calendar,
    first_row_seconds: float | None,
    until_seconds: float,
    corrections: Sequence[Correction] = (),
) -> list[str]:
    """The notes of a report.

    Args:
        report: what is shown.
        calendar: of its zone.
        first_row_seconds: start of the first quarter-hour of the books.
        until_seconds: up to when the books have been written.
        corrections: entries of an operator that the report includes.
    """
    return [
        *_extent(report, calendar, first_row_seconds, until_seconds),
        *_money(report),
        *_elsewhere(report),
        *_corrected(corrections, calendar),
    ]


def _corrected(corrections: Sequence[Correction], calendar: Calendar) -> Iterator[str]:
    for one in corrections:
        yield (
            f"Corrected by {one.author} on {_day(calendar, one.made_seconds)}: {one.tokens:+,.0f} {one.kind} tokens of"
            f" {one.server}, {one.model} on {_day(calendar, one.at_seconds)}. {one.reason}"
        )


def _extent(report: Report, calendar: Calendar, first: float | None, until: float) -> Iterator[str]:
    covered = report.covered
    if not report.lines:
        if first is not None:
            yield f"The books hold {_day(calendar, first)} to {_moment(calendar, until)}."
        return
    if first is not None and covered.start_seconds < first:
        yield f"The books begin on {_moment(calendar, first)}."
    if until < covered.end_seconds:
        yield f"Booked up to {_moment(calendar, until)}."


def _money(report: Report) -> Iterator[str]:
    totals = report.totals
    amounts = totals.amounts
    if report.lines and not report.has_money:
        yield "Nothing has a cost: neither `tariff` nor `costs` was configured when this was booked."
    elif report.lines and ENERGY not in amounts.cost and amounts.facility_joules > 0.0:
        yield "The energy has no cost: no `tariff` was configured when it was booked."
    if amounts.unpriced_joules > 0.0:
        yield (
            f"* {figure(amounts.unpriced_joules / JOULES_PER_KWH)} kWh have no price yet: what they will cost is in no"
            " figure here, and lines that have such energy have no cost per token."
        )
    if totals.is_partly_tariffed:
        yield (
            f"{figure(totals.untariffed_joules / JOULES_PER_KWH)} kWh were used before a `tariff` was configured: they have"
            " no cost, and lines with energy of both times have no cost per token."
        )
    if Dimension.STATE in report.by and totals.tokens:
        yield "Tokens stand with the active state: they are counted by server and model, not by state."
    if Dimension.GPU in report.by and totals.tokens:
        yield "Tokens stand in lines without a GPU: they are counted by server and model, not by GPU."
    others = sorted(amounts.emissions_grams)[1:]
    if others:
        grams = ", ".join(f"{figure(amounts.emissions_grams[basis])} g {basis}" for basis in others)
        yield f"The column of grams is {min(amounts.emissions_grams)}. By another basis: {grams}."


def _elsewhere(report: Report) -> Iterator[str]:
    for reference, amount in sorted(report.totals.served.reference_cost.items()):
        yield f"The same at {reference}: {figure(amount)} {report.currency}."
    if report.totals.served.reference_cost and report.totals.full_cost is None:
        yield (
            "That is a full price. What is booked here lacks the GPUs (`costs.hardware`, `costs.gpu_hour`) or their"
            " electricity: the two do not compare."
        )


def _moment(calendar: Calendar, at_seconds: float) -> str:
    return f"{calendar.local(at_seconds):%Y-%m-%d %H:%M}"


def _day(calendar: Calendar, at_seconds: float) -> str:
    return f"{calendar.local(at_seconds):%Y-%m-%d}"
