"""The tick loop, driven by deadlines on the monotonic clock. The wall clock has no part in it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


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
