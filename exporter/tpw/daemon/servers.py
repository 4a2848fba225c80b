"""The inference servers that are polled: those of the configuration and those that a scan found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import structlog

from tpw.config.schema import Config, Server, Tls
from tpw.daemon import sources
from tpw.discovery.ownership import Claim
from tpw.discovery.placement import Place, is_loopback
from tpw.discovery.scan import HostScan
from tpw.ledger.books import Books
from tpw.model import OsProcess, ServerFault, ServerReading, ServerWorkload, SourceStatus
from tpw.polling import SourceHealth, TokenPoller
from tpw.tokens.dialects import Dialect
from tpw.tokens.scrape import ScrapeSource

if TYPE_CHECKING:
    from tpw.daemon.routers import Routers
    from tpw.daemon.tenants import Tenants

_log = structlog.get_logger("tpw")

_ELSEWHERE = (
    "its address is not on this node, so it is neither read nor charged here: the exporter on its node does that. To read"
    " it from here, set `remote: true` in the configuration of this node only"
)


class _HealthOf(Protocol):
    def __call__(self, name: str) -> SourceHealth: ...


class Servers:
    """Polls the servers. All methods but :meth:`dialects` belong to the tick's thread.

    Args:
        config: its dialects of the user's.
        clock: monotonic seconds.
        new_health: makes the health record of a source by its name.
        latest_scan: the newest scan.
    """

    def __init__(
        self,
        config: Config,
        clock: Callable[[], float],
        new_health: _HealthOf,
        latest_scan: Callable[[], HostScan],
    ) -> None:
        self._clock = clock
        self._latest_scan = latest_scan
        self.rows = sources.dialects(config)
        """Dialects: the user's own first."""
        self.claims: dict[str, Claim] = {}
        """What the configuration states about the GPUs of each server."""
        self._deployments: frozenset[str] = frozenset()
        """Those of the configuration with all their servers on this node."""
        self._routers: Routers | None = None
        self.tenants: Tenants | None = None
        """Who uses them; None where that is not configured."""
        self._poller = TokenPoller((), clock, health_of=new_health)
        self._sources: dict[str, ScrapeSource] = {}
        self._settings: dict[str, Server] = {}
        self._notes: dict[str, str] = {}
        self._elsewhere: set[str] = set()
        """Configured servers that are on another node."""

    def begin(self) -> None:
        """Start reading every server that is due."""
        self._poller.begin()

    def finish(self, deadline_seconds: float) -> list[ServerReading | ServerFault]:
        """What was read by a monotonic instant. Logs once what a server does not expose."""
        outcomes = self._poller.finish(deadline_seconds)
        for outcome in outcomes:
            if isinstance(outcome, ServerReading) and outcome.note != self._notes.get(outcome.server, ""):
                if outcome.note:
                    _log.warning("server_incomplete", server=outcome.server, detail=outcome.note)
                self._notes[outcome.server] = outcome.note
        return outcomes

    def statuses(self) -> tuple[SourceStatus, ...]:
        """Of every server that is polled."""
        return self._poller.statuses()

    def notes(self, books: Books, owners: Mapping[str, ServerWorkload]) -> list[str]:
        """What servers do not expose, and routers that count otherwise than their servers, in sentences.

        Args:
            books: with one account for each server.
            owners: to whom the servers belong.
        """
        notes = [f"server {name}: {_ELSEWHERE}" for name in sorted(self._elsewhere)]
        notes += [f"server {name}: {note}" for name, note in self._notes.items() if note and name in self.claims]
        if self._routers is None and self._deployments:
            from tpw.daemon.routers import Routers  # only configured deployments pay for it

            self._routers = Routers(self._clock)
        return notes if self._routers is None else notes + self._routers.notes(books, owners, self._deployments)

    def dialects(self) -> dict[str, Dialect | None]:
        """The dialect of each server, None where it is not recognised yet. From any thread."""
        return {name: source.dialect for name, source in list(self._sources.items())}

    def address_of(self, name: str) -> str:
        """Where a server is read; "" where it is not. From any thread."""
        source = self._sources.get(name)
        return "" if source is None else source.url

    def update(self, config: Config) -> None:
        """Poll the configured servers and those of the latest scan from now on. A server with the same settings keeps its
        source, with its connection and what it has recognised."""
        scan = self._latest_scan()
        configured = {server.name: server for server in config.servers}
        selected = {
            name: replace(configured[server], name=name, url=scan.addresses[name], selector=None, remote=True)
            for name, server in scan.selected.items()
            if server in configured and configured[server].selector is not None
        }
        configured = {**{name: one for name, one in configured.items() if one.selector is None}, **selected}
        self._elsewhere &= configured.keys()
        wanted = {name: server for name, server in configured.items() if self._is_read_here(server)}
        for found in scan.found:
            if found.name not in configured:
                # Its process is known from the operating system: its certificate, often self-signed, proves no more.
                tls = Tls(insecure_skip_verify=True) if found.url.startswith("https:") else None
                wanted[found.name] = Server(name=found.name, url=found.url, engine=found.engine, tls=tls)
        absent = {server.deployment for server in config.servers if server.name not in wanted}
        self._deployments = frozenset(one.deployment for one in config.servers if one.deployment) - absent
        if config.slo.targets():
            wanted = {
                name: one if one.slo is not None else replace(one, slo=config.slo) for name, one in wanted.items()
            }
        if wanted == self._settings:
            return
        by_name: dict[str, ScrapeSource] = {}
        for name, server in wanted.items():
            if server.url is None:
                continue
            source = self._sources.get(name)
            if source is None or self._settings.get(name) != server:
                source = sources.token_source(server, self.rows, self._clock, self._process_of(name, server.url))
            by_name[name] = source
        for name in wanted.keys() - self._settings.keys() - configured.keys():
            _log.info("server_found", server=name, url=wanted[name].url)
        for name in self._settings.keys() - wanted.keys():
            _log.info("server_removed", server=name)
        self._settings = wanted
        self._sources = by_name
        self.claims = {name: sources.claim(server) for name, server in wanted.items()}
        self._poller.set_sources(list(by_name.values()))

    def _is_read_here(self, server: Server) -> bool:
        """Whether a configured server is on this node, or of all nodes to be read from this one. An address other than
        loopback is not read before a scan knows where it is: all nodes of a fleet have the same configuration."""
        if server.url is None or server.remote:
            return True
        scan = self._latest_scan()
        known = scan.addresses.get(server.name) == server.url
        place = scan.places.get(server.name) if known else None
        if place is Place.ELSEWHERE:
            if server.name not in self._elsewhere:
                _log.info("server_elsewhere", server=server.name, detail=_ELSEWHERE)
            self._elsewhere.add(server.name)
        elif place is not None:
            self._elsewhere.discard(server.name)
        return place in (Place.HERE, Place.UNKNOWN) or (place is None and is_loopback(server.url))

    def replace_rows(self, rows: Sequence[Dialect]) -> None:
        """Use other dialects. Sources that were made with the old ones are made again by the next :meth:`update`."""
        self.rows = tuple(rows)
        self._settings = {}

    def close(self) -> None:
        """Drop connections. Does not wait for a read that runs."""
        self._poller.close()
        if self.tenants is not None:
            self.tenants.close()

    def _process_of(self, name: str, url: str) -> Callable[[], OsProcess | None]:
        """Finds the process that listens at a server's address; None until a scan has seen this very address."""

        def process() -> OsProcess | None:
            scan = self._latest_scan()
            return scan.processes.get(name) if scan.addresses.get(name) == url else None

        return process
