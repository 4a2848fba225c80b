"""When things happen: the only importer of apscheduler.

Two kinds of jobs: *the tick*, which runs in the scheduler's own thread so that nothing stands between its moment and its
start, and slow jobs (discovery, prices), which run on a small pool and can delay nobody. A job that is still running when
its moment comes is skipped, not stacked.

APScheduler keeps its times on the wall clock. When that is set back, every job would wait until the old time comes round
again; ``nudge`` makes them due now, and the daemon calls it when the monotonic clock says that a tick is overdue.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from apscheduler.executors.debug import DebugExecutor
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler

TICK = "tick"


class _Background(BackgroundScheduler):  # type: ignore[misc] # apscheduler has no types
    """apscheduler's own, which may be stopped while it is at work.

    Between the run of a job that has no next one and its removal, apscheduler 3.11 looks for the job among those of a
    scheduler that was never started, if another thread has stopped it meanwhile, and does not find it there.
    """

    def _process_jobs(self) -> float | None:
        try:
            wait_seconds: float | None = super()._process_jobs()
        except JobLookupError:
            if self.running:
                raise
            return None
        return wait_seconds


class Scheduler:
    """Runs jobs at fixed distances. Exceptions of jobs are the jobs' own affair: one that escapes is logged by apscheduler
    and the job goes on being scheduled."""

    def __init__(self) -> None:
        # Skipped and missed runs are counted by the tick itself; apscheduler's warnings would repeat them every second.
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        self._scheduler = _Background(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(2), TICK: DebugExecutor()},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
            daemon=True,
        )

    def every(self, name: str, seconds: float, job: Callable[[], None], *, delay_seconds: float | None = None) -> None:
        """Run ``job`` every ``seconds``; the first time after ``delay_seconds`` (default: after one distance).

        The job named ``tick`` runs in the scheduler's thread, others on the pool. A job of the same name is replaced.
        """
        first = datetime.now(UTC) + timedelta(seconds=seconds if delay_seconds is None else delay_seconds)
        self._scheduler.add_job(
            job,
            "interval",
            seconds=seconds,
            id=name,
            executor=TICK if name == TICK else "default",
            next_run_time=first,
            replace_existing=True,
        )

    def once(self, name: str, job: Callable[[], None]) -> None:
        """Run ``job`` on the pool, as soon as may be; not twice at a time under one name."""
        self._scheduler.add_job(job, id=name, replace_existing=True, next_run_time=datetime.now(UTC))

    def lag_seconds(self, name: str = TICK) -> float:
        """From inside the job: how late this run began against its moment. 0 where the wall clock was set in between."""
        job = self._scheduler.get_job(name)
        if job is None or job.next_run_time is None:
            return 0.0
        late = (datetime.now(UTC) - job.next_run_time).total_seconds()
        return late if 0.0 <= late < 60.0 else 0.0

    def start(self) -> None:
        """Begin."""
        self._scheduler.start()

    def nudge(self) -> None:
        """Make every job due now: the wall clock was set back."""
        now = datetime.now(UTC)
        for job in self._scheduler.get_jobs():
            job.modify(next_run_time=now)

    def stop(self) -> None:
        """Begin no more runs. Does not wait for one that hangs."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
