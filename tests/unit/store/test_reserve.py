"""What could not be written is kept beside the books: a crash before the next write lowers nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.days import START_MONOTONIC, START_WALL, Stretch, stretches, ticks
from support.examples import examples
from tpw.ledger.advance import advance
from tpw.ledger.amounts import Amounts
from tpw.ledger.books import Books, GpuAccount, PostingKey, SourceAccount
from tpw.ledger.tick import Policy
from tpw.model import Gpu, Instant, State
from tpw.store import sqlite as store
from tpw.store.editing import editing
from tpw.store.files import FILE_NAME
from tpw.store.queries import rows_where
from tpw.store.sqlite import BooksFile

GPU = Gpu("GPU-0", 0)
KEY = PostingKey("GPU-0", "", "", State.IDLE)


def books(second: int, joules: float, **changes: Any) -> Books:
    return replace(
        Books(
            at=Instant(START_MONOTONIC + second, START_WALL + second),
            gpus={"GPU-0": GpuAccount(GPU)},
            postings={KEY: Amounts(joules=joules)},
            rows={START_WALL // 900 * 900: {KEY: Amounts(joules=joules)}},
            polls=second,
        ),
        **changes,
    )


def kill(file: BooksFile) -> None:
    """Nothing is written at the end of a process, so its end is like a crash but for the lock."""
    file.close()


@contextmanager
def unwritable() -> Iterator[None]:
    """Every attempt to open the books for writing fails, as on a full disk."""

    def refuse(_: Path) -> sqlite3.Connection:
        raise sqlite3.OperationalError("database or disk is full")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "connect", refuse)
        yield


def started(directory: Path) -> tuple[BooksFile, Books]:
    file = BooksFile(directory)
    return file, file.load()


def joules(found: Books) -> float:
    return found.postings[KEY].joules


def test_a_process_that_is_killed_after_a_failed_write_does_not_start_below_what_was_scraped(tmp_path: Path) -> None:
    file, _ = started(tmp_path)
    file.save(books(1, 10.0))
    with closing(sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        with pytest.raises(OSError, match="locked"):
            file.save(books(2, 20.0))
        file.set_aside(books(2, 20.0))
        file.set_aside(books(3, 30.0))
        kill(file)
        blocker.execute("ROLLBACK")

    file, loaded = started(tmp_path)
    kill(file)
    assert (joules(loaded), loaded.polls) == (30.0, 3)


@settings(max_examples=examples(30), deadline=None)
@given(stretches(), st.lists(st.sampled_from(["written", "aside", "killed", "killed, full"]), min_size=12, max_size=12))
def test_whatever_fails_between_crashes_the_books_are_those_of_a_disk_that_works(
    tmp_path_factory: pytest.TempPathFactory, stretch: Stretch, fates: list[str]
) -> None:
    directory, twin = tmp_path_factory.mktemp("books"), tmp_path_factory.mktemp("twin")
    (file, current), (other, wanted) = started(directory), started(twin)
    for tick, fate in zip(ticks(stretch), fates, strict=False):
        if current.at is not None and fate.startswith("killed"):
            for one in (file, other):
                kill(one)
            if fate == "killed":
                file, current = started(directory)
            else:
                with unwritable():
                    file, current = started(directory)
            other, wanted = started(twin)
            assert replace(current, recovered=0) == replace(wanted, recovered=0)
        current, wanted = (advance(one, tick, Policy()) for one in (current, wanted))
        if fate == "written" or tick.at.monotonic_seconds == START_MONOTONIC or current.polls == 1:
            current = file.save(current)
        else:
            file.set_aside(current)
        wanted = other.save(wanted)
    for one in (file, other):
        kill(one)

    (file, current), (other, wanted) = started(directory), started(twin)
    for one in (file, other):
        kill(one)
    assert current == wanted
    with closing(sqlite3.connect(directory / FILE_NAME)) as ours, closing(sqlite3.connect(twin / FILE_NAME)) as theirs:
        assert rows_where(ours, "1", ()) == rows_where(theirs, "1", ())


def test_a_start_that_could_not_write_goes_on_with_the_reserve_of_the_process_before(tmp_path: Path) -> None:
    file, _ = started(tmp_path)
    file.save(books(1, 10.0))
    file.set_aside(books(2, 20.0))
    kill(file)
    with unwritable():
        file, loaded = started(tmp_path)
    file.save(replace(loaded, at=books(3, 0.0).at, postings={KEY: Amounts(joules=30.0)}))
    kill(file)
    file, loaded = started(tmp_path)
    kill(file)
    assert joules(loaded) == 30.0


def test_a_reserve_that_an_attempt_has_carried_over_before_it_failed_is_continued(tmp_path: Path) -> None:
    file, _ = started(tmp_path)
    file.save(books(1, 10.0))
    kill(file)
    with unwritable():
        file, _ = started(tmp_path)
    file.set_aside(books(2, 20.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "check_small_tables", lambda *_: sqlite3.connect("/proc/none").execute("SELECT 1"))
        with pytest.raises(OSError, match="unable to open"):
            file.save(books(3, 30.0))
    file.set_aside(books(4, 40.0))
    kill(file)
    file, loaded = started(tmp_path)
    kill(file)
    assert joules(loaded) == 40.0


def test_books_that_were_written_since_are_not_taken_back(tmp_path: Path) -> None:
    file, _ = started(tmp_path)
    file.save(books(1, 10.0))
    file.set_aside(books(2, 20.0))
    file.save(books(3, 30.0))
    kill(file)
    file, loaded = started(tmp_path)
    kill(file)
    assert joules(loaded) == 30.0


@pytest.mark.parametrize("offset", [0, 8, 16, 20, 60])
def test_a_slot_that_is_torn_leaves_the_one_before(tmp_path: Path, offset: int) -> None:
    file, _ = started(tmp_path)
    file.save(books(1, 10.0))
    file.set_aside(books(2, 20.0))
    file.set_aside(books(3, 30.0))
    kill(file)
    reserve = tmp_path / f"{FILE_NAME}.reserve"
    data = bytearray(reserve.read_bytes())
    data[offset : offset + 4] = b"\xff\xff\xff\xff"  # the second write is in the first slot
    reserve.write_bytes(data)

    file, loaded = started(tmp_path)
    assert joules(loaded) == 20.0
    file.set_aside(books(4, 40.0))
    kill(file)
    file, loaded = started(tmp_path)
    kill(file)
    assert joules(loaded) == 40.0


def test_what_is_too_much_for_the_reserve_keeps_the_counters(tmp_path: Path) -> None:
    file, _ = started(tmp_path)
    file.save(books(1, 10.0))
    value = Random(1).random
    rows = {
        900.0 * row: {KEY: Amounts(joules=value(), seconds=value(), facility_joules=value())} for row in range(25_000)
    }
    file.set_aside(books(2, 20.0, rows=rows))
    kill(file)
    file, loaded = started(tmp_path)
    kill(file)
    assert (joules(loaded), len(loaded.rows)) == (20.0, 1)
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        pruned = connection.execute("SELECT value FROM meta WHERE key = 'pruned_before'").fetchone()
    assert pruned == (repr(START_WALL + 2),)


def test_an_account_that_cannot_be_encoded_costs_only_itself_in_the_reserve(tmp_path: Path) -> None:
    file, _ = started(tmp_path)
    file.save(books(1, 10.0))
    file.set_aside(books(2, 20.0, sources={"nvml": SourceAccount(1, {"timeout": float("nan")})}))  # type: ignore[dict-item]
    kill(file)
    file, loaded = started(tmp_path)
    kill(file)
    assert (joules(loaded), loaded.sources) == (20.0, {})


def test_what_an_operator_edits_is_the_completed_books(tmp_path: Path) -> None:
    file, _ = started(tmp_path)
    file.save(books(1, 10.0))
    file.set_aside(books(2, 20.0))
    kill(file)
    with editing(tmp_path) as connection:
        assert connection.execute("SELECT value FROM meta WHERE key = 'polls'").fetchone() == ("2",)


def test_books_that_could_not_be_read_are_never_replaced_by_emptier_ones(tmp_path: Path) -> None:
    file, _ = started(tmp_path)
    file.save(books(1, 10.0))
    kill(file)
    with unwritable(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "salvage", lambda *_: 1 / 0)
        file, loaded = started(tmp_path)
        assert loaded == Books()
        file.set_aside(books(2, 0.5))
        kill(file)
    file, loaded = started(tmp_path)
    kill(file)
    assert joules(loaded) == 10.0


def test_books_of_a_newer_version_are_left_as_they_are(tmp_path: Path) -> None:
    file, _ = started(tmp_path)
    file.save(books(1, 10.0))
    kill(file)
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection, connection:
        connection.execute("UPDATE meta SET value = '2' WHERE key = 'layout'")
    file, _ = started(tmp_path)
    with pytest.raises(OSError, match="newer"):
        file.set_aside(books(2, 20.0))
    kill(file)
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection, connection:
        connection.execute("UPDATE meta SET value = '1' WHERE key = 'layout'")
    file, loaded = started(tmp_path)
    kill(file)
    assert joules(loaded) == 10.0


def test_the_reserve_is_made_while_there_is_space_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    file, _ = started(tmp_path)
    file.save(books(1, 10.0))
    kill(file)
    status = (tmp_path / f"{FILE_NAME}.reserve").stat()
    assert status.st_mode & 0o777 == 0o600
    assert status.st_blocks * 512 >= status.st_size == 1 << 20
