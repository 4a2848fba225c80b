"""When slow jobs run, whatever the wall clock does, and that a stop in the middle of one is quiet."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, tzinfo

import apscheduler.schedulers.base
import pytest
from apscheduler.schedulers.base import STATE_STOPPED

from support.servers import wait_until
from tpw.daemon import jobs as module
from tpw.daemon.jobs import SlowJobs


class Monotonic:
    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class WallClock(datetime):
    """The real one, and a step that a test can make it take."""

    step = timedelta()

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) + cls.step


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> type[WallClock]:
    monkeypatch.setattr(WallClock, "step", timedelta())
    for where in (module, apscheduler.schedulers.base):
        monkeypatch.setattr(where, "datetime", WallClock)
    return WallClock


@pytest.fixture
def clock() -> Monotonic:
    return Monotonic()


@pytest.fixture
def jobs(clock: Monotonic) -> Iterator[SlowJobs]:
    jobs = SlowJobs(clock)
    yield jobs
    jobs.stop()


class Count:
    """A job that counts its runs and can be made to hang."""

    def __init__(self) -> None:
        self.runs = 0
        self.may_end = threading.Event()
        self.may_end.set()

    def __call__(self) -> None:
        self.runs += 1
        self.may_end.wait(60)

    def reaches(self, runs: int) -> None:
        wait_until(lambda: self.runs == runs, f"{runs} runs, not {self.runs}")


def quiet(check: Callable[[], bool]) -> bool:
    """Whether something stays true for a while."""
    pause = threading.Event()
    return all(check() and not pause.wait(0.02) for _ in range(10))


def test_a_job_runs_at_once_and_again_an_interval_after_its_end(jobs: SlowJobs) -> None:
    often, rarely = Count(), Count()
    jobs.every("often", 0.05, often)
    jobs.every("rarely", 3600.0, rarely)
    jobs.start()

    wait_until(lambda: often.runs >= 3, "it repeats")
    assert rarely.runs == 1


@pytest.mark.parametrize("step", [timedelta(days=400), -timedelta(days=400), timedelta(days=-20400)])
def test_a_step_of_the_wall_clock_makes_no_backlog(jobs: SlowJobs, wall: type[WallClock], step: timedelta) -> None:
    job = Count()
    jobs.every("job", 3600.0, job)
    jobs.start()
    job.reaches(1)
    wall.step = step
    jobs.soon("job")

    wait_until(lambda: job.runs >= 2, "the run that was requested")
    # A step forward makes the next run due: whether the request or the scheduler's thread comes first is open.
    assert quiet(lambda: job.runs <= (3 if step > timedelta() else 2))


def test_a_job_that_the_wall_clock_holds_back_is_started_by_the_monotonic_clock(
    jobs: SlowJobs, clock: Monotonic, wall: type[WallClock]
) -> None:
    job = Count()
    jobs.every("job", 15.0, job)
    jobs.start()
    job.reaches(1)
    wall.step = -timedelta(days=20400)

    clock.seconds += 19.5
    jobs.check()
    assert quiet(lambda: job.runs == 1), "a job may be some seconds late"
    clock.seconds += 1.0
    jobs.check()
    job.reaches(2)
    clock.seconds += 21.0
    jobs.check()
    job.reaches(3)


def test_a_job_never_runs_twice_at_a_time_and_none_delays_another(jobs: SlowJobs, clock: Monotonic) -> None:
    hanging, other = Count(), Count()
    hanging.may_end.clear()
    jobs.every("hanging", 3600.0, hanging)
    jobs.every("other", 3600.0, other)
    jobs.start()
    hanging.reaches(1)
    other.reaches(1)

    jobs.soon("hanging")
    jobs.soon("other")
    clock.seconds += 7200.0
    jobs.check()
    wait_until(lambda: other.runs >= 2, "the other one")
    assert quiet(lambda: hanging.runs == 1)
    hanging.may_end.set()
    hanging.reaches(2)


def test_a_job_that_fails_runs_again(jobs: SlowJobs) -> None:
    runs: list[int] = []

    def fail() -> None:
        runs.append(1)
        raise RuntimeError("a bug")

    jobs.every("job", 0.01, fail)
    jobs.start()
    wait_until(lambda: len(runs) >= 3, "it goes on")


def test_no_job_keeps_the_process_from_ending(jobs: SlowJobs) -> None:
    hanging = Count()
    hanging.may_end.clear()
    jobs.every("hanging", 3600.0, hanging)
    jobs.start()
    hanging.reaches(1)

    jobs.stop()
    [thread] = [thread for thread in threading.enumerate() if thread.name == "job-hanging"]
    assert thread.daemon
    hanging.may_end.set()
    thread.join(5.0)


def test_a_stop_between_the_run_of_a_job_and_its_removal_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = SlowJobs()
    inner = jobs._scheduler
    run = threading.Event()
    raised: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: raised.append(arguments.exc_value))
    jobs.start()
    executor = inner._lookup_executor("default")
    submit = executor.submit_job

    def stopped_meanwhile(job: object, run_times: object) -> None:
        submit(job, run_times)
        inner.state = STATE_STOPPED  # what `stop` in another thread does first

    monkeypatch.setattr(executor, "submit_job", stopped_meanwhile)
    thread = inner._thread
    jobs.every("job", 3600.0, run.set)
    thread.join(10.0)
    assert not thread.is_alive()
    assert run.wait(60)
    assert raised == []
