"""Prices around now, ready for the ledger: looked up by bisection, cut at boundaries."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tpw.model import PriceInterval
from tpw.tariff.spans import merged

Piece = tuple[float, float, PriceInterval | None]
"""(start, end, its price; None where no price is known)."""


@dataclass(frozen=True, slots=True)
class PriceCurve:
    """Known prices, ordered and disjoint, equal neighbours merged. Make it with :meth:`of`."""

    intervals: tuple[PriceInterval, ...] = ()
    _starts: tuple[float, ...] = field(default=(), repr=False, compare=False)

    @classmethod
    def of(cls, intervals: Iterable[PriceInterval]) -> PriceCurve:
        """A curve of what a source tells. Raises ValueError where intervals overlap or are empty."""
        ordered = merged(intervals)
        previous_end = float("-inf")
        for each in ordered:
            if not (previous_end <= each.start_seconds < each.end_seconds):
                raise ValueError(f"price interval out of order: {each}")
            previous_end = each.end_seconds
        return cls(ordered, tuple(each.start_seconds for each in ordered))

    def at(self, wall_seconds: float) -> PriceInterval | None:
        """The interval in force at a moment. None where no price is known."""
        index = bisect_right(self._starts, wall_seconds) - 1
        if index < 0:
            return None
        found = self.intervals[index]
        return found if wall_seconds < found.end_seconds else None

    def pieces(self, start_seconds: float, end_seconds: float) -> Iterator[Piece]:
        """[start, end) cut at every boundary, time without a price included as None. Nothing where start >= end."""
        index = bisect_right(self._starts, start_seconds) - 1
        at = start_seconds
        if index < 0 or self.intervals[index].end_seconds <= at:
            index += 1
        while at < end_seconds:
            if index >= len(self.intervals) or self.intervals[index].start_seconds >= end_seconds:
                yield at, end_seconds, None
                return
            found = self.intervals[index]
            if found.start_seconds > at:
                yield at, found.start_seconds, None
                at = found.start_seconds
            end = min(end_seconds, found.end_seconds)
            yield at, end, found
            at = end
            index += 1

    def next_change(self, wall_seconds: float) -> PriceInterval | None:
        """The first later interval with another price. None while none is known."""
        now = self.at(wall_seconds)
        for index in range(bisect_right(self._starts, wall_seconds), len(self.intervals)):
            later = self.intervals[index]
            if now is None or later.price_per_kwh != now.price_per_kwh:
                return later
        return None
