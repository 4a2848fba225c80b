"""From an address to its listening sockets, in any network namespace, and to the processes that hold them."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from tpw.discovery.engines import Engine
from tpw.discovery.inference import likely_holders
from tpw.discovery.placement import Place
from tpw.discovery.procfs import Address, Listener, Process, ProcFs
from tpw.discovery.table import ProcessTable
from tpw.discovery.workload import parse
from tpw.http.messages import UNIX, socket_of

_RESOLVED_FOR_SECONDS = 300.0
_IN_CONTAINER = re.compile(r".*/(\d+)/root(/.+)")
_LOOPBACK = frozenset((ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")))

Resolve = Callable[[str], Iterable[str]]
"""Host name to addresses. Raises OSError."""


@dataclass(frozen=True, slots=True)
class HeldSocket:
    """One listening socket, the processes that hold it, and a process of its network namespace."""

    listener: Listener
    through: int | str
    pids: tuple[int, ...]


class SocketFinder:
    """Finds sockets in one procfs. Remembers the holders of a socket, because searching for them is expensive.

    Args:
        fs: the procfs.
        clock: monotonic seconds.
        report: called with a sentence for what could not be read.
        resolve: host name to addresses.
        engines: known engines.
    """

    def __init__(
        self,
        fs: ProcFs,
        clock: Callable[[], float],
        report: Callable[[str], None],
        resolve: Resolve | None = None,
        engines: Sequence[Engine] = (),
    ) -> None:
        self._fs = fs
        self._clock = clock
        self._report = report
        self._resolve = resolve or _resolved
        self._engines = tuple(engines)
        self._at: dict[str, list[HeldSocket] | None] = {}
        self._held: dict[int, frozenset[int] | None] = {}
        self._denied: dict[str, list[Process]] | None = None
        self._tables: dict[str, list[Listener]] = {}
        self._own_inodes: frozenset[int] | None = None
        self._own_addresses: frozenset[Address] | None = None
        self._owners: dict[int, tuple[tuple[int, int], ...]] = {}
        self._owners_before: dict[int, tuple[tuple[int, int], ...]] = {}
        self._names: dict[str, tuple[float, frozenset[Address]]] = {}

    def forget(self) -> None:
        """Start a new scan."""
        # Sockets of the last scan are likely to be needed in this one; no others are remembered.
        self._owners_before, self._owners = self._owners, {}
        self._at = {}
        self._held = {}
        self._denied = None
        self._tables = {}
        self._own_inodes = None
        self._own_addresses = None

    def at(self, url: str, table: ProcessTable) -> list[HeldSocket] | None:
        """Listening sockets of an address; None if it is not of this host."""
        if url not in self._at:
            self._at[url] = self._found_at(url, table)
        return self._at[url]

    def place(self, url: str, table: ProcessTable) -> Place:
        """Whether an address is of this node, or of a container on it. A host name with several addresses is of this node
        if all of them are: else it names servers of several nodes."""
        if url.startswith(UNIX):
            return Place.HERE
        addresses = {one for one in self._addresses_of(urlsplit(url).hostname or "") if not one.is_link_local}
        if not addresses:
            return Place.UNKNOWN
        if any(one.is_loopback or one.is_unspecified for one in addresses) or addresses <= self._addresses():
            return Place.HERE
        namespaces = {network: pid for pid in table if (network := self._fs.network(pid)) is not None}
        if addresses <= self._addresses().union(*(self._fs.addresses(pid) for pid in namespaces.values())):
            return Place.HERE
        return Place.ELSEWHERE if table.shows_host() else Place.UNKNOWN

    def unix_named(self, process: Process) -> list[Listener]:
        """Listening Unix sockets that a process names on its command line. Engines have others, for their own use."""
        words = [word.partition("=")[2] or word for word in process.argv]
        if not any(word.startswith("/") for word in words) or not any(map(_names_socket, process.argv)):
            return []
        return [one for one in self._fs.unix_listeners(process.pid) if one.path in words]

    def _found_at(self, url: str, table: ProcessTable) -> list[HeldSocket] | None:
        if url.startswith(UNIX):
            return self._unix_at(url, table)
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        addresses = self._addresses_of(parts.hostname or "")
        if any(a.is_loopback or a.is_unspecified for a in addresses) or not addresses.isdisjoint(self._addresses()):
            ours = self._listening("self", addresses, port, table)
            if ours:
                return self._through_proxy(ours, table)
            # A port that a container runtime forwards in the kernel has no socket here.
            elsewhere = self._elsewhere(None, port, table)
            return elsewhere if len({one.through for one in elsewhere}) == 1 else []
        return self._elsewhere(addresses, port, table) or None

    def _unix_at(self, url: str, table: ProcessTable) -> list[HeldSocket]:
        """The sockets with the path of an address; one in a container is named through a process of it."""
        path = socket_of(url)[0]
        inside = _IN_CONTAINER.fullmatch(path) if path.startswith(self._fs.root) else None
        through: int | str = int(inside[1]) if inside else "self"
        matching = [one for one in self._fs.unix_listeners(through) if one.path == (inside[2] if inside else path)]
        found = self._searched({one.inode for one in matching}, table)
        return [HeldSocket(one, through, found.get(one.inode) or _first_naming(one, table)) for one in matching]

    def listeners(self, through: int | str = "self") -> list[Listener]:
        """All listening sockets of a process's network namespace, read once per scan: the kernel walks all its hash
        buckets, which takes milliseconds on a large machine."""
        network = self._fs.network(through) or f"of {through}"
        if network not in self._tables:
            self._tables[network] = self._fs.listeners(through)
        return self._tables[network]

    def held_listeners(self, pid: int, table: ProcessTable) -> list[Listener]:
        """Listening sockets that a process holds, as far as its open files or the evidence about it show."""
        held = self.held(pid)
        listeners = self.listeners(pid)
        if held is not None:
            return [one for one in listeners if one.inode in held]
        holders = self._holders(listeners, pid, table)
        return [one for one in listeners if pid in holders.get(one.inode, ())]

    def held(self, pid: int) -> frozenset[int] | None:
        """Inodes of all sockets that a process holds, read once per scan; None without permission."""
        if pid not in self._held:
            self._held[pid] = self._fs.sockets(pid)
        return self._held[pid]

    def is_ours(self, listener: Listener) -> bool:
        """Whether a socket is in the network namespace of this process (socket inodes are unique on a host)."""
        if self._own_inodes is None:
            self._own_inodes = frozenset(one.inode for one in self.listeners())
        return listener.inode in self._own_inodes

    def urls_for(self, listener: Listener, pid: int) -> tuple[str, ...]:
        """Addresses that reach a socket from here, the likeliest first; none if it listens on the loopback of another
        namespace. Two for a socket on ``::``, which may accept IPv4 or not."""
        if listener.path:
            is_ours = self._fs.network(pid) == self._fs.network()
            return (f"{UNIX}{listener.path}" if is_ours else f"{UNIX}{self._fs.root}/{pid}/root{listener.path}",)
        return tuple(f"http://{host}:{listener.port}" for host in self._hosts_for(listener, pid))

    def _hosts_for(self, listener: Listener, pid: int) -> tuple[str, ...]:
        address = listener.address
        if not address.is_unspecified:
            return () if address.is_loopback and not self.is_ours(listener) else (_text(address),)
        there = _LOOPBACK if self.is_ours(listener) else self._fs.addresses(pid)
        firsts = [min((one for one in there if one.version == version), key=int, default=None) for version in (4, 6)]
        return tuple(_text(one) for one in firsts[: 2 if address.version == 6 else 1] if one is not None)

    def _listening(
        self, through: int | str, addresses: frozenset[Address] | None, port: int, table: ProcessTable
    ) -> list[HeldSocket]:
        """Sockets in the namespace of a process, with their holders among all processes."""
        matching = [
            one
            for one in self.listeners(through)
            if one.port == port and (one.address.is_unspecified or addresses is None or one.address in addresses)
        ]
        holders = self._holders(matching, through, table) if matching else {}
        for one in matching:
            if not holders.get(one.inode) and self._denied_in(through, table):
                self._report(
                    f"port {port}: which process listens there is unknown, so the GPUs of its server are: the open files"
                    " of processes of other users cannot be read, and several programs may listen there. Start the"
                    " server with its port as an argument (--port), list its `gpus`, or run the exporter with"
                    " CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
                )
        return [HeldSocket(one, through, holders.get(one.inode, ())) for one in matching]

    def _through_proxy(self, sockets: list[HeldSocket], table: ProcessTable) -> list[HeldSocket]:
        """A container's published port may be held by a proxy on the host: follow it to its target."""
        for one in sockets:
            for pid in one.pids:
                target = proxy_target(table[pid].argv)
                if target is not None:
                    return self._elsewhere(frozenset((target[0],)), target[1], table) or sockets
        return sockets

    def _elsewhere(self, addresses: frozenset[Address] | None, port: int, table: ProcessTable) -> list[HeldSocket]:
        """Sockets on a port in other network namespaces: in those that have one of the addresses, or in any."""
        own = self._fs.network()
        namespaces: dict[str, int] = {}
        for pid in table:
            network = self._fs.network(pid)
            if network is not None and network != own:
                namespaces.setdefault(network, pid)
        found = []
        for pid in namespaces.values():
            if addresses is None or not addresses.isdisjoint(self._fs.addresses(pid)):
                found += self._listening(pid, addresses, port, table)
        return found

    def _holders(
        self, listeners: Sequence[Listener], through: int | str, table: ProcessTable
    ) -> dict[int, tuple[int, ...]]:
        """Which processes hold these sockets of a namespace. Those that held them before are read first."""
        found: dict[int, tuple[int, ...]] = {}
        inodes = {one.inode for one in listeners}
        for inode in inodes:
            before = self._owners.get(inode) or self._owners_before.get(inode, ())
            if before and all(table.is_same(pid, ticks) and self._may_hold(pid, inode) for pid, ticks in before):
                found[inode] = tuple(pid for pid, _ in before)
        missing = inodes - found.keys()
        if missing:
            found.update(self._searched(missing, table))
        denied = self._denied_in(through, table) if missing - found.keys() else []
        for listener in listeners:
            if denied and listener.inode not in found:
                found[listener.inode] = likely_holders(
                    listener, denied, self._engines, self._fs.owner, lambda pid: parse(self._fs.cgroup(pid))
                )
        for inode, pids in found.items():
            self._owners[inode] = tuple((pid, table[pid].started_ticks) for pid in pids)
        return found

    def _may_hold(self, pid: int, inode: int) -> bool:
        held = self.held(pid)
        return held is None or inode in held

    def _searched(self, inodes: set[int], table: ProcessTable) -> dict[int, tuple[int, ...]]:
        holding: dict[int, list[int]] = {}
        for pid in table:
            for inode in inodes & (self.held(pid) or frozenset()):
                holding.setdefault(inode, []).append(pid)
        return {inode: tuple(pids) for inode, pids in holding.items()}

    def _denied_in(self, through: int | str, table: ProcessTable) -> list[Process]:
        """Processes of a namespace with open files that cannot be read."""
        if self._denied is None:
            self._denied = {}
            for pid, process in table.items():
                if process.argv and self.held(pid) is None:
                    self._denied.setdefault(self._fs.network(pid) or "", []).append(process)
        return self._denied.get(self._fs.network(through) or "", [])

    def _addresses(self) -> frozenset[Address]:
        if self._own_addresses is None:
            self._own_addresses = self._fs.addresses()
        return self._own_addresses

    def _addresses_of(self, host: str) -> frozenset[Address]:
        try:
            return frozenset((ipaddress.ip_address(host),))
        except ValueError:
            pass
        if host == "localhost":
            return _LOOPBACK
        known, now = self._names.get(host), self._clock()
        if known is None or now - known[0] >= _RESOLVED_FOR_SECONDS:
            try:
                known = (now, frozenset(ipaddress.ip_address(text) for text in self._resolve(host)))
            except (OSError, ValueError):
                known = (now, frozenset())
            self._names[host] = known
        return known[1]


def proxy_target(argv: Sequence[str]) -> tuple[Address, int] | None:
    """The target of Docker's userland proxy, from its command line; None for any other process."""
    if not argv or argv[0].rpartition("/")[2] != "docker-proxy":
        return None
    try:
        address = ipaddress.ip_address(argv[argv.index("-container-ip") + 1])
        return address, int(argv[argv.index("-container-port") + 1])
    except (ValueError, IndexError):
        return None


def _first_naming(listener: Listener, table: ProcessTable) -> tuple[int, ...]:
    """The oldest process that names the path of a socket: that holds it, if open files cannot be read."""
    pids = [pid for pid in table if any(word.endswith(listener.path) for word in table[pid].argv)]
    return tuple(sorted(pids, key=lambda pid: table[pid].started_ticks)[:1])


def _names_socket(word: str) -> bool:
    """Whether a word of a command line is about a Unix socket: uvicorn's ``--uds``, a path of llama-server's ``--host``."""
    return word.startswith("--uds") or word.endswith(".sock")


def _text(address: Address) -> str:
    return f"[{address}]" if address.version == 6 else str(address)


def _resolved(host: str) -> Iterable[str]:
    return {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
