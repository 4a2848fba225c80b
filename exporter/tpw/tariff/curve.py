"""Values over time, as the ledger reads them: found by bisection, cut at boundaries."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from tpw.model import PriceInterval
from tpw.tariff.spans import merged


class Span(Protocol):
    """A value in force over [start, end), Unix seconds."""

    @property
    def start_seconds(self) -> float:
        """Included."""

    @property
    def end_seconds(self) -> float:
        """Excluded."""


T = TypeVar("T", bound=Span)


def starts_of(intervals: Sequence[Span]) -> tuple[float, ...]:
    """The starts of intervals. Raises ValueError where they are empty, overlap or are out of order."""
    previous_end = float("-inf")
    for interval in intervals:
        if not (previous_end <= interval.start_seconds < interval.end_seconds):
            raise ValueError(f"interval out of order: {interval}")
        previous_end = interval.end_seconds
    return tuple(interval.start_seconds for interval in intervals)


@dataclass(frozen=True, slots=True)
class Steps(Generic[T]):
    """Intervals, ordered and disjoint. Made by ``from_intervals`` of its kind."""

    intervals: tuple[T, ...] = ()
    _starts: tuple[float, ...] = field(default=(), repr=False, compare=False)

    def at(self, wall_seconds: float) -> T | None:
        """The interval in force at a moment; None where none is known."""
        index = bisect_right(self._starts, wall_seconds) - 1
        if index < 0:
            return None
        found = self.intervals[index]
        return found if wall_seconds < found.end_seconds else None

    def pieces(self, start_seconds: float, end_seconds: float) -> Iterator[tuple[float, float, T | None]]:
        """[start, end) cut at every boundary: (start, end, the interval in force or None). Nothing where start >= end."""
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


@dataclass(frozen=True, slots=True)
class PriceCurve(Steps[PriceInterval]):
    """Known prices; adjacent equal intervals are one."""

    @classmethod
    def from_intervals(cls, intervals: Iterable[PriceInterval]) -> PriceCurve:
        """The curve of a source's prices. Raises ValueError where intervals overlap or are empty."""
        ordered = merged(intervals)
        return cls(ordered, starts_of(ordered))

    def next_change(self, wall_seconds: float) -> PriceInterval | None:
        """The first later interval with another price; None where none is known."""
        now = self.at(wall_seconds)
        for index in range(bisect_right(self._starts, wall_seconds), len(self.intervals)):
            later = self.intervals[index]
            if now is None or later.price_per_kwh != now.price_per_kwh:
                return later
        return None
