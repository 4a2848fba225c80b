"""Rows against counters."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from support.quarters import END, START, write_books
from tpw.report.reconcile import Comparison, check_text, compared
from tpw.store.files import FILE_NAME
from tpw.store.reading import BooksReader


def comparisons(directory: Path) -> list[Comparison]:
    with BooksReader(directory) as books:
        return compared(books.rows(), books.served(), books.postings(), books.servers())


def change(directory: Path, statement: str) -> None:
    with closing(sqlite3.connect(directory / FILE_NAME)) as connection, connection:
        assert connection.execute(statement).rowcount > 0
    connection.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_books(tmp_path)
    return tmp_path


def test_whole_books_agree_in_everything_there_is(directory: Path) -> None:
    found = comparisons(directory)
    text, is_sound = check_text(found, None)
    assert is_sound
    assert text.splitlines()[-1] == f"The rows sum to the counters within 1e-09: {len(found)} sums compared."
    assert {one.item.quantity for one in found} == {
        "seconds", "energy gpu J", "energy facility J", "energy without a price J", "energy without intensity J",
        "credit", "cost energy", "cost hardware", "cost hosting", "requests",
        "tokens input", "tokens cached_input", "tokens output", "reference cost api", "reference cost rented",
    }  # fmt: skip
    assert all(one.counter > 0.0 for one in found if one.item.quantity == "seconds")


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        (
            "DELETE FROM interval WHERE start = (SELECT max(start) - 3600 FROM interval)",
            "differs: seconds of GPU-00000000",
        ),
        (
            "DELETE FROM served WHERE start = (SELECT min(start) FROM served) AND server = 'chat'",
            "tokens output of chat",
        ),
        (
            "UPDATE posting SET data = json_set(data, '$.cost.energy', 1.0) WHERE state = 'parked'",
            "differs: cost energy",
        ),
        ("DELETE FROM posting WHERE state = 'idle'", "(none), (none), idle"),
    ],
)
def test_a_difference_is_found_and_named(directory: Path, statement: str, named: str) -> None:
    change(directory, statement)
    text, is_sound = check_text(comparisons(directory), None)
    assert not is_sound
    assert named in text
    assert "The rows sum to the counters" not in text


def test_a_difference_of_a_billionth_is_found_and_less_is_rounding(directory: Path) -> None:
    one = comparisons(directory)[0]
    for factor, agrees in ((1.0 + 2e-9, False), (1.0 + 5e-10, True)):
        assert Comparison(one.item, 1e6, 1e6 * factor).agrees is agrees


def test_of_books_that_were_pruned_only_the_rest_can_be_checked(tmp_path: Path) -> None:
    write_books(tmp_path, end=START + 86400.0, keep_seconds=6 * 3600.0)
    with BooksReader(tmp_path) as books:
        head = books.head()
    assert head.pruned_before_seconds is not None
    assert head.pruned_before_seconds <= (head.first_row_seconds or 0.0)

    found = comparisons(tmp_path)
    assert not check_text(found, None)[1]
    text, is_sound = check_text(found, "2026-10-25 14:00")
    assert is_sound
    assert "Rows from before 2026-10-25 14:00 were deleted (state.keep)" in text
    assert "The rows are within the counters" in text

    more = [Comparison(found[0].item, 1.0, 2.0), *found]
    assert not check_text(more, "2026-10-25 14:00")[1]


def test_energy_that_was_priced_late_is_in_both(directory: Path) -> None:
    from dataclasses import replace

    from support.quarters import POLICY, Hourly
    from tpw.ledger.rows import price_late
    from tpw.model import PriceInterval
    from tpw.store.sqlite import BooksFile

    class Known(Hourly):
        def pieces(self, start, end):  # type: ignore[no-untyped-def]
            yield start, end, PriceInterval(start, end, 0.4)

    file = BooksFile(directory, lambda: END)
    file.save(price_late(file.load(), replace(POLICY, curve=Known())))
    file.close()

    found = comparisons(directory)
    assert check_text(found, None)[1]
    assert {one.rows for one in found if one.item.quantity == "energy without a price J"} == {0.0}


def test_a_late_price_is_charged_once_whenever_the_daemon_is_killed_or_started_anew(directory: Path) -> None:
    """Killed after pricing and before writing it is priced again; once written it is not, nor at another price."""
    from dataclasses import replace

    from support.quarters import POLICY, Hourly
    from tpw.ledger.books import Books
    from tpw.ledger.rows import price_late, unpriced_since
    from tpw.model import PriceInterval
    from tpw.store.sqlite import BooksFile

    class Known(Hourly):
        def __init__(self, price: float) -> None:
            self.price = price

        def pieces(self, start, end):  # type: ignore[no-untyped-def]
            yield start, end, PriceInterval(start, end, self.price)

    def started(price: float, *, writes: bool) -> tuple[Books, Books]:
        file = BooksFile(directory, lambda: END)
        loaded = file.load()
        priced = price_late(loaded, replace(POLICY, curve=Known(price)))
        if writes:
            file.save(priced)
        file.close()
        return loaded, priced

    def charged(books: Books) -> float:
        return sum(posting.cost.get("energy", 0.0) for posting in books.postings.values())

    first, lost = started(0.4, writes=False)
    assert unpriced_since(first) is not None and charged(lost) > charged(first)
    again, kept = started(0.4, writes=True)
    assert (charged(again), charged(kept)) == (charged(first), pytest.approx(charged(lost), rel=1e-12))
    for _ in range(2):
        later, untouched = started(0.9, writes=True)
        assert unpriced_since(later) is None and untouched is later
        assert charged(later) == pytest.approx(charged(kept), rel=1e-12)
    assert check_text(comparisons(directory), None)[1]
