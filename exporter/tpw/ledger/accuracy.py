"""The stated error of a GPU's energy: a bound that holds for 95 of 100 GPUs, over an hour or longer.

Two parts, independent of each other: the error of the sensor, which is a gain of each single GPU, and the error of reading
it at some moments only. The sensor's error is that of the GPUs in arXiv 2312.02741 (published per GPU with it): energy from
NVML against an external meter was off by -8.9 to +12.9 %. A calibration removes most of it.
"""

from __future__ import annotations

from math import hypot, sqrt

from tpw.ledger.books import GpuAccount
from tpw.model import EnergyMethod

SENSOR = 0.12
"""Within it are 95 % of the sensors with errors of the published mean and deviation, whatever their distribution (normal,
uniform, heavy tails; tests/unit/ledger/test_accuracy.py). Of the published errors themselves it is the 98 % quantile: 18
GPUs are few."""
CALIBRATED = 0.025
"""The same after a calibration against a better meter. Assumed: the calibration itself is good to 1 % (one sigma), and the
sensor drifts by 1.5 % at the most."""

_COUNTER = 0.002
"""A refresh of 0.1 s at either end of a minute."""
_MEAN = 0.01
_INSTANT = 0.05
"""Largest error of the scenarios in docs/accuracy.md."""
_SWING = 0.5
"""Standard deviation of power relative to its mean. Assumed: that of a load that is off for a fifth of the time."""


def energy_error_ratio(account: GpuAccount) -> float | None:
    """Stated 95 % bound of the GPU's energy, relative; None where the error of the meter is not known."""
    match account.method:
        case EnergyMethod.COUNTER:
            sampling = _COUNTER
        case EnergyMethod.AVERAGE_POWER:
            # Between two means of a second that are further apart the power is interpolated.
            gap = account.usual_gap_seconds
            sampling = _MEAN if gap <= 1.5 else hypot(_MEAN, 2.0 * _SWING / sqrt(3600.0 / gap))
        case EnergyMethod.INSTANT_POWER:
            sampling = _INSTANT
        case _:
            return None
    return hypot(SENSOR if account.calibration is None else CALIBRATED, sampling)
