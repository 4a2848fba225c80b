"""Energy of servers that cannot be read: held until its owner is known.

While the page of a server is away, its tokens are not known, and perhaps not even whether it still runs. Everything that is
booked for it then (time, joules, money) is *held*: in its own quarter-hour and at the price of its moment, but in no
posting and no counter. The total of a GPU and its states wait together, so they agree at every moment; the parts of other
servers on the same GPU are booked as always. Held entries are booked when one of these is known (:class:`Outcome`):

- its counters went on: the time in which its GPU was used is active, the rest is parked, and its models share it by the
  tokens of the outage;
- it was restarted: used time is active; unused time is idle before the new process began, and starting since then;
- its process has ended: used time was active, the rest parked;
- it did not come back for ``Policy.held_seconds``: all of it is ``other``, with the server's name as the workload.

A server with one model and a process that is seen on the GPU is not held: the owner is known, however long it is away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tpw.ledger.amounts import NOTHING, Amounts
from tpw.ledger.attribution import Activity
from tpw.ledger.books import ROW_SECONDS, Books, Division, PostingKey, Postings, Rows, ServerAccount
from tpw.ledger.replacing import replace
from tpw.ledger.rows import Course
from tpw.ledger.tick import Tick
from tpw.model import Ownership, ServerReading, State, Workload, WorkloadKind


class Outcome(StrEnum):
    """How the outage of a server ended."""

    CONTINUED = "continued"
    RESTARTED = "restarted"
    ENDED = "ended"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class End:
    """The end of an outage."""

    outcome: Outcome
    since_seconds: float = 0.0
    """Unix time of the last reading before it."""
    until_seconds: float = 0.0
    restarted_at_seconds: float = 0.0
    """When the process that answers now began."""
    worked: bool = True
    """Whether tokens moved meanwhile, or requests run."""
    models: tuple[tuple[str, float], ...] = ()
    """(model, weight): how the models share it; empty: as they were held."""


@dataclass(frozen=True, slots=True)
class Outages:
    """The servers that cannot be read at a tick."""

    waiting: frozenset[str] = frozenset()
    """What is booked for them is held."""
    expired: frozenset[str] = frozenset()
    """They did not come back."""
    ended: Mapping[str, End] = field(default_factory=dict)


def _is_unclear(account: ServerAccount, owner: Ownership) -> bool:
    """Whether a server was read before and is not now, and it is not known what of its GPUs is its own, or its models'."""
    if account.unread_since_seconds is None or not owner.has_counters:
        return False
    return not owner.holders_known or (owner.held and len(account.models) > 1)


def unread_since(account: ServerAccount, books: Books, tick: Tick) -> ServerAccount:
    """The account with the moment since which its page cannot be read. A reading ends it when the outage is settled."""
    if account.up or account.unread_since_seconds is not None or not (account.engine or account.series):
        return account
    last_read = account.read_wall_seconds
    if last_read is None:
        last_read = tick.at.wall_seconds if books.at is None else books.at.wall_seconds
    return replace(account, unread_since_seconds=last_read)


def outages_at(
    books: Books,
    tick: Tick,
    accounts: Mapping[str, ServerAccount],
    activities: Mapping[str, Activity],
    moved: Mapping[str, bool],
    held_seconds: float,
) -> Outages:
    """Which servers cannot be read, and how the outages end that end at this tick."""
    now = tick.at.wall_seconds
    readings = {one.server: one for one in tick.servers if isinstance(one, ServerReading)}
    unread = {name for name, account in accounts.items() if account.unread_since_seconds is not None}
    if not unread and not books.held:
        return Outages()
    waiting, expired = set(), set()
    ends: dict[str, End] = {}
    for name in unread | {key.server for row in books.held.values() for key in row}:
        owner, reading = tick.owners.get(name), readings.get(name)
        if owner is None:
            ends[name] = End(Outcome.ENDED)
            continue
        account = accounts[name]
        since = account.unread_since_seconds
        if reading is not None and since is not None:
            began = reading.started_wall_seconds
            restarted = began is not None and since < began <= now
            ends[name] = End(
                Outcome.RESTARTED if restarted else Outcome.CONTINUED,
                since,
                now,
                began if began is not None and restarted else since,
                worked=moved[name] or any(load.running for load in account.loads),
                models=activities[name].models,
            )
        elif not _is_unclear(account, owner):
            ends[name] = End(Outcome.ENDED)
        elif since is not None and now - since <= held_seconds:
            waiting.add(name)
        else:
            expired.add(name)
            ends[name] = End(Outcome.UNKNOWN)
    return Outages(frozenset(waiting), frozenset(expired), ends)


def _other(key: PostingKey) -> PostingKey:
    """A server that did not come back, as a workload."""
    return PostingKey(key.gpu, "", "", State.OTHER, Workload(WorkloadKind.SERVER, key.server))


def _idle(gpu: str) -> PostingKey:
    return PostingKey(gpu, "", "", State.IDLE)


def without_expired(division: Division, outages: Outages, owners: Mapping[str, Ownership]) -> Division:
    """The division without servers that did not come back: what they use is ``other``. A GPU that is not used, and on which
    no process is known, is idle."""
    if not any(key.server in outages.expired for key, _ in division.shares):
        return division
    shares: dict[PostingKey, float] = {}
    for key, weight in division.shares:
        user = key
        if key.server in outages.expired:
            is_unused = key.state is State.PARKED and not owners[key.server].held
            user = _idle(key.gpu) if is_unused else _other(key)
        shares[user] = shares.get(user, 0.0) + weight
    return replace(division, shares=tuple(shares.items()))


@dataclass(frozen=True, slots=True)
class Settled:
    """Entries that are held no longer."""

    held: Rows
    """What is still held."""
    entries: tuple[tuple[float, PostingKey, Amounts], ...]
    """(row, key, amounts)"""

    def servers(self) -> set[str]:
        """Servers with entries."""
        return {key.server for _, key, _ in self.entries if key.server}


def settle(held: Rows, ends: Mapping[str, End]) -> Settled:
    """Find the owners of the held entries of these servers."""
    if not held or not ends:
        return Settled(held, ())
    left: dict[float, Postings] = {}
    entries: list[tuple[float, PostingKey, Amounts]] = []
    for start, row in sorted(held.items()):
        waiting = {key: amounts for key, amounts in row.items() if key.server not in ends}
        if waiting:
            left[start] = waiting
        for key, amounts in row.items():
            end = ends.get(key.server)
            if end is None:
                continue
            for final, weight in _owners(key, end, start):
                entries.append((start, final, amounts * weight))
    return Settled(left, tuple(entries))


def _owners(key: PostingKey, end: End, row: float) -> Iterable[tuple[PostingKey, float]]:
    """The owners of a held entry: keys and weights, which sum to 1."""
    if end.outcome is Outcome.UNKNOWN:
        return ((_other(key), 1.0),)
    if end.outcome is Outcome.ENDED:
        return ((key, 1.0),)
    before = _part_before(end, row) if end.outcome is Outcome.RESTARTED else 0.0
    found: list[tuple[PostingKey, float]] = []
    if before > 0.0:
        # The requests of the old process are lost; what they used is the server's all the same.
        ended = key if key.state is State.ACTIVE else _idle(key.gpu)
        found.append((ended, before))
    if before < 1.0:
        state = _state(key, end)
        models = end.models or ((key.model, 1.0),)
        found += [(PostingKey(key.gpu, key.server, model, state), (1.0 - before) * weight) for model, weight in models]
    return found


def _state(key: PostingKey, end: End) -> State:
    """The state of a held entry of a server that answers again."""
    if (end.worked and key.state is State.ACTIVE) or key.state is State.STARTING:
        return key.state
    return State.STARTING if end.outcome is Outcome.RESTARTED else State.PARKED


def _part_before(end: End, row: float) -> float:
    """The part of the outage within a row that was before the restart."""
    start, until = max(row, end.since_seconds), min(row + ROW_SECONDS, end.until_seconds)
    if until <= start:
        return 1.0 if end.restarted_at_seconds >= start else 0.0
    return min(1.0, max(0.0, (end.restarted_at_seconds - start) / (until - start)))


def _course(server: str, end: End, settled: Settled, before: Rows, after: Rows) -> tuple[tuple[float, float], ...]:
    """(row, weight) by which the tokens of an outage are spread over its time: as the server's active energy. The weights
    sum to 1; empty if it was never active.

    Args:
        server: its name.
        end: how its outage ended.
        settled: what was held.
        before: the rows at the tick before.
        after: the rows now.
    """
    since = end.restarted_at_seconds
    first = since // ROW_SECONDS * ROW_SECONDS
    starts = [first + ROW_SECONDS * n for n in range(int((end.until_seconds - first) // ROW_SECONDS) + 1)]
    if server in settled.servers():
        weights = [_active_joules(after, start, server) - _active_joules(before, start, server) for start in starts]
    else:
        # Booked as it was used: a row that began before the outage counts by its part.
        weights = [
            _active_joules(after, start, server)
            * (min(start + ROW_SECONDS, end.until_seconds) - max(start, since))
            / (min(start + ROW_SECONDS, end.until_seconds) - start or 1.0)
            for start in starts
        ]
    total = sum(weights)
    return tuple((start, weight / total) for start, weight in zip(starts, weights, strict=True)) if total > 0.0 else ()


def _active_joules(rows: Rows, start: float, server: str) -> float:
    row = rows.get(start, {})
    return sum(one.joules for key, one in row.items() if key.server == server and key.state is State.ACTIVE)


def courses(ends: Mapping[str, End], settled: Settled, before: Rows, after: Rows) -> dict[str, Course]:
    """How the tokens of outages that have ended are spread over their time."""
    answering = (Outcome.CONTINUED, Outcome.RESTARTED)
    found = {name: _course(name, end, settled, before, after) for name, end in ends.items() if end.outcome in answering}
    return {name: weights for name, weights in found.items() if weights}


def held_joules(held: Rows) -> dict[str, float]:
    """Joules that are held, by GPU."""
    found: dict[str, float] = {}
    for row in held.values():
        for key, amounts in row.items():
            found[key.gpu] = found.get(key.gpu, 0.0) + amounts.joules
    return found


def hold(held: Rows, entries: Mapping[float, Postings]) -> Rows:
    """The held rows with more entries."""
    if not entries:
        return held
    result = dict(held)
    for start, added in entries.items():
        row = dict(result.get(start, {}))
        for key, amounts in added.items():
            row[key] = row.get(key, NOTHING) + amounts
        result[start] = row
    return result
