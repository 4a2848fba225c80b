"""The books, read by somebody else."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from support.quarters import END, GPUS, POLICY, START, ticks, write_books
from tpw.ledger.advance import advance
from tpw.ledger.books import Books
from tpw.store.files import FILE_NAME, StoreError
from tpw.store.reading import BooksReader
from tpw.store.sqlite import BooksFile
from tpw.store.upkeep import back_up

QUARTER = START + 7200.0


def test_the_head_describes_the_books(tmp_path: Path) -> None:
    write_books(tmp_path)
    with BooksReader(tmp_path) as books:
        head = books.head()
    assert (head.currency, head.until_seconds, head.first_row_seconds) == ("EUR", END, START)
    assert head.pruned_before_seconds is None
    assert {uuid: (gpu.index, gpu.name) for uuid, gpu in head.gpus.items()} == {
        gpu.uuid: (gpu.index, gpu.name) for gpu in GPUS
    }


def test_rows_are_those_that_began_in_the_range(tmp_path: Path) -> None:
    write_books(tmp_path)
    with BooksReader(tmp_path) as books:
        starts = [start for start, _, _ in books.rows(QUARTER, QUARTER + 1800.0)]
        served = [start for start, *_ in books.served(QUARTER, QUARTER + 1800.0)]
    assert sorted(set(starts)) == [QUARTER, QUARTER + 900.0]
    assert set(served) == {QUARTER, QUARTER + 900.0}


def test_a_daemon_goes_on_writing_and_what_is_read_is_of_one_tick(tmp_path: Path) -> None:
    """The reader neither waits for the writer, nor the writer for the reader."""
    file, books, all_ticks = BooksFile(tmp_path, lambda: START), Books(), list(ticks())
    for tick in all_ticks[:40]:
        books = file.save(advance(books, tick, POLICY))
    with BooksReader(tmp_path) as reader:
        until = reader.head().until_seconds
        for tick in all_ticks[40:80]:
            books = file.save(advance(books, tick, POLICY))
        seconds = sum(posting.seconds for _, _, posting in reader.rows())
        assert until == START + 39 * 300.0
        assert seconds == sum(posting.seconds for _, posting in reader.postings()) == 3 * 39 * 300.0
    with BooksReader(tmp_path) as reader:
        assert reader.head().until_seconds == START + 79 * 300.0
    file.close()


def test_a_copy_without_its_log_is_refused_and_one_with_it_is_read(tmp_path: Path) -> None:
    """The log has the newest part: such a copy would show nothing, or less than was booked."""
    live, copy = tmp_path / "live", tmp_path / "copy"
    copy.mkdir()
    file, books = BooksFile(live, lambda: START), Books()
    with closing(file):
        for at_once in range(2):
            for tick in list(ticks())[at_once * 20 : (at_once + 1) * 20]:
                books = file.save(advance(books, tick, POLICY))
            (copy / FILE_NAME).write_bytes((live / FILE_NAME).read_bytes())
            with pytest.raises(StoreError, match=r"without books\.sqlite-wal"):
                BooksReader(copy)
        wal = f"{FILE_NAME}-wal"
        (copy / wal).write_bytes((live / wal).read_bytes())
        with BooksReader(copy) as both, BooksReader(live) as original:
            assert list(both.rows()) == list(original.rows())
    with BooksReader(live) as books_at_rest:
        rows = list(books_at_rest.rows())
    (copy / wal).unlink()
    (copy / FILE_NAME).write_bytes((live / FILE_NAME).read_bytes())
    with BooksReader(copy) as complete:
        assert list(complete.rows()) == rows


def test_a_backup_of_books_in_use_is_complete(tmp_path: Path) -> None:
    file = BooksFile(tmp_path, lambda: START)
    with closing(file):
        file.save(advance(Books(), next(ticks()), POLICY))
        (tmp_path / "copy").mkdir()
        back_up(tmp_path / FILE_NAME, tmp_path / "copy" / FILE_NAME)
    with BooksReader(tmp_path / "copy") as books:
        assert books.head().until_seconds == START


def test_a_reader_takes_no_lock(tmp_path: Path) -> None:
    write_books(tmp_path)
    with BooksReader(tmp_path):
        BooksFile(tmp_path).close()


def test_missing_books_name_the_options(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no books in .*: books.sqlite is not there.*--state.dir.*--config.file"):
        BooksReader(tmp_path)


def test_another_file_is_reported_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("not a database, despite its name\n" * 99)
    with pytest.raises(StoreError, match="cannot be read as the books of tpw-exporter: file is not a database"):
        BooksReader(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE meta SET value = '99' WHERE key = 'layout'", "layout 99, and this tpw-exporter knows"),
        ("DROP TABLE meta", "no such table: meta"),
        ("DROP TABLE served", "no such table: served"),
        ("DELETE FROM meta WHERE key = 'layout'", "the layout of something else"),
    ],
)
def test_books_of_another_kind_are_refused(tmp_path: Path, statement: str, message: str) -> None:
    write_books(tmp_path, end=START + 900.0)
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection, connection:
        connection.execute(statement)
    connection.close()
    with pytest.raises(StoreError, match=message):
        BooksReader(tmp_path)


def test_empty_books_are_reported(tmp_path: Path) -> None:
    BooksFile(tmp_path).close()
    with BooksReader(tmp_path) as reader, pytest.raises(StoreError, match="has not booked anything yet"):
        reader.head()


# ------------------------------------------------------------------------------------------- somebody who may only read

AS_NOBODY = """
import os, sys
from pathlib import Path
from tpw.store.reading import BooksReader
from tpw.store.files import StoreError
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    with BooksReader(Path(sys.argv[1])) as books:
        print(books.head().until_seconds, sum(posting.seconds for _, _, posting in books.rows()))
except StoreError as error:
    print(error)
"""


def read_by_somebody(directory: Path) -> str:
    done = subprocess.run([sys.executable, "-c", AS_NOBODY, str(directory)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """Others may go there, and not write."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


def opened(directory: Path) -> None:
    """What an operator does to let others read."""
    for path in directory.iterdir():
        path.chmod(0o644)


def test_who_may_only_read_reads_the_books_of_a_daemon_that_runs(open_directory: Path) -> None:
    books = write_books(open_directory)
    file = BooksFile(open_directory, lambda: END)
    file.load()
    file.save(replace(books, polls=1))
    opened(open_directory)
    assert read_by_somebody(open_directory) == f"{END} {3 * (END - START)}"
    file.close()


def test_who_may_only_read_reads_the_books_of_a_daemon_that_has_ended(open_directory: Path) -> None:
    write_books(open_directory)
    opened(open_directory)
    open_directory.chmod(0o555)
    before = sorted(path.name for path in open_directory.iterdir())
    assert read_by_somebody(open_directory) == f"{END} {3 * (END - START)}"
    assert sorted(path.name for path in open_directory.iterdir()) == before
    open_directory.chmod(0o755)


@pytest.mark.parametrize("suffix", ["", "-shm"])
def test_a_missing_permission_names_the_file_and_the_user(open_directory: Path, suffix: str) -> None:
    books = write_books(open_directory)
    file = BooksFile(open_directory, lambda: END)
    file.load()
    file.save(replace(books, polls=1))
    opened(open_directory)
    (open_directory / f"{FILE_NAME}{suffix}").chmod(0o000)
    message = read_by_somebody(open_directory)
    assert message.startswith(
        f"cannot read {open_directory}/{FILE_NAME}{suffix}: permission denied. Run this as the user"
    )
    (open_directory / f"{FILE_NAME}{suffix}").chmod(0o644)
    file.close()


def test_a_directory_that_may_not_be_entered_is_named(open_directory: Path) -> None:
    write_books(open_directory, end=START + 900.0)
    open_directory.chmod(0o700 if os.geteuid() == 0 else 0o000)
    assert read_by_somebody(open_directory).startswith(f"cannot read {open_directory}/{FILE_NAME}: Permission denied")
    open_directory.chmod(0o755)
