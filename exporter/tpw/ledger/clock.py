"""Steps of the wall clock: a dead battery and then NTP, a virtual machine that is resumed, a clock that is set by hand.

Time is booked by the monotonic clock, whatever the wall clock does. The interval in which the clock was stepped is booked
at the new time: from (the wall time of the tick after the step minus the monotonic time since the tick before) to that wall
time, at the prices of then. A step usually corrects a wrong clock, so the new time is the better one. Moments that wait in
the books (energy not read yet, charges not shared yet, when a server was seen first) move with the clock, so that no
interval becomes longer or shorter. What is booked stays where it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tpw.ledger.books import Books, GpuAccount, ServerAccount
from tpw.model import Instant
from tpw.tariff.demand import Demand, DemandRules, after_step

STEP_SECONDS = 1.0
"""A smaller difference between the clocks is no step: a tick may be interrupted between reading the two, and NTP adjusts by
0.5 ms a second without one."""


def stepped_seconds(before: Instant, now: Instant) -> float:
    """By how much the wall clock was set between two instants; 0 if it was not. Negative: it was set back."""
    passed = now.monotonic_seconds - before.monotonic_seconds
    step = now.wall_seconds - before.wall_seconds - passed
    return step if abs(step) > STEP_SECONDS else 0.0


def has_one_clock(books: Books, now: Instant) -> bool:
    """Whether the monotonic instants of the last tick and of ``now`` are of one clock: not over a restart of the machine,
    where the wall clock is the only one."""
    return books.at is not None and (not books.resumed or 0.0 < books.at.monotonic_seconds <= now.monotonic_seconds)


def stepped_since(books: Books, now: Instant) -> float:
    """By how much the wall clock was set since the last tick in the books; 0 if it was not, or nobody knows."""
    return stepped_seconds(books.at, now) if books.at is not None and has_one_clock(books, now) else 0.0


def after_clock_step(books: Books, now: Instant, demand: tuple[DemandRules, ...]) -> Books:
    """The books with the moments that wait in them by the clock of ``now``; the books themselves if it was not stepped."""
    step = stepped_since(books, now)
    if step == 0.0 or books.at is None:
        return books
    before = books.at.wall_seconds
    return replace(
        books,
        at=replace(books.at, wall_seconds=before + step),
        gpus={uuid: _gpu(account, step) for uuid, account in books.gpus.items()},
        servers={name: _server(account, before, step) for name, account in books.servers.items()},
        host_share=replace(books.host_share, since_seconds=_moved(books.host_share.since_seconds, step)),
        standing_charges_since_seconds=_moved(books.standing_charges_since_seconds, step),
        demand=_demand(books.demand, demand, before, step),
    )


def _gpu(account: GpuAccount, step: float) -> GpuAccount:
    pending = tuple(
        replace(piece, start_seconds=piece.start_seconds + step, end_seconds=piece.end_seconds + step)
        for piece in account.pending
    )
    return replace(
        account,
        pending=pending,
        baseline_wall_seconds=_moved(account.baseline_wall_seconds, step),
        unreported_since_seconds=_moved(account.unreported_since_seconds, step),
    )


def _server(account: ServerAccount, before: float, step: float) -> ServerAccount:
    # A moment that is behind a clock that was set back, or ahead of one that was set forward, is of another clock: that of
    # before a restart of the machine. After a step back only what would lie ahead moves, after a step forward the rest.
    ahead = before + min(0.0, step)
    return replace(
        account,
        since_wall_seconds=_moved(account.since_wall_seconds, step),
        read_wall_seconds=_moved(account.read_wall_seconds, step),
        unread_since_seconds=_moved(account.unread_since_seconds, step),
        seen={
            name: moment + step if (moment > ahead) == (step < 0.0) else moment for name, moment in account.seen.items()
        },
    )


def _demand(
    states: Mapping[str, Demand], rules: tuple[DemandRules, ...], before_seconds: float, step: float
) -> Mapping[str, Demand]:
    moved = {
        charge.name: after_step(states[charge.name], charge, before_seconds, step)
        for charge in rules
        if charge.name in states
    }
    return {**states, **moved}


def _moved(moment: float | None, step: float) -> float | None:
    return None if moment is None else moment + step
