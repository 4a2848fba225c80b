"""The books of tenants on disk: one value of the table ``meta``, and rows of the table ``tenant_interval``. Imported only
where tenants are configured, and by reports that ask for them.

A row of the table has the amounts of a (server, model, state, tenant, method), or, with an empty state, the tokens of a
(server, model, tenant).
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from tpw.ledger.amounts import Additive, Amounts, Served
from tpw.ledger.books import PostingKey
from tpw.ledger.tenants import Method, TenantBooks, TenantKey, TenantModel, as_posting
from tpw.model import State, TokenKind
from tpw.store import codec

STATE = "tenants"
"""Key in the table ``meta``."""

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode


def dump_state(tenants: TenantBooks) -> str:
    """Everything but the rows."""
    return _encode(
        {
            "settled_seconds": max(0.0, tenants.settled_seconds),
            "postings": [[*key, codec.dump_quantity(one)] for key, one in tenants.postings.items()],
            "tokens": [[*key, tokens] for key, tokens in tenants.tokens.items()],
            "claimed": [[*key, weight] for key, weight in tenants.claimed.items()],
            "use": [[*key, joules] for key, joules in tenants.use.items()],
            "sources": {server: codec.dump_server(account) for server, account in tenants.sources.items()},
        }
    )


def load_state(text: str) -> TenantBooks:
    """The books in ``text``, without rows. Raises ValueError, KeyError, TypeError for what no version has written."""
    data = json.loads(text)
    return TenantBooks(
        postings={
            TenantKey(server, model, State(state), tenant, Method(method)): codec.load_amounts(amounts)
            for server, model, state, tenant, method, amounts in data["postings"]
        },
        tokens={(server, model, tenant, TokenKind(kind)): n for server, model, tenant, kind, n in data["tokens"]},
        claimed={(float(start), server, model): weight for start, server, model, weight in data["claimed"]},
        use={(server, model, tenant): joules for server, model, tenant, joules in data["use"]},
        sources={server: codec.load_server(server, account) for server, account in data["sources"].items()},
        settled_seconds=float(data["settled_seconds"]),
    )


def load(connection: sqlite3.Connection, starts: Collection[float]) -> TenantBooks:
    """The books of tenants as last written, with rows of these starts. Empty ones where tenants were never on.

    Raises sqlite3.DatabaseError, ValueError, KeyError, TypeError for what no version has written.
    """
    found = connection.execute("SELECT value FROM meta WHERE key = ?", (STATE,)).fetchone()
    if found is None:
        return TenantBooks()
    rows: dict[float, dict[TenantKey, Amounts]] = {}
    served: dict[float, dict[TenantModel, Served]] = {}
    since = (min(starts, default=0.0),)
    for start, key, one in amounts_where(connection, "start >= ?", since):
        if start in starts:
            rows.setdefault(start, {})[key] = one
    for start, who, work in served_where(connection, "start >= ?", since):
        if start in starts:
            served.setdefault(start, {})[who] = work
    return replace(load_state(found[0]), rows=rows, served=served)


def amounts_where(
    connection: sqlite3.Connection, condition: str, values: tuple[float, ...]
) -> Iterator[tuple[float, TenantKey, Amounts]]:
    """Amounts one by one, in order of time."""
    query = (
        f"SELECT start, server, model, state, tenant, method, data FROM tenant_interval WHERE {condition}"  # noqa: S608
        " AND state <> '' ORDER BY start"
    )
    for start, server, model, state, tenant, method, data in connection.execute(query, values):
        yield float(start), TenantKey(server, model, State(state), tenant, Method(method)), codec.load_amounts(data)


def served_where(
    connection: sqlite3.Connection, condition: str, values: tuple[float, ...]
) -> Iterator[tuple[float, TenantModel, Served]]:
    """Tokens one by one, in order of time."""
    query = (
        f"SELECT start, server, model, tenant, data FROM tenant_interval WHERE {condition}"  # noqa: S608
        " AND state = '' ORDER BY start"
    )
    for start, server, model, tenant, data in connection.execute(query, values):
        yield float(start), (server, model, tenant), codec.load_served(data)


_Row = tuple[str, str, str, str, str]
"""Columns after the start: server, model, state, tenant, method."""


class TenantRows:
    """What changed in the rows. A row that is new in memory may exist on disk (late energy, a clock that was set back):
    both are added."""

    def __init__(self) -> None:
        self._beneath: dict[float, dict[_Row, Additive]] = {}

    def changes(
        self, tenants: TenantBooks, old: TenantBooks | None, disk: sqlite3.Connection
    ) -> Iterator[tuple[Any, ...]]:
        """Rows of the table to write."""
        before = TenantBooks() if old is None else old
        self._beneath = {
            start: row for start, row in self._beneath.items() if start in before.rows or start in before.served
        }
        for start in {**tenants.rows, **tenants.served}:
            new, known = _columns(tenants, start), None
            is_same = tenants.rows.get(start) is before.rows.get(start)
            if is_same and tenants.served.get(start) is before.served.get(start):
                continue
            if start in before.rows or start in before.served:
                known = _columns(before, start)
            elif start not in self._beneath:
                at = (start,)
                kept: dict[_Row, Additive] = {_of_key(key): one for _, key, one in amounts_where(disk, "start = ?", at)}
                kept.update((_of_tokens(who), one) for _, who, one in served_where(disk, "start = ?", at))
                self._beneath[start] = kept
            beneath = self._beneath.get(start, {})
            for columns, quantity in new.items():
                if known is None or known.get(columns) is not quantity:
                    whole = beneath[columns] + quantity if columns in beneath else quantity
                    unpriced = isinstance(whole, Amounts) and whole.unpriced_joules > 0.0
                    yield int(start), *columns, int(unpriced), codec.dump_quantity(whole)

    def amounts_beneath(self) -> dict[float, dict[TenantKey, Amounts]]:
        """What the disk had of the rows in memory."""
        return {
            start: {
                TenantKey(server, model, State(state), tenant, Method(method)): amounts
                for (server, model, state, tenant, method), amounts in row.items()
                if isinstance(amounts, Amounts)
            }
            for start, row in self._beneath.items()
        }


def rows_on_disk(
    disk: sqlite3.Connection,
    in_memory: TenantBooks,
    beneath: TenantRows | None,
    start_seconds: float,
    end_seconds: float,
) -> Iterator[tuple[float, PostingKey, Amounts]]:
    """What tenants have in no row in memory now, of the rows that began in [start, end), with the tenant in place of the
    server. Closes the connection when all was read; it may be on any thread."""
    kept = {} if beneath is None else beneath.amounts_beneath()

    def read() -> Iterator[tuple[float, PostingKey, Amounts]]:
        with contextlib.closing(disk):
            for start, key, amounts in amounts_where(disk, "start >= ? AND start < ?", (start_seconds, end_seconds)):
                if start not in in_memory.rows:
                    yield start, as_posting(key), amounts
        for start, row in kept.items():
            if start_seconds <= start < end_seconds:
                for key, amounts in row.items():
                    yield start, as_posting(key), amounts

    return read()


def _of_key(key: TenantKey) -> _Row:
    return key.server, key.model, str(key.state), key.tenant, str(key.method)


def _of_tokens(who: TenantModel) -> _Row:
    server, model, tenant = who
    return server, model, "", tenant, ""


def _columns(tenants: TenantBooks, start: float) -> dict[_Row, Additive]:
    found: dict[_Row, Additive] = {_of_key(key): one for key, one in tenants.rows.get(start, {}).items()}
    found.update((_of_tokens(who), work) for who, work in tenants.served.get(start, {}).items())
    return found


def is_changed(new: TenantBooks, old: TenantBooks | None) -> bool:
    """Whether there is something to write besides rows."""
    return old is None or new.postings is not old.postings or new.sources is not old.sources


def forget(connection: sqlite3.Connection, server: str) -> None:
    """Delete what tenants have of a server."""
    connection.execute("DELETE FROM tenant_interval WHERE server = ?", (server,))
    found = connection.execute("SELECT value FROM meta WHERE key = ?", (STATE,)).fetchone()
    if found is None:
        return
    tenants = load_state(found[0])

    def kept(mapping: Mapping[Any, Any], place: int = 0) -> dict[Any, Any]:
        return {key: value for key, value in mapping.items() if key[place] != server}

    tenants = replace(
        tenants,
        postings=kept(tenants.postings),
        tokens=kept(tenants.tokens),
        claimed=kept(tenants.claimed, 1),
        use=kept(tenants.use),
        sources={name: account for name, account in tenants.sources.items() if name != server},
    )
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (STATE, dump_state(tenants)))
