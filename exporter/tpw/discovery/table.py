"""A snapshot of all processes, and the tree that each belongs to."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from tpw.discovery.engines import ANCESTOR
from tpw.discovery.naming import is_starter
from tpw.discovery.procfs import Process, ProcFs


class ProcessTable(Mapping[int, Process]):
    """All processes by pid, as of the construction of the table."""

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
        """Whether these are the host's processes, not those of a pid namespace: only the host shows kernel threads."""
        kthreadd = self._processes.get(2)
        return kthreadd is not None and kthreadd.parent == 0 and not kthreadd.argv

    def is_same(self, pid: int, started_ticks: int) -> bool:
        """Whether a process still runs, and its pid has not been reused."""
        process = self._processes.get(pid)
        return process is not None and process.started_ticks == started_ticks

    def tree(self, pids: Collection[int], climb: str = ANCESTOR, *, others: Collection[int] = ()) -> frozenset[int]:
        """The processes of the same program as these.

        Climbs while the parent has the same session and cgroup, is no starter of unrelated processes (see
        :func:`tpw.discovery.naming.is_starter`), and has none of ``others`` (listeners of other servers) below it; then
        adds all descendants.
        """
        foreign = frozenset(others) - frozenset(pids)
        found: set[int] = set()
        for pid in pids:
            top = pid
            while climb == ANCESTOR:
                above = self._above(top)
                if above is None or not foreign.isdisjoint(self.descendants(above)):
                    break
                top = above
            if top in self._processes:
                found |= self.descendants(top)
        return frozenset(found)

    def descendants(self, pid: int) -> set[int]:
        """A process and everything it started, recursively."""
        found = {pid}
        waiting = [pid]
        while waiting:
            for child in self._children.get(waiting.pop(), ()):
                if child not in found:
                    found.add(child)
                    waiting.append(child)
        return found

    def lineage(self, pid: int) -> Iterator[int]:
        """A process, its parent, and so on."""
        seen: set[int] = set()
        while pid in self._processes and pid not in seen:
            seen.add(pid)
            yield pid
            pid = self._processes[pid].parent

    def _above(self, pid: int) -> int | None:
        """The parent, if it belongs to the same program."""
        process = self._processes.get(pid)
        parent = self._processes.get(process.parent) if process is not None else None
        if process is None or parent is None or is_starter(parent):
            return None
        if parent.session != process.session or self._fs.cgroup(parent.pid) != self._fs.cgroup(pid):
            return None
        return parent.pid
