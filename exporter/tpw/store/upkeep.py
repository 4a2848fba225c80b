"""What is done about the books beside the ticks: verified backups, pruning in small steps, and giving space back."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from tpw.store.files import HISTORY, DamagedError, backups_of, check_whole, mark_closed, sync
from tpw.store.sqlite import doubtful

_log = structlog.get_logger("tpw")

_BACKUP_SECONDS: Final = 3600.0
_LARGE_BYTES: Final = 256 << 20
"""Larger books are copied less often, so that copies write at most this much per hour."""
_SPARE_BYTES: Final = 64 << 20
"""Left on the disk for the books themselves."""
_PAUSE_SECONDS: Final = 0.02
"""Between two steps, each of which holds the database for some milliseconds: a tick in between waits for one at most."""
_VACUUM_PAGES: Final = 200
_STEADY_SECONDS: Final = 60.0
"""By how much the wall clock may differ from the monotonic one between two runs. Otherwise it was set, and nothing is
deleted by it."""


class Upkeep:
    """Runs on the thread of a slow job, with connections of its own.

    Args:
        path: the books.
        keep_seconds: retention of the quarter-hours.
        wall: Unix time.
        clock: monotonic seconds.
        pause: waits.
    """

    def __init__(
        self,
        path: Path,
        keep_seconds: float,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._path = path
        self._keep_seconds = keep_seconds
        self._wall, self._clock, self._pause = wall, clock, pause
        self._last: tuple[float, float] | None = None
        self._failed = ""
        self.note = ""
        """What the operator should know; "" if all is well."""

    def run(self) -> None:
        """Back up, if the newest backup is old, and prune. Never raises for the state of the disk."""
        try:
            self._back_up()
            self._prune()
        except DamagedError as error:
            self._report("books_damaged", f"The books are damaged: {error}. They are recovered at the next start.")
            with contextlib.suppress(OSError):
                doubtful(self._path).touch(0o600)
        except (sqlite3.Error, OSError) as error:
            self._report("books_backup_failed", f"The books have no current backup: {error}.")
        else:
            self._failed = self.note = ""

    def _report(self, event: str, sentence: str) -> None:
        self.note = sentence
        if event != self._failed:
            _log.error(event, file=str(self._path), detail=sentence)
        self._failed = event

    def _back_up(self) -> None:
        newest = backups_of(self._path)[0]
        if newest.exists():
            copied = newest.stat()
            seconds = _BACKUP_SECONDS * max(1.0, copied.st_size / _LARGE_BYTES)
            if 0.0 <= self._wall() - copied.st_mtime < seconds:
                return
        if self._path.exists():
            free = shutil.disk_usage(self._path.parent).free
            if free < self._path.stat().st_size + _SPARE_BYTES:
                raise OSError(f"{free >> 20} MiB are free on the disk, too few for a copy of {self._path.name}")
            back_up(self._path, newest, rotate=True)

    def _prune(self) -> None:
        """Delete the quarter-hours of before ``keep_seconds``, one after the other."""
        now = self._wall(), self._clock()
        last, self._last = self._last, now
        if last is None or abs((now[0] - last[0]) - (now[1] - last[1])) > _STEADY_SECONDS:
            return
        prune(self._path, now[0] - self._keep_seconds, lambda: self._pause(_PAUSE_SECONDS))


def back_up(path: Path, target: Path, *, rotate: bool = False) -> None:
    """Copy the books while a daemon may write them, and verify the copy.

    Args:
        path: the books.
        target: the copy; replaced when the new one is complete.
        rotate: whether the copy that is there becomes the older backup.

    Raises:
        DamagedError: the copy does not pass; it was deleted, and earlier ones are as they were.
        sqlite3.Error, OSError: it could not be made.
    """
    new = target.with_name(f"{target.name}.new")
    new.unlink(missing_ok=True)
    try:
        new.touch(0o600)
        with (
            contextlib.closing(sqlite3.connect(path, timeout=5.0)) as source,
            contextlib.closing(sqlite3.connect(new, isolation_level=None)) as copy,
        ):
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, which can be copied as it is
            mark_closed(copy)
            check_whole(copy)
        sync(new)
        if rotate:
            files = [target, *(file for file in backups_of(path) if file != target)]
            for older, newer in zip(reversed(files), reversed(files[:-1]), strict=False):
                if newer.exists():
                    newer.rename(older)
        new.rename(target)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def prune(path: Path, before: float, pause: Callable[[], None]) -> int:
    """Delete rows that began before a moment, in one short transaction per quarter-hour, and give the space back.

    Returns how many rows were deleted. Rows no longer sum to the counters then: the moment is recorded.
    """
    deleted = 0
    with contextlib.closing(sqlite3.connect(path, timeout=5.0, isolation_level=None)) as connection:
        run = connection.execute
        while True:
            query = (
                "SELECT min(start) FROM (SELECT min(start) AS start FROM interval UNION SELECT min(start) FROM served)"
            )
            start = run(query).fetchone()[0]
            if start is None or start >= before:
                break
            run("BEGIN IMMEDIATE")
            try:
                for table in HISTORY:
                    deleted += run(f"DELETE FROM {table} WHERE start = ?", (start,)).rowcount  # noqa: S608
                run("INSERT OR REPLACE INTO meta VALUES ('pruned_before', ?)", (repr(before),))
                run("COMMIT")
            except sqlite3.Error:
                run("ROLLBACK")
                raise
            pause()
        run(
            "DELETE FROM power_limit WHERE since < ? AND since < (SELECT max(since) FROM power_limit AS later"
            " WHERE later.gpu = power_limit.gpu AND later.since <= ?)",
            (before, before),
        )
        while deleted and run("PRAGMA freelist_count").fetchone()[0] > _VACUUM_PAGES:
            free = run("PRAGMA freelist_count").fetchone()[0]
            run(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()
            if run("PRAGMA freelist_count").fetchone()[0] == free:
                break  # books of 0.1 cannot give space back; free pages are used again
            pause()
    return deleted
