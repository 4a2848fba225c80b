"""Finds servers that are not configured among the processes of this host.

A request is sent only to a socket of a process that is named like an inference engine, or has a GPU in its tree, and
there only to a port from its command line or to an engine's usual port: never to a training job's rendezvous socket.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from urllib.parse import parse_qs, urlsplit

from tpw.discovery.engines import SELF, Engine
from tpw.discovery.naming import computes_as, listens_as, model_named, ports_named, ports_set
from tpw.discovery.ownership import Holders
from tpw.discovery.procfs import Listener, Process, ProcFs
from tpw.discovery.servernames import server_name
from tpw.discovery.sockets import SocketFinder
from tpw.discovery.table import ProcessTable
from tpw.model import ProcessIdentity, Reason, ServerWorkload, SourceError, server_of_replica

_PERHAPS_TLS = (Reason.UNREACHABLE, Reason.MALFORMED)
"""What plain HTTP meets at a socket that expects TLS."""
_GUESSES = 8
"""Listeners of one process that are probed without a hint. Tuning: engines have a few, for their ranks and caches."""
_TRANSIENT = (Reason.LOADING, Reason.UNREACHABLE, Reason.TIMEOUT)
_ENGINE = "engine"
RAY_WORKER = "ray::"
"""How Ray titles its workers, which are no descendants of their server."""
_OLLAMA = "ollama"
_AGAIN_FIRST_SECONDS = 30.0
_AGAIN_MOST_SECONDS = 900.0
_SAME_START_SECONDS = 1.5
"""The kernel's moment of booting is exact to a second, and follows the wall clock."""

Known = Mapping[str, ProcessIdentity]
"""The process of each server, as the books have it."""

Probe = Callable[[str, Sequence[Engine], Sequence[Engine]], Engine]
"""URL, known engines, engines with the process's name -> the engine at that URL. Raises SourceError."""


@dataclass(frozen=True, slots=True)
class FoundServer:
    """A server that is not configured."""

    name: str
    """See :func:`tpw.discovery.servernames.server_name`. Never an address."""
    url: str
    """The base address; the path is in the engine's row."""
    engine: str
    pid: int
    create_time: float
    """Unix seconds. With the pid it identifies the process."""


@dataclass(frozen=True, slots=True)
class StartingServer:
    """A process with an engine's name that holds a GPU and does not serve yet: it loads its model."""

    name: str
    """The name it will be found by, as far as its command line shows; that of the configured server with its port."""
    pids: frozenset[int]


@dataclass(frozen=True, slots=True)
class _Refusal:
    again_at_seconds: float
    wait_seconds: float
    problem: str
    is_final: bool = True
    """False while the process may still be starting."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A socket that may be a server's. ``engines`` have its process's name; empty if only its tree holds a GPU."""

    process: Process
    listener: Listener
    engines: tuple[Engine, ...]
    is_guess: bool = False
    """Whether nothing names its port: an engine's listener that is probed once."""


class ServerFinder:
    """Remembers the servers of the last scan, and when to probe a socket again that is not one.

    Args:
        fs: the procfs.
        sockets: its sockets.
        dialects: known engines.
        probe: recognises the engine at a URL; None relies on process names alone.
        clock: monotonic seconds.
        report: called with a sentence for each problem.
        identify: to whom a process belongs.
    """

    def __init__(
        self,
        fs: ProcFs,
        sockets: SocketFinder,
        dialects: Sequence[Engine],
        probe: Probe | None,
        clock: Callable[[], float],
        report: Callable[[str], None],
        identify: Callable[[int], ServerWorkload],
    ) -> None:
        self._identify = identify
        self._fs = fs
        self._sockets = sockets
        self._dialects = tuple(dialects)
        self._probe = probe
        self._clock = clock
        self._report = report
        self._found: dict[int, FoundServer] = {}
        self._refused: dict[int, _Refusal] = {}
        self._kept: dict[tuple[int, int], str] = {}
        """The name of each process: a replica has the same from its start to its end."""
        self._known: Known = {}
        self._candidate_pids: dict[int, int] = {}
        """Process of each socket that may be a server's."""

    def find(
        self, table: ProcessTable, holders: Holders, configured: Mapping[str, str], known: Known | None = None
    ) -> list[FoundServer]:
        """Servers that are not configured, ordered by name. A server that was found before is not probed again.

        Args:
            table: the processes.
            holders: process ids by GPU, from the driver.
            configured: address by name of the configured servers, which are skipped.
            known: processes of servers that were found before this process started.
        """
        self._check(table, holders)
        self._known = known or {}
        self._kept = {process: name for process, name in self._kept.items() if table.is_same(*process)}
        sockets = [one for url in configured.values() for one in self._sockets.at(url, table) or ()]
        served = {pid for one in sockets for pid in one.pids} | self._behind_routers(table, configured)
        handled = {one.listener.inode for one in sockets}
        servers: dict[int, FoundServer] = {}
        candidates = self._candidates(table, holders)
        before = {one.listener.inode: found for one in candidates if (found := self._found_before(one)) is not None}
        names = {*configured, *(found.name for found in before.values())}
        inodes = {one.listener.inode for one in candidates}
        self._candidate_pids = {one.listener.inode: one.process.pid for one in candidates}
        self._refused = {inode: refusal for inode, refusal in self._refused.items() if inode in inodes}
        for candidate in candidates:
            inode, pid = candidate.listener.inode, candidate.process.pid
            if inode in handled or pid in served or self._is_inside(table, candidate, served):
                continue
            handled.add(inode)
            found = before.get(inode) or self._recognise(table, candidate, names)
            if found is not None:
                servers[inode] = found
                names.add(found.name)
                served.add(pid)
                handled |= self._same_port(candidate)
        self._found = servers
        self._report_unread(table, holders, served)
        return sorted(servers.values(), key=lambda server: server.name)

    def starting(
        self, table: ProcessTable, holders: Holders, configured: Mapping[str, str], served: Collection[int]
    ) -> list[StartingServer]:
        """Servers that are not ready yet, ordered by name. To be called after :meth:`find`.

        Args:
            table: the processes.
            holders: process ids by GPU, from the driver.
            configured: address by name of the configured servers.
            served: processes of servers that listen already.
        """
        holding = {pid for pids in holders.values() for pid in pids or () if pid in table}
        refused = {pid for inode, pid in self._candidate_pids.items() if self._is_refused(inode)}
        names = {found.name for found in self._found.values()}
        loading = self.loading(table, holders, served)
        found: list[StartingServer] = []
        for pid in sorted(table.tree(holding) - {os.getpid()}):
            engines = self._named_like(table[pid])
            # Up to what also started another server, as a launcher of several does: that one is not this server.
            others = (loading - table.descendants(pid) - set(table.lineage(pid))).union(served)
            tree = table.tree([pid], engines[0].processes.climb, others=others) if engines else frozenset[int]()
            if holding.isdisjoint(tree) or not tree.isdisjoint(refused) or not tree.isdisjoint(served):
                continue
            if any(not tree.isdisjoint(other.pids) for other in found):
                continue
            port = min(ports_named(table[pid].argv), default=engines[0].port)
            name = next((name for name, url in configured.items() if _local_port(url) == port), None)
            name = name or self._named(table, pid, engines[0].name, port, names)
            if name not in names:
                names.add(name)
                found.append(StartingServer(name, tree))
        return sorted(found, key=lambda one: one.name)

    def loading(self, table: ProcessTable, holders: Holders, listening: Collection[int]) -> frozenset[int]:
        """Processes with an engine's name that started what holds a GPU, and none of those that listen: each is the top of
        a server that is not ready yet."""
        tops = {above for pids in holders.values() for pid in pids or () for above in table.lineage(pid)}
        return frozenset(
            pid for pid in tops if self._named_like(table[pid]) and table.descendants(pid).isdisjoint(listening)
        )

    def _named_like(self, process: Process) -> tuple[Engine, ...]:
        return tuple(one for one in listens_as(process, self._dialects) if one.level == _ENGINE)

    def _report_unread(self, table: ProcessTable, holders: Holders, served: Collection[int]) -> None:
        """A sentence for each engine that holds a GPU and has no page at all."""
        holding = {pid for pids in holders.values() for pid in pids or () if pid in table}
        listening = set(self._candidate_pids.values())
        seen: set[int] = set()
        for pid in sorted(holding):
            process = table[pid]
            if process.comm.startswith(RAY_WORKER):  # the server of its container is read, or that of another pod
                continue
            engines = [
                one
                for one in self._dialects
                if one.level == _ENGINE and (computes_as(process, (one,)) or listens_as(process, (one,)))
            ]
            tree = table.tree([pid])
            if not engines or not tree.isdisjoint(seen | listening) or not tree.isdisjoint(served):
                continue
            seen |= tree
            self._report(
                f"{process.comm} (pid {pid}) holds a GPU and is not read: it has no page here; {engines[0].enable}"
            )

    def _is_refused(self, inode: int) -> bool:
        refusal = self._refused.get(inode)
        return refusal is not None and refusal.is_final

    def _behind_routers(self, table: ProcessTable, configured: Mapping[str, str]) -> set[int]:
        """Children that a configured address reaches through their router: llama-server, if the URL names a model."""
        found: set[int] = set()
        for url in configured.values():
            models = parse_qs(urlsplit(url).query).get("model", ())
            sockets = self._sockets.at(url, table) if models else None
            routers = frozenset(pid for one in sockets or () for pid in one.pids)
            for pid in table.tree(routers, SELF) - routers:
                if model_named(table[pid].argv) in models:
                    found.add(pid)
        return found

    def _is_inside(self, table: ProcessTable, candidate: _Candidate, served: set[int]) -> bool:
        """Whether a process without an engine's name is in the tree of a known server."""
        return not candidate.engines and not served.isdisjoint(table.tree([candidate.process.pid]))

    def _same_port(self, candidate: _Candidate) -> set[int]:
        """Sockets on the port of this one (several API servers of one vLLM: SO_REUSEPORT)."""
        listener = candidate.listener
        return {
            one.inode
            for one in self._sockets.listeners(candidate.process.pid)
            if one.port == listener.port and one.address == listener.address
        }

    def _candidates(self, table: ProcessTable, holders: Holders) -> list[_Candidate]:
        """Sockets that may be a server's: first of processes named like an engine, then of trees that hold a GPU."""
        named: dict[int, tuple[Engine, ...]] = {}
        for pid, process in table.items():
            engines = self._named_like(process)
            if engines:
                named[pid] = engines
        holding = {pid for pids in holders.values() for pid in pids or () if pid in table}
        near = {pid for pid in table.tree(holding) if not computes_as(table[pid], self._dialects)}
        found = [
            candidate
            for pid in (named.keys() | near) - {os.getpid()}
            for candidate in self._likely(table, table[pid], named.get(pid, ()))
        ]
        return sorted(found, key=lambda one: (one.is_guess, not one.engines, one.listener.port, one.process.pid))

    def _likely(self, table: ProcessTable, process: Process, engines: tuple[Engine, ...]) -> list[_Candidate]:
        """A process's listening sockets that may have a metrics page: on a port that its command line or environment names
        or that is usual, and a few others of an engine."""
        named = ports_named(process.argv) | ports_set(self._fs.environment(process.pid))
        usual = {port for one in engines or self._dialects for port in (one.port, *one.other_ports) if port is not None}
        held = self._sockets.held_listeners(process.pid, table)
        likely = [one for one in held if one.port in named or one.port in usual]
        if not likely and engines and len({one.port for one in held}) == 1:
            likely = held
        others = [one for one in held if one not in likely][:_GUESSES] if engines else []
        likely = [*likely, *(self._sockets.unix_named(process) if engines else ())]
        return [_Candidate(process, one, engines) for one in likely] + [
            _Candidate(process, one, engines, is_guess=True) for one in others
        ]

    def _found_before(self, candidate: _Candidate) -> FoundServer | None:
        """The server that the last scan found at this socket, if its process is the same."""
        found = self._found.get(candidate.listener.inode)
        if found is None or found.pid != candidate.process.pid:
            return None
        return found if found.create_time == self._fs.started_wall_seconds(candidate.process) else None

    def _recognise(self, table: ProcessTable, candidate: _Candidate, names: Collection[str]) -> FoundServer | None:
        """Probe a socket for a server. ``names`` exist already."""
        inode, port, process = candidate.listener.inode, candidate.listener.port, candidate.process
        now = self._clock()
        refusal = self._refused.get(inode)
        if refusal is not None and now < refusal.again_at_seconds:
            if refusal.problem:
                self._report(refusal.problem)
            return None
        urls = self._sockets.urls_for(candidate.listener, process.pid)
        if not urls:
            if candidate.engines:
                self._report(
                    f"{process.comm} (pid {process.pid}) listens on {candidate.listener.address}:{port} of another network"
                    " namespace, which cannot be reached from here: make it listen on an address of its container, or run"
                    " the exporter in that network namespace"
                )
            return None
        url = urls[0]
        dialect: Engine | None
        if self._probe is None:
            dialect = candidate.engines[0] if len(candidate.engines) == 1 else None
        else:
            dialect = None
            for address in urls:
                try:
                    dialect, url = self._probe_at(address, candidate, tls=address == urls[-1])
                    break
                except SourceError as failure:
                    url = address
                    if failure.reason is Reason.UNREACHABLE and address != urls[-1]:
                        continue
                    self._refuse(candidate, url, failure)
                    return None
        if dialect is None:
            return None
        if dialect.level != _ENGINE:
            # A gateway's tokens are its engines' tokens.
            self._refused[inode] = _Refusal(now + _AGAIN_MOST_SECONDS, _AGAIN_MOST_SECONDS, "")
            return None
        self._refused.pop(inode, None)
        name = self._name(table, candidate, dialect, names)
        return FoundServer(name, url, dialect.name, process.pid, self._fs.started_wall_seconds(process))

    def _probe_at(self, url: str, candidate: _Candidate, *, tls: bool) -> tuple[Engine, str]:
        """The engine at an address, and the address: https where plain HTTP ends at once and ``tls`` may be tried. Raises
        SourceError."""
        assert self._probe is not None  # noqa: S101 - the caller has one
        try:
            return self._probe(url, self._dialects, candidate.engines), url
        except SourceError as plain:
            if not tls or plain.reason not in _PERHAPS_TLS or candidate.listener.path:
                raise
            secure = url.replace("http:", "https:", 1)
            try:
                return self._probe(secure, self._dialects, candidate.engines), secure
            except SourceError as failure:
                # An answer over TLS is the reason; no TLS is none.
                raise failure if failure.reason not in _PERHAPS_TLS else plain from None

    def _name(self, table: ProcessTable, candidate: _Candidate, dialect: Engine, names: Collection[str]) -> str:
        process = candidate.process
        parent = table.get(process.parent)
        model, engine = model_named(process.argv) if parent is not None else "", dialect.name
        if parent is not None and model and (parent.comm == _OLLAMA or listens_as(parent, (dialect,))):
            # A server starts one of these for each loaded model, each time on another port.
            engine = _OLLAMA if parent.comm == _OLLAMA else engine
        else:
            model = ""
        listener = candidate.listener
        place = listener.path.rpartition("/")[2].removesuffix(".sock") or listener.port
        return self._named(table, process.pid, engine, place, names, model)

    def _named(
        self,
        table: ProcessTable,
        pid: int,
        engine: str,
        port: int | str | None,
        names: Collection[str],
        model: str = "",
    ) -> str:
        owner = self._identify(pid)
        is_alone = len(self._engine_containers(table, owner)) < 2
        is_ours = self._fs.network(pid) == self._fs.network()
        process = pid, table[pid].started_ticks

        def named(taken: Collection[str]) -> str:
            return server_name(owner, engine, port, taken, model=model, is_alone=is_alone, shares_network=is_ours)

        kept = self._kept.get(process) or self._known_as(table[pid])
        if kept is None or kept in names or server_of_replica(kept) != named(()):
            kept = named({*names, *(name for other, name in self._kept.items() if other != process)})
        self._kept[process] = kept
        return kept

    def _known_as(self, process: Process) -> str | None:
        """The server with this process in the books."""
        started = self._fs.started_wall_seconds(process)
        apart = {
            name: abs(identity.started_wall_seconds - started)
            for name, identity in self._known.items()
            if identity.pid in (None, process.pid)
        }
        nearest = min(apart, key=lambda name: apart[name], default=None)
        return nearest if nearest is not None and apart[nearest] < _SAME_START_SECONDS else None

    def _engine_containers(self, table: ProcessTable, owner: ServerWorkload) -> set[str]:
        """Containers of a pod with processes that are named like an engine."""
        if not owner.pod:
            return set()
        owners = (self._identify(pid) for pid, process in table.items() if listens_as(process, self._dialects))
        return {one.container for one in owners if (one.namespace, one.pod) == (owner.namespace, owner.pod)}

    def _refuse(self, candidate: _Candidate, url: str, failure: SourceError) -> None:
        """Delay the next probe: longer each time, but not while the server is starting."""
        if candidate.is_guess and failure.reason is not Reason.LOADING:
            self._refused[candidate.listener.inode] = _Refusal(inf, inf, "")
            return
        before = self._refused.get(candidate.listener.inode)
        wait = min(before.wait_seconds * 2, _AGAIN_MOST_SECONDS) if before else _AGAIN_FIRST_SECONDS
        if failure.reason in _TRANSIENT:
            wait = 0.0
        problem = ""
        if candidate.engines:
            process = candidate.process
            problem = f"{process.comm} (pid {process.pid}) at {url} is not read: {failure.detail}"
            problem += f"; {failure.hint}" if failure.hint else ""
            self._report(problem)
        self._refused[candidate.listener.inode] = _Refusal(
            self._clock() + wait, wait or _AGAIN_FIRST_SECONDS, problem, is_final=failure.reason not in _TRANSIENT
        )

    def _check(self, table: ProcessTable, holders: Holders) -> None:
        pids = {pid for holding in holders.values() for pid in holding or ()}
        if pids and not any(pid in table for pid in pids):
            self._report(
                "none of the processes that the driver lists on the GPUs is visible: run the exporter in the host's pid"
                " namespace (hostPID: true, --pid=host), or list each server's `gpus`"
            )


def _local_port(url: str) -> int | None:
    """The port of an address on this host's loopback; None for other addresses."""
    parts = urlsplit(url)
    if parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        return None
    return parts.port or (443 if parts.scheme == "https" else 80)
