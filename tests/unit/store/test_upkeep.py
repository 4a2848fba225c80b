"""Old quarter-hours are deleted in small steps beside the ticks."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from tpw.ledger.amounts import Amounts, Served
from tpw.ledger.books import ROW_SECONDS, Books, PostingKey
from tpw.model import Instant, State
from tpw.store.files import FILE_NAME
from tpw.store.queries import rows_where
from tpw.store.sqlite import BooksFile
from tpw.store.upkeep import Upkeep, prune

KEY = PostingKey("GPU-0", "", "", State.IDLE)
START = 1_790_000_100.0 // ROW_SECONDS * ROW_SECONDS
DAY = 86400.0


def write(directory: Path, quarters: int) -> Path:
    file = BooksFile(directory)
    starts = [START + number * ROW_SECONDS for number in range(quarters)]
    rows = {start: {KEY: Amounts(seconds=900.0)} for start in starts}
    served = {start: {("s", "m" * 3000): Served(requests=1.0)} for start in starts}
    file.save(Books(at=Instant(0.0, starts[-1]), rows=rows, served=served))
    file.close()
    return file.path


def starts(path: Path) -> list[float]:
    with closing(sqlite3.connect(path)) as connection:
        return list(rows_where(connection, "1", ()))


def test_a_quarter_hour_is_a_transaction_of_its_own_and_its_space_is_given_back(tmp_path: Path) -> None:
    path = write(tmp_path, 400)
    size = path.stat().st_size
    pauses = []
    file = BooksFile(tmp_path)
    books = file.load()

    def pause() -> None:
        """A tick in between is not held up."""
        pauses.append(len(pauses))
        file.save(books)

    deleted = prune(path, START + 300 * ROW_SECONDS, pause)
    file.close()
    assert deleted == 600
    assert len(pauses) >= 300
    assert starts(path) == [START + number * ROW_SECONDS for number in range(300, 400)]
    assert path.stat().st_size < size - 100 * 4096, "all but 200 pages, which are used again"
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT value FROM meta WHERE key = 'pruned_before'").fetchone() == (
            repr(START + 300 * ROW_SECONDS),
        )


def test_rows_are_deleted_by_age_and_not_by_a_clock_that_was_set(tmp_path: Path) -> None:
    path = write(tmp_path, 4)
    wall, monotonic = START, 0.0
    upkeep = Upkeep(path, 30 * DAY, lambda: wall, lambda: monotonic, lambda seconds: None)

    def after(wall_seconds: float, monotonic_seconds: float) -> int:
        nonlocal wall, monotonic
        wall, monotonic = wall + wall_seconds, monotonic + monotonic_seconds
        upkeep.run()
        return len(starts(path))

    assert after(12 * 365 * DAY, 0.0) == 4, "the first run knows no time before"
    assert after(-12 * 365 * DAY, 300.0) == 4
    assert after(31 * DAY, 300.0) == 4, "the clock was set forward"
    assert after(-31 * DAY, 300.0) == 4
    assert after(30 * DAY + 1800.0, 30 * DAY + 1800.0) == 2
    assert path.with_name(f"{FILE_NAME}.backup-1").exists()
