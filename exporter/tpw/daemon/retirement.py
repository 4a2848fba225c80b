"""Keeps track of the servers and models that have no series on the page any more."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from tpw.ledger.books import Books
from tpw.ledger.clock import stepped_seconds
from tpw.ledger.retirement import Retired, retired
from tpw.model import Instant

_log = structlog.get_logger("tpw")

CHECK_SECONDS = 60.0


class Retirement:
    """Belongs to the tick's thread.

    Args:
        after_seconds: setting ``state.retire``. Counts while the daemon runs: what it has not seen is not gone, and after a
            restart of the machine the clock may be wrong.
        last: when the daemon ran last.
    """

    def __init__(self, after_seconds: float, last: Instant | None) -> None:
        self._after_seconds = after_seconds
        self._last = last
        self._unobserved = 0.0
        """Time before this process, by the wall clock of now, in which no daemon ran. Negative: the clock is behind."""
        self._current = Retired()
        self._checked_at: float | None = None
        self._seen: dict[str, Mapping[str, float]] = {}
        """Of the servers that have something retired: it changes when one of that returns."""

    def update(self, books: Books, now: Instant) -> Retired:
        """Who is retired now. Checked once a minute, and at once when a server or model returns."""
        at, now_seconds = self._checked_at, now.wall_seconds
        if self._last is not None:
            moved = now_seconds - self._last.wall_seconds if at is None else stepped_seconds(self._last, now)
            self._unobserved += moved
        self._last = now
        returned = any(
            name in books.servers and books.servers[name].seen is not seen for name, seen in self._seen.items()
        )
        if at is not None and 0.0 <= now_seconds - at < CHECK_SECONDS and not returned:
            return self._current
        self._checked_at = now_seconds
        before, self._current = (
            self._current,
            retired(books, self._after_seconds, now_seconds - max(0.0, self._unobserved)),
        )
        names = self._current.servers | {server for server, _ in self._current.models}
        self._seen = {name: books.servers[name].seen for name in names}
        if at is not None:
            for name in sorted(self._current.servers - before.servers):
                _log.info(
                    "server_retired", server=name, detail="Its series leave the page; its sums stay in the books."
                )
            for name in sorted(before.servers - self._current.servers):
                _log.info("server_returned", server=name)
        return self._current
