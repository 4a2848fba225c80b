"""Which joules of a meter are believed.

A hardware counter is believed where its rise is one the board can make in the time: 0 <= rise <= P * dt * 1.25 + P * 0.2 s
with P the most it can draw. Everything else starts a new baseline and books nothing: a reset may add what the counter
shows since, if that is plausible. Power is integrated by the trapezoid over real time, never across a gap. What is not
believed is counted by reason, and its time is unmetered.
"""

from __future__ import annotations

from dataclasses import dataclass

from tpw.ledger.books import GpuAccount, HostAccount
from tpw.model import EnergyMethod, GpuSample, HostSample, Instant

DEFAULT_MAX_POWER_WATTS = 3000.0
"""For boards that do not tell their limit: above the 2900 W of a GB300 module."""

_HEADROOM = 1.25
_SLACK_SECONDS = 0.2
"""A counter refreshes every 20 to 100 ms, so a delta may hold a little more time than lies between two reads."""

_FROZEN_SECONDS = 10.0
"""A powered board always draws: a counter that stands this long is not counting."""

_MAX_GAP_INTERVALS = 3.0


@dataclass(frozen=True, slots=True)
class Step:
    """What one look added.

    ``joules`` is None where the look settles nothing (the time stays pending), and ``unmetered`` says that the pending
    time will never be known.
    """

    joules: float | None = None
    unmetered: bool = False
    anomaly: str = ""


@dataclass(frozen=True, slots=True)
class Baseline:
    """Up to where a meter is booked."""

    joules: float | None
    watts: float | None
    at_seconds: float | None
    wall_seconds: float | None
    still_since_seconds: float | None = None


def measure(account: GpuAccount, sample: GpuSample, now: Instant, interval_seconds: float) -> tuple[Step, Baseline]:
    """Joules that ``sample`` adds to what is booked for the GPU, and the new baseline."""
    method = account.gpu.energy_method
    if method is EnergyMethod.NONE:
        return Step(unmetered=True), _baseline(account)
    if method is EnergyMethod.COUNTER:
        return _measure_counter(account, sample, now)
    return _measure_power(account, sample, now, interval_seconds)


def _baseline(account: GpuAccount) -> Baseline:
    return Baseline(
        account.baseline_joules,
        account.baseline_watts,
        account.baseline_at_seconds,
        account.baseline_wall_seconds,
        account.still_since_seconds,
    )


def _gap_seconds(account: GpuAccount, sample: GpuSample, now: Instant) -> float:
    """Time between the baseline and the sample; by the wall clock where the baseline is of an earlier process."""
    if account.baseline_at_seconds is not None:
        return max(0.0, sample.at_seconds - account.baseline_at_seconds)
    if account.baseline_wall_seconds is not None:
        return max(0.0, now.wall_seconds - account.baseline_wall_seconds)
    return 0.0


def _measure_counter(account: GpuAccount, sample: GpuSample, now: Instant) -> tuple[Step, Baseline]:
    new = sample.energy_joules
    old = account.baseline_joules
    if new is None:
        return Step(), _baseline(account)
    fresh = Baseline(new, sample.power_watts, sample.at_seconds, now.wall_seconds)
    if old is None:
        return Step(unmetered=True), fresh
    rise = new - old
    limit_watts = account.gpu.max_power_watts or DEFAULT_MAX_POWER_WATTS
    gap = _gap_seconds(account, sample, now)
    bound = limit_watts * (gap * _HEADROOM + _SLACK_SECONDS)
    if rise == 0.0:
        since = account.still_since_seconds
        if since is None:
            since = account.baseline_at_seconds if account.baseline_at_seconds is not None else sample.at_seconds
        if sample.at_seconds - since < _FROZEN_SECONDS:
            standing = _baseline(account)
            return Step(), Baseline(standing.joules, standing.watts, standing.at_seconds, standing.wall_seconds, since)
        # Frozen: its time is lost, and goes on being lost until it moves. Counted once, when it is first noticed.
        already = account.baseline_at_seconds is not None and account.baseline_at_seconds - since >= _FROZEN_SECONDS
        lost = Baseline(new, sample.power_watts, sample.at_seconds, now.wall_seconds, since)
        return Step(unmetered=True, anomaly="" if already else "frozen"), lost
    if 0.0 < rise <= bound:
        return Step(joules=rise), fresh
    if rise > bound:
        return Step(unmetered=True, anomaly="implausible"), fresh
    if new <= bound:
        # The driver was loaded again: what it counted since is real, what it counted before and was not read is not known.
        return Step(joules=new, anomaly="reset"), fresh
    return Step(unmetered=True, anomaly="backwards"), fresh


def _measure_power(
    account: GpuAccount, sample: GpuSample, now: Instant, interval_seconds: float
) -> tuple[Step, Baseline]:
    watts = sample.power_watts
    limit_watts = account.gpu.max_power_watts or DEFAULT_MAX_POWER_WATTS
    if watts is None:
        return Step(), _baseline(account)
    if watts <= 0.0:
        return Step(anomaly="zero"), _baseline(account)
    if watts > 1.5 * limit_watts:
        return Step(anomaly="implausible"), _baseline(account)
    fresh = Baseline(None, watts, sample.at_seconds, now.wall_seconds)
    if account.baseline_watts is None or account.baseline_at_seconds is None:
        return Step(unmetered=True), fresh
    gap = sample.at_seconds - account.baseline_at_seconds
    if gap > _MAX_GAP_INTERVALS * interval_seconds:
        return Step(unmetered=True), fresh
    return Step(joules=0.5 * (watts + account.baseline_watts) * max(0.0, gap)), fresh


def measure_host(account: HostAccount, sample: HostSample, interval_seconds: float) -> tuple[float, HostAccount]:
    """Joules a host component adds, and its new account. The same rules; what is not believed adds nothing."""
    limit_watts = sample.max_power_watts or DEFAULT_MAX_POWER_WATTS
    gap = 0.0 if account.baseline_at_seconds is None else sample.at_seconds - account.baseline_at_seconds
    joules = 0.0
    watts = sample.power_watts
    if sample.energy_joules is not None:
        if account.baseline_joules is not None and gap > 0.0:
            rise = sample.energy_joules - account.baseline_joules
            if 0.0 <= rise <= limit_watts * (gap * _HEADROOM + _SLACK_SECONDS):
                joules = rise
                if watts is None:
                    watts = rise / gap
    elif (
        watts is not None and account.baseline_watts is not None and 0.0 < gap <= _MAX_GAP_INTERVALS * interval_seconds
    ):
        joules = 0.5 * (watts + account.baseline_watts) * gap
    return joules, HostAccount(
        joules=account.joules + joules,
        power_watts=watts,
        baseline_joules=sample.energy_joules,
        baseline_watts=sample.power_watts,
        baseline_at_seconds=sample.at_seconds,
    )
