"""Planned pauses: what would be waste in them is booked as state ``planned_off``.

The books have rows of a quarter of an hour, and pauses begin and end with them: a row is in a pause or not, however the
time is cut into ticks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from tpw.ledger.books import ROW_SECONDS, Books, Division, PostingKey
from tpw.ledger.replacing import replace
from tpw.model import WASTED, ServerWorkload, State, server_of_replica


@dataclass(frozen=True, slots=True)
class Pause:
    """One schedule. What is empty does not restrict."""

    hours: tuple[tuple[int, int], ...] = ()
    """Minutes of the local day, end excluded; a range past midnight belongs to the day on which it begins."""
    days: frozenset[int] = frozenset()
    gpus: frozenset[str] = frozenset()
    """Indices and UUIDs."""
    servers: frozenset[str] = frozenset()
    labels: tuple[tuple[str, str], ...] = ()
    """Labels of the server's pod, by the name that they have in metrics."""

    def is_at(self, local: datetime) -> bool:
        """Whether it is in force at a local time."""
        minute, weekday = local.hour * 60 + local.minute, local.weekday()
        days = self.days or range(7)
        return any(
            (start <= minute < end and weekday in days)
            if start < end
            else (minute >= start and weekday in days) or (minute < end and (weekday - 1) % 7 in days)
            for start, end in self.hours or ((0, 1440),)
        )

    def is_for(self, server: str, labels: Iterable[tuple[str, str]]) -> bool:
        """Whether it is for a server, or with "" for GPUs that nobody uses."""
        if server in self.servers or (self.labels and set(self.labels) <= set(labels)):
            return bool(server)
        return not self.servers and not self.labels


@dataclass(frozen=True, slots=True)
class Plan:
    """All pauses of a node, in the zone of the tariff."""

    pauses: tuple[Pause, ...]
    timezone: str

    def at(self, at_seconds: float) -> tuple[Pause, ...]:
        """The pauses in force."""
        local = datetime.fromtimestamp(at_seconds // ROW_SECONDS * ROW_SECONDS, ZoneInfo(self.timezone))
        return tuple(pause for pause in self.pauses if pause.is_at(local))


class Planned:
    """The plan for the GPUs and servers of one tick. Asked row by row."""

    def __init__(self, plan: Plan, indices: Mapping[str, int], belongs: Mapping[str, ServerWorkload]) -> None:
        self._plan, self._indices = plan, indices
        self._belongs = {server_of_replica(name): owner for name, owner in belongs.items()}
        self._rows: dict[float, tuple[Pause, ...]] = {}

    def state(self, key: PostingKey, row: float) -> PostingKey:
        """The key under which an entry of a row is booked."""
        if key.state not in WASTED:
            return key
        names, server = {key.gpu, str(self._indices.get(key.gpu))}, server_of_replica(key.server)
        is_planned = any(
            (not pause.gpus or names & pause.gpus) and pause.is_for(server, self._labels(server))
            for pause in self._at(row)
        )
        return key._replace(state=State.PLANNED_OFF) if is_planned else key

    def shown(self, books: Books, at_seconds: float) -> Books:
        """The books with the states of the GPUs as they are booked now."""
        accounts = {
            uuid: account
            if account.division is None
            else replace(account, division=self._division(account.division, at_seconds))
            for uuid, account in books.gpus.items()
        }
        return replace(books, gpus=accounts)

    def _division(self, division: Division, at_seconds: float) -> Division:
        shares: dict[PostingKey, float] = {}
        for key, weight in division.shares:
            planned = self.state(key, at_seconds)
            shares[planned] = shares.get(planned, 0.0) + weight
        return replace(division, shares=tuple(shares.items()))

    def servers(self, names: Iterable[str], at_seconds: float) -> frozenset[str]:
        """Those that are planned to be off, whatever their GPUs."""
        pauses = [pause for pause in self._at(at_seconds) if not pause.gpus]
        return frozenset(name for name in names if any(pause.is_for(name, self._labels(name)) for pause in pauses))

    def _labels(self, server: str) -> tuple[tuple[str, str], ...]:
        owner = self._belongs.get(server)
        return () if owner is None else owner.labels

    def _at(self, at_seconds: float) -> tuple[Pause, ...]:
        row = at_seconds // ROW_SECONDS * ROW_SECONDS
        found = self._rows.get(row)
        if found is None:
            found = self._rows[row] = self._plan.at(row)
        return found
