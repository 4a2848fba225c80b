"""The amdsmi meter over a stand-in for the binding, with the answers that were seen of each generation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tpw.model import Die, EnergyMethod, PowerScope, Reason, SourceError
from tpw.power import MeterLost
from tpw.power.amdsmi import AmdsmiMeter, joules_of, number


class LibraryError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"Error code: {code}")
        self.code = code

    def get_error_code(self) -> int:
        return self.code


MI300X: dict[str, Any] = {
    "uuid": "a6ff74a1-0000-1000-8049-0123456789ab",
    "bdf": "0000:05:00.0",
    "asic": {"market_name": "AMD Instinct MI300X", "target_graphics_version": "gfx942"},
    "energy": {"energy_accumulator": 6_553_600_000, "counter_resolution": 15.300000190734863, "timestamp": 1},
    "power": {"current_socket_power": 340, "average_socket_power": "N/A", "power_limit": 750000000},
    "cap": {"power_cap": 750_000_000, "max_power_cap": 750_000_000, "min_power_cap": 0, "dpm_cap": 0},
    "activity": {"gfx_activity": 91, "umc_activity": 10, "mm_activity": "N/A"},
    "vram": {"vram_total": 196592, "vram_used": 1000},
    "temperature": {"HOTSPOT": 66},
    "processes": [
        {"pid": 4711, "mem": 0, "memory_usage": {"vram_mem": 8192}},
        {"pid": 99, "mem": 0, "memory_usage": {"vram_mem": 0}},
    ],
}


class Smi:
    """The binding's functions over dictionaries. A value that is an exception is raised."""

    class AmdSmiTemperatureType:
        EDGE = "EDGE"
        HOTSPOT = "HOTSPOT"

    class AmdSmiTemperatureMetric:
        CURRENT = 0

    def __init__(self, *gpus: dict[str, Any]) -> None:
        self.gpus = [dict(gpu) for gpu in gpus]
        self.init_error: Exception | None = None
        self.calls: list[str] = []

    def amdsmi_init(self) -> None:
        self.calls.append("init")
        if self.init_error:
            raise self.init_error

    def amdsmi_shut_down(self) -> None:
        self.calls.append("shut_down")

    def amdsmi_get_processor_handles(self) -> list[dict[str, Any]]:
        return self.gpus

    def _get(self, gpu: dict[str, Any], key: str) -> Any:
        value = gpu.get(key, LibraryError(2))
        if isinstance(value, Exception):
            raise value
        return value

    def amdsmi_get_gpu_device_uuid(self, gpu: dict[str, Any]) -> Any:
        return self._get(gpu, "uuid")

    def amdsmi_get_gpu_device_bdf(self, gpu: dict[str, Any]) -> Any:
        return self._get(gpu, "bdf")

    def amdsmi_get_gpu_asic_info(self, gpu: dict[str, Any]) -> Any:
        return self._get(gpu, "asic")

    def amdsmi_get_gpu_driver_info(self, gpu: dict[str, Any]) -> Any:
        return {"driver_name": "amdgpu", "driver_version": "6.10.5"}

    def amdsmi_get_energy_count(self, gpu: dict[str, Any]) -> Any:
        return self._get(gpu, "energy")

    def amdsmi_get_power_info(self, gpu: dict[str, Any]) -> Any:
        return self._get(gpu, "power")

    def amdsmi_get_power_cap_info(self, gpu: dict[str, Any]) -> Any:
        return self._get(gpu, "cap")

    def amdsmi_get_gpu_activity(self, gpu: dict[str, Any]) -> Any:
        return self._get(gpu, "activity")

    def amdsmi_get_gpu_vram_usage(self, gpu: dict[str, Any]) -> Any:
        return self._get(gpu, "vram")

    def amdsmi_get_temp_metric(self, gpu: dict[str, Any], sensor: str, metric: int) -> Any:
        value = gpu["temperature"].get(sensor)
        if value is None:
            raise LibraryError(2)
        return value

    def amdsmi_get_gpu_process_list(self, gpu: dict[str, Any]) -> Any:
        return self._get(gpu, "processes")


def opened(smi: Any, clock: Any) -> AmdsmiMeter:
    meter = AmdsmiMeter(clock, lambda: smi)
    meter.open()
    return meter


def test_an_mi300_is_read_in_base_units(clock: Any) -> None:
    meter = opened(Smi(MI300X), clock)

    (gpu,) = meter.gpus()
    sample = meter.read(gpu.uuid)

    assert (gpu.uuid, gpu.vendor, gpu.name) == (MI300X["uuid"], "amd", "AMD Instinct MI300X")
    assert (gpu.architecture, gpu.driver_version, gpu.pci_bus_id) == ("gfx942", "6.10.5", "0000:05:00.0")
    assert (gpu.energy_method, gpu.power_scope, gpu.power_averaged) == (EnergyMethod.COUNTER, PowerScope.GPU, False)
    assert gpu.max_power_watts == 750.0
    assert sample.energy_joules == 100_000.0  # 2^-16 J each, although the binding reports 15.3
    assert (sample.power_watts, sample.power_limit_watts, sample.utilization_ratio) == (340.0, 750.0, 0.91)
    assert (sample.memory_used_bytes, sample.memory_total_bytes) == (1000 * 2**20, 196592 * 2**20)
    assert sample.temperature_celsius == 66.0


def test_slow_values_are_read_at_every_fifth_read(clock: Any) -> None:
    smi = Smi(MI300X)
    meter = opened(smi, clock)
    celsius = []
    for step in range(1, 12):
        smi.gpus[0]["temperature"] = {"HOTSPOT": step}
        celsius.append(meter.read(MI300X["uuid"]).temperature_celsius)

    assert celsius == [1, 1, 1, 1, 1, 6, 6, 6, 6, 6, 11]


def test_an_mi200_has_its_power_under_another_name(clock: Any) -> None:
    gpu = {**MI300X, "power": {"current_socket_power": "N/A", "average_socket_power": 289}}
    meter = opened(Smi(gpu), clock)

    assert meter.read(MI300X["uuid"]).power_watts == 289.0
    assert meter.gpus()[0].power_averaged


MI250X = {"market_name": "AMD Instinct MI250X"}


def die(number: int, **what: Any) -> dict[str, Any]:
    """The first die of an MI250X, or with an odd number the second, which reports nothing."""
    silent = {
        "power": {"average_socket_power": "N/A", "current_socket_power": 0},
        "energy": {"energy_accumulator": 0, "counter_resolution": 15.3},
    }
    return {
        **MI300X,
        "uuid": f"die-{number}",
        "bdf": f"0000:c{number}:00.0",
        "asic": MI250X,
        **(silent if number % 2 else {"power": {"average_socket_power": 400, "current_socket_power": "N/A"}}),
        **what,
    }


def test_the_two_dies_of_an_mi250_are_one_gpu_with_the_energy_of_both(clock: Any) -> None:
    second = {"gpu": {"gfx_activity": 41}, "vram": {"vram_total": 65536, "vram_used": 24}}
    smi = Smi(
        die(0, vram={"vram_total": 65536, "vram_used": 1000}),
        die(1, activity=second["gpu"], vram=second["vram"], processes=[{"pid": 12, "mem": 7}]),
        die(2),
        die(3),
    )
    meter = opened(smi, clock)

    assert [(gpu.uuid, gpu.index, gpu.energy_method, gpu.dies) for gpu in meter.gpus()] == [
        ("die-0", 0, EnergyMethod.COUNTER, (Die("die-1", 1, "0000:c1:00.0"),)),
        ("die-2", 2, EnergyMethod.COUNTER, (Die("die-3", 3, "0000:c3:00.0"),)),
    ]
    # The GPU contains no CPU, unlike the module of a superchip.
    assert {gpu.power_scope for gpu in meter.gpus()} == {PowerScope.GPU}
    assert meter.gpus()[0].remarks == ("Power and energy are those of both dies of the GPU.",)
    sample = meter.read("die-0")
    assert (sample.energy_joules, sample.power_watts) == (100_000.0, 400.0)
    assert sample.utilization_ratio == pytest.approx((0.91 + 0.41) / 2)
    assert (sample.memory_used_bytes, sample.memory_total_bytes) == (1024 * 2**20, 131072 * 2**20)
    assert meter.sharing("die-0").pids == {4711, 12}


def test_dies_of_an_mi250_stay_one_gpu_after_another_discovery(clock: Any) -> None:
    meter = opened(Smi(die(0), die(1)), clock)
    before = meter.gpus()
    clock.advance(61)
    meter.sweep()

    assert meter.gpus() == before
    assert len(before) == 1


def test_a_failed_second_die_does_not_affect_energy(clock: Any) -> None:
    smi = Smi(die(0), die(1))
    meter = opened(smi, clock)
    smi.gpus[1] |= {"activity": LibraryError(7), "vram": LibraryError(7), "processes": LibraryError(7)}
    sample = meter.read("die-0")

    assert (sample.energy_joules, sample.utilization_ratio, sample.memory_used_bytes) == (100_000.0, None, None)
    assert meter.sharing("die-0").pids is None


def test_a_second_die_joins_the_first_once_that_is_readable(clock: Any) -> None:
    smi = Smi(die(0), die(1))
    smi.gpus[0]["energy"] = LibraryError(7)
    meter = opened(smi, clock)
    alone = [gpu.uuid for gpu in meter.gpus()]
    smi.gpus[0]["energy"] = die(0)["energy"]
    clock.advance(61)
    meter.sweep()

    assert alone == ["die-0", "die-1"]
    assert [(gpu.uuid, [die.uuid for die in gpu.dies]) for gpu in meter.gpus()] == [("die-0", ["die-1"])]


def test_a_second_die_alone_is_a_gpu_without_energy(clock: Any) -> None:
    meter = opened(Smi({**die(0), "uuid": "other", "asic": {"market_name": "AMD Instinct MI210"}}, die(1)), clock)

    assert [(gpu.uuid, gpu.energy_method) for gpu in meter.gpus()] == [
        ("other", EnergyMethod.COUNTER),
        ("die-1", EnergyMethod.NONE),
    ]
    sample = meter.read("die-1")
    assert (sample.energy_joules, sample.power_watts, sample.utilization_ratio) == (None, None, 0.91)


def test_the_counter_had_another_name_before_rocm_6_4(clock: Any) -> None:
    gpu = {**MI300X, "energy": {"power": 65536, "counter_resolution": 15.3, "timestamp": 1}}

    assert opened(Smi(gpu), clock).read(MI300X["uuid"]).energy_joules == 1.0


@pytest.mark.parametrize(("cap", "watts"), [(560_000_000, 560.0), (560, 560.0), (0, None), ("N/A", None)])
def test_a_limit_is_in_microwatts_or_in_watts_by_the_version_of_the_binding(
    clock: Any, cap: object, watts: float | None
) -> None:
    meter = opened(Smi({**MI300X, "cap": {"power_cap": cap, "max_power_cap": cap}}), clock)

    (gpu,) = meter.gpus()
    assert (gpu.max_power_watts, meter.read(gpu.uuid).power_limit_watts) == (watts, watts)


def test_without_a_counter_power_is_integrated(clock: Any) -> None:
    gpu = {**MI300X, "energy": LibraryError(2)}
    meter = opened(Smi(gpu), clock)

    (gpu,) = meter.gpus()

    assert gpu.energy_method is EnergyMethod.INSTANT_POWER
    assert "virtual machines" in gpu.method_note
    assert meter.read(gpu.uuid).power_watts == 340.0


def test_a_counter_that_fails_once_fails_the_read(clock: Any) -> None:
    smi = Smi(MI300X)
    meter = opened(smi, clock)
    smi.gpus[0]["energy"] = {"energy_accumulator": "N/A", "counter_resolution": "N/A"}

    with pytest.raises(SourceError) as caught:
        meter.read(MI300X["uuid"])

    assert caught.value.reason is Reason.BROKEN


@pytest.mark.parametrize(
    ("code", "reason"), [(10, Reason.PERMISSION), (8, Reason.TIMEOUT), (31, Reason.LOST), (12, Reason.BROKEN)]
)
def test_the_failure_of_one_gpu_does_not_affect_the_others(clock: Any, code: int, reason: Reason) -> None:
    smi = Smi(MI300X, {**MI300X, "uuid": "other"})
    meter = opened(smi, clock)
    smi.gpus[0]["energy"] = LibraryError(code)

    with pytest.raises(SourceError) as caught:
        meter.read(MI300X["uuid"])

    assert (caught.value.reason, isinstance(caught.value, MeterLost)) == (reason, False)
    assert meter.read("other").power_watts == 340.0


def test_a_gpu_that_is_broken_at_the_start_is_probed_again(clock: Any) -> None:
    smi = Smi({**MI300X, "uuid": "sick", "energy": LibraryError(12)}, MI300X)
    meter = opened(smi, clock)
    with pytest.raises(SourceError):
        meter.read("sick")
    assert meter.read(MI300X["uuid"]).power_watts == 340.0
    smi.gpus[0]["energy"] = MI300X["energy"]
    clock.advance(61)
    meter.sweep()

    assert meter.read("sick").energy_joules == 100_000.0


def test_a_library_that_is_not_initialised_any_more_is_lost_and_opens_again(clock: Any) -> None:
    smi = Smi(MI300X)
    meter = opened(smi, clock)
    smi.gpus[0]["energy"] = LibraryError(32)
    with pytest.raises(MeterLost):
        meter.read(MI300X["uuid"])
    meter.close()
    smi.gpus[0]["energy"] = MI300X["energy"]
    meter.open()

    assert meter.read(MI300X["uuid"]).energy_joules == 100_000.0
    assert smi.calls == ["init", "shut_down", "init"]


def test_a_gpu_missing_after_another_open_stays_listed_as_lost(clock: Any) -> None:
    smi = Smi(MI300X, {**MI300X, "uuid": "other"})
    meter = opened(smi, clock)
    meter.close()
    smi.gpus.pop()
    meter.open()

    with pytest.raises(SourceError) as caught:
        meter.read("other")

    assert caught.value.reason is Reason.LOST
    assert len(meter.gpus()) == 2


def test_a_missing_driver_has_a_hint(clock: Any) -> None:
    smi = Smi(MI300X)
    smi.init_error = LibraryError(34)

    with pytest.raises(MeterLost) as caught:
        opened(smi, clock)

    assert caught.value.reason is Reason.ABSENT
    assert "amdgpu" in caught.value.hint


def test_a_failed_import_of_the_binding_has_a_hint_and_prints_nothing(
    clock: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def load() -> Any:
        print("Unable to find libamd_smi.so library")
        raise KeyError("libamd_smi.so")

    with pytest.raises(SourceError) as caught:
        AmdsmiMeter(clock, load).open()

    assert caught.value.reason is Reason.ABSENT
    assert "KeyError" in caught.value.detail
    assert capsys.readouterr() == ("", "")


def test_sharing_lists_processes_with_memory_on_the_gpu(clock: Any) -> None:
    meter = opened(Smi(MI300X), clock)

    assert meter.sharing(MI300X["uuid"]).pids == {4711}


def test_processes_of_old_bindings_are_read_one_by_one(clock: Any) -> None:
    smi: Any = Smi({**MI300X, "processes": [SimpleNamespace(n=7), SimpleNamespace(n=8)]})
    smi.amdsmi_get_gpu_process_info = lambda gpu, process: {"pid": process.n}
    meter = opened(smi, clock)

    assert meter.sharing(MI300X["uuid"]).pids == {7, 8}


def test_processes_are_unknown_where_the_call_fails(clock: Any) -> None:
    meter = opened(Smi({**MI300X, "processes": LibraryError(10)}), clock)

    assert meter.sharing(MI300X["uuid"]).pids is None


@pytest.mark.parametrize(("value", "expected"), [(5, 5.0), ("N/A", None), (None, None), (0xFFFF, None), (True, None)])
def test_numbers_of_the_binding(value: Any, expected: float | None) -> None:
    assert number(value) == expected


def test_another_resolution_of_the_counter_is_used() -> None:
    assert joules_of({"energy_accumulator": 1_000_000, "counter_resolution": 10.0}) == 10.0
