"""One read of every GPU, which several threads may share, and how many threads it is worth."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from tpw.power import MeterLost


@dataclass(frozen=True, slots=True)
class Effort:
    """What a round took."""

    round_seconds: float
    """From its first call to its last."""
    busy_seconds: float
    """Of these in calls, each thread on average."""
    longest_seconds: float
    """Of one GPU: no number of threads makes a round shorter."""


class Round:
    """The GPUs that one read has still to reach. Threads take them one by one."""

    __slots__ = ("_any_set_aside", "_began", "_lock", "_longest", "_lost", "_reading", "_spent", "_threads", "_waiting")

    def __init__(self, uuids: Sequence[str], threads: int, now: float) -> None:
        self._began = now
        self._threads = min(threads, len(uuids))
        self._spent = self._longest = 0.0
        self._any_set_aside = False
        self._lock = threading.Lock()
        self._waiting = deque(uuids)
        self._reading = 0
        self._lost: MeterLost | None = None

    @property
    def lost(self) -> MeterLost | None:
        """The failure of the library that ended the round."""
        return self._lost

    def effort(self, now: float) -> Effort | None:
        """What it took, as it ends. None if a GPU was set aside: then it is no measure of the others."""
        if self._any_set_aside:
            return None
        return Effort(now - self._began, self._spent / self._threads, self._longest)

    def take(self) -> str | None:
        """The next GPU to read; None when none waits."""
        with self._lock:
            if not self._waiting:
                return None
            self._reading += 1
            return self._waiting.popleft()

    def done(self, seconds: float, lost: MeterLost | None = None) -> bool:
        """A GPU that was taken has been read, or the library is lost. Returns whether that was the last one. After ``lost``
        no more are taken."""
        with self._lock:
            self._reading -= 1
            self._spent += seconds
            self._longest = max(self._longest, seconds)
            if lost is not None:
                self._lost = self._lost or lost
                self._waiting.clear()
            return self._reading == 0 and not self._waiting

    def set_aside(self) -> bool:
        """A GPU that was taken hangs. Returns whether that was the last one."""
        self._any_set_aside = True
        return self.done(0.0)


MOST_THREADS = 32
"""Chosen: eight times the threads that a driver with one lock per GPU needs for 8 GPUs at 40 ms per call."""
SLOW_ROUND_SECONDS = 0.3
"""A shorter round needs no second thread."""
GAIN = 0.75
"""More threads are kept if each is busy for at most this part of the time. Chosen: a driver that serialises its calls
gains nothing, one with a lock per GPU halves the time."""
SPARSE_SECONDS = 8.0
"""A round that takes this long hits a load of several seconds at a few phases only. Chosen on the slow drivers of
docs/accuracy.md: shorter rounds see more of a load without pauses."""
REST = 0.5
"""The longest pause between such rounds, as a part of one. Chosen: after a few rounds all phases are equally likely, for a
quarter more time between two reads."""
SETTLED_SECONDS = 600.0
"""After a trial without gain the next one is this much later."""


class Spread:
    """How many threads read the GPUs: more only while that makes a slow round shorter.

    NVML's calls were reported to serialise on a lock of the driver, where more threads only wait for each other. Compared
    is how long each thread is busy on average: the duration of a round depends on which thread happens to read the GPU that
    takes longest, such as one with slow values that are due.
    """

    __slots__ = ("_before", "_try_at", "rests_until", "threads")

    def __init__(self) -> None:
        self.threads = 1
        self.rests_until = float("-inf")
        """The next round begins at this instant at the earliest."""
        self._before: tuple[int, float] | None = None
        """(threads, busy seconds of each) before the trial that is running."""
        self._try_at = 0.0

    def rest(self, effort: Effort, now: float, part: float) -> None:
        """Wait for a part of the longest pause before the next round, if this one took long. GPUs without an energy counter
        that are read at even intervals show a periodic load at the same phase again and again."""
        if effort.round_seconds >= SPARSE_SECONDS:
            self.rests_until = now + part * REST * effort.round_seconds

    def after(self, effort: Effort, gpus: int, now: float) -> None:
        """Learn from a round."""
        busy = effort.busy_seconds
        if self._before is not None:
            threads, seconds = self._before
            self._before = None
            if busy > GAIN * seconds:
                self.threads, self._try_at = threads, now + SETTLED_SECONDS
                return
        most = min(gpus, MOST_THREADS)
        is_slow = effort.round_seconds >= SLOW_ROUND_SECONDS
        one_gpu = effort.longest_seconds > GAIN * effort.round_seconds  # takes nearly all of it
        if is_slow and not one_gpu and now >= self._try_at and self.threads < most:
            self._before = (self.threads, busy)
            self.threads = min(most, 2 * self.threads)
        elif self.threads > 1 and busy * self.threads < SLOW_ROUND_SECONDS:
            self.threads, self._before = 1, None
