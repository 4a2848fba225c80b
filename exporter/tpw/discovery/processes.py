"""The processes of this host, and those of a server from its address.

Containers are no obstacle: the sockets of another network namespace are read through a process in it. The host's pid
namespace is required, because the driver's process ids belong to it.
"""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from tpw.discovery.engines import ANCESTOR, Engine
from tpw.discovery.environment import Visible
from tpw.discovery.finder import RAY_WORKER, FoundServer, Known, Probe, ServerFinder, StartingServer
from tpw.discovery.kubelet import Assignee
from tpw.discovery.naming import heads, listens_as
from tpw.discovery.ownership import Holders
from tpw.discovery.placement import Place
from tpw.discovery.podnames import PodNames
from tpw.discovery.pods import Pod, allowed_labels
from tpw.discovery.procfs import Process, ProcFs
from tpw.discovery.sockets import Resolve, SocketFinder
from tpw.discovery.table import ProcessTable
from tpw.discovery.transfer import kv_transfer
from tpw.discovery.workload import Cgroup, parse, workload_of
from tpw.model import OsProcess, ServerWorkload, Workload, WorkloadKind, label_text

_COUNTERS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable: where Python's client library keeps counters that another process may continue."""


class HostProcesses:
    """The processes of this host as of the last ``refresh``. Not thread-safe.

    Args:
        procfs: where procfs is mounted.
        dialects: known engines.
        probe: recognises the engine at a URL; None relies on process names alone.
        clock: monotonic seconds.
        resolve: host name to addresses; raises OSError.
        pod_logs: the kubelet's directory of pod logs, by which pods are named that ``pods`` does not have.
        pods: the pods of this node by uid, from the API.
        pod_labels: labels of pods that are exposed.
    """

    def __init__(
        self,
        procfs: str = "/proc",
        *,
        dialects: Sequence[Engine] = (),
        probe: Probe | None = None,
        clock: Callable[[], float] = time.monotonic,
        resolve: Resolve | None = None,
        pod_logs: str = os.devnull,
        pods: Callable[[], Mapping[str, Pod]] = dict,
        pod_labels: Sequence[str] = (),
    ) -> None:
        self._fs = ProcFs(procfs)
        self._dialects = tuple(dialects)
        self._problems: dict[str, None] = {}
        self._sockets = SocketFinder(self._fs, clock, self._report, resolve, dialects)
        self._finder = ServerFinder(self._fs, self._sockets, dialects, probe, clock, self._report, self._identity)
        self._pod_names = PodNames(pod_logs)
        self._known_pods, self._pod_labels = pods, tuple(pod_labels)
        self._pods: Mapping[str, Pod] = {}
        self._table = ProcessTable(ProcFs(os.devnull))
        self._trees: dict[str, dict[int, int]] = {}
        self._cgroups: dict[int, Cgroup] = {}

    @property
    def problems(self) -> tuple[str, ...]:
        """What could not be read since the last refresh, each a sentence with its remedy."""
        return tuple(self._problems)

    def refresh(self) -> None:
        """Read the processes. Never raises."""
        self._problems.clear()
        self._cgroups.clear()
        self._pod_names.forget()
        self._pods = self._known_pods()
        self._sockets.forget()
        self._table = ProcessTable(self._fs)
        self._trees = {
            url: tree
            for url, tree in self._trees.items()
            if any(self._table.is_same(pid, ticks) for pid, ticks in tree.items())
        }
        if not self._table:
            self._report(f"{self._fs.root} lists no processes: mount the host's procfs there")

    def listener_pids(self, url: str) -> frozenset[int] | None:
        """Processes that listen at an address. None if it is not of this host; empty if the processes are unknown."""
        sockets = self._sockets.at(url, self._table)
        return None if sockets is None else frozenset(pid for one in sockets for pid in one.pids)

    def place(self, url: str) -> Place:
        """See :meth:`tpw.discovery.sockets.SocketFinder.place`."""
        return self._sockets.place(url, self._table)

    def tree(self, pids: Collection[int], climb: str = ANCESTOR, *, others: Collection[int] = ()) -> frozenset[int]:
        """See :meth:`tpw.discovery.table.ProcessTable.tree`."""
        return self._table.tree(pids, climb, others=others)

    def server_pids(
        self, url: str, engine: Engine | None = None, *, others: Collection[int] = ()
    ) -> frozenset[int] | None:
        """All processes of the server at an address: its listeners and their trees. None if it is not of this host.

        If the server no longer listens, the remaining processes of its tree. ``others`` are listeners of other servers;
        their trees are left out. An unknown engine is derived from the listener's name: climbing from a listener that
        has its GPU processes below itself would add unrelated children of its parent.
        """
        listeners = self.listener_pids(url)
        if listeners is None:
            return None
        if listeners:
            climb = engine.processes.climb if engine else self._climb_from_names(listeners)
            pids = self.tree(listeners, climb, others=others)
            self._trees[url] = {pid: self._table[pid].started_ticks for pid in pids}
            return pids
        return frozenset(pid for pid, ticks in self._trees.get(url, {}).items() if self._table.is_same(pid, ticks))

    def _climb_from_names(self, listeners: Collection[int]) -> str:
        climbs = {one.processes.climb for pid in listeners for one in listens_as(self._table[pid], self._dialects)}
        return climbs.pop() if len(climbs) == 1 else ANCESTOR

    def engine(self, name: str) -> Engine | None:
        """The known engine of this name."""
        return next((one for one in self._dialects if one.name == name), None)

    def blind(self, holders: Holders) -> frozenset[str]:
        """GPUs for which the driver lists no processes, or lists ids of another pid namespace.

        The driver's ids are the host's. An empty list means no process only if this procfs shows the host's processes.
        """
        shows_host = self._table.shows_host()
        return frozenset(
            uuid
            for uuid, pids in holders.items()
            if pids is None or (not any(pid in self._table for pid in pids) if pids else not shows_host)
        )

    def visible(self, pids: Collection[int]) -> tuple[Visible, ...]:
        """The distinct GPU variables of these processes."""
        environments = {
            Visible.from_environment(self._fs.environment(pid), self._fs.cgroup(pid)): None
            for pid in sorted(pids)
            if pid in self._table
        }
        return tuple(one for one in environments if one is not None)

    def assignees(self, pids: Collection[int]) -> tuple[Assignee, ...]:
        """The containers of pods that these processes are in."""
        found: dict[Assignee, None] = {}
        for pid in pids:
            cgroup = self.cgroup(pid)
            if cgroup.pod:
                owner = self._identity(pid)
                found[Assignee(cgroup.pod, owner.namespace, owner.pod, owner.container)] = None
        return tuple(found)

    def cgroup(self, pid: int) -> Cgroup:
        """What the cgroup of a process names, read once per scan."""
        if pid not in self._cgroups:
            self._cgroups[pid] = parse(self._fs.cgroup(pid))
        return self._cgroups[pid]

    def server_workload(self, pids: Collection[int]) -> ServerWorkload:
        """To whom a server with these processes belongs, by its oldest one."""
        oldest = min((self._table[pid] for pid in pids if pid in self._table), key=_age, default=None)
        return ServerWorkload() if oldest is None else self._identity(oldest.pid)

    def _identity(self, pid: int) -> ServerWorkload:
        cgroup = self.cgroup(pid)
        if not cgroup.pod:
            workload = self._workload(pid)
            return ServerWorkload(workload.name, str(workload.kind), container=cgroup.container[:12] or cgroup.lxc)
        known = self._pods.get(cgroup.pod)
        if known is not None:
            container = known.containers.get(cgroup.container) or self._pod_names.container(cgroup.container)
            labels = allowed_labels(known.labels, self._pod_labels)
            return ServerWorkload(
                known.workload, known.kind, known.namespace, known.pod, container, known.deployment, labels
            )
        pod = self._pod_names.pod(cgroup.pod)
        container = self._pod_names.container(cgroup.container)
        if pod is None:
            return ServerWorkload(kind=str(WorkloadKind.KUBERNETES), container=container)
        deployment = f"{pod.namespace}/{pod.workload}"
        return ServerWorkload(pod.workload, pod.kind, pod.namespace, pod.pod, container, deployment)

    def is_detached(self, pid: int) -> bool:
        """Whether a process is a worker that is no descendant of its server, by the title that Ray gives it."""
        process = self._table.get(pid)
        return process is not None and process.comm.startswith(RAY_WORKER)

    def process_at(self, url: str) -> OsProcess | None:
        """The oldest process that listens at an address; None if it is unknown."""
        listeners = [self._table[pid] for pid in self.listener_pids(url) or ()]
        if not listeners:
            return None
        first = min(listeners, key=lambda process: (process.started_ticks, process.pid))
        tree = sorted((self._table[pid] for pid in self.tree([first.pid]) or (first.pid,)), key=_age)
        # A directory that a server sets for its own children is empty at its start (vLLM, SGLang).
        keeps_counters = _COUNTERS_DIRECTORY in self._fs.environment(tree[0].pid)
        transfer = kv_transfer([first.argv, *(process.argv for process in tree)])
        return OsProcess(first.pid, self._fs.started_wall_seconds(first), keeps_counters, transfer)

    def find_servers(
        self, holders: Holders, configured: Mapping[str, str] | None = None, known: Known | None = None
    ) -> list[FoundServer]:
        """See :meth:`tpw.discovery.finder.ServerFinder.find`."""
        return self._finder.find(self._table, holders, configured or {}, known)

    def loading(self, holders: Holders, listening: Collection[int]) -> frozenset[int]:
        """See :meth:`tpw.discovery.finder.ServerFinder.loading`."""
        return self._finder.loading(self._table, holders, listening)

    def starting_servers(
        self,
        holders: Holders,
        configured: Mapping[str, str],
        served: Collection[int],
        since_wall_seconds: float,
    ) -> list[StartingServer]:
        """Servers that load their model, see :meth:`tpw.discovery.finder.ServerFinder.starting`. Only processes that
        started after this moment: an older one is something else."""
        return [
            server
            for server in self._finder.starting(self._table, holders, configured, served)
            if (self.started_wall_seconds(server.pids) or 0.0) >= since_wall_seconds
        ]

    def started_wall_seconds(self, pids: Collection[int]) -> float | None:
        """When the oldest of these processes started, Unix time; None if none runs."""
        ticks = [self._table[pid] for pid in pids if pid in self._table]
        if not ticks:
            return None
        return self._fs.started_wall_seconds(min(ticks, key=lambda process: process.started_ticks))

    def workloads(self, pids: Collection[int]) -> Mapping[int, Workload]:
        """To whom these processes belong, without those that have exited."""
        return {pid: self._workload(pid) for pid in pids if pid in self._table}

    def _workload(self, pid: int) -> Workload:
        process = self._table[pid]
        program = (heads(process.argv) or (process.comm,))[-1]
        pod = self.cgroup(pid).pod
        named = self._pods.get(pod) or self._pod_names.pod(pod) if pod else None
        if named is not None:
            return Workload(WorkloadKind.KUBERNETES, label_text(f"{named.namespace}/{named.workload}"))
        return workload_of(self.cgroup(pid), _user_name(self._fs.owner(pid)), program)

    def _report(self, problem: str) -> None:
        self._problems[problem] = None


def _age(process: Process) -> tuple[int, int]:
    return process.started_ticks, process.pid


def _user_name(uid: int | None) -> str:
    if uid is None:
        return ""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a user of a container
        return str(uid)
