"""The books in one SQLite file.

Every tick is one transaction, committed before its snapshot can be scraped: a killed daemon never resumes below a value
that was scraped. Only changes are written. The journal is a write-ahead log with ``synchronous = NORMAL``: a killed
process loses nothing, a machine that loses power may lose the last minute (and the meters' counters restart as well).

Opening never fails for the state of the disk: damaged books are recovered (:mod:`tpw.store.recovery`), and where nothing
can be written the books go on in memory from what can be read, until a later save finds the disk repaired.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tpw.ledger.amounts import Amounts, Served
from tpw.ledger.books import Books, GpuAccount, PostingKey, ServerAccount
from tpw.ledger.rows import without_closed
from tpw.store import codec
from tpw.store.files import (
    FILE_NAME,
    WAL_BYTES,
    DamagedError,
    NewerLayoutError,
    StoreError,
    backups_of,
    beside,
    check_small_tables,
    check_whole,
    connect,
    connect_read_only,
    connect_snapshot,
    mark_closed,
    mark_open,
    sync,
)
from tpw.store.queries import boot_row, load, postings_where, rows_where, served_where, work_where
from tpw.store.recovery import Recovery, recover, salvage
from tpw.store.reserve import Changes, Reserve, write

if TYPE_CHECKING:
    from tpw.store.tenants import TenantRows

_FLUSH_SECONDS: Final = 60.0
_UNENCODABLE: Final = (ValueError, TypeError, OverflowError)


@dataclass(frozen=True, slots=True)
class History:
    """Rows of the books that are not in memory, to be read once, ``rows`` first."""

    rows: Iterable[tuple[float, PostingKey, Amounts]] = ()
    served: Iterable[tuple[float, str, str, Served]] = ()
    pruned_before_seconds: float = -math.inf
    """Earlier rows are not kept any more."""


@dataclass(slots=True)
class _Beneath:
    """What the disk has of rows that are new in memory: late energy, a clock that was set back."""

    rows: dict[float, dict[PostingKey, Amounts]] = field(default_factory=dict)
    served: dict[float, dict[tuple[str, str], Served]] = field(default_factory=dict)
    tenants: TenantRows | None = None


class BooksFile:
    """The books of one daemon. Holds a lock on its directory while it is open.

    All methods but ``__init__`` and ``close`` belong to the thread that advances the books.

    Args:
        directory: created if it does not exist.
        wall: Unix time.
        boot: identity of this start of the machine; "" if it is unknown. Over a restart of the daemon only, the monotonic
            clock goes on.

    Raises:
        StoreError: another daemon uses the directory.
    """

    def __init__(self, directory: Path, wall: Callable[[], float] = time.time, boot: str = "") -> None:
        self._wall = wall
        self._boot = boot
        self._directory = directory
        self.path = directory / FILE_NAME
        self.problem = ""
        """Why the books cannot be written, from the start on; "" if they can."""
        self.recovery: Recovery | None = None
        """What was done about a damaged file, if it was one."""
        self.held_back: tuple[str, ...] = ()
        """Accounts that could not be encoded at the last save: they are kept in memory only."""
        self._written = Books()
        self._flushed_at = 0.0
        self._beneath = _Beneath()
        self._reserve = Reserve(self.path)
        self._lock = -1
        self._connection: sqlite3.Connection | None = None
        try:
            self._acquire()
            self._connection, self._loaded = self._opened()
            self._reserve.completes(_moment(self._loaded))
        except (OSError, sqlite3.OperationalError, NewerLayoutError) as error:
            self.problem = _reason(error)
            self._loaded = self._in_memory()
            if isinstance(error, NewerLayoutError):
                self._reserve.completes(None)

    def _acquire(self) -> None:
        """Lock the directory. Raises OSError, and StoreError where another daemon has it."""
        if self._lock >= 0:
            return
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise StoreError(
                f"another tpw-exporter keeps its books in {self._directory}: stop it, or give this one its own --state.dir"
            ) from error
        except OSError:
            os.close(lock)
            raise
        self._lock = lock

    def _opened(self) -> tuple[sqlite3.Connection, Books]:
        """A connection for writing, and the books in it; damaged ones are recovered first.

        Raises OSError, sqlite3.OperationalError, NewerLayoutError: nothing can be written.
        """
        try:
            return self._attempt()
        except (OSError, sqlite3.OperationalError, NewerLayoutError):
            raise
        except Exception as error:  # noqa: BLE001 - a row can be damaged in any way
            self.recovery = recover(self.path, _reason(error), self._wall())
            doubtful(self.path).unlink(missing_ok=True)
        try:
            return self._attempt()
        except (OSError, sqlite3.OperationalError, NewerLayoutError):
            raise
        except Exception as error:
            raise OSError(f"{self.path}: recovered books cannot be read: {_reason(error)}") from error

    def _attempt(self) -> tuple[sqlite3.Connection, Books]:
        if self.path.exists() and self.path.stat().st_size == 0:
            raise DamagedError("the file is empty")
        connection = connect(self.path)
        try:
            check_small_tables(connection, self.path)
            if doubtful(self.path).exists():
                check_whole(connection)
                doubtful(self.path).unlink(missing_ok=True)
            books = load(connection, self._boot)
            if books.at is None and any(path.exists() for path in backups_of(self.path)):
                raise DamagedError("it is empty, and there is a backup")
            with contextlib.suppress(sqlite3.OperationalError):  # a full disk: the first save reports it
                mark_open(connection)
        except BaseException:
            connection.close()
            raise
        return connection, books

    def _in_memory(self) -> Books:
        """The books from what can be read, where nothing can be written."""
        with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as memory:
            try:
                recovery = salvage(self.path, memory, "", self._wall())
                base = _moment(load(memory))
                carried = self._reserve.carry_over(memory)
                books = load(memory, self._boot)
            except Exception:  # noqa: BLE001 - a start never fails for the state of the disk
                return Books()
        self._reserve.completes(base, carried, _moment(books))
        # Counted when it is recovered on disk.
        return replace(books, recovered=max(0, books.recovered - 1)) if recovery is not None else books

    def load(self) -> Books:
        """The books as last written, ready to be advanced; empty books if there are none."""
        self._written = self._loaded
        return self._loaded

    def with_tenants(self, books: Books) -> Books:
        """Books that were loaded, with those of tenants. Empty ones where they cannot be read."""
        from tpw.ledger.tenants import TenantBooks
        from tpw.store.tenants import load as load_tenants

        tenants = TenantBooks()
        try:
            with self._disk() as disk:
                tenants = load_tenants(disk, books.rows.keys())
        except Exception as error:  # noqa: BLE001 - a row can be damaged in any way, and a start never fails for it
            self.problem = self.problem or _reason(error)
        self._written = replace(self._written, tenants=tenants)
        return replace(books, tenants=tenants)

    def save(self, books: Books) -> Books:
        """Write what changed since the last save, as one transaction.

        Returns:
            The books without closed rows, which only the disk has from now on.

        Raises:
            OSError: the disk is full, read-only or missing. Nothing was written; the next save writes everything.
        """
        if books.at is None:
            return books
        connection = self._connection or self._reopened()
        written = books
        try:
            try:
                write(connection, self._changes(books))
                self.held_back = ()
            except _UNENCODABLE:
                written, self.held_back = _encodable(books, self._written)
                write(connection, self._changes(written))
        except sqlite3.Error as error:
            raise OSError(f"{self.path}: {error}") from error
        self._reserve.completes(_moment(books))
        self._written = without_closed(written)
        books = self._written if written is books else without_closed(books)
        # A row that left the memory is complete on disk. If it reappears, it is read again.
        self._beneath.rows = {start: row for start, row in self._beneath.rows.items() if start in books.rows}
        self._beneath.served = {start: row for start, row in self._beneath.served.items() if start in books.served}
        now = self._wall()
        if not 0.0 <= now - self._flushed_at < _FLUSH_SECONDS:
            self._flushed_at = now
            with contextlib.suppress(sqlite3.Error, OSError):
                self._flush(connection)
                self._reserve.prepare()
        return books

    def history(self, start_seconds: float, end_seconds: float) -> History | None:
        """What is in no row in memory now, of the rows that began in [start, end). None while the file cannot be written.

        Its rows may be read on any thread: what is saved meanwhile changes none of them.
        """
        if self._connection is None:
            return None
        try:
            disk = connect_snapshot(self.path)
            pruned = disk.execute("SELECT value FROM meta WHERE key = 'pruned_before'").fetchone()
        except sqlite3.Error:
            return None
        condition, bounds = "start >= ? AND start < ?", (start_seconds, end_seconds)
        in_memory, beneath, beneath_served = self._written, dict(self._beneath.rows), dict(self._beneath.served)

        def served() -> Iterator[tuple[float, str, str, Served]]:
            with contextlib.closing(disk):
                yield from (one for one in work_where(disk, condition, bounds) if one[0] not in in_memory.served)

        return History(
            chain(
                (one for one in postings_where(disk, condition, bounds) if one[0] not in in_memory.rows),
                (
                    (start, *one)
                    for start, row in beneath.items()
                    if start_seconds <= start < end_seconds
                    for one in row.items()
                ),
            ),
            chain(
                served(),
                (
                    (start, *who, work)
                    for start, row in beneath_served.items()
                    if start_seconds <= start < end_seconds
                    for who, work in row.items()
                ),
            ),
            -math.inf if pruned is None else float(pruned[0]),
        )

    def tenant_history(self, start_seconds: float, end_seconds: float) -> History | None:
        """The same of tenants, with the tenant in place of the server, and without what was served."""
        from tpw.store.tenants import rows_on_disk

        tenants = self._written.tenants
        if self._connection is None or tenants is None:
            return None
        try:
            disk = connect_snapshot(self.path)
            pruned = disk.execute("SELECT value FROM meta WHERE key = 'pruned_before'").fetchone()
        except sqlite3.Error:
            return None
        rows = rows_on_disk(disk, tenants, self._beneath.tenants, start_seconds, end_seconds)
        return History(rows, (), -math.inf if pruned is None else float(pruned[0]))

    def set_aside(self, books: Books) -> None:
        """Keep beside the books what could not be written, for the next start (:mod:`tpw.store.reserve`).

        Raises OSError: not even that can be written.
        """
        if books.at is None:
            return
        try:
            try:
                changes = [(name, list(rows)) for name, rows in self._changes(books)]
            except _UNENCODABLE:
                changes = [(name, list(rows)) for name, rows in self._changes(_encodable(books, self._written)[0])]
        except sqlite3.Error as error:
            raise OSError(f"{self.path}: {error}") from error
        try:
            self._reserve.put(_moment(books), changes)
        except OSError:
            # Without the quarter-hours, which then no longer sum to the counters.
            self._reserve.put(_moment(books), changes, without_rows=True)

    def _changes(self, books: Books) -> Changes:
        """What to write, one table after the other."""
        assert books.at is not None  # noqa: S101 - checked by the caller
        old = self._written
        yield "gone", [codec.dump_key(key) for key in old.postings.keys() - books.postings.keys()]
        yield (
            "posting",
            [
                (*codec.dump_key(key), codec.dump_quantity(value))
                for key, value in _changed(books.postings, old.postings)
            ],
        )
        yield "interval", self._intervals(books, old)
        yield "served", self._served(books, old)
        tenants = books.tenants
        if tenants is not None:
            from tpw.store.tenants import STATE, TenantRows, dump_state, is_changed

            rows = self._beneath.tenants = self._beneath.tenants or TenantRows()
            with self._disk() as disk:
                yield "tenant_interval", list(rows.changes(tenants, old.tenants, disk))
            if is_changed(tenants, old.tenants):
                yield "meta", [(STATE, dump_state(tenants))]
        yield "gpu", _rows(books.gpus, old.gpus, codec.dump_gpu)
        yield "power_limit", _limits(books.gpus, old.gpus)
        yield "server", self._servers(books, old)
        yield "host", _rows(books.hosts, old.hosts, codec.dump_host)
        yield "source", _rows(books.sources, old.sources, codec.dump_source)
        yield (
            "meta",
            [
                ("at_wall_seconds", repr(books.at.wall_seconds)),
                ("boot", boot_row(self._boot, books.at)),
                ("currency", books.currency),
                ("host_carry_joules", repr(books.host_carry_joules)),
                ("contract", codec.dump_contract(books)),
                ("held", codec.dump_held(books.held)),
                ("polls", str(books.polls)),
                ("polls_skipped", str(books.polls_skipped)),
            ],
        )

    def _reopened(self) -> sqlite3.Connection:
        """A connection to books that could not be written so far. Raises OSError."""
        try:
            self._acquire()
            connection, books = self._opened()
        except (OSError, sqlite3.OperationalError, StoreError) as error:
            with contextlib.suppress(sqlite3.Error), contextlib.closing(connect_read_only(self.path)) as disk:
                # What failed may be a step after the reserve was carried over: then it completes other books.
                self._reserve.find_base(disk)
            raise OSError(_reason(error)) from error
        if books.at is not None and not self._reserve.knows(_moment(books)):
            connection.close()
            raise OSError(f"{self.path} was written by another process meanwhile: restart this one to go on from there")
        self._connection, self.problem = connection, ""
        self._reserve.completes(_moment(books))
        return connection

    def _flush(self, connection: sqlite3.Connection) -> None:
        """Move the write-ahead log into the file. Raises sqlite3.Error, OSError."""
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        if beside(self.path)[0].stat().st_size <= WAL_BYTES:
            return
        # A reader that does not end keeps the log from being reused. It keeps the old file, and the books go on in a copy.
        # The copy has the same pages: should this process end between the two steps, the old log changes nothing in it.
        new = self.path.with_name(f"{FILE_NAME}.new")
        new.unlink(missing_ok=True)
        new.touch(0o600)
        with contextlib.closing(sqlite3.connect(new)) as target:
            connection.backup(target)
        sync(new)
        new.rename(self.path)
        connection.close()
        self._connection = None
        for path in beside(self.path):
            path.unlink(missing_ok=True)
        self._connection = connect(self.path)

    def _intervals(self, books: Books, old: Books) -> Iterator[tuple[Any, ...]]:
        """Rows that changed, one by one: after a long downtime they are many. A row that is new in memory may exist on disk
        (the clock was set back): both are added."""
        for start, row in _changed(books.rows, old.rows):
            known = old.rows.get(start)
            if known is None and start not in self._beneath.rows:
                with self._disk() as disk:
                    self._beneath.rows[start] = rows_where(disk, "start = ?", (start,)).get(start, {})
            beneath = self._beneath.rows.get(start, {})
            for key, value in _changed(row, known or {}):
                amounts = beneath[key] + value if key in beneath else value
                yield int(start), *codec.dump_key(key), int(amounts.unpriced_joules > 0.0), codec.dump_quantity(amounts)

    def _served(self, books: Books, old: Books) -> list[tuple[Any, ...]]:
        written: list[tuple[Any, ...]] = []
        for start, row in _changed(books.served, old.served):
            known = old.served.get(start)
            if known is None and start not in self._beneath.served:
                with self._disk() as disk:
                    self._beneath.served[start] = served_where(disk, "start = ?", (start,)).get(start, {})
            beneath = self._beneath.served.get(start, {})
            for key, value in _changed(row, known or {}):
                served = beneath[key] + value if key in beneath else value
                written.append((int(start), *key, codec.dump_quantity(served)))
        return written

    def _disk(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """The books on disk, for reading. Raises sqlite3.Error."""
        if self._connection is not None:
            return contextlib.nullcontext(self._connection)
        return contextlib.closing(connect_read_only(self.path))

    @staticmethod
    def _servers(books: Books, old: Books) -> list[tuple[str, str]]:
        # Windows change every tick and are not stored: a server is written when a count or a description changed.
        rows = []
        for name, account in books.servers.items():
            before = old.servers.get(name)
            if (
                before is None
                or account.series != before.series
                or account.tokens != before.tokens  # tokens in flight rise before any series
                or account.reference_cost is not before.reference_cost
                or _phases(account) != _phases(before)
                or _description(account) != _description(before)
            ):
                rows.append((name, codec.dump_server(account)))
        return rows

    def close(self) -> None:
        """Flush, and release the lock. May be called twice."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                mark_closed(self._connection)
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        with contextlib.suppress(OSError):
            os.close(self._lock)
            self._lock = -1


def doubtful(path: Path) -> Path:
    """A file that exists while the history was found damaged: the next start checks and recovers it."""
    return path.with_name(f"{path.name}.doubtful")


def _moment(books: Books) -> str:
    """As in the books on disk; "" for empty ones."""
    return "" if books.at is None else repr(books.at.wall_seconds)


def _reason(error: Exception) -> str:
    if isinstance(error, sqlite3.Error | DamagedError | StoreError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or ''}: {error.strerror}".removeprefix(": ")
    return f"{type(error).__name__}: {error}"


def _encodable(books: Books, old: Books) -> tuple[Books, tuple[str, ...]]:
    """The books with every account that cannot be encoded as it was last written, and the names of these accounts."""
    names: list[str] = []

    def kept(new: Mapping[Any, Any], before: Mapping[Any, Any], dump: Callable[[Any], str]) -> Mapping[Any, Any]:
        bad = set()
        for key, value in _changed(new, before):
            try:
                dump(value)
                str(key).encode()
            except _UNENCODABLE:
                bad.add(key)
                names.append(ascii(key if isinstance(key, str) else list(key))[:200])
        if not bad:
            return new
        return {
            key: before[key] if key in bad else value for key, value in new.items() if key in before or key not in bad
        }

    held = replace(
        books,
        postings=kept(books.postings, old.postings, codec.dump_quantity),
        rows={start: kept(row, old.rows.get(start, {}), codec.dump_quantity) for start, row in books.rows.items()},
        served={
            start: kept(row, old.served.get(start, {}), codec.dump_quantity) for start, row in books.served.items()
        },
        gpus=kept(books.gpus, old.gpus, codec.dump_gpu),
        servers=kept(books.servers, old.servers, codec.dump_server),
        hosts=kept(books.hosts, old.hosts, codec.dump_host),
        sources=kept(books.sources, old.sources, codec.dump_source),
    )
    try:
        codec.dump_contract(held)
    except _UNENCODABLE:
        names.append("contract")
        held = replace(
            held,
            month_kwh=old.month_kwh,
            demand=old.demand,
            standing_charges_since_seconds=old.standing_charges_since_seconds,
        )
    try:
        codec.dump_held(held.held)
    except _UNENCODABLE:
        names.append("held")
        held = replace(held, held=old.held)
    if books.tenants is not None and books.tenants is not old.tenants:
        from tpw.store.tenants import dump_state

        try:
            dump_state(books.tenants).encode()
        except _UNENCODABLE:
            names.append("tenants")
            held = replace(held, tenants=old.tenants)
    return held, tuple(dict.fromkeys(names))


def _phases(account: ServerAccount) -> tuple[object, ...] | None:
    """What is stored of the phases: the same objects while no block ended."""
    phases = account.phases
    return None if phases is None else (phases.model, phases.moments, phases.joules)


def _description(account: ServerAccount) -> tuple[object, ...]:
    return (
        *(account.engine, account.version, account.address, account.identity),
        *(account.attribution, account.models, account.anomalies, account.seen, account.uncounted),
        account.unread_since_seconds,
        account.belongs,
    )


def _limits(new: Mapping[str, GpuAccount], old: Mapping[str, GpuAccount]) -> list[tuple[Any, ...]]:
    """Power limits that have changed. A new tuple is another limit."""
    return [
        (uuid, *account.power_limit)
        for uuid, account in new.items()
        if account.power_limit is not None and (uuid not in old or old[uuid].power_limit is not account.power_limit)
    ]


def _changed(new: Mapping[Any, Any], old: Mapping[Any, Any]) -> Iterable[tuple[Any, Any]]:
    return ((key, value) for key, value in new.items() if old.get(key) is not value)


def _rows(new: Mapping[str, Any], old: Mapping[str, Any], dump: Callable[[Any], str]) -> list[tuple[str, str]]:
    return [(key, dump(value)) for key, value in _changed(new, old)]
