"""Prefill and decode: the estimate, when there is none, and its counters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest

from support.phased import Engine, Served, ticks
from tpw.ledger.advance import advance
from tpw.ledger.books import Books
from tpw.ledger.phases import BLOCK_SECONDS, FEWEST_BLOCKS, Observed, Phases, observe, phase_weights, pooled
from tpw.ledger.tick import Policy, Tick
from tpw.model import (
    AcceleratorReading,
    Attribution,
    Cadence,
    Gpu,
    GpuSample,
    Instant,
    Load,
    Ownership,
    Phase,
    ProcessIdentity,
    Reason,
    Role,
    ServerFault,
    ServerReading,
    State,
    TokenSeries,
)
from tpw.store import codec

CHAT = Engine(3.0, 500.0, 200.0)
GPU = Gpu("GPU-0", 0, max_power_watts=700.0)
PREFILL, DECODE = ("m", Phase.PREFILL), ("m", Phase.DECODE)


def observed(totals: Iterator[Served]) -> Phases:
    """The phases after a server's ticks, all of them active."""
    phases = None
    for one in totals:
        now = Observed("m", one.joules, one.input_tokens, one.output_tokens, float(one.running), 1.0)
        phases = observe(phases, now)
    assert phases is not None
    return phases


def steady(seconds: int) -> Iterator[Served]:
    """The same mix of tokens in every second."""
    for at in range(seconds):
        yield Served(at, 500.0 * at, 200.0 * at, 300.0 * at, 1000.0 * at, 100.0 * at, 4)


def test_the_parts_are_those_of_a_server_with_known_phases() -> None:
    history = list(ticks(CHAT, 3600.0))
    phases = observed(iter(history))
    weights = phase_weights(phases)
    assert weights is not None
    last = history[-1]
    true = last.prefill_joules / (last.prefill_joules + last.decode_joules)
    given = phases.joules[PREFILL] / (phases.joules[PREFILL] + phases.joules[DECODE])
    assert abs(given - true) < 0.02
    assert 0.06 <= weights.error_ratio < 0.09
    assert weights.input_joules == pytest.approx(last.prefill_joules / last.input_tokens, rel=0.1)
    assert weights.output_joules == pytest.approx(last.decode_joules / last.output_tokens, rel=0.05)


def test_minutes_with_the_same_mix_show_nothing() -> None:
    phases = observed(steady(3600))
    assert phase_weights(phases) is None
    assert not phases.joules


def test_prefills_that_take_minutes_show_nothing() -> None:
    slow = Engine(0.012, 200_000.0, 100.0, prefill_tokens_per_second=2000.0)
    assert phase_weights(observed(ticks(slow, 5400.0))) is None


def test_a_server_without_prompts_of_its_own_only_decodes() -> None:
    history = (replace(one, input_tokens=0.0) for one in ticks(replace(CHAT, prompt_tokens=1.0), 2400.0))
    phases = observed(history)
    weights = phase_weights(phases)
    assert weights is not None
    assert weights.input_joules == 0.0
    assert phases.joules[PREFILL] == 0.0
    assert phases.joules[DECODE] > 0.0


def test_what_is_split_is_what_was_used_since_the_estimate() -> None:
    phases, split_from, last = None, 0.0, 0.0
    for one in ticks(CHAT, 1800.0):
        before = phases
        phases = observe(
            phases, Observed("m", one.joules, one.input_tokens, one.output_tokens, float(one.running), 1.0)
        )
        assert phases is not None
        if before is not None and not before.joules and phases.joules:
            assert set(phases.joules.values()) == {0.0}  # a counter begins at 0
            split_from = one.joules
        if before is not None and before.moments is not phases.moments:
            last = one.joules
    assert phases is not None
    assert sum(phases.joules.values()) == pytest.approx(last - split_from, rel=1e-9)


def test_a_block_does_not_reach_over_time_that_is_not_known() -> None:
    phases = observe(observe(None, Observed("m", 1.0, 1.0, 1.0, 1.0, 1.0)), None)
    assert phases is not None
    assert phases.block is None
    now = Observed("m", 1e6, 1e6, 1e6, 1.0, BLOCK_SECONDS)
    after = observe(phases, now)
    assert after is not None
    assert after.moments == phases.moments
    assert after.block is not None
    assert after.block.start == now


def test_another_model_starts_anew_and_the_counters_stay() -> None:
    phases = observed(ticks(CHAT, 1800.0))
    other = observe(phases, Observed("n", 1.0, 1.0, 1.0, 1.0, 1.0))
    assert other is not None
    assert other.weights is None
    assert other.joules == phases.joules
    assert other.moments != phases.moments


def test_replicas_are_estimated_together() -> None:
    one, two = observed(ticks(CHAT, 1800.0)), observed(ticks(CHAT, 1800.0, seed=2))
    both = pooled([one, two])
    assert both is not None
    assert both.joules == {key: one.joules[key] + two.joules[key] for key in (PREFILL, DECODE)}
    assert one.weights is not None
    assert both.weights is not None
    assert both.weights.error_ratio < one.weights.error_ratio
    assert both.weights.input_joules == pytest.approx(one.weights.input_joules, rel=0.1)
    assert pooled([]) is None
    others = pooled([one, replace(two, model="n", joules={("n", Phase.PREFILL): 1.0})])
    assert others is not None
    assert others.weights is None
    assert others.joules == {**one.joules, ("n", Phase.PREFILL): 1.0}


# ---------------------------------------------------------------------------------------------------- through the ledger


def tick(one: Served, *, up: bool = True, sharer: bool = False) -> Tick:
    """One second of a server alone on its GPU, or beside another one without use by process."""
    at = 1000.0 + one.at_seconds
    sample = GpuSample("GPU-0", at, one.joules, 400.0, power_mean_seconds=1.0, utilization_ratio=1.0)
    names = ("chat", "code") if sharer else ("chat",)
    readings = tuple(page(name, at, one) if up else ServerFault(name, at, Reason.TIMEOUT, "") for name in names)
    owners = {name: Ownership(name, frozenset({"GPU-0"}), Attribution.CONFIGURED) for name in names}
    return Tick(Instant(at, 1e9 + at), AcceleratorReading((GPU,), (sample,)), (), readings, owners)


def page(name: str, at: float, one: Served) -> ServerReading:
    series = (
        TokenSeries(Role.OUTPUT, "m", "out", one.output_tokens),
        TokenSeries(Role.INPUT, "m", "in", one.input_tokens),
    )
    loads = (Load("m", float(one.running), 0.0),)
    return ServerReading(name, at, "vllm", Cadence.STEP, "1", ProcessIdentity(1.0), series, loads)


@cache
def booked(*, sharer: bool = False) -> Books:
    books = Books()
    for one in ticks(CHAT, (FEWEST_BLOCKS + 4.0) * BLOCK_SECONDS):
        books = advance(books, tick(one, sharer=sharer), Policy())
    return books


def test_the_ledger_splits_active_energy_and_never_more() -> None:
    books = booked()
    phases = books.servers["chat"].phases
    assert phases is not None
    active = sum(amounts.joules for key, amounts in books.postings.items() if key.state is State.ACTIVE)
    assert 0.0 < sum(phases.joules.values()) < active


def test_the_phases_survive_a_restart() -> None:
    account = booked().servers["chat"]
    again = codec.load_server("chat", codec.dump_server(account)).phases
    assert account.phases is not None
    assert again == replace(account.phases, block=None)


def test_shares_by_tokens_show_no_phases() -> None:
    phases = booked(sharer=True).servers["chat"].phases
    assert phases is None or not phases.joules


def test_an_outage_ends_the_block() -> None:
    books = booked()
    phases = books.servers["chat"].phases
    assert phases is not None
    assert phases.block is not None
    [*_, last] = ticks(CHAT, 1200.0)
    down = advance(books, tick(last, up=False), Policy()).servers["chat"].phases
    assert down is not None
    assert down.block is None
    assert down.joules == phases.joules
