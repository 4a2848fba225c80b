"""The checks of tests/device find planted faults on the stand-in, and none on a GPU without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pynvml
import pytest

from fakenvml import FakeNvml
from scenarios.conftest import shut_down
from support.devicechecks import (
    check_call_times,
    check_counter,
    check_daemon,
    check_power,
    check_processes,
    check_throttle,
    check_usage,
    faults,
    time_calls,
)
from support.watched_gpus import watch
from tpw.model import GpuSample
from tpw.power.nvml import NvmlMeter

DUTY = {101: 0.6, 102: 0.2}


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNvml]:
    monkeypatch.setenv("FAKENVML_CONTROL", "")
    with FakeNvml(tmp_path, count=1, start_seconds=1000.0) as nvml:
        nvml.preload()
        nvml.gpu(0).set_square(200.0, 600.0, 7.3, 0.4)
        yield nvml
        nvml.close()
        shut_down()


class WrongCounter(NvmlMeter):
    """A counter that is off by a factor."""

    factor = 1.0

    def read(self, uuid: str) -> GpuSample:
        sample = super().read(uuid)
        return replace(sample, energy_joules=(sample.energy_joules or 0.0) * self.factor)


def found(nvml: FakeNvml, factor: float = 1.0, seconds: int = 120) -> list[str]:
    """Faults of the readings of two minutes."""
    meter = WrongCounter(nvml.now)
    meter.factor = factor
    nvml.advance(2.0)
    watched = watch(meter, seconds, nvml.now, nvml.advance)[nvml.uuid(0)]
    return faults([*check_counter(watched), *check_power(watched)])


def test_a_gpu_without_a_fault_has_none(nvml: FakeNvml) -> None:
    assert found(nvml) == []


@pytest.mark.parametrize(
    ("plant", "factor", "seconds", "fault"),
    [
        (lambda nvml: None, 2.0, 120, "counter against power: beyond 3 %"),
        (lambda nvml: None, 1.04, 120, "counter against power: beyond 3 %"),
        (lambda nvml: nvml.freeze(0), 1.0, 120, "counter: it does not move"),
        (lambda nvml: nvml.stick_power(0, 360.0), 1.0, 120, "power: every reading is the same"),
        (lambda nvml: nvml.stick_power(0, 200.0), 1.0, 120, "counter against power: beyond 3 %"),
        (lambda nvml: None, 1.0, 60, "duration: less than 120 s"),
    ],
    ids=["counter doubled", "counter 4 % high", "counter frozen", "power stuck", "power stuck low", "too short"],
)
def test_a_planted_fault_of_the_readings_is_found(
    nvml: FakeNvml, plant: Callable[[FakeNvml], object], factor: float, seconds: int, fault: str
) -> None:
    plant(nvml)

    assert any(one.startswith(fault) for one in found(nvml, factor, seconds))


def test_calls_are_timed_and_their_cost_is_extrapolated(nvml: FakeNvml) -> None:
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    at, step = 0.0, 0.001

    def clock() -> float:
        nonlocal at
        at += step
        return at

    quick = time_calls(pynvml, handle, clock)
    step = 0.3
    slow = time_calls(pynvml, handle, clock)

    assert set(quick) >= {"field values", "utilisation", "compute processes", "process utilisation"}
    assert all(time.median_seconds == pytest.approx(0.001) for time in quick.values())
    assert faults(check_call_times(quick, 8)) == []
    assert [finding.check for finding in check_call_times(quick, 8)][-2:] == ["tick of 8 GPUs", "tick of 72 GPUs"]
    assert faults(check_call_times(slow, 1)) == ["tick of 1 GPUs: a tick of a second is late (780.0 ms)"]


def test_throttle_counters_are_judged_by_what_a_limit_must_do() -> None:
    before = {"sw_power_cap": 10.0, "hw_thermal": 0.0}

    assert faults(check_throttle(before, {"sw_power_cap": 39.0, "hw_thermal": 0.0}, 30.0, capped=True)) == []
    assert faults(check_throttle(before, before, 30.0, capped=False)) == []
    for after, capped in (
        (before, True),
        ({**before, "hw_thermal": 3e9}, False),
        ({**before, "hw_thermal": -1.0}, False),
        ({}, True),
    ):
        assert len(faults(check_throttle(before, after, 30.0, capped=capped))) == 1


def test_processes_that_are_not_listed_are_found() -> None:
    assert faults(check_processes(frozenset({101, 102, 7}), frozenset(DUTY))) == []
    assert len(faults(check_processes(frozenset({1}), frozenset(DUTY)))) == 1
    assert len(faults(check_processes(None, frozenset(DUTY)))) == 1


@pytest.mark.parametrize(
    ("usage", "meaning"),
    [({101: 58.0, 102: 22.0}, "share of time"), ({101: 30.0, 102: 10.0}, "a weight, not a share of time")],
)
def test_the_meaning_of_process_utilisation_is_settled(usage: dict[int, float], meaning: str) -> None:
    (finding,) = check_usage(usage, DUTY)

    assert (finding.fault, finding.figure.rpartition(": ")[2]) == ("", meaning)


@pytest.mark.parametrize("usage", [None, {}, {101: 20.0, 102: 60.0}, {102: 20.0}])
def test_process_utilisation_that_means_nothing_is_found(usage: dict[int, float] | None) -> None:
    assert len(faults(check_usage(usage, DUTY))) == 1


def test_a_page_that_differs_from_the_counter_is_found() -> None:
    assert faults(check_daemon(10_050.0, 10_000.0)) == []
    assert len(faults(check_daemon(9_800.0, 10_000.0))) == 1
    assert len(faults(check_daemon(100.0, 0.0))) == 1
