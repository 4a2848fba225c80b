"""The poller with the NVML meter and the fake NVML: failures of GPUs and drivers as a daemon experiences them."""

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

    def read_once(self, seconds: float = 5.0) -> AcceleratorReading:
        self.poller.begin()
        return self.poller.finish(time.monotonic() + seconds)

    def until(self, met: Callable[[AcceleratorReading], bool], seconds: float = 15.0) -> AcceleratorReading:
        """Read until the condition is met."""
        deadline = time.monotonic() + seconds
        while not met(reading := self.read_once()):
            assert time.monotonic() < deadline, f"never came: {reading}"
            time.sleep(0.02)
        return reading

    def joules(self, reading: AcceleratorReading, i: int) -> tuple[float, float]:
        """(instant, counter) of a GPU."""
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


def test_a_hung_gpu_does_not_affect_the_others_and_recovers_with_all_its_energy(polled: Polled) -> None:
    driver = polled.driver
    before = polled.joules(polled.read_once(), 0)
    driver.gpu(0).set_square(low=60, high=640, period=0.05)
    driver.hang(0)

    late = polled.read_once()
    polled.until(lambda reading: reasons(reading) == {driver.uuid(0): Reason.TIMEOUT})
    during = [polled.read_once() for _ in range(3)]
    driver.unhang(0)
    after = polled.joules(polled.until(lambda reading: driver.uuid(0) in uuids(reading)), 0)

    assert (uuids(late), reasons(late)) == ({driver.uuid(1)}, {}), "late is not down"
    assert [uuids(reading) for reading in during] == [{driver.uuid(1)}] * 3
    assert [reasons(reading) for reading in during] == [{driver.uuid(0): Reason.TIMEOUT}] * 3
    true = driver.true_joules(0, before[0], after[0])
    assert after[1] - before[1] == pytest.approx(true, abs=0.02 * 640 + 1)


def test_a_paused_poller_loses_no_energy(polled: Polled) -> None:
    driver = polled.driver
    first = polled.joules(polled.read_once(), 0)
    driver.gpu(0).set_constant(650)
    time.sleep(0.15)
    driver.gpu(0).set_square(low=50, high=700, period=0.05, duty=0.5)
    time.sleep(0.35)
    last = polled.joules(polled.read_once(), 0)

    assert last[1] - first[1] == pytest.approx(driver.true_joules(0, first[0], last[0]), abs=0.02 * 700 + 1)


def test_a_reloaded_driver_recovers_after_a_second(polled: Polled) -> None:
    driver = polled.driver
    polled.read_once()
    driver.unload_driver()
    down = polled.read_once()
    driver.load_driver()

    back = polled.until(lambda reading: len(uuids(reading)) == 2)

    assert reasons(down) == {driver.uuid(0): Reason.ABSENT, driver.uuid(1): Reason.ABSENT}
    assert reasons(back) == {}
    assert polled.joules(back, 0)[1] < 1000, "the counters begin again"


def test_a_driver_that_is_upgraded_in_place_ends_the_process(polled: Polled) -> None:
    polled.read_once()
    polled.driver.unload_driver()
    polled.read_once()
    polled.driver.init_error("lib_rm_version_mismatch")
    polled.until(lambda reading: polled.poller.fatal is not None)

    assert polled.poller.fatal is not None
    assert "mismatch" in polled.poller.fatal.detail


def test_a_released_driver_has_no_client(polled: Polled) -> None:
    polled.read_once()
    assert polled.poller.release(time.monotonic() + 5)
    calls = sum(polled.driver.calls().values())
    shut_down = polled.driver.calls()["nvmlShutdown"]
    for _ in range(3):
        polled.read_once()
    quiet = sum(polled.driver.calls().values()) - calls
    polled.poller.resume()

    assert (shut_down, quiet) == (1, 0)
    assert len(uuids(polled.read_once())) == 2


def test_a_release_beside_a_hung_call_completes_when_the_call_returns(polled: Polled) -> None:
    driver = polled.driver
    polled.read_once()
    driver.hang(0)
    polled.read_once()
    released = polled.poller.release(time.monotonic() + 0.2)
    shut_down = driver.calls().get("nvmlShutdown", 0)
    driver.unhang(0)
    polled.until(lambda reading: driver.calls().get("nvmlShutdown", 0) == 1)
    again = polled.poller.release(time.monotonic() + 5)
    polled.poller.resume()

    assert (released, shut_down, again) == (False, 0, True)
    assert len(uuids(polled.until(lambda reading: bool(reading.samples)))) == 2


def test_a_released_source_is_down_until_it_is_resumed(polled: Polled) -> None:
    polled.read_once()
    polled.poller.release(time.monotonic() + 5)
    polled.read_once()
    down = polled.poller.health.status()
    polled.poller.resume()
    polled.read_once()

    assert (down.up, down.failures, down.detail) == (False, (("disabled", 1),), "the driver was released on request")
    assert polled.poller.health.status().up


def test_the_process_list_of_a_hung_gpu_does_not_affect_the_others(polled: Polled) -> None:
    driver = polled.driver
    driver.processes(1, [4711])
    polled.read_once()
    driver.hang(0)
    polled.poller.request_holders()
    held: Any = None
    deadline = time.monotonic() + 15
    while held is None:
        reading = polled.read_once()
        assert driver.uuid(1) in uuids(reading)
        polled.poller.request_holders()
        held = polled.poller.holders()
        assert time.monotonic() < deadline

    assert held == {driver.uuid(1): {4711}}
