"""A thread that can be given up while a call in it does not return."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue

LIBRARY = ""
"""Stands for a GPU in the note of a worker that is opening or sweeping the meter as a whole."""


@dataclass(frozen=True, slots=True)
class Doing:
    """What a worker is in the middle of."""

    uuid: str
    since_seconds: float
    holders: bool = False
    sampling: bool = False


class Worker:
    """One thread, its tasks, and what it is in the middle of.

    A task returns False when the worker was given up meanwhile: then its thread ends.

    Args:
        name: of the thread.
        between: what to do when there is no task, after ``pause``.
        pause: seconds until then; None: nothing is to be done between tasks.
    """

    __slots__ = ("_between", "_lock", "_pause", "abandoned", "doing", "remaining", "tasks", "thread")

    def __init__(
        self,
        name: str,
        between: Callable[[Worker], bool] = lambda worker: True,
        pause: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._between = between
        self._pause = pause
        self.tasks: SimpleQueue[Callable[[Worker], bool] | None] = SimpleQueue()
        self.remaining: deque[str] = deque()
        self.doing: Doing | None = None
        self.abandoned = False
        self._lock = threading.Lock()
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        pause: float | None = None
        while True:
            task: Callable[[Worker], bool] | None
            try:
                task = self.tasks.get(timeout=pause)
            except Empty:
                task = self._between
            if task is None or not task(self):
                return
            pause = self._pause()

    def enter(self, doing: Doing) -> None:
        """Note what call comes next."""
        with self._lock:
            self.doing = doing

    def leave(self) -> bool:
        """False when the worker was given up meanwhile."""
        with self._lock:
            self.doing = None
            return not self.abandoned

    def abandon_if_hung(self, now: float, hang_seconds: float) -> Doing | None:
        """Give the worker up if its call for a GPU hangs. Returns what it hangs in."""
        with self._lock:
            doing = self.doing
            if doing is None or doing.uuid == LIBRARY or now - doing.since_seconds < hang_seconds:
                return None
            self.abandoned = True
            return doing
