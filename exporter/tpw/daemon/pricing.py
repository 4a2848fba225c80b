"""Price, carbon intensity and PUE: the feeds of a configuration, and the rules by which the ledger books.

A feed may take as long as its service takes to answer, so it is read on a thread that nothing waits for. Reading fills in a
frozen :class:`Facts`, from which the ledger's :class:`Policy` is made.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from tpw.config.schema import Config
from tpw.daemon.policy import NO_SITE, Facts, policy
from tpw.ledger.books import LONGEST_SECONDS, Books
from tpw.ledger.rows import unpriced_since
from tpw.model import SourceError, SourceStatus
from tpw.polling import SourceHealth
from tpw.snapshot import Carbon, Prices
from tpw.tariff.context import FeedContext
from tpw.tariff.curve import PriceCurve
from tpw.tariff.site import SiteReading, SiteSource

if TYPE_CHECKING:
    from tpw.carbon import IntensitySource
    from tpw.power.pue import PueQuery
    from tpw.tariff.layers import Layers

AHEAD_SECONDS = 48 * 3600.0
"""How far ahead prices are read: the next change is shown, and feeds publish the day before."""
BACK_SECONDS = 2 * 3600.0
"""How far back they are read at least: energy of the last minutes may be reported late."""

_log = structlog.get_logger("tpw")


def wanted_since(books: Books, now_seconds: float) -> float:
    """Unix time since which there is energy that may still need a price."""
    since = [now_seconds]
    for account in books.gpus.values():
        since += [piece.start_seconds for piece in account.pending[:1]]
        since += [] if account.unreported_since_seconds is None else [account.unreported_since_seconds]
    if books.resumed and books.at is not None:
        since.append(books.at.wall_seconds)
    unpriced = unpriced_since(books)
    since += [] if unpriced is None else [unpriced]
    return max(min(since), now_seconds - LONGEST_SECONDS)


class Feeds:
    """The feeds of one configuration. Nothing is read before :meth:`read`.

    Args:
        config: a valid configuration.
        new_health: makes the health record of a source by its name.
        wall: Unix time.
    """

    def __init__(self, config: Config, new_health: Callable[[str], SourceHealth], wall: Callable[[], float]) -> None:
        self._wall = wall
        state = Path(config.state.dir)
        self._prices: Layers | None = config.tariff.prices(FeedContext(wall, cache=state / "prices"))
        self._carbon: IntensitySource | None = None
        if config.carbon is not None:
            self._carbon = config.carbon.source(config.tariff.timezone, FeedContext(wall, cache=state / "carbon"))
        self._pue: PueQuery | None = None
        pue = config.facility.pue
        self._fallback_pue = float(pue if isinstance(pue, float | int) else pue.fallback)
        if not isinstance(pue, float | int):
            from tpw.power.pue import PueQuery

            self._pue = PueQuery(pue.url, pue.query, headers_file=pue.headers_file or "")
        self._site: SiteSource | None = None
        if config.site is not None:
            windows = (rules.window_seconds for rules in config.tariff.demand_rules())
            site = SiteSource(config.site, config.tariff.months(), windows, FeedContext(wall))
            self._site = site if site.is_needed else None
        feeds = {"tariff": self._prices, "carbon": self._carbon, "pue": self._pue, "site": self._site}
        self.health = {name: new_health(name) for name, feed in feeds.items() if feed is not None}
        self._lock = threading.Lock()
        self.awaited = set(self.health)
        """Names of the feeds that were never read to an end."""
        reading = SiteReading() if config.site is None else config.site.reading()
        self.facts = Facts(PriceCurve() if self._prices else None, pue=self._fallback_pue, site=reading)
        """What was reported last. A feed that is down leaves what it had reported."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of tariff, carbon, pue and site, those that are queried."""
        return tuple(self.health)

    @property
    def has_tariff(self) -> bool:
        """Whether electricity has a price at all."""
        return self._prices is not None

    def read_all(self, since_seconds: float) -> Facts:
        """Read every feed, one after the other. See :meth:`read`."""
        for name in self.names:
            self.read(name, since_seconds)
        return self.facts

    def read(self, name: str, since_seconds: float) -> None:
        """Read one feed from ``since`` (Unix seconds) into the future, which may take long. Does nothing for a feed that is
        not configured. Raises nothing: a feed that is down leaves what it had reported."""
        health = self.health.get(name)
        if health is None:
            return
        now = self._wall()
        start, end = min(since_seconds, now - BACK_SECONDS), now + AHEAD_SECONDS
        readers = {
            "tariff": self._read_prices,
            "carbon": self._read_carbon,
            "pue": self._read_pue,
            "site": self._read_site,
        }
        try:
            health.read(lambda: readers[name](start, end))
        except SourceError:
            if name == "pue":
                self._update(pue=self._fallback_pue)  # for how long the last one would hold is not known
        self.awaited.discard(name)

    def _update(self, **changes: object) -> None:
        with self._lock:  # feeds are read on several threads
            self.facts = replace(self.facts, **changes)  # type: ignore[arg-type]

    def _read_prices(self, start: float, end: float) -> None:
        source = self._prices
        assert source is not None  # noqa: S101 - has a health record
        try:
            self._update(curve=PriceCurve.from_intervals(source.intervals(start, end)))
        finally:
            self._update(contract=source.contract)
        if source.error is not None:
            raise source.error  # known prices, or a fallback, hold; the feed is reported as down all the same

    def _read_carbon(self, start: float, end: float) -> None:
        from tpw.carbon.curve import IntensityCurve

        source = self._carbon
        assert source is not None  # noqa: S101 - has a health record
        curve = IntensityCurve.from_intervals(source.intervals(start, end))
        self._update(intensities=curve, carbon_basis=str(source.basis))
        error: SourceError | None = getattr(source, "error", None)
        if error is not None:
            raise error

    def _read_pue(self, start: float, end: float) -> None:
        assert self._pue is not None  # noqa: S101 - has a health record
        self._update(pue=self._pue.read())

    def _read_site(self, start: float, end: float) -> None:
        assert self._site is not None  # noqa: S101 - has a health record
        self._update(site=self._site.read())

    def statuses(self) -> tuple[SourceStatus, ...]:
        """Of every configured feed."""
        return tuple(health.status() for health in self.health.values())

    def close(self) -> None:
        """Drop connections."""
        if self._pue is not None:
            self._pue.close()


class Pricing:
    """The rules in force, and the feeds they follow. All methods belong to the tick's thread.

    Args:
        config: a valid configuration.
        feeds: those of the configuration.
    """

    def __init__(self, config: Config, feeds: Feeds) -> None:
        self.feeds = feeds
        self.policy = policy(config, feeds.facts)
        self._timezone = config.tariff.timezone or "UTC"
        self._uncharged: tuple[str, ...] = ()

    def update(self, config: Config) -> None:
        """Book by what the feeds have reported from now on. Logs once what of the contract is not charged."""
        facts = self.feeds.facts
        self.policy = policy(config, facts)
        self._timezone = config.tariff.timezone or "UTC"
        for text in facts.contract.excluded:
            if text not in self._uncharged:
                _log.warning("contract_incomplete", detail=text)
        self._uncharged = facts.contract.excluded

    def replace(self, config: Config, feeds: Feeds) -> None:
        """Follow other feeds from now on."""
        self.feeds.close()
        self.feeds = feeds
        self.update(config)

    def prices(self, books: Books, wall_seconds: float) -> Prices:
        """The price at a moment and the next one."""
        curve = self.feeds.facts.curve
        if curve is None:
            return Prices()
        used = books.month_kwh
        now, following = (
            one and replace(one, price_per_kwh=one.price_after(used.get(one.month_start_seconds or 0.0, 0.0)), steps=())
            for one in (curve.at(wall_seconds), curve.next_change(wall_seconds))
        )
        return Prices(self.policy.currency, now, following, curve, self._timezone)

    def carbon(self, wall_seconds: float) -> Carbon | None:
        """The carbon intensity at a moment. None where it is not known."""
        facts = self.feeds.facts
        found = None if facts.intensities is None else facts.intensities.at(wall_seconds)
        return None if found is None else Carbon(facts.carbon_basis, found.grams_per_kwh, facts.intensities)

    def notes(self) -> list[str]:
        """What the operator should know, in sentences."""
        notes = [f"tariff: {text}." for text in self._uncharged]
        if self.policy.site is not None and not self.policy.site.by:
            notes.append(NO_SITE)
        if not self.feeds.has_tariff:
            notes.append("No tariff is configured, so nothing has a price: add `tariff:` to the configuration.")
        return notes
