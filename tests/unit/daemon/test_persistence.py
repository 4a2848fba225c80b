"""Saving the books: what a disk that cannot be written costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from tpw.daemon.persistence import Persistence
from tpw.ledger.books import Books
from tpw.snapshot import StoreStatus


class File:
    """A file of books that can be made unwritable."""

    def __init__(self) -> None:
        self.works = True
        self.attempts = 0
        self.saved: list[Books] = []
        self.path = Path("books.sqlite")
        self.problem = ""
        self.recovery = None
        self.held_back: tuple[str, ...] = ()
        self.has_reserve = True
        self.aside: list[Books] = []

    def save(self, books: Books) -> Books:
        self.attempts += 1
        if not self.works:
            raise OSError("disk full")
        self.saved.append(books)
        return books

    def set_aside(self, books: Books) -> None:
        if not self.has_reserve:
            raise OSError("read-only")
        self.aside.append(books)


@pytest.fixture
def file() -> File:
    return File()


class Clock:
    seconds = 100.0


def persistence(file: File, clock: Clock) -> Persistence:
    return Persistence(cast("Any", file), lambda: clock.seconds, lambda: 1e9 + clock.seconds)


def test_a_disk_that_cannot_be_written_is_tried_again_after_1_2_4_8_and_then_every_10_seconds(file: File) -> None:
    clock = Clock()
    store = persistence(file, clock)
    file.works = False
    with capture_logs() as log:
        attempts = []
        for second in range(61):
            before = file.attempts
            assert store.save(Books()) == Books()
            attempts += [second] * (file.attempts - before)
            clock.seconds += 1.0
        failing = store.status.problem
        file.works = True
        for _ in range(10):
            store.save(Books())
            clock.seconds += 1.0

    assert attempts == [0, 1, 3, 7, 15, 25, 35, 45, 55]
    assert len(file.saved) >= 1
    assert (failing, store.status.problem) == ("disk full", "")
    assert [entry["event"] for entry in log] == ["books_write_failed", "books_written_again"]
    assert store.written_wall_seconds == pytest.approx(1e9 + clock.seconds, abs=2.0)


def test_every_tick_that_is_not_written_is_set_aside(file: File) -> None:
    clock = Clock()
    store = persistence(file, clock)
    for second in range(12):
        file.works = second not in range(3, 8)
        store.save(Books(polls=second))
        clock.seconds += 1.0
    # Attempts at 3 (fails), 4 (fails), 6 (fails) and 10.
    assert [books.polls for books in file.aside] == list(range(3, 10))
    assert [books.polls for books in file.saved] == [0, 1, 2, 10, 11]


def test_books_are_awaited_until_they_were_written_once(file: File) -> None:
    store = persistence(file, Clock())
    file.works = False
    store.save(Books())
    assert store.awaited() == ["the books cannot be written: disk full"]
    reserve = store.notes()
    file.has_reserve = False
    store.save(Books())
    assert [len(reserve), len(store.notes())] == [1, 1] and reserve != store.notes()
    assert persistence(file, Clock()).awaited() == ["the books: they were not written yet"]
    other = persistence(file, Clock())
    file.works = True
    other.save(Books())
    assert other.awaited() == []


def test_books_in_memory_are_never_awaited() -> None:
    store = Persistence(None, float, float)
    assert store.load() == Books()
    assert store.awaited() == []
    assert store.status == StoreStatus()
    assert store.save(Books(polls=3)) == Books(polls=3)
    store.close()
