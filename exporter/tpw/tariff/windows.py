"""The interval of a given length in which the mean of a value over time is lowest: the cheapest hours, or the cleanest."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

_TIE = 1e-12
"""Means that differ by less, relative to the larger, are equal: sums of the same prices differ by their rounding."""

Piece = tuple[float, float, float]
"""A value in force over [start, end), Unix seconds. Pieces are ordered and disjoint; time between them is unknown."""


@dataclass(frozen=True, slots=True)
class Window:
    """An interval, Unix seconds, and the mean of the value in it: what steady power pays per kWh."""

    start_seconds: float
    end_seconds: float
    mean: float


def lowest(pieces: Iterable[Piece], seconds: float, begin: float, deadline: float) -> Window | None:
    """The window of so many seconds within [begin, deadline] with the lowest mean; of several the first. None where the
    value is not known for so long without a gap."""
    best: Window | None = None
    for run in _runs(pieces, begin, deadline):
        # The mean is linear between the moments at which a border enters or leaves the window: one of them is the lowest.
        borders = [run[0][0], *(end for _, end, _ in run)]
        last = borders[-1] - seconds
        sums = [0.0, *accumulate((end - start) * value for start, end, value in run)]
        starts = {*borders, *(border - seconds for border in borders)}
        for start in sorted(start for start in starts if borders[0] <= start <= last):
            mean = (_sum_until(start + seconds, run, borders, sums) - _sum_until(start, run, borders, sums)) / seconds
            if best is None or mean < best.mean - _TIE * max(abs(mean), abs(best.mean)):
                best = Window(start, start + seconds, mean)
    return best


def mean_within(pieces: Iterable[Piece], start: float, end: float) -> float | None:
    """The mean over [start, end). None where a part of it is not known."""
    found = lowest(pieces, end - start, start, end)
    return None if found is None else found.mean


def _runs(pieces: Iterable[Piece], begin: float, deadline: float) -> Iterator[list[Piece]]:
    """The pieces within [begin, deadline], in lists without a gap."""
    run: list[Piece] = []
    for start, end, value in pieces:
        cut = (max(start, begin), min(end, deadline), value)
        if cut[0] >= cut[1]:
            continue
        if run and run[-1][1] != cut[0]:
            yield run
            run = []
        run.append(cut)
    if run:
        yield run


def _sum_until(at: float, run: Sequence[Piece], borders: Sequence[float], sums: Sequence[float]) -> float:
    """The integral of the value from the start of a run to a moment in it."""
    index = min(max(bisect_right(borders, at) - 1, 0), len(run) - 1)
    return sums[index] + (at - borders[index]) * run[index][2]
