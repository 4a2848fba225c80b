"""Cost per hour of parked and idle GPUs, from the totals in the books at two instants some seconds apart."""

from __future__ import annotations

from dataclasses import dataclass

from tpw.ledger.amounts import Amounts
from tpw.model import WASTED
from tpw.snapshot import Snapshot

_SPACING_SECONDS = 2.0
_WINDOW_SECONDS = 60.0
_LONGEST_SECONDS = 600.0
"""Longest span of the rate after a pause without requests."""


@dataclass(frozen=True, slots=True)
class Waste:
    """A rate and its span."""

    cost_per_hour: float
    span_seconds: float


@dataclass(frozen=True, slots=True)
class _Mark:
    at_seconds: float
    cost: float
    currency: str
    late_joules: float
    """Late-priced energy adds cost of an earlier time: when it rises, the rate starts again."""


class WasteTrend:
    """Rate of the cost of waste, from totals recorded every few seconds. Thread-safe: a race loses a record at worst."""

    def __init__(self) -> None:
        self._marks: tuple[_Mark, ...] = ()

    def observe(self, snapshot: Snapshot) -> Waste | None:
        """Record a snapshot. Returns the rate up to it, or None if there is no earlier record or no currency."""
        if not snapshot.books.currency:
            return None
        now = _mark(snapshot)
        marks = self._marks
        last = marks[-1] if marks else now
        if now.at_seconds < last.at_seconds or (now.currency, now.late_joules) != (last.currency, last.late_joules):
            marks = ()
        if not marks or now.at_seconds - last.at_seconds >= _SPACING_SECONDS:
            recent = [mark for mark in marks if now.at_seconds - mark.at_seconds <= _WINDOW_SECONDS]
            if not recent:
                recent = [mark for mark in marks[-1:] if now.at_seconds - mark.at_seconds <= _LONGEST_SECONDS]
            self._marks = marks = (*recent, now)
        first = marks[0]
        span = now.at_seconds - first.at_seconds
        if span <= 0.0:
            return None
        return Waste((now.cost - first.cost) / span * 3600.0, span)


def _mark(snapshot: Snapshot) -> _Mark:
    """Total cost of parked and idle time, minus credit."""
    wasted = Amounts.total(amounts for key, amounts in snapshot.books.postings.items() if key.state in WASTED)
    return _Mark(
        snapshot.at.monotonic_seconds,
        wasted.net_cost,
        snapshot.books.currency,
        wasted.late_priced_joules,
    )
