"""When jobs run, and that a stop in the middle of one is quiet."""

from __future__ import annotations

import threading

import pytest
from apscheduler.schedulers.base import STATE_STOPPED

from tpw.scheduler import Scheduler


def test_a_stop_between_the_run_of_a_single_job_and_its_removal_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = Scheduler()
    inner = scheduler._scheduler
    run = threading.Event()
    raised: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: raised.append(arguments.exc_value))
    scheduler.start()
    executor = inner._lookup_executor("default")
    submit = executor.submit_job

    def stopped_meanwhile(job: object, run_times: object) -> None:
        submit(job, run_times)
        inner.state = STATE_STOPPED  # what `stop` in another thread does first

    monkeypatch.setattr(executor, "submit_job", stopped_meanwhile)
    scheduler.once("scan-now", run.set)
    thread = inner._thread
    thread.join(10.0)
    assert not thread.is_alive()
    executor.shutdown()
    assert run.is_set()
    assert raised == []
