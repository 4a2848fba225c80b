"""What parked and idle GPUs cost per hour, from the books of two moments some seconds apart.

The books only know totals; whoever shows a rate has to remember an earlier total. What is remembered is one pair of
numbers every few seconds, for a minute.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum

from tpw.model import State
from tpw.snapshot import Snapshot

_SPACING_SECONDS = 2.0
_WINDOW_SECONDS = 60.0
_LONGEST_SECONDS = 600.0
"""After a pause in which nobody asked, the rate may be taken over this much."""


@dataclass(frozen=True, slots=True)
class Waste:
    """A rate and the time it was taken over."""

    cost_per_hour: float
    span_seconds: float


@dataclass(frozen=True, slots=True)
class _Mark:
    at_seconds: float
    cost: float
    currency: str
    late_joules: float
    """Priced when their price arrived: money of another time, after which a rate begins anew."""


class WasteTrend:
    """Remembers the cost of waste. Threads may share it: a mark is lost at worst."""

    def __init__(self) -> None:
        self._marks: tuple[_Mark, ...] = ()

    def observe(self, snapshot: Snapshot) -> Waste | None:
        """Take note of a snapshot; the rate up to it, or None while there is no earlier one or nothing is priced."""
        if not snapshot.books.currency:
            return None
        now = _mark(snapshot)
        marks = self._marks
        last = marks[-1] if marks else now
        if now.at_seconds < last.at_seconds or (now.currency, now.late_joules) != (last.currency, last.late_joules):
            marks = ()
        if not marks or now.at_seconds - last.at_seconds >= _SPACING_SECONDS:
            kept = [mark for mark in marks if now.at_seconds - mark.at_seconds <= _WINDOW_SECONDS]
            if not kept:
                kept = [mark for mark in marks[-1:] if now.at_seconds - mark.at_seconds <= _LONGEST_SECONDS]
            self._marks = marks = (*kept, now)
        first = marks[0]
        span = now.at_seconds - first.at_seconds
        if span <= 0.0:
            return None
        return Waste((now.cost - first.cost) / span * 3600.0, span)


def _mark(snapshot: Snapshot) -> _Mark:
    """Everything that parked and idle time has cost, credit subtracted."""
    wasted = [posting for key, posting in snapshot.books.postings.items() if key.state is not State.ACTIVE]
    return _Mark(
        snapshot.at.monotonic_seconds,
        fsum(fsum(posting.cost.values()) - posting.credit for posting in wasted),
        snapshot.books.currency,
        fsum(posting.late_priced_joules for posting in wasted),
    )
