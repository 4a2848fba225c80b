"""Reading the books' tables."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace

from tpw.ledger.amounts import NOTHING, Amounts, Served
from tpw.ledger.books import ROW_SECONDS, Books, PostingKey, PowerLimit
from tpw.ledger.rows import LATE_SECONDS, rows_open_from
from tpw.model import Instant
from tpw.store import codec

_DIVIDED_SECONDS = 2.0 * ROW_SECONDS
"""Older rows are divided among tenants to the end (:mod:`tpw.ledger.tenants`)."""


def load(connection: sqlite3.Connection, boot: str = "") -> Books:
    """The books as last written, ready to be advanced; empty books if there are none.

    Args:
        connection: to the books.
        boot: identity of this start of the machine, of which their monotonic instant may be; "" if it is unknown.

    Raises sqlite3.DatabaseError, ValueError, KeyError, TypeError for rows that no version has written.
    """
    read = connection.execute
    meta = dict(read("SELECT key, value FROM meta").fetchall())
    if "at_wall_seconds" not in meta:
        return Books(recovered=int(meta.get("recovered", "0")))
    at = float(meta["at_wall_seconds"])
    # Of each GPU the last: SQLite takes the other columns from the row of the maximum.
    limits = {
        uuid: PowerLimit(*limit) for uuid, *limit in read("SELECT gpu, max(since), watts FROM power_limit GROUP BY gpu")
    }
    gpus = {
        uuid: replace(codec.load_gpu(uuid, data), power_limit=limits.get(uuid))
        for uuid, data in read("SELECT uuid, data FROM gpu")
    }
    servers = {name: codec.load_server(name, data) for name, data in read("SELECT name, data FROM server")}
    open_since = rows_open_from(gpus, servers, at) - ROW_SECONDS
    if "tenants" in meta:
        open_since = min(open_since, at - _DIVIDED_SECONDS)
    return replace(
        codec.load_contract(meta.get("contract", "{}")),
        at=Instant(_monotonic(meta, boot), at),
        resumed=True,
        currency=meta.get("currency", ""),
        gpus=gpus,
        postings={
            codec.load_key(*key): _numbers(codec.load_amounts(data))
            for *key, data in read("SELECT gpu, server, model, state, data FROM posting")
        },
        hosts={component: codec.load_host(data) for component, data in read("SELECT component, data FROM host")},
        host_carry_joules=float(meta.get("host_carry_joules", "0")),
        servers=servers,
        sources={name: codec.load_source(data) for name, data in read("SELECT name, data FROM source")},
        rows=rows_where(
            connection,
            # Whole rows: ``save`` does not read the disk for a row that is in memory.
            "start IN (SELECT start FROM interval WHERE start >= ?"
            " UNION SELECT start FROM interval WHERE unpriced = 1 AND start >= ?)",
            (open_since, at - LATE_SECONDS),
        ),
        held=codec.load_held(meta.get("held", "[]")),
        served=served_where(connection, "start >= ?", (open_since,)),
        corrections=tuple(
            codec.load_correction(made, data) for made, data in read("SELECT made, data FROM correction ORDER BY made")
        ),
        recovered=int(meta.get("recovered", "0")),
        polls=int(meta.get("polls", "0")),
        polls_skipped=int(meta.get("polls_skipped", "0")),
    )


def boot_row(boot: str, at: Instant) -> str:
    """The monotonic instant of a tick as it is kept: with the machine's start, and with the wall time it belongs to."""
    return f"{boot} {at.monotonic_seconds!r} {at.wall_seconds!r}"


def _monotonic(meta: dict[str, str], boot: str) -> float:
    saved, *instants = meta.get("boot", "").split(" ")
    is_ours = bool(boot) and saved == boot and instants[1:] == [meta["at_wall_seconds"]]
    return float(instants[0]) if is_ours else 0.0


def _numbers(amounts: Amounts) -> Amounts:
    """The same. Raises TypeError for what is no number."""
    Amounts.total((amounts, NOTHING))
    return amounts


def rows_where(
    connection: sqlite3.Connection, condition: str, values: tuple[float, ...]
) -> dict[float, dict[PostingKey, Amounts]]:
    """Rows of the books by start of the interval."""
    result: dict[float, dict[PostingKey, Amounts]] = {}
    for start, key, amounts in postings_where(connection, condition, values):
        result.setdefault(start, {})[key] = amounts
    return result


def served_where(
    connection: sqlite3.Connection, condition: str, values: tuple[float, ...]
) -> dict[float, dict[tuple[str, str], Served]]:
    """What was served, by start of the interval."""
    result: dict[float, dict[tuple[str, str], Served]] = {}
    for start, server, model, served in work_where(connection, condition, values):
        result.setdefault(start, {})[server, model] = served
    return result


def postings_where(
    connection: sqlite3.Connection, condition: str, values: tuple[float, ...]
) -> Iterator[tuple[float, PostingKey, Amounts]]:
    """Rows one by one: (start, key, amounts), in order of time."""
    query = f"SELECT start, gpu, server, model, state, data FROM interval WHERE {condition} ORDER BY start"  # noqa: S608
    for start, *key, data in connection.execute(query, values):
        yield float(start), codec.load_key(*key), codec.load_amounts(data)


def work_where(
    connection: sqlite3.Connection, condition: str, values: tuple[float, ...]
) -> Iterator[tuple[float, str, str, Served]]:
    """What was served, one by one: (start, server, model, served), in order of time."""
    query = f"SELECT start, server, model, data FROM served WHERE {condition} ORDER BY start"  # noqa: S608
    for start, server, model, data in connection.execute(query, values):
        yield float(start), server, model, codec.load_served(data)
