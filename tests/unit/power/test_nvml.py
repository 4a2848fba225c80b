"""The NVML meter over the real binding and the stand-in for the driver's library."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fakenvml import FakeNvml
from tpw.model import EnergyMethod, Instance, PowerScope, Reason, Sharing, SourceError
from tpw.power import MeterLost
from tpw.power.nvml import NvmlMeter
from tpw.power.nvml_binding import nvml
from tpw.power.nvml_codes import field_ids
from tpw.power.nvml_gpu import SAMPLES_SECONDS, ScopeCheck


def opened(clock: Any = time.monotonic) -> NvmlMeter:
    meter = NvmlMeter(clock)
    meter.open()
    return meter


def reason_of(meter: NvmlMeter, uuid: str) -> Reason:
    with pytest.raises(SourceError) as caught:
        meter.read(uuid)
    return caught.value.reason


# ------------------------------------------------------------------------------------------------------------- identity


def test_gpus_are_listed_by_uuid_with_their_properties(driver: FakeNvml) -> None:
    meter = opened()

    gpu = meter.gpus()[0]

    assert (gpu.uuid, gpu.index, gpu.vendor) == (driver.uuid(0), 0, "nvidia")
    assert (gpu.name, gpu.architecture, gpu.driver_version) == ("NVIDIA H100 80GB HBM3", "hopper", "580.95.05")
    assert gpu.pci_bus_id == "00000000:10:00.0"
    assert (gpu.power_scope, gpu.energy_method, gpu.method_note) == (PowerScope.GPU, EnergyMethod.COUNTER, "")
    assert gpu.max_power_watts == 700.0
    assert gpu.power_averaged


def test_a_read_returns_base_units(driver: FakeNvml) -> None:
    driver.utilization(0, 87)
    driver.memory(0, 5 << 30)
    driver.temperature(0, 63)
    driver.limit(0, 450)
    driver.throttle(0, power_cap=12.5, sw=1, hw=2, brake=3)
    meter = opened()

    sample = meter.read(driver.uuid(0))

    assert sample.energy_joules == pytest.approx(1_000_000, abs=100)
    assert sample.power_watts == 100.0
    assert sample.power_limit_watts == 450.0
    assert sample.utilization_ratio == 0.87
    assert (sample.memory_used_bytes, sample.memory_total_bytes) == (5 << 30, 80 << 30)
    assert sample.temperature_celsius == 63
    assert sample.throttle_seconds == (
        ("sw_power_cap", 12.5),
        ("sw_thermal", 1.0),
        ("hw_thermal", 2.0),
        ("hw_power_brake", 3.0),
    )
    assert abs(sample.at_seconds - time.monotonic()) < 5


@pytest.mark.parametrize(("period", "duty"), [(0.05, 0.5), (0.1, 0.25), (0.033, 0.9)], ids=["50 ms", "100 ms", "33 ms"])
def test_energy_between_two_reads_is_the_exact_integral_within_the_refresh(
    driver: FakeNvml, period: float, duty: float
) -> None:
    meter = opened()
    driver.gpu(0).set_square(low=80, high=690, period=period, duty=duty)
    first = meter.read(driver.uuid(0))
    time.sleep(0.3)
    last = meter.read(driver.uuid(0))

    assert first.energy_joules is not None and last.energy_joules is not None
    true = driver.true_joules(0, first.at_seconds, last.at_seconds)
    # Each edge may lie one refresh (20 ms) of full power apart from the truth.
    assert last.energy_joules - first.energy_joules == pytest.approx(true, abs=0.02 * 690 + 1)


# ------------------------------------------------------------------------------------------------- the ladder of methods


def test_without_a_counter_the_one_second_mean_is_used(driver: FakeNvml) -> None:
    driver.no_energy(0)
    meter = opened()

    gpu, sample = meter.gpus()[0], meter.read(driver.uuid(0))

    assert gpu.energy_method is EnergyMethod.AVERAGE_POWER
    assert "no NVML energy counter" in gpu.method_note
    assert (sample.energy_joules, sample.power_watts) == (None, 100.0)
    assert meter.gpus()[1].energy_method is EnergyMethod.COUNTER


def test_without_a_mean_instants_are_integrated_with_a_note(driver: FakeNvml) -> None:
    driver.no_energy(0)
    driver.no_average(0)
    meter = opened()

    gpu = meter.gpus()[0]

    assert gpu.energy_method is EnergyMethod.INSTANT_POWER
    assert gpu.method_note == (
        "no NVML energy counter (before Volta, or a virtual GPU), no mean power: instantaneous power is integrated"
    )
    assert meter.read(driver.uuid(0)).power_watts == 100.0


def test_samples_between_two_reads_become_their_mean(stand_in: Any) -> None:
    """One read a second of a load with a period of one second would always hit the same phase."""
    with stand_in(start_seconds=1000.0) as driver:
        driver.no_energy(0)
        driver.no_average(0)
        driver.gpu(0).set_square(low=100, high=500, period=1.0, duty=0.5)
        meter = opened(driver.now)
        assert meter.sampling() == {driver.uuid(0): None}
        first = meter.read(driver.uuid(0))
        for _ in range(9):
            driver.advance(0.1)
            meter.sample(driver.uuid(0))
        driver.advance(0.1)
        second = meter.read(driver.uuid(0))
        driver.advance(300.0)
        late = meter.read(driver.uuid(0))

    assert (first.power_watts, first.power_mean_seconds) == (500.0, 0.0)
    assert second.power_watts == pytest.approx(
        300.0, abs=21.0
    )  # by the trapezoid, each edge within a tenth of a second
    assert second.power_mean_seconds == pytest.approx(1.0)
    assert (late.power_watts, late.power_mean_seconds) == (500.0, 0.0), "nothing is known of the time between"


def test_only_gpus_without_a_counter_are_sampled_instants_more_often_than_means(driver: FakeNvml) -> None:
    meter = opened()
    assert meter.sampling() == {}
    meter.close()
    driver.no_energy(0)
    meter = opened()
    assert meter.sampling() == {driver.uuid(0): 1.0}
    assert [meter.read(driver.uuid(i)).power_mean_seconds for i in (0, 1)] == [1.0, 1.0]
    meter.close()
    driver.no_average(0)
    meter = opened()
    assert meter.sampling() == {driver.uuid(0): None}
    driver.lose(0)
    meter.sample(driver.uuid(0))
    assert reason_of(meter, driver.uuid(0)) is Reason.LOST
    assert meter.sampling() == {}, "a lost one is left alone"
    meter.close()

    assert meter.sampling() == {}


def test_samples_that_a_slow_driver_has_no_time_for_are_not_taken(stand_in: Any) -> None:
    """They would be too far from the next read to be joined to it, and delay it."""
    with stand_in(start_seconds=1000.0) as driver:
        driver.no_energy(0)
        now, slow = [1000.0], [0.0]

        def clock() -> float:
            now[0] += slow[0]  # by each call of the clock: before and after those of the driver
            return now[0]

        meter = opened(clock)
        meter.read(driver.uuid(0))
        assert meter.sampling() != {}
        slow[0] = SAMPLES_SECONDS
        meter.read(driver.uuid(0))
        assert meter.sampling() == {}


@pytest.mark.parametrize(
    ("architecture", "pci_device_id", "method"),
    [
        (7, 0x20B010DE, EnergyMethod.INSTANT_POWER),
        (7, 0x220410DE, EnergyMethod.AVERAGE_POWER),
        (6, 0x1EB810DE, EnergyMethod.INSTANT_POWER),
    ],
    ids=["GA100", "GA102", "Turing"],
)
def test_the_power_call_is_a_mean_or_an_instant_by_architecture(
    driver: FakeNvml, architecture: int, pci_device_id: int, method: EnergyMethod
) -> None:
    """An old driver has no field values: nvmlDeviceGetPowerUsage is a mean from Ampere on, except on GA100."""
    driver.gpu(0).set(architecture=architecture, pci_device_id=pci_device_id)
    driver.gpu(0).flag("no_fields")
    driver.no_energy(0)
    meter = opened()

    assert meter.gpus()[0].energy_method is method
    assert meter.gpus()[0].power_averaged is (method is EnergyMethod.AVERAGE_POWER)
    assert meter.read(driver.uuid(0)).power_watts == 100.0


def test_a_driver_without_field_values_is_read_call_by_call(driver: FakeNvml) -> None:
    driver.gpu(0).flag("no_fields")
    meter = opened()

    sample = meter.read(driver.uuid(0))

    assert meter.gpus()[0].energy_method is EnergyMethod.COUNTER
    assert sample.energy_joules == pytest.approx(1_000_000, abs=100)
    assert sample.power_watts == 100.0
    assert sample.throttle_seconds is None


def test_a_gpu_without_power_has_a_note_and_its_other_values(driver: FakeNvml) -> None:
    for flag in ("no_energy", "no_average", "no_instant", "no_usage"):
        driver.gpu(0).flag(flag)
    meter = opened()

    gpu, sample = meter.gpus()[0], meter.read(driver.uuid(0))

    assert gpu.energy_method is EnergyMethod.NONE
    assert gpu.method_note.endswith("and no power reading either")
    assert (sample.energy_joules, sample.power_watts) == (None, None)
    assert sample.temperature_celsius == 40


def test_the_next_discovery_finds_a_counter_that_the_probe_missed(driver: FakeNvml, clock: Any) -> None:
    driver.no_energy(0)
    meter = opened(clock)
    driver.no_energy(0, on=False)
    clock.advance(61)

    meter.sweep()

    assert meter.gpus()[0].energy_method is EnergyMethod.COUNTER
    assert meter.read(driver.uuid(0)).energy_joules is not None


# --------------------------------------------------------------------------------------------------------- power scopes


def test_a_superchip_that_offers_only_the_module_is_labelled_so(driver: FakeNvml) -> None:
    driver.module_scope(0, 1.5, gpu_scope=False)
    meter = opened()

    gpu = meter.gpus()[0]

    assert (gpu.power_scope, gpu.max_power_watts) == (PowerScope.MODULE, 1000.0)
    assert meter.read(driver.uuid(0)).power_watts == 150.0


def test_a_module_without_a_limit_has_no_upper_bound_of_power(driver: FakeNvml) -> None:
    """A module of 1000 W around a GPU of 700 W would be implausible all day."""
    driver.gpu(0).set(module_limit_mw=0)
    driver.module_scope(0, 1.5, gpu_scope=False)

    assert opened().gpus()[0].max_power_watts is None


@pytest.mark.parametrize("counts_module", [True, False])
def test_the_scope_of_a_superchips_counter_is_found_by_comparison(
    driver: FakeNvml, clock: Any, counts_module: bool
) -> None:
    """The meter's clock runs a thousand times faster than that of the GPU, so its watts are a thousand times more."""
    driver.module_scope(0, 2.0)
    if not counts_module:
        driver.gpu(0).flag("frozen")
    meter = opened(clock)
    device = meter._devices[driver.uuid(0)]
    assert meter.gpus()[0].power_scope is PowerScope.MODULE, "assumed until the comparison ends"

    joules = 1000.0
    for _ in range(70):
        driver.gpu(0).set(frozen_mj=int(joules * 1000))
        driver.gpu(0).flag("frozen")
        meter.read(driver.uuid(0))
        clock.advance(1.0)
        joules += 200.0 if counts_module else 100.0

    gpu = meter.gpus()[0]
    assert gpu.power_scope is (PowerScope.MODULE if counts_module else PowerScope.GPU)
    assert gpu.max_power_watts == (1000.0 if counts_module else 700.0)
    assert meter.read(driver.uuid(0)).power_watts == (200.0 if counts_module else 100.0)
    assert device.scope_check is None, "the other power is no longer read"


# ------------------------------------------------------------------------------------------------------ power smoothing


@pytest.mark.parametrize(
    ("architecture", "floor_watts", "shown"),
    [(10, 420, 420.0), (10, None, None), (10, 5000, None), (9, 420, None)],
    ids=["on", "switched off", "above the limit", "not Blackwell"],
)
def test_the_floor_of_power_smoothing_is_read(
    driver: FakeNvml, architecture: int, floor_watts: int | None, shown: float | None
) -> None:
    driver.gpu(0).set(architecture=architecture)
    driver.smoothing(0, floor_watts)
    meter = opened()

    assert meter.read(driver.uuid(0)).power_floor_watts == shown


def test_power_smoothing_is_probed_once(driver: FakeNvml) -> None:
    driver.gpu(0).set(architecture=10)
    meter = opened()
    before = driver.calls()["nvmlDeviceGetFieldValues"]

    assert meter.read(driver.uuid(0)).power_floor_watts is None
    assert driver.calls()["nvmlDeviceGetFieldValues"] == before + 1


# --------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("gpu_is_lost", Reason.LOST),
        ("gpu_not_found", Reason.LOST),
        ("reset_required", Reason.BROKEN),
        ("irq_issue", Reason.BROKEN),
        ("corrupted_inforom", Reason.BROKEN),
        ("unknown", Reason.BROKEN),
        ("no_permission", Reason.PERMISSION),
    ],
)
def test_the_failure_of_one_gpu_does_not_affect_the_others(driver: FakeNvml, error: str, reason: Reason) -> None:
    meter = opened()
    driver.fail(0, error)

    assert reason_of(meter, driver.uuid(0)) is reason
    assert meter.read(driver.uuid(1)).power_watts == 100.0
    assert [gpu.uuid for gpu in meter.gpus()] == [driver.uuid(0), driver.uuid(1)]


def test_a_lost_gpu_is_opened_again_every_few_seconds(driver: FakeNvml, clock: Any) -> None:
    meter = opened(clock)
    driver.lose(0)
    reason_of(meter, driver.uuid(0))
    calls = sum(driver.calls().values())
    for _ in range(4):
        clock.advance(1.0)
        assert reason_of(meter, driver.uuid(0)) is Reason.LOST
    assert sum(driver.calls().values()) == calls, "no call is spent on it in between"

    driver.restore(0)
    clock.advance(1.0)

    assert meter.read(driver.uuid(0)).power_watts == 100.0


def test_a_transient_error_ends_at_the_next_read(driver: FakeNvml) -> None:
    meter = opened()
    driver.unknown(0)
    assert reason_of(meter, driver.uuid(0)) is Reason.BROKEN
    driver.restore(0)

    assert meter.read(driver.uuid(0)).power_watts == 100.0


def test_a_counter_that_is_missing_once_fails_the_read(driver: FakeNvml) -> None:
    meter = opened()
    meter.read(driver.uuid(0))
    driver.flicker(0, 1)

    assert reason_of(meter, driver.uuid(0)) is Reason.BROKEN
    assert meter.read(driver.uuid(0)).energy_joules == pytest.approx(1_000_000, abs=100)
    assert meter.gpus()[0].energy_method is EnergyMethod.COUNTER


def test_power_missing_beside_a_counter_only_affects_the_gauge(driver: FakeNvml) -> None:
    meter = opened()
    driver.gpu(0).flag("no_average")

    sample = meter.read(driver.uuid(0))

    assert sample.power_watts is None
    assert sample.energy_joules is not None


@pytest.mark.parametrize("code", [4, 10, 27, 999])
@pytest.mark.parametrize(
    "call",
    ["nvmlDeviceGetUtilizationRates", "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetEnforcedPowerLimit"],
)
def test_a_failed_gauge_does_not_affect_energy(
    driver: FakeNvml, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    def failing(*arguments: Any) -> Any:
        raise nvml.NVMLError(code)

    meter = opened()
    monkeypatch.setattr(nvml, call, failing)
    if call == "nvmlDeviceGetUtilizationRates":
        late = opened()  # not at the first read either
        assert late.read(driver.uuid(1)).energy_joules is not None
    sample = meter.read(driver.uuid(0))

    assert sample.energy_joules is not None
    assert None in (sample.utilization_ratio, sample.memory_used_bytes, sample.power_limit_watts)


def test_a_gauge_that_reports_a_lost_gpu_fails_the_read(driver: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*arguments: Any) -> Any:
        raise nvml.NVMLError(15)

    meter = opened()
    monkeypatch.setattr(nvml, "nvmlDeviceGetUtilizationRates", lost)
    with pytest.raises(SourceError) as caught:
        meter.read(driver.uuid(0))

    assert caught.value.reason is Reason.LOST


def test_power_replaces_a_counter_that_is_missing_for_half_a_minute(driver: FakeNvml, clock: Any) -> None:
    meter = NvmlMeter(clock)
    meter.open()
    driver.no_energy(0)
    uuid = driver.uuid(0)
    for _ in range(30):
        with pytest.raises(SourceError) as caught:
            meter.read(uuid)
        assert caught.value.reason is Reason.BROKEN
        clock.advance(1.0)
    sample = meter.read(uuid)

    assert (sample.energy_joules, sample.power_watts) == (None, 100.0)
    assert meter.gpus()[0].energy_method is EnergyMethod.AVERAGE_POWER
    meter.close()


def test_a_gpu_is_probed_again_after_a_driver_reload(driver: FakeNvml) -> None:
    meter = opened()
    driver.unload_driver()
    with pytest.raises(MeterLost):
        meter.read(driver.uuid(0))
    meter.close()
    driver.load_driver()
    driver.no_energy(0)
    meter.open()

    assert [gpu.energy_method for gpu in meter.gpus()] == [EnergyMethod.AVERAGE_POWER, EnergyMethod.COUNTER]


def test_an_invalid_handle_is_replaced(driver: FakeNvml, clock: Any) -> None:
    """INVALID_ARGUMENT of a GPU that was read before: it was removed and inserted again."""
    meter = opened(clock)
    uuid = driver.uuid(0)
    driver.fail(0, 2)
    with pytest.raises(SourceError):
        meter.read(uuid)
    driver.restore(0)
    before = driver.calls().get("nvmlDeviceGetHandleByUUID", 0)
    clock.advance(5.1)

    assert meter.read(uuid).energy_joules is not None
    assert driver.calls().get("nvmlDeviceGetHandleByUUID", 0) == before + 1


@pytest.mark.parametrize("interrupted", ["gap", "reset"])
def test_the_scope_of_a_counter_needs_one_unbroken_minute(interrupted: str) -> None:
    """Its rise over a gap belongs to power that was not seen, and what it shows after a reset to none."""
    check = ScopeCheck()
    at, joules = 0.0, 1e6
    for _ in range(50):
        at, joules = at + 1.0, joules + 300.0
        assert check.add(at, joules, 480.0, 300.0) is None
    if interrupted == "gap":
        at, joules = at + 3600.0, joules + 3600 * 480.0
    else:
        joules = 0.0
    found = []
    for _ in range(61):
        at, joules = at + 1.0, joules + 300.0
        found.append(check.add(at, joules, 480.0, 300.0))

    assert found == [None] * 60 + [PowerScope.GPU]


@pytest.mark.parametrize("no_energy", [True, False])
def test_zero_watts_are_passed_on_to_the_ledger(driver: FakeNvml, no_energy: bool) -> None:
    driver.no_energy(0, on=no_energy)
    meter = opened()
    driver.zero_watts(0)

    assert meter.read(driver.uuid(0)).power_watts == 0.0


def test_zero_watts_at_the_probe_mean_that_there_is_no_sensor(driver: FakeNvml) -> None:
    driver.no_energy(0)
    driver.zero_watts(0)
    meter = opened()

    assert meter.gpus()[0].energy_method is EnergyMethod.NONE


def test_utilization_is_unknown_in_mig_mode_but_energy_is_read(driver: FakeNvml) -> None:
    driver.mig(0, [[100], [200]])
    meter = opened()

    sample = meter.read(driver.uuid(0))

    assert sample.utilization_ratio is None
    assert sample.energy_joules is not None


# ---------------------------------------------------------------------------------------------------------- the library


def test_a_driver_that_is_reloaded_is_a_lost_meter_and_opens_again(driver: FakeNvml) -> None:
    meter = opened()
    driver.unload_driver()
    with pytest.raises(MeterLost) as caught:
        meter.read(driver.uuid(0))
    assert (caught.value.reason, caught.value.fatal) == (Reason.ABSENT, False)
    meter.close()
    with pytest.raises(MeterLost, match="driver not loaded"):
        meter.open()

    driver.load_driver()
    meter.open()

    assert meter.read(driver.uuid(0)).energy_joules == pytest.approx(0, abs=100)
    assert len(meter.gpus()) == 2


@pytest.mark.parametrize("error", ["lib_rm_version_mismatch", "library_not_found"])
def test_replaced_driver_files_are_fatal_after_a_good_start_only(driver: FakeNvml, error: str) -> None:
    meter = NvmlMeter()
    driver.init_error(error)
    with pytest.raises(MeterLost) as first:
        meter.open()
    driver.init_error(0)
    meter.open()
    meter.close()
    driver.init_error(error)
    with pytest.raises(MeterLost) as second:
        meter.open()

    assert (first.value.fatal, second.value.fatal) == (False, True)


def test_a_container_that_lost_its_devices_is_fatal_after_some_tries(driver: FakeNvml) -> None:
    meter = opened()
    driver.unknown(0)
    driver.unknown(1)
    for _ in range(29):
        for gpu in meter.gpus():
            reason_of(meter, gpu.uuid)
        meter.sweep()
    with pytest.raises(MeterLost):
        meter.sweep()
    meter.close()
    driver.init_error("unknown")
    fatal = []
    for _ in range(5):
        with pytest.raises(MeterLost) as caught:
            meter.open()
        fatal.append(caught.value.fatal)

    assert fatal == [False, False, False, False, True]


@pytest.mark.parametrize("was_good", [True, False])
def test_gpus_that_stay_unknown_though_the_library_initialises_end_the_process_only_after_a_good_start(
    driver: FakeNvml, clock: Any, was_good: bool
) -> None:
    meter = opened(clock)
    if was_good:
        meter.read(driver.uuid(0))
    driver.unknown(0)
    driver.unknown(1)
    fatal = []

    def read_often() -> None:
        for _ in range(31):
            for gpu in meter.gpus():
                reason_of(meter, gpu.uuid)
            clock.advance(1.0)
            meter.sweep()

    for _ in range(4):
        with pytest.raises(MeterLost) as caught:
            read_often()
        fatal.append(caught.value.fatal)
        meter.close()
        meter.open()
    assert fatal == [False, False, was_good, was_good]

    driver.restore(0)
    clock.advance(61.0)
    meter.sweep()
    meter.read(driver.uuid(0))
    assert meter._unknown_rounds == 0


def test_a_gpu_with_denied_access_is_left_out_with_a_note(driver: FakeNvml) -> None:
    driver.gpu(0).flag("no_access")
    meter = opened()

    assert [gpu.uuid for gpu in meter.gpus()] == [driver.uuid(1)]
    assert meter.notes == ("GPU 0 of 2 cannot be used: no permission (4)",)


def test_denied_access_to_all_gpus_has_the_reason_permission(driver: FakeNvml) -> None:
    driver.gpu(0).flag("no_access")
    driver.gpu(1).flag("no_access")

    with pytest.raises(SourceError) as caught:
        NvmlMeter().open()

    assert caught.value.reason is Reason.PERMISSION


# ------------------------------------------------------------------------------------------------------------ discovery


def test_new_and_renumbered_gpus_are_found_within_a_minute(driver: FakeNvml, clock: Any) -> None:
    meter = opened(clock)
    driver.reorder([2, 1, 0])
    meter.sweep()
    assert len(meter.gpus()) == 2, "not before its time"
    clock.advance(61)

    meter.sweep()

    assert [(gpu.index, gpu.uuid) for gpu in meter.gpus()] == [
        (0, driver.uuid(2)),
        (1, driver.uuid(1)),
        (2, driver.uuid(0)),
    ]
    assert meter.read(driver.uuid(2)).power_watts == 100.0


def test_a_removed_gpu_stays_listed_as_lost(driver: FakeNvml, clock: Any) -> None:
    meter = opened(clock)
    driver.count = 1
    clock.advance(61)
    meter.sweep()

    assert reason_of(meter, driver.uuid(1)) is Reason.LOST
    assert [gpu.uuid for gpu in meter.gpus()] == [driver.uuid(0), driver.uuid(1)]
    assert meter.read(driver.uuid(0)).power_watts == 100.0


def test_a_gpu_missing_after_a_driver_reload_stays_listed_as_lost(driver: FakeNvml) -> None:
    meter = opened()
    meter.close()
    driver.count = 1

    meter.open()

    assert len(meter.gpus()) == 2
    assert reason_of(meter, driver.uuid(1)) is Reason.LOST


def test_a_gpu_that_is_broken_at_the_start_does_not_affect_the_others(driver: FakeNvml, clock: Any) -> None:
    driver.gpu(0).set(flicker=10_000)  # no energy or power value at first
    meter = opened(clock)
    assert meter.gpus()[0].energy_method is EnergyMethod.NONE
    driver.restore(0)
    clock.advance(61)

    meter.sweep()

    assert [gpu.energy_method for gpu in meter.gpus()] == [EnergyMethod.COUNTER, EnergyMethod.COUNTER]


def test_discovery_waits_while_a_call_hangs(driver: FakeNvml, clock: Any) -> None:
    """Opening the handle of a hung GPU would hang the read of all others."""
    meter = opened(clock)
    driver.hang(0)
    thread = threading.Thread(target=lambda: meter.read(driver.uuid(0)))
    thread.start()
    while not meter._devices[driver.uuid(0)].reading:
        time.sleep(0.001)
    clock.advance(61)

    meter.sweep()
    others = meter.read(driver.uuid(1)).power_watts
    meter.close()
    still_initialised = meter._inits
    driver.unhang(0)
    thread.join(5)
    meter.close()

    assert (others, still_initialised, meter._inits) == (100.0, 1, 0)


# -------------------------------------------------------------------------------------------------------------- holders


def test_sharing_lists_the_processes_on_the_gpu(driver: FakeNvml) -> None:
    driver.processes(0, [4711, 4712])
    meter = opened()

    assert meter.sharing(driver.uuid(0)).pids == {4711, 4712}
    assert meter.sharing(driver.uuid(1)).pids == frozenset()


def test_processes_of_a_partitioned_gpu_are_those_of_its_instances(driver: FakeNvml) -> None:
    driver.mig(0, [[100], [200, 201]])
    meter = opened()

    assert meter.sharing(driver.uuid(0)).pids == {100, 200, 201}


def test_sharing_notices_a_new_partition_at_once(driver: FakeNvml) -> None:
    meter = opened()
    driver.mig(0, [[100]])

    assert meter.sharing(driver.uuid(0)).pids == {100}


def test_t27_a_partitioned_gpu_names_its_instances_within_a_minute(driver: FakeNvml, clock: Any) -> None:
    driver.mig(0, [[], []])
    meter = opened(clock)
    assert [len(gpu.mig_uuids) for gpu in meter.gpus()[:2]] == [2, 0]
    assert all(uuid.startswith("MIG-") for uuid in meter.gpus()[0].mig_uuids)

    driver.mig(0, [[]])
    clock.advance(61)
    meter.sweep()
    assert len(meter.gpus()[0].mig_uuids) == 1


def test_processes_are_unknown_where_the_driver_has_no_list(driver: FakeNvml) -> None:
    driver.gpu(0).flag("no_processes")
    meter = opened()

    assert meter.sharing(driver.uuid(0)).pids is None


# ----------------------------------------------------------------------------------------------------------------- cost


def test_slow_values_are_read_at_every_fifth_read(driver: FakeNvml) -> None:
    meter = opened()
    celsius = []
    for number in range(1, 12):
        driver.temperature(0, number)
        celsius.append(meter.read(driver.uuid(0)).temperature_celsius)

    assert celsius == [1, 1, 1, 1, 1, 6, 6, 6, 6, 6, 11]


def test_eight_gpus_need_fewer_than_forty_driver_calls_per_read(driver: FakeNvml) -> None:
    meter = opened()
    before = sum(driver.calls().values())
    reads = 50
    for _ in range(reads):
        meter.sweep()
        for gpu in meter.gpus():
            meter.read(gpu.uuid)

    calls_per_gpu = (sum(driver.calls().values()) - before) / reads / len(meter.gpus())

    assert calls_per_gpu <= 3.0
    assert calls_per_gpu * 8 <= 40


def test_a_read_of_a_slow_driver_makes_one_call_beside_the_first(driver: FakeNvml) -> None:
    seconds = itertools.count(100.0, 0.1)
    meter = opened(lambda: next(seconds))
    uuid = driver.uuid(0)
    meter.read(uuid)
    made = []
    for _ in range(16):
        before = sum(driver.calls().values())
        meter.read(uuid)
        made.append(sum(driver.calls().values()) - before)

    assert set(made) == {2}


# -------------------------------------------------------------------------------------------------------------- sharing


def use_of(meter: NvmlMeter, uuid: str) -> Mapping[int, float] | None:
    return meter.read(uuid).process_use


def test_use_by_process_covers_the_time_since_the_last_read(driver: FakeNvml) -> None:
    now = [100.0]
    meter = opened(lambda: now[0])
    driver.processes(0, [10, 11])
    meter.sharing(driver.uuid(0))
    driver.usage(0, {10: 60, 11: 20, 0: 5, 12: 4_000_000_000})

    assert use_of(meter, driver.uuid(0)) == {10: 0.6, 11: 0.2}
    # Read again before the driver has sampled again: the last use stands.
    now[0] += 1.0
    assert use_of(meter, driver.uuid(0)) == {10: 0.6, 11: 0.2}
    # No row is newer for longer than the driver's interval: no process used the GPU.
    now[0] += 1.0
    assert use_of(meter, driver.uuid(0)) == {}
    driver.usage(0, {11: 30})
    now[0] += 1.0
    assert use_of(meter, driver.uuid(0)) == {11: 0.3}


def test_use_by_process_is_read_at_every_read_of_a_shared_gpu_only(driver: FakeNvml) -> None:
    meter = opened()
    driver.processes(0, [10])
    for expected in (2, 10):
        meter.sharing(driver.uuid(0))
        before = driver.calls().get("nvmlDeviceGetProcessUtilization", 0)
        for _ in range(10):
            meter.read(driver.uuid(0))
        assert driver.calls().get("nvmlDeviceGetProcessUtilization", 0) - before == expected
        driver.processes(0, [10, 11])


def test_a_process_that_the_last_list_lacks_makes_a_gpu_shared(driver: FakeNvml) -> None:
    meter = opened()
    driver.processes(0, [10])
    meter.sharing(driver.uuid(0))
    for _ in range(10):
        driver.usage(0, {10: 40, 11: 50})
        last = use_of(meter, driver.uuid(0))
    assert last == {10: 0.4, 11: 0.5}


def test_an_old_row_of_use_is_not_counted_again(driver: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver may replay its buffer; of a process that is listed several times the highest counts."""
    now = [100.0]
    meter = opened(lambda: now[0])
    driver.processes(0, [10, 11])
    meter.sharing(driver.uuid(0))
    rows = [(10, 1000, 30), (10, 1001, 50), (10, 1002, 40)]
    monkeypatch.setattr(
        nvml,
        "nvmlDeviceGetProcessUtilization",
        lambda handle, since: [SimpleNamespace(pid=pid, timeStamp=at, smUtil=percent) for pid, at, percent in rows],
    )

    assert use_of(meter, driver.uuid(0)) == {10: 0.5}
    rows.append((11, 1003, 5))
    now[0] += 5.0
    assert use_of(meter, driver.uuid(0)) == {11: 0.05}


def test_use_by_process_is_read_by_the_call_of_newer_drivers(driver: FakeNvml) -> None:
    meter = opened()
    driver.gpu(0).flag("old_usage_by_process")
    driver.processes(0, [10, 11])
    meter.sharing(driver.uuid(0))
    driver.usage(0, {10: 60})

    assert use_of(meter, driver.uuid(0)) == {10: 0.6}


def test_use_by_process_is_unknown_where_unsupported(driver: FakeNvml) -> None:
    meter = opened()
    driver.gpu(0).flag("no_usage_by_process")
    driver.gpu(0).flag("no_processes")

    assert meter.sharing(driver.uuid(0)) == Sharing()


def test_sharing_of_a_partitioned_gpu_lists_instances_and_their_processes(driver: FakeNvml) -> None:
    meter = opened()
    driver.gpu(0).flag("no_gpm")
    driver.mig(0, [[100], [200, 201], [], [300]], ["1g.10gb", "3g.40gb", "1c.2g.20gb", "1c.2g.20gb"])

    sharing = meter.sharing(driver.uuid(0))

    assert sharing.pids == {100, 200, 201, 300}
    assert sharing.slices == 7
    assert sharing.instances == (
        Instance(driver.instance_uuid(0, 0), "1g.10gb", 1, frozenset({100})),
        Instance(driver.instance_uuid(0, 1), "3g.40gb", 3, frozenset({200, 201})),
        Instance(driver.instance_uuid(0, 2), "1c.2g.20gb", 1, frozenset()),
        Instance(driver.instance_uuid(0, 3), "1c.2g.20gb", 1, frozenset({300})),
    )


def test_the_busy_ratio_of_an_instance_needs_two_samples_and_frees_them(driver: FakeNvml) -> None:
    meter = opened()
    driver.mig(0, [[100], [200]], ["1g.10gb", "3g.40gb"])
    driver.busy(0, [90.0, 12.5])
    ratios = []
    for _ in range(2):
        ratios.append([instance.busy_ratio for instance in meter.sharing(driver.uuid(0)).instances])
        time.sleep(0.12)  # the library itself measures how far two samples are apart

    assert ratios == [[None, None], [0.9, 0.125]]
    assert driver.samples() == 2

    driver.mig(0, [[100]], ["7g.80gb"])  # another partition: its numbers are used again, its samples are not
    assert [instance.busy_ratio for instance in meter.sharing(driver.uuid(0)).instances] == [None]
    assert driver.samples() == 1
    meter.close()
    assert driver.samples() == 0


@pytest.mark.parametrize(
    ("profiles", "percents", "comparable"),
    [
        # Below their parts of the GPU (1/7 and 3/7): a share of the whole GPU could be that.
        (["1g.10gb", "3g.40gb"], [12.0, 45.0], False),
        # Of one size both readings come to the same.
        (["2g.20gb", "2g.20gb"], [12.0, 20.0], True),
        # 20 % is more than an instance with a seventh of the GPU can use of the whole.
        (["1g.10gb", "3g.40gb"], [20.0, 5.0], True),
        (["1g.10gb", "3g.40gb"], [5.0, 60.0], True),
        # Two compute instances of one GPU instance.
        (["1c.2g.20gb", "1c.2g.20gb"], [3.0, 3.0], True),
    ],
)
def test_busy_ratios_of_unequal_instances_are_comparable_once_their_base_is_known(
    driver: FakeNvml, profiles: list[str], percents: list[float], comparable: bool
) -> None:
    meter = opened()
    driver.mig(0, [[100], [200]], profiles)
    driver.busy(0, percents)
    meter.sharing(driver.uuid(0))
    time.sleep(0.12)
    seen = meter.sharing(driver.uuid(0)).busy_comparable
    driver.busy(0, [0.0, 0.0])
    time.sleep(0.12)

    assert (seen, meter.sharing(driver.uuid(0)).busy_comparable) == (comparable, comparable)
    meter.close()


def test_baseline_power_is_the_minimum_over_the_recent_mean(driver: FakeNvml) -> None:
    driver.no_average(0)
    driver.mig(0, [[100]], ["1g.10gb"])
    meter = opened()
    uuid = driver.uuid(0)
    meter.read(uuid)
    assert meter.sharing(uuid).baseline_power_ratio == 1.0
    assert meter.sharing(uuid).baseline_power_ratio is None

    for watts in (400.0, 600.0):
        begun = driver.gpu(0).set_constant(watts)
        while time.monotonic() < begun:
            pass
        meter.read(uuid)
    assert meter.sharing(uuid).baseline_power_ratio == 0.2


def test_a_gpu_before_hopper_measures_no_activity(driver: FakeNvml) -> None:
    driver.gpu(0).set(architecture=7, total_slices=4)
    driver.mig(0, [[100]], ["2g.12gb"])
    meter = opened()

    sharing = meter.sharing(driver.uuid(0))

    assert (sharing.slices, [i.busy_ratio for i in sharing.instances]) == (4, [None])
    assert driver.samples() == 0


def test_sharing_of_a_lost_gpu_fails_and_the_others_stay(driver: FakeNvml) -> None:
    meter = opened()
    driver.processes(1, [7])
    driver.lose(0)

    with pytest.raises(SourceError) as caught:
        meter.sharing(driver.uuid(0))
    assert caught.value.reason is Reason.LOST
    assert meter.sharing(driver.uuid(1)).pids == {7}


# ------------------------------------------------------------------------------------------------ fields by driver version


def throttled(driver: FakeNvml) -> dict[str, float]:
    driver.throttle(0, power_cap=1.0, sw=2.0, hw=3.0, brake=4.0)
    meter = opened()
    found = dict(meter.read(driver.uuid(0)).throttle_seconds or ())
    meter.close()
    return found


@pytest.mark.parametrize("version", ["575.51.03", "580.65.06", "580.82.07", "580.95.05", "590.44", "unknown"])
def test_throttle_fields_are_those_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setenv("FAKENVML_CONTROL", "")
    with FakeNvml(tmp_path, count=1, driver_version="590.1" if version == "unknown" else version) as driver:
        driver.preload()

        assert throttled(driver) == {"sw_power_cap": 1.0, "sw_thermal": 2.0, "hw_thermal": 3.0, "hw_power_brake": 4.0}


def test_a_driver_without_throttle_events_shows_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """570 numbers settings of power smoothing where later drivers have the events: they read 0."""
    monkeypatch.setenv("FAKENVML_CONTROL", "")
    with FakeNvml(tmp_path, count=1, driver_version="570.86.10") as driver:
        driver.preload()
        driver.gpu(0).set(smoothing=2)

        assert throttled(driver) == {"sw_power_cap": 1.0}


@pytest.mark.parametrize("version", ["570.86.10", "575.51.03", "580.65.06", "580.82.07"])
def test_the_floor_of_power_smoothing_is_that_of_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setenv("FAKENVML_CONTROL", "")
    with FakeNvml(tmp_path, count=1, architecture=10, driver_version=version) as driver:
        driver.preload()
        driver.smoothing(0, 320)
        meter = opened()
        floor = meter.read(driver.uuid(0)).power_floor_watts
        meter.close()

        assert floor == 320.0


@pytest.mark.parametrize(("assumed", "version"), [("580.95.05", "575.51.03"), ("575.51.03", "580.95.05")])
def test_a_field_with_another_meaning_is_absent_and_not_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assumed: str, version: str
) -> None:
    """A driver that numbers its fields otherwise than its version lets expect."""
    monkeypatch.setenv("FAKENVML_CONTROL", "")
    monkeypatch.setattr("tpw.power.nvml.field_ids", lambda _: field_ids(assumed))
    with FakeNvml(tmp_path, count=1, architecture=10, driver_version=version) as driver:
        driver.preload()
        driver.smoothing(0, 320)
        driver.gpu(0).set(preset=2)

        assert throttled(driver) == {"sw_power_cap": 1.0}


def test_a_raised_power_limit_raises_the_bound(driver: FakeNvml) -> None:
    meter = opened()
    before = meter.gpus()[0].max_power_watts
    driver.gpu(0).set(limit_mw=1_200_000, max_limit_mw=1_200_000)
    for _ in range(6):
        meter.read(driver.uuid(0))

    assert (before, meter.gpus()[0].max_power_watts) == (700.0, 1200.0)
    meter.close()


def test_the_bound_is_asked_for_again_after_ten_readings_above_it(driver: FakeNvml) -> None:
    """The driver shows no change of the limit, only the highest one that can be set."""
    driver.gpu(0).set(limit_mw=400_000)
    meter = opened()
    driver.gpu(0).set(max_limit_mw=1_200_000)
    driver.gpu(0).set_constant(1100.0)
    time.sleep(1.1)
    bounds = []
    for _ in range(11):
        meter.read(driver.uuid(0))
        bounds.append(meter.gpus()[0].max_power_watts)

    assert bounds == [700.0] * 9 + [1200.0] * 2
    meter.close()


def test_persistence_mode_and_laptops_are_remarked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKENVML_CONTROL", "")
    with FakeNvml(tmp_path, count=1, name="NVIDIA GeForce RTX 4090 Laptop GPU") as driver:
        driver.preload()
        driver.gpu(0).set(persistence=0)
        meter = opened()
        remarks = meter.gpus()[0].remarks
        meter.close()

    assert [remark.split(":")[0] for remark in remarks] == ["Persistence mode is off", "A laptop GPU"]
