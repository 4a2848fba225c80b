"""The NVML meter on a real driver. Run with ``make test-device`` on a machine that has a GPU."""

from __future__ import annotations

import time

import pytest

from tpw.model import EnergyMethod, GpuSample, SourceError
from tpw.polling import AcceleratorPoller
from tpw.power.nvml import NvmlMeter

pytestmark = pytest.mark.device

SECONDS = 15


def looks(seconds: int) -> list[dict[str, GpuSample]]:
    poller = AcceleratorPoller(NvmlMeter())
    readings = []
    for _ in range(seconds):
        start = time.monotonic()
        poller.begin()
        reading = poller.finish(start + 0.9)
        readings.append({sample.uuid: sample for sample in reading.samples})
        time.sleep(max(0.0, start + 1.0 - time.monotonic()))
    poller.close(time.monotonic() + 5)
    return readings


def test_the_energy_counter_agrees_with_the_mean_of_power() -> None:
    meter = NvmlMeter()
    try:
        meter.open()
    except SourceError as error:
        pytest.skip(f"no usable NVIDIA driver: {error.detail}")
    counted = [gpu.uuid for gpu in meter.gpus() if gpu.energy_method is EnergyMethod.COUNTER and gpu.power_averaged]
    meter.close()
    assert counted, "no GPU with a counter and a mean of power"
    readings = [reading for reading in looks(SECONDS) if set(counted) <= set(reading)]
    assert len(readings) >= SECONDS - 3

    for uuid in counted:
        samples = [reading[uuid] for reading in readings]
        energies = [sample.energy_joules for sample in samples]
        assert None not in energies
        assert energies == sorted(energies)  # type: ignore[type-var]
        first, last = samples[0], samples[-1]
        elapsed = last.at_seconds - first.at_seconds
        watts = (last.energy_joules - first.energy_joules) / elapsed  # type: ignore[operator]
        means = [sample.power_watts for sample in samples[1:] if sample.power_watts is not None]
        assert watts == pytest.approx(sum(means) / len(means), rel=0.25)
