"""Putting another configuration in force while the daemon runs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from tpw.config.schema import Config
from tpw.daemon import sources
from tpw.daemon.persistence import check_currency
from tpw.daemon.pricing import Feeds, wanted_since

if TYPE_CHECKING:
    from tpw.daemon.node import Node

_log = structlog.get_logger("tpw")

TENANTS_SECONDS = 15.0
"""Between two reads of who uses the servers. Tuning: servers are divided once a minute; a page with thousands of tenants
takes a tenth of a second."""

_AT_START_ONLY = ("state", "web", "log")
"""Sections that take effect at the next start."""


def prepare(node: Node, config: Config, now_seconds: float) -> Feeds:
    """Check a configuration and read its feeds, which may take long: not on the tick's thread.

    Raises:
        CurrencyError, ValueError: it cannot be put in force.
    """
    check_currency(node.books, config)
    sources.check(config)
    feeds = node.new_feeds(config)
    feeds.read_all(wanted_since(node.books, now_seconds))
    return feeds


def apply(node: Node, config: Config, feeds: Feeds) -> None:
    """Put a prepared configuration in force. On the tick's thread, between two ticks; what is booked stays as it is."""
    old, node.config = node.config, config
    node.meters.reload(old, config)
    if config.dialects != old.dialects:
        node.servers.replace_rows(sources.dialects(config))
    node.servers.update(config)
    if (config.tenants, config.budgets) != (old.tenants, old.budgets):
        use_tenants(node, config)
    node.continue_counts(feeds)
    node.pricing.replace(config, feeds)
    node.price_late()
    for section in _AT_START_ONLY:
        if getattr(config, section) != getattr(old, section):
            _log.warning("restart_required", section=section, detail="This section takes effect at the next start.")
    node.reload_failed = False
    _log.info("configuration_reloaded")


def use_tenants(node: Node, config: Config) -> None:
    """Divide servers among tenants as configured, from the next tick on."""
    if node.servers.tenants is not None:
        node.servers.tenants.close()
    if not config.tenants:
        node.servers.tenants, node.books = None, replace(node.books, tenants=None)
        return
    from tpw.daemon.tenants import Tenants

    if node.books.tenants is None:
        node.books = node.store.with_tenants(node.books)
    node.servers.tenants = Tenants(
        config, node.clock, node.wall, node.new_health, node.servers.address_of, node.store.tenant_periods
    )


def read_tenants(node: Node) -> None:
    """Read who uses the servers, where that is configured. On the thread of a job."""
    if node.servers.tenants is not None:
        node.servers.tenants.read()
