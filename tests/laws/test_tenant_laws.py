"""The laws of tenants: they and what nobody claimed sum to the server, whatever happens; nothing of them ever falls."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from laws.test_money_laws import POLICY
from support.days import Steps, Stretch, eventful, flat, ticks
from support.examples import examples
from tpw.ledger.advance import advance
from tpw.ledger.amounts import Amounts
from tpw.ledger.books import Books, PostingKey
from tpw.ledger.rows import price_late
from tpw.ledger.tenants import (
    Idle,
    TenantKey,
    TenantRules,
    composed,
    is_due,
    observe,
    settle,
    unsettled,
)
from tpw.ledger.tick import Policy, Tick
from tpw.model import Cadence, Role, ServerReading, TokenSeries, server_of_replica
from tpw.store.reading import BooksReader
from tpw.store.sqlite import BooksFile
from tpw.store.tenants import amounts_where

PRICED = replace(POLICY, curve=Steps((0.3, 0.1, -0.05), 900.0), intensities=None, demand=())
LATE = replace(PRICED, curve=Steps((None, 0.2), 900.0))
"""Every other quarter of an hour has no price."""
LATER = replace(PRICED, curve=Steps((0.1, 0.2), 900.0))
"""It has one now."""
POLICIES = (PRICED, LATE, LATER)


def shortened(stretch: Stretch) -> Stretch:
    """Without gaps of days: what they add to gaps of hours is rows."""
    return replace(
        stretch,
        moments=tuple(
            one
            if (part := 8000.0 / one.seconds) >= 1.0
            else replace(
                one,
                seconds=8000.0,
                joules=tuple(joules * part for joules in one.joules),
                host_joules=one.host_joules * part,
                other_joules=one.other_joules * part,
            )
            for one in stretch.moments
        ),
    )


class Gateway:
    """A source with counters by team. Its tokens need not be those of the server."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._life = 0.0
        self._counts: dict[tuple[str, Role], float] = {}

    def reading(self, server: str, at_seconds: float) -> ServerReading:
        """Its page after some more work, or after a restart and some work."""
        random = self._random
        if random.random() < 0.1:
            self._life, self._counts = at_seconds, {}
        for _ in range(random.randrange(3)):
            key = random.choice(["red", "blue", "green", ""]), random.choice([Role.PROMPT, Role.OUTPUT])
            self._counts[key] = self._counts.get(key, 0.0) + random.randrange(400)
        series = tuple(
            TokenSeries(role, composed(team, "m"), f"{role}{{{team}}}", value)
            for (team, role), value in self._counts.items()
        )
        return ServerReading(server, at_seconds, "litellm", Cadence.FINISH, "", None, series, address="http://gateway")


def _by_server(entries: Iterable[tuple[PostingKey | TenantKey, Amounts]]) -> dict[tuple[str, str], dict[str, float]]:
    sums: dict[tuple[str, str], list[Amounts]] = {}
    for key, amounts in entries:
        if key.server:
            sums.setdefault((server_of_replica(key.server), str(key.state)), []).append(amounts)
    return {who: flat(Amounts.total(parts)) for who, parts in sums.items()}


def _assert_same(tenants: Mapping[Any, Mapping[str, float]], servers: Mapping[Any, Mapping[str, float]]) -> None:
    for who, expected in servers.items():
        for name, value in expected.items():
            found = tenants.get(who, {}).get(name, 0.0)
            assert math.isclose(found, value, rel_tol=1e-9, abs_tol=1e-9), (who, name, found, value)
    for who, found_of in tenants.items():
        assert who in servers or not any(value > 1e-9 for value in found_of.values()), (who, found_of)


def _assert_none_falls(before: Books, after: Books) -> None:
    old, new = before.tenants, after.tenants
    assert old is not None
    assert new is not None
    for key, tokens in old.tokens.items():
        assert new.tokens[key] >= tokens
    for key, amounts in old.postings.items():
        values = flat(new.postings[key])
        assert all(values[name] >= value for name, value in flat(amounts).items()), key


class Node:
    """Books with tenants, in a file, as the daemon keeps them."""

    def __init__(self, folder: Path, rules: Mapping[str, TenantRules], gateway: Gateway) -> None:
        self._folder, self._rules, self._gateway = folder, rules, gateway
        self._file = BooksFile(folder)
        self.books = self._file.with_tenants(self._file.load())

    def kill(self) -> None:
        """What is not on disk is lost."""
        self._file.close()
        self._file = BooksFile(self._folder)
        self.books = self._file.with_tenants(self._file.load())

    def tick(self, tick: Tick, policy: Policy, *, is_read: bool) -> None:
        at, before = tick.at, self.books
        books = price_late(advance(before, tick, policy), policy)
        for server in self._rules if is_read else ():
            books = observe(
                books, self._gateway.reading(server, at.monotonic_seconds), self._rules[server], at.wall_seconds
            )
        if is_due(before, books, at.wall_seconds):
            books = settle(books, self._rules, at.wall_seconds)
        _assert_none_falls(before, books)
        assert books.tenants is not None
        left = {(server, str(state)): flat(amounts) for server, _, state, amounts in unsettled(books, self._rules)}
        whole = _by_server(books.postings.items())
        divided = _by_server(books.tenants.postings.items())
        summed = {
            who: {
                name: value + left.get(who, {}).get(name, 0.0)
                for name, value in divided.get(who, flat(Amounts())).items()
            }
            for who in whole
        }
        for who, values in left.items():
            for name, value in values.items():
                summed.setdefault(who, {}).setdefault(name, value)
        _assert_same(summed, whole)
        self.books = self._file.save(books)

    def end(self) -> None:
        """Divide everything, and compare with the books on disk, row by row."""
        assert self.books.at is not None
        at = self.books.at
        late = replace(at, wall_seconds=at.wall_seconds + 50 * 86400.0)  # later than rows of a clock that was set back
        books = settle(self.books, self._rules, late.wall_seconds)
        assert books.tenants is not None
        _assert_same(_by_server(books.tenants.postings.items()), _by_server(books.postings.items()))
        self._file.save(replace(books, at=late))
        self._file.close()


def _rows(folder: Path) -> tuple[dict[Any, dict[str, float]], dict[Any, dict[str, float]]]:
    servers: dict[Any, list[Amounts]] = {}
    tenants: dict[Any, list[Amounts]] = {}
    with BooksReader(folder) as reader:
        for start, key, amounts in reader.rows():
            if key.server:
                servers.setdefault((start, server_of_replica(key.server), key.state), []).append(amounts)
        for start, who, amounts in amounts_where(reader._connection, "1", ()):
            tenants.setdefault((start, who.server, who.state), []).append(amounts)
    return tuple(  # type: ignore[return-value]
        {who: flat(Amounts.total(parts)) for who, parts in sums.items()} for sums in (tenants, servers)
    )


@settings(max_examples=examples(12))
@given(eventful(policies=len(POLICIES)).map(shortened), st.integers(0, 10**6), st.sampled_from(list(Idle)))
def test_tenants_and_unattributed_sum_to_the_server(stretch: Stretch, seed: int, idle: Idle) -> None:
    random = Random(seed)
    rules = {server: TenantRules(idle=idle, owner="platform", is_only_server=True) for server in stretch.servers}
    with TemporaryDirectory() as name:
        folder = Path(name)
        node = Node(folder, rules, Gateway(random))
        for moment, tick in zip((None, *stretch.moments), ticks(stretch), strict=True):
            if moment is not None and moment.restart:
                node.kill()
            policy = POLICIES[moment.policy if moment is not None else 0]
            node.tick(tick, policy, is_read=random.random() < 0.7)
        node.end()
        tenants, servers = _rows(folder)
        _assert_same(tenants, servers)
