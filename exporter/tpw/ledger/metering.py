"""Which joules of a meter are accepted.

A counter is accepted if its rise is possible for the GPU in that time: 0 <= rise <= P * dt * 1.25 + P * 0.2 s, with P its
highest power. Everything else starts a new baseline and books nothing; after a reset the counter's value is booked
if that is plausible. Power is integrated over real time, never across a gap: instants by the trapezoid rule, a mean as the
energy of its averaging time. Rejected readings are counted by reason, and their time becomes unmetered as soon as no
reading can provide its energy any more.

A counter that stepped back may have been misread once: until it has moved on below the old value, only its rise above that
value is booked, so that a step back and forth never counts the same joules twice. A fall by a tenth or less is no reset,
however old the last reading is: that energy was booked before.

An external meter (``external``) is subject to the same rules: as a counter if it has one, else as power.

A counter is also compared with the integral of average power, in windows of a minute. If they differ by more than a quarter
for five minutes that is an anomaly (``mismatch``). If they differ by more than a factor of two, or the counter does not
move, power is used instead (``distrusted``, ``frozen``) until they have agreed for five minutes. A power sensor that reads
the same value for a minute while the counter goes another way is ``stuck``: the counter stays. Instant power may meet a
periodic load at the same phase every time, so it only detects a counter in another unit: a factor of more than ten for
five minutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from tpw.ledger.books import Check, GpuAccount, HostAccount
from tpw.ledger.replacing import replace
from tpw.model import EnergyMethod, Gpu, GpuSample, HostSample, Instant

DEFAULT_MAX_POWER_WATTS = 3000.0
"""For GPUs that do not report their limit: above the 2900 W of a GB300 module."""

_HEADROOM = 1.25
"""Chosen: above the limit's own tolerance, for which no figure is known, and below what a misread counter would show."""
_SLACK_SECONDS = 0.2
"""A counter refreshes every 20 to 100 ms (reported by PETSc and ML.ENERGY), so a rise may hold a little more time than lies
between two reads. Where a counter may refresh less often, so much more."""
_UNKNOWN_REFRESH_SECONDS = 2.0
"""The same for the first rise, before its refresh is known. Chosen: counters were seen to refresh at 1 to 2 s."""
_LONGEST_REFRESH_SECONDS = 5.0

_JITTER_JOULES = 0.1
"""A counter that is lower by less has not stepped back: it was read during an update. Chosen: a millisecond at 100 W."""

_FROZEN_SECONDS = 10.0
"""A powered GPU always draws: a counter that has not moved for this long is frozen. Chosen: a hundred refreshes."""

_STUCK_SECONDS = 10.0
"""A power sensor that disagrees with the counter and has read the same value for this long is stuck. Chosen: shorter than
the part of a minute in which a stuck sensor can move the ratio beyond a factor of two."""

_MIN_FALL = 0.1
"""A counter that was reset has fallen by more than this part of its value."""

_MAX_GAP_INTERVALS = 3.0
_LONGEST_GAP_SECONDS = 60.0
"""Readings further apart are not usual for any meter: the gap is an outage."""

_SLOW_SECONDS = 60.0
"""Host meters are read at least this often: assumed for a meter with one reading."""

_WINDOW_SECONDS = 60.0
_AGREE = 1.25
_WRONG = 2.0
_OTHER_UNIT = 10.0
"""Above the dynamic range of GPUs, and so above the ratio of an instant to the mean."""
_WINDOWS = 5


@dataclass(frozen=True, slots=True)
class Step:
    """What one reading added.

    ``joules`` is None if the time stays pending. ``unmetered``: the energy of the pending time will never be known, or
    (with joules) not all of it. ``also_unmetered_seconds``: earlier time that was booked as metered and proved not to be.
    """

    joules: float | None = None
    unmetered: bool = False
    anomaly: str = ""
    also_unmetered_seconds: float = 0.0


def doubt(gpu: Gpu, watts: float | None) -> str:
    """Why a power reading is rejected: "zero" (a powered GPU always draws), "implausible", or ""."""
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
    """Whether the time since the last accepted reading can no longer be metered. A counter may still provide it."""
    if account.method is EnergyMethod.COUNTER or _has_counter(account):
        return account.baseline_joules is None
    at = account.baseline_at_seconds
    return at is None or now.monotonic_seconds - at > _max_gap_seconds(account, interval_seconds)


def late_seconds(account: GpuAccount, interval_seconds: float) -> float:
    """How old the last reading may be until the next one is overdue: three ticks. For a meter that reports less often (a
    slow driver, a page that is collected every half minute) half its usual gap more than that gap and three ticks."""
    most = _MAX_GAP_INTERVALS * interval_seconds
    usual = min(max(account.last_gap_seconds, account.earlier_gap_seconds), _LONGEST_GAP_SECONDS)
    return most if usual <= 1.5 * interval_seconds else 1.5 * usual + most


def is_overdue(account: GpuAccount, now: Instant, interval_seconds: float) -> bool:
    """Whether the next reading should have come by now: the GPU is down then, not only late."""
    at = account.baseline_at_seconds
    return at is None or now.monotonic_seconds - at > late_seconds(account, interval_seconds)


def _max_gap_seconds(account: GpuAccount, interval_seconds: float) -> float:
    """The longest time over which power is integrated: three ticks, or three usual gaps of a slow meter."""
    return _MAX_GAP_INTERVALS * max(interval_seconds, min(account.usual_gap_seconds, _LONGEST_GAP_SECONDS))


def measure(account: GpuAccount, sample: GpuSample, now: Instant, interval_seconds: float) -> tuple[Step, GpuAccount]:
    """Joules that ``sample`` adds to what is booked for the GPU, and the account at its new baseline."""
    doubted = doubt(account.gpu, sample.power_watts)
    if doubted:
        sample = replace(sample, power_watts=None)
    if sample.energy_joules is not None and not 0.0 <= sample.energy_joules < inf:
        doubted = doubted or "implausible"
        sample = replace(sample, energy_joules=None)
    account, anomaly = _checked(account, sample, interval_seconds)
    anomaly = anomaly or doubted
    method = account.method
    if method is EnergyMethod.NONE:
        return Step(unmetered=True, anomaly=anomaly), account
    is_external_counter = method is EnergyMethod.EXTERNAL and sample.energy_joules is not None
    if is_external_counter or method is EnergyMethod.COUNTER or _has_counter(account):
        step, account = _measure_counter(account, sample, now, interval_seconds)
    else:
        step, account = _measure_power(account, sample, now, interval_seconds)
    return (replace(step, anomaly=anomaly) if anomaly and not step.anomaly else step), account


def _at(account: GpuAccount, sample: GpuSample, now: Instant) -> GpuAccount:
    """The account with its baseline at the sample, for counter and power: a switch between them never overlaps."""
    before = account.baseline_at_seconds
    return replace(
        account,
        baseline_joules=sample.energy_joules,
        baseline_watts=sample.power_watts,
        baseline_at_seconds=sample.at_seconds,
        baseline_wall_seconds=now.wall_seconds,
        last_gap_seconds=0.0 if before is None else max(0.0, sample.at_seconds - before),
        earlier_gap_seconds=account.last_gap_seconds,
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
        account = replace(account, refresh_seconds=_UNKNOWN_REFRESH_SECONDS)
        return Step(unmetered=True), _at(account, sample, now)
    rise = new - old
    gap = _gap_seconds(account, sample, now)
    bound = _limit_watts(account) * (gap * _HEADROOM + max(_SLACK_SECONDS, account.refresh_seconds))
    if -_JITTER_JOULES <= rise <= 0.0:
        return _unchanged(account, sample, now, interval_seconds)
    mark = account.mark_joules
    account = replace(account, refresh_seconds=_refresh_seconds(account, gap))
    if 0.0 < rise <= bound:
        if mark is not None and new > mark:
            return Step(joules=new - mark, unmetered=True), _at(account, sample, now)
        return Step(joules=rise), _at(account, sample, now)
    if rise > bound:
        return Step(unmetered=True, anomaly="implausible"), _at(account, sample, now)
    lower = replace(_at(account, sample, now), mark_joules=old if mark is None else max(old, mark))
    if new <= bound and new < (1.0 - _MIN_FALL) * old:
        # The driver was reloaded: its count since then is real, the unread part before is unknown.
        return Step(joules=new, unmetered=True, anomaly="reset"), lower
    return Step(unmetered=True, anomaly="backwards"), lower


def _refresh_seconds(account: GpuAccount, gap_seconds: float) -> float:
    """What is known of the counter's refresh interval after it has moved: it is not longer than the time since it was last
    seen to move, unless it was longer before."""
    gap = min(gap_seconds, _LONGEST_REFRESH_SECONDS)
    if account.still_since_seconds is not None:
        return max(account.refresh_seconds, gap)
    return gap if account.refresh_seconds == _UNKNOWN_REFRESH_SECONDS else account.refresh_seconds


def _unchanged(
    account: GpuAccount, sample: GpuSample, now: Instant, interval_seconds: float
) -> tuple[Step, GpuAccount]:
    """A counter that has not moved: pending for a while, then frozen and replaced by power."""
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
        # Without power to replace it the time is unmetered. The anomaly is counted once.
        already = account.baseline_at_seconds is not None and account.baseline_at_seconds - since >= _FROZEN_SECONDS
        if already:
            return Step(unmetered=True), waited
        return Step(unmetered=True, anomaly="frozen", also_unmetered_seconds=account.last_gap_seconds), waited
    distrusting = replace(
        _at(waited, sample, now), check=replace(account.check, distrusted=True, agreements=0, disagreements=0)
    )
    # It stopped at an unknown moment of its last interval, so that one was not fully metered.
    last = account.last_gap_seconds
    if waited.still_joules > 0.0:
        return Step(joules=waited.still_joules, anomaly="frozen", also_unmetered_seconds=last), distrusting
    return Step(unmetered=True, anomaly="frozen", also_unmetered_seconds=last), distrusting


def _trapezoid(account: GpuAccount, sample: GpuSample, interval_seconds: float) -> float | None:
    """Integral of power since the baseline; None over a gap, or if either end was rejected."""
    watts, before, since = sample.power_watts, account.baseline_watts, account.baseline_at_seconds
    if watts is None or before is None or since is None:
        return None
    gap = max(0.0, sample.at_seconds - since)
    if gap > _max_gap_seconds(account, interval_seconds):
        return None
    # A mean covers its averaging time exactly; the trapezoid rule would lag.
    averaged = min(gap, sample.power_mean_seconds)
    return watts * averaged + 0.5 * (watts + before) * (gap - averaged)


def _measure_power(
    account: GpuAccount, sample: GpuSample, now: Instant, interval_seconds: float
) -> tuple[Step, GpuAccount]:
    if sample.power_watts is None:
        return Step(unmetered=is_too_late(account, now, interval_seconds)), account
    joules = _trapezoid(account, sample, interval_seconds)
    return Step(joules=joules, unmetered=joules is None), _at(account, sample, now)


def _checked(account: GpuAccount, sample: GpuSample, interval_seconds: float) -> tuple[GpuAccount, str]:
    """The account with this reading added to the check of its counter, and the anomaly, if any."""
    if account.gpu.energy_method is not EnergyMethod.COUNTER or sample.energy_joules is None:
        return account, ""
    check = account.check
    raw = check.raw_joules
    power = _trapezoid(account, sample, interval_seconds)
    if raw is None or power is None or account.baseline_at_seconds is None or sample.energy_joules < raw:
        return replace(account, check=replace(check, raw_joules=sample.energy_joules)), ""
    seconds, rise = sample.at_seconds - account.baseline_at_seconds, sample.energy_joules - raw
    check = replace(
        check,
        raw_joules=sample.energy_joules,
        seconds=check.seconds + seconds,
        counter_joules=check.counter_joules + rise,
        power_joules=check.power_joules + power,
        watts=sample.power_watts,
        same_seconds=check.same_seconds + seconds if sample.power_watts == check.watts else 0.0,
    )
    if check.seconds < _WINDOW_SECONDS or check.power_joules <= 0.0:
        return replace(account, check=check), ""
    closed, anomaly = _judged(check, by_mean=account.gpu.power_averaged)
    return replace(account, check=closed), anomaly


def _judged(check: Check, *, by_mean: bool) -> tuple[Check, str]:
    """The check at the end of its window: that of the next window, and the anomaly, if any."""
    ratio = check.counter_joules / check.power_joules
    following = Check(
        raw_joules=check.raw_joules,
        disagreements=check.disagreements,
        agreements=check.agreements,
        distrusted=check.distrusted,
        has_agreed=check.has_agreed,
        watts=check.watts,
        same_seconds=check.same_seconds,
    )
    if _is_power_stuck(check, ratio):
        return replace(following, power_stuck=True), "" if check.power_stuck else "stuck"
    most = _AGREE if by_mean else _OTHER_UNIT
    agree = 1.0 / most <= ratio <= most
    disagreements = 0 if agree else check.disagreements + 1
    agreements = check.agreements + 1 if agree else 0
    wrong = not 1.0 / _WRONG <= ratio <= _WRONG if by_mean else disagreements >= _WINDOWS
    anomaly = ""
    distrusted = check.distrusted
    if wrong and not distrusted:
        distrusted, anomaly = True, "distrusted"
    elif by_mean and disagreements == _WINDOWS:
        anomaly = "mismatch"
    elif distrusted and agreements >= _WINDOWS:
        distrusted = False
    return (
        replace(
            following,
            disagreements=disagreements,
            agreements=agreements,
            distrusted=distrusted,
            has_agreed=check.has_agreed or 1.0 / _AGREE <= ratio <= _AGREE,
        ),
        anomaly,
    )


def _is_power_stuck(check: Check, ratio: float) -> bool:
    """Whether it is the power sensor that is wrong where the two differ: it has read the same value for a while, and the
    counter has fitted it before. The readings of a sensor that works differ."""
    if check.distrusted or not check.has_agreed or 1.0 / _AGREE <= ratio <= _AGREE:
        return False
    return check.same_seconds >= _STUCK_SECONDS


def measure_host(account: HostAccount, sample: HostSample, interval_seconds: float) -> tuple[float, HostAccount]:
    """Joules that a host component adds, and its new account. The same rules; a rejected reading adds nothing."""
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
    """Whether a host component's next reading is overdue: its power is unknown then."""
    at = account.baseline_at_seconds
    patience = _MAX_GAP_INTERVALS * max(interval_seconds, account.gap_seconds or _SLOW_SECONDS)
    return at is None or now.monotonic_seconds - at > patience
