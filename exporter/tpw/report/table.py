"""A report as text: two tables of the same lines, use and cost, of a given width."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from textwrap import wrap

from tpw.exposition.figures import UNKNOWN, figure, plain
from tpw.ledger.amounts import ENERGY, JOULES_PER_KWH
from tpw.model import Gpu, State, TokenKind
from tpw.report.periods import Calendar, Unit
from tpw.report.tabulate import Dimension, Label, Line, Report, Totals, per_joule

_NOBODY = {State.IDLE: "(idle)", State.OTHER: "(other)", State.PLANNED_OFF: "(idle)", "": "(no server)"}
"""Shown as the server of GPUs without an owner, by state; "" where a line is of all states."""

_NARROWEST: dict[Dimension | Label, int] = {
    Dimension.SERVER: 8,
    Dimension.MODEL: 10,
    Dimension.WORKLOAD: 10,
    Dimension.TENANT: 8,
}
"""The least width of a text column. Others are never cut."""
_TOTAL = "total"


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of numbers. ``text`` makes one of a line's amounts, or of the totals."""

    head: str
    text: Callable[[Totals], str]


def table_text(
    report: Report, calendar: Calendar, gpus: Mapping[str, Gpu], notes: Sequence[str], width: int
) -> Iterator[str]:
    """Both tables, each with its totals, and the notes: the lines of the text."""
    start, end = map(calendar.local, (report.covered.start_seconds, report.covered.end_seconds))
    span = f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}, {report.timezone}"
    if not report.lines:
        lines = chain([f"Nothing is booked from {span}."], _wrapped(notes, width))
    else:
        labels = _Labels(report, calendar, gpus)
        lines = chain([f"From {span}", ""], _laid_out(report, labels, _work_columns(report), width))
        if report.has_money:
            lines = chain(lines, ["", f"{report.currency}; ENERGY/M and NET/M: for a million output tokens", ""])
            money = _money_columns(report, width - labels.least_width)
            lines = chain(lines, _laid_out(report, labels, money, width))
        if notes:
            lines = chain(lines, [""], _wrapped(notes, width))
    return (f"{line.rstrip()}\n" for line in lines)


def _wrapped(notes: Sequence[str], width: int) -> list[str]:
    return [line for note in notes for line in wrap(note, width)]


# --------------------------------------------------------------------------------------------------------------- columns


def _number(head: str, value: Callable[[Totals], float | None]) -> _Column:
    return _Column(head, lambda line: figure(value(line)))


def _count(head: str, value: Callable[[Totals], float]) -> _Column:
    """A number with a dash for zero."""
    return _Column(head, lambda line: figure(value(line) or None))


def _work_columns(report: Report) -> list[_Column]:
    columns = [
        _count("GPU h", lambda line: line.amounts.seconds / 3600.0),
        _count("IN", lambda line: line.served.tokens.get(TokenKind.INPUT, 0.0)),
        _count("CACHED", lambda line: line.served.tokens.get(TokenKind.CACHED_INPUT, 0.0)),
        _count("OUT", lambda line: line.output_tokens),
        _count("REQ", lambda line: line.served.requests),
        _count("GPU kWh", lambda line: line.amounts.joules / JOULES_PER_KWH),
        _count("ALL kWh", lambda line: line.amounts.facility_joules / JOULES_PER_KWH),
        _number("TOK/J", lambda line: per_joule(line.output_tokens, line.amounts.joules)),
    ]
    emissions = report.totals.amounts.emissions_grams
    if emissions:
        basis = min(emissions)
        columns.append(_count("gCO2e", lambda line: line.amounts.emissions_grams.get(basis, 0.0)))
    return columns


def _money_columns(report: Report, width: int) -> list[_Column]:
    """A column per component; the smallest share one if the width does not suffice."""
    beside = _beside(report)
    if Dimension.COMPONENT in report.by:
        return [_number("COST", lambda line: _sum_of(line, tuple(line.amounts.cost))), *beside]
    by_size = sorted(report.components, key=lambda name: (name != ENERGY, -report.totals.amounts.cost[name]))
    if not by_size:
        return beside
    others = [_other(by_size[shown:]) for shown in range(1, len(by_size))]
    single = {name: _component(name) for name in report.components}
    known = [*single.values(), *others, *beside]
    sizes = {id(column): size for column, size in zip(known, _sizes(report, known), strict=True)}
    columns: list[_Column] = []
    for shown in range(len(by_size), 0, -1):
        columns = [single[name] for name in report.components if name in by_size[:shown]]
        if shown < len(by_size):
            columns.append(others[shown - 1])
        columns += beside
        if sum(sizes[id(column)] for column in columns) + len(columns) <= width:
            break
    return columns


def _beside(report: Report) -> list[_Column]:
    """The columns after the components."""
    columns = []
    if report.totals.amounts.credit > 0.0:
        columns.append(_number("CREDIT", lambda line: -line.amounts.credit if line.amounts.cost else None))
    columns.append(_Column("NET", _net))
    if report.totals.amounts.unpriced_joules > 0.0:
        columns.append(_count("kWh (*)", lambda line: line.amounts.unpriced_joules / JOULES_PER_KWH))
    columns.append(_number("ENERGY/M", lambda line: line.per_million(line.energy_cost, line.output_tokens)))
    if report.totals.full_cost is not None:
        columns.append(_number("NET/M", lambda line: line.per_million(line.full_cost, line.output_tokens)))
    return columns


def _component(name: str) -> _Column:
    return _number(name.upper(), lambda line: line.amounts.cost.get(name))


def _other(components: Sequence[str]) -> _Column:
    return _number("OTHER", lambda line: _sum_of(line, components))


def _sum_of(line: Totals, components: Sequence[str]) -> float | None:
    found = [line.amounts.cost[name] for name in components if name in line.amounts.cost]
    return sum(found) if found else None


def _net(line: Totals) -> str:
    """With a mark if some of the energy has no price yet: it is a lower bound then."""
    return figure(line.net_cost) + ("*" if line.amounts.unpriced_joules > 0.0 else "")


# ---------------------------------------------------------------------------------------------------------------- labels


class _Labels:
    """The text columns: one per dimension. Time is a heading above if there are others."""

    def __init__(self, report: Report, calendar: Calendar, gpus: Mapping[str, Gpu]) -> None:
        self._calendar = calendar
        self._gpus = gpus
        self._report = report
        units = [dimension.unit for dimension in report.by if dimension.unit is not None]
        self.has_headings = bool(units) and len(report.by) > 1
        self._unit = units[0] if units else None
        # That of a server is mostly in its name.
        has_workloads = Dimension.WORKLOAD in report.by and any(
            line.workload is not None and not line.server for line in report.lines
        )
        self._dimensions = [
            one
            for one in report.by
            if not (self.has_headings and one.unit is not None)
            and (has_workloads or one is not Dimension.WORKLOAD or len(report.by) == 1)
        ]
        self._widths = [len(one.value) for one in self._dimensions]
        for line in report.lines:
            self._widths = [max(pair) for pair in zip(self._widths, map(len, self._words(line)), strict=True)]
        self._widths[0] = max(self._widths[0], len(_TOTAL))

    @property
    def least_width(self) -> int:
        """The least width of all text columns, separators included."""
        return sum(
            min(width, _NARROWEST.get(one, width)) + 1
            for one, width in zip(self._dimensions, self._widths, strict=True)
        )

    def fitted(self, width: int) -> list[int]:
        """The widths of the columns within ``width``: the widest is cut first."""
        widths = list(self._widths)
        while sum(widths) + len(widths) > width:
            spare = [size - _NARROWEST.get(one, size) for one, size in zip(self._dimensions, widths, strict=True)]
            if max(spare) <= 0:
                break
            widths[spare.index(max(spare))] -= 1
        return widths

    def head(self, widths: Sequence[int]) -> str:
        """The names of the columns."""
        return _joined([one.value.upper() for one in self._dimensions], widths)

    def row(self, line: Line, widths: Sequence[int]) -> str:
        """The text columns of a line."""
        return _joined(self._words(line), widths)

    def heading(self, line: Line) -> str:
        """The time of a line."""
        unit, period = self._unit, line.period
        if unit is None or period is None or not self.has_headings:
            return ""
        text = self._calendar.name(unit, self._calendar.period(unit, period.start_seconds))
        return f"{text} {self._calendar.local(period.start_seconds):%a}" if unit is Unit.DAY else text

    def _words(self, line: Line) -> list[str]:
        return [self._word(one, line) for one in self._dimensions]

    def _word(self, dimension: Dimension | Label, line: Line) -> str:
        match dimension:
            case Dimension.SERVER:
                return plain(line.server) or _NOBODY.get(line.state, UNKNOWN)
            case Dimension.MODEL:
                return plain(line.model) or UNKNOWN
            case Dimension.STATE:
                return line.state
            case Dimension.TENANT:
                return plain(line.tenant) or UNKNOWN
            case Dimension.NAMESPACE | Label():
                return plain(line.owner(dimension)) or UNKNOWN
            case Dimension.WORKLOAD:
                return UNKNOWN if line.workload is None else f"{plain(line.workload.name)} ({line.workload.kind})"
            case Dimension.COMPONENT:
                return line.component or UNKNOWN
            case Dimension.GPU:
                gpu = self._gpus.get(line.gpu)
                return line.gpu or UNKNOWN if gpu is None else str(gpu.index)
            case _:
                unit, period = self._unit, line.period
                assert unit is not None and period is not None  # noqa: S101, PT018 - it is grouped by time
                return self._calendar.name(unit, self._calendar.period(unit, period.start_seconds))


def _joined(words: Sequence[str], widths: Sequence[int]) -> str:
    return "".join(f"{_cut(word, width):<{width}} " for word, width in zip(words, widths, strict=True))


def _cut(word: str, width: int) -> str:
    return word if len(word) <= width else word[: width - 1] + "~"


# ---------------------------------------------------------------------------------------------------------------- layout


def _laid_out(report: Report, labels: _Labels, columns: Sequence[_Column], width: int) -> Iterator[str]:
    sizes = _sizes(report, columns)
    widths = labels.fitted(width - sum(sizes) - len(sizes) + 1)
    yield labels.head(widths) + _numbers([column.head for column in columns], sizes)
    heading = ""
    for line in report.lines:
        row = [column.text(line.totals) for column in columns]
        if set(row) == {UNKNOWN}:
            continue  # it has numbers in the other table
        if (following := labels.heading(line)) != heading:
            heading = following
            yield heading
        yield labels.row(line, widths) + _numbers(row, sizes)
    totals = [column.text(report.totals) for column in columns]
    yield f"{_TOTAL:<{sum(widths) + len(widths)}}" + _numbers(totals, sizes)


def _sizes(report: Report, columns: Sequence[_Column]) -> list[int]:
    """The width of each column."""
    sizes = [max(len(column.head), len(column.text(report.totals))) for column in columns]
    for line in report.lines:
        sizes = [max(size, len(column.text(line.totals))) for size, column in zip(sizes, columns, strict=True)]
    return sizes


def _numbers(texts: Sequence[str], sizes: Sequence[int]) -> str:
    return " ".join(f"{text:>{size}}" for text, size in zip(texts, sizes, strict=True))
