"""One scan of this host, as a value: which servers are here, which processes are whose, since when they run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tpw.discovery.engines import Engine
from tpw.discovery.ownership import Holders
from tpw.discovery.processes import FoundServer, HostProcesses, OsProcess


@dataclass(frozen=True, slots=True)
class Census:
    """What one scan saw. ``pids`` has None for a server whose address is not of this host."""

    found: tuple[FoundServer, ...] = ()
    pids: Mapping[str, frozenset[int] | None] = field(default_factory=dict)
    processes: Mapping[str, OsProcess | None] = field(default_factory=dict)
    """Who listens, by server."""
    problems: tuple[str, ...] = ()

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
) -> Census:
    """Scan the host.

    Args:
        host: its processes.
        configured: address by name of the configured servers.
        dialects: engine by name of those, as far as it is known.
        holders: process ids by GPU, from the driver.
        find: whether to look for servers that are not configured.
    """
    host.refresh()
    found = tuple(host.find_servers(holders, configured)) if find else ()
    addresses = {**configured, **{server.name: server.url for server in found if server.name not in configured}}
    listening = {name: host.owner_pids(url) for name, url in addresses.items()}
    pids = {}
    for name, url in addresses.items():
        others = frozenset().union(*(of for other, of in listening.items() if other != name and of))
        pids[name] = host.server_pids(url, dialects.get(name), others=others)
    return Census(found, pids, {name: host.process_at(url) for name, url in addresses.items()}, host.problems)
