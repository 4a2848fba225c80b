"""The NVML meter on a real driver. Run with ``make test-device`` on a machine that has a GPU."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.watched_gpus import Watched, refresh_seconds, watch
from tpw.model import EnergyMethod, Gpu, SourceError
from tpw.power.nvml import NvmlMeter

SECONDS = 60
TOLERANCE = 0.25
"""Counter and integral of power come from the same sensors; beyond this the ledger reports an anomaly."""

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def gpus() -> tuple[Gpu, ...]:
    meter = NvmlMeter()
    try:
        meter.open()
    except SourceError as error:
        pytest.skip(f"no usable NVIDIA driver: {error.detail}")
    found = meter.gpus()
    meter.close()
    if not found:
        pytest.skip("the NVIDIA driver lists no GPU")
    return found


@pytest.fixture(scope="module")
def refreshes(gpus: tuple[Gpu, ...]) -> dict[str, float | None]:
    """Refresh interval of each counter, seconds."""
    meter = NvmlMeter()
    meter.open()
    intervals = {gpu.uuid: refresh_seconds(meter, gpu.uuid, time.monotonic, time.sleep) for gpu in gpus}
    meter.close()
    return intervals


@pytest.fixture(scope="module")
def idle(gpus: tuple[Gpu, ...]) -> dict[str, Watched]:
    return watch(NvmlMeter(), SECONDS, time.monotonic, time.sleep)


@contextmanager
def busy(uuid: str, seconds: float) -> Iterator[None]:
    """Run a load on the GPU. Skips the test where that is impossible."""
    command = [sys.executable, "-m", "support.cudaload", uuid, str(seconds)]
    with subprocess.Popen(command, cwd=TESTS, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            if process.stdout.readline().strip() != "busy":
                process.kill()
                pytest.skip(f"{uuid} cannot run a load: {process.stderr.read().strip()}")
            yield
        finally:
            process.kill()


def sound(watched: Watched) -> None:
    """Check what holds for any GPU in any state."""
    assert len(watched.samples) >= watched.reads - 3, f"{watched.gpu.uuid}: too many reads without a sample"
    assert watched.energies == sorted(watched.energies)
    counter, power = watched.counter_joules, watched.power_joules
    if counter is not None and power is not None and watched.gpu.power_averaged:
        assert counter == pytest.approx(power, rel=TOLERANCE)


def test_every_gpu_has_an_energy_method(gpus: tuple[Gpu, ...]) -> None:
    for gpu in gpus:
        assert gpu.uuid.startswith("GPU-") and gpu.name
        assert (gpu.energy_method is EnergyMethod.COUNTER) == (gpu.method_note == "")


def test_idle_the_counter_agrees_with_the_integral_of_power(
    idle: dict[str, Watched], refreshes: dict[str, float | None], rows: list[tuple[str, ...]]
) -> None:
    for uuid, watched in idle.items():
        rows.append(watched.row("as it was", refreshes[uuid]))
        sound(watched)


def test_under_load_the_counter_agrees_with_the_integral_of_power(
    gpus: tuple[Gpu, ...],
    idle: dict[str, Watched],
    refreshes: dict[str, float | None],
    rows: list[tuple[str, ...]],
) -> None:
    uuid = gpus[0].uuid
    with busy(uuid, SECONDS + 30.0):
        time.sleep(3.0)
        watched = watch(NvmlMeter(), SECONDS, time.monotonic, time.sleep)[uuid]
    rows.append(watched.row("busy", refreshes[uuid]))

    sound(watched)
    before = idle[uuid].watts
    if watched.watts is not None and before is not None:
        assert watched.watts > 1.2 * before, "a load draws more power"
