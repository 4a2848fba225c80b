"""Rows of servers replaced by those of their tenants, for reports by tenant. Imported only for them.

What the books have for a server and its tenants do not is left in rows without a tenant: servers without tenants, what is
not divided yet, and what was booked before tenants were configured. So lines by tenant sum to the same totals.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import groupby
from operator import itemgetter
from typing import Any

from tpw.ledger.amounts import NOTHING, Amounts, Served
from tpw.ledger.books import PostingKey
from tpw.ledger.tenants import TenantKey, TenantModel, is_rounding, positive
from tpw.model import State, TokenKind, server_of_replica


def divided_rows(
    rows: Iterable[tuple[float, PostingKey, Amounts]], tenants: Iterable[tuple[float, TenantKey, Amounts]]
) -> Iterator[tuple[float, PostingKey, Amounts, str]]:
    """Amounts with the tenant; both arguments in order of time. Those of a tenant have no GPU."""
    entries: Iterator[Any] = merge(rows, tenants, key=itemgetter(0))
    for start, group in groupby(entries, key=itemgetter(0)):
        booked: dict[tuple[str, str, State], list[tuple[PostingKey, Amounts]]] = {}
        divided: dict[tuple[str, str, State], list[Amounts]] = {}
        for _, key, amounts in group:
            place = (server_of_replica(key.server), key.model, key.state)
            if isinstance(key, TenantKey):
                divided.setdefault(place, []).append(amounts)
                yield start, PostingKey("", key.server, key.model, key.state), amounts, key.tenant
            else:
                booked.setdefault(place, []).append((key, amounts))
        for place, parts in booked.items():
            if place not in divided:
                for key, amounts in parts:
                    yield start, key, amounts, ""
                continue
            whole = Amounts.total(amounts for _, amounts in parts)
            rest = positive(whole + Amounts.total(divided[place]) * -1.0)
            if rest != NOTHING and not is_rounding(rest, whole):
                yield start, PostingKey("", *place), rest, ""


def divided_served(
    served: Iterable[tuple[float, str, str, Served]], tenants: Iterable[tuple[float, TenantModel, Served]]
) -> Iterator[tuple[float, str, str, Served, str]]:
    """Work with the tenant, as :func:`divided_rows`. Requests and other work have none. What is left of tokens is negative
    where tenants have more than the server: for the minute at a border of two rows, and where a gateway counts answers from
    its own cache."""
    entries: Iterator[Any] = merge(served, tenants, key=itemgetter(0))
    for start, group in groupby(entries, key=itemgetter(0)):
        done: dict[tuple[str, str], Sequence[Served]] = {}
        tokens: dict[tuple[str, str], dict[TokenKind, float]] = {}
        for entry in group:
            if len(entry) == 4:
                _, server, model, work = entry
                place = (server_of_replica(server), model)
                done[place] = (*done.get(place, ()), work)
                continue
            _, (server, model, tenant), work = entry
            sums = tokens.setdefault((server, model), {})
            for kind, number in work.tokens.items():
                sums[kind] = sums.get(kind, 0.0) + number
            yield start, server, model, work, tenant
        for (server, model), parts in {**dict.fromkeys(tokens, ()), **done}.items():
            whole = Served.total(parts)
            claimed = tokens.get((server, model), {})
            kinds = {**whole.tokens, **claimed}
            left = {kind: whole.tokens.get(kind, 0.0) - claimed.get(kind, 0.0) for kind in kinds}
            left = {kind: rest for kind, rest in left.items() if abs(rest) > _LEAST_TOKENS}
            yield start, server, model, Served(left, whole.requests, whole.work, whole.reference_cost), ""


_LEAST_TOKENS = 1e-6
"""Less is rounding."""
