"""A server divided among tenants, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tpw.ledger.amounts import Amounts, Served
from tpw.ledger.books import Books, PostingKey, ServerAccount
from tpw.ledger.phases import Phases, PhaseWeights
from tpw.ledger.tenants import Method, TenantBooks, TenantRules, composed, settle
from tpw.model import State, TokenKind

ROW = 1_790_000_100.0
NOW = ROW + 300.0
KEY = PostingKey("GPU-0", "chat", "m", State.ACTIVE)
INPUT, OUTPUT = TokenKind.INPUT, TokenKind.OUTPUT
RULES = {"chat": TenantRules(weights={INPUT: 1.0, OUTPUT: 4.0}, is_only_server=True)}


def books(
    joules: float, served: dict[TokenKind, float], tenants: TenantBooks | None = None, **account: object
) -> Books:
    """A server that has used so much and counted these tokens in one row."""
    amounts = Amounts(seconds=joules / 100.0, joules=joules, cost={"energy": joules / 1000.0})
    return Books(
        postings={KEY: amounts},
        rows={ROW: {KEY: amounts}},
        served={ROW: {("chat", "m"): Served(tokens=served)}},
        servers={"chat": replace(ServerAccount("chat", models=("m",)), **account)},
        tenants=tenants or TenantBooks(),
    )


def claimed(one: Books, **tokens: dict[TokenKind, float]) -> Books:
    """With these tokens claimed by tenants."""
    assert one.tenants is not None
    claims = {(composed(tenant, "m"), kind): n for tenant, kinds in tokens.items() for kind, n in kinds.items()}
    return replace(one, tenants=replace(one.tenants, claims={"chat": claims}))


def joules(one: Books) -> dict[str, float]:
    assert one.tenants is not None
    found: dict[str, float] = {}
    for key, amounts in one.tenants.postings.items():
        found[key.tenant] = found.get(key.tenant, 0.0) + amounts.joules
    return found


def test_a_tenant_takes_the_part_that_it_claims_of_what_is_left():
    # The whole weighs 100 + 4 * 25 = 200; red claims 40 + 4 * 15 = 100, blue 20 + 4 * 5 = 40.
    divided = settle(
        claimed(
            books(2000.0, {INPUT: 100.0, OUTPUT: 25.0}),
            red={INPUT: 40.0, OUTPUT: 15.0},
            blue={INPUT: 20.0, OUTPUT: 5.0},
        ),
        RULES,
        NOW,
    )
    assert joules(divided) == pytest.approx({"red": 1000.0, "blue": 400.0})
    # Of 3000 J and 300, 1600 and 160 are left; green claims half of that.
    later = books(3000.0, {INPUT: 200.0, OUTPUT: 25.0}, divided.tenants)
    assert joules(settle(claimed(later, green={INPUT: 80.0}), RULES, NOW + 60.0)) == pytest.approx(
        {"red": 1000.0, "blue": 400.0, "green": 800.0}
    )


def test_claims_that_are_ahead_of_the_server_take_what_there_is_and_its_next_tokens_are_theirs():
    ahead = settle(claimed(books(500.0, {}), red={OUTPUT: 50.0}), RULES, NOW)
    assert joules(ahead) == pytest.approx({"red": 500.0})
    # The server counts these 50, and 50 more, which blue has claimed: all of the next 700 J is blue's.
    later = books(1200.0, {OUTPUT: 100.0}, ahead.tenants)
    assert joules(settle(claimed(later, blue={OUTPUT: 50.0}), RULES, NOW + 60.0)) == pytest.approx(
        {"red": 500.0, "blue": 700.0}
    )


def test_what_nobody_claimed_is_unattributed_when_the_row_is_over_for_ten_minutes():
    left = books(1000.0, {OUTPUT: 10.0})
    assert joules(settle(left, RULES, ROW + 900.0 + 599.0)) == {}
    assert joules(settle(left, RULES, ROW + 900.0 + 601.0)) == {"unattributed": 1000.0}


def test_claims_wait_while_the_server_cannot_be_read():
    unread = claimed(books(1000.0, {OUTPUT: 10.0}, unread_since_seconds=NOW - 10.0), red={OUTPUT: 10.0})
    waiting = settle(unread, RULES, NOW)
    assert joules(waiting) == {}
    assert waiting.tenants is not None
    assert joules(settle(books(1500.0, {OUTPUT: 10.0}, waiting.tenants), RULES, NOW + 60.0)) == {"red": 1500.0}


def test_tokens_are_weighted_by_the_measured_energy_of_the_phases():
    phases = Phases("m", moments=_moments(), weights=PhaseWeights(0.5, 2.0, 0.05))
    one = claimed(books(900.0, {INPUT: 400.0, OUTPUT: 100.0}, phases=phases), red={INPUT: 400.0}, blue={OUTPUT: 100.0})
    divided = settle(one, {"chat": TenantRules(is_only_server=True)}, NOW)
    assert divided.tenants is not None
    assert {key.method for key in divided.tenants.postings} == {Method.MEASURED}
    shares = joules(divided)
    assert shares["red"] + shares["blue"] == pytest.approx(900.0)
    assert shares["red"] / shares["blue"] == pytest.approx(400.0 * 0.5 / (100.0 * 2.0), rel=0.02)


def _moments() -> tuple[float, ...]:
    """Of fifty minutes in which an input token cost 0.5 J, an output token 1 J and a step 1 J."""
    sums = [0.0] * 15
    for minute in range(50):
        read, made = 1000.0 + 700.0 * (minute % 7), 400.0 + 90.0 * (minute % 5)
        steps = made
        values = (read, made, steps, 0.5 * read + 2.0 * made, 1.0)
        pairs = [(i, j) for i in range(5) for j in range(i, 5)]
        sums = [before + values[i] * values[j] for before, (i, j) in zip(sums, pairs, strict=True)]
    return tuple(sums)
