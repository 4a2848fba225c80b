"""The books of 0.1.0, as its code wrote them: a real run of two processes, the second one killed."""

from __future__ import annotations

import contextlib
import io
import sqlite3
from contextlib import closing, redirect_stdout
from pathlib import Path

import pytest

from support.scraped import parse
from tpw.cli import main
from tpw.exposition.families import families
from tpw.exposition.render import Format, Renderer
from tpw.model import Reference
from tpw.snapshot import Prices, Snapshot
from tpw.store.files import FILE_NAME
from tpw.store.sqlite import BooksFile

BOOKS = Path(__file__).parents[2] / "captures" / "books"
NOT_IN_THE_BOOKS = {"tpw_source_reads_total", "tpw_exposition_dropped_samples_total"}
"""Shown from the sources and the HTTP server, which these tests do not run; the books have the reads."""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        connection.executescript((BOOKS / "0.1.0.sql").read_text())
    return tmp_path


def test_no_counter_of_0_1_0_falls(state: Path) -> None:
    before = parse((BOOKS / "0.1.0.prom").read_text()).items()
    file = BooksFile(state)
    books = file.load()
    file.close()
    assert books.at is not None
    snapshot = Snapshot(books.at, books, prices=Prices("EUR"), references=(Reference("api"),))
    page = dict(parse(Renderer().render(families(snapshot), Format.TEXT).decode()).items())

    fallen = {
        (name, labels): (value, page.get((name, labels)))
        for (name, labels), value in before
        if name not in NOT_IN_THE_BOOKS and not page.get((name, labels), -1.0) >= value
    }
    assert fallen == {}
    assert {name: account.reads for name, account in books.sources.items()}.keys() == {"nvml", "server:chat", "tariff"}


def test_books_of_0_1_0_pass_the_verification(state: Path) -> None:
    output = io.StringIO()
    with redirect_stdout(output), contextlib.suppress(SystemExit):
        status = main(["books", "verify", f"--state.dir={state}"])
    assert status == 0, output.getvalue()
