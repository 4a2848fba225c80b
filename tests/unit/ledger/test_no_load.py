"""The power of a GPU without load."""

from __future__ import annotations

import pytest

from tpw.ledger.no_load import learned
from tpw.model import GpuSample, State

IDLE = frozenset({State.IDLE})


def after(before: float | None, watts: float | None, *, busy: float | None = 0.0, seconds: float = 1.0) -> float | None:
    return learned(before, GpuSample("g", 0.0, power_watts=watts, utilization_ratio=busy), seconds, IDLE, 700.0)


def test_the_lowest_power_counts_at_once_and_a_higher_one_slowly() -> None:
    assert after(None, 70.0) == 70.0
    assert after(70.0, 60.0) == 60.0
    assert after(60.0, 80.0) == pytest.approx(60.0 + 20.0 / 600.0, rel=1e-3)
    assert after(60.0, 80.0, seconds=6000.0) == pytest.approx(80.0, rel=1e-3)


def test_cutting_the_time_changes_nothing() -> None:
    assert after(after(60.0, 80.0, seconds=3.0), 80.0, seconds=4.0) == pytest.approx(after(60.0, 80.0, seconds=7.0))


@pytest.mark.parametrize(("watts", "busy"), [(None, 0.0), (0.0, 0.0), (50.0, 0.01), (50.0, None), (351.0, 0.0)])
def test_power_under_load_teaches_nothing(watts: float | None, busy: float | None) -> None:
    assert after(60.0, watts, busy=busy) == 60.0
    assert after(None, watts, busy=busy) is None


def test_a_process_or_a_server_at_work_is_a_load() -> None:
    used = GpuSample("g", 0.0, power_watts=50.0, utilization_ratio=0.0, process_use={7: 0.01})
    assert learned(60.0, used, 1.0, IDLE, 700.0) == 60.0
    free = GpuSample("g", 0.0, power_watts=50.0, utilization_ratio=0.0, process_use={})
    assert learned(60.0, free, 1.0, frozenset({State.ACTIVE}), 700.0) == 60.0
    assert learned(60.0, free, 1.0, frozenset({State.PARKED}), None) == 50.0
