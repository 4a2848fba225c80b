"""One scan of this host, as a value: which servers are here, which processes are whose, since when they run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tpw.discovery.engines import Engine
from tpw.discovery.environment import Visible, allowed
from tpw.discovery.kubelet import Checkpoint, given
from tpw.discovery.ownership import Assigned, Holders, held_by
from tpw.discovery.processes import FoundServer, HostProcesses, OsProcess
from tpw.model import Attribution, Gpu


@dataclass(frozen=True, slots=True)
class Census:
    """What one scan saw. ``pids`` has None for a server whose address is not of this host."""

    found: tuple[FoundServer, ...] = ()
    pids: Mapping[str, frozenset[int] | None] = field(default_factory=dict)
    processes: Mapping[str, OsProcess | None] = field(default_factory=dict)
    """Who listens, by server."""
    problems: tuple[str, ...] = ()
    blind: frozenset[str] = frozenset()
    """GPUs of which the driver does not tell here who holds them."""
    visible: Mapping[str, tuple[Visible, ...]] = field(default_factory=dict)
    """What the processes of servers that hold nothing, as far as the driver tells, were allowed."""
    devices: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """What the kubelet gave to the pods of those servers."""
    addresses: Mapping[str, str] = field(default_factory=dict)
    """Where each server was looked for."""

    def assigned(self, server: str, gpus: Sequence[Gpu]) -> tuple[Assigned | None, tuple[str, ...]]:
        """The GPUs of a server whose processes the driver's lists do not show, and in words what is unclear. By the
        kubelet, else by the environment; only boards of which the driver does not tell who holds them."""
        told = (
            (Attribution.KUBERNETES, given(self.devices.get(server, frozenset()), gpus)),
            (Attribution.ENVIRONMENT, allowed(self.visible.get(server, ()), gpus)),
        )
        for method, found in told:
            mine = found.gpus & self.blind
            if mine:
                return Assigned(mine, method), found.problems
        return None, tuple(problem for _, found in told for problem in found.problems)

    def foreign(self, server: str) -> frozenset[int]:
        """Processes of all other servers."""
        return frozenset().union(*(pids for name, pids in self.pids.items() if name != server and pids))


def take(
    host: HostProcesses,
    configured: Mapping[str, str],
    dialects: Mapping[str, Engine | None],
    holders: Holders,
    *,
    find: bool,
    kubelet: Checkpoint | None = None,
) -> Census:
    """Scan the host.

    Args:
        host: its processes.
        configured: address by name of the configured servers.
        dialects: engine by name of the servers, as far as it is known.
        holders: process ids by GPU, from the driver.
        find: whether to look for servers that are not configured.
        kubelet: where it keeps what it gave to which pod.
    """
    host.refresh()
    found = tuple(host.find_servers(holders, configured)) if find else ()
    addresses = {**configured, **{server.name: server.url for server in found if server.name not in configured}}
    engines = {**{server.name: host.engine(server.engine) for server in found}, **_known(dialects)}
    listening = {name: host.owner_pids(url) for name, url in addresses.items()}
    pids = {}
    for name, url in addresses.items():
        others = frozenset().union(*(of for other, of in listening.items() if other != name and of))
        pids[name] = host.server_pids(url, engines.get(name), others=others)
    doubles = _doubles(configured, listening)
    blind = host.blind(holders)
    unknown = {name: of for name, of in pids.items() if of and not held_by(of, holders)} if blind else {}
    visible = {name: host.visible(of) for name, of in unknown.items()}
    devices, problem = _devices(host, unknown, kubelet)
    return Census(
        found,
        pids,
        {name: host.process_at(url) for name, url in addresses.items()},
        (*host.problems, *doubles, *([problem] if problem else [])),
        blind,
        {name: told for name, told in visible.items() if told},
        devices,
        addresses,
    )


def _doubles(configured: Mapping[str, str], listening: Mapping[str, frozenset[int] | None]) -> list[str]:
    """Configured servers that seem to be one, in words. Pages that differ by their query are several models behind one."""
    seen: dict[tuple[frozenset[int], str], str] = {}
    found = []
    for name, url in configured.items():
        pids = listening[name]
        # Servers inside this very process are those of the demo: they are two.
        if not pids or os.getpid() in pids:
            continue
        other = seen.setdefault((pids, urlsplit(url).query), name)
        if other != name:
            process = "process" if len(pids) == 1 else "processes"
            found.append(
                f"servers {other} and {name} are served by the same {process} ({', '.join(map(str, sorted(pids)))}): if"
                " they are one server at two addresses its tokens are counted twice; then leave one of them out of the"
                " configuration"
            )
    return found


def _devices(
    host: HostProcesses, servers: Mapping[str, frozenset[int]], kubelet: Checkpoint | None
) -> tuple[Mapping[str, frozenset[str]], str]:
    """What the kubelet gave to the pods of these servers."""
    pods = {name: host.pods(pids) for name, pids in servers.items()}
    if kubelet is None or not any(pods.values()):
        return {}, ""
    devices, problem = kubelet.devices()
    given_to = {name: frozenset().union(*(devices.get(pod, ()) for pod in of)) for name, of in pods.items()}
    return {name: identifiers for name, identifiers in given_to.items() if identifiers}, problem


def _known(dialects: Mapping[str, Engine | None]) -> dict[str, Engine]:
    return {name: engine for name, engine in dialects.items() if engine is not None}
