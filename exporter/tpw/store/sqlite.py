"""The books in one SQLite file.

Every tick is one transaction, committed before its snapshot can be scraped: a daemon that is killed never starts again
below a value somebody has seen. Only what changed is written. The journal is a write-ahead log with ``synchronous =
NORMAL``: a killed process loses nothing, a machine that loses power may lose the last minute (and then the meters'
counters begin anew as well).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from tpw.ledger.books import Books, PostingKey
from tpw.model import Instant, State
from tpw.store import codec

FILE_NAME: Final = "books.sqlite"
_LAYOUT: Final = 1
_FLUSH_SECONDS: Final = 60.0

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS posting (gpu TEXT, server TEXT, model TEXT, state TEXT, data TEXT NOT NULL,
  PRIMARY KEY (gpu, server, model, state)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS gpu (uuid TEXT PRIMARY KEY, data TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS server (name TEXT PRIMARY KEY, data TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS host (component TEXT PRIMARY KEY, data TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS source (name TEXT PRIMARY KEY, data TEXT NOT NULL) WITHOUT ROWID;
"""


class StoreError(Exception):
    """The books cannot be opened. The message says what to do."""


class StateDirectoryError(StoreError):
    """The directory cannot be written: there are no books to endanger, one can go on without."""


class BooksFile:
    """The books of one daemon. Holds a lock on its directory while it is open.

    All methods but ``__init__`` and ``close`` belong to the thread that advances the books.

    Args:
        directory: made if it is not there.
        wall: Unix time.

    Raises:
        StoreError: the directory cannot be used, or another daemon uses it.
    """

    def __init__(self, directory: Path, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self.path = directory / FILE_NAME
        self.set_aside: Path | None = None
        """Where an unreadable file was moved to, if one was."""
        self._written = Books()
        self._flushed_at = 0.0
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
            # Not a database any more: keep it for a look, and go on with new books rather than with none.
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
            if layout is not None and int(layout[0]) > _LAYOUT:
                raise sqlite3.OperationalError(
                    f"the books were written by a newer tpw-exporter (layout {layout[0]}, this one knows {_LAYOUT})"
                )
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('layout', ?)", (str(_LAYOUT),))
        except BaseException:
            connection.close()
            raise
        return connection

    def load(self) -> Books:
        """The books as they were last written, ready to be advanced; empty ones where there are none."""
        read = self._connection.execute
        meta = dict(read("SELECT key, value FROM meta").fetchall())
        if "at_wall_seconds" not in meta:
            return Books()
        books = Books(
            at=Instant(0.0, float(meta["at_wall_seconds"])),
            resumed=True,
            currency=meta.get("currency", ""),
            gpus={uuid: codec.load_gpu(uuid, data) for uuid, data in read("SELECT uuid, data FROM gpu")},
            postings={
                PostingKey(gpu, server, model, State(state)): codec.load_posting(data)
                for gpu, server, model, state, data in read("SELECT gpu, server, model, state, data FROM posting")
            },
            hosts={component: codec.load_host(data) for component, data in read("SELECT component, data FROM host")},
            host_carry_joules=float(meta.get("host_carry_joules", "0")),
            servers={name: codec.load_server(name, data) for name, data in read("SELECT name, data FROM server")},
            sources={name: codec.load_source(data) for name, data in read("SELECT name, data FROM source")},
            polls=int(meta.get("polls", "0")),
            polls_skipped=int(meta.get("polls_skipped", "0")),
        )
        self._written = books
        return books

    def save(self, books: Books) -> None:
        """Write what changed since the last save, as one transaction.

        Raises:
            OSError: the disk is full, read-only or gone. Nothing was written; the next save writes it all.
        """
        if books.at is None:
            return
        old = self._written
        run = self._connection.executemany
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            run(
                "INSERT OR REPLACE INTO posting VALUES (?, ?, ?, ?, ?)",
                [(*key, codec.dump_posting(value)) for key, value in _changed(books.postings, old.postings)],
            )
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
                    ("polls", str(books.polls)),
                    ("polls_skipped", str(books.polls_skipped)),
                ],
            )
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise OSError(f"{self.path}: {error}") from error
        self._written = books
        now = self._wall()
        if not 0.0 <= now - self._flushed_at < _FLUSH_SECONDS:
            self._flushed_at = now
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    @staticmethod
    def _servers(books: Books, old: Books) -> list[tuple[str, str]]:
        # Windows move every tick and are not kept: a server is written when one of its counts or names changed.
        rows = []
        for name, account in books.servers.items():
            before = old.servers.get(name)
            if (
                before is None
                or account.series != before.series
                or account.reference_cost is not before.reference_cost
                or (account.identity, account.version, account.attribution, account.models)
                != (before.identity, before.version, before.attribution, before.models)
            ):
                rows.append((name, codec.dump_server(account)))
        return rows

    def close(self) -> None:
        """Flush and let go of the lock. May be called twice."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
        with contextlib.suppress(OSError):
            os.close(self._lock)
            self._lock = -1


def _changed(new: Mapping[Any, Any], old: Mapping[Any, Any]) -> Iterable[tuple[Any, Any]]:
    return ((key, value) for key, value in new.items() if old.get(key) is not value)


def _rows(new: Mapping[str, Any], old: Mapping[str, Any], dump: Callable[[Any], str]) -> list[tuple[str, str]]:
    return [(key, dump(value)) for key, value in _changed(new, old)]
