"""Who uses the servers: reads the sources of tenants, and divides what was booked. Imported only where tenants are
configured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import Protocol

import structlog

from tpw.config.schema import Config
from tpw.config.tenants import ServerTenants, TenantSource
from tpw.daemon.periods import PeriodSums
from tpw.ledger.books import Books, ServerAccount
from tpw.ledger.counting import count
from tpw.ledger.periods import Periods
from tpw.ledger.tenants import Idle, TenantRules, by_tenant, composed, is_due, observe, settle
from tpw.model import Instant, ServerReading, SourceError, SourceStatus, TokenKind
from tpw.polling import SourceHealth
from tpw.tokens.dialects import Level
from tpw.tokens.engines import ENGINES
from tpw.tokens.scrape import ScrapeSource
from tpw.tokens.tenants import TenantReader, dialect_of, naming, usual_labels

_log = structlog.get_logger("tpw")

_TIMEOUT_SECONDS = 10.0
_PAGE_BYTES = 32 << 20
"""A page of LiteLLM with 10,000 teams has 20 MB."""

DIFFERENCE = 0.02
"""Above this two sources of a server differ."""
_FEWEST_TOKENS = 10_000.0
"""Fewer are not compared: what is in flight would be a difference."""


class _HealthOf(Protocol):
    def __call__(self, name: str) -> SourceHealth: ...


@dataclass(slots=True)
class _Page:
    """One source of one server."""

    server: str
    settings: TenantSource
    number: int
    """0: its tokens count. Others are compared."""
    health: SourceHealth
    source: ScrapeSource | None = None
    reader: TenantReader | None = None
    url: str = ""
    account: ServerAccount | None = None
    """Of a source that is compared."""
    tokens: float = 0.0
    """Counted since the first read, for the comparison."""


class Tenants:
    """The tenants of the configured servers.

    Args:
        config: the configuration.
        clock: monotonic seconds.
        wall: Unix time.
        new_health: makes the health record of a source by its name.
        address_of: the address of a server's own page; "" while it is unknown.
        new_periods: makes the sums of periods by tenant.
    """

    def __init__(
        self,
        config: Config,
        clock: Callable[[], float],
        wall: Callable[[], float],
        new_health: _HealthOf,
        address_of: Callable[[str], str],
        new_periods: Callable[[], PeriodSums],
    ) -> None:
        self._clock, self._wall = clock, wall
        self._address_of = address_of
        self._arrived: SimpleQueue[ServerReading] = SimpleQueue()
        self._timezone = config.tariff.timezone or "UTC"
        self._periods = new_periods() if any(budget.tenant is not None for budget in config.budgets) else None
        self.rules = {one.server: _rules(one) for one in config.tenants}
        self._pages = [
            _Page(one.server, source, number, new_health(_source_name(one.server, number)))
            for one in config.tenants
            for number, source in enumerate((one, *one.checks))
        ]

    def read(self) -> None:
        """Read every source. On the thread of a job; the next tick uses what was read."""
        for page in self._pages:
            began = self._clock()
            try:
                source = self._source_of(page)
                if source is None:
                    continue
                reading = _marked(source.read(), page)
            except SourceError as failure:
                page.health.failed(failure, self._clock() - began)
                continue
            page.health.succeeded(self._clock() - began)
            if page.number == 0:
                self._arrived.put(reading)
            self._compare(page, reading)

    def book(self, before: Books, books: Books, at: Instant) -> Books:
        """The books of a tick with what tenants did.

        Args:
            before: the books before the tick.
            books: those after it.
            at: its moment.
        """
        while True:
            try:
                reading = self._arrived.get_nowait()
            except Empty:
                break
            books = observe(books, reading, self.rules[reading.server], at.wall_seconds)
        return settle(books, self.rules, at.wall_seconds) if is_due(before, books, at.wall_seconds) else books

    def periods(self, before: Books, books: Books) -> Periods | None:
        """Sums of the day, week and month by tenant, for budgets; None without such a budget, and until they are read.

        Args:
            before: the books after a tick, before they were written.
            books: the same, without the rows that only the disk has from now on.
        """
        if self._periods is None:
            return None
        shown = by_tenant(books)
        return self._periods.update(shown if books is before else by_tenant(before), shown, self._timezone)

    def statuses(self) -> tuple[SourceStatus, ...]:
        """Of every source."""
        return tuple(page.health.status() for page in self._pages)

    def notes(self, books: Books) -> list[str]:
        """What the operator should know, in sentences."""
        notes = []
        counted = {page.server: page for page in self._pages if page.number == 0}
        for page in self._pages:
            first = counted[page.server]
            if page.number == 0 or not _differ(page.tokens, first.tokens):
                continue
            notes.append(
                f"tenants of {page.server}: {page.settings.source} counted {page.tokens:.0f} tokens, and"
                f" {first.settings.source}, which is booked, {first.tokens:.0f}: they should differ by less than"
                f" {DIFFERENCE:.0%}. Retries, answers from a gateway's own cache, and requests past a gateway are in"
                " one of them only."
            )
        unknown = {} if books.tenants is None else books.tenants.unknown_models
        notes += [
            f"tenants of {server}: the source counts {', '.join(sorted(models)[:5])}, which the server does not have:"
            " these tokens are nobody's. Set `match` to the labels of the series that are this server's."
            for server, models in sorted(unknown.items())
        ]
        return notes

    def close(self) -> None:
        """Drop connections. Does not wait for a read that runs."""
        for page in self._pages:
            if page.source is not None:
                page.source.close()

    def _source_of(self, page: _Page) -> ScrapeSource | None:
        """The source; None while the server's address is not known. Raises SourceError."""
        settings = page.settings
        url = settings.url or self._address_of(page.server)
        if not url or (page.source is not None and page.url == url):
            return page.source if url else None
        if page.source is not None:
            page.source.close()
        labels = settings.labels or usual_labels(settings.source)
        dialect = dialect_of(settings.source, settings.match)
        page.url = url
        page.reader = TenantReader(
            dialect, composed, partial(naming, labels, settings.names_file, settings.secret_file)
        )
        page.source = ScrapeSource(
            page.server,
            url,
            dialect,
            clock=self._clock,
            timeout_seconds=_TIMEOUT_SECONDS,
            max_bytes=_PAGE_BYTES,
            headers_file=settings.headers_file,
            model=" ",  # the page is not asked for one
            reader=page.reader,
        )
        return page.source

    def _compare(self, page: _Page, reading: ServerReading) -> None:
        """Count a source, where there is another one."""
        if sum(one.server == page.server for one in self._pages) < 2:
            return
        now = self._wall()
        before = page.account or ServerAccount(page.server, since_wall_seconds=now)
        counted = count(before, reading, before.read_wall_seconds, now)
        page.account = counted.account
        page.tokens += sum(counted.risen.values())


def _marked(reading: ServerReading, page: _Page) -> ServerReading:
    """The reading with a mark of how tenants are named in its address: by other names it is another source, and what it has
    counted so far is no use of now."""
    settings = page.settings
    limit = settings.limit if isinstance(settings, ServerTenants) else 0
    assert page.reader is not None  # noqa: S101 - made with the source
    mark = page.reader.naming.mark(repr((settings.source, sorted(settings.match.items()), limit)))
    return replace(reading, address=f"{reading.address}#{mark}")


def _source_name(server: str, number: int) -> str:
    return f"tenants:{server}" if number == 0 else f"tenants:{server}:check-{number}"


def _differ(one: float, other: float) -> bool:
    most = max(one, other)
    return most >= _FEWEST_TOKENS and abs(one - other) > DIFFERENCE * most


def _rules(settings: ServerTenants) -> TenantRules:
    weights = settings.weights
    is_gateway = ENGINES[settings.source].level is Level.GATEWAY
    return TenantRules(
        weights={}
        if weights is None
        else {
            TokenKind.INPUT: weights.input,
            TokenKind.CACHED_INPUT: weights.cached_input,
            TokenKind.OUTPUT: weights.output,
        },
        idle=Idle(settings.idle),
        owner=settings.owner or "",
        limit=settings.limit,
        is_only_server=bool(settings.match) or not is_gateway,
    )
