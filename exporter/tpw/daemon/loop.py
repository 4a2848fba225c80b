"""The tick loop, driven by deadlines on the monotonic clock. The wall clock has no part in it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

STUCK_INTERVALS = 5.0
STUCK_SECONDS = 10.0
"""Ticks are stuck after five intervals, at least 10 s, in which none began or ended: longer than slow sources and a loaded
machine delay one."""

_log = structlog.get_logger("tpw")


class TickLoop:
    """Calls ``tick`` at every deadline. Each deadline is the previous one plus the interval.

    Deadlines that pass while a tick runs, or while the process is suspended, are skipped and counted, never made up for.

    Args:
        tick: called with the seconds by which this tick is late, and with the number of deadlines that were skipped since
            the previous tick. Must not raise.
        interval_seconds: between two deadlines; see :attr:`interval_seconds`.
        clock: monotonic seconds.
        wait: sleeps for so many seconds, or less. By default it ends early when the loop is stopped.
    """

    def __init__(
        self,
        tick: Callable[[float, int], None],
        interval_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self._tick = tick
        self.interval_seconds = interval_seconds
        """A change takes effect with the deadline after the next tick."""
        self._clock = clock
        self._stopping = threading.Event()
        self._wait = wait or self._stopping.wait

    @property
    def is_stopping(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stopping.is_set()

    def run(self) -> None:
        """Tick at every deadline until :meth:`stop`. The first is one interval from now."""
        deadline = self._clock() + self.interval_seconds
        while not self._stopping.is_set():
            late_seconds = self._clock() - deadline
            if late_seconds < 0.0:
                self._wait(-late_seconds)
                continue
            skipped = int(late_seconds // self.interval_seconds)
            deadline += skipped * self.interval_seconds
            self._tick(late_seconds, skipped)
            deadline += self.interval_seconds

    def stop(self) -> None:
        """Begin no more ticks. Does not wait for one that runs."""
        self._stopping.set()


class Progress:
    """Whether ticks go on and succeed. Written by the thread that ticks, read by any.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._moved_at_seconds = clock()
        self._failure = ""
        self.unreported = 0
        """Ticks that were skipped or have failed and are not in the books yet."""

    @contextmanager
    def tick(self, skipped: int) -> Iterator[None]:
        """Around a tick. An exception ends the tick and nothing else; it is logged when its kind is new, not once per
        tick."""
        self._moved_at_seconds = self._clock()
        self.unreported += skipped
        try:
            yield
        except Exception as error:  # noqa: BLE001 - the ticks must go on
            self.unreported += 1
            kind = type(error).__name__
            if kind != self._failure:
                _log.error("tick_failed", exc_info=error)
            self._failure = kind
        else:
            if self._failure:
                _log.info("ticks_recovered")
            self._failure = ""
        self._moved_at_seconds = self._clock()

    def stuck(self, interval_seconds: float) -> str:
        """Why ticks are considered stuck; "" while they go on, successfully or not."""
        still_seconds = self._clock() - self._moved_at_seconds
        limit_seconds = max(STUCK_SECONDS, STUCK_INTERVALS * interval_seconds)
        if still_seconds < limit_seconds:
            return ""
        return f"polling is stuck: no tick has begun or ended for {still_seconds:.0f} s (limit {limit_seconds:g} s)"
