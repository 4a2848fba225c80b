"""What was booked in a period: sums of the rows that began in it, and what the period will come to at the recent pace.

Sums are kept of rows that have left the memory of the books. Rows in memory are added when a sum is read, so a tick sums
nothing. Days of a time zone are whole rows: every row is in exactly one day.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from math import fsum, inf

from tpw.ledger.amounts import ENERGY, NOTHING, Amounts, Served, Tally
from tpw.ledger.books import Books, PostingKey, Rows, ServedRows
from tpw.model import Budget, ServerWorkload, State, TokenKind, server_of_replica

IDLE, OTHER = "(idle)", "(other)"
"""In place of a server: GPUs that nobody used, and GPUs used by workloads that are no server that is read."""

FORECAST_AFTER_SECONDS = 86400.0
"""A forecast needs so much recent history: nights and days differ."""

PRICED_SHARE = 0.95
"""Share of the recent energy that must have a price for a forecast of cost. Live ratios need as much time metered."""


@dataclass(frozen=True, slots=True)
class Sums:
    """What was booked in the rows that began in [start, end), Unix seconds."""

    start_seconds: float
    end_seconds: float
    used: Mapping[tuple[str, str], Amounts] = field(default_factory=dict)
    """By (server, state)."""
    served: Mapping[str, Served] = field(default_factory=dict)
    """By server."""
    untariffed_joules: float = 0.0
    """Facility joules that were booked while no tariff was configured."""

    def plus(self, rows: Rows, served: ServedRows) -> Sums:
        """With those of some rows that began in it."""
        adding = Adding()
        for start, row in rows.items():
            if self.start_seconds <= start < self.end_seconds:
                for key, amounts in row.items():
                    adding.use(key, amounts)
        for start, did in served.items():
            if self.start_seconds <= start < self.end_seconds:
                for (server, _), work in did.items():
                    adding.serve(server, work)
        return adding.to(self)

    def with_corrections(self, books: Books) -> Sums:
        """With what an operator has corrected of it."""
        adding = Adding()
        for one in books.corrections:
            if self.start_seconds <= one.at_seconds < self.end_seconds:
                adding.serve(one.server, Served(tokens={one.kind: one.tokens}))
        return adding.to(self)


def joined(parts: Iterable[Sums], start_seconds: float, end_seconds: float) -> Sums:
    """The sum of what was booked in several periods within another one."""
    adding = Adding()
    for part in parts:
        adding.join(part)
    return adding.to(Sums(start_seconds, end_seconds))


class Adding:
    """Adds rows up in place."""

    __slots__ = ("_served", "_untariffed_joules", "_used")

    def __init__(self) -> None:
        self._used: dict[tuple[str, str], Tally[Amounts]] = {}
        self._served: dict[str, Tally[Served]] = {}
        self._untariffed_joules = 0.0

    def use(self, key: PostingKey, amounts: Amounts) -> None:
        """Add an entry."""
        server = server_of_replica(key.server)
        self._amounts(server or (OTHER if key.state is State.OTHER else IDLE), key.state.value).add(amounts)
        # A tariff books a cost of energy, even while the price is unknown (then it is 0).
        if ENERGY not in amounts.cost:
            self._untariffed_joules += amounts.facility_joules

    def serve(self, server: str, work: Served) -> None:
        """Add what a server did."""
        server = server_of_replica(server)
        found = self._served.get(server)
        if found is None:
            found = self._served[server] = Tally(Served)
        found.add(work)

    def join(self, sums: Sums) -> None:
        """Add what is summed already."""
        for (server, state), amounts in sums.used.items():
            self._amounts(server, state).add(amounts)
        for server, work in sums.served.items():
            self.serve(server, work)
        self._untariffed_joules += sums.untariffed_joules

    def _amounts(self, server: str, state: str) -> Tally[Amounts]:
        found = self._used.get((server, state))
        if found is None:
            found = self._used[server, state] = Tally(Amounts)
        return found

    def to(self, sums: Sums) -> Sums:
        """``sums`` and what was added. Nothing may be added afterwards."""
        if not self._used and not self._served:
            return sums
        used, served = dict(sums.used), dict(sums.served)
        for key, amounts in self._used.items():
            before = used.get(key)
            used[key] = amounts.sum() if before is None else before + amounts.sum()
        for server, work in self._served.items():
            done = served.get(server)
            served[server] = work.sum() if done is None else done + work.sum()
        untariffed = sums.untariffed_joules + self._untariffed_joules
        return replace(sums, used=used, served=served, untariffed_joules=untariffed)


@dataclass(frozen=True, slots=True)
class Periods:
    """The periods of a moment, as far as their rows have left the memory of the books."""

    periods: Mapping[str, Sums]
    """By name: day, week, month. One is missing where its first rows are not kept any more."""
    recent: Sums
    """The last days, for the pace."""
    first_seconds: float
    """Start of the first row of these days; infinite while none has left the memory."""

    def to_date(self, books: Books) -> ToDate:
        """With the rows in memory, and corrections."""
        rows, served = books.rows, books.served
        periods = {name: sums.plus(rows, served).with_corrections(books) for name, sums in self.periods.items()}
        recent = self.recent.plus(rows, served).with_corrections(books)
        first = min((start for start in chain(rows, served) if start >= recent.start_seconds), default=inf)
        now = 0.0 if books.at is None else books.at.wall_seconds
        return ToDate(periods, recent, now - max(min(self.first_seconds, first), recent.start_seconds), now)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What one server comes to by the end of a period."""

    facility_joules: float
    cost: float | None
    """All components, credit subtracted. None where too much of the recent energy has no price, and without any cost."""
    tokens: Mapping[TokenKind, float]


@dataclass(frozen=True, slots=True)
class ToDate:
    """Everything that was booked in the periods of a moment."""

    periods: Mapping[str, Sums]
    recent: Sums
    recent_seconds: float
    """Time that ``recent`` covers."""
    now_seconds: float

    def forecasts(self, period: str) -> Iterator[tuple[str, Forecast]]:
        """By server: what is booked, and the pace of the recent days for the rest of the period. Nothing while less than a
        day is known. Forecasts of servers sum to that of the node, because all paces are over the same time."""
        sums = self.periods.get(period)
        if sums is None or self.recent_seconds < FORECAST_AFTER_SECONDS:
            return
        rest = max(0.0, sums.end_seconds - self.now_seconds) / self.recent_seconds
        is_priced = self._is_priced()
        booked, pace = by_server(sums), by_server(self.recent)
        for server in sorted({*booked, *pace}):
            (was, did), (is_, does) = booked.get(server, _NONE), pace.get(server, _NONE)
            has_cost = is_priced and bool(was.cost or is_.cost)
            yield (
                server,
                Forecast(
                    was.facility_joules + rest * is_.facility_joules,
                    was.net_cost + rest * is_.net_cost if has_cost else None,
                    {
                        kind: did.tokens.get(kind, 0.0) + rest * does.tokens.get(kind, 0.0)
                        for kind in sorted({*did.tokens, *does.tokens})
                    },
                ),
            )

    def _is_priced(self) -> bool:
        """Whether the recent energy has prices, or no tariff is configured at all."""
        used = self.recent.used.values()
        if not any(ENERGY in amounts.cost for amounts in used):
            return True
        without = sum(amounts.unpriced_joules for amounts in used) + self.recent.untariffed_joules
        return without <= (1.0 - PRICED_SHARE) * sum(amounts.facility_joules for amounts in used)

    def spent(self, budget: Budget, owners: Mapping[str, ServerWorkload]) -> tuple[float, float | None] | None:
        """(spent so far, spent by the end of the period at the recent pace) of a budget. None where its period is unknown,
        and without a pace the second is."""
        sums = self.periods.get(budget.period)
        if sums is None:
            return None
        booked = [
            amounts.net_cost for server, (amounts, _) in by_server(sums).items() if _is_in(budget, server, owners)
        ]
        parts = [forecast.cost for server, forecast in self.forecasts(budget.period) if _is_in(budget, server, owners)]
        known = [cost for cost in parts if cost is not None]
        return fsum(booked), fsum(known) if known and len(known) == len(parts) else None


def _is_in(budget: Budget, server: str, owners: Mapping[str, ServerWorkload]) -> bool:
    if budget.tenant:
        return server == budget.tenant  # of sums by tenant
    if budget.server:
        return server == budget.server
    if budget.namespace:
        # A server that is found is named after its workload, and keeps that name when its process is gone.
        owner = owners.get(server)
        return budget.namespace == (owner.namespace if owner and owner.namespace else server.partition("/")[0])
    return True


_NONE = (NOTHING, Served())


def by_server(sums: Sums) -> dict[str, tuple[Amounts, Served]]:
    """All states of each server together."""
    parts: dict[str, list[Amounts]] = {}
    for (server, _), amounts in sums.used.items():
        parts.setdefault(server, []).append(amounts)
    servers = parts.keys() | sums.served.keys()
    return {server: (Amounts.total(parts.get(server, ())), sums.served.get(server, Served())) for server in servers}
