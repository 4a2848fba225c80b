from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tpw.model import Reason, SourceError
from tpw.power import rapl
from tpw.power.rapl import RaplMeter

RANGE = 262_143_328_850


class Tree:
    """A powercap tree that tests write."""

    def __init__(self, sysfs: Path) -> None:
        self.sysfs = sysfs
        self.root = sysfs / "class" / "powercap"
        self.root.mkdir(parents=True)

    def zone(self, zone_id: str, name: str, joules: float, range_uj: int = RANGE) -> None:
        directory = self.root / zone_id
        directory.mkdir(exist_ok=True)
        (directory / "name").write_text(f"{name}\n")
        (directory / "max_energy_range_uj").write_text(f"{range_uj}\n")
        self.set(zone_id, joules)

    def set(self, zone_id: str, joules: float) -> None:
        (self.root / zone_id / "energy_uj").write_text(f"{round(joules * 1e6)}\n")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def opened(tree: Tree, clock: Any) -> RaplMeter:
    meter = RaplMeter(tree.sysfs, clock)
    meter.open()
    return meter


def joules(meter: RaplMeter) -> dict[str, float | None]:
    return {sample.component: sample.energy_joules for sample in meter.read().samples}


def test_packages_and_dram_are_summed_and_nothing_that_they_contain(tree: Tree, clock: Any) -> None:
    for zone_id, name in {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "uncore",
        "intel-rapl:0:2": "dram",
        "intel-rapl:1": "package-1",
        "intel-rapl:1:0": "dram",
        "intel-rapl:2": "psys",
        "intel-rapl-mmio:0": "package-0",
    }.items():
        tree.zone(zone_id, name, 1000)
    (tree.root / "intel-rapl").mkdir()  # the control type itself
    meter = opened(tree, clock)
    clock.advance(1)
    for zone_id, rise in {
        "intel-rapl:0": 100,
        "intel-rapl:0:0": 60,
        "intel-rapl:0:1": 20,
        "intel-rapl:0:2": 10,
        "intel-rapl:1": 200,
        "intel-rapl:1:0": 7,
        "intel-rapl:2": 400,
        "intel-rapl-mmio:0": 100,
    }.items():
        tree.set(zone_id, 1000 + rise)

    assert joules(meter) == {"cpu": pytest.approx(300), "dram": pytest.approx(17)}
    meter.close()


def test_a_memory_mapped_zone_counts_where_it_is_the_only_one(tree: Tree, clock: Any) -> None:
    tree.zone("intel-rapl-mmio:0", "package-0", 5)
    meter = opened(tree, clock)
    clock.advance(1)
    tree.set("intel-rapl-mmio:0", 47)

    assert joules(meter) == {"cpu": pytest.approx(42)}
    meter.close()


def test_a_counter_that_wraps_goes_on(tree: Tree, clock: Any) -> None:
    tree.zone("intel-rapl:0", "package-0", RANGE / 1e6 - 30)
    meter = opened(tree, clock)
    clock.advance(1)
    tree.set("intel-rapl:0", 70)

    assert joules(meter) == {"cpu": pytest.approx(100)}
    meter.close()


def test_a_counter_that_may_have_wrapped_unseen_adds_nothing(tree: Tree, clock: Any) -> None:
    tree.zone("intel-rapl:0", "package-0", 100, range_uj=65_532_610_987)
    meter = opened(tree, clock)
    clock.advance(60)  # at 1 kW the 65 kJ are gone in 66 s
    tree.set("intel-rapl:0", 500)
    after_gap = joules(meter)
    clock.advance(1)
    tree.set("intel-rapl:0", 620)

    assert (after_gap, joules(meter)) == ({"cpu": 0.0}, {"cpu": pytest.approx(120)})
    meter.close()


def test_a_counter_that_was_reset_adds_nothing(tree: Tree, clock: Any) -> None:
    """energy_uj may be written to: a fall that no wrap explains."""
    tree.zone("intel-rapl:0", "package-0", 200_000)
    meter = opened(tree, clock)
    clock.advance(1)
    tree.set("intel-rapl:0", 0)

    assert joules(meter) == {"cpu": 0.0}
    meter.close()


def test_dies_that_show_one_counter_are_counted_once(tree: Tree, clock: Any) -> None:
    tree.zone("intel-rapl:0", "package-0-die-0", 5000.0)
    tree.zone("intel-rapl:1", "package-0-die-1", 5000.4)
    meter = opened(tree, clock)
    clock.advance(1)
    tree.set("intel-rapl:0", 5100.0)
    tree.set("intel-rapl:1", 5100.4)

    assert joules(meter) == {"cpu": pytest.approx(100)}
    meter.close()


def test_dies_with_counters_of_their_own_are_summed(tree: Tree, clock: Any) -> None:
    tree.zone("intel-rapl:0", "package-0-die-0", 5000)
    tree.zone("intel-rapl:1", "package-0-die-1", 9000)
    meter = opened(tree, clock)
    clock.advance(1)
    tree.set("intel-rapl:0", 5100)
    tree.set("intel-rapl:1", 9050)

    assert joules(meter) == {"cpu": pytest.approx(150)}
    meter.close()


def test_dies_that_only_looked_alike_are_told_apart_and_no_total_falls(tree: Tree, clock: Any) -> None:
    tree.zone("intel-rapl:0", "package-0-die-0", 0)
    tree.zone("intel-rapl:1", "package-0-die-1", 1)
    meter = opened(tree, clock)
    totals = []
    for second in range(1, 4):
        clock.advance(1)
        tree.set("intel-rapl:0", 100 * second)
        tree.set("intel-rapl:1", 1 + 50 * second)
        totals.append(joules(meter)["cpu"])

    assert totals == [pytest.approx(100), pytest.approx(250), pytest.approx(400)]
    meter.close()


def test_files_that_may_not_be_read_are_a_question_of_permission(
    tree: Tree, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.zone("intel-rapl:0", "package-0", 1)

    def refuse(path: Any, flags: int) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(rapl.os, "open", refuse)

    with pytest.raises(SourceError) as caught:
        RaplMeter(tree.sysfs, clock).open()

    assert caught.value.reason is Reason.PERMISSION
    assert "intel-rapl:0/energy_uj may not be read" in caught.value.detail
    assert "CAP_DAC_READ_SEARCH" in caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_files_of_root_are_a_question_of_permission(tree: Tree, clock: Any) -> None:
    tree.zone("intel-rapl:0", "package-0", 1)
    (tree.root / "intel-rapl:0" / "energy_uj").chmod(0)

    with pytest.raises(SourceError) as caught:
        RaplMeter(tree.sysfs, clock).open()

    assert caught.value.reason is Reason.PERMISSION


def test_no_zones_at_all_are_told_with_what_to_do(tmp_path: Path, clock: Any) -> None:
    with pytest.raises(SourceError) as caught:
        RaplMeter(tmp_path, clock).open()

    assert caught.value.reason is Reason.ABSENT
    assert "/sys/class/powercap" in caught.value.hint


def test_a_zone_that_fails_is_left_out_and_the_others_go_on(
    tree: Tree, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.zone("intel-rapl:0", "package-0", 100)
    tree.zone("intel-rapl:0:0", "dram", 100)
    meter = opened(tree, clock)
    dram = next(zone.fd for zone in meter._zones if zone.component == "dram")
    pread = os.pread

    def failing(fd: int, length: int, offset: int) -> bytes:
        if fd == dram:
            raise OSError(22, "Invalid argument")
        return pread(fd, length, offset)

    monkeypatch.setattr(rapl.os, "pread", failing)
    clock.advance(1)
    tree.set("intel-rapl:0", 150)
    tree.set("intel-rapl:0:0", 110)
    without = joules(meter)
    monkeypatch.setattr(rapl.os, "pread", pread)
    clock.advance(1)
    tree.set("intel-rapl:0:0", 120)
    back = joules(meter)

    assert without == {"cpu": pytest.approx(50)}
    assert back == {"cpu": pytest.approx(50), "dram": pytest.approx(20)}
    meter.close()


def test_no_zone_left_is_a_failure(tree: Tree, clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.zone("intel-rapl:0", "package-0", 100)
    meter = opened(tree, clock)

    def gone(fd: int, length: int, offset: int) -> bytes:
        raise OSError(19, "No such device")

    monkeypatch.setattr(rapl.os, "pread", gone)

    with pytest.raises(SourceError) as caught:
        meter.read()

    assert caught.value.reason is Reason.LOST
    meter.close()


def test_joules_go_on_after_the_meter_was_opened_again(tree: Tree, clock: Any) -> None:
    tree.zone("intel-rapl:0", "package-0", 100)
    meter = opened(tree, clock)
    clock.advance(1)
    tree.set("intel-rapl:0", 150)
    first = joules(meter)
    meter.close()
    tree.set("intel-rapl:0", 3)
    meter.open()
    clock.advance(1)
    tree.set("intel-rapl:0", 13)

    assert (first, joules(meter)) == ({"cpu": pytest.approx(50)}, {"cpu": pytest.approx(60)})
    meter.close()
