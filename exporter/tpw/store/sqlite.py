"""The books in one SQLite file.

Every tick is one transaction, committed before its snapshot can be scraped: a killed daemon never resumes below a value
that was scraped. Only changes are written. The journal is a write-ahead log with ``synchronous = NORMAL``: a killed
process loses nothing, a machine that loses power may lose the last minute (and the meters' counters restart as well).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tpw.ledger.amounts import Amounts, Served
from tpw.ledger.books import ROW_SECONDS, Books, PostingKey, ServerAccount
from tpw.ledger.rows import LATE_SECONDS, open_from, without_closed
from tpw.model import Instant
from tpw.store import codec

FILE_NAME: Final = "books.sqlite"
LAYOUT: Final = 1
_FLUSH_SECONDS: Final = 60.0
_PRUNE_SECONDS: Final = 3600.0

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS posting (gpu TEXT, server TEXT, model TEXT, state TEXT, data TEXT NOT NULL,
  PRIMARY KEY (gpu, server, model, state)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS gpu (uuid TEXT PRIMARY KEY, data TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS server (name TEXT PRIMARY KEY, data TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS host (component TEXT PRIMARY KEY, data TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS source (name TEXT PRIMARY KEY, data TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS interval (start INTEGER, gpu TEXT, server TEXT, model TEXT, state TEXT,
  unpriced INTEGER NOT NULL, data TEXT NOT NULL, PRIMARY KEY (start, gpu, server, model, state)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS interval_unpriced ON interval (start) WHERE unpriced = 1;
CREATE TABLE IF NOT EXISTS served (start INTEGER, server TEXT, model TEXT, data TEXT NOT NULL,
  PRIMARY KEY (start, server, model)) WITHOUT ROWID;
"""


class StoreError(Exception):
    """The books cannot be opened. The message includes what to do."""


class StateDirectoryError(StoreError):
    """The directory cannot be written. It holds no books, so the daemon can run without a store."""


class BooksFile:
    """The books of one daemon. Holds a lock on its directory while it is open.

    All methods but ``__init__`` and ``close`` belong to the thread that advances the books.

    Args:
        directory: created if it does not exist.
        wall: Unix time.
        keep_seconds: retention of the rows.

    Raises:
        StoreError: the directory cannot be used, or another daemon uses it.
    """

    def __init__(
        self, directory: Path, wall: Callable[[], float] = time.time, keep_seconds: float = 400 * 86400.0
    ) -> None:
        self._wall = wall
        self._keep_seconds = keep_seconds
        self.path = directory / FILE_NAME
        self.set_aside: Path | None = None
        """Where an unreadable file was moved to, if one was."""
        self._written = Books()
        self._flushed_at = 0.0
        self._saved_at = 0.0
        self._pruned_at = 0.0
        self._beneath: dict[float, dict[PostingKey, Amounts]] = {}
        self._beneath_served: dict[float, dict[tuple[str, str], Served]] = {}
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise StateDirectoryError(
                f"cannot write in the state directory {directory}: {error.strerror or error}"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise StoreError(
                f"another tpw-exporter keeps its books in {directory}: stop it, or give this one its own --state.dir"
            ) from error
        try:
            self._connection = self._open()
        except (sqlite3.Error, OSError) as error:
            os.close(self._lock)
            raise StoreError(f"cannot open {self.path}: {error}") from error

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) or not self.path.exists():
                raise
            # No database any more: set it aside for inspection, and start with new books.
            self.set_aside = self.path.with_name(f"{FILE_NAME}.unreadable-{int(self._wall())}")
            self.path.rename(self.set_aside)
            for suffix in ("-wal", "-shm"):
                self.path.with_name(FILE_NAME + suffix).unlink(missing_ok=True)
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=1.0, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA cache_size = -512")
            connection.executescript(_SCHEMA)
            layout = connection.execute("SELECT value FROM meta WHERE key = 'layout'").fetchone()
            if layout is not None and int(layout[0]) > LAYOUT:
                raise sqlite3.OperationalError(
                    f"the books were written by a newer tpw-exporter (layout {layout[0]}, this one knows {LAYOUT})"
                )
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('layout', ?)", (str(LAYOUT),))
        except BaseException:
            connection.close()
            raise
        return connection

    def load(self) -> Books:
        """The books as last written, ready to be advanced; empty books if there are none."""
        read = self._connection.execute
        meta = dict(read("SELECT key, value FROM meta").fetchall())
        if "at_wall_seconds" not in meta:
            return Books()
        at = float(meta["at_wall_seconds"])
        gpus = {uuid: codec.load_gpu(uuid, data) for uuid, data in read("SELECT uuid, data FROM gpu")}
        open_since = open_from(gpus, at) - ROW_SECONDS
        books = replace(
            codec.load_contract(meta.get("contract", "{}")),
            at=Instant(0.0, at),
            resumed=True,
            currency=meta.get("currency", ""),
            gpus=gpus,
            postings={
                codec.load_key(*key): codec.load_amounts(data)
                for *key, data in read("SELECT gpu, server, model, state, data FROM posting")
            },
            hosts={component: codec.load_host(data) for component, data in read("SELECT component, data FROM host")},
            host_carry_joules=float(meta.get("host_carry_joules", "0")),
            servers={name: codec.load_server(name, data) for name, data in read("SELECT name, data FROM server")},
            sources={name: codec.load_source(data) for name, data in read("SELECT name, data FROM source")},
            rows=rows_where(
                self._connection,
                # Whole rows: ``save`` does not read the disk for a row that is in memory.
                "start IN (SELECT start FROM interval WHERE start >= ?"
                " UNION SELECT start FROM interval WHERE unpriced = 1 AND start >= ?)",
                (open_since, at - LATE_SECONDS),
            ),
            served=served_where(self._connection, "start >= ?", (open_since,)),
            polls=int(meta.get("polls", "0")),
            polls_skipped=int(meta.get("polls_skipped", "0")),
        )
        self._written = books
        return books

    def save(self, books: Books) -> Books:
        """Write what changed since the last save, as one transaction.

        Returns:
            The books without closed rows, which only the disk has from now on.

        Raises:
            OSError: the disk is full, read-only or missing. Nothing was written; the next save writes everything.
        """
        if books.at is None:
            return books
        old = self._written
        run = self._connection.executemany
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            run(
                "INSERT OR REPLACE INTO posting VALUES (?, ?, ?, ?, ?)",
                [
                    (*codec.dump_key(key), codec.dump_quantity(value))
                    for key, value in _changed(books.postings, old.postings)
                ],
            )
            run("INSERT OR REPLACE INTO interval VALUES (?, ?, ?, ?, ?, ?, ?)", self._intervals(books, old))
            run("INSERT OR REPLACE INTO served VALUES (?, ?, ?, ?)", self._served(books, old))
            run("INSERT OR REPLACE INTO gpu VALUES (?, ?)", _rows(books.gpus, old.gpus, codec.dump_gpu))
            run("INSERT OR REPLACE INTO server VALUES (?, ?)", self._servers(books, old))
            run("INSERT OR REPLACE INTO host VALUES (?, ?)", _rows(books.hosts, old.hosts, codec.dump_host))
            run("INSERT OR REPLACE INTO source VALUES (?, ?)", _rows(books.sources, old.sources, codec.dump_source))
            run(
                "INSERT OR REPLACE INTO meta VALUES (?, ?)",
                [
                    ("at_wall_seconds", repr(books.at.wall_seconds)),
                    ("currency", books.currency),
                    ("host_carry_joules", repr(books.host_carry_joules)),
                    ("contract", codec.dump_contract(books)),
                    ("polls", str(books.polls)),
                    ("polls_skipped", str(books.polls_skipped)),
                ],
            )
            self._connection.execute("COMMIT")
        except Exception as error:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise OSError(f"{self.path}: {error}") from error
            raise
        self._written = books = without_closed(books)
        # A row that left the memory is complete on disk. If it reappears, it is read again.
        self._beneath = {start: row for start, row in self._beneath.items() if start in books.rows}
        self._beneath_served = {start: row for start, row in self._beneath_served.items() if start in books.served}
        now = self._wall()
        if not 0.0 <= now - self._flushed_at < _FLUSH_SECONDS:
            self._flushed_at = now
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        if not 0.0 <= now - self._saved_at < _PRUNE_SECONDS:
            # Just opened, or the clock was set. A clock that is years ahead must not prune everything at once.
            self._pruned_at = now
        self._saved_at = now
        if now - self._pruned_at >= _PRUNE_SECONDS:
            self._pruned_at = now
            with contextlib.suppress(sqlite3.Error):
                self._prune(now - self._keep_seconds)
        return books

    def _prune(self, before: float) -> None:
        """Delete rows that began before a moment, and record it: rows no longer sum to the counters then."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            deleted = sum(
                self._connection.execute(f"DELETE FROM {table} WHERE start < ?", (before,)).rowcount  # noqa: S608
                for table in ("interval", "served")
            )
            if deleted:
                self._connection.execute("INSERT OR REPLACE INTO meta VALUES ('pruned_before', ?)", (repr(before),))
            self._connection.execute("COMMIT")
        except sqlite3.Error:
            self._connection.execute("ROLLBACK")
            raise

    def _intervals(self, books: Books, old: Books) -> Iterator[tuple[Any, ...]]:
        """Rows that changed, one by one: after a long downtime they are many. A row that is new in memory may exist on disk
        (the clock was set back): both are added."""
        for start, row in _changed(books.rows, old.rows):
            known = old.rows.get(start)
            if known is None and start not in self._beneath:
                self._beneath[start] = rows_where(self._connection, "start = ?", (start,)).get(start, {})
            beneath = self._beneath.get(start, {})
            for key, value in _changed(row, known or {}):
                amounts = beneath[key] + value if key in beneath else value
                yield int(start), *codec.dump_key(key), int(amounts.unpriced_joules > 0.0), codec.dump_quantity(amounts)

    def _served(self, books: Books, old: Books) -> list[tuple[Any, ...]]:
        written: list[tuple[Any, ...]] = []
        for start, row in _changed(books.served, old.served):
            known = old.served.get(start)
            if known is None and start not in self._beneath_served:
                self._beneath_served[start] = served_where(self._connection, "start = ?", (start,)).get(start, {})
            beneath = self._beneath_served.get(start, {})
            for key, value in _changed(row, known or {}):
                served = beneath[key] + value if key in beneath else value
                written.append((int(start), *key, codec.dump_quantity(served)))
        return written

    @staticmethod
    def _servers(books: Books, old: Books) -> list[tuple[str, str]]:
        # Windows change every tick and are not stored: a server is written when a count or a description changed.
        rows = []
        for name, account in books.servers.items():
            before = old.servers.get(name)
            if (
                before is None
                or account.series != before.series
                or account.tokens != before.tokens  # tokens in flight rise before any series
                or account.reference_cost is not before.reference_cost
                or _description(account) != _description(before)
            ):
                rows.append((name, codec.dump_server(account)))
        return rows

    def close(self) -> None:
        """Flush, and release the lock. May be called twice."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
        with contextlib.suppress(OSError):
            os.close(self._lock)
            self._lock = -1


def _description(account: ServerAccount) -> tuple[object, ...]:
    return (
        *(account.engine, account.version, account.address, account.identity),
        *(account.attribution, account.models, account.anomalies, account.seen),
    )


def _changed(new: Mapping[Any, Any], old: Mapping[Any, Any]) -> Iterable[tuple[Any, Any]]:
    return ((key, value) for key, value in new.items() if old.get(key) is not value)


def _rows(new: Mapping[str, Any], old: Mapping[str, Any], dump: Callable[[Any], str]) -> list[tuple[str, str]]:
    return [(key, dump(value)) for key, value in _changed(new, old)]


def rows_where(
    connection: sqlite3.Connection, condition: str, values: tuple[float, ...]
) -> dict[float, dict[PostingKey, Amounts]]:
    """Rows of the books by start of the interval."""
    result: dict[float, dict[PostingKey, Amounts]] = {}
    for start, key, amounts in postings_where(connection, condition, values):
        result.setdefault(start, {})[key] = amounts
    return result


def served_where(
    connection: sqlite3.Connection, condition: str, values: tuple[float, ...]
) -> dict[float, dict[tuple[str, str], Served]]:
    """What was served, by start of the interval."""
    result: dict[float, dict[tuple[str, str], Served]] = {}
    for start, server, model, served in work_where(connection, condition, values):
        result.setdefault(start, {})[server, model] = served
    return result


def postings_where(
    connection: sqlite3.Connection, condition: str, values: tuple[float, ...]
) -> Iterator[tuple[float, PostingKey, Amounts]]:
    """Rows one by one: (start, key, amounts), in order of time."""
    query = f"SELECT start, gpu, server, model, state, data FROM interval WHERE {condition} ORDER BY start"  # noqa: S608
    for start, *key, data in connection.execute(query, values):
        yield float(start), codec.load_key(*key), codec.load_amounts(data)


def work_where(
    connection: sqlite3.Connection, condition: str, values: tuple[float, ...]
) -> Iterator[tuple[float, str, str, Served]]:
    """What was served, one by one: (start, server, model, served), in order of time."""
    query = f"SELECT start, server, model, data FROM served WHERE {condition} ORDER BY start"  # noqa: S608
    for start, server, model, data in connection.execute(query, values):
        yield float(start), server, model, codec.load_served(data)
