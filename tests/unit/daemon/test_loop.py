"""The tick loop on a clock of the test's: deadlines, lateness, skipped ticks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from tpw.daemon.loop import Progress, TickLoop


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


class Watched:
    """Ticks on a clock of the test's, some of which fail."""

    def __init__(self) -> None:
        self.seconds = 100.0
        self.progress = Progress(lambda: self.seconds)
        self.booked = 0

    def tick(self, skipped: int = 0, error: Exception | None = None) -> None:
        with self.progress.tick(skipped):
            if error is not None:
                raise error
            self.booked += self.progress.unreported
            self.progress.unreported = 0


@pytest.mark.parametrize(
    ("interval", "still", "is_stuck"), [(1.0, 9.9, False), (1.0, 10.0, True), (5.0, 24.9, False), (5.0, 25.0, True)]
)
def test_ticks_are_stuck_after_five_intervals_and_at_least_ten_seconds(
    interval: float, still: float, is_stuck: bool
) -> None:
    watched = Watched()
    watched.tick()
    watched.seconds += still
    assert bool(watched.progress.stuck(interval)) is is_stuck


def test_a_tick_that_hangs_is_stuck() -> None:
    watched = Watched()
    with watched.progress.tick(0):
        assert watched.progress.stuck(1.0) == ""
        watched.seconds += 10.0
        assert "for 10 s" in watched.progress.stuck(1.0)
    assert watched.progress.stuck(1.0) == ""


def test_ticks_that_fail_are_not_stuck_and_are_logged_once() -> None:
    watched = Watched()
    with capture_logs() as logs:
        for _ in range(30):
            watched.seconds += 1.0
            watched.tick(error=ValueError("a bug"))
        stuck = watched.progress.stuck(1.0)
        watched.tick(error=KeyError("another"))
        watched.tick()
        watched.tick()
    assert stuck == ""
    assert [entry["event"] for entry in logs] == ["tick_failed", "tick_failed", "ticks_recovered"]


def test_skipped_and_failed_ticks_are_booked_by_the_next_one_that_succeeds() -> None:
    watched = Watched()
    with capture_logs():
        watched.tick(skipped=3, error=ValueError("a bug"))
        watched.tick(skipped=1, error=ValueError("a bug"))
        watched.tick()
        watched.tick(skipped=2)
    assert watched.booked == 3 + 1 + 2 + 2
