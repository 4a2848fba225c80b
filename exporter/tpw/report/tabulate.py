"""Rows of the books summed into the lines of a report.

Every joule, token and cost of the range is in exactly one line, so the lines sum to the totals for any grouping:

- Tokens and requests are counted by server and model: by state they are in ``active``, by GPU in the line without a GPU.
- By component, energy, grams and credit are in ``energy``; GPU time and tokens are in the line without a component.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from heapq import merge
from math import fsum
from operator import itemgetter
from pathlib import Path
from typing import Any

from tpw.ledger.amounts import ENERGY, NOTHING, NOTHING_SERVED, Amounts, Served, Tally
from tpw.ledger.books import PostingKey
from tpw.model import ALL_IN, CAPITAL, ServerWorkload, State, TokenKind, Workload, WorkloadKind, server_of_replica
from tpw.report.periods import Calendar, Period, Unit
from tpw.report.spool import Spool

MILLION = 1e6


class Dimension(StrEnum):
    """Groupings of a report."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    SERVER = "server"
    MODEL = "model"
    STATE = "state"
    GPU = "gpu"
    COMPONENT = "component"
    WORKLOAD = "workload"
    """Of a server, or of who used a GPU without being one."""
    NAMESPACE = "namespace"
    """Of the server's pod."""
    TENANT = "tenant"
    """Who used the server."""

    @property
    def unit(self) -> Unit | None:
        """Which unit of time it is; None where it is none."""
        return Unit(self.value) if self in (Dimension.HOUR, Dimension.DAY, Dimension.WEEK, Dimension.MONTH) else None


class Label(str):
    """Grouping by a label of pods, by its name in metrics: ``label_team``."""

    __slots__ = ()
    unit = None

    @property
    def value(self) -> str:
        """Its name, as that of a :class:`Dimension`."""
        return str(self)


_LABEL = "label_"

DEFAULT = (Dimension.DAY, Dimension.SERVER, Dimension.MODEL, Dimension.STATE, Dimension.WORKLOAD)


def dimensions(text: str) -> tuple[Dimension | Label, ...]:
    """The dimensions of ``day,server,label_team``. Raises ValueError with a whole sentence."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    known = ", ".join(Dimension)
    for word in words:
        if word not in set(Dimension) and not word.startswith(_LABEL):
            raise ValueError(f"--by={text}: `{word}` is none of {known}, label_NAME")
    found = tuple(dict.fromkeys(Label(word) if word.startswith(_LABEL) else Dimension(word) for word in words))
    if not found:
        raise ValueError(f"--by names nothing: give one or more of {known}")
    if Dimension.TENANT in found and Dimension.GPU in found:
        raise ValueError(f"--by={text}: what a tenant used is known by server and not by GPU: give tenant or gpu")
    if sum(dimension.unit is not None for dimension in found) > 1:
        raise ValueError(f"--by={text}: give one of hour, day, week and month")
    return found


@dataclass(frozen=True, slots=True)
class Totals:
    """What was used, paid and served."""

    amounts: Amounts = NOTHING
    served: Served = NOTHING_SERVED
    untariffed_joules: float = 0.0
    """Facility joules that were booked while no tariff was configured: they will never have a price."""

    @property
    def tokens(self) -> float:
        """All kinds: they are disjoint."""
        return fsum(self.served.tokens.values())

    @property
    def output_tokens(self) -> float:
        """Generated tokens."""
        return self.served.tokens.get(TokenKind.OUTPUT, 0.0)

    @property
    def net_cost(self) -> float | None:
        """All components, credit subtracted. None where no component was booked."""
        return self.amounts.net_cost if self.amounts.cost or self.amounts.credit else None

    @property
    def full_cost(self) -> float | None:
        """The net cost, where the GPUs and their electricity are part of it. Only that compares with a price elsewhere."""
        components = self.amounts.cost.keys()
        is_full = not components.isdisjoint(CAPITAL) and not components.isdisjoint((ENERGY, *ALL_IN))
        return self.net_cost if is_full else None

    @property
    def energy_cost(self) -> float | None:
        """The energy alone, credit subtracted. None where energy has no cost."""
        return self.amounts.net_energy_cost if ENERGY in self.amounts.cost else None

    @property
    def is_partly_tariffed(self) -> bool:
        """Whether some of the energy has a cost and some was used before a tariff was configured."""
        return ENERGY in self.amounts.cost and self.untariffed_joules > 0.0

    def per_million(self, cost: float | None, tokens: float) -> float | None:
        """A cost per million tokens. None without tokens, and where energy lacks a price: the cost would be too low."""
        if cost is None or tokens <= 0.0 or self.amounts.unpriced_joules > 0.0 or self.is_partly_tariffed:
            return None
        return cost / tokens * MILLION


def per_joule(tokens: float, joules: float) -> float | None:
    """Tokens per joule, which is tokens per second and watt. None without energy or tokens: lines by GPU have no tokens."""
    return tokens / joules if tokens > 0.0 and joules > 0.0 else None


NO_TOTALS = Totals()
NO_OWNER = ServerWorkload()


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a report. A dimension that is not grouped by is "" or None."""

    period: Period | None
    server: str
    model: str
    state: str
    gpu: str
    """UUID."""
    component: str
    workload: Workload | None
    """None for a server, and for a GPU that nobody used."""
    totals: Totals
    belongs: ServerWorkload = NO_OWNER
    """To whom the server belongs, as last known; of a group of servers, what they have in common by the grouping."""
    tenant: str = ""
    """"" for what is not divided among tenants."""

    def owner(self, dimension: Dimension | Label) -> str:
        """Its namespace, or its value of a label."""
        return dict(self.belongs.labels).get(dimension, "") if isinstance(dimension, Label) else self.belongs.namespace


@dataclass(frozen=True, slots=True)
class Report:
    """Lines in the order of the grouping: servers by name, then lines without one."""

    by: tuple[Dimension | Label, ...]
    covered: Period
    lines: Spool[Line]
    totals: Totals
    timezone: str
    currency: str

    @property
    def components(self) -> tuple[str, ...]:
        """Components of cost that occur: energy first, the others by name."""
        return tuple(sorted(self.totals.amounts.cost, key=lambda name: (name != ENERGY, name)))

    @property
    def has_money(self) -> bool:
        """Whether anything has a cost."""
        return self.totals.net_cost is not None or self.totals.amounts.unpriced_joules > 0.0


_Place = tuple[Period | None, str, str, str, str]
_Key = tuple[Period | None, str, str, str, str, str, Workload | None, str]


class Tabulation:
    """Sums rows into lines.

    Args:
        by: the grouping.
        covered: the range; all rows must begin in it.
        calendar: the calendar of the report's zone.
        cut: the period of a moment that no line may exceed, such as its billing month; None for none.
        owners: to whom each server belongs.
        folder: where many lines are kept, if there is no directory for temporary files.
    """

    def __init__(
        self,
        by: Sequence[Dimension | Label],
        covered: Period,
        calendar: Calendar,
        cut: Callable[[float], Period] | None = None,
        owners: Mapping[str, ServerWorkload] | None = None,
        folder: Path | None = None,
    ) -> None:
        self._by = tuple(by)
        self._covered = covered
        self._calendar = calendar
        self._cut = cut
        self._unit = next((dimension.unit for dimension in by if dimension.unit is not None), None)
        self._server = Dimension.SERVER in by
        self._model = Dimension.MODEL in by
        self._state = Dimension.STATE in by
        self._gpu = Dimension.GPU in by
        self._component = Dimension.COMPONENT in by
        self._workload = Dimension.WORKLOAD in by
        self._owners = owners or {}
        self._belongs: dict[str, ServerWorkload] = {}
        """Of each group of servers."""
        self._open = _Open()
        self._done = _Done(Spool(self._order, folder))

    def add(
        self,
        rows: Iterable[tuple[float, PostingKey, Amounts] | tuple[float, PostingKey, Amounts, str]],
        *served: Iterable[tuple[float, str, str, Served] | tuple[float, str, str, Served, str]],
    ) -> None:
        """Energy, time and money of quarter-hours, and what servers did in them, each with a tenant or without. Each in
        order of time: the lines of a period are complete when the next begins."""
        entries: Iterator[Any] = merge(rows, *served, key=itemgetter(0))
        for start, *entry in entries:
            if self._unit is not None and start >= self._done.until_seconds:
                self._complete()
                self._done.until_seconds = self._period(self._unit, start).end_seconds
            if len(entry) == 2:
                key, amounts = entry
                found = self._open.by_entry.get(key)
                if found is None:
                    self._add_row(start, key, amounts)
                else:
                    # A tariff books a cost of energy, even while the price is unknown (then it is 0).
                    found.add(amounts, is_tariffed=ENERGY in amounts.cost)
            elif isinstance(entry[0], PostingKey):
                self._add_row(start, *entry)
            else:
                self._add_served(start, *entry)

    def _add_served(self, start: float, server: str, model: str, work: Served, tenant: str = "") -> None:
        found = None if tenant else self._open.by_entry.get((server, model))
        if found is None:
            place = self._place(start, server, model, State.ACTIVE, "")
            workload = self._workload_of(server) if self._workload else None
            found = self._open.at((*place, "", workload, tenant))
            if not tenant:
                self._open.by_entry[server, model] = found
        found.served.add(work)

    def _add_row(self, start: float, key: PostingKey, amounts: Amounts, tenant: str = "") -> None:
        place = self._place(start, key.server, key.model, key.state, key.gpu)
        is_tariffed = ENERGY in amounts.cost
        workload = (key.workload or self._workload_of(key.server)) if self._workload else None
        if not self._component:
            found = self._open.at((*place, "", workload, tenant))
            if not tenant:
                self._open.by_entry[key] = found
            found.add(amounts, is_tariffed=is_tariffed)
            return
        self._open.at((*place, "", workload, tenant)).amounts.add(Amounts(seconds=amounts.seconds))
        self._open.at((*place, ENERGY, workload, tenant)).add(
            replace(amounts, seconds=0.0, cost={}), is_tariffed=is_tariffed
        )
        for component, amount in amounts.cost.items():
            self._open.at((*place, component, workload, tenant)).amounts.add(Amounts(cost={component: amount}))

    def _complete(self) -> None:
        """Make lines of the sums so far."""
        lines = [
            Line(*key[:-1], totals, self._belongs.get(key[1], NO_OWNER), key[-1])
            for key, line in self._open.sums.items()
            if (totals := line.totals()) != NO_TOTALS
        ]
        self._open = _Open()
        for line in sorted(lines, key=self._order):
            self._done.add(line)

    def report(self, currency: str) -> Report:
        """The report of everything that was added. Nothing may be added afterwards."""
        self._complete()
        done = self._done
        return Report(self._by, self._covered, done.lines, done.total.totals(), self._calendar.timezone, currency)

    def _place(self, start: float, server: str, model: str, state: State, gpu: str) -> _Place:
        return (
            None if self._unit is None else self._period(self._unit, start),
            self._group(server_of_replica(server)) if server else "",
            model if self._model else "",
            state.value if self._state else "",
            gpu if self._gpu else "",
        )

    def _group(self, server: str) -> str:
        """What a server is summed with: itself, or all with the same namespace and labels that are grouped by."""
        owner = self._owners.get(server, NO_OWNER)
        if not self._server:
            labels = dict(owner.labels)
            named = tuple((label, labels.get(label, "")) for label in self._by if isinstance(label, Label))
            by_namespace = Dimension.NAMESPACE in self._by
            if not named and not by_namespace:
                return ""
            owner = ServerWorkload(namespace=owner.namespace if by_namespace else "", labels=named)
            server = "/".join((owner.namespace, *(value for _, value in named)))
        self._belongs.setdefault(server, owner)
        return server

    def _workload_of(self, server: str) -> Workload | None:
        owner = self._owners.get(server_of_replica(server), NO_OWNER)
        if owner.namespace:
            return Workload(WorkloadKind.KUBERNETES, f"{owner.namespace}/{owner.workload}")
        return Workload(WorkloadKind(owner.kind), owner.workload) if owner.workload else None

    def _period(self, unit: Unit, start: float) -> Period:
        period = self._calendar.period(unit, start).within(self._covered)
        return period if self._cut is None else period.within(self._cut(start))

    def _order(self, line: Line) -> tuple[tuple[float, str], ...]:
        """In the order of the grouping; lines without an owner last."""
        parts: list[tuple[float, str]] = []
        for dimension in self._by:
            match dimension:
                case Dimension.SERVER:
                    parts.append((not line.server, line.server))
                case Dimension.MODEL:
                    parts.append((not line.model, line.model))
                case Dimension.STATE:
                    parts.append((_STATES[line.state], ""))
                case Dimension.GPU:
                    parts.append((not line.gpu, line.gpu))
                case Dimension.NAMESPACE | Label():
                    value = line.owner(dimension)
                    parts.append((not value, value))
                case Dimension.WORKLOAD:
                    parts.append((line.workload is not None, "" if line.workload is None else line.workload.name))
                case Dimension.TENANT:
                    parts.append((not line.tenant, line.tenant))
                case Dimension.COMPONENT:
                    parts.append((2.0 if not line.component else line.component != ENERGY, line.component))
                case _:
                    parts.append((line.period.start_seconds if line.period else 0.0, ""))
        return tuple(parts)


_STATES = {state: place for place, state in enumerate(["", *map(str, State)])}


class _Sum:
    """The totals of one line, added up in place."""

    __slots__ = ("amounts", "served", "untariffed_joules")

    def __init__(self) -> None:
        self.amounts = Tally(Amounts)
        self.served = Tally(Served)
        self.untariffed_joules = 0.0

    def add(self, amounts: Amounts, *, is_tariffed: bool) -> None:
        self.amounts.add(amounts)
        if not is_tariffed:
            self.untariffed_joules += amounts.facility_joules

    def totals(self) -> Totals:
        return Totals(self.amounts.sum(), self.served.sum(), self.untariffed_joules)


class _Open:
    """The sums of the period that is being added up."""

    __slots__ = ("by_entry", "sums")

    def __init__(self) -> None:
        self.sums: dict[_Key, _Sum] = {}
        self.by_entry: dict[PostingKey | tuple[str, str], _Sum] = {}
        """The same by what an entry is booked for, or by server and model: most entries are like one before."""

    def at(self, key: _Key) -> _Sum:
        found = self.sums.get(key)
        if found is None:
            found = self.sums[key] = _Sum()
        return found


class _Done:
    """Lines of periods that are over, and their sum."""

    __slots__ = ("lines", "total", "until_seconds")

    def __init__(self, lines: Spool[Line]) -> None:
        self.lines = lines
        self.total = _Sum()
        self.until_seconds = 0.0
        """End of the period after them."""

    def add(self, line: Line) -> None:
        self.lines.add(line)
        self.total.amounts.add(line.totals.amounts)
        self.total.served.add(line.totals.served)
        self.total.untariffed_joules += line.totals.untariffed_joules
