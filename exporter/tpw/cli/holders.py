"""Processes that hold a GPU, described for ``probe``.

Uses psutil, which costs memory and time; the daemon scans procfs itself (see :mod:`tpw.discovery.procfs`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import psutil

from tpw.discovery.naming import heads


@dataclass(frozen=True, slots=True)
class Holder:
    """One process. Fields other than ``pid`` are None if it is not visible: another pid namespace, or it has exited."""

    pid: int
    runs: str | None = None
    """Program, and the script or module behind an interpreter. Not the arguments, which can hold secrets."""
    user: str | None = None
    started_wall_seconds: float | None = None

    def __str__(self) -> str:
        if self.runs is None or self.started_wall_seconds is None:
            return f"pid {self.pid} (not visible from here)"
        since = datetime.fromtimestamp(self.started_wall_seconds).astimezone().isoformat(" ", "seconds")
        return f"pid {self.pid}: {self.runs}, user {self.user or 'unknown'}, since {since}"


def holders(pids: Iterable[int]) -> list[Holder]:
    """The processes, by id. Never raises."""
    return [_holder(pid) for pid in sorted(pids)]


def _holder(pid: int) -> Holder:
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            runs = " ".join(heads(process.cmdline())) or process.name()
            return Holder(pid, runs, _user(process), process.create_time())
    except psutil.Error:
        return Holder(pid)


def _user(process: psutil.Process) -> str | None:
    try:
        return process.username()
    except psutil.Error:
        return None
