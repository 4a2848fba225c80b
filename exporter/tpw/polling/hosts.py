"""Reads host meters: fast ones (kernel files) in the tick, slow ones (a BMC) in a thread of their own."""

from __future__ import annotations

import time
from queue import Empty, SimpleQueue

import structlog

from tpw.model import HostReading, SourceError
from tpw.polling.health import JITTER, BackOff, Jitter, SourceHealth, attempt
from tpw.polling.worker import Worker
from tpw.power import Clock, HostMeter, NotingMeter

log = structlog.get_logger("tpw.source")

_Result = tuple[HostReading | SourceError, float]


class HostPoller:
    """Polls one host meter. All methods are called from one thread (the tick).

    Args:
        meter: opened by the first read, and again after a failure, with a back-off.
        clock: monotonic seconds.
        health: record of the source; created with the meter's name where it is left out.
        random: jitter of the back-off.
    """

    def __init__(
        self,
        meter: HostMeter,
        clock: Clock = time.monotonic,
        *,
        health: SourceHealth | None = None,
        random: Jitter = JITTER,
    ) -> None:
        self._meter = meter
        self._noting = meter if isinstance(meter, NotingMeter) else None
        self._clock = clock
        self._every = meter.every_seconds
        self._back_off = BackOff(1.0, 60.0, random)
        self._opened = False
        self._due_at = float("-inf")
        self._in_flight = False
        self._results: SimpleQueue[_Result] = SimpleQueue()
        self._worker: Worker | None = None
        self._logged_notes: tuple[str, ...] = ()
        self.health = health or SourceHealth(meter.name, clock=clock)

    def begin(self) -> None:
        """Start a read if one is due and none is running."""
        now = self._clock()
        if self._in_flight or now < self._due_at or not self._back_off.is_due(now):
            return
        self._in_flight = True
        self._due_at = now + self._every
        if self._every <= 0:
            self._read()
            return
        if self._worker is None:
            self._worker = Worker(f"{self._meter.name}-poller")
        self._worker.tasks.put(lambda _: self._read())

    def finish(self) -> HostReading | None:
        """The reading that has ended since the last call, without waiting. None without one, or where it failed."""
        try:
            outcome, duration = self._results.get_nowait()
        except Empty:
            return None
        self._in_flight = False
        if isinstance(outcome, SourceError):
            self.health.failed(outcome, duration)
            self._back_off.failed(self._clock(), self._every)
            return None
        self.health.succeeded(duration)
        self._back_off.reset()
        if self.notes != self._logged_notes:
            self._logged_notes = self.notes
            for note in self._logged_notes:
                log.warning("source_incomplete", source=self.health.name, detail=note)
        return outcome

    @property
    def notes(self) -> tuple[str, ...]:
        """The meter's sentences for the operator."""
        return () if self._noting is None else self._noting.notes

    def close(self) -> None:
        """Close the meter, in its own thread where it has one."""
        worker, self._worker = self._worker, None
        if worker is None:
            self._meter.close()
        else:
            worker.tasks.put(lambda _: self._meter.close())
            worker.tasks.put(None)

    def _read(self) -> None:
        start = self._clock()
        outcome = attempt(self._open_and_read)
        if isinstance(outcome, SourceError):
            self._opened = False
            self._meter.close()
        self._results.put((outcome, self._clock() - start))

    def _open_and_read(self) -> HostReading:
        if not self._opened:
            self._meter.open()
            self._opened = True
        return self._meter.read()
