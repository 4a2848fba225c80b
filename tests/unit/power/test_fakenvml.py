"""The stand-in itself: its energy must be exact, or nothing that is tested on it is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest

from fakenvml import FakeNvml


def energy_joules(handle: object) -> float:
    return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000


def energy_at_a_moment(handle: object) -> tuple[float, float]:
    """(joules, monotonic seconds), read within half a millisecond."""
    for _ in range(10_000):
        began = time.monotonic()
        joules = energy_joules(handle)
        ended = time.monotonic()
        if ended - began < 0.0005:
            return joules, began
    raise AssertionError("the machine never reads within half a millisecond")


def test_counter_follows_the_exact_integral_over_changes_of_load(driver: FakeNvml) -> None:
    pynvml.nvmlInit()
    driver.gpu(0).set(refresh_seconds=0.0)
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    before, start = energy_at_a_moment(handle)
    driver.gpu(0).set_square(low=50, high=650, period=0.05, duty=0.3)
    time.sleep(0.12)
    driver.gpu(0).set_constant(333)
    time.sleep(0.03)
    after, end = energy_at_a_moment(handle)

    # Between reading the counter and reading the clock lies less than half a millisecond at no more than 650 W.
    assert after - before == pytest.approx(driver.true_joules(0, start, end), abs=0.5)
    # The same energy by hand: 0.3 of the time at 650 W, 0.7 at 50 W, over whole periods.
    first = driver.gpu(0)._loads[1].start
    assert driver.true_joules(0, first, first + 0.1) == pytest.approx(0.1 * (0.3 * 650 + 0.7 * 50))


def test_a_manual_clock_moves_only_when_advanced(stand_in: Callable[..., FakeNvml]) -> None:
    with stand_in(start_seconds=1000.0, refresh_seconds=0.0) as nvml:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        nvml.gpu(0).set_square(low=100, high=700, period=7.0, duty=0.25)
        before, still = energy_joules(handle), energy_joules(handle)
        nvml.advance(3600.0)
        after = energy_joules(handle)
        true = nvml.true_joules(0, 1000.0, 4600.0)

    assert before == still
    # 514 periods of 7 s at 250 W on average, and 2 s more, of which 1.75 s at 700 W.
    assert after - before == pytest.approx(514 * 7 * 250 + 1.75 * 700 + 0.25 * 100, abs=0.002)
    assert true == pytest.approx(after - before, abs=0.002)


def test_the_counter_changes_only_at_its_refresh(driver: FakeNvml) -> None:
    driver.gpu(0).set(refresh_seconds=3600.0)
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)

    readings = set()
    for _ in range(5):
        readings.add(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
        time.sleep(0.002)

    assert len(readings) == 1


def test_average_power_is_the_mean_of_the_last_second(driver: FakeNvml) -> None:
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    assert pynvml.nvmlDeviceGetPowerUsage(handle) == 100_000
    changed = driver.gpu(0).set_constant(500)
    while time.monotonic() < changed + 0.05:
        pass
    now = time.monotonic()

    instant, average = pynvml.nvmlDeviceGetFieldValues(handle, [(186, 0), (185, 0)])

    assert instant.value.uiVal == 500_000
    assert average.value.uiVal == pytest.approx(1000 * driver.true_joules(0, now - 1, now), rel=0.02)


def test_every_fault_of_a_gpu_reaches_the_binding(driver: FakeNvml) -> None:
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)

    def code() -> int:
        try:
            pynvml.nvmlDeviceGetPowerUsage(handle)
        except pynvml.NVMLError as error:
            return int(error.value)
        return 0

    answers = [code()]
    driver.lose(0)
    answers.append(code())
    driver.unknown(0)
    answers.append(code())
    driver.restore(0)
    answers.append(code())
    driver.flicker(0, 1)
    answers.extend([code(), code()])
    driver.unload_driver()
    answers.append(code())

    assert answers == [0, 15, 999, 0, 3, 0, 1]


def test_a_rejected_value_holds_garbage(driver: FakeNvml) -> None:
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    driver.no_energy(0)

    (row,) = pynvml.nvmlDeviceGetFieldValues(handle, [83])

    assert (row.nvmlReturn, row.value.ullVal) == (3, 0xDEADBEEFDEADBEEF)


def test_process_lists_use_the_two_call_protocol(driver: FakeNvml) -> None:
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    driver.processes(0, [4711, 4712])

    rows = pynvml.nvmlDeviceGetComputeRunningProcesses_v3(handle)

    assert [(row.pid, row.gpuInstanceId) for row in rows] == [(4711, 0xFFFFFFFF), (4712, 0xFFFFFFFF)]
    assert driver.calls()["nvmlDeviceGetComputeRunningProcesses_v3"] == 2


def test_a_second_process_sees_the_changes_of_this_one(tmp_path: Path) -> None:
    program = (
        "import pynvml, sys\n"
        "pynvml.nvmlInit()\n"
        "handle = pynvml.nvmlDeviceGetHandleByIndex(0)\n"
        "for _ in sys.stdin:\n"
        "    print(pynvml.nvmlDeviceGetFieldValues(handle, [(186, 0)])[0].value.uiVal, flush=True)\n"
    )
    with (
        FakeNvml(tmp_path, count=1) as nvml,
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, **nvml.env()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None

        def ask() -> int:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        first = ask()
        changed = nvml.gpu(0).set_constant(612)
        while time.monotonic() < changed:
            pass
        second = ask()
        process.stdin.close()

    assert (first, second) == (100_000, 612_000)
    assert nvml.calls()["nvmlDeviceGetFieldValues"] == 2
