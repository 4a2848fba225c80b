"""The rows of the books: what was served in each, open rows, and prices that arrive late."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from tpw.ledger.amounts import ENERGY, NOTHING, NOTHING_SERVED, Amounts, Served
from tpw.ledger.booking import cut, price
from tpw.ledger.books import (
    ROW_SECONDS,
    Books,
    GpuAccount,
    Postings,
    ServedRows,
    ServerAccount,
    WindowSample,
)
from tpw.ledger.tick import Curve, Policy
from tpw.model import PriceState, Slo, State, server_of_replica

LATE_SECONDS = 8 * 86400.0
"""A price may arrive this late: feeds publish their history this far back."""

_MAX_OPEN_SECONDS = 2 * 86400.0
"""Rows of a silent GPU stay in memory this long. Tuning: later joules are added to the rows on disk."""


Course = tuple[tuple[float, float], ...]
"""(row, weight) by which what a server did is spread over rows; the weights sum to 1."""

_NO_COURSES: Mapping[str, Course] = {}


def open_from(accounts: Mapping[str, GpuAccount], now_seconds: float) -> float:
    """No joule can be booked before this moment: the earliest pending time of a GPU, at most two days ago."""
    starts = [account.pending[0].start_seconds for account in accounts.values() if account.pending]
    return max(min([now_seconds, *starts]), now_seconds - _MAX_OPEN_SECONDS)


def rows_open_from(gpus: Mapping[str, GpuAccount], servers: Mapping[str, ServerAccount], now_seconds: float) -> float:
    """Nothing is added to rows that ended before this moment: what servers did while they cannot be read is added when they
    can be."""
    unread = [account.unread_since_seconds for account in servers.values() if account.unread_since_seconds is not None]
    return max(min([open_from(gpus, now_seconds), *unread]), now_seconds - _MAX_OPEN_SECONDS)


def serve(
    rows: ServedRows,
    before: Mapping[str, ServerAccount],
    after: Mapping[str, ServerAccount],
    start_seconds: float,
    end_seconds: float,
    courses: Mapping[str, Course] = _NO_COURSES,
) -> ServedRows:
    """The rows with what the servers did between two ticks, spread evenly over that time.

    Args:
        rows: the rows before.
        before: accounts at the tick before.
        after: accounts now.
        start_seconds: the tick before.
        end_seconds: now.
        courses: (row, weight) by server, for servers of which this reading covers another time.
    """
    added: dict[tuple[str, str], Served] = {}
    span = end_seconds - start_seconds
    for name, account in after.items():
        old = before.get(name) or ServerAccount(name)
        # Requests since the tick before, as they are now; over an outage or a restart they are not known.
        seconds = span if account.loads and old.up and 0.0 < span <= ROW_SECONDS else 0.0
        if seconds or account is not old:
            _rises(name, old, account, seconds, added)
    if not added:
        return rows
    usual = tuple(
        (row, (end - start) / span if span > 0.0 else 1.0) for start, end, row in cut(start_seconds, end_seconds)
    )
    result = dict(rows)
    changed: dict[float, dict[tuple[str, str], Served]] = {}
    for key, served in added.items():
        for start, part in courses.get(key[0], usual):
            row = changed.get(start)
            if row is None:
                row = changed[start] = dict(rows.get(start, {}))
            row[key] = row.get(key, NOTHING_SERVED) + served * part
    result.update(changed)
    return result


def _rises(
    name: str, old: ServerAccount, new: ServerAccount, seconds: float, added: dict[tuple[str, str], Served]
) -> None:
    """What one server did since its account was ``old``, by model; its requests count for so many seconds."""
    tokens = _rise(old.tokens, new.tokens)
    requests = _rise(old.requests, new.requests)
    work = _rise(old.work, new.work)
    references = _rise(old.reference_cost, new.reference_cost)
    missed = _missed(old, new)
    loads = {load.model: load for load in new.loads if load.running or load.waiting} if seconds else {}
    models = {model for model, _ in (*tokens, *work, *references, *missed)} | {*requests, *loads}
    for model in models:
        load = loads.get(model)
        added[name, model] = Served(
            {kind: value for (name_of_model, kind), value in tokens.items() if name_of_model == model},
            requests.get(model, 0.0),
            {unit: value for (name_of_model, unit), value in work.items() if name_of_model == model},
            {reference: value for (name_of_model, reference), value in references.items() if name_of_model == model},
            running_seconds=0.0 if load is None else (load.running or 0.0) * seconds,
            waiting_seconds=0.0 if load is None else (load.waiting or 0.0) * seconds,
            missed={slo: value for (name_of_model, slo), value in missed.items() if name_of_model == model},
        )


def _missed(old: ServerAccount, new: ServerAccount) -> Mapping[tuple[str, Slo], float]:
    """Requests outside the targets of latency, by (model, target)."""
    if new.service is None or old.service is None or new.service is old.service:
        return {}
    before = {key: outcomes.no for key, outcomes in old.service.outcomes.items()}
    return _rise(before, {key: outcomes.no for key, outcomes in new.service.outcomes.items() if outcomes.no})


_Key = TypeVar("_Key")


def _rise(old: Mapping[_Key, float], new: Mapping[_Key, float]) -> dict[_Key, float]:
    if new is old:
        return {}
    return {key: value - old.get(key, 0.0) for key, value in new.items() if value != old.get(key, 0.0)}


def without_closed(books: Books) -> Books:
    """The books without closed rows. Only for rows that are on disk."""
    if books.at is None:
        return books
    now = books.at.wall_seconds
    still_open = rows_open_from(books.gpus, books.servers, now) - ROW_SECONDS
    tenants = books.tenants
    if tenants is not None:
        still_open = min(still_open, tenants.open_since_seconds)
    rows = {
        start: row
        for start, row in books.rows.items()
        if start >= still_open or (start >= now - LATE_SECONDS and _awaits_price(row))
    }
    served = {start: row for start, row in books.served.items() if start >= still_open}
    if len(rows) == len(books.rows) and len(served) == len(books.served):
        return books
    return replace(
        books, rows=rows, served=served, tenants=None if tenants is None else tenants.within(rows, still_open)
    )


def _awaits_price(row: Postings) -> bool:
    return any(amounts.unpriced_joules > 0.0 for amounts in row.values())


def unpriced_since(books: Books) -> float | None:
    """Start of the first row with energy that has no price yet. None if all have one."""
    return min((start for start, row in books.rows.items() if _awaits_price(row)), default=None)


def price_late(books: Books, policy: Policy) -> Books:
    """Price energy that had no price when it was booked and has one now.

    A row is priced when prices are known for all of it, at their mean over its time. This is no cost of the current tokens:
    it enters all samples of the live windows, and so no rise.
    """
    curve = policy.curve
    if curve is None or unpriced_since(books) is None:
        return books
    ripe = [start for start, row in books.rows.items() if _awaits_price(row) and _is_known(curve, start)]
    if not ripe:
        return books
    postings, rows, month_kwh = dict(books.postings), dict(books.rows), dict(books.month_kwh)
    tenants = books.tenants
    late: dict[str, dict[str, Amounts]] = {}
    by_state: dict[tuple[float, str, str, State], tuple[Amounts, float]] = {}
    for start in sorted(ripe):
        row = books.rows[start]
        priced_row = dict(row)
        for key, before in row.items():
            joules = before.unpriced_joules
            if joules <= 0.0:
                continue
            charge, credit, _ = price(start, start + ROW_SECONDS, joules, curve, month_kwh)
            priced = Amounts(cost={ENERGY: charge}, credit=credit, late_priced_joules=joules)
            priced_row[key] = replace(before + priced, unpriced_joules=0.0)
            postings[key] = postings.get(key, NOTHING) + priced
            by_model = late.setdefault(key.server, {})
            by_model[key.model] = by_model.get(key.model, NOTHING) + priced
            if tenants is not None:
                place = (start, server_of_replica(key.server), key.model, key.state)
                money, priced_joules = by_state.get(place, (NOTHING, 0.0))
                by_state[place] = money + priced, priced_joules + joules
        rows[start] = priced_row
    servers = {
        name: replace(account, window=tuple(_with_late(sample, late[name]) for sample in account.window))
        if name in late
        else account
        for name, account in books.servers.items()
    }
    if tenants is not None:
        tenants = tenants.priced_late(by_state)
    return replace(books, postings=postings, rows=rows, month_kwh=month_kwh, servers=servers, tenants=tenants)


def _with_late(sample: WindowSample, late: Mapping[str, Amounts]) -> WindowSample:
    """A sample of now with the money of another time, by model."""
    priced = {model: sample.amounts.get(model, NOTHING) + amounts for model, amounts in late.items()}
    return replace(sample, amounts={**sample.amounts, **priced})


def _is_known(curve: Curve, start: float) -> bool:
    return all(
        interval is not None and interval.state is not PriceState.PRELIMINARY
        for _, _, interval in curve.pieces(start, start + ROW_SECONDS)
    )
