"""GPUs without a counter at a long polling interval: the real meter, poller and ledger on a clock that jumps."""

from __future__ import annotations

from pathlib import Path

import pynvml
import pytest

from fakenvml import FakeNvml
from scenarios.conftest import shut_down
from support.virtualtime import SlowDriver, VirtualTime
from tpw.ledger.advance import advance
from tpw.ledger.books import Books
from tpw.ledger.tick import Policy, Tick
from tpw.model import Instant
from tpw.polling import AcceleratorPoller
from tpw.power.nvml import NvmlMeter


def run(
    directory: Path, monkeypatch: pytest.MonkeyPatch, interval: float, period: float, *, instants: bool = False
) -> tuple[float, int]:
    """(error of the booked joules over ten minutes, driver calls per second)."""
    monkeypatch.setenv("FAKENVML_CONTROL", "")
    clock = VirtualTime()
    clock.install(monkeypatch)
    with FakeNvml(directory, count=1, start_seconds=clock.now()) as nvml:
        nvml.preload()
        clock.on_advance = nvml.set_now
        driver = SlowDriver(pynvml, clock, 0.001)
        for module in ("nvml", "nvml_probe", "nvml_sharing"):
            monkeypatch.setattr(f"tpw.power.{module}.nvml", driver)
        nvml.no_energy(0)
        nvml.no_average(0, on=instants)
        nvml.gpu(0).set_square(100.0, 600.0, period, 0.3)
        poller = AcceleratorPoller(NvmlMeter(clock.now), clock.now)
        books, policy = Books(), Policy(interval_seconds=interval)
        try:
            poller.begin()
            poller.finish(clock.now() + 60.0)
            began, calls = clock.now(), driver.calls
            for tick in range(1, int(600.0 / interval) + 1):
                clock.sleep_until(began + tick * interval)
                poller.begin()
                reading = poller.finish(clock.now() + 0.5 * interval)
                at = Instant(clock.now(), 1e9 + clock.now())
                before = books
                books = advance(books, Tick(at, reading), policy)
                if tick == 1:
                    begin = books.gpus[nvml.uuid(0)].baseline_at_seconds
            assert before.gpus[nvml.uuid(0)].unmetered_seconds == 0.0
            account = books.gpus[nvml.uuid(0)]
            assert begin is not None and account.baseline_at_seconds is not None
            true = nvml.true_joules(0, begin, account.baseline_at_seconds)
            booked = sum(amounts.joules for amounts in books.postings.values())
            return booked / true - 1.0, round((driver.calls - calls) / 600.0)
        finally:
            poller.close(clock.now())
            clock.sleep_until(clock.now() + 60.0)
            shut_down()


@pytest.mark.parametrize("period", [5.0, 7.3, 10.0, 2.5])
@pytest.mark.parametrize("interval", [1.0, 5.0, 15.0])
def test_a_mean_is_right_at_any_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interval: float, period: float
) -> None:
    error, calls_per_second = run(tmp_path, monkeypatch, interval, period)

    assert abs(error) <= 0.01
    assert calls_per_second <= 3


def test_instants_are_sampled_often_at_any_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error, _ = run(tmp_path, monkeypatch, 5.0, 5.0, instants=True)

    assert abs(error) <= 0.05
