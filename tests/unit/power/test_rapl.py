from __future__ import annotations

import os
import shutil
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
    meter = RaplMeter(clock, sysfs_root=tree.sysfs)
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


def test_a_counter_continues_after_a_wrap(tree: Tree, clock: Any) -> None:
    tree.zone("intel-rapl:0", "package-0", RANGE / 1e6 - 30)
    meter = opened(tree, clock)
    clock.advance(1)
    tree.set("intel-rapl:0", 70)

    assert joules(meter) == {"cpu": pytest.approx(100)}
    meter.close()


def test_a_counter_that_may_have_wrapped_unseen_adds_nothing(tree: Tree, clock: Any) -> None:
    tree.zone("intel-rapl:0", "package-0", 100, range_uj=65_532_610_987)
    meter = opened(tree, clock)
    clock.advance(60)  # at 1 kW the 65 kJ counter wraps after 66 s
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


def test_dies_with_the_same_counter_are_counted_once(tree: Tree, clock: Any) -> None:
    tree.zone("intel-rapl:0", "package-0-die-0", 5000.0)
    tree.zone("intel-rapl:1", "package-0-die-1", 5000.4)
    meter = opened(tree, clock)
    clock.advance(1)
    tree.set("intel-rapl:0", 5100.0)
    tree.set("intel-rapl:1", 5100.4)

    assert joules(meter) == {"cpu": pytest.approx(100)}
    meter.close()


def test_dies_with_separate_counters_are_summed(tree: Tree, clock: Any) -> None:
    tree.zone("intel-rapl:0", "package-0-die-0", 5000)
    tree.zone("intel-rapl:1", "package-0-die-1", 9000)
    meter = opened(tree, clock)
    clock.advance(1)
    tree.set("intel-rapl:0", 5100)
    tree.set("intel-rapl:1", 9050)

    assert joules(meter) == {"cpu": pytest.approx(150)}
    meter.close()


def test_dies_with_equal_counters_at_first_are_separated_without_a_falling_total(tree: Tree, clock: Any) -> None:
    tree.zone("intel-rapl:0", "package-0-die-0", 0)
    tree.zone("intel-rapl:1", "package-0-die-1", 1)
    meter = opened(tree, clock)
    totals = []
    for second in range(1, 4):
        clock.advance(1)
        tree.set("intel-rapl:0", 100 * second)
        tree.set("intel-rapl:1", 1 + 50 * second)
        totals.append(joules(meter)["cpu"])

    # One difference may be a pause between the two reads of a pass; at the second nothing is lost.
    assert totals == [pytest.approx(100), pytest.approx(300), pytest.approx(450)]
    meter.close()


def test_a_mirrored_counter_that_fails_for_a_while_is_still_counted_once(
    tree: Tree, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.zone("intel-rapl:0", "package-0-die-0", 5000)
    tree.zone("intel-rapl:1", "package-0-die-1", 5000)
    tree.zone("intel-rapl:0:0", "dram", 5000)
    meter = opened(tree, clock)
    failing = fail(monkeypatch, meter, "package-0-die-0")
    totals = totals_with_four_failing(meter, tree, clock, failing)

    assert totals == [None] * 4 + [pytest.approx(500), pytest.approx(600)]
    meter.close()


def test_a_pause_between_the_reads_of_mirrored_dies_counts_nothing_twice(tree: Tree, clock: Any) -> None:
    tree.zone("intel-rapl:0", "package-0-die-0", 5000)
    tree.zone("intel-rapl:1", "package-0-die-1", 5000)
    meter = opened(tree, clock)
    totals = []
    for first, second in ((5100, 5140), (5200, 5200), (5300, 5340), (5400, 5400)):
        clock.advance(1)
        tree.set("intel-rapl:0", first)
        tree.set("intel-rapl:1", second)
        totals.append(joules(meter)["cpu"])

    assert totals == [pytest.approx(joule) for joule in (100, 200, 300, 400)]
    meter.close()


def test_a_mirrored_die_that_fails_once_still_has_the_same_counter(
    tree: Tree, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.zone("intel-rapl:0", "package-0-die-0", 5000)
    tree.zone("intel-rapl:1", "package-0-die-1", 5000)
    meter = opened(tree, clock)
    failing = fail(monkeypatch, meter, "package-0-die-1")
    totals = totals_with_four_failing(meter, tree, clock, failing)

    assert totals == [pytest.approx(100 * second) for second in range(1, 7)]
    assert meter.notes == ()  # the other die has all of it
    meter.close()


def test_unreadable_files_have_the_reason_permission(tree: Tree, clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.zone("intel-rapl:0", "package-0", 1)
    deny(monkeypatch, "intel-rapl:0")

    with pytest.raises(SourceError) as caught:
        RaplMeter(clock, sysfs_root=tree.sysfs).open()

    assert caught.value.reason is Reason.PERMISSION
    assert "intel-rapl:0/energy_uj is not readable: permission denied" in caught.value.detail
    assert "CAP_DAC_READ_SEARCH" in caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_files_of_root_have_the_reason_permission(tree: Tree, clock: Any) -> None:
    tree.zone("intel-rapl:0", "package-0", 1)
    (tree.root / "intel-rapl:0" / "energy_uj").chmod(0)

    with pytest.raises(SourceError) as caught:
        RaplMeter(clock, sysfs_root=tree.sysfs).open()

    assert caught.value.reason is Reason.PERMISSION


def deny(monkeypatch: pytest.MonkeyPatch, *zone_ids: str) -> set[str]:
    """Zones with energy_uj denied while they are in the returned set."""
    denied = set(zone_ids)
    opens = os.open

    def open_file(path: Any, flags: int) -> int:
        if Path(path).parent.name in denied:
            raise PermissionError(13, "Permission denied", str(path))
        return opens(path, flags)

    monkeypatch.setattr(rapl.os, "open", open_file)
    return denied


def totals_with_four_failing(meter: RaplMeter, tree: Tree, clock: Any, failing: set[int]) -> list[float | None]:
    """The CPU's joules at six reads, a second and 100 J apart; failing zones recover at the fifth."""
    totals = []
    for second in range(1, 7):
        if second == 5:
            failing.clear()
        clock.advance(1)
        tree.set("intel-rapl:0", 5000 + 100 * second)
        tree.set("intel-rapl:1", 5000 + 100 * second)
        totals.append(joules(meter).get("cpu"))
    return totals


def fail(monkeypatch: pytest.MonkeyPatch, meter: RaplMeter, *names: str, code: int = 22) -> set[int]:
    """Zones that fail when they are read, while their descriptors are in the returned set."""
    failing = {zone.fd for zone in meter._zones if zone.name in names}
    pread = os.pread

    def read(fd: int, length: int, offset: int) -> bytes:
        if fd in failing:
            raise OSError(code, os.strerror(code))
        return pread(fd, length, offset)

    monkeypatch.setattr(rapl.os, "pread", read)
    return failing


def two_sockets(tree: Tree, at: float = 100) -> None:
    tree.zone("intel-rapl:0", "package-0", at)
    tree.zone("intel-rapl:0:0", "dram", at)
    tree.zone("intel-rapl:1", "package-1", at)
    tree.zone("intel-rapl:1:0", "dram", at)


def test_an_unreadable_package_withholds_the_cpu_with_a_note(
    tree: Tree, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_sockets(tree)
    deny(monkeypatch, "intel-rapl:1")
    meter = opened(tree, clock)
    clock.advance(1)
    tree.set("intel-rapl:0", 150)
    tree.set("intel-rapl:0:0", 105)

    assert joules(meter) == {"dram": pytest.approx(5)}
    (note,) = meter.notes
    assert note.startswith("rapl reports no cpu energy: 1 of its 2 zones (package-1) are not readable")
    assert "intel-rapl:1/energy_uj is not readable: permission denied" in note
    assert "CAP_DAC_READ_SEARCH" in note
    meter.close()


def test_one_readable_package_of_two_is_not_reported_as_the_cpu(
    tree: Tree, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.zone("intel-rapl:0", "package-0", 1)
    tree.zone("intel-rapl:1", "package-1", 1)
    deny(monkeypatch, "intel-rapl:1")

    with pytest.raises(SourceError) as caught:
        RaplMeter(clock, sysfs_root=tree.sysfs).open()

    assert caught.value.reason is Reason.PERMISSION
    assert "intel-rapl:1/energy_uj is not readable: permission denied (1 of 2 zones)" in caught.value.detail


def test_a_package_that_becomes_readable_is_read_within_a_minute(
    tree: Tree, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_sockets(tree)
    denied = deny(monkeypatch, "intel-rapl:1")
    meter = opened(tree, clock)
    denied.clear()
    clock.advance(30)
    tree.set("intel-rapl:0", 150)
    early = joules(meter)
    clock.advance(31)
    tree.set("intel-rapl:0", 160)
    found = joules(meter)
    clock.advance(1)
    tree.set("intel-rapl:0", 170)
    tree.set("intel-rapl:1", 104)

    assert (set(early), set(found)) == ({"dram"}, {"cpu", "dram"})
    assert joules(meter)["cpu"] == pytest.approx(74)
    assert meter.notes == ()
    meter.close()


def test_a_missing_package_withholds_the_cpu_until_it_returns(
    tree: Tree, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_sockets(tree)
    meter = opened(tree, clock)
    gone = fail(monkeypatch, meter, "package-1", code=19)
    clock.advance(1)
    tree.set("intel-rapl:0", 150)
    tree.set("intel-rapl:1", 140)
    without = joules(meter)
    notes = meter.notes
    gone.clear()
    clock.advance(1)
    tree.set("intel-rapl:0", 200)
    tree.set("intel-rapl:1", 180)

    assert set(without) == {"dram"}
    assert ["No such device" in note for note in notes] == [True]
    assert joules(meter)["cpu"] == pytest.approx(180)  # 100 of the one, and both reads' 80 of the other
    assert meter.notes == ()
    meter.close()


def test_a_package_returns_with_another_file_after_a_long_time_offline(
    tree: Tree, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_sockets(tree)
    meter = opened(tree, clock)
    clock.advance(1)
    tree.set("intel-rapl:0", 150)
    tree.set("intel-rapl:1", 130)
    before = joules(meter)["cpu"]
    fail(monkeypatch, meter, "package-1", code=19)  # this descriptor never answers again
    components = []
    for _ in range(61):
        clock.advance(1)
        components.append(set(joules(meter)))
    shutil.rmtree(tree.root / "intel-rapl:1")
    tree.zone("intel-rapl:1", "package-1", 5)
    monkeypatch.undo()
    clock.advance(61)
    back = joules(meter)["cpu"]
    clock.advance(1)
    tree.set("intel-rapl:1", 25)

    assert before == pytest.approx(80)
    assert components == [{"dram"}] * 61
    assert (back, joules(meter)["cpu"]) == (pytest.approx(80), pytest.approx(100))
    assert meter.notes == ()
    meter.close()


def test_mirrored_dies_stay_mirrored_when_their_file_is_replaced(
    tree: Tree, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.zone("intel-rapl:0", "package-0-die-0", 5000)
    tree.zone("intel-rapl:1", "package-0-die-1", 5000)
    tree.zone("intel-rapl:0:0", "dram", 5000)
    meter = opened(tree, clock)
    fail(monkeypatch, meter, "package-0-die-0", code=19)
    at = 5000.0

    def second() -> float | None:
        nonlocal at
        clock.advance(1)
        at += 100.0
        tree.set("intel-rapl:0", at)
        tree.set("intel-rapl:1", at)
        return joules(meter).get("cpu")

    for _ in range(61):
        assert second() is None
    shutil.rmtree(tree.root / "intel-rapl:0")
    tree.zone("intel-rapl:0", "package-0-die-0", at)
    monkeypatch.undo()
    clock.advance(60)
    totals = [second() for _ in range(4)]

    assert totals == [pytest.approx(joules) for joules in (0, 100, 200, 300)]
    meter.close()


def test_a_package_missing_after_another_open_still_withholds_the_cpu(tree: Tree, clock: Any) -> None:
    tree.zone("intel-rapl:0", "package-0", 1)
    tree.zone("intel-rapl:1", "package-1", 1)
    meter = opened(tree, clock)
    meter.close()
    shutil.rmtree(tree.root / "intel-rapl:1")

    with pytest.raises(SourceError) as caught:
        meter.open()

    assert caught.value.reason is Reason.ABSENT
    assert "package-1 no longer exists" in caught.value.detail


def test_the_upper_bound_of_power_grows_with_the_packages(tree: Tree, clock: Any) -> None:
    two_sockets(tree)
    meter = opened(tree, clock)

    assert [(sample.component, sample.max_power_watts) for sample in meter.read().samples] == [
        ("cpu", 2000.0),
        ("dram", 1000.0),
    ]
    meter.close()


def test_no_zones_at_all_have_a_hint(tmp_path: Path, clock: Any) -> None:
    with pytest.raises(SourceError) as caught:
        RaplMeter(clock, sysfs_root=tmp_path).open()

    assert caught.value.reason is Reason.ABSENT
    assert "/sys/class/powercap" in caught.value.hint


def test_a_failed_component_is_left_out_and_the_others_continue(
    tree: Tree, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.zone("intel-rapl:0", "package-0", 100)
    tree.zone("intel-rapl:0:0", "dram", 100)
    meter = opened(tree, clock)
    failing = fail(monkeypatch, meter, "package-0 dram")
    clock.advance(1)
    tree.set("intel-rapl:0", 150)
    tree.set("intel-rapl:0:0", 110)
    without = joules(meter)
    failing.clear()
    clock.advance(1)
    tree.set("intel-rapl:0:0", 120)
    recovered = joules(meter)

    assert without == {"cpu": pytest.approx(50)}
    assert recovered == {"cpu": pytest.approx(50), "dram": pytest.approx(20)}
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


def test_joules_continue_after_another_open(tree: Tree, clock: Any) -> None:
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
