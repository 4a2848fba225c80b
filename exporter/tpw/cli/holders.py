"""Who holds a GPU, for a person to read: for ``probe``, which looks at a handful of processes once.

What is asked here about one process at a time is the library's trade: names of users, when it began, what may be
seen of others' processes. The daemon's scan reads procfs itself (see :mod:`tpw.discovery.procfs`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import psutil

from tpw.discovery.naming import heads


@dataclass(frozen=True, slots=True)
class Holder:
    """One process. All but its id is None where it cannot be seen: another pid namespace, or it has just ended."""

    pid: int
    runs: str | None = None
    """Its program, and the script or module behind an interpreter; not its arguments, which may hold secrets."""
    user: str | None = None
    started_wall_seconds: float | None = None

    def __str__(self) -> str:
        if self.runs is None or self.started_wall_seconds is None:
            return f"pid {self.pid}, which cannot be seen from here"
        since = datetime.fromtimestamp(self.started_wall_seconds).astimezone().isoformat(" ", "seconds")
        return f"pid {self.pid}: {self.runs}, of {self.user or 'an unknown user'}, since {since}"


def holders(pids: Iterable[int]) -> list[Holder]:
    """What can be told of these processes, by id. Never raises."""
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
