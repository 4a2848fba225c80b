"""A thread that can be abandoned while a call in it does not return."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from queue import Empty, SimpleQueue

from tpw.polling.round import Round


class CallKind(Enum):
    """What a call into a meter is for."""

    LIBRARY = auto()
    """Open, sweep or close the meter as a whole."""
    READ = auto()
    SHARING = auto()
    SAMPLE = auto()


@dataclass(frozen=True, slots=True)
class Call:
    """A call that is running. ``uuid`` is "" for a call of the library as a whole."""

    kind: CallKind
    uuid: str
    since_seconds: float


class WorkerState(Enum):
    """IDLE -> CALLING -> IDLE, or CALLING -> ABANDONED for good."""

    IDLE = auto()
    CALLING = auto()
    ABANDONED = auto()


class Abandoned(Exception):  # noqa: N818 - a signal to the worker's own loop, not an error
    """The worker was abandoned during its call: its thread ends."""


Task = Callable[["Worker"], None]


class Worker:
    """One thread, its tasks, and the call that it is in.

    Args:
        name: of the thread.
        between: runs when there is no task for ``pause()`` seconds; never where that is None.
    """

    __slots__ = ("_between", "_lock", "_pause", "_state", "call", "round", "tasks", "thread")

    def __init__(
        self, name: str, between: Task = lambda _: None, pause: Callable[[], float | None] = lambda: None
    ) -> None:
        self._between = between
        self._pause = pause
        self.tasks: SimpleQueue[Task | None] = SimpleQueue()
        self.round: Round | None = None
        """The read that it takes GPUs from: the next worker continues with it."""
        self.call: Call | None = None
        self._state = WorkerState.IDLE
        self._lock = threading.Lock()
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        pause: float | None = None
        while True:
            try:
                task = self.tasks.get(timeout=pause)
            except Empty:
                task = self._between
            if task is None:
                return
            try:
                task(self)
            except Abandoned:
                return
            pause = self._pause()

    def enter(self, call: Call) -> None:
        """Record the call that starts now."""
        with self._lock:
            self.call, self._state = call, WorkerState.CALLING

    def leave(self) -> None:
        """The call has returned. Raises Abandoned."""
        with self._lock:
            self.call = None
            if self._state is WorkerState.ABANDONED:
                raise Abandoned
            self._state = WorkerState.IDLE

    def abandon_if_hung(self, now: float, hang_seconds: float) -> Call | None:
        """Abandon the worker if its call for a GPU hangs. Returns that call."""
        with self._lock:
            call = self.call
            if call is None or call.kind is CallKind.LIBRARY or now - call.since_seconds < hang_seconds:
                return None
            self._state = WorkerState.ABANDONED
            return call
