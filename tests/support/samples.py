"""Series of samples as scrapes leave them, and what Prometheus' functions make of them, written anew to check it."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

Labels = tuple[tuple[str, str], ...]
"""Sorted pairs of name and value, without the metric's name."""
LOOKBACK = 300
"""Seconds for which Prometheus shows the last sample of a series that was not marked as gone."""


def labels(**pairs: str) -> Labels:
    """The labels in their order."""
    return tuple(sorted(pairs.items()))


@dataclass(slots=True)
class Series:
    """One series. ``gone`` are instants of scrapes that did not find it any more."""

    times: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))
    gone: list[int] = field(default_factory=list)

    def put(self, at: int, value: float) -> None:
        """Append a sample."""
        self.times.append(at)
        self.values.append(value)

    def at(self, instant: float) -> float | None:
        """The value that an instant query sees."""
        place = bisect_right(self.times, instant)
        if place == 0 or instant - self.times[place - 1] >= LOOKBACK:
            return None
        if any(self.times[place - 1] < when <= instant for when in self.gone):
            return None
        return self.values[place - 1]

    def within(self, instant: float, window: float) -> tuple[array[int], array[float]]:
        """Times and values of the samples of a range selector."""
        first, last = bisect_right(self.times, instant - window), bisect_right(self.times, instant)
        return self.times[first:last], self.values[first:last]

    def increase(self, instant: float, window: float, *, older: bool = False) -> float | None:
        """What a counter gained: the rise between its first and last sample, carried on to the edges of the window where
        they are near, and not below zero. ``older`` Prometheus (2.42) asks first where zero is and then how near the edge
        is, which differs where a counter begins inside the window."""
        times, values = self.within(instant, window)
        if len(times) < 2:
            return None
        falls = math.fsum(before for before, after in pairwise(values) if after < before)
        rise = values[-1] - values[0] + falls
        span = times[-1] - times[0]
        apart = span / (len(times) - 1)
        before, after = times[0] - (instant - window), instant - times[-1]
        to_zero = span * values[0] / rise if rise > 0 and values[0] >= 0 else math.inf
        if older:
            before = min(before, to_zero)
        before = before if before < 1.1 * apart else apart / 2
        after = after if after < 1.1 * apart else apart / 2
        if not older:
            before = min(before, to_zero)
        return rise * (span + before + after) / span

    def mean(self, instant: float, window: float) -> float | None:
        """Mean of the samples."""
        _, values = self.within(instant, window)
        return math.fsum(values) / len(values) if values else None


@dataclass(slots=True)
class Samples:
    """All series, by metric and labels."""

    metrics: dict[str, dict[Labels, Series]] = field(default_factory=dict)

    def labelled(self, **more: str) -> Samples:
        """The same series with further labels."""
        return Samples(
            {
                metric: {tuple(sorted((*who, *more.items()))): series for who, series in by_labels.items()}
                for metric, by_labels in self.metrics.items()
            }
        )

    def series(self, metric: str, who: Labels) -> Series:
        """One series, made where it is not there yet."""
        by_labels = self.metrics.setdefault(metric, {})
        found = by_labels.get(who)
        if found is None:
            found = by_labels[who] = Series()
        return found

    def select(self, metric: str, match: Mapping[str, str | tuple[str, ...]]) -> Iterator[tuple[Labels, Series]]:
        """The series with these label values; a tuple is a choice."""
        for who, series in self.metrics.get(metric, {}).items():
            have = dict(who)
            if all(
                have.get(name, "") in wanted if isinstance(wanted, tuple) else have.get(name, "") == wanted
                for name, wanted in match.items()
            ):
                yield who, series

    def rows(
        self, metric: str, read: Callable[[Series], float | None], match: Mapping[str, str | tuple[str, ...]]
    ) -> dict[Labels, float]:
        """What a function returns for every series that has a value."""
        found = {}
        for who, series in self.select(metric, match):
            value = read(series)
            if value is not None:
                found[who] = value
        return found
