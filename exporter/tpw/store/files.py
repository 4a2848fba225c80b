"""The files of the state directory: how they are opened, for writing and for reading where nothing can be written."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path
from typing import Final
from urllib.parse import quote

from tpw.store.reserve import Reserve

FILE_NAME: Final = "books.sqlite"
LAYOUT: Final = 1
BACKUPS: Final = 2
WAL_BYTES: Final = 64 << 20
"""Above this the write-ahead log is held by a reader that does not end."""
_WAL_KEPT_BYTES: Final = 4 << 20

SCHEMA: Final = """
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
CREATE TABLE IF NOT EXISTS tenant_interval (start INTEGER, server TEXT, model TEXT, state TEXT, tenant TEXT, method TEXT,
  unpriced INTEGER NOT NULL, data TEXT NOT NULL, PRIMARY KEY (start, server, model, state, tenant, method)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS correction (made REAL PRIMARY KEY, data TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS power_limit (gpu TEXT, since REAL, watts REAL NOT NULL, PRIMARY KEY (gpu, since)) WITHOUT ROWID;
"""

HISTORY: Final = ("interval", "served", "tenant_interval")
"""Tables of quarter-hours."""
SMALL_TABLES: Final = ("meta", "posting", "gpu", "server", "host", "source", "correction", "power_limit")
"""All but the history: what a start reads as a whole."""


class StoreError(Exception):
    """The books cannot be used. The message includes what to do."""


class NewerLayoutError(StoreError):
    """A newer version has written them."""


class DamagedError(Exception):
    """A file is not what was written. The message has the problem."""


def beside(path: Path) -> tuple[Path, Path]:
    """The write-ahead log and the shared memory of a database."""
    return path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")


def backups_of(path: Path) -> list[Path]:
    """Where the backups are, newest first."""
    return [path.with_name(f"{path.name}.backup-{number}") for number in range(1, BACKUPS + 1)]


def stamp(wall_seconds: float) -> str:
    """A moment as part of a file's name."""
    return time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime(max(0.0, wall_seconds)))


def connect(path: Path) -> sqlite3.Connection:
    """The books for writing, made if they are not there, completed from their reserve. Only their owner may read them.

    Raises:
        NewerLayoutError: see there.
        sqlite3.OperationalError, OSError: the disk is full, read-only or missing.
        sqlite3.DatabaseError: it is damaged.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    for file in (path, *beside(path)):
        with contextlib.suppress(OSError):
            file.chmod(0o600)
    connection = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
    try:
        run = connection.execute
        if path.stat().st_size == 0:
            run("PRAGMA auto_vacuum = INCREMENTAL")  # only possible before the first table
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = NORMAL")
        run("PRAGMA cache_size = -512")
        run(f"PRAGMA journal_size_limit = {_WAL_KEPT_BYTES}")
        known = {name for (name,) in run("SELECT name FROM sqlite_master WHERE type = 'table'")}
        layout = run("SELECT value FROM meta WHERE key = 'layout'").fetchone() if "meta" in known else None
        if layout is not None and int(layout[0]) > LAYOUT:
            raise NewerLayoutError(
                f"{path} was written by a newer tpw-exporter (layout {layout[0]}, this one knows {LAYOUT}): run that"
                " version, or give this one another --state.dir"
            )
        if not known.issuperset((*SMALL_TABLES, *HISTORY)) or layout is None:
            connection.executescript(SCHEMA)
            run("INSERT OR REPLACE INTO meta VALUES ('layout', ?)", (str(LAYOUT),))
        Reserve(path).carry_over(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def mark_open(connection: sqlite3.Connection) -> None:
    """Write into the file itself that it is being written, and that its newest part is in the log beside it. A copy without
    the log is recognised by it. Raises sqlite3.Error."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('writer', 'open')")
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def mark_closed(connection: sqlite3.Connection) -> None:
    """The file is complete once the connection is closed. Raises sqlite3.Error."""
    connection.execute("DELETE FROM meta WHERE key = 'writer'")


def connect_read_only(path: Path) -> sqlite3.Connection:
    """The books as they are, with what the write-ahead log holds, where nothing may be written at all.

    SQLite needs shared memory beside a database with such a log, unless one connection has it to itself. Raises
    sqlite3.DatabaseError.
    """
    address = f"file:{quote(str(path.absolute()))}?mode=ro"
    attempts = (
        (address, ""),
        (f"{address}&vfs=unix-none", "PRAGMA locking_mode = EXCLUSIVE"),
        (f"{address}&immutable=1", ""),
    )
    for number, (attempt, pragma) in enumerate(attempts, start=1):
        connection = sqlite3.connect(attempt, uri=True, timeout=1.0, isolation_level=None)
        try:
            if pragma:
                connection.execute(pragma)
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:
            connection.close()
            if number == len(attempts):
                raise
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    raise AssertionError  # the loop returns or raises


def connect_snapshot(path: Path) -> sqlite3.Connection:
    """The books as they are now, whatever is written afterwards; for reading, on any thread.

    Raises sqlite3.Error.
    """
    address = f"file:{quote(str(path.absolute()))}?mode=ro"
    connection = sqlite3.connect(address, uri=True, timeout=1.0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA cache_size = -512")
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # the snapshot begins with the first read
    except BaseException:
        connection.close()
        raise
    return connection


def check_small_tables(connection: sqlite3.Connection, path: Path) -> None:
    """Raise DamagedError for a defect in what a start reads. The history is checked with each backup: it may be large."""
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    [page_bytes] = connection.execute("PRAGMA page_size").fetchone()
    if path.stat().st_size % page_bytes:
        raise DamagedError("the file ends within a page")
    for table in SMALL_TABLES:
        try:
            [problem] = connection.execute(f"PRAGMA quick_check('{table}')").fetchone()
        except sqlite3.DatabaseError as error:
            raise DamagedError(f"{table}: {error}") from error
        if problem != "ok":
            raise DamagedError(f"{table}: {problem}")


def check_whole(connection: sqlite3.Connection) -> None:
    """Raise DamagedError for a defect anywhere."""
    try:
        problems = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
    except sqlite3.DatabaseError as error:
        raise DamagedError(str(error)) from error
    if problems != ["ok"]:
        raise DamagedError("; ".join(problems))


def sync(path: Path) -> None:
    """Make a file and its name durable."""
    for one in (path, path.parent):
        descriptor = os.open(one, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
