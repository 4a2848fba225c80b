"""Requests within targets, against requests with known latencies."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpw.ledger.books import ServerAccount
from tpw.ledger.service import Outcomes, Passage, Service, observe, summed
from tpw.model import Load, Phase, Slo
from tpw.store.codec import dump_server, load_server
from tpw.tokens.dialects import Dialect
from tpw.tokens.latency import LatencyReader
from tpw.tokens.page import Page

BOUNDS = (0.1, 0.5, 1.0, 2.0, 5.0)
ENGINE = Dialect("engine", ttft=("ttft",), tpot=("tpot",), e2e=("e2e",), model_labels=("model",), paired=True)
CONTINUED, FIRST, RESTARTED = Passage(False, False, 1e6), Passage(True, False, 1e6), Passage(False, True, 1e6)


@dataclass
class Engine:
    """Observes latencies as an engine does: a first token when it comes, the rest when the request ends."""

    observed: dict[Slo, list[float]] = field(default_factory=lambda: {slo: [] for slo in Slo})
    running: int = 0

    def page(self) -> Page:
        lines = []
        for slo, values in self.observed.items():
            lines += [
                f'{slo}_bucket{{model="m",le="{bound}"}} {sum(value <= float(bound) for value in values)}'
                for bound in (*map(str, BOUNDS), "+Inf")
            ]
            lines.append(f'{slo}_sum{{model="m"}} {sum(values)!r}')
            lines.append(f'{slo}_count{{model="m"}} {len(values)}')
        return Page("\n".join([*lines, ""]).encode())


def read(before: Service | None, engine: Engine, reader: LatencyReader, passage: Passage = CONTINUED) -> Service:
    reading, _ = reader.read(engine.page(), None, has_served=True)
    return observe(before, reading, (Load("m", float(engine.running), 0.0),), passage)


LATENCY = st.sampled_from((0.05, 0.1, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 9.0))
"""At, between and beyond the bounds of the buckets."""
TARGETS = st.dictionaries(
    st.sampled_from(tuple(Slo)), st.sampled_from((0.05, 0.1, 0.4, 1.0, 1.7, 5.0, 8.0)), min_size=1
)
REQUESTS = st.lists(st.fixed_dictionaries(dict.fromkeys(Slo, LATENCY)), max_size=25)


@given(TARGETS, REQUESTS)
def test_each_target_is_exact_at_a_bound_and_bounded_elsewhere(targets, requests):
    engine, reader = Engine(), LatencyReader(ENGINE, targets)
    service = read(None, engine, reader, FIRST)
    for request in requests:
        for slo, seconds in request.items():
            engine.observed[slo].append(seconds)
    service = read(service, engine, reader)
    for slo, target in targets.items():
        outcomes = service.outcomes["m", slo]
        met = sum(request[slo] <= target for request in requests)
        assert outcomes.yes <= met <= outcomes.yes + outcomes.unknown
        assert outcomes.requests == len(requests)
        assert service.seconds["m", slo] == pytest.approx(sum(request[slo] for request in requests))
        if target in BOUNDS:
            assert outcomes == Outcomes(met, len(requests) - met, 0.0)
        else:
            above = bisect_left(BOUNDS, target)
            low = BOUNDS[above - 1] if above else 0.0
            high = BOUNDS[above] if above < len(BOUNDS) else float("inf")
            assert outcomes.unknown == sum(low < request[slo] <= high for request in requests)


TOGETHER = st.fixed_dictionaries(
    {Slo.TTFT: st.sampled_from((0.1, 0.4, 1.0))},
    optional={Slo.TPOT: st.sampled_from((1.0, 2.0)), Slo.E2E: st.sampled_from((1.0, 1.7, 2.0))},
)


@given(TOGETHER, st.integers(0, 2**32), st.integers(0, 4), st.sampled_from((0.1, 0.4, 0.9)))
def test_all_targets_together_are_bounded_whatever_runs_is_aborted_or_restarts(targets, seed, at_first, missed):
    choice = Random(seed)
    engine, reader = Engine(), LatencyReader(ENGINE, targets)
    running: list[dict[Slo, float]] = []
    unread: list[dict[Slo, float]] = []
    ended: list[dict[Slo, float]] = []

    def begin() -> None:
        slow = choice.random() < missed
        running.append({slo: choice.choice((0.3, 1.5, 9.0) if slow else (0.05, 0.1)) for slo in Slo})
        engine.observed[Slo.TTFT].append(running[-1][Slo.TTFT])
        engine.running += 1

    for _ in range(at_first):
        begin()
    service = read(None, engine, reader, FIRST)
    for event in choice.choices(("begin", "end", "abort", "read", "save", "restart"), (40, 36, 2, 30, 2, 1), k=80):
        if event == "begin":
            begin()
        elif event in ("end", "abort") and running:
            one = running.pop(choice.randrange(len(running)))
            engine.running -= 1
            if event == "end":
                unread.append(one)
                for slo in (Slo.TPOT, Slo.E2E):
                    engine.observed[slo].append(one[slo])
        elif event == "save":
            service = load_server("s", dump_server(ServerAccount("s", service=service))).service
        elif event in ("read", "restart"):
            if event == "restart":  # requests that nobody has read are lost, as their tokens are
                engine, running, unread = Engine(), [], []
            before = service
            service = read(service, engine, reader, RESTARTED if event == "restart" else CONTINUED)
            ended += unread
            unread = []
            _check(before, service, targets, ended, len(running), at_first)


def _check(before, service, targets, ended, running, at_first) -> None:
    booked = service.joint["m"].booked
    earlier = before.joint["m"].booked
    assert all(after >= value for after, value in zip(booked, earlier, strict=True)), "a counter fell"
    if Slo.TTFT in targets and len(targets) == 1:
        return  # counted when the first token comes
    met = sum(all(one[slo] <= target for slo, target in targets.items()) for one in ended)
    assert booked.yes <= met
    assert booked.no <= len(ended) - met
    assert len(ended) - running - at_first <= booked.requests <= len(ended)
    if not running:
        assert booked.requests == len(ended)


def test_while_nothing_runs_two_targets_of_which_one_is_always_met_are_exact():
    engine, reader = Engine(), LatencyReader(ENGINE, {Slo.TTFT: 1.0, Slo.E2E: 5.0})
    service = read(None, engine, reader, FIRST)
    for ttft in (0.3, 2.0, 0.3, 0.7):
        engine.observed[Slo.TTFT].append(ttft)
        engine.running = 1
        service = read(service, engine, reader)
        engine.observed[Slo.E2E].append(3.0)
        engine.running = 0
        service = read(service, engine, reader)
    assert service.joint["m"].booked == Outcomes(3.0, 1.0, 0.0)


def test_a_request_waits_for_another_that_runs_before_it_is_unknown():
    engine, reader = Engine(running=2), LatencyReader(ENGINE, {Slo.TTFT: 1.0, Slo.E2E: 5.0})
    service = read(None, Engine(), reader, FIRST)
    engine.observed[Slo.TTFT] += [0.3, 2.0]
    for running in (1, 0):
        engine.running = running
        engine.observed[Slo.E2E].append(3.0)
        service = read(service, engine, reader)
    assert service.joint["m"].booked == Outcomes(1.0, 1.0, 0.0)


def test_a_busy_server_with_few_misses_has_hardly_anything_unknown():
    engine, reader = Engine(), LatencyReader(ENGINE, {Slo.TTFT: 1.0, Slo.E2E: 5.0})
    engine.running = 8
    service = read(None, engine, reader, FIRST)
    engine.observed[Slo.TTFT] += [0.3] * 8
    for number in range(1000):  # eight requests are always running; every hundredth misses one target
        engine.observed[Slo.TTFT].append(2.0 if number % 100 == 50 else 0.3)
        engine.observed[Slo.E2E].append(9.0 if number % 100 == 0 else 3.0)
        service = read(service, engine, reader)
    booked = service.joint["m"].booked
    assert booked.yes >= 960
    assert booked.no >= 10
    assert booked.yes + booked.unknown >= 980 - 16


def test_replicas_are_summed():
    engine, reader = Engine(), LatencyReader(ENGINE, {Slo.E2E: 1.0})
    first = read(None, engine, reader, FIRST)
    engine.observed[Slo.E2E] += [0.3, 3.0]
    both = summed([read(first, engine, reader), read(first, engine, reader)])
    assert both is not None
    assert both.outcomes["m", Slo.E2E] == both.joint["m"].booked == Outcomes(2.0, 2.0, 0.0)


def test_another_target_counts_from_its_change():
    engine = Engine()
    service = read(None, engine, LatencyReader(ENGINE, {Slo.E2E: 1.0}), FIRST)
    engine.observed[Slo.E2E] += [0.3, 3.0]
    service = read(service, engine, LatencyReader(ENGINE, {Slo.E2E: 1.0}))
    service = read(service, engine, LatencyReader(ENGINE, {Slo.E2E: 5.0}))
    engine.observed[Slo.E2E] += [3.0]
    service = read(service, engine, LatencyReader(ENGINE, {Slo.E2E: 5.0}))
    assert service.outcomes["m", Slo.E2E] == Outcomes(2.0, 1.0, 0.0)


@pytest.mark.parametrize("phase", [Phase.PREFILL, Phase.DECODE])
def test_one_instance_of_a_pair_does_not_measure_what_clients_see(phase):
    reader = LatencyReader(ENGINE, {Slo.TTFT: 1.0, Slo.TPOT: 1.0})
    reading, note = reader.read(Engine().page(), phase, has_served=True)
    assert {one.slo for one in reading.series} == ({Slo.TPOT} if phase is Phase.DECODE else set())
    assert str(phase) in note


def test_a_page_that_was_written_while_a_request_ended_is_counted_at_the_next():
    reader = LatencyReader(ENGINE, {Slo.E2E: 1.0})
    page = 'e2e_bucket{{model="m",le="1.0"}} {}\ne2e_bucket{{model="m",le="+Inf"}} {}\ne2e_sum{{model="m"}} 0\n'

    def service(before, within, requests, passage=CONTINUED):
        reading, _ = reader.read(Page(page.format(within, requests).encode()), None, has_served=True)
        return observe(before, reading, (), passage)

    at_first = service(None, 0, 0, FIRST)
    torn = service(at_first, 2, 1)
    assert torn.outcomes.get(("m", Slo.E2E), Outcomes()) == Outcomes()
    assert service(torn, 2, 2).outcomes["m", Slo.E2E] == Outcomes(2.0, 0.0, 0.0)
