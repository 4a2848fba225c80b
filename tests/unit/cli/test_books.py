"""``tpw-exporter books``: what it shows and changes, and that every sum stays."""

from __future__ import annotations

import json
import math
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from support.quarters import START, write_books
from tpw.cli import main
from tpw.exposition.families import families
from tpw.exposition.status import status
from tpw.ledger.books import Books
from tpw.ledger.retirement import FORGOTTEN, retired
from tpw.snapshot import Snapshot
from tpw.store.files import FILE_NAME
from tpw.store.sqlite import BooksFile

END = START + 3600.0


@pytest.fixture
def state(tmp_path: Path) -> Path:
    write_books(tmp_path, end=END)
    return tmp_path


def loaded(directory: Path) -> Books:
    file = BooksFile(directory)
    books = file.load()
    file.close()
    return books


def books_command(state: Path, *words: str) -> int:
    return main(["books", *words, f"--state.dir={state}"])


def first_server(state: Path) -> tuple[str, str, str]:
    for name, account in sorted(loaded(state).servers.items()):
        for model, kind in account.tokens:
            return name, model, str(kind)
    raise AssertionError


def correct(state: Path, tokens: float, reason: str = "a bug of its server") -> int:
    name, model, kind = first_server(state)
    return books_command(
        state, "correct", f"--server={name}", f"--model={model}", f"--kind={kind}", f"--tokens={tokens}",
        "--at=" + day(), f"--reason={reason}",
    )  # fmt: skip


def day() -> str:
    import time

    return time.strftime("%Y-%m-%dT%H:%M", time.gmtime(START + 900.0))


def test_it_shows_every_server_with_its_sums(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert books_command(state, "show") == 0
    text = capsys.readouterr().out
    for name in loaded(state).servers:
        assert f"\n{name} " in text
    assert "(no server)" in text


def test_sound_books_are_verified_and_others_are_not(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert books_command(state, "verify") == 0
    assert "sums compared" in capsys.readouterr().out
    with closing(sqlite3.connect(state / FILE_NAME)) as connection, connection:
        connection.execute("DELETE FROM interval WHERE start = (SELECT min(start) FROM interval)")
    assert books_command(state, "verify") == 1


def test_a_backup_is_the_whole_books_also_while_a_daemon_runs(state: Path, tmp_path: Path) -> None:
    before = loaded(state)
    target = tmp_path / "copy" / FILE_NAME
    target.parent.mkdir()
    running = BooksFile(state)
    assert books_command(state, "backup", str(target)) == 0
    running.close()
    assert loaded(target.parent) == before


def test_nothing_is_changed_while_a_daemon_runs(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    running = BooksFile(state)
    assert books_command(state, "forget", "chat") == 1
    running.close()
    assert "a daemon has the books" in capsys.readouterr().err


def test_a_correction_changes_reports_and_never_a_counter(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = loaded(state)
    name, model, kind = first_server(state)

    def reported() -> float:
        capsys.readouterr()
        main(["report", "--from=2000-01-01", "--to=2100-01-01", "--by=server", "--format=json", f"--state.dir={state}"])
        document = json.loads(capsys.readouterr().out)
        [line] = [line for line in document["rows"] if line.get("server") == name]
        return float(line[f"tokens_{kind}"])

    booked = reported()
    assert correct(state, -7.0) == 0
    assert reported() == booked - 7.0

    after = loaded(state)
    assert after.servers == before.servers
    assert [(one.server, one.model, one.tokens, one.reason) for one in after.corrections] == [
        (name, model, -7.0, "a bug of its server")
    ]
    assert after.at is not None
    [shown] = status(Snapshot(after.at, after))["corrections"]
    assert (shown["tokens"], shown["reason"]) == (-7.0, "a bug of its server")
    main(["report", "--from=2000-01-01", "--to=2100-01-01", f"--state.dir={state}"])
    assert f"-7 {kind} tokens of {name}, {model}" in " ".join(capsys.readouterr().out.split())
    assert books_command(state, "verify") == 0


@pytest.mark.parametrize(
    ("words", "exit_status", "message"),
    [
        (["correct"], 2, "give --server, --model, --kind, --tokens, --at, --reason"),
        (["forget"], 2, "the name of the server"),
        (["backup"], 2, "the file of the copy"),
        (["forget", "nobody"], 1, "the books have no server `nobody`; they have"),
    ],
)
def test_what_is_missing_is_named(
    state: Path, capsys: pytest.CaptureFixture[str], words: list[str], exit_status: int, message: str
) -> None:
    assert books_command(state, *words) == exit_status
    assert message in capsys.readouterr().err


def test_a_correction_of_an_unknown_server_is_refused(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model=m", "--kind=output", "--tokens=1", "--at=2026-01-01", "--reason=r"]
    assert books_command(state, "correct", "--server=nobody", *words) == 1
    assert "the books have no server `nobody`" in capsys.readouterr().err


def test_a_forgotten_server_leaves_its_sums(state: Path) -> None:
    before = loaded(state)
    name = first_server(state)[0]
    assert books_command(state, "forget", name) == 0
    after = loaded(state)

    assert name not in after.servers and name not in {key.server for key in after.postings}
    for books in (before, after):
        assert books.at is not None
    for quantity in ("joules", "seconds", "facility_joules", "net_cost"):
        sums = [math.fsum(getattr(one, quantity) for one in books.postings.values()) for books in (before, after)]
        assert sums[1] == pytest.approx(sums[0], rel=1e-12), quantity
    tokens = [
        math.fsum(value for account in books.servers.values() for value in account.tokens.values())
        for books in (before, after)
    ]
    assert tokens[1] == pytest.approx(tokens[0], rel=1e-12)
    assert books_command(state, "verify") == 0, "the rows still sum to the counters"
    assert after.at is not None
    gone = retired(after, 86400.0, after.at.wall_seconds)
    assert gone.servers == {FORGOTTEN}
    labels = {
        value for _, rows in families(Snapshot(after.at, after, retired=gone)) for names, _ in rows for value in names
    }
    assert not {name, FORGOTTEN} & labels
