"""The processes of one moment, and which belong together."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from tpw.discovery.engines import ANCESTOR
from tpw.discovery.naming import is_starter
from tpw.discovery.procfs import Process, ProcFs


class ProcessTable(Mapping[int, Process]):
    """All processes by pid, as they were when the table was made."""

    def __init__(self, fs: ProcFs) -> None:
        self._fs = fs
        self._processes = fs.processes()
        self._children: dict[int, list[int]] = {}
        for process in self._processes.values():
            self._children.setdefault(process.parent, []).append(process.pid)

    def __getitem__(self, pid: int) -> Process:
        return self._processes[pid]

    def __iter__(self) -> Iterator[int]:
        return iter(self._processes)

    def __len__(self) -> int:
        return len(self._processes)

    def shows_host(self) -> bool:
        """Whether these are the processes of the host, and not of a pid namespace in it: kernel threads are there."""
        kthreadd = self._processes.get(2)
        return kthreadd is not None and kthreadd.parent == 0 and not kthreadd.argv

    def is_same(self, pid: int, started_ticks: int) -> bool:
        """Whether a process that was seen before is still there, and not another one with its pid."""
        process = self._processes.get(pid)
        return process is not None and process.started_ticks == started_ticks

    def tree(self, pids: Collection[int], climb: str = ANCESTOR, *, others: Collection[int] = ()) -> frozenset[int]:
        """The processes that belong together with these.

        Climbs while the parent is of the same session and control group, starts nothing unrelated (see
        :func:`tpw.discovery.naming.is_starter`), and no process of ``others`` (listeners of other servers) would come
        in; then takes all descendants.
        """
        strangers = frozenset(others) - frozenset(pids)
        found: set[int] = set()
        for pid in pids:
            top = pid
            while climb == ANCESTOR:
                above = self._above(top)
                if above is None or not strangers.isdisjoint(self.descendants(above)):
                    break
                top = above
            if top in self._processes:
                found |= self.descendants(top)
        return frozenset(found)

    def descendants(self, pid: int) -> set[int]:
        """A process and all that it started, and they."""
        found = {pid}
        waiting = [pid]
        while waiting:
            for child in self._children.get(waiting.pop(), ()):
                if child not in found:
                    found.add(child)
                    waiting.append(child)
        return found

    def _above(self, pid: int) -> int | None:
        """The parent, where climbing to it stays with the same thing."""
        process = self._processes.get(pid)
        parent = self._processes.get(process.parent) if process is not None else None
        if process is None or parent is None or is_starter(parent):
            return None
        if parent.session != process.session or self._fs.cgroup(parent.pid) != self._fs.cgroup(pid):
            return None
        return parent.pid
