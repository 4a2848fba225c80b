"""Accelerators of sysfs, on trees in the form the kernel's documentation describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tpw.model import Die, EnergyMethod, PowerScope, Reason, SourceError
from tpw.power.grace import GraceMeter
from tpw.power.hwmon import DRIVERS, HwmonMeter


class Tree:
    def __init__(self, sysfs: Path) -> None:
        self.sysfs = sysfs
        self.hwmon = sysfs / "class" / "hwmon"
        self.hwmon.mkdir(parents=True)
        self.count = 0

    def chip(self, name: str, bdf: str = "", device: dict[str, str] | None = None, **files: object) -> Path:
        chip = self.hwmon / f"hwmon{self.count}"
        self.count += 1
        chip.mkdir()
        (chip / "name").write_text(f"{name}\n")
        for file, value in files.items():
            (chip / file).write_text(f"{value}\n")
        target = self.sysfs / "devices" / (bdf or f"platform-{self.count}")
        target.mkdir(parents=True, exist_ok=True)
        for file, text in (device or {}).items():
            (target / file).write_text(f"{text}\n")
        (chip / "device").symlink_to(target)
        return chip


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def opened(tree: Tree, clock: Any, *drivers: str) -> HwmonMeter:
    meter = HwmonMeter(clock, sysfs_root=tree.sysfs, drivers=drivers or DRIVERS)
    meter.open()
    return meter


def test_an_intel_gpu_of_xe_is_read_by_energy1_input(tree: Tree, clock: Any) -> None:
    tree.chip("coretemp", temp1_input=40000)
    chip = tree.chip(
        "xe",
        "0000:03:00.0",
        {"vendor": "0x8086", "device": "0xe20b"},
        energy1_input=5_000_000,
        energy2_input=4_000_000,
        power1_max=190_000_000,
        power1_cap=250_000_000,
        temp2_input=55000,
    )
    meter = opened(tree, clock)

    (gpu,) = meter.gpus()
    first = meter.read(gpu.uuid)
    (chip / "energy1_input").write_text("5190000\n")
    second = meter.read(gpu.uuid)

    assert (gpu.uuid, gpu.vendor, gpu.pci_bus_id) == ("PCI-0000:03:00.0", "intel", "0000:03:00.0")
    assert (gpu.energy_method, gpu.method_note, gpu.max_power_watts) == (EnergyMethod.COUNTER, "", 250.0)
    assert (first.energy_joules, second.energy_joules) == (5.0, 5.19)
    assert (first.power_watts, first.power_limit_watts, first.temperature_celsius) == (None, 190.0, 55.0)


def test_energy2_input_replaces_an_energy1_input_that_stays_zero(tree: Tree, clock: Any) -> None:
    tree.chip("xe", "0000:03:00.0", energy1_input=0, energy2_input=4_000_000)
    meter = opened(tree, clock)

    (gpu,) = meter.gpus()

    assert meter.read(gpu.uuid).energy_joules == 4.0
    assert "package" in gpu.method_note


def test_the_parts_of_an_i915_are_not_counted_beside_it(tree: Tree, clock: Any) -> None:
    tree.chip("i915", "0000:03:00.0", energy1_input=7_000_000)
    tree.chip("i915_gt0", "0000:03:00.0", energy1_input=6_000_000)
    meter = opened(tree, clock)

    assert [meter.read(gpu.uuid).energy_joules for gpu in meter.gpus()] == [7.0]


def test_an_amd_gpu_is_read_only_when_configured(tree: Tree, clock: Any) -> None:
    tree.chip(
        "amdgpu",
        "0000:c1:00.0",
        {
            "vendor": "0x1002",
            "unique_id": "4f1e2d3c",
            "gpu_busy_percent": "73",
            "mem_info_vram_used": "1024",
            "mem_info_vram_total": "4096",
        },
        power1_average=215_000_000,
        power1_cap=300_000_000,
        power1_cap_max=312_000_000,
        temp1_input=47000,
    )
    with pytest.raises(SourceError):
        opened(tree, clock)
    meter = opened(tree, clock, "amdgpu")

    (gpu,) = meter.gpus()
    sample = meter.read(gpu.uuid)

    assert (gpu.uuid, gpu.vendor, gpu.max_power_watts) == ("AMD-4f1e2d3c", "amd", 312.0)
    assert (gpu.energy_method, gpu.power_averaged) == (EnergyMethod.AVERAGE_POWER, True)
    assert (sample.power_watts, sample.power_limit_watts, sample.utilization_ratio) == (215.0, 300.0, 0.73)
    assert (sample.memory_used_bytes, sample.memory_total_bytes) == (1024.0, 4096.0)


def test_an_amd_gpu_with_instants_only_has_a_note(tree: Tree, clock: Any) -> None:
    tree.chip("amdgpu", "0000:c1:00.0", power1_input=120_000_000)
    meter = opened(tree, clock, "amdgpu")

    assert meter.gpus()[0].energy_method is EnergyMethod.INSTANT_POWER
    assert meter.read(meter.gpus()[0].uuid).power_watts == 120.0


def mi250(tree: Tree, number: int, microwatts: int, **device: str) -> Path:
    return tree.chip(
        "amdgpu",
        f"0000:c{number}:00.0",
        {
            "vendor": "0x1002",
            "device": "0x7408",
            "unique_id": f"d1e{number}",
            "gpu_busy_percent": str(10 * number),
            "mem_info_vram_used": "1000",
            "mem_info_vram_total": "4096",
            **device,
        },
        power1_average=microwatts,
        power1_cap=560_000_000,
    )


def test_the_two_dies_of_an_mi250_are_one_gpu_with_the_power_of_both(tree: Tree, clock: Any) -> None:
    for number, microwatts in ((3, 0), (2, 410_000_000), (7, 0), (6, 90_000_000)):
        mi250(tree, number, microwatts)
    meter = opened(tree, clock, "amdgpu")

    def seen() -> list[Any]:
        return [(gpu.uuid, gpu.energy_method, gpu.dies, gpu.power_scope) for gpu in meter.gpus()]

    expected = [
        ("AMD-d1e2", EnergyMethod.AVERAGE_POWER, (Die("AMD-d1e3", 0, "0000:c3:00.0"),), PowerScope.GPU),
        ("AMD-d1e6", EnergyMethod.AVERAGE_POWER, (Die("AMD-d1e7", 2, "0000:c7:00.0"),), PowerScope.GPU),
    ]
    assert seen() == expected
    clock.advance(61)
    meter.sweep()
    assert seen() == expected
    sample = meter.read("AMD-d1e2")
    assert (sample.power_watts, sample.utilization_ratio) == (410.0, pytest.approx(0.25))
    assert (sample.memory_used_bytes, sample.memory_total_bytes) == (2000.0, 8192.0)
    assert meter.gpus()[0].remarks == ("Power is that of both dies of the GPU.",)


def test_a_gpu_has_two_dies_and_no_third(tree: Tree, clock: Any) -> None:
    for number, microwatts in ((2, 410_000_000), (3, 0), (4, 0)):
        mi250(tree, number, microwatts)
    meter = opened(tree, clock, "amdgpu")
    for _ in range(2):
        assert [(gpu.uuid, [die.uuid for die in gpu.dies]) for gpu in meter.gpus()] == [
            ("AMD-d1e2", ["AMD-d1e3"]),
            ("AMD-d1e4", []),
        ]
        clock.advance(61)
        meter.sweep()


def test_a_gpu_that_reports_zero_watts_is_measured_once_it_reports_more(tree: Tree, clock: Any) -> None:
    chip = tree.chip("amdgpu", "0000:c1:00.0", {"device": "0x740f"}, power1_average=0)
    meter = opened(tree, clock, "amdgpu")
    (dead,) = meter.gpus()
    sample = meter.read(dead.uuid)
    (chip / "power1_average").write_text("45000000")
    clock.advance(61)
    meter.sweep()
    (alive,) = meter.gpus()

    assert (dead.energy_method, sample.power_watts, sample.energy_joules) == (EnergyMethod.NONE, None, None)
    assert "are 0 or not readable" in dead.method_note
    assert (alive.energy_method, alive.index) == (EnergyMethod.AVERAGE_POWER, 0)
    assert meter.read(alive.uuid).power_watts == 45.0


def test_a_counter_that_fails_during_discovery_is_not_replaced(tree: Tree, clock: Any) -> None:
    chip = tree.chip("xe", "0000:03:00.0", energy1_input=5_000_000, energy2_input=4_000_000)
    meter = opened(tree, clock)
    (chip / "energy1_input").write_text("")
    clock.advance(61)
    meter.sweep()
    (chip / "energy1_input").write_text("6000000")

    assert meter.read("PCI-0000:03:00.0").energy_joules == 6.0
    assert meter.gpus()[0].method_note == ""


def test_graphics_without_any_power_are_no_accelerators(tree: Tree, clock: Any) -> None:
    tree.chip("i915", "0000:00:02.0", in0_input=700)

    with pytest.raises(SourceError) as caught:
        opened(tree, clock)

    assert caught.value.reason is Reason.ABSENT


def test_a_jetson_is_its_input_rail_which_contains_the_others(tree: Tree, clock: Any) -> None:
    base = tree.sysfs / "firmware" / "devicetree" / "base"
    base.mkdir(parents=True)
    (base / "serial-number").write_bytes(b"1424123456789\0")
    (base / "model").write_bytes(b"NVIDIA Jetson Orin NX\0")
    tree.chip(
        "ina3221",
        in1_label="VDD_IN",
        in1_input=5000,
        curr1_input=3000,
        in2_label="VDD_CPU_GPU_CV",
        in2_input=5000,
        curr2_input=1500,
        in3_label="VDD_SOC",
        in3_input=5000,
        curr3_input=500,
        in4_input=12,
        in7_label="sum of shunt voltages",
        in7_input=99,
    )
    meter = opened(tree, clock)

    (gpu,) = meter.gpus()

    assert (gpu.uuid, gpu.name, gpu.power_scope) == ("JETSON-1424123456789", "NVIDIA Jetson Orin NX", PowerScope.MODULE)
    assert gpu.energy_method is EnergyMethod.INSTANT_POWER
    assert meter.read(gpu.uuid).power_watts == 15.0


def test_a_jetson_without_an_input_rail_is_its_gpu_rail(tree: Tree, clock: Any) -> None:
    tree.chip("ina3221", in1_label="VDD_GPU_SOC", in1_input=12000, curr1_input=1000, in1_enable=1)
    tree.chip("ina3221", in1_label="VDDQ_VDD2_1V8AO", in1_input=5000, curr1_input=400)
    meter = opened(tree, clock)

    (gpu,) = meter.gpus()

    assert (gpu.power_scope, meter.read(gpu.uuid).power_watts) == (PowerScope.GPU, 12.0)


def test_a_rail_that_is_switched_off_is_not_read(tree: Tree, clock: Any) -> None:
    tree.chip(
        "ina3221", in1_label="VDD_IN", in1_enable=0, in1_input=1, curr1_input=1,
        in2_label="VDD_GPU", in2_enable=1, in2_input=5000, curr2_input=2000,
    )  # fmt: skip
    meter = opened(tree, clock)

    assert meter.read(meter.gpus()[0].uuid).power_watts == 10.0


def test_an_unreadable_file_has_the_reason_permission(tree: Tree, clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = tree.chip("xe", "0000:03:00.0", energy1_input=5_000_000) / "energy1_input"
    tree.chip("xe", "0000:04:00.0", energy1_input=6_000_000)
    meter = opened(tree, clock)
    read_text = Path.read_text

    def refuse(path: Path, *arguments: Any, **options: Any) -> str:
        if path == refused:
            raise PermissionError(13, "Permission denied", str(path))
        return read_text(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(SourceError) as caught:
        meter.read("PCI-0000:03:00.0")

    assert (caught.value.reason, caught.value.hint) == (Reason.PERMISSION, "Give the exporter's user read permission.")
    assert meter.read("PCI-0000:04:00.0").energy_joules == 6.0


@pytest.mark.parametrize("content", ["", "no number", "nan", "inf", "1e3"])
def test_a_file_without_a_number_fails_the_read(tree: Tree, clock: Any, content: str) -> None:
    chip = tree.chip("xe", "0000:03:00.0", energy1_input=5_000_000)
    meter = opened(tree, clock)
    (chip / "energy1_input").write_text(content)
    with pytest.raises(SourceError) as caught:
        meter.read("PCI-0000:03:00.0")

    assert caught.value.reason is Reason.BROKEN


def test_a_gpu_that_is_unplugged_is_lost_and_one_that_is_plugged_in_is_found(tree: Tree, clock: Any) -> None:
    chip = tree.chip("xe", "0000:03:00.0", energy1_input=5_000_000)
    meter = opened(tree, clock)
    (chip / "energy1_input").unlink()
    tree.chip("xe", "0000:04:00.0", energy1_input=6_000_000)
    with pytest.raises(SourceError) as caught:
        meter.read("PCI-0000:03:00.0")
    clock.advance(61)
    meter.sweep()

    assert caught.value.reason is Reason.LOST
    assert [(gpu.index, gpu.uuid) for gpu in meter.gpus()] == [(0, "PCI-0000:03:00.0"), (1, "PCI-0000:04:00.0")]
    assert meter.read("PCI-0000:04:00.0").energy_joules == 6.0


def test_unknown_drivers_are_rejected(tree: Tree) -> None:
    with pytest.raises(ValueError, match="nouveau"):
        HwmonMeter(sysfs_root=tree.sysfs, drivers=["nouveau"])


# ---------------------------------------------------------------------------------------------------------------- Grace


def rail(tree: Tree, name: str, microwatts: int) -> Path:
    return tree.chip("power_meter", "", {"power1_oem_info": name, "power1_average": str(microwatts)})


def test_grace_is_its_socket_rail_with_the_rest_as_memory_and_not_the_module_that_contains_the_gpu(
    tree: Tree, clock: Any
) -> None:
    """Published readings of two sockets (NVIDIA/srt-slurm #481)."""
    for socket, whole in ((0, 98_000_000), (1, 109_000_000)):
        rail(tree, f"Module Power Socket {socket}", 700_000_000)
        rail(tree, f"Grace Power Socket {socket}", whole)
        rail(tree, f"CPU Power Socket {socket}", 54_000_000)
        rail(tree, f"SysIO Power Socket {socket}", 6_000_000)
    meter = GraceMeter(clock, sysfs_root=tree.sysfs)
    meter.open()

    cpu, dram = meter.read().samples

    assert (cpu.component, cpu.power_watts, cpu.max_power_watts) == ("cpu", 120.0, 1400.0)
    assert (dram.component, dram.power_watts) == ("dram", 87.0)
    assert meter.notes == ()


def test_cpu_and_sysio_without_the_grace_rail_are_partial(tree: Tree, clock: Any) -> None:
    rail(tree, "CPU Power Socket 0", 54_000_000)
    rail(tree, "SysIO Power Socket 0", 6_000_000)
    meter = GraceMeter(clock, sysfs_root=tree.sysfs)
    meter.open()

    (sample,) = meter.read().samples

    assert sample.power_watts == 60.0
    assert len(meter.notes) == 1 and "socket 0" in meter.notes[0] and "partial" in meter.notes[0]


def test_parts_above_the_whole_for_a_moment_do_not_add_to_it(tree: Tree, clock: Any) -> None:
    for name, watts in (("Grace", 58_000_000), ("CPU", 54_000_000), ("SysIO", 6_000_000)):
        rail(tree, f"{name} Power Socket 0", watts)
    meter = GraceMeter(clock, sysfs_root=tree.sysfs)
    meter.open()

    assert [sample.power_watts for sample in meter.read().samples] == [58.0, 0.0]


def test_the_grace_rail_is_read_where_there_are_no_separate_rails(tree: Tree, clock: Any) -> None:
    rail(tree, "Grace Power Socket 0", 260_000_000)
    meter = GraceMeter(clock, sysfs_root=tree.sysfs)
    meter.open()

    assert meter.read().samples[0].power_watts == 260.0


def test_an_unreadable_grace_rail_fails_the_read(tree: Tree, clock: Any) -> None:
    rail(tree, "CPU Power Socket 0", 200_000_000)
    broken = rail(tree, "SysIO Power Socket 0", 50_000_000)
    meter = GraceMeter(clock, sysfs_root=tree.sysfs)
    meter.open()
    (broken / "device" / "power1_average").unlink()

    with pytest.raises(SourceError) as caught:
        meter.read()

    assert caught.value.reason is Reason.BROKEN


@pytest.mark.parametrize("shown", ["0", "-5", "nan", "inf"])
def test_a_grace_rail_without_power_fails_the_read(tree: Tree, clock: Any, shown: str) -> None:
    rail(tree, "CPU Power Socket 0", 200_000_000)
    broken = rail(tree, "SysIO Power Socket 0", 50_000_000)
    meter = GraceMeter(clock, sysfs_root=tree.sysfs)
    meter.open()
    (broken / "device" / "power1_average").write_text(shown)

    with pytest.raises(SourceError) as caught:
        meter.read()

    assert (caught.value.reason, "power1_average" in caught.value.detail) == (Reason.BROKEN, True)


def test_other_machines_have_no_grace(tree: Tree, clock: Any) -> None:
    rail(tree, "Chassis Input Power", 300_000_000)

    with pytest.raises(SourceError) as caught:
        GraceMeter(clock, sysfs_root=tree.sysfs).open()

    assert caught.value.reason is Reason.ABSENT
