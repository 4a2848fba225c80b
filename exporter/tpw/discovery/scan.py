"""One scan of this host, as a value: its servers, their processes, and what is known about their GPUs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from tpw.discovery.engines import Engine
from tpw.discovery.environment import Visible, allowed
from tpw.discovery.finder import FoundServer, Known, StartingServer
from tpw.discovery.kubelet import Kubelet, devices_to_gpus
from tpw.discovery.ownership import Assigned, Holders, held_by
from tpw.discovery.placement import Place
from tpw.discovery.processes import HostProcesses
from tpw.discovery.widening import widened
from tpw.model import STARTING_SECONDS, Attribution, Gpu, OsProcess, ServerWorkload, Workload


@dataclass(frozen=True, slots=True)
class HostScan:
    """The result of one scan. Mappings are by server name."""

    found: tuple[FoundServer, ...] = ()
    """Servers that are not configured."""
    pids: Mapping[str, frozenset[int] | None] = field(default_factory=dict)
    """All processes of a server; None if its address is not of this host."""
    processes: Mapping[str, OsProcess | None] = field(default_factory=dict)
    """The process that listens."""
    problems: tuple[str, ...] = ()
    """What could not be read, each a sentence with its remedy."""
    blind: frozenset[str] = frozenset()
    """GPUs for which the driver lists no processes of this pid namespace."""
    visible: Mapping[str, tuple[Visible, ...]] = field(default_factory=dict)
    """GPUs in the environments of servers that hold no GPU according to the driver."""
    devices: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Devices that the kubelet assigned to the pods of those servers."""
    starting: tuple[StartingServer, ...] = ()
    """Servers that hold a GPU and are not ready yet."""
    started: Mapping[str, float] = field(default_factory=dict)
    """When the oldest process of a server that holds a GPU started, Unix time."""
    workloads: Mapping[int, Workload] = field(default_factory=dict)
    """To whom each process on a GPU belongs."""
    addresses: Mapping[str, str] = field(default_factory=dict)
    """The URL that each server was scanned at."""
    owners: Mapping[str, ServerWorkload] = field(default_factory=dict)
    """To whom each server belongs."""
    belongs: Mapping[str, ServerWorkload] = field(default_factory=dict)
    """The same without pods and containers, which change."""
    places: Mapping[str, Place] = field(default_factory=dict)
    """Where the addresses of the configured servers are."""
    selected: Mapping[str, str] = field(default_factory=dict)
    """The configured server of each of its pods, by the name of that replica."""

    def assigned(self, server: str, gpus: Sequence[Gpu]) -> tuple[Assigned | None, tuple[str, ...]]:
        """GPUs of a server that holds none according to the driver, and problems as sentences. From the kubelet, else
        from the environment; only GPUs in ``blind``."""
        sources = (
            (Attribution.KUBERNETES, devices_to_gpus(self.devices.get(server, frozenset()), gpus)),
            (Attribution.ENVIRONMENT, allowed(self.visible.get(server, ()), gpus)),
        )
        for method, found in sources:
            owned = found.gpus & self.blind
            if owned:
                return Assigned(owned, method), found.problems
        return None, tuple(problem for _, found in sources for problem in found.problems)

    def foreign(self, server: str) -> frozenset[int]:
        """Processes of all other servers."""
        return frozenset().union(*(pids for name, pids in self.pids.items() if name != server and pids))

    def with_deployments(self, configured: Mapping[str, str], selected: Mapping[str, str]) -> HostScan:
        """The scan with the deployments that are configured, by name of the server, and of its pods by ``selected``."""
        names = {name: configured[server] for name, server in selected.items() if server in configured}
        names |= {name: deployment for name, deployment in configured.items() if name not in selected.values()}

        def placed(known: Mapping[str, ServerWorkload]) -> dict[str, ServerWorkload]:
            nobody = ServerWorkload()
            mine = {name: replace(known.get(name, nobody), deployment=one) for name, one in names.items()}
            return {**known, **mine}

        return replace(self, owners=placed(self.owners), belongs=placed(self.belongs))


def scan_host(
    host: HostProcesses,
    configured: Mapping[str, str],
    dialects: Mapping[str, Engine | None],
    holders: Holders,
    *,
    find: bool,
    kubelet: Kubelet | None = None,
    problems: tuple[str, ...] = (),
    known: Known | None = None,
    wall: Callable[[], float] = time.time,
) -> HostScan:
    """Scan the host.

    Args:
        host: its processes.
        configured: address by name of the configured servers.
        dialects: engine by name of the servers; None if it is not known yet.
        holders: process ids by GPU, from the driver.
        find: whether to find servers that are not configured.
        kubelet: what it assigned.
        problems: of other sources of what is known about the host.
        known: processes of servers in the books.
        wall: Unix time.
    """
    host.refresh()
    found = tuple(host.find_servers(holders, configured, known)) if find else ()
    addresses = {**{server.name: server.url for server in found}, **configured}
    engines = {**{server.name: host.engine(server.engine) for server in found}, **_known(dialects)}
    listening = {name: host.listener_pids(url) for name, url in addresses.items()}
    loading = host.loading(holders, frozenset().union(*(listeners for listeners in listening.values() if listeners)))
    pids: dict[str, frozenset[int] | None] = {}
    for name, url in addresses.items():
        others = loading.union(*(listeners for other, listeners in listening.items() if other != name and listeners))
        pids[name] = host.server_pids(url, engines.get(name), others=others)
    served = frozenset().union(*(own for own in pids.values() if own))
    since = wall() - STARTING_SECONDS
    starting = host.starting_servers(holders, configured, served, since) if find or configured else []
    for server in starting:
        if find or server.name in configured:
            pids[server.name] = server.pids
    pids = widened(pids, holders, host.cgroup, host.is_detached)
    holding = frozenset(pid for found_pids in holders.values() for pid in found_pids or ())
    started = {name: host.started_wall_seconds(own & holding) for name, own in pids.items() if own}
    blind = host.blind(holders)
    unknown = {name: own for name, own in pids.items() if own and not held_by(own, holders)} if blind else {}
    visible = {name: host.visible(own) for name, own in unknown.items()}
    devices, problem = _devices(host, unknown, kubelet)
    owners = {
        name: host.server_workload(own & (listening.get(name) or own) or own) for name, own in pids.items() if own
    }
    return HostScan(
        found,
        pids,
        {name: host.process_at(url) for name, url in addresses.items()},
        (*problems, *host.problems, *_duplicates(configured, listening), *([problem] if problem else [])),
        blind,
        {name: environments for name, environments in visible.items() if environments},
        devices,
        tuple(server for server in starting if server.name in pids),
        {name: at for name, at in started.items() if at is not None},
        host.workloads(holding),
        addresses,
        owners,
        {name: replace(one, pod="", container="") for name, one in owners.items()},
        {name: host.place(url) for name, url in configured.items()},
    )


def _duplicates(configured: Mapping[str, str], listening: Mapping[str, frozenset[int] | None]) -> list[str]:
    """Configured servers that appear to be one, as sentences. URLs that differ in their query are different models of one
    router."""
    first: dict[tuple[frozenset[int], str], str] = {}
    found = []
    for name, url in configured.items():
        pids = listening[name]
        # The demo serves its two servers from this process.
        if not pids or os.getpid() in pids:
            continue
        other = first.setdefault((pids, urlsplit(url).query), name)
        if other != name:
            process = "process" if len(pids) == 1 else "processes"
            found.append(
                f"servers {other} and {name} are served by the same {process} ({', '.join(map(str, sorted(pids)))}): if"
                " they are one server at two addresses, its tokens are counted twice; remove one of them from the"
                " configuration"
            )
    return found


def _devices(
    host: HostProcesses, servers: Mapping[str, frozenset[int]], kubelet: Kubelet | None
) -> tuple[Mapping[str, frozenset[str]], str]:
    """Devices that the kubelet assigned to the pods of these servers, and a problem with it, or ""."""
    pods = {name: own for name, pids in servers.items() if (own := host.assignees(pids))}
    return ({}, "") if kubelet is None or not pods else kubelet.devices(pods)


def _known(dialects: Mapping[str, Engine | None]) -> dict[str, Engine]:
    return {name: engine for name, engine in dialects.items() if engine is not None}
