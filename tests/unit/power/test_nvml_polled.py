"""The poller over the NVML meter over the stand-in: what a daemon sees when boards and drivers fail under it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fakenvml import FakeNvml
from tpw.model import AcceleratorReading, Reason
from tpw.polling import AcceleratorPoller
from tpw.power.nvml import NvmlMeter


class Polled:
    def __init__(self, driver: FakeNvml) -> None:
        self.driver = driver
        self.poller = AcceleratorPoller(NvmlMeter(), hang_seconds=0.1, random=lambda: 0.5)

    def look(self, seconds: float = 5.0) -> AcceleratorReading:
        self.poller.begin()
        return self.poller.finish(time.monotonic() + seconds)

    def until(self, met: Callable[[AcceleratorReading], bool], seconds: float = 15.0) -> AcceleratorReading:
        """Look until the reading is what is waited for."""
        deadline = time.monotonic() + seconds
        while not met(reading := self.look()):
            assert time.monotonic() < deadline, f"never came: {reading}"
            time.sleep(0.02)
        return reading

    def joules(self, reading: AcceleratorReading, i: int) -> tuple[float, float]:
        """(instant, counter) of a board."""
        sample = next(sample for sample in reading.samples if sample.uuid == self.driver.uuid(i))
        assert sample.energy_joules is not None
        return sample.at_seconds, sample.energy_joules


@pytest.fixture
def polled(driver: FakeNvml) -> Iterator[Polled]:
    polled = Polled(driver)
    yield polled
    driver.close()
    polled.poller.close(time.monotonic() + 5)


def uuids(reading: AcceleratorReading) -> set[str]:
    return {sample.uuid for sample in reading.samples}


def reasons(reading: AcceleratorReading) -> dict[str, Reason]:
    return {fault.uuid: fault.reason for fault in reading.faults}


def test_a_board_that_hangs_costs_the_others_nothing_and_comes_back_with_all_its_energy(polled: Polled) -> None:
    driver = polled.driver
    before = polled.joules(polled.look(), 0)
    driver.gpu(0).set_square(low=60, high=640, period=0.05)
    driver.hang(0)

    during = [polled.look() for _ in range(3)]
    driver.unhang(0)
    after = polled.joules(polled.until(lambda reading: driver.uuid(0) in uuids(reading)), 0)

    assert [uuids(reading) for reading in during] == [{driver.uuid(1)}] * 3
    assert [reasons(reading) for reading in during] == [{driver.uuid(0): Reason.TIMEOUT}] * 3
    true = driver.true_joules(0, before[0], after[0])
    assert after[1] - before[1] == pytest.approx(true, abs=0.02 * 640 + 1)


def test_a_poller_that_sleeps_loses_no_energy(polled: Polled) -> None:
    driver = polled.driver
    first = polled.joules(polled.look(), 0)
    driver.gpu(0).set_constant(650)
    time.sleep(0.15)
    driver.gpu(0).set_square(low=50, high=700, period=0.05, duty=0.5)
    time.sleep(0.35)
    last = polled.joules(polled.look(), 0)

    assert last[1] - first[1] == pytest.approx(driver.true_joules(0, first[0], last[0]), abs=0.02 * 700 + 1)


def test_a_driver_that_is_reloaded_is_back_after_a_moment(polled: Polled) -> None:
    driver = polled.driver
    polled.look()
    driver.unload_driver()
    down = polled.look()
    driver.load_driver()

    back = polled.until(lambda reading: len(uuids(reading)) == 2)

    assert reasons(down) == {driver.uuid(0): Reason.ABSENT, driver.uuid(1): Reason.ABSENT}
    assert reasons(back) == {}
    assert polled.joules(back, 0)[1] < 1000, "the counters begin again"


def test_a_driver_that_is_upgraded_in_place_ends_the_process(polled: Polled) -> None:
    polled.look()
    polled.driver.unload_driver()
    polled.look()
    polled.driver.init_error("lib_rm_version_mismatch")
    polled.until(lambda reading: polled.poller.fatal is not None)

    assert polled.poller.fatal is not None
    assert "mismatch" in polled.poller.fatal.detail


def test_a_released_driver_has_no_client(polled: Polled) -> None:
    polled.look()
    assert polled.poller.release(time.monotonic() + 5)
    calls = sum(polled.driver.calls().values())
    shut_down = polled.driver.calls()["nvmlShutdown"]
    for _ in range(3):
        polled.look()
    quiet = sum(polled.driver.calls().values()) - calls
    polled.poller.resume()

    assert (shut_down, quiet) == (1, 0)
    assert len(uuids(polled.look())) == 2


def test_a_driver_that_could_not_be_let_go_of_while_a_call_hung_is_when_the_call_has_returned(polled: Polled) -> None:
    driver = polled.driver
    polled.look()
    driver.hang(0)
    polled.look()
    released = polled.poller.release(time.monotonic() + 0.2)
    shut_down = driver.calls().get("nvmlShutdown", 0)
    driver.unhang(0)
    polled.until(lambda reading: driver.calls().get("nvmlShutdown", 0) == 1)
    again = polled.poller.release(time.monotonic() + 5)
    polled.poller.resume()

    assert (released, shut_down, again) == (False, 0, True)
    assert len(uuids(polled.until(lambda reading: bool(reading.samples)))) == 2


def test_a_source_that_was_let_go_of_is_down_until_it_is_taken_up_again(polled: Polled) -> None:
    polled.look()
    polled.poller.release(time.monotonic() + 5)
    polled.look()
    down = polled.poller.health.status()
    polled.poller.resume()
    polled.look()

    assert (down.up, down.failures, down.detail) == (False, (("disabled", 1),), "the driver was released on request")
    assert polled.poller.health.status().up


def test_holders_of_a_board_that_hangs_cost_nobody_anything(polled: Polled) -> None:
    driver = polled.driver
    driver.processes(1, [4711])
    polled.look()
    driver.hang(0)
    polled.poller.request_holders()
    held: Any = None
    deadline = time.monotonic() + 15
    while held is None:
        reading = polled.look()
        assert driver.uuid(1) in uuids(reading)
        polled.poller.request_holders()
        held = polled.poller.holders()
        assert time.monotonic() < deadline

    assert held == {driver.uuid(1): {4711}}
