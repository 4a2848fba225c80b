"""Power limits and requests in the books: what advice is reckoned from."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from support.quarters import GPUS, POLICY, START, STEP_SECONDS, ticks
from tpw.ledger.advance import advance
from tpw.ledger.books import ROW_SECONDS, Books, PowerLimit, ServerAccount
from tpw.ledger.rows import serve
from tpw.ledger.service import Outcomes, Service
from tpw.ledger.tick import Tick
from tpw.model import Slo
from tpw.store.files import FILE_NAME
from tpw.store.reading import BooksReader
from tpw.store.sqlite import BooksFile
from tpw.store.upkeep import prune

UUID = GPUS[0].uuid
LIMITS = (700.0, 700.0, 500.0, 500.0, None, 500.0, 700.0)


def limited() -> Iterator[Tick]:
    for tick, watts in zip(ticks(), LIMITS, strict=False):
        first, *others = tick.accelerators.samples
        samples = (replace(first, power_limit_watts=watts), *others)
        yield replace(tick, accelerators=replace(tick.accelerators, samples=samples))


def test_a_power_limit_is_written_when_it_changes_and_over_a_restart_once(tmp_path: Path) -> None:
    books, file = Books(), BooksFile(tmp_path)
    for number, tick in enumerate(limited()):
        if number == 4:
            file.close()
            file = BooksFile(tmp_path)
            books = file.load()
        books = file.save(advance(books, tick, POLICY))
    file.close()

    with BooksReader(tmp_path) as reader:
        assert reader.power_limits() == {
            UUID: tuple(
                PowerLimit(START + number * STEP_SECONDS, watts)
                for number, watts in ((0, 700.0), (2, 500.0), (6, 700.0))
            )
        }


def test_pruning_keeps_the_limit_in_force_at_the_first_row_that_is_left(tmp_path: Path) -> None:
    books, file = Books(), BooksFile(tmp_path)
    for tick in limited():
        books = file.save(advance(books, tick, POLICY))
    file.close()

    prune(tmp_path / FILE_NAME, START + 4 * STEP_SECONDS, lambda: None)
    with BooksReader(tmp_path) as reader:
        assert [limit.watts for limit in reader.power_limits()[UUID]] == [500.0, 700.0]


def test_books_without_the_table_have_no_limits_and_get_it_from_the_daemon(tmp_path: Path) -> None:
    books, file = Books(), BooksFile(tmp_path)
    for tick in ticks():
        books = file.save(advance(books, tick, POLICY))
    file.close()
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        connection.execute("DROP TABLE power_limit")

    with BooksReader(tmp_path) as reader:
        assert reader.power_limits() == {}
    file = BooksFile(tmp_path)
    assert file.load().postings.keys() == books.postings.keys()
    assert not file.problem
    file.close()


def test_a_row_has_the_seconds_of_running_and_waiting_requests(tmp_path: Path) -> None:
    """Chat runs one request, and in the books' first hour it works for 40 minutes; the first tick is a baseline."""
    books = Books()
    for tick in ticks(START, START + 3600.0):
        server, *others = tick.servers
        loads = tuple(replace(load, waiting=2.0 * (load.running or 0.0)) for load in server.loads)  # type: ignore[union-attr]
        books = advance(books, replace(tick, servers=(replace(server, loads=loads), *others)), POLICY)  # type: ignore[arg-type]

    chat = [work for row in books.served.values() for (name, _), work in row.items() if name == "chat"]
    assert sum(work.running_seconds for work in chat) == pytest.approx(2400.0)
    assert sum(work.waiting_seconds for work in chat) == pytest.approx(4800.0)


def test_a_row_has_the_requests_that_are_known_to_have_missed_a_target() -> None:
    before, after = (
        {"s": ServerAccount("s", service=Service(outcomes={("m", Slo.TTFT): Outcomes(5.0, missed, 1.0)}))}
        for missed in (2.0, 6.0)
    )
    rows = serve({}, before, after, 0.0, 2 * ROW_SECONDS)
    assert [row["s", "m"].missed for row in rows.values()] == [{"ttft": 2.0}, {"ttft": 2.0}]
    assert serve({}, {"s": ServerAccount("s")}, after, 0.0, ROW_SECONDS) == {}, "a baseline"
