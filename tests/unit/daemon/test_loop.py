"""The tick loop on a clock of the test's: deadlines, lateness, skipped ticks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from tpw.daemon.loop import TickLoop


class Course:
    """Runs a loop with ticks of the listed durations, and records when each began."""

    def __init__(self, durations: list[float], interval_seconds: float = 1.0) -> None:
        self.seconds = 5000.0
        self.began: list[float] = []
        self.late: list[float] = []
        self.skipped: list[int] = []
        self._durations = iter(durations)
        self.during: Callable[[int], None] = lambda number: None
        self.loop = TickLoop(self._tick, interval_seconds, lambda: self.seconds, self._sleep)

    def run(self) -> None:
        self.loop.run()

    def _tick(self, late_seconds: float, skipped: int) -> None:
        self.began.append(self.seconds - 5000.0)
        self.late.append(late_seconds)
        self.skipped.append(skipped)
        self.during(len(self.began))
        try:
            self.seconds += next(self._durations)
        except StopIteration:
            self.loop.stop()

    def _sleep(self, seconds: float) -> None:
        self.seconds += seconds


def test_ticks_are_an_interval_apart_however_long_they_take() -> None:
    course = Course([0.1, 0.7, 0.3, 0.999])
    course.run()

    assert course.began == pytest.approx([1.0, 2.0, 3.0, 4.0, 5.0])
    assert course.late == pytest.approx([0.0] * 5)
    assert course.skipped == [0] * 5


def test_a_tick_that_begins_late_is_late_by_so_much_and_the_next_is_on_time() -> None:
    course = Course([1.25, 0.1, 0.1])
    course.run()

    assert course.began == pytest.approx([1.0, 2.25, 3.0, 4.0])
    assert course.late == pytest.approx([0.0, 0.25, 0.0, 0.0])
    assert course.skipped == [0] * 4


def test_deadlines_that_passed_are_skipped_and_counted() -> None:
    course = Course([3.5, 0.1])
    course.run()

    assert course.began == pytest.approx([1.0, 4.5, 5.0])
    assert course.late == pytest.approx([0.0, 2.5, 0.0])
    assert course.skipped == [0, 2, 0], "those due at 2 and 3; the one due at 4 began late"


def test_ticks_that_always_take_too_long_count_every_deadline_once() -> None:
    course = Course([2.5] * 40)
    course.run()

    assert len(course.began) + sum(course.skipped) == int(course.began[-1])


def test_a_suspension_of_a_year_costs_one_tick() -> None:
    course = Course([400 * 86400.0, 0.1], interval_seconds=0.5)
    before = time.process_time()
    course.run()

    assert course.skipped == [0, 2 * 400 * 86400 - 1, 0]
    assert time.process_time() - before < 1.0


@pytest.mark.parametrize("step_seconds", [400 * 86400.0, -400 * 86400.0, -1.8e9])
def test_the_wall_clock_has_no_part_in_it(monkeypatch: pytest.MonkeyPatch, step_seconds: float) -> None:
    course = Course([0.1] * 5)
    real = time.time
    course.during = lambda number: number == 2 and monkeypatch.setattr(time, "time", lambda: real() + step_seconds)
    course.run()

    assert course.began == pytest.approx([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert course.skipped == [0] * 6


def test_another_interval_is_in_force_after_the_next_tick() -> None:
    course = Course([0.1] * 4)

    def change(number: int) -> None:
        if number == 2:
            course.loop.interval_seconds = 5.0

    course.during = change
    course.run()

    assert course.began == pytest.approx([1.0, 2.0, 7.0, 12.0, 17.0])
    assert course.skipped == [0] * 5


def test_a_stop_ends_the_sleep() -> None:
    loop = TickLoop(lambda late_seconds, skipped: None, 3600.0)
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    loop.stop()
    thread.join(5.0)
    assert not thread.is_alive()
