"""What a server was measured to draw at each load."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tpw.advice.fleet import Column, Fleet
from tpw.ledger.books import ROW_SECONDS
from tpw.model import State

_STEPS = 24
"""Of load in a curve: a few quarter-hours of each in a week."""
_SUSTAINED = 3
"""A load that was carried in so many quarter-hours can be carried."""
_STRAINED_RATIO = 0.05
"""More waiting than this part of the running requests, or more requests outside a target of latency (`slo`) than this part:
the server is over its service level."""


@dataclass(frozen=True, slots=True)
class Point:
    """One quarter-hour."""

    index: int
    load: float
    """Decoded tokens per second, prompt tokens weighted."""
    watts: float
    """Facility power of all its GPUs."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Facility watts by load, over the loads that were measured."""

    loads: tuple[float, ...]
    watts: tuple[float, ...]
    capacity: float
    """The highest load that was carried in several quarter-hours within the service level."""

    def at(self, load: float) -> float:
        """Watts at a load; beyond what was measured those of the nearest."""
        place = bisect_right(self.loads, load)
        if place == 0:
            return self.watts[0]
        if place == len(self.loads):
            return self.watts[-1]
        (x0, x1), (y0, y1) = self.loads[place - 1 : place + 1], self.watts[place - 1 : place + 1]
        return y0 + (y1 - y0) * (load - x0) / (x1 - x0)


def points(fleet: Fleet, server: str, keep: Callable[[int], bool] = lambda _: True) -> list[Point]:
    """The quarter-hours in which a server had all its GPUs, ready, from beginning to end."""
    work = fleet.work.get(server)
    if work is None:
        return []
    ready = fleet.total("seconds", lambda slot: slot.server == server and slot.state in (State.ACTIVE, State.PARKED))
    joules = fleet.total("facility_joules", lambda slot: slot.server == server)
    whole = len(fleet.gpus_of(server)) * ROW_SECONDS
    return [
        Point(index, work.computed[index] / ROW_SECONDS, joules[index] / ROW_SECONDS)
        for index in range(fleet.quarters)
        if ready[index] > 0.99 * whole and keep(index)
    ]


def curve(measured: Sequence[Point], is_strained: Callable[[int], bool] = lambda _: False) -> Curve | None:
    """The means by load. None where there are too few quarter-hours."""
    carried = sorted(point.load for point in measured if point.load > 0.0 and not is_strained(point.index))
    if len(carried) < _SUSTAINED:
        return None
    highest = carried[-1]
    groups: dict[int, list[Point]] = {}
    for point in measured:
        if not is_strained(point.index):
            step = -1 if point.load == 0.0 else min(_STEPS - 1, int(point.load / highest * _STEPS))
            groups.setdefault(step, []).append(point)
    means = [
        (_mean(point.load for point in group), _mean(point.watts for point in group))
        for _, group in sorted(groups.items())
    ]
    return Curve(tuple(load for load, _ in means), tuple(watts for _, watts in means), carried[-_SUSTAINED])


def strain(fleet: Fleet, server: str) -> Callable[[int], bool]:
    """Whether a server was over its service level in a quarter-hour."""
    work = fleet.work[server]
    running, waiting, missed, requests = work.running_seconds, work.waiting_seconds, work.missed, work.requests

    def is_strained(index: int) -> bool:
        return waiting[index] > _STRAINED_RATIO * running[index] or missed[index] > _STRAINED_RATIO * requests[index]

    return is_strained


def sum_of(columns: Iterable[Column[float]], quarters: int) -> list[float]:
    """Columns added."""
    total = [0.0] * quarters
    for values in columns:
        for index, value in enumerate(values):
            total[index] += value
    return total


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)
