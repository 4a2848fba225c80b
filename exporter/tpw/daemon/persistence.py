"""Saving the books after every tick, and carrying on in memory while that fails."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from tpw.config.schema import Config
from tpw.ledger.books import Books
from tpw.ledger.rows import without_closed
from tpw.store.sqlite import BooksFile

_log = structlog.get_logger("tpw")

RETRY_SECONDS = 10.0
"""Between two attempts to write. Short, because a crash loses what is in memory only; not every tick, because a failing
write may block for a second."""


class CurrencyError(Exception):
    """The books hold money in one currency, the configuration names another."""


def check_currency(books: Books, config: Config) -> None:
    """One set of books has one currency. Raises CurrencyError where a configuration would relabel money."""
    wanted = config.tariff.currency
    if not wanted or not books.currency or wanted == books.currency:
        return
    booked = any(posting.cost or posting.credit for posting in books.postings.values())
    if booked or any(account.reference_cost for account in books.servers.values()):
        raise CurrencyError(
            f"tariff.currency is {wanted}, but the books in the state directory hold {books.currency}: money in them would"
            " be relabelled. Keep the currency, or give a new --state.dir."
        )


class Persistence:
    """Writes the books to their file.

    Args:
        file: where the books are kept; None keeps them in memory only.
        clock: monotonic seconds.
        wall: Unix time.
    """

    def __init__(self, file: BooksFile | None, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self._file = file
        self._clock = clock
        self._wall = wall
        self._retry_at_seconds = float("-inf")
        self.is_failing = False
        self.written_wall_seconds: float | None = None
        """When the books were last written. None: not yet by this process."""

    @property
    def is_awaited(self) -> bool:
        """Whether the books have a file and were not written yet."""
        return self._file is not None and self.written_wall_seconds is None

    def load(self) -> Books:
        """The books as they were last written; empty where there are none."""
        return Books() if self._file is None else self._file.load()

    def save(self, books: Books) -> Books:
        """Write what has changed. Returns the books to carry on with; never raises for a disk that cannot be written."""
        if self._file is None:
            return without_closed(books)
        if self._clock() < self._retry_at_seconds:
            return books
        try:
            books = self._file.save(books)
        except OSError as error:
            self._retry_at_seconds = self._clock() + RETRY_SECONDS
            if not self.is_failing:
                _log.error(
                    "books_write_failed",
                    detail=str(error),
                    hint="The exporter keeps counting in memory and tries again every 10 s. Free or repair the disk.",
                )
            self.is_failing = True
            return books
        if self.is_failing:
            _log.info("books_written_again")
        self.is_failing = False
        self.written_wall_seconds = self._wall()
        return books

    def close(self) -> None:
        """Close the file and release its lock."""
        if self._file is not None:
            self._file.close()
