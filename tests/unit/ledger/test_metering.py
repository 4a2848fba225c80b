"""Which joules of a meter are accepted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tpw.ledger.books import GpuAccount, HostAccount
from tpw.ledger.metering import Step, is_too_late, measure, measure_host
from tpw.model import EnergyMethod, Gpu, GpuSample, HostSample, Instant

COUNTER = Gpu("GPU-0", 0, max_power_watts=700.0)
POWER = Gpu("GPU-0", 0, energy_method=EnergyMethod.AVERAGE_POWER, max_power_watts=700.0)


def read(at: float, joules: float | None = None, watts: float | None = None) -> tuple[GpuSample, Instant]:
    return GpuSample("GPU-0", at, joules, watts), Instant(at, 1e9 + at)


def account(gpu: Gpu, at: float = 10.0, joules: float | None = None, watts: float | None = None) -> GpuAccount:
    return GpuAccount(
        gpu, baseline_joules=joules, baseline_watts=watts, baseline_at_seconds=at, baseline_wall_seconds=1e9 + at
    )


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (1000.0, 1700.0, Step(joules=700.0)),
        # 700 W for 1 s with a quarter of headroom and 0.2 s of slack: 1015 J and no more.
        (1000.0, 2015.0, Step(joules=1015.0)),
        (1000.0, 2015.1, Step(unmetered=True, anomaly="implausible")),
        (1000.0, 9.2e15, Step(unmetered=True, anomaly="implausible")),
        # What was counted before the reset and not read is lost, so the time is not all metered.
        (1e6, 300.0, Step(joules=300.0, unmetered=True, anomaly="reset")),
        (1e6, 999_950.0, Step(unmetered=True, anomaly="backwards")),
        (1000.0, 1000.0, Step()),
    ],
)
def test_a_counter_is_accepted_if_its_rise_is_possible_for_the_gpu(before: float, after: float, expected: Step) -> None:
    step, _ = measure(account(COUNTER, joules=before), *read(11.0, joules=after), 1.0)

    assert step == expected


def test_a_counter_starts_with_a_baseline_and_no_joules() -> None:
    step, base = measure(GpuAccount(COUNTER), *read(10.0, joules=123.0), 1.0)

    assert step == Step(unmetered=True)
    assert (base.baseline_joules, base.baseline_at_seconds) == (123.0, 10.0)


def test_a_failed_counter_read_leaves_the_baseline_and_the_time_pending() -> None:
    before = account(COUNTER, joules=1000.0)
    step, base = measure(before, *read(11.0, joules=None, watts=300.0), 1.0)

    assert step == Step()
    assert (base.baseline_joules, base.baseline_at_seconds) == (1000.0, 10.0)


def test_a_gap_is_bounded_by_the_wall_clock_after_a_restart() -> None:
    resumed = GpuAccount(COUNTER, baseline_joules=1000.0, baseline_wall_seconds=1e9)
    hour = Instant(5.0, 1e9 + 3600.0)

    accepted, _ = measure(resumed, GpuSample("GPU-0", 5.0, 1000.0 + 700.0 * 3600), hour, 1.0)
    refused, _ = measure(resumed, GpuSample("GPU-0", 5.0, 1000.0 + 1000.0 * 3600), hour, 1.0)

    assert accepted == Step(joules=700.0 * 3600)
    assert refused.anomaly == "implausible"


def test_a_counter_misread_once_is_counted_once() -> None:
    """200 J too low once: the joules of both intervals are booked once, though the rise to the second alone is possible."""
    steps, after = played(account(COUNTER, joules=1e6), (11.0, 1e6 + 100.0 - 200.0, None), (12.0, 1e6 + 600.0, None))

    assert steps == [Step(unmetered=True, anomaly="backwards"), Step(joules=600.0, unmetered=True)]
    assert after.mark_joules is None


def test_a_counter_that_stays_below_its_step_back_is_accepted_from_there_on() -> None:
    steps, after = played(
        account(COUNTER, at=10.0, joules=5000.0),
        (11.0, 3000.0, None),
        (12.0, 3000.0, None),
        (13.0, 3600.0, None),
        (14.0, 4300.0, None),
        (15.0, 5000.0, None),
        (16.0, 5700.0, None),
    )

    assert steps[0] == Step(unmetered=True, anomaly="backwards")
    assert steps[1:] == [Step(), Step(joules=600.0), *[Step(joules=700.0)] * 3]
    assert after.mark_joules is None


def played(account: GpuAccount, *readings: tuple[float, float | None, float | None]) -> tuple[list[Step], GpuAccount]:
    """The steps of readings (at, joules, watts), one after the other."""
    steps = []
    for at, joules, watts in readings:
        step, account = measure(account, *read(at, joules, watts), 1.0)
        steps.append(step)
    return steps, account


def test_a_counter_that_does_not_move_for_a_moment_is_pending_and_catches_up() -> None:
    steps, _ = played(
        account(COUNTER, at=0.0, joules=1000.0, watts=600.0),
        (1.0, 1000.0, 600.0),
        (2.0, 1000.0, 600.0),
        (3.0, 2800.0, 600.0),
    )

    assert steps == [Step(), Step(), Step(joules=1800.0)]


def test_a_frozen_counter_is_replaced_by_power_and_nothing_is_lost() -> None:
    readings = [(float(second), 1000.0, 300.0) for second in range(1, 21)]
    steps, after = played(account(COUNTER, at=0.0, joules=1000.0, watts=300.0), *readings)

    assert steps[:9] == [Step()] * 9
    assert steps[9] == Step(joules=3000.0, anomaly="frozen"), (
        "the baseline was the first reading: nothing before it is unmetered"
    )
    assert steps[10:] == [Step(joules=300.0)] * 10
    assert after.method is EnergyMethod.INSTANT_POWER


def test_a_counter_that_froze_since_the_last_reading_leaves_that_time_unmetered() -> None:
    """When in the interval it stopped is not known."""
    readings = [(float(second), 1000.0, 300.0) for second in range(2, 13)]
    steps, _ = played(account(COUNTER, at=0.0, joules=700.0, watts=300.0), (1.0, 1000.0, 300.0), *readings)

    assert steps[10] == Step(joules=3000.0, anomaly="frozen", also_unmetered_seconds=1.0)
    assert {step.also_unmetered_seconds for step in (*steps[:10], *steps[11:])} == {0.0}


def test_a_frozen_counter_without_power_is_noticed_after_ten_seconds_and_counted_once() -> None:
    steps, after = played(
        account(COUNTER, at=0.0, joules=1000.0), *((float(second), 1000.0, None) for second in range(1, 21))
    )

    assert steps[:9] == [Step()] * 9
    assert steps[9] == Step(unmetered=True, anomaly="frozen")
    assert steps[10:] == [Step(unmetered=True)] * 10
    moved, after = measure(after, *read(21.0, joules=1300.0), 1.0)
    assert moved == Step(joules=300.0)
    assert after.still_since_seconds is None


def counting(factor: float, first: int, last: int, start: float = 0.0) -> list[tuple[float, float, float]]:
    """A GPU at 300 W with a counter of ``factor`` times its energy."""
    return [(float(second), start + 300.0 * factor * (second - first + 1), 300.0) for second in range(first, last + 1)]


def averaged() -> GpuAccount:
    gpu = Gpu("GPU-0", 0, max_power_watts=700.0, power_averaged=True)
    return account(gpu, at=0.0, joules=0.0, watts=300.0)


def test_a_counter_that_agrees_with_power_is_left_in_peace() -> None:
    steps, after = played(averaged(), *counting(1.1, 1, 600))

    assert {step.anomaly for step in steps} == {""}
    assert after.method is EnergyMethod.COUNTER


def test_a_counter_a_third_off_for_five_minutes_is_one_anomaly_and_stays_in_use() -> None:
    steps, after = played(averaged(), *counting(0.7, 1, 900))

    assert [second for second, step in enumerate(steps, 1) if step.anomaly == "mismatch"] == [301]
    assert after.method is EnergyMethod.COUNTER


def test_a_counter_off_by_more_than_two_gives_way_to_power_until_it_has_agreed_for_five_minutes() -> None:
    steps, after = played(averaged(), *counting(0.25, 1, 120))

    assert [second for second, step in enumerate(steps, 1) if step.anomaly] == [61]
    assert steps[60].anomaly == "distrusted"
    assert after.method is EnergyMethod.AVERAGE_POWER
    assert steps[-1] == Step(joules=300.0)
    steps, after = played(after, *counting(1.0, 121, 480, start=9000.0))
    assert after.method is EnergyMethod.COUNTER
    assert {step.joules for step in steps} == {300.0}


def test_instant_power_is_no_judge_of_a_counter() -> None:
    """Polled once a second it may meet a periodic load at the same point every time."""
    steps, after = played(account(COUNTER, at=0.0, joules=0.0, watts=300.0), *counting(0.25, 1, 600))

    assert {step.anomaly for step in steps} == {""}
    assert after.method is EnergyMethod.COUNTER


@pytest.mark.parametrize(
    ("watts", "at", "expected"),
    [
        (300.0, 11.0, Step(joules=200.0)),
        (0.0, 11.0, Step(anomaly="zero")),
        (-3.0, 11.0, Step(anomaly="zero")),
        (1051.0, 11.0, Step(anomaly="implausible")),
        (300.0, 13.0, Step(joules=600.0)),
        (300.0, 13.5, Step(unmetered=True)),
        (None, 11.0, Step()),
        (None, 13.5, Step(unmetered=True)),
        (0.0, 13.5, Step(unmetered=True, anomaly="zero")),
    ],
)
def test_power_is_integrated_between_neighbours_and_not_over_a_gap(
    watts: float | None, at: float, expected: Step
) -> None:
    step, _ = measure(account(POWER, watts=100.0), *read(at, watts=watts), 1.0)

    assert step == expected


def test_a_mean_of_a_second_is_the_energy_of_that_second() -> None:
    """A load that falls from 600 W to 100 W between two readings: the trapezoid would book 350 J for a second of 100 W."""
    joules = []
    for at in (11.0, 12.0, 10.5):
        sample, now = read(at, watts=100.0)
        step, _ = measure(account(POWER, watts=600.0), replace(sample, power_mean_seconds=1.0), now, 1.0)
        joules.append(step.joules)

    assert joules == [100.0, 100.0 + 350.0, 50.0]


@pytest.mark.parametrize(("watts", "reason"), [(0.0, "zero"), (5000.0, "implausible")])
def test_rejected_power_is_counted_beside_a_counter_too(watts: float, reason: str) -> None:
    step, after = measure(account(COUNTER, joules=1000.0), *read(11.0, joules=1300.0, watts=watts), 1.0)

    assert step == Step(joules=300.0, anomaly=reason)
    assert after.baseline_watts is None


@pytest.mark.parametrize(
    ("gpu", "joules", "at", "expected"),
    [
        (COUNTER, 1000.0, 100.0, False),  # a counter reports all of it later
        (COUNTER, None, 11.0, True),
        (POWER, None, 13.0, False),
        (POWER, None, 13.1, True),
        (replace(POWER, energy_method=EnergyMethod.NONE), None, 20.0, True),
    ],
)
def test_time_is_unmetered_when_no_reading_can_provide_its_energy(
    gpu: Gpu, joules: float | None, at: float, expected: bool
) -> None:
    assert is_too_late(account(gpu, joules=joules, watts=100.0), Instant(at, 1e9 + at), 1.0) is expected


def test_a_gpu_without_readings_is_unmetered() -> None:
    step, _ = measure(GpuAccount(Gpu("GPU-0", 0, energy_method=EnergyMethod.NONE)), *read(11.0), 1.0)

    assert step == Step(unmetered=True)


def test_a_host_counter_adds_its_rise_and_yields_its_mean_power() -> None:
    first, account = measure_host(HostAccount(), HostSample("cpu", 10.0, 5000.0, max_power_watts=400.0), 1.0)
    second, account = measure_host(account, HostSample("cpu", 12.0, 5500.0, max_power_watts=400.0), 1.0)
    third, account = measure_host(account, HostSample("cpu", 13.0, 9.9e9, max_power_watts=400.0), 1.0)

    assert (first, second, third) == (0.0, 500.0, 0.0)
    assert account.joules == 500.0


@pytest.mark.parametrize("watts", [4294.9, -5.0, float("nan")])
def test_power_that_no_host_draws_is_not_integrated_nor_shown(watts: float) -> None:
    account, sums = HostAccount(), []
    for second, shown in enumerate((100.0, 100.0, watts, 100.0, 100.0)):
        sample = HostSample("cpu", 10.0 + second, power_watts=shown, max_power_watts=500.0)
        joules, account = measure_host(account, sample, 1.0)
        sums.append((joules, account.power_watts))
    assert sums == [(0.0, 100.0), (100.0, 100.0), (0.0, None), (0.0, 100.0), (100.0, 100.0)]


def test_host_power_is_integrated_by_the_trapezoid() -> None:
    _, account = measure_host(HostAccount(), HostSample("node", 10.0, power_watts=500.0), 1.0)
    joules, account = measure_host(account, HostSample("node", 11.0, power_watts=700.0), 1.0)
    gap, account = measure_host(account, HostSample("node", 60.0, power_watts=700.0), 1.0)

    assert (joules, gap) == (600.0, 0.0)
    assert account.power_watts == 700.0


EXTERNAL = Gpu("GPU-0", 0, energy_method=EnergyMethod.EXTERNAL, max_power_watts=700.0)


def test_somebody_elses_counter_is_counted_and_not_integrated() -> None:
    """Read every 15 s: between two reports the time is pending, and power adds nothing."""
    state = GpuAccount(EXTERNAL)
    booked = []
    for second, joules in enumerate([5000.0, *[None] * 14, 9500.0, None, None, 9900.0]):
        step, state = measure(state, *read(10.0 + second, joules=joules, watts=300.0), 1.0)
        booked.append(step.joules)
        assert not is_too_late(state, Instant(500.0, 1e9), 1.0)

    assert [joules for joules in booked if joules is not None] == [4500.0, 400.0]
    assert state.method is EnergyMethod.EXTERNAL


def test_an_external_counter_is_subject_to_the_same_limits() -> None:
    _, state = measure(GpuAccount(EXTERNAL), *read(10.0, joules=1e6), 1.0)
    jump, state = measure(state, *read(25.0, joules=9e9), 1.0)
    fall, _ = measure(state, *read(40.0, joules=8.9e9), 1.0)

    assert (jump, fall) == (
        Step(unmetered=True, anomaly="implausible"),
        Step(unmetered=True, anomaly="backwards"),
    )


def test_somebody_elses_power_is_integrated() -> None:
    _, state = measure(GpuAccount(EXTERNAL), *read(10.0, watts=200.0), 1.0)
    step, state = measure(state, *read(11.0, watts=300.0), 1.0)

    assert step == Step(joules=250.0)
    assert is_too_late(state, Instant(15.0, 1e9), 1.0)


@pytest.mark.parametrize("nonsense", [float("nan"), float("inf"), -1.0])
def test_a_counter_that_shows_no_number_is_no_reading_and_the_next_one_catches_up(nonsense: float) -> None:
    wrong, state = measure(account(COUNTER, joules=1000.0), *read(11.0, joules=nonsense), 1.0)
    right, _ = measure(state, *read(12.0, joules=1600.0), 1.0)

    assert (wrong, right) == (Step(anomaly="implausible"), Step(joules=600.0))


@pytest.mark.parametrize("nonsense", [float("nan"), float("inf")])
def test_power_that_is_no_number_is_neither_integrated_nor_shown(nonsense: float) -> None:
    step, _ = measure(account(POWER, watts=300.0), *read(11.0, watts=nonsense), 1.0)

    assert step == Step(anomaly="implausible")


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        # A new counter, or a long time without a reading: its value is below the bound, and yet it was not reset.
        (800.0, 790.0, Step(unmetered=True, anomaly="backwards")),
        (800.0, 720.0, Step(unmetered=True, anomaly="backwards")),
        (800.0, 700.0, Step(joules=700.0, unmetered=True, anomaly="reset")),
        (800.0, 0.0, Step(joules=0.0, unmetered=True, anomaly="reset")),
    ],
)
def test_a_counter_that_fell_a_little_did_not_begin_anew(before: float, after: float, expected: Step) -> None:
    step, _ = measure(account(COUNTER, joules=before), *read(11.0, joules=after), 1.0)

    assert step == expected


def test_a_counter_off_by_an_order_of_magnitude_gives_way_to_instants_too() -> None:
    """No load has instants ten times its mean for minutes on end: that is a counter in another unit."""
    steps, after = played(account(COUNTER, at=0.0, joules=0.0, watts=300.0), *counting(0.05, 1, 60 * 6))

    assert [step.anomaly for step in steps if step.anomaly] == ["distrusted"]
    assert after.method is EnergyMethod.INSTANT_POWER


def test_instants_ten_times_the_mean_for_one_minute_are_a_coincidence() -> None:
    _, after = played(account(COUNTER, at=0.0, joules=0.0, watts=300.0), *counting(0.05, 1, 60 * 4))

    assert after.method is EnergyMethod.COUNTER


def test_a_counter_that_fell_twice_is_not_counted_again_below_where_it_fell_first() -> None:
    """Its highest was 1e6: of what it shows afterwards only what is above that is new."""
    steps, _ = played(
        account(COUNTER, at=0.0, joules=1e6), (1.0, 999_900.0, None), (2.0, 999_800.0, None), (3.0, 1_000_100.0, None)
    )

    assert [(step.joules, step.anomaly) for step in steps] == [(None, "backwards"), (None, "backwards"), (100.0, "")]


def test_the_interval_in_which_a_counter_without_power_froze_is_unmetered_too() -> None:
    steps, _ = played(
        account(COUNTER, at=0.0, joules=700.0),
        *((float(at), 1000.0, None) for at in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)),
    )

    assert steps[0] == Step(joules=300.0)
    assert steps[-1] == Step(unmetered=True, anomaly="frozen", also_unmetered_seconds=1.0)


def test_a_distrusted_counter_is_accepted_after_five_minutes_of_agreement() -> None:
    _, after = played(averaged(), *counting(0.25, 1, 61))
    steps, after = played(after, *counting(1.0, 62, 62 + 290, start=9000.0))

    assert after.method is EnergyMethod.AVERAGE_POWER
    assert {step.joules for step in steps} == {300.0}


def test_a_counter_that_began_anew_is_not_held_against_power_over_its_fall() -> None:
    readings = [*counting(1.0, 1, 30, start=1e9), *counting(1.0, 31, 120)]
    steps, after = played(averaged(), *readings)

    assert [step.anomaly for step in steps if step.anomaly] == ["implausible", "reset"]
    assert after.method is EnergyMethod.COUNTER
