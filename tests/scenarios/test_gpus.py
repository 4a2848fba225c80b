"""The checks of tests/device on the fake NVML: for a GPU with correct values, and for one with wrong ones."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fakenvml import FakeNvml
from support import cudaload
from support.watched_gpus import HEADINGS, refresh_seconds, watch
from tpw.model import EnergyMethod
from tpw.power.nvml import NvmlMeter


def test_counter_and_integral_of_power_are_the_energy_of_the_gpu(nvml: FakeNvml) -> None:
    nvml.gpu(0).set_square(100.0, 600.0, 7.0, 0.4)
    nvml.advance(2.0)
    begun = nvml.now()

    watched = watch(NvmlMeter(nvml.now), 60, nvml.now, nvml.advance)[nvml.uuid(0)]

    true = nvml.true_joules(0, begun, begun + 60.0)
    assert (watched.reads, len(watched.samples), watched.seconds) == (61, 61, 60.0)
    assert watched.energies == sorted(watched.energies)
    assert watched.counter_joules == pytest.approx(true, rel=0.001)
    assert watched.power_joules == pytest.approx(true, rel=0.01)
    assert watched.watts == pytest.approx(true / 60.0, rel=0.001)
    row = watched.row("busy", 0.02)
    assert len(row) == len(HEADINGS)
    assert row[2:5] == ("counter", "busy", "60")


def test_a_counter_with_another_scope_shows_as_a_difference(nvml: FakeNvml) -> None:
    """A counter of the module, power of its GPU alone."""
    nvml.module_scope(0, 1.6)
    nvml.gpu(0).set_constant(300.0)
    nvml.advance(2.0)
    watched = watch(NvmlMeter(nvml.now), 20, nvml.now, nvml.advance)[nvml.uuid(0)]
    assert watched.counter_joules == pytest.approx(300.0 * 1.6 * 20, rel=0.01)

    nvml.gpu(1).set(refresh_seconds=0.0)
    nvml.freeze(1)
    frozen = watch(NvmlMeter(nvml.now), 5, nvml.now, nvml.advance)[nvml.uuid(1)]
    assert (frozen.counter_joules, frozen.power_joules) == (0.0, pytest.approx(500.0, rel=0.01))
    assert frozen.row("as it was", None)[7] == "-100.00"


@pytest.mark.parametrize("refresh", [0.02, 0.1])
def test_the_refresh_interval_of_the_counter_is_measured(nvml: FakeNvml, refresh: float) -> None:
    nvml.gpu(0).set(refresh_seconds=refresh)
    meter = NvmlMeter(nvml.now)
    meter.open()

    assert refresh_seconds(meter, nvml.uuid(0), nvml.now, nvml.advance) == pytest.approx(refresh, abs=0.002)


def test_a_gpu_without_a_counter_has_only_the_integral(nvml: FakeNvml) -> None:
    nvml.no_energy(0)
    meter = NvmlMeter(nvml.now)
    watched = watch(meter, 5, nvml.now, nvml.advance)[nvml.uuid(0)]

    assert watched.gpu.energy_method is EnergyMethod.AVERAGE_POWER
    assert (watched.energies, watched.counter_joules) == ([], None)
    assert watched.power_joules == pytest.approx(500.0, rel=0.01)
    meter.open()
    assert refresh_seconds(meter, nvml.uuid(0), nvml.now, nvml.advance) is None


def test_the_load_prints_why_it_cannot_run_without_a_driver() -> None:
    tests = Path(__file__).resolve().parents[1]
    program = (
        "import ctypes, support.cudaload as load\n"
        "def missing(name): raise OSError(f'{name}: cannot open shared object file')\n"
        "ctypes.CDLL = missing\n"
        "load.main('GPU-0', 1.0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tests, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (3, "")
    assert "no CUDA driver library: libcuda.so.1" in done.stderr


def test_the_load_launches_its_kernel_for_the_given_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a driver that records calls and rejects the first target, as current drivers may."""
    calls: list[str] = []

    class Driver:
        def __getattr__(self, name: str) -> Callable[..., int]:
            def call(*arguments: object) -> int:
                calls.append(name)
                return 218 if name == "cuModuleLoadData" and b"sm_75" in arguments[1] else 0  # type: ignore[operator]

            return call

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    assert cudaload.main("GPU-0", 0.01) == 0
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-0"
    assert calls[:7] == [
        "cuInit",
        "cuDeviceGet",
        "cuCtxCreate_v2",
        "cuModuleLoadData",
        "cuModuleLoadData",
        "cuModuleGetFunction",
        "cuMemAlloc_v2",
    ]
    assert "cuLaunchKernel" in calls and calls[-1] == "cuCtxDestroy_v2"
    assert capsys.readouterr().out == "busy\n"
