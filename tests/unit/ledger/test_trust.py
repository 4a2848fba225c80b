"""What a server's page can do to the books: rises above what is possible, and ever new models, are not booked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpw.ledger.advance import advance
from tpw.ledger.books import Books, ServerAccount
from tpw.ledger.counting import count
from tpw.ledger.tick import Policy, Tick
from tpw.ledger.trust import MODELS_IN_ALL, Limits
from tpw.model import (
    LABEL_LENGTH,
    AcceleratorReading,
    Attribution,
    Cadence,
    InFlight,
    Instant,
    Ownership,
    ProcessIdentity,
    Role,
    ServerReading,
    TokenKind,
    TokenSeries,
    label_text,
)

LIMITS = Limits(tokens_per_second=1000.0, models=5)
OUTPUT = ("m", TokenKind.OUTPUT)
WALL = 1_790_000_000.0


def reading(values: Sequence[float], second: float, models: Sequence[str] = ("m",)) -> ServerReading:
    series = tuple(
        TokenSeries(Role.OUTPUT, model, f'o{{rank="{rank}",model="{model}"}}', value)
        for model in models
        for rank, value in enumerate(values)
    )
    return ServerReading("chat", second, "vllm", Cadence.STEP, "1", ProcessIdentity(1.0), series)


def after(*pages: ServerReading, limits: Limits = LIMITS) -> ServerAccount:
    account = ServerAccount("chat")
    for page in pages:
        account = count(account, page, None, WALL + page.at_seconds, limits).account
    return account


@pytest.mark.parametrize("absurd", [1e9, 1e15, 1e18, 2.0**62])
def test_an_absurd_value_is_not_booked_and_the_counter_goes_on_from_before_it(absurd: float) -> None:
    account = after(*(reading([value], second) for second, value in enumerate([100.0, 150.0, absurd, 160.0, 175.0])))

    assert account.tokens[OUTPUT] == 75.0
    assert account.anomalies == {"implausible": 1}


@pytest.mark.parametrize("absurd", [1e9, 1e18])
def test_an_absurd_first_value_does_not_make_the_past_of_the_server_new(absurd: float) -> None:
    account = after(*(reading([value], second) for second, value in enumerate([absurd, 5000.0, 5010.0])))

    assert account.tokens.get(OUTPUT, 0.0) <= 5010.0
    if absurd > LIMITS.value(Role.OUTPUT):
        assert account.tokens[OUTPUT] == 10.0


def test_a_counter_that_stays_on_its_new_level_is_counted_from_there() -> None:
    account = after(*(reading([value], second) for second, value in enumerate([100.0, 1e9, 1e9 + 7, 1e9 + 9])))

    assert account.tokens[OUTPUT] == 9.0
    assert account.anomalies == {"implausible": 1}


def test_after_an_outage_the_limit_is_that_of_the_time_since_the_last_read() -> None:
    quick, slow = ([reading([0.0], 0.0), reading([3e6], second)] for second in (1.0, 3600.0))

    assert OUTPUT not in after(*quick).tokens or after(*quick).tokens[OUTPUT] == 0.0
    assert after(*slow).tokens[OUTPUT] == 3e6


def test_over_a_restart_the_wall_clock_bounds_the_time_and_an_impossible_time_is_the_longest() -> None:
    before = replace(after(reading([100.0], 0.0)), read_at_seconds=None)

    def tokens(read: float, now: float) -> float:
        return count(before, reading([3e6], 5.0), read, now, LIMITS).account.tokens.get(OUTPUT, 0.0)

    assert tokens(WALL, WALL + 10.0) == 0.0
    assert tokens(WALL, WALL + 3600.0) == 3e6 - 100.0
    assert tokens(WALL, WALL - 3600.0) == 3e6 - 100.0, "the clock was set back"


def test_an_absurd_number_of_tokens_in_flight_is_not_booked() -> None:
    flying = replace(reading([100.0], 1.0), in_flight=(InFlight("m", 1e15),))
    account = after(reading([100.0], 0.0), flying, reading([130.0], 2.0))

    assert account.tokens[OUTPUT] == 30.0
    assert account.anomalies == {"implausible": 1}


def test_a_new_process_is_not_judged_by_the_absurd_values_of_the_old_one() -> None:
    new = replace(reading([50.0], 2.0), identity=ProcessIdentity(2.0))
    account = after(reading([100.0], 0.0), reading([1e12], 1.0), new)

    assert account.tokens[OUTPUT] == 50.0


def test_models_above_the_limit_are_booked_as_other_and_no_token_is_lost() -> None:
    names = [f"model-{number:04}" for number in range(3000)]
    account = after(reading([0.0], 0.0, names), reading([2.0], 1.0, names))

    models = {model for model, _ in account.tokens}
    assert len(models) == LIMITS.models + 1
    assert account.tokens["other", TokenKind.OUTPUT] == 2.0 * (3000 - LIMITS.models)
    assert sum(account.tokens.values()) == 6000.0
    assert account.anomalies["models"] == 2 * (3000 - LIMITS.models)


def test_a_model_that_has_its_own_series_keeps_it() -> None:
    account = after(reading([0.0], 0.0), reading([1.0], 1.0, ["a", "b", "c", "d", "e", "f", "m"]), reading([5.0], 2.0))
    assert account.tokens[OUTPUT] == 5.0


def test_models_that_are_long_gone_make_way_up_to_a_limit_for_all() -> None:
    day = 86400.0
    pages = [reading([1.0], day * 2 * number, [f"adapter-{number}"]) for number in range(1, 80)]
    account = after(reading([0.0], 0.0), *pages)

    models = {model for model, _ in account.tokens}
    assert {"adapter-1", "adapter-20", "other"} <= models
    assert len(models) <= MODELS_IN_ALL * LIMITS.models + 1
    assert sum(account.tokens.values()) == 79.0


@given(st.lists(st.lists(st.floats(0.0, 2.0**62), min_size=1, max_size=3), min_size=1, max_size=12))
def test_whatever_the_page_shows_the_tokens_rise_by_no_more_than_the_limit(pages: list[list[float]]) -> None:
    account = ServerAccount("chat")
    last = 0.0
    for second, values in enumerate(pages):
        page = reading(values, float(second))
        account = count(account, page, None, WALL + second, LIMITS).account
        total = sum(account.tokens.values())
        assert last <= total <= last + len(values) * LIMITS.rise(Role.OUTPUT, 62 * 86400.0 if second == 0 else 1.0)
        last = total


@given(st.text(max_size=400))
def test_label_values_are_short_printable_and_stable(text: str) -> None:
    label = label_text(text)
    assert len(label) <= LABEL_LENGTH
    assert label.isprintable()
    assert label_text(label) == label
    label.encode()


def test_cut_label_values_stay_different() -> None:
    first, second = label_text("m" * 1_000_000 + "1"), label_text("m" * 1_000_000 + "2")
    assert first != second
    assert label_text("org/model-70b") == "org/model-70b"


def test_values_that_were_not_read_are_counted() -> None:
    account = after(reading([100.0], 0.0), replace(reading([], 1.0), refused=2), reading([150.0], 2.0))

    assert account.tokens[OUTPUT] == 50.0
    assert account.anomalies == {"invalid": 2}


def test_a_server_can_have_limits_of_its_own() -> None:
    policy = Policy(limits=replace(LIMITS, by_server={"gateway": replace(LIMITS, tokens_per_second=1e9)}))
    books = Books()
    owners = {name: Ownership(name, frozenset(), Attribution.NONE) for name in ("chat", "gateway")}
    for second, value in enumerate([0.0, 1e8]):
        readings = tuple(replace(reading([value], float(second)), server=name) for name in owners)
        tick = Tick(Instant(float(second), WALL + second), AcceleratorReading((), ()), servers=readings, owners=owners)
        books = advance(books, tick, policy)

    booked = {name: account.tokens[OUTPUT] for name, account in books.servers.items()}
    assert booked == {"chat": 0.0, "gateway": 1e8}
