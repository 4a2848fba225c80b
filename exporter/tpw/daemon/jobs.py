"""Slow jobs (scans, feeds), each on a thread of its own. The only importer of apscheduler.

APScheduler keeps its times on the wall clock and lists every run that a step of that clock made it miss. Each job is
therefore scheduled for a single run, and again when that run has ended: a step forward costs one early run. After a step
backward :meth:`SlowJobs.check`, which the tick loop calls, starts what is overdue by the monotonic clock.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import structlog
from apscheduler.executors.base import BaseExecutor, run_job
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler

OVERDUE_SECONDS = 5.0
"""A job this late by the monotonic clock is started by :meth:`SlowJobs.check`. Longer than a loaded machine delays a
thread, shorter than any job's interval."""

_log = structlog.get_logger("tpw")


class _Background(BackgroundScheduler):  # type: ignore[misc] # apscheduler has no types
    """A scheduler that may be stopped while it is at work.

    Between the start of a job's last run and the removal of that job, apscheduler 3.11 searches the jobs of a scheduler
    that was never started if another thread has stopped it meanwhile, and raises.
    """

    def _process_jobs(self) -> float | None:
        try:
            wait_seconds: float | None = super()._process_jobs()
        except JobLookupError:
            if self.running:
                raise
            return None
        return wait_seconds


class _DaemonThreads(BaseExecutor):  # type: ignore[misc] # apscheduler has no types
    """Runs each job on a daemon thread. The threads of apscheduler's own pool are joined at exit: a job that hangs would
    keep the process from ending."""

    def _do_submit_job(self, job: Any, run_times: list[datetime]) -> None:
        threading.Thread(target=self._run, args=(job, run_times), name=f"job-{job.id}", daemon=True).start()

    def _run(self, job: Any, run_times: list[datetime]) -> None:
        events = run_job(job, job._jobstore_alias, run_times, self._logger.name)  # noqa: SLF001 - as every executor does
        self._run_job_success(job.id, events)


@dataclass(slots=True)
class _Job:
    name: str
    interval_seconds: float
    run: Callable[[], None]
    due_at_seconds: float = 0.0
    """Monotonic."""
    is_running: bool = False
    is_wanted: bool = False
    """Requested while it was running."""


class SlowJobs:
    """Runs jobs now and then. A job never runs twice at a time, and one that hangs delays no other.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        logging.getLogger("apscheduler").setLevel(logging.CRITICAL)  # failures are logged here
        self._clock = clock
        self._jobs: dict[str, _Job] = {}
        self._lock = threading.Lock()
        """Held while a job is scheduled, or a request would be replaced by the next regular run."""
        self._scheduler = _Background(
            timezone=UTC,
            executors={"default": _DaemonThreads()},
            job_defaults={"coalesce": True, "max_instances": 2, "misfire_grace_time": None},
            daemon=True,
        )

    def __contains__(self, name: str) -> bool:
        """Whether there is a job of this name."""
        return name in self._jobs

    def every(self, name: str, interval_seconds: float, run: Callable[[], None]) -> None:
        """Run a job as soon as jobs are started, and again ``interval_seconds`` after the end of each run."""
        with self._lock:
            job = self._jobs[name] = _Job(name, interval_seconds, run)
            self._schedule(job, 0.0)

    def soon(self, name: str) -> None:
        """Run a job now, or again as soon as its current run has ended. Does nothing for a job that is not there."""
        job = self._jobs.get(name)
        if job is None:
            return
        with self._lock:
            if job.is_running:
                job.is_wanted = True
            else:
                self._schedule(job, 0.0)

    def check(self) -> None:
        """Start the jobs that are overdue by the monotonic clock: the wall clock was set back."""
        now = self._clock()
        with self._lock:
            for job in self._jobs.values():
                if not job.is_running and now - job.due_at_seconds > OVERDUE_SECONDS:
                    self._schedule(job, 0.0)

    def start(self) -> None:
        """Begin."""
        self._scheduler.start()

    def stop(self) -> None:
        """Begin no more runs. Does not wait for one that runs."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def _schedule(self, job: _Job, delay_seconds: float) -> None:
        job.due_at_seconds = self._clock() + delay_seconds
        self._scheduler.add_job(
            partial(self._run, job),
            id=job.name,
            next_run_time=datetime.now(UTC) + timedelta(seconds=delay_seconds),
            replace_existing=True,
        )

    def _run(self, job: _Job) -> None:
        with self._lock:
            if job.is_running:
                job.is_wanted = True
                return
            job.is_running, job.is_wanted = True, False
        try:
            job.run()
        except Exception:  # noqa: BLE001 - a bug in a job must not end it: the next run may succeed
            _log.exception("job_failed", job=job.name)
        with self._lock:
            job.is_running = False
            self._schedule(job, 0.0 if job.is_wanted else job.interval_seconds)
