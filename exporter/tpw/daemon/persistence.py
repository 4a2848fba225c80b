"""Saving the books after every tick, and carrying on in memory while that fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf

import structlog

from tpw.config.schema import Config
from tpw.daemon.periods import PeriodSums
from tpw.ledger.books import Books, SourceAccount
from tpw.ledger.rows import without_closed
from tpw.model import SourceStatus
from tpw.snapshot import StoreStatus
from tpw.store.recovery import Recovery
from tpw.store.sqlite import BooksFile, History
from tpw.store.upkeep import Upkeep

_log = structlog.get_logger("tpw")

FIRST_RETRY_SECONDS = 1.0
"""After the first write that failed; doubled with each further one. Short, because a crash loses what is in memory only."""
RETRY_SECONDS = 10.0
"""At most between two attempts to write: a failing write may block the tick for a second."""

KEEP_UP_SECONDS = 300.0
"""Between two runs of the upkeep, which makes a backup once an hour."""

_FIRST_WRITE_SECONDS = 60.0

_HELD_BACK = "These accounts cannot be encoded; they are kept in memory, and everything else is written."


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


def source_counts(before: Mapping[str, SourceAccount], statuses: Sequence[SourceStatus]) -> Mapping[str, SourceAccount]:
    """Counts of the sources for the books; an account that did not change stays the same object."""
    after = dict(before)
    for status in statuses:
        known = before.get(status.name)
        if known is None or known.reads != status.reads:
            after[status.name] = SourceAccount(status.reads, dict(status.failures))
    return after


class Persistence:
    """Writes the books to their file.

    Args:
        file: where the books are kept; None keeps them in memory only.
        clock: monotonic seconds.
        wall: Unix time.
        keep_seconds: retention of the quarter-hours.
    """

    def __init__(
        self,
        file: BooksFile | None,
        clock: Callable[[], float],
        wall: Callable[[], float],
        keep_seconds: float = 400 * 86400.0,
    ) -> None:
        self._file = file
        self._clock = clock
        self._wall = wall
        self._upkeep = None if file is None else Upkeep(file.path, keep_seconds, wall, clock)
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._retry_at_seconds = float("-inf")
        self._problem = "" if file is None else file.problem
        self._held_back: tuple[str, ...] = ()
        self._is_aside = False
        self._is_written = threading.Event()
        self._recovery: Recovery | None = None
        self._has_begun = False
        self.periods = PeriodSums(self.history, keep_seconds)
        """The day, week and month to date."""
        self.written_wall_seconds: float | None = None
        """When the books were last written. None: not yet by this process."""
        self._report_recovery()
        if self._problem:
            self._report_failure()

    @property
    def status(self) -> StoreStatus:
        """For the snapshot."""
        return StoreStatus(self.written_wall_seconds, None if self._file is None else self._problem)

    def awaited(self) -> list[str]:
        """What readiness waits for, one phrase each. From any thread."""
        if self._problem:
            return [f"the books cannot be written: {self._problem}"]
        is_awaited = self._file is not None and self.written_wall_seconds is None
        return ["the books: they were not written yet"] if is_awaited else []

    def notes(self) -> list[str]:
        """What the operator should know, in sentences."""
        notes = [] if self._recovery is None else [self._recovery.sentence()]
        if self._problem:
            where = "a reserve beside them" if self._is_aside else "memory only, and a crash loses them"
            notes.append(f"The books cannot be written, so they are kept in {where}: {self._problem}.")
        if self._held_back:
            notes.append(f"Not written, because they cannot be encoded: {', '.join(self._held_back)}.")
        if self._upkeep is not None and self._upkeep.note:
            notes.append(self._upkeep.note)
        return notes

    def load(self) -> Books:
        """The books as they were last written; empty where there are none."""
        return Books() if self._file is None else self._file.load()

    def with_tenants(self, books: Books) -> Books:
        """Books that were loaded, with those of tenants."""
        if self._file is not None:
            return self._file.with_tenants(books)
        from tpw.ledger.tenants import TenantBooks

        return replace(books, tenants=TenantBooks())

    def history(self, start_seconds: float, end_seconds: float) -> History | None:
        """Rows that are not in memory; None while they cannot be read. Books that are kept in memory have none: what has
        left it is gone."""
        if self._file is not None:
            return self._file.history(start_seconds, end_seconds)
        has_begun, self._has_begun = self._has_begun, True
        return History(pruned_before_seconds=self._wall() if has_begun else -inf)

    def tenant_history(self, start_seconds: float, end_seconds: float) -> History | None:
        """The same of tenants, with the tenant in place of the server."""
        return History() if self._file is None else self._file.tenant_history(start_seconds, end_seconds)

    def tenant_periods(self) -> PeriodSums:
        """Sums of the day, week and month by tenant."""
        sums = PeriodSums(self.tenant_history, self.periods.keep_seconds)
        sums.run = self.periods.run
        return sums

    def save(self, books: Books) -> Books:
        """Write what has changed. Returns the books to carry on with; never raises for a disk that cannot be written."""
        if self._file is None:
            return without_closed(books)
        if self._clock() < self._retry_at_seconds:
            self._set_aside(self._file, books)
            return books
        was_failing = bool(self._problem)
        try:
            books = self._file.save(books)
        except OSError as error:
            self._retry_seconds = min(2.0 * self._retry_seconds, RETRY_SECONDS) if was_failing else FIRST_RETRY_SECONDS
            self._retry_at_seconds = self._clock() + self._retry_seconds
            self._problem = str(error)
            self._set_aside(self._file, books)
            if not was_failing:
                self._report_failure()
            return books
        if was_failing:
            _log.info("books_written_again")
            self._report_recovery()
        self._problem = ""
        self.written_wall_seconds = self._wall()
        self._is_written.set()
        if self._file.held_back != self._held_back:
            self._held_back = self._file.held_back
            if self._held_back:
                _log.error("books_account_held_back", accounts=", ".join(self._held_back), detail=_HELD_BACK)
        return books

    def keep_up(self) -> None:
        """Back up and prune the file. On the thread of a slow job."""
        # The first backup is made once there is something in the books.
        if self._upkeep is not None and self._is_written.wait(_FIRST_WRITE_SECONDS) and not self._problem:
            self._upkeep.run()

    def close(self) -> None:
        """Close the file and release its lock."""
        if self._file is not None:
            self._file.close()

    def _set_aside(self, file: BooksFile, books: Books) -> None:
        """Before the snapshot can be scraped: a crash must not lower what it shows."""
        try:
            file.set_aside(books)
        except OSError:
            self._is_aside = False  # the disk was reported already
        else:
            self._is_aside = True

    def _report_failure(self) -> None:
        _log.error(
            "books_write_failed",
            detail=self._problem,
            reserve=self._is_aside,
            hint="The exporter keeps counting and tries again within 10 s. Free or repair the disk.",
        )

    def _report_recovery(self) -> None:
        recovery = None if self._file is None else self._file.recovery
        if recovery is not None and recovery is not self._recovery:
            lost = ", ".join(f"{table} {count}" for table, count in recovery.lost.items())
            _log.error("books_recovered", detail=recovery.sentence(), file=str(recovery.set_aside or ""), lost=lost)
        self._recovery = recovery
