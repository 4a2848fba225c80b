"""A thread that can be given up while a call in it does not return."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue

LIBRARY = ""
"""Stands for a GPU in the note of a worker that is opening or sweeping the meter as a whole."""


@dataclass(frozen=True, slots=True)
class Doing:
    """What a worker is in the middle of."""

    uuid: str
    since_seconds: float
    holders: bool = False


class Worker:
    """One thread, its tasks, and what it is in the middle of.

    A task returns False when the worker was given up meanwhile: then its thread ends.
    """

    __slots__ = ("_lock", "abandoned", "doing", "remaining", "tasks", "thread")

    def __init__(self, name: str) -> None:
        self.tasks: SimpleQueue[Callable[[Worker], bool] | None] = SimpleQueue()
        self.remaining: deque[str] = deque()
        self.doing: Doing | None = None
        self.abandoned = False
        self._lock = threading.Lock()
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while True:
            task = self.tasks.get()
            if task is None or not task(self):
                return

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
