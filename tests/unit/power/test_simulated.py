from __future__ import annotations

from typing import Any

import pytest

from tpw.model import Reason, SourceError
from tpw.power import accelerator_meter, host_meter
from tpw.power.simulated import IDLE_WATTS, JITTER, LOADED_WATTS, MEMORY_BYTES, SimulatedMeter


def test_power_follows_the_load(clock: Any) -> None:
    meter = SimulatedMeter(clock, gpus=2, load=lambda index, at: float(index))

    idle, busy = (meter.read(gpu.uuid) for gpu in meter.gpus())

    assert idle.power_watts == pytest.approx(IDLE_WATTS, rel=JITTER)
    assert busy.power_watts == pytest.approx(LOADED_WATTS, rel=JITTER)
    assert (idle.utilization_ratio, busy.utilization_ratio) == (0.0, 1.0)


def test_energy_is_the_same_however_often_it_is_read(clock: Any) -> None:
    once = SimulatedMeter(clock, gpus=1)
    often = SimulatedMeter(clock, gpus=1)
    uuid = once.gpus()[0].uuid
    for _ in range(173):
        clock.advance(0.37)
        often.read(uuid)

    assert once.read(uuid).energy_joules == pytest.approx(often.read(uuid).energy_joules, rel=1e-12)


def test_energy_is_the_integral_of_power(clock: Any) -> None:
    meter = SimulatedMeter(clock, gpus=1, load=lambda index, at: 0.5)
    uuid = meter.gpus()[0].uuid
    meter.read(uuid)
    clock.advance(1000)

    mean = (IDLE_WATTS + (LOADED_WATTS - IDLE_WATTS) * 0.5**0.8) * 1000
    assert meter.read(uuid).energy_joules == pytest.approx(mean, rel=0.002)


def test_processes_are_those_of_the_caller(clock: Any) -> None:
    meter = SimulatedMeter(clock, gpus=2, holders=lambda: {1: frozenset({42})})

    assert [meter.sharing(gpu.uuid).pids for gpu in meter.gpus()] == [frozenset(), {42}]


def test_an_unknown_uuid_is_lost(clock: Any) -> None:
    with pytest.raises(SourceError) as caught:
        SimulatedMeter(clock, gpus=1).read("GPU-else")
    assert caught.value.reason is Reason.LOST


@pytest.mark.parametrize(
    ("name", "create"), [("simulated", accelerator_meter), ("nvml", accelerator_meter), ("rapl", host_meter)]
)
def test_a_meter_has_the_name_that_it_has_in_the_table(name: str, create: Any, clock: Any) -> None:
    assert create(name, clock).name == name


def test_a_gpu_that_holds_a_model_has_little_memory_left():
    meter = SimulatedMeter(lambda: 0.0, loaded={1})
    used = [meter.read(gpu.uuid).memory_used_bytes for gpu in meter.gpus()]
    assert [(bytes_used or 0.0) > 0.5 * MEMORY_BYTES for bytes_used in used] == [False, True, False, False]
