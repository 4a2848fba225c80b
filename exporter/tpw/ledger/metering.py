"""Which joules of a meter are believed.

A hardware counter is believed where its rise is one the board can make in the time: 0 <= rise <= P * dt * 1.25 + P * 0.2 s
with P the most it can draw. Everything else starts a new baseline and books nothing: a reset may add what the counter
shows since, if that is plausible. Power is integrated over real time, never across a gap: instants by the trapezoid, a
mean as the energy of the time it is of. What is not believed is counted by reason, and its time is unmetered, as soon as
nothing can tell its energy any more.

A counter that stepped back may have been misread once: until it has moved on below the old mark, only what it shows above
that mark is booked, so that a step back and forth never counts the same joules twice. Nor did a counter that fell by a
tenth or less begin anew, however long nobody looked: what it shows was booked before.

Somebody else's meter (``external``) is believed by the same rules: as a counter where it tells one, else as power.

A counter is also held against the integral of average power, minute by minute: where the two are apart by more than a
quarter for five minutes that is said (``mismatch``), and where they are apart by more than a factor of two, or the counter
stands still, power takes its place (``distrusted``, ``frozen``) until the two have agreed for five minutes. Power of the
instant may meet a periodic load at the same point every time, so it is a judge only of a counter in another unit: one that
is off by more than ten for five minutes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

from tpw.ledger.books import Check, GpuAccount, HostAccount
from tpw.model import EnergyMethod, Gpu, GpuSample, HostSample, Instant

DEFAULT_MAX_POWER_WATTS = 3000.0
"""For boards that do not tell their limit: above the 2900 W of a GB300 module."""

_HEADROOM = 1.25
_SLACK_SECONDS = 0.2
"""A counter refreshes every 20 to 100 ms, so a delta may hold a little more time than lies between two reads."""

_FROZEN_SECONDS = 10.0
"""A powered board always draws: a counter that stands this long is not counting."""

_MIN_FALL = 0.1
"""A counter that began anew has fallen by more than this part of what it showed."""

_MAX_GAP_INTERVALS = 3.0

_SLOW_SECONDS = 60.0
"""Host meters are read at least this often: what is assumed of one that was read once."""

_WINDOW_SECONDS = 60.0
_AGREE = 1.25
_WRONG = 2.0
_OTHER_UNIT = 10.0
"""The dynamic range of boards is less, and so is what their instants can be off from their mean."""
_WINDOWS = 5


@dataclass(frozen=True, slots=True)
class Step:
    """What one look added.

    ``joules`` is None where the look settles nothing (the time stays pending), and ``unmetered`` says that the energy of
    the pending time will never be known, or (with joules) not all of it. ``also_unmetered_seconds`` is time before it
    that seemed to be settled and, as it turns out, was not.
    """

    joules: float | None = None
    unmetered: bool = False
    anomaly: str = ""
    also_unmetered_seconds: float = 0.0


def doubt(gpu: Gpu, watts: float | None) -> str:
    """Why a reading of power is not believed: "zero" (a powered board always draws), "implausible", or ""."""
    if watts is None:
        return ""
    if watts <= 0.0:
        return "zero"
    return "" if watts <= 1.5 * (gpu.max_power_watts or DEFAULT_MAX_POWER_WATTS) else "implausible"


def _has_counter(account: GpuAccount) -> bool:
    """Whether the next joules come from a counter."""
    if account.method is EnergyMethod.EXTERNAL:
        return account.baseline_joules is not None
    return account.method is EnergyMethod.COUNTER


def is_too_late(account: GpuAccount, now: Instant, interval_seconds: float) -> bool:
    """Whether the time since the last good look will never be metered, whatever comes. A counter may still tell."""
    if account.method is EnergyMethod.COUNTER or _has_counter(account):
        return account.baseline_joules is None
    at = account.baseline_at_seconds
    return at is None or now.monotonic_seconds - at > _MAX_GAP_INTERVALS * interval_seconds


def measure(account: GpuAccount, sample: GpuSample, now: Instant, interval_seconds: float) -> tuple[Step, GpuAccount]:
    """Joules that ``sample`` adds to what is booked for the GPU, and the account at its new baseline."""
    doubted = doubt(account.gpu, sample.power_watts)
    if doubted:
        sample = replace(sample, power_watts=None)
    if sample.energy_joules is not None and not 0.0 <= sample.energy_joules < inf:
        doubted = doubted or "implausible"
        sample = replace(sample, energy_joules=None)
    account, complaint = _checked(account, sample, interval_seconds)
    complaint = complaint or doubted
    method = account.method
    if method is EnergyMethod.NONE:
        return Step(unmetered=True, anomaly=complaint), account
    told = method is EnergyMethod.EXTERNAL and sample.energy_joules is not None
    if told or method is EnergyMethod.COUNTER or _has_counter(account):
        step, account = _measure_counter(account, sample, now, interval_seconds)
    else:
        step, account = _measure_power(account, sample, now, interval_seconds)
    return (replace(step, anomaly=complaint) if complaint and not step.anomaly else step), account


def _at(account: GpuAccount, sample: GpuSample, now: Instant) -> GpuAccount:
    """The account with its baseline at the sample. Both meters move together, so a switch between them overlaps nothing."""
    before = account.baseline_at_seconds
    return replace(
        account,
        baseline_joules=sample.energy_joules,
        baseline_watts=sample.power_watts,
        baseline_at_seconds=sample.at_seconds,
        baseline_wall_seconds=now.wall_seconds,
        last_gap_seconds=0.0 if before is None else max(0.0, sample.at_seconds - before),
        mark_joules=None,
        still_since_seconds=None,
        still_joules=0.0,
    )


def _gap_seconds(account: GpuAccount, sample: GpuSample, now: Instant) -> float:
    """Time the rise covers; by the wall clock where the baseline is of an earlier process."""
    if account.still_since_seconds is not None:
        return max(0.0, sample.at_seconds - account.still_since_seconds)
    if account.baseline_at_seconds is not None:
        return max(0.0, sample.at_seconds - account.baseline_at_seconds)
    if account.baseline_wall_seconds is not None:
        return max(0.0, now.wall_seconds - account.baseline_wall_seconds)
    return 0.0


def _limit_watts(account: GpuAccount) -> float:
    return account.gpu.max_power_watts or DEFAULT_MAX_POWER_WATTS


def _measure_counter(
    account: GpuAccount, sample: GpuSample, now: Instant, interval_seconds: float
) -> tuple[Step, GpuAccount]:
    new, old = sample.energy_joules, account.baseline_joules
    if new is None:
        return Step(), account
    if old is None:
        return Step(unmetered=True), _at(account, sample, now)
    rise = new - old
    bound = _limit_watts(account) * (_gap_seconds(account, sample, now) * _HEADROOM + _SLACK_SECONDS)
    if rise == 0.0:
        return _standing(account, sample, now, interval_seconds)
    mark = account.mark_joules
    if 0.0 < rise <= bound:
        if mark is not None and new > mark:
            return Step(joules=new - mark, unmetered=True), _at(account, sample, now)
        return Step(joules=rise), _at(account, sample, now)
    if rise > bound:
        return Step(unmetered=True, anomaly="implausible"), _at(account, sample, now)
    lower = replace(_at(account, sample, now), mark_joules=old if mark is None else max(old, mark))
    if new <= bound and new < (1.0 - _MIN_FALL) * old:
        # The driver was loaded again: what it counted since is real, what it counted before and was not read is not known.
        return Step(joules=new, unmetered=True, anomaly="reset"), lower
    return Step(unmetered=True, anomaly="backwards"), lower


def _standing(account: GpuAccount, sample: GpuSample, now: Instant, interval_seconds: float) -> tuple[Step, GpuAccount]:
    """A counter that has not moved: no news for a while, then frozen, and power takes its place."""
    since = account.still_since_seconds
    if since is None:
        since = account.baseline_at_seconds if account.baseline_at_seconds is not None else sample.at_seconds
    more = _trapezoid(account, sample, interval_seconds)
    waited = replace(
        account,
        baseline_watts=sample.power_watts,
        baseline_at_seconds=sample.at_seconds,
        still_since_seconds=since,
        still_joules=account.still_joules + (more or 0.0),
    )
    if sample.at_seconds - since < _FROZEN_SECONDS:
        return Step(), waited
    if sample.power_watts is None:
        # Nothing to put in its place: its time is lost, and counted as such once, when it is first noticed.
        already = account.baseline_at_seconds is not None and account.baseline_at_seconds - since >= _FROZEN_SECONDS
        if already:
            return Step(unmetered=True), waited
        return Step(unmetered=True, anomaly="frozen", also_unmetered_seconds=account.last_gap_seconds), waited
    distrusting = replace(_at(waited, sample, now), check=replace(account.check, distrusted=True, sound=0, strange=0))
    # When in its last interval it stopped is not known, so that one was not all metered.
    last = account.last_gap_seconds
    if waited.still_joules > 0.0:
        return Step(joules=waited.still_joules, anomaly="frozen", also_unmetered_seconds=last), distrusting
    return Step(unmetered=True, anomaly="frozen", also_unmetered_seconds=last), distrusting


def _trapezoid(account: GpuAccount, sample: GpuSample, interval_seconds: float) -> float | None:
    """Integral of power since the baseline; None over a gap or where one end is not believed."""
    watts, before, since = sample.power_watts, account.baseline_watts, account.baseline_at_seconds
    if watts is None or before is None or since is None:
        return None
    gap = max(0.0, sample.at_seconds - since)
    if gap > _MAX_GAP_INTERVALS * interval_seconds:
        return None
    # A mean tells all of the time it is of, so at one look in that time the sum is exact; the trapezoid would lag.
    told = min(gap, sample.power_mean_seconds)
    return watts * told + 0.5 * (watts + before) * (gap - told)


def _measure_power(
    account: GpuAccount, sample: GpuSample, now: Instant, interval_seconds: float
) -> tuple[Step, GpuAccount]:
    if sample.power_watts is None:
        return Step(unmetered=is_too_late(account, now, interval_seconds)), account
    joules = _trapezoid(account, sample, interval_seconds)
    return Step(joules=joules, unmetered=joules is None), _at(account, sample, now)


def _checked(account: GpuAccount, sample: GpuSample, interval_seconds: float) -> tuple[GpuAccount, str]:
    """The account with this look added to the check of its counter, and what there is to complain of."""
    if account.gpu.energy_method is not EnergyMethod.COUNTER or sample.energy_joules is None:
        return account, ""
    check = account.check
    raw = check.raw_joules
    power = _trapezoid(account, sample, interval_seconds)
    if raw is None or power is None or account.baseline_at_seconds is None or sample.energy_joules < raw:
        return replace(account, check=replace(check, raw_joules=sample.energy_joules)), ""
    check = replace(
        check,
        raw_joules=sample.energy_joules,
        seconds=check.seconds + sample.at_seconds - account.baseline_at_seconds,
        counter_joules=check.counter_joules + sample.energy_joules - raw,
        power_joules=check.power_joules + power,
    )
    if check.seconds < _WINDOW_SECONDS or check.power_joules <= 0.0:
        return replace(account, check=check), ""
    ratio = check.counter_joules / check.power_joules
    by_mean = account.gpu.power_averaged
    most = _AGREE if by_mean else _OTHER_UNIT
    agree = 1.0 / most <= ratio <= most
    strange = 0 if agree else check.strange + 1
    sound = check.sound + 1 if agree else 0
    wrong = not 1.0 / _WRONG <= ratio <= _WRONG if by_mean else strange >= _WINDOWS
    complaint = ""
    distrusted = check.distrusted
    if wrong and not distrusted:
        distrusted, complaint = True, "distrusted"
    elif by_mean and strange == _WINDOWS:
        complaint = "mismatch"
    elif distrusted and sound >= _WINDOWS:
        distrusted = False
    closed = Check(raw_joules=check.raw_joules, strange=strange, sound=sound, distrusted=distrusted)
    return replace(account, check=closed), complaint


def measure_host(account: HostAccount, sample: HostSample, interval_seconds: float) -> tuple[float, HostAccount]:
    """Joules a host component adds, and its new account. The same rules; what is not believed adds nothing."""
    limit_watts = sample.max_power_watts or DEFAULT_MAX_POWER_WATTS
    gap = 0.0 if account.baseline_at_seconds is None else sample.at_seconds - account.baseline_at_seconds
    joules = 0.0
    shown = sample.power_watts
    if shown is not None and not 0.0 <= shown <= 1.5 * limit_watts:
        shown = None
    watts = shown
    if sample.energy_joules is not None:
        if account.baseline_joules is not None and gap > 0.0:
            rise = sample.energy_joules - account.baseline_joules
            if 0.0 <= rise <= limit_watts * (gap * _HEADROOM + _SLACK_SECONDS):
                joules = rise
                if watts is None:
                    watts = rise / gap
    elif (
        shown is not None and account.baseline_watts is not None and 0.0 < gap <= _MAX_GAP_INTERVALS * interval_seconds
    ):
        joules = 0.5 * (shown + account.baseline_watts) * gap
    return joules, HostAccount(
        joules=account.joules + joules,
        power_watts=watts,
        baseline_joules=sample.energy_joules,
        baseline_watts=shown,
        baseline_at_seconds=sample.at_seconds,
        gap_seconds=max(0.0, gap),
    )


def is_host_late(account: HostAccount, now: Instant, interval_seconds: float) -> bool:
    """Whether a host component should have been read again by now: its power is not known any more."""
    at = account.baseline_at_seconds
    patience = _MAX_GAP_INTERVALS * max(interval_seconds, account.gap_seconds or _SLOW_SECONDS)
    return at is None or now.monotonic_seconds - at > patience
