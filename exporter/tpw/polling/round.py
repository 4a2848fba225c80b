"""One read of every GPU, which several threads may share, and how many threads it is worth."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

from tpw.power import MeterLost


class Round:
    """The GPUs that one read has still to reach. Threads take them one by one."""

    __slots__ = ("_lock", "_lost", "_reading", "_waiting")

    def __init__(self, uuids: Iterable[str]) -> None:
        self._lock = threading.Lock()
        self._waiting = deque(uuids)
        self._reading = 0
        self._lost: MeterLost | None = None

    @property
    def lost(self) -> MeterLost | None:
        """The failure of the library that ended the round."""
        return self._lost

    def take(self) -> str | None:
        """The next GPU to read; None when none waits."""
        with self._lock:
            if not self._waiting:
                return None
            self._reading += 1
            return self._waiting.popleft()

    def done(self, lost: MeterLost | None = None) -> bool:
        """A GPU that was taken has been read, or set aside. Returns whether that was the last one. After ``lost`` no more
        are taken."""
        with self._lock:
            self._reading -= 1
            if lost is not None:
                self._lost = self._lost or lost
                self._waiting.clear()
            return self._reading == 0 and not self._waiting


MOST_THREADS = 32
"""Chosen: eight times the threads that a driver with one lock per GPU needs for 8 GPUs at 40 ms per call."""
SLOW_ROUND_SECONDS = 0.3
"""A shorter round needs no second thread."""
GAIN = 0.75
"""More threads are kept if the round takes at most this part of the time. Chosen: a driver that serialises its calls
gains nothing, one with a lock per GPU halves the time."""
SETTLED_SECONDS = 600.0
"""After a trial without gain the next one is this much later."""


class Spread:
    """How many threads read the GPUs: more only while that makes a slow round shorter.

    NVML's calls were reported to serialise on a lock of the driver, where more threads only wait for each other.
    """

    __slots__ = ("_before", "_try_at", "threads")

    def __init__(self) -> None:
        self.threads = 1
        self._before: tuple[int, float] | None = None
        """(threads, seconds of a round) before the trial that is running."""
        self._try_at = 0.0

    def after(self, round_seconds: float, gpus: int, now: float) -> None:
        """Learn from a round."""
        if self._before is not None:
            threads, seconds = self._before
            self._before = None
            if round_seconds > GAIN * seconds:
                self.threads, self._try_at = threads, now + SETTLED_SECONDS
                return
        most = min(gpus, MOST_THREADS)
        if round_seconds >= SLOW_ROUND_SECONDS and now >= self._try_at and self.threads < most:
            self._before = (self.threads, round_seconds)
            self.threads = min(most, 2 * self.threads)
        elif self.threads > 1 and round_seconds * self.threads < SLOW_ROUND_SECONDS:
            self.threads, self._before = 1, None
