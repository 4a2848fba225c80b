"""A price file for LiteLLM, of a report, or kept fresh beside a daemon. Loaded where one is wanted."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from tpw.config.schema import Config
from tpw.ledger.books import Books
from tpw.ledger.phases import phase_weights
from tpw.ledger.replicas import merged
from tpw.ledger.rows import unpriced_since
from tpw.report.periods import Calendar, Period
from tpw.report.price_file import NoExchangeRateError, PriceFile, price_file
from tpw.report.tabulate import Dimension, Report, Tabulation
from tpw.store.files import StoreError
from tpw.store.reading import BooksReader

if TYPE_CHECKING:
    from tpw.daemon.daemon import Daemon

INTERVAL_SECONDS = 3600.0
"""Between two files: a mean of days does not change much in an hour."""

JOB = "litellm"

_log = structlog.get_logger("tpw")

BY = (Dimension.SERVER, Dimension.MODEL)


def of_report(books: BooksReader, report: Report, calendar: Calendar, exchange_rate: float | None) -> PriceFile:
    """The prices of a report by :data:`BY`. Raises NoExchangeRateError."""
    accounts = merged(Books(servers={account.name: account for account in books.servers()})).servers
    weights = {
        (name, account.phases.model): found
        for name, account in accounts.items()
        if account.phases is not None and (found := phase_weights(account.phases)) is not None
    }
    return price_file(report, calendar, weights, exchange_rate)


class FreshPriceFile:
    """Writes the file of a configuration.

    Args:
        config: the configuration.
        books: returns the books of the last tick.
        wall: Unix time.
    """

    def __init__(self, config: Config, books: Callable[[], Books], wall: Callable[[], float] = time.time) -> None:
        self._config, self._books, self._wall = config, books, wall
        self._problem = ""

    def write(self) -> None:
        """Replace the file as a whole. A problem is logged once; the file then stays as it was."""
        config, books, now = self._config, self._books(), self._wall()
        settings = config.litellm
        if settings is None or books.at is None:
            return
        # Energy that waits for its price would make the last hours too cheap: they are left out.
        end = min(now, unpriced_since(books) or now)
        calendar = Calendar(config.tariff.timezone or "UTC")
        covered = Period(end - settings.last, end)
        try:
            with BooksReader(Path(config.state.dir)) as kept:
                tabulation = Tabulation(BY, covered, calendar)
                tabulation.add(kept.rows(end - settings.last, end), kept.served(end - settings.last, end))
                report = tabulation.report(kept.head().currency)
                found = of_report(kept, report, calendar, settings.exchange_rate)
            temporary = f"{settings.file}.new"
            Path(temporary).write_text(found.text, encoding="utf-8")
            os.replace(temporary, settings.file)  # noqa: PTH105 - atomic on purpose
        except (OSError, sqlite3.Error, StoreError, NoExchangeRateError) as error:
            self._report(str(error))
        else:
            self._report("; ".join(found.left_out))

    def _report(self, problem: str) -> None:
        if problem and problem != self._problem:
            _log.warning("price_file_incomplete", detail=problem)
        self._problem = problem


def keep_fresh(daemon: Daemon, config: Config) -> None:
    """Write the file now and every hour; after a reload, that of the new configuration."""
    daemon.jobs.every(JOB, INTERVAL_SECONDS, FreshPriceFile(config, lambda: daemon.snapshot.books).write)
