"""The books, read by another process while the daemon writes them.

Opened read-only and without the daemon's lock. Everything is read in one transaction, so it belongs to one tick. The
directory need not be writable. If it is, and no daemon runs, SQLite may leave an empty journal there.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

from tpw.ledger.amounts import Amounts, Served
from tpw.ledger.books import Correction, PostingKey, PowerLimit, ServerAccount
from tpw.model import Gpu
from tpw.store import codec
from tpw.store.files import FILE_NAME, LAYOUT, StoreError, beside
from tpw.store.queries import postings_where, work_where

if TYPE_CHECKING:
    from tpw.ledger.tenants import TenantKey, TenantModel

_OTHER_DIRECTORY = "Name the daemon's state directory with --state.dir, or its configuration with --config.file."


@dataclass(frozen=True, slots=True)
class Head:
    """The description of the books."""

    currency: str
    """"" where they hold no money."""
    until_seconds: float
    """The last tick, Unix seconds."""
    first_row_seconds: float | None
    """Start of the first quarter-hour there is."""
    pruned_before_seconds: float | None
    """Older rows were pruned; None while no row was."""
    gpus: dict[str, Gpu]
    """By UUID."""


class BooksReader:
    """The books in a state directory. Use it in a ``with`` block.

    Raises:
        StoreError: there are none, or they cannot be read. The message includes what to do.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE_NAME
        try:
            self.path.stat()
        except FileNotFoundError:
            raise StoreError(
                f"there are no books in {directory}: {FILE_NAME} is not there. {_OTHER_DIRECTORY}"
            ) from None
        except OSError as error:
            raise StoreError(_unreadable(self.path, error.strerror or str(error))) from error
        if not os.access(self.path, os.R_OK):
            raise StoreError(_unreadable(self.path, "permission denied"))
        had_log = self._has_log()
        try:
            self._connection = self._connect()
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{self.path} cannot be read as the books of tpw-exporter: {error}") from error
        writer = self._connection.execute("SELECT 1 FROM meta WHERE key = 'writer'").fetchone()
        if writer is not None and not had_log and not self._has_log():
            self._connection.close()
            raise StoreError(
                f"{self.path} was copied without {FILE_NAME}-wal while the daemon had it: its newest part is missing. Copy"
                " both files, or use a backup of the daemon"
            )

    def _has_log(self) -> bool:
        """Whether a write-ahead log with something in it is beside the file."""
        with contextlib.suppress(OSError):
            return beside(self.path)[0].stat().st_size > 0
        return False

    def _connect(self) -> sqlite3.Connection:
        address = f"file:{quote(str(self.path.absolute()))}"
        try:
            return _begun(f"{address}?mode=ro")
        except sqlite3.OperationalError:
            # No process has the books open and the directory is not writable, so SQLite cannot create its shared memory.
            # Then no process writes either, and the file can be read as it is.
            beside = [self.path.with_name(FILE_NAME + suffix) for suffix in ("-wal", "-shm")]
            for path in beside:
                if path.exists() and not os.access(path, os.R_OK):
                    raise StoreError(_unreadable(path, "permission denied")) from None
            if any(path.exists() for path in beside):
                raise
            return _begun(f"{address}?immutable=1")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def head(self) -> Head:
        """The description of the books."""
        read = self._connection.execute
        meta = dict(read("SELECT key, value FROM meta").fetchall())
        if "at_wall_seconds" not in meta:
            raise StoreError(f"{self.path} is empty: the daemon has not booked anything yet")
        first = read("SELECT min(start) FROM (SELECT start FROM interval UNION SELECT start FROM served)").fetchone()[0]
        pruned = meta.get("pruned_before")
        return Head(
            currency=meta.get("currency", ""),
            until_seconds=float(meta["at_wall_seconds"]),
            first_row_seconds=None if first is None else float(first),
            pruned_before_seconds=None if pruned is None else float(pruned),
            gpus={uuid: codec.load_gpu(uuid, data).gpu for uuid, data in read("SELECT uuid, data FROM gpu")},
        )

    def rows(
        self, start_seconds: float = 0.0, end_seconds: float = float("inf")
    ) -> Iterator[tuple[float, PostingKey, Amounts]]:
        """What was booked in the quarter-hours that began in [start, end): (start, key, amounts), in order of time."""
        return postings_where(self._connection, "start >= ? AND start < ?", (start_seconds, end_seconds))

    def served(
        self, start_seconds: float = 0.0, end_seconds: float = float("inf")
    ) -> Iterator[tuple[float, str, str, Served]]:
        """What was served in them: (start, server, model, served), in order of time."""
        return work_where(self._connection, "start >= ? AND start < ?", (start_seconds, end_seconds))

    def tenant_rows(
        self, start_seconds: float = 0.0, end_seconds: float = float("inf")
    ) -> Iterator[tuple[float, TenantKey, Amounts]]:
        """What was divided among tenants of the quarter-hours that began in [start, end), in order of time."""
        from tpw.store.tenants import amounts_where

        with contextlib.suppress(sqlite3.OperationalError):  # books that no version with tenants has opened
            yield from amounts_where(self._connection, "start >= ? AND start < ?", (start_seconds, end_seconds))

    def tenant_served(
        self, start_seconds: float = 0.0, end_seconds: float = float("inf")
    ) -> Iterator[tuple[float, TenantModel, Served]]:
        """What tenants did in them, in order of time."""
        from tpw.store.tenants import served_where

        with contextlib.suppress(sqlite3.OperationalError):
            yield from served_where(self._connection, "start >= ? AND start < ?", (start_seconds, end_seconds))

    def postings(self) -> Iterator[tuple[PostingKey, Amounts]]:
        """Time, energy and money since the books began: the values of the counters."""
        query = "SELECT gpu, server, model, state, data FROM posting"
        for *key, data in self._connection.execute(query):
            yield codec.load_key(*key), codec.load_amounts(data)

    def corrections(self, start_seconds: float = 0.0, end_seconds: float = float("inf")) -> tuple[Correction, ...]:
        """The operator's entries for use in [start, end), oldest first."""
        try:
            rows = self._connection.execute("SELECT made, data FROM correction ORDER BY made").fetchall()
        except sqlite3.OperationalError:  # books of 0.1, which no newer version has opened yet
            return ()
        found = (codec.load_correction(made, data) for made, data in rows)
        return tuple(one for one in found if start_seconds <= one.at_seconds < end_seconds)

    def power_limits(self) -> dict[str, tuple[PowerLimit, ...]]:
        """The limits of each GPU, oldest first."""
        limits: dict[str, list[PowerLimit]] = {}
        with contextlib.suppress(sqlite3.OperationalError):  # books of 0.1, which no newer version has opened yet
            for uuid, *limit in self._connection.execute("SELECT gpu, since, watts FROM power_limit ORDER BY since"):
                limits.setdefault(uuid, []).append(PowerLimit(*limit))
        return {uuid: tuple(changes) for uuid, changes in limits.items()}

    def servers(self) -> Iterator[ServerAccount]:
        """The accounts of the servers."""
        for name, data in self._connection.execute("SELECT name, data FROM server"):
            yield codec.load_server(name, data)


def _begun(address: str) -> sqlite3.Connection:
    """A connection within a transaction. Raises sqlite3.DatabaseError."""
    connection = sqlite3.connect(address, uri=True, timeout=5.0, isolation_level=None)
    try:
        connection.execute("BEGIN")
        layout = connection.execute("SELECT value FROM meta WHERE key = 'layout'").fetchone()
        if layout is None or int(layout[0]) > LAYOUT:
            raise sqlite3.DatabaseError(
                f"it has the layout {layout[0] if layout else 'of something else'}, and this tpw-exporter knows {LAYOUT}"
            )
        connection.execute("SELECT 1 FROM interval, served LIMIT 1")
    except BaseException:
        connection.close()
        raise
    return connection


def _unreadable(path: Path, why: str) -> str:
    return f"cannot read {path}: {why}. Run this as the user of the daemon, or as root."
