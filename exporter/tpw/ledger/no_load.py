"""What a GPU draws while nothing on it computes, learned from its readings.

The lowest power counts at once. A higher one moves the value slowly, because temperature and loaded contexts raise it, and
a misread low one must be forgotten. A sensor of utilization that is stuck at 0 teaches at most half of the power limit.
"""

from __future__ import annotations

from math import exp

from tpw.model import GpuSample, State

_RISE_SECONDS = 600.0
_MOST_OF_LIMIT = 0.5
"""No GPU draws half of its power limit without load."""


def learned(
    before: float | None, sample: GpuSample, seconds: float, states: frozenset[State], limit_watts: float | None
) -> float | None:
    """The no-load power after one more reading.

    Args:
        before: the value so far; None while nothing was learned.
        sample: the reading. Only a utilization of 0, without use by any process, is without load.
        seconds: time since the last reading.
        states: what the GPU was doing since then.
        limit_watts: the highest power of the GPU; None where it is unknown.
    """
    watts = sample.power_watts
    if watts is None or watts <= 0.0 or sample.utilization_ratio != 0.0 or sample.process_use or State.ACTIVE in states:
        return before
    if limit_watts is not None and watts > _MOST_OF_LIMIT * limit_watts:
        return before
    if before is None or watts < before:
        return watts
    return before + (watts - before) * (1.0 - exp(-seconds / _RISE_SECONDS))
