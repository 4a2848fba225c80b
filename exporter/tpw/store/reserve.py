"""What could not be written into the books, in a file beside them that was made while there was space.

Books that cannot be written would go on in memory only, and a process that is killed then would start below values that
were scraped. So every tick writes what the books lack into this file before its snapshot can be scraped: in place, which
needs no space on most file systems, and no lock of the database. A start carries it over into the books. It does not help
where nothing at all can be written: on a read-only or missing disk, and on a full one that copies on write.

The file has two slots, written in turn, so one is always whole. A slot has the moment of the books that it completes, and
counts for these books only: once they are written, it is out of date by itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

Changes = Iterable[tuple[str, Iterable[Sequence[Any]]]]
"""(name of a statement, its rows of parameters), in order."""

STATEMENTS: Final = {
    "gone": "DELETE FROM posting WHERE gpu = ? AND server = ? AND model = ? AND state = ?",
    "posting": "INSERT OR REPLACE INTO posting VALUES (?, ?, ?, ?, ?)",
    "interval": "INSERT OR REPLACE INTO interval VALUES (?, ?, ?, ?, ?, ?, ?)",
    "served": "INSERT OR REPLACE INTO served VALUES (?, ?, ?, ?)",
    "tenant_interval": "INSERT OR REPLACE INTO tenant_interval VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    "gpu": "INSERT OR REPLACE INTO gpu VALUES (?, ?)",
    "server": "INSERT OR REPLACE INTO server VALUES (?, ?)",
    "host": "INSERT OR REPLACE INTO host VALUES (?, ?)",
    "power_limit": "INSERT OR REPLACE INTO power_limit VALUES (?, ?, ?)",
    "source": "INSERT OR REPLACE INTO source VALUES (?, ?)",
    "meta": "INSERT OR REPLACE INTO meta VALUES (?, ?)",
}
"""All that a tick writes."""

_SLOT_BYTES: Final = 512 << 10
"""Compressed. Tuning: 8 GPUs and 200 servers need 40 kB, and 30 kB more for each further hour."""
_HEAD: Final = struct.Struct("<8sQLL")  # mark, number, length, checksum of number and data
_MARK: Final = b"tpwkeep1"
_LOW: Final = 0xFFFFFFFF


def write(connection: sqlite3.Connection, changes: Changes) -> None:
    """One transaction; rolled back on every exception."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        for name, rows in changes:
            connection.executemany(STATEMENTS[name], rows)
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def moment_of(connection: sqlite3.Connection) -> str:
    """Moment of the last tick in the books; "" before the first. Raises sqlite3.Error."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'at_wall_seconds'").fetchone()
    return "" if row is None else str(row[0])


class Reserve:
    """The file beside the books at ``books``."""

    def __init__(self, books: Path) -> None:
        self.path = books.with_name(f"{books.name}.reserve")
        self._number = 0
        """Of the slot that was written last."""
        self._base: str | None = ""
        """Moment of the books on disk. None: those of a newer version, which nothing here completes."""
        self._carried: list[tuple[str, list[Any]]] = []
        """What they lack since before this process."""
        self._kept = ""
        """Moment of the books that they are with what is kept here."""

    def completes(self, base: str | None, carried: Changes = (), kept: str = "") -> None:
        """Of what moment the books on disk are, and what they lack already."""
        self._base, self._carried, self._kept = base, [(name, list(rows)) for name, rows in carried], kept

    def find_base(self, connection: sqlite3.Connection) -> None:
        """Read of what moment the books are after an attempt that failed, perhaps after it had carried over what is kept.

        Raises sqlite3.Error.
        """
        if moment_of(connection) == self._kept:
            self._base = self._kept

    def knows(self, moment: str) -> bool:
        """Whether books of this moment were written by this process, or are those it started from."""
        return moment in (self._base, self._kept)

    def prepare(self) -> None:
        """Make the file at its full size. Raises OSError: there is no space."""
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_size == 2 * _SLOT_BYTES:
                return
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, 2 * _SLOT_BYTES)
        finally:
            os.close(descriptor)

    def put(self, moment: str, changes: Changes, *, without_rows: bool = False) -> None:
        """Keep the changes with which the books become those of ``moment``, in place of earlier ones.

        Without rows: only the counters, not the quarter-hours, which then no longer sum to them.

        Raises OSError: they are too many, or not even this file can be written.
        """
        if self._base is None:
            raise OSError("the books are those of a newer version")
        import zlib  # where it is needed

        kept = [*self._carried, *((name, list(rows)) for name, rows in changes)]
        if without_rows:
            kept = [(name, rows) for name, rows in kept if name not in ("interval", "served", "tenant_interval")]
            kept.append(("meta", [("pruned_before", moment)]))
        data = zlib.compress(json.dumps([self._base, kept], allow_nan=False, separators=(",", ":")).encode(), 1)
        if _HEAD.size + len(data) > _SLOT_BYTES:
            raise OSError(f"{len(data)} bytes are too many for {self.path.name}")
        descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            number = 1 + (self._number or max((number for number, _ in _slots(descriptor)), default=0))
            head = _HEAD.pack(_MARK, number, len(data), zlib.crc32(data, number & _LOW))
            if os.pwrite(descriptor, head + data, number % 2 * _SLOT_BYTES) != len(head) + len(data):
                raise OSError(f"{self.path.name} was written in part")
            self._number, self._kept = number, moment
        finally:
            os.close(descriptor)

    def carry_over(self, connection: sqlite3.Connection) -> list[tuple[str, list[Any]]]:
        """Complete the books of a connection. Returns what they lacked. Raises sqlite3.Error."""
        changes = self._take(moment_of(connection))
        if changes:
            write(connection, changes)
        return changes

    def _take(self, base: str) -> list[tuple[str, list[Any]]]:
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return []
        try:
            slots = sorted(_slots(descriptor), reverse=True)
        except OSError:
            return []
        finally:
            os.close(descriptor)
        for _, data in slots:
            with contextlib.suppress(ValueError, TypeError):
                moment, changes = json.loads(data)
                if moment == base and all(name in STATEMENTS for name, _ in changes):
                    return [(name, rows) for name, rows in changes]
        return []


def _slots(descriptor: int) -> list[tuple[int, bytes]]:
    """(number, data) of the slots that are whole. Raises OSError."""
    found = []
    for offset in (0, _SLOT_BYTES):
        head = os.pread(descriptor, _HEAD.size, offset)
        if len(head) < _HEAD.size or not head.startswith(_MARK):
            continue
        import zlib  # not at a start that has nothing to carry over

        _, number, length, checksum = _HEAD.unpack(head)
        data = os.pread(descriptor, min(length, _SLOT_BYTES), offset + _HEAD.size)
        if len(data) == length and zlib.crc32(data, number & _LOW) == checksum:
            with contextlib.suppress(zlib.error):
                found.append((number, zlib.decompress(data)))
    return found
