"""Books that always start: whatever has happened to the files, what can be read is kept, and nothing is lost in silence."""

from __future__ import annotations

import math
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest

from support.quarters import START, write_books
from tpw.ledger.amounts import Amounts
from tpw.ledger.books import Books, GpuAccount, HostAccount, PostingKey, ServerAccount, SourceAccount
from tpw.model import Gpu, Instant, State
from tpw.store.files import BACKUPS, FILE_NAME, backups_of, beside
from tpw.store.queries import rows_where
from tpw.store.sqlite import BooksFile, doubtful
from tpw.store.upkeep import Upkeep, back_up

PAGE = 4096
LATER = START + 2 * 3600.0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Books]:
    """Books of some hours, written once."""
    directory = tmp_path_factory.mktemp("made")
    return directory, write_books(directory, end=LATER)


@pytest.fixture
def state(tmp_path: Path, made: tuple[Path, Books]) -> Path:
    """A copy of them."""
    shutil.copy(made[0] / FILE_NAME, tmp_path / FILE_NAME)
    return tmp_path


def changed(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def overwrite_pages(path: Path) -> None:
    changed(path, PAGE, os.urandom(8 * PAGE))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def no_database(path: Path) -> None:
    path.write_bytes(b"this is not a database, not at all" * 1000)


def row(table: str, text: str = "{") -> Callable[[Path], None]:
    def break_it(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(f"UPDATE {table} SET data = ?", (text,))  # noqa: S608

    return break_it


DAMAGES = {
    "pages 2 to 9": overwrite_pages,
    "one byte short": truncate,
    "no bytes": empty,
    "no database": no_database,
    "missing": Path.unlink,
    "posting that is no JSON": row("posting"),
    "posting of words": row("posting", '{"joules": "many"}'),
    "server that is no JSON": row("server"),
    "GPU that is no JSON": row("gpu", "[1]"),
}


def joules(books: Books) -> float:
    return math.fsum(posting.joules for posting in books.postings.values())


def tokens(books: Books) -> float:
    return math.fsum(value for account in books.servers.values() for value in account.tokens.values())


def loaded(directory: Path, at: float = LATER) -> tuple[Books, BooksFile]:
    file = BooksFile(directory, lambda: at)
    return file.load(), file


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_books_go_on_from_the_backup_and_what_is_readable(state: Path, damage: str) -> None:
    path = state / FILE_NAME
    back_up(path, backups_of(path)[0])
    with closing(sqlite3.connect(path)) as connection:
        history = rows_where(connection, "1", ())
    before, file = loaded(state)
    file.close()
    DAMAGES[damage](path)

    books, file = loaded(state)
    file.save(replace(books, polls=before.polls + 1))
    file.close()

    assert joules(books) == pytest.approx(joules(before), rel=1e-12)
    assert tokens(books) == pytest.approx(tokens(before), rel=1e-12)
    assert books.postings.keys() == before.postings.keys()
    assert books.servers.keys() == before.servers.keys()
    assert books.at == before.at
    assert file.recovery is not None
    assert books.recovered == 1
    with closing(sqlite3.connect(path)) as connection:
        assert rows_where(connection, "1", ()).keys() == history.keys()
    if damage != "missing":
        assert file.recovery.set_aside is not None and file.recovery.set_aside.exists()
        assert file.recovery.set_aside.name.startswith(f"{FILE_NAME}.damaged-20")
    again, file = loaded(state)
    file.close()
    assert (again.polls, again.recovered, file.recovery) == (before.polls + 1, 1, None), "recovered once"


@pytest.mark.parametrize("damage", DAMAGES)
def test_without_a_backup_a_damaged_file_never_prevents_a_start(
    state: Path, made: tuple[Path, Books], damage: str
) -> None:
    books = made[1]
    DAMAGES[damage](state / FILE_NAME)

    start, file = loaded(state)
    assert file.problem == ""
    assert (start.recovered, file.recovery is None) == ((0, True) if damage == "missing" else (1, False)), (
        "not in silence"
    )
    file.save(replace(books, at=Instant(0.0, LATER + 1.0)))
    file.close()
    if damage.startswith(("posting", "server", "GPU")):
        assert joules(start) == pytest.approx(joules(books), rel=1e-9)
        assert tokens(start) == pytest.approx(tokens(books), rel=1e-9)


def test_a_lost_posting_is_that_of_the_backup_and_the_quarter_hours_since(
    tmp_path_factory: pytest.TempPathFactory, state: Path, made: tuple[Path, Books]
) -> None:
    tmp_path = tmp_path_factory.mktemp("earlier")
    write_books(tmp_path, end=START + 3600.0)
    path = tmp_path / FILE_NAME
    books, whole = made[1], state / FILE_NAME
    back_up(path, backups_of(whole)[0])
    key = max(books.postings, key=lambda one: books.postings[one].joules)
    with closing(sqlite3.connect(whole)) as connection, connection:
        connection.execute("UPDATE posting SET data = '{' WHERE gpu = ? AND server = ?", (key.gpu, key.server))

    start, file = loaded(state)
    file.close()
    assert start.postings[key].joules == pytest.approx(books.postings[key].joules, rel=1e-9)


def test_what_waited_at_the_time_of_the_backup_is_not_booked_a_second_time(tmp_path: Path) -> None:
    key = PostingKey("GPU-0", "chat", "m", State.ACTIVE)
    held = {START: {key: Amounts(joules=100.0)}}
    waiting = Books(
        at=Instant(1.0, START),
        gpus={"GPU-0": GpuAccount(Gpu("GPU-0", 0))},
        postings={key: Amounts(joules=7.0)},
        held=held,
        host_carry_joules=5.0,
        standing_charges_since_seconds=START,
        month_kwh={START: 3.0},
    )
    booked = replace(
        waiting,
        at=Instant(61.0, START + 60.0),
        postings={key: Amounts(joules=107.0)},
        held={},
        host_carry_joules=0.0,
        standing_charges_since_seconds=None,
    )
    file = BooksFile(tmp_path)
    file.save(waiting)
    path = tmp_path / FILE_NAME
    back_up(path, backups_of(path)[0])
    file.save(booked)
    file.close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM meta WHERE key IN ('held', 'contract', 'host_carry_joules')")
        connection.execute("INSERT INTO source VALUES ('nvml', '{')")

    found, file = loaded(tmp_path)
    file.close()
    assert (found.postings, found.held, found.host_carry_joules) == (booked.postings, {}, 0.0)
    assert (found.standing_charges_since_seconds, found.month_kwh) == (None, {START: 3.0})

    # Books that are lost as a whole are those of the backup, with what waited in them.
    path.write_bytes(b"")
    found, file = loaded(tmp_path)
    file.close()
    assert (found.postings, found.held) == (waiting.postings, held)
    assert found.standing_charges_since_seconds == START


def test_a_damaged_history_is_found_with_the_backup_and_recovered_at_the_next_start(
    state: Path, made: tuple[Path, Books]
) -> None:
    books, path = made[1], state / FILE_NAME
    back_up(path, backups_of(path)[0])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        [root] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'interval'").fetchone()
        history = rows_where(connection, "1", ())
    changed(path, (root - 1) * PAGE, b"\xff" * PAGE)
    os.utime(backups_of(path)[0], (LATER - 7200.0, LATER - 7200.0))
    upkeep = Upkeep(path, 1e9, lambda: LATER, lambda: 0.0)
    upkeep.run()
    assert upkeep.note.startswith("The books are damaged: ")
    assert doubtful(path).exists()

    start, file = loaded(state)
    file.close()
    assert file.recovery is not None and not doubtful(path).exists()
    assert joules(start) == joules(books)
    with closing(sqlite3.connect(path)) as connection:
        assert rows_where(connection, "1", ()) == history


def test_backups_rotate_are_verified_and_private(tmp_path: Path) -> None:
    write_books(tmp_path, end=START + 1800.0)
    path = tmp_path / FILE_NAME
    now = [path.stat().st_mtime]
    upkeep = Upkeep(path, 1e9, lambda: now[0], lambda: now[0])
    numbers = []
    for _ in range(4):
        upkeep.run()
        numbers.append([file.stat().st_ino if file.exists() else 0 for file in backups_of(path)])
        now[0] += 3601.0

    assert len(backups_of(path)) == BACKUPS == 2
    assert all(later[1] == earlier[0] for earlier, later in pairwise(numbers))
    assert {stat.S_IMODE(file.stat().st_mode) for file in backups_of(path)} == {0o600}
    assert sorted(file.name for file in tmp_path.iterdir() if "new" in file.name) == []


def test_no_backup_is_made_where_it_would_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_books(tmp_path, end=START + 1800.0)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1 << 20})())
    upkeep = Upkeep(tmp_path / FILE_NAME, 1e9, lambda: LATER, lambda: 0.0)
    upkeep.run()
    assert not backups_of(tmp_path / FILE_NAME)[0].exists()
    assert "1 MiB are free" in upkeep.note


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    old = os.umask(0)
    try:
        write_books(directory, end=START + 900.0)
        file = BooksFile(directory)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
        file.close()
    finally:
        os.umask(old)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert set(modes.values()) == {0o600}, modes


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that others may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


AS_NOBODY = """
import os, sys
from pathlib import Path
from tpw.store.sqlite import BooksFile
os.setgroups([]); os.setgid(65534); os.setuid(65534)
file = BooksFile(Path(sys.argv[1]))
books = file.load()
print(sum(posting.joules for posting in books.postings.values()), books.polls, "|", file.problem)
try:
    file.save(books)
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
@pytest.mark.parametrize("killed", [False, True])
def test_a_directory_that_cannot_be_written_is_gone_on_from_in_memory(
    tmp_path: Path, public: Path, made: tuple[Path, Books], killed: bool
) -> None:
    """With what a killed daemon has left in the log."""
    books = made[1]
    (tmp_path / "state").mkdir()
    shutil.copy(made[0] / FILE_NAME, tmp_path / "state" / FILE_NAME)
    directory = public / "copy"
    directory.mkdir()
    file = BooksFile(tmp_path / "state", lambda: LATER)
    file.load()
    file.save(replace(books, polls=4711))
    if not killed:
        file.close()
    for source in (file.path, *beside(file.path)[:1]):
        if source.exists():
            directory.joinpath(source.name).write_bytes(source.read_bytes())
            directory.joinpath(source.name).chmod(0o444)
    directory.chmod(0o555)
    done = subprocess.run([sys.executable, "-c", AS_NOBODY, str(directory)], capture_output=True, text=True, check=True)
    file.close()
    found, second = done.stdout.splitlines()
    assert found.startswith(f"{joules(books)!r} 4711 | "), found
    assert "ermission denied" in second


def test_books_that_could_not_be_written_are_written_once_the_disk_is_repaired(
    tmp_path: Path, state: Path, made: tuple[Path, Books], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = made[1]

    def full(path: Path) -> sqlite3.Connection:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("tpw.store.sqlite.connect", full)
        books, file = loaded(tmp_path)
        assert (joules(books), tokens(books)) == (joules(before), tokens(before))
        assert file.problem == "database or disk is full"
        books = replace(books, at=Instant(0.0, LATER + 60.0), polls=77)
        with pytest.raises(OSError, match="disk is full"):
            file.save(books)
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        rows = rows_where(connection, "1", ())
    file.save(books)
    assert file.problem == ""
    file.close()
    again, file = loaded(tmp_path)
    file.close()
    assert (again.polls, joules(again), again.recovered) == (77, joules(before), 0)
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        assert rows_where(connection, "1", ()) == rows, "no quarter-hour is written twice"


def test_books_of_a_newer_version_are_read_and_never_written(tmp_path: Path) -> None:
    before = write_books(tmp_path, end=START + 1800.0)
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection, connection:
        connection.execute("UPDATE meta SET value = '99' WHERE key = 'layout'")
    data = (tmp_path / FILE_NAME).read_bytes()

    books, file = loaded(tmp_path)
    assert joules(books) == joules(before)
    assert "newer tpw-exporter" in file.problem and "--state.dir" in file.problem
    with pytest.raises(OSError, match="newer tpw-exporter"):
        file.save(books)
    file.close()
    assert (tmp_path / FILE_NAME).read_bytes() == data


def test_an_account_that_cannot_be_encoded_costs_only_itself(tmp_path: Path) -> None:
    file = BooksFile(tmp_path)
    good, bad = PostingKey("GPU-0", "", "", State.IDLE), PostingKey("GPU-1", "", "", State.IDLE)
    books = Books(
        at=Instant(0.0, START),
        postings={good: Amounts(joules=5.0), bad: Amounts(joules=math.inf)},
        rows={START: {good: Amounts(joules=5.0), bad: Amounts(joules=math.inf)}},
        servers={"a": ServerAccount("a", engine="x"), "b": ServerAccount("b", series={"o": math.inf})},
        sources={"half \ud800": SourceAccount(1), "nvml": SourceAccount(2)},
        hosts={"cpu": HostAccount(math.nan)},
    )
    kept = file.save(books)
    assert kept.servers["b"].series == {"o": math.inf}, "in memory"
    assert len(file.held_back) == 4
    file.save(replace(books, at=Instant(1.0, START + 1.0), servers={"b": ServerAccount("b", engine="y")}))
    file.close()

    books, file = loaded(tmp_path)
    file.close()
    assert set(books.postings) == {good}
    assert {name: account.engine for name, account in books.servers.items()} == {"a": "x", "b": "y"}
    assert (set(books.sources), set(books.hosts)) == ({"nvml"}, set())


def test_every_exception_of_a_save_rolls_the_transaction_back(tmp_path: Path) -> None:
    file = BooksFile(tmp_path)
    with pytest.raises(OSError, match="books"):
        file.save(Books(at=Instant(0.0, START), currency=cast("Any", object())))
    file.save(Books(at=Instant(0.0, START), polls=3))
    file.close()
    books, file = loaded(tmp_path)
    file.close()
    assert books.polls == 3


def test_a_forgotten_reader_does_not_make_the_log_grow_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tpw.store.sqlite.WAL_BYTES", 1 << 20)
    now = [START]
    file = BooksFile(tmp_path, lambda: now[0])
    books = Books(at=Instant(0.0, START))
    file.save(books)
    reader = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM meta").fetchone()
    largest = 0
    for number in range(3000):
        now[0] += 5.0
        server = ServerAccount("s", engine="x" * 5000 + str(number))
        books = file.save(Books(at=Instant(0.0, now[0]), servers={"s": server}, polls=number))
        largest = max(largest, beside(file.path)[0].stat().st_size)
    assert reader.execute("SELECT count(*) FROM server").fetchone() == (0,), "the reader keeps its view"
    reader.close()
    file.close()
    assert largest < 3 << 20
    books, file = loaded(tmp_path)
    file.close()
    assert books.polls == 2999
