"""What can be read of damaged books, completed from the newest backup.

Small tables are merged row by row: a row that the damaged file still has is newer than that of the backup. A counter that
is lost is the backup's plus what the quarter-hours since then add up to. Where the damaged file has nothing, the backup is
taken as a whole: the next readings catch up with what the counters of the hardware and of the servers gained since.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tpw.ledger.amounts import NOTHING, NOTHING_SERVED, Amounts, Served
from tpw.ledger.books import ROW_SECONDS, ServerAccount
from tpw.ledger.rows import LATE_SECONDS
from tpw.model import Role, State, TokenKind
from tpw.store import codec
from tpw.store.files import (
    FILE_NAME,
    HISTORY,
    SCHEMA,
    SMALL_TABLES,
    DamagedError,
    backups_of,
    beside,
    check_whole,
    connect_read_only,
    stamp,
    sync,
)

_DAY_SECONDS = 86400
_COLUMNS = {"interval": 7, "served": 4, "tenant_interval": 8, "posting": 5, "power_limit": 3}
_DEFECTS = (sqlite3.Error, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError)
"""What reading a row that no version has written can raise."""


@dataclass(slots=True)
class Recovery:
    """What happened to a damaged file."""

    problem: str
    set_aside: Path | None = None
    backup: Path | None = None
    """The backup that was used."""
    lost: dict[str, int] = field(default_factory=dict)
    """Rows that could not be read, by table, as far as they are known."""

    def sentence(self) -> str:
        """For a person."""
        where = "" if self.set_aside is None else f"; the damaged file is {self.set_aside}"
        source = (
            f"what could be read was completed from {self.backup.name}"
            if self.backup is not None
            else "what could be read was kept; there was no backup"
        )
        return f"The books were damaged ({self.problem}) and recovered: {source}{where}."


_Row = tuple[Any, ...]
_Table = dict[_Row, _Row]


def recover(path: Path, problem: str, wall_seconds: float) -> Recovery:
    """Put recovered books in the place of a damaged file, which is kept under a name with the date.

    Raises OSError, sqlite3.Error: the disk cannot be written; the damaged file is as it was.
    """
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    new.touch(0o600)
    connection = sqlite3.connect(new, isolation_level=None)
    try:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        recovery = salvage(path, connection, problem, wall_seconds)
        connection.close()
        sync(new)
    except BaseException:
        connection.close()
        new.unlink(missing_ok=True)
        raise
    if path.exists():
        recovery.set_aside = path.with_name(f"{FILE_NAME}.damaged-{stamp(wall_seconds)}")
        for source, target in zip(
            (path, *beside(path)), (recovery.set_aside, *beside(recovery.set_aside)), strict=True
        ):
            with contextlib.suppress(FileNotFoundError):
                source.rename(target)
    new.rename(path)
    sync(path)
    return recovery


def salvage(path: Path, target: sqlite3.Connection, problem: str, wall_seconds: float) -> Recovery:
    """Write what can be read of a file and its backups into an empty database. Raises sqlite3.Error for the target only."""
    recovery = Recovery(problem)
    target.executescript(SCHEMA)
    main = _opened(path)
    backup: sqlite3.Connection | None = None
    for candidate in backups_of(path):
        backup = _opened(candidate)
        if backup is not None:
            try:
                check_whole(backup)
                recovery.backup = candidate
                break
            except DamagedError:
                backup.close()
                backup = None
    try:
        target.execute("BEGIN")
        _merge(main, backup, target, recovery, wall_seconds, _changed_at(path))
        target.execute("COMMIT")
    finally:
        for connection in (main, backup):
            if connection is not None:
                connection.close()
    return recovery


def _opened(path: Path) -> sqlite3.Connection | None:
    """None for a file that is missing or no database."""
    try:
        return connect_read_only(path) if path.stat().st_size else None
    except (sqlite3.Error, OSError):
        return None


def _changed_at(path: Path) -> float:
    times = [0.0]
    for file in (path, beside(path)[0]):
        with contextlib.suppress(OSError):
            times.append(file.stat().st_mtime)
    return max(times)


def _merge(
    main: sqlite3.Connection | None,
    backup: sqlite3.Connection | None,
    target: sqlite3.Connection,
    recovery: Recovery,
    wall_seconds: float,
    changed_at: float,
) -> None:
    have = {table: _small(main, table, recovery) for table in SMALL_TABLES}
    saved = {table: _small(backup, table, None) for table in SMALL_TABLES}
    at = _meta_at(have["meta"])
    backup_at = _meta_at(saved["meta"])
    since = 0.0 if backup_at is None else backup_at // ROW_SECONDS * ROW_SECONDS
    lost_servers: dict[str, ServerAccount] = {}
    if at is None and not have["posting"] and backup_at is not None:
        # Nothing that counters can go on from: the backup as a whole, with its own moment.
        tables = saved
        _copy_history(backup, target, None)
        _copy_history(main, target, recovery, before=since)
        at = backup_at
    else:
        saved["meta"] = _without_waiting(saved["meta"])
        tables = {table: {**saved[table], **have[table]} for table in SMALL_TABLES}
        _copy_history(main, target, recovery)
        for key in saved["gpu"].keys() - have["gpu"].keys():
            tables["gpu"][key] = (*key, _without_baseline(saved["gpu"][key][-1]))
        for key in saved["server"].keys() - have["server"].keys():
            lost_servers[key[0]] = codec.load_server(key[0], saved["server"][key][-1])
            del tables["server"][key]
        _copy_history(backup, target, None)
        _restore_postings(target, backup, have["posting"], tables["posting"], max(0.0, since - LATE_SECONDS))
        if at is None and tables["posting"]:
            at = max(backup_at or 0.0, min(changed_at, wall_seconds))
    _restore_servers(target, backup, tables["server"], lost_servers, since)
    if at is not None:
        tables["meta"]["at_wall_seconds",] = ("at_wall_seconds", repr(at))
    if recovery.lost or backup_at is not None:
        # Quarter-hours may be missing, so they no longer sum to the counters.
        tables["meta"]["pruned_before",] = ("pruned_before", repr(wall_seconds))
    recovered = tables["meta"].get(("recovered",), ("", "0"))[1]
    tables["meta"]["recovered",] = ("recovered", str(int(recovered) + 1))
    tables["meta"]["layout",] = ("layout", "1")
    for table, rows in tables.items():
        marks = ", ".join("?" * _COLUMNS.get(table, 2))
        target.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", list(rows.values()))  # noqa: S608


def _meta_at(meta: _Table) -> float | None:
    row = meta.get(("at_wall_seconds",))
    return None if row is None else float(row[1])


def _small(connection: sqlite3.Connection | None, table: str, recovery: Recovery | None) -> _Table:
    """The valid rows of a small table, by key."""
    rows: _Table = {}
    if connection is None:
        return rows
    bad = 0
    for row in _readable(connection, table):
        try:
            _CHECKS[table](row)
        except _DEFECTS:
            bad += 1
            continue
        rows[row[:-1]] = row
    if bad and recovery is not None:
        recovery.lost[table] = bad
    return rows


def _readable(connection: sqlite3.Connection, table: str, where: str = "1") -> Iterator[_Row]:
    """Rows from the beginning up to a defect, and from the end down to one: some twice."""
    for order in ("ASC", "DESC"):
        try:
            # By the first column of the key: in the order of the table, without sorting.
            rows = connection.execute(f"SELECT * FROM {table} WHERE {where} ORDER BY 1 {order}")  # noqa: S608
            yield from rows
        except sqlite3.Error:
            continue
        return


def _copy_history(
    connection: sqlite3.Connection | None,
    target: sqlite3.Connection,
    recovery: Recovery | None,
    before: float | None = None,
) -> None:
    """Add the quarter-hours that the target does not have."""
    if connection is None:
        return
    limit = "1" if before is None else f"start < {int(before)}"
    for table in HISTORY:
        add = f"INSERT OR IGNORE INTO {table} VALUES ({', '.join('?' * _COLUMNS[table])})"  # noqa: S608
        for row in _readable(connection, table, limit):
            _add_row(target, add, table, row, recovery)
        if _is_whole(connection, table):
            continue
        for start in _days(target, table):
            days = f"start >= {start} AND start < {start + _DAY_SECONDS} AND {limit}"
            for row in _readable(connection, table, days):
                _add_row(target, add, table, row, recovery)
        if recovery is not None:
            recovery.lost.setdefault(table, 0)


def _add_row(target: sqlite3.Connection, add: str, table: str, row: _Row, recovery: Recovery | None) -> None:
    try:
        _CHECKS[table](row)
    except _DEFECTS:
        if recovery is not None:
            recovery.lost[table] = recovery.lost.get(table, 0) + 1
        return
    target.execute(add, row)


def _is_whole(connection: sqlite3.Connection, table: str) -> bool:
    try:
        return bool(connection.execute(f"PRAGMA quick_check('{table}')").fetchone() == ("ok",))
    except sqlite3.Error:
        return False


def _days(target: sqlite3.Connection, table: str) -> range:
    first, last = target.execute(f"SELECT min(start), max(start) FROM {table}").fetchone()  # noqa: S608
    return range(0) if first is None else range(first, last + 1, _DAY_SECONDS)


def _restore_postings(
    target: sqlite3.Connection, backup: sqlite3.Connection | None, have: _Table, postings: _Table, since: float
) -> None:
    """Counters that the damaged file has lost: the backup's, and the quarter-hours since."""
    rows = _row_sums(target, since if backup is not None else 0.0)
    before = {} if backup is None else _row_sums(backup, since)
    for columns in postings.keys() | rows.keys():
        if columns in have:
            continue
        base = codec.load_amounts(postings[columns][-1]) if columns in postings else NOTHING
        total = base + rows.get(columns, NOTHING) + before.get(columns, NOTHING) * -1.0
        postings[columns] = (*columns, codec.dump_quantity(_not_below(total, base)))


def _not_below(total: Amounts, base: Amounts) -> Amounts:
    """The sum, or the base in quantities in which rows of the time before are missing."""
    return total if total.joules >= base.joules and total.seconds >= base.seconds else base


def _row_sums(connection: sqlite3.Connection, since: float) -> dict[_Row, Amounts]:
    sums: dict[_Row, Amounts] = {}
    query = "SELECT gpu, server, model, state, data FROM interval WHERE start >= ?"
    for *key, data in connection.execute(query, (since,)):
        columns = tuple(key)
        sums[columns] = sums.get(columns, NOTHING) + codec.load_amounts(data)
    return sums


def _restore_servers(
    target: sqlite3.Connection,
    backup: sqlite3.Connection | None,
    servers: _Table,
    lost: Mapping[str, ServerAccount],
    since: float,
) -> None:
    """Accounts that the damaged file has lost: the backup's and the quarter-hours since, or all quarter-hours. The counters
    of such a server start at a baseline."""
    sums = {name: _served_of(account) for name, account in lost.items()}
    _add_served(target, sums, lambda name, start: (name,) not in servers and (name not in lost or start >= since), 1.0)
    if backup is not None:
        _add_served(backup, sums, lambda name, start: name in lost and start >= since, -1.0)
    for name, by_model in sums.items():
        before = _served_of(lost[name]) if name in lost else {}
        models = {model: _not_less(served, before.get(model, NOTHING_SERVED)) for model, served in by_model.items()}
        tokens = {(model, kind): value for model, served in models.items() for kind, value in served.tokens.items()}
        account = ServerAccount(
            name,
            counted={(model, _ROLES[kind]): value for (model, kind), value in tokens.items()},
            tokens=tokens,
            requests={model: served.requests for model, served in models.items() if served.requests},
            work={(model, unit): value for model, served in models.items() for unit, value in served.work.items()},
            reference_cost={
                (model, reference): value
                for model, served in models.items()
                for reference, value in served.reference_cost.items()
            },
            models=lost[name].models if name in lost else tuple(sorted(models)),
            seen=lost[name].seen if name in lost else {},
            tiers=lost[name].tiers if name in lost else {},
        )
        servers[name,] = (name, codec.dump_server(account))


_ROLES = {TokenKind.OUTPUT: Role.OUTPUT, TokenKind.INPUT: Role.INPUT, TokenKind.CACHED_INPUT: Role.CACHED_INPUT}


def _served_of(account: ServerAccount) -> dict[str, Served]:
    """What a server did since the books began, by model."""
    models = {model for model, _ in (*account.tokens, *account.work, *account.reference_cost)} | set(account.requests)
    return {
        model: Served(
            {kind: value for (name, kind), value in account.tokens.items() if name == model},
            account.requests.get(model, 0.0),
            {unit: value for (name, unit), value in account.work.items() if name == model},
            {reference: value for (name, reference), value in account.reference_cost.items() if name == model},
        )
        for model in models
    }


def _add_served(
    connection: sqlite3.Connection,
    sums: dict[str, dict[str, Served]],
    counts: Callable[[str, float], bool],
    factor: float,
) -> None:
    for start, server, model, data in connection.execute("SELECT start, server, model, data FROM served"):
        if counts(server, start):
            by_model = sums.setdefault(server, {})
            by_model[model] = by_model.get(model, NOTHING_SERVED) + codec.load_served(data) * factor


def _not_less(served: Served, before: Served) -> Served:
    """Without quarter-hours that were lost a sum could be below the backup's."""
    tokens = {kind: max(value, before.tokens.get(kind, 0.0)) for kind, value in served.tokens.items()}
    work = {unit: max(value, before.work.get(unit, 0.0)) for unit, value in served.work.items()}
    references = {
        name: max(value, before.reference_cost.get(name, 0.0)) for name, value in served.reference_cost.items()
    }
    return Served(tokens, max(served.requests, before.requests), work, references)


def _without_baseline(text: str) -> str:
    """The account of a GPU for which joules since then are booked already."""
    data = json.loads(text)
    data.update(baseline_joules=None, baseline_wall_seconds=None, mark_joules=None, pending=[])
    return json.dumps(data)


def _without_waiting(meta: _Table) -> _Table:
    """A backup's without what waited then, for books that have gone on: it was booked since, or nobody knows."""
    kept = {key: row for key, row in meta.items() if key[0] not in ("held", "host_carry_joules")}
    if ("contract",) in kept:
        contract = replace(codec.load_contract(kept["contract",][1]), standing_charges_since_seconds=None)
        kept["contract",] = ("contract", codec.dump_contract(contract))
    return kept


def _check_meta(row: _Row) -> None:
    key, value = row
    if key in ("at_wall_seconds", "host_carry_joules", "pruned_before"):
        float(value)
    elif key in ("polls", "polls_skipped", "recovered", "layout"):
        int(value)
    elif key == "contract":
        codec.load_contract(value)
    elif key == "held":
        codec.load_held(value)
    elif key == "tenants":
        from tpw.store.tenants import load_state

        load_state(value)
    elif not isinstance(key, str) or not isinstance(value, str):
        raise TypeError(key)


def _check_interval(row: _Row) -> None:
    _check_start(row[0])
    codec.load_key(*row[1:5])
    int(row[5])
    Amounts.total((codec.load_amounts(row[6]), NOTHING))  # raises for what is no number


def _check_served(row: _Row) -> None:
    _check_start(row[0])
    _check_text(row[1:3])
    Served.total((codec.load_served(row[3]), NOTHING_SERVED))


def _check_tenant_interval(row: _Row) -> None:
    _check_start(row[0])
    _check_text(row[1:6])
    int(row[6])
    if row[3]:
        State(row[3])
        Amounts.total((codec.load_amounts(row[7]), NOTHING))
    else:
        Served.total((codec.load_served(row[7]), NOTHING_SERVED))


def _check_posting(row: _Row) -> None:
    _check_text(row[:4])
    codec.load_key(*row[:4])
    Amounts.total((codec.load_amounts(row[4]), NOTHING))


def _check_text(values: _Row) -> None:
    if not all(isinstance(value, str) for value in values):
        raise TypeError(values)


def _check_limit(row: _Row) -> None:
    _check_text(row[:1])
    if not all(isinstance(value, float) for value in row[1:]):
        raise TypeError(row)


def _check_start(value: object) -> None:
    if not isinstance(value, int) or value < 0:
        raise TypeError(value)


_CHECKS: Mapping[str, Callable[[_Row], object]] = {
    "meta": _check_meta,
    "posting": _check_posting,
    "gpu": lambda row: codec.load_gpu(row[0], row[1]),
    "server": lambda row: codec.load_server(row[0], row[1]),
    "host": lambda row: codec.load_host(row[1]),
    "source": lambda row: codec.load_source(row[1]),
    "correction": lambda row: codec.load_correction(row[0], row[1]),
    "power_limit": _check_limit,
    "interval": _check_interval,
    "served": _check_served,
    "tenant_interval": _check_tenant_interval,
}
