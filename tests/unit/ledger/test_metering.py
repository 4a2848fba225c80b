"""Which joules are believed."""

from __future__ import annotations

import pytest

from tpw.ledger.books import GpuAccount, HostAccount
from tpw.ledger.metering import Step, measure, measure_host
from tpw.model import EnergyMethod, Gpu, GpuSample, HostSample, Instant

COUNTER = Gpu("GPU-0", 0, max_power_watts=700.0)
POWER = Gpu("GPU-0", 0, energy_method=EnergyMethod.AVERAGE_POWER, max_power_watts=700.0)


def look(at: float, joules: float | None = None, watts: float | None = None) -> tuple[GpuSample, Instant]:
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
        (1e6, 300.0, Step(joules=300.0, anomaly="reset")),
        (1e6, 999_950.0, Step(unmetered=True, anomaly="backwards")),
        (1000.0, 1000.0, Step()),
    ],
)
def test_a_counter_is_believed_where_the_board_can_have_used_it(before: float, after: float, expected: Step) -> None:
    step, _ = measure(account(COUNTER, joules=before), *look(11.0, joules=after), 1.0)

    assert step == expected


def test_a_counter_starts_with_a_baseline_and_no_joules() -> None:
    step, base = measure(GpuAccount(COUNTER), *look(10.0, joules=123.0), 1.0)

    assert step == Step(unmetered=True)
    assert (base.joules, base.at_seconds) == (123.0, 10.0)


def test_a_failed_counter_read_leaves_the_baseline_and_the_time_pending() -> None:
    before = account(COUNTER, joules=1000.0)
    step, base = measure(before, *look(11.0, joules=None, watts=300.0), 1.0)

    assert step == Step()
    assert (base.joules, base.at_seconds) == (1000.0, 10.0)


def test_a_gap_is_bounded_by_the_wall_clock_after_a_restart() -> None:
    resumed = GpuAccount(COUNTER, baseline_joules=1000.0, baseline_wall_seconds=1e9)
    hour = Instant(5.0, 1e9 + 3600.0)

    believed, _ = measure(resumed, GpuSample("GPU-0", 5.0, 1000.0 + 700.0 * 3600), hour, 1.0)
    refused, _ = measure(resumed, GpuSample("GPU-0", 5.0, 1000.0 + 1000.0 * 3600), hour, 1.0)

    assert believed == Step(joules=700.0 * 3600)
    assert refused.anomaly == "implausible"


def test_a_frozen_counter_is_noticed_after_ten_seconds_and_counted_once() -> None:
    from dataclasses import replace

    now = account(COUNTER, at=0.0, joules=1000.0)
    steps = []
    for second in range(1, 21):
        step, base = measure(now, *look(float(second), joules=1000.0), 1.0)
        now = replace(
            now,
            baseline_joules=base.joules,
            baseline_at_seconds=base.at_seconds,
            baseline_wall_seconds=base.wall_seconds,
            still_since_seconds=base.still_since_seconds,
        )
        steps.append(step)

    assert steps[:9] == [Step()] * 9
    assert steps[9] == Step(unmetered=True, anomaly="frozen")
    assert steps[10:] == [Step(unmetered=True)] * 10
    moved, base = measure(now, *look(21.0, joules=1300.0), 1.0)
    assert moved == Step(joules=300.0)
    assert base.still_since_seconds is None


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
    ],
)
def test_power_is_integrated_between_neighbours_and_not_over_a_gap(
    watts: float | None, at: float, expected: Step
) -> None:
    step, _ = measure(account(POWER, watts=100.0), *look(at, watts=watts), 1.0)

    assert step == expected


def test_a_board_that_tells_nothing_is_unmetered() -> None:
    step, _ = measure(GpuAccount(Gpu("GPU-0", 0, energy_method=EnergyMethod.NONE)), *look(11.0), 1.0)

    assert step == Step(unmetered=True)


def test_a_host_counter_adds_its_rise_and_tells_its_mean_power() -> None:
    first, account = measure_host(HostAccount(), HostSample("cpu", 10.0, 5000.0, max_power_watts=400.0), 1.0)
    second, account = measure_host(account, HostSample("cpu", 12.0, 5500.0, max_power_watts=400.0), 1.0)
    third, account = measure_host(account, HostSample("cpu", 13.0, 9.9e9, max_power_watts=400.0), 1.0)

    assert (first, second, third) == (0.0, 500.0, 0.0)
    assert account.joules == 500.0


def test_host_power_is_integrated_by_the_trapezoid() -> None:
    _, account = measure_host(HostAccount(), HostSample("node", 10.0, power_watts=500.0), 1.0)
    joules, account = measure_host(account, HostSample("node", 11.0, power_watts=700.0), 1.0)
    gap, account = measure_host(account, HostSample("node", 60.0, power_watts=700.0), 1.0)

    assert (joules, gap) == (600.0, 0.0)
    assert account.power_watts == 700.0
