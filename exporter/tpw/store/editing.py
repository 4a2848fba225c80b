"""Changes by an operator, while no daemon has the books: corrections, and servers to forget.

Both keep every sum. A correction is an entry of its own, which reports add; counters never fall, so they keep what was
booked. A forgotten server's sums go to one account that has no series.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tpw.ledger.amounts import NOTHING, NOTHING_SERVED
from tpw.ledger.books import Correction, Pending, ServerAccount
from tpw.ledger.retirement import FORGOTTEN
from tpw.ledger.trust import OTHER_MODEL
from tpw.model import server_of_replica
from tpw.store import codec
from tpw.store.files import FILE_NAME, StoreError, connect, mark_closed


@contextlib.contextmanager
def editing(directory: Path) -> Iterator[sqlite3.Connection]:
    """One transaction on the books, which no daemon may have.

    Raises:
        StoreError: a daemon runs, there are no books, or they cannot be written.
    """
    path = directory / FILE_NAME
    if not path.exists():
        raise StoreError(f"there are no books in {directory}: name the daemon's state directory with --state.dir")
    try:
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"cannot write in {directory}: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreError(
                f"a daemon has the books in {directory}: stop it, and start it again afterwards"
            ) from error
        try:
            with contextlib.closing(connect(path)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    mark_closed(connection)
                    connection.execute("COMMIT")
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
        except sqlite3.Error as error:
            raise StoreError(f"cannot write {path}: {error}") from error
    finally:
        os.close(lock)


def correct(connection: sqlite3.Connection, correction: Correction) -> None:
    """Add an entry. Raises StoreError for a server or model that the books do not have."""
    accounts = dict(connection.execute("SELECT name, data FROM server").fetchall())
    _require(correction.server, accounts, "server")
    account = codec.load_server(correction.server, accounts[correction.server])
    _require(correction.model, {model for model, _ in account.tokens}, f"model of {correction.server}")
    connection.execute(
        "INSERT INTO correction VALUES (?, ?)", (correction.made_seconds, codec.dump_correction(correction))
    )


def forget(connection: sqlite3.Connection, server: str) -> None:
    """Move what was booked for a server to the account of forgotten servers. Raises StoreError for an unknown one."""
    run = connection.execute
    accounts = dict(run("SELECT name, data FROM server").fetchall())
    _require(server, accounts.keys() - {FORGOTTEN}, "server")
    for replica in [name for name in accounts if name != server and server_of_replica(name) == server]:
        forget(connection, replica)
    accounts = dict(run("SELECT name, data FROM server").fetchall())
    for gpu, model, state, data in run(
        "SELECT gpu, model, state, data FROM posting WHERE server = ?", (server,)
    ).fetchall():
        key = (gpu, FORGOTTEN, OTHER_MODEL, state)
        found = run("SELECT data FROM posting WHERE (gpu, server, model, state) = (?, ?, ?, ?)", key).fetchone()
        total = (codec.load_amounts(found[0]) if found else NOTHING) + codec.load_amounts(data)
        run("INSERT OR REPLACE INTO posting VALUES (?, ?, ?, ?, ?)", (*key, codec.dump_quantity(total)))
        run("DELETE FROM posting WHERE (gpu, server, model, state) = (?, ?, ?, ?)", (gpu, server, model, state))
    query = "SELECT start, gpu, model, state, unpriced, data FROM interval WHERE server = ?"
    for start, gpu, model, state, unpriced, data in run(query, (server,)).fetchall():
        place = (start, gpu, FORGOTTEN, OTHER_MODEL, state)
        where = "(start, gpu, server, model, state) = (?, ?, ?, ?, ?)"
        found = run(f"SELECT unpriced, data FROM interval WHERE {where}", place).fetchone()  # noqa: S608
        before_unpriced, before = (found[0], codec.load_amounts(found[1])) if found else (0, NOTHING)
        text = codec.dump_quantity(before + codec.load_amounts(data))
        run(
            "INSERT OR REPLACE INTO interval VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*place, max(unpriced, before_unpriced), text),
        )
        run(f"DELETE FROM interval WHERE {where}", (start, gpu, server, model, state))  # noqa: S608
    for start, model, data in run("SELECT start, model, data FROM served WHERE server = ?", (server,)).fetchall():
        found = run(
            "SELECT data FROM served WHERE (start, server, model) = (?, ?, ?)", (start, FORGOTTEN, OTHER_MODEL)
        ).fetchone()
        sums = (codec.load_served(found[0]) if found else NOTHING_SERVED) + codec.load_served(data)
        run(
            "INSERT OR REPLACE INTO served VALUES (?, ?, ?, ?)",
            (start, FORGOTTEN, OTHER_MODEL, codec.dump_quantity(sums)),
        )
        run("DELETE FROM served WHERE (start, server, model) = (?, ?, ?)", (start, server, model))
    from tpw.store.tenants import forget as forget_tenants

    forget_tenants(connection, server)
    merged = _merged(
        codec.load_server(FORGOTTEN, accounts.get(FORGOTTEN, "{}")), codec.load_server(server, accounts[server])
    )
    run("INSERT OR REPLACE INTO server VALUES (?, ?)", (FORGOTTEN, codec.dump_server(merged)))
    run("DELETE FROM server WHERE name = ?", (server,))
    for uuid, data in run("SELECT uuid, data FROM gpu").fetchall():
        account = codec.load_gpu(uuid, data)
        pending = tuple(_without(piece, server) for piece in account.pending)
        run("UPDATE gpu SET data = ? WHERE uuid = ?", (codec.dump_gpu(replace(account, pending=pending)), uuid))


def _require(name: str, known: object, what: str) -> None:
    names = sorted(known)  # type: ignore[call-overload]
    if name not in names:
        raise StoreError(f"the books have no {what} `{name}`; they have {', '.join(names) or 'none'}")


def _without(piece: Pending, server: str) -> Pending:
    shares = tuple(
        (key._replace(server=FORGOTTEN, model=OTHER_MODEL) if key.server == server else key, weight)
        for key, weight in piece.shares
    )
    return replace(piece, shares=shares)


def _merged(account: ServerAccount, gone: ServerAccount) -> ServerAccount:
    """The account of forgotten servers with one more, all of its models as one."""
    tokens, work, references = dict(account.tokens), dict(account.work), dict(account.reference_cost)
    tiers = dict(account.tiers)
    for (_, tier), value in gone.tiers.items():
        tiers[OTHER_MODEL, tier] = tiers.get((OTHER_MODEL, tier), 0.0) + value
    for (_, kind), value in gone.tokens.items():
        tokens[OTHER_MODEL, kind] = tokens.get((OTHER_MODEL, kind), 0.0) + value
    for (_, unit), value in gone.work.items():
        work[OTHER_MODEL, unit] = work.get((OTHER_MODEL, unit), 0.0) + value
    for (_, reference), value in gone.reference_cost.items():
        references[OTHER_MODEL, reference] = references.get((OTHER_MODEL, reference), 0.0) + value
    requests = {OTHER_MODEL: sum(account.requests.values()) + sum(gone.requests.values())}
    return replace(
        account,
        tokens=tokens,
        work=work,
        tiers=tiers,
        reference_cost=references,
        requests=requests if account.requests or gone.requests else {},
        models=(OTHER_MODEL,),
    )
