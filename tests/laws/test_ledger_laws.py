"""The laws of the books (contract, section 5), over random lives of a node."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.days import START_MONOTONIC, START_WALL, Steps, Stretch, play, reordered, stretches, ticks
from tpw.ledger.amounts import Amounts
from tpw.ledger.books import Books
from tpw.ledger.tick import Policy, Tick
from tpw.model import (
    AcceleratorReading,
    EnergyMethod,
    Gpu,
    GpuSample,
    Instant,
    Rate,
    Reference,
    State,
    TokenKind,
)
from tpw.store import codec

POLICY = Policy(
    pue=1.3,
    currency="EUR",
    curve=Steps((0.30, 0.10, -0.05, None), 3.0),
    rates=(Rate("hardware", 0.0003), Rate("hosting", 0.0001)),
    references=(
        Reference("api", price_per_token={TokenKind.OUTPUT: 8e-7, TokenKind.INPUT: 6e-7}),
        Reference("rented", price_per_gpu_second=0.0007),
    ),
)
FLAT = replace(POLICY, curve=Steps((0.25,), 1e9))


def close(actual: float, expected: float) -> bool:
    return math.isclose(actual, expected, rel_tol=1e-9, abs_tol=1e-9)


def total(books: Books, field: str) -> float:
    return math.fsum(getattr(posting, field) for posting in books.postings.values())


def numbers(books: Books) -> dict[tuple[object, ...], float]:
    """Every counter in the books, flat."""
    flat: dict[tuple[object, ...], float] = {}
    for key, posting in books.postings.items():
        for field in ("seconds", "joules", "facility_joules", "unpriced_joules", "credit"):
            flat["posting", *key, field] = getattr(posting, field)
        for component, money in posting.cost.items():
            flat["posting", *key, "cost", component] = money
    for uuid, account in books.gpus.items():
        flat["gpu", uuid, "unmetered"] = account.unmetered_seconds
        for reason, times in account.anomalies.items():
            flat["gpu", uuid, "anomaly", reason] = times
        for instance, joules in account.instance_joules.items():
            flat["gpu", uuid, "instance", *instance] = joules
    for name, server in books.servers.items():
        for (model, kind), tokens in server.tokens.items():
            flat["tokens", name, model, kind] = tokens
        for slot, money in server.reference_cost.items():
            flat["reference", name, *slot] = money
    for component, host in books.hosts.items():
        flat["host", component] = host.joules
    return flat


def restarted(books: Books) -> Books:
    """The books as a killed daemon finds them again."""
    return Books(
        at=Instant(0.0, books.at.wall_seconds) if books.at else None,
        resumed=True,
        currency=books.currency,
        gpus={uuid: codec.load_gpu(uuid, codec.dump_gpu(account)) for uuid, account in books.gpus.items()},
        postings={key: codec.load_amounts(codec.dump_quantity(value)) for key, value in books.postings.items()},
        hosts={name: codec.load_host(codec.dump_host(account)) for name, account in books.hosts.items()},
        host_carry_joules=books.host_carry_joules,
        rows=books.rows,
        served=books.served,
        month_kwh=books.month_kwh,
        demand=books.demand,
        servers={name: codec.load_server(name, codec.dump_server(account)) for name, account in books.servers.items()},
        polls=books.polls,
    )


def metered(stretch: Stretch) -> list[float]:
    """Joules of each GPU up to the last tick at which it answered."""
    sums = []
    for i in range(len(stretch.gpus)):
        last = max((n for n, moment in enumerate(stretch.moments) if moment.heard[i]), default=-1)
        sums.append(math.fsum(moment.joules[i] for moment in stretch.moments[: last + 1]))
    return sums


@given(stretches())
def test_every_joule_a_counter_showed_is_booked_once(stretch: Stretch) -> None:
    books = play(ticks(stretch), POLICY)[-1]

    for gpu, expected in zip(stretch.gpus, metered(stretch), strict=True):
        booked = math.fsum(p.joules for key, p in books.postings.items() if key.gpu == gpu.uuid)
        assert close(booked, expected)
        assert sum(books.gpus[gpu.uuid].anomalies.values()) == 0


@given(stretches())
def test_all_time_of_a_gpu_is_in_one_state_or_another(stretch: Stretch) -> None:
    books = play(ticks(stretch), POLICY)[-1]

    elapsed = math.fsum(moment.seconds for moment in stretch.moments)
    for gpu in stretch.gpus:
        assert close(math.fsum(p.seconds for key, p in books.postings.items() if key.gpu == gpu.uuid), elapsed)


@given(stretches())
def test_servers_and_idle_together_are_all_gpus_in_energy_and_in_every_component_of_cost(stretch: Stretch) -> None:
    books = play(ticks(stretch), POLICY)[-1]

    unowned = (State.IDLE, State.OTHER)
    idle = {key: p for key, p in books.postings.items() if key.state in unowned}
    owned = {key: p for key, p in books.postings.items() if key.state not in unowned}
    assert all(key.server == "" and key.model == "" for key in idle)
    assert all((key.workload is not None) == (key.state is State.OTHER) for key in books.postings)
    assert all(key.server in stretch.servers for key in owned)
    elapsed = math.fsum(moment.seconds for moment in stretch.moments) * len(stretch.gpus)
    for rate in POLICY.rates:
        money = math.fsum(p.cost.get(rate.component, 0.0) for p in (*idle.values(), *owned.values()))
        assert close(money, elapsed * rate.per_gpu_second)


@given(stretches())
def test_estimates_of_instances_are_parts_of_their_gpu_and_sum_to_it_or_less(stretch: Stretch) -> None:
    books = play(ticks(stretch), POLICY)[-1]

    for uuid, account in books.gpus.items():
        estimates = math.fsum(account.instance_joules.values())
        booked = math.fsum(p.joules for key, p in books.postings.items() if key.gpu == uuid)
        assert 0.0 <= estimates <= booked * (1.0 + 1e-9)


@given(stretches())
def test_at_a_flat_price_cost_is_facility_kwh_times_price(stretch: Stretch) -> None:
    books = play(ticks(stretch), FLAT)[-1]

    for posting in books.postings.values():
        assert math.isclose(posting.cost.get("energy", 0.0), posting.facility_joules / 3.6e6 * 0.25, rel_tol=1e-12)
        assert posting.unpriced_joules == 0.0
        assert posting.credit == 0.0


@given(stretches())
def test_facility_energy_is_gpus_and_host_times_pue(stretch: Stretch) -> None:
    books = play(ticks(stretch), POLICY)[-1]

    host = math.fsum(account.joules for account in books.hosts.values()) - books.host_carry_joules
    assert close(total(books, "facility_joules"), (total(books, "joules") + host) * 1.3)


@given(stretches())
def test_priced_and_unpriced_joules_are_all_facility_joules(stretch: Stretch) -> None:
    unpriced = replace(POLICY, curve=Steps((None,), 10.0))
    books = play(ticks(stretch), unpriced)[-1]

    assert close(total(books, "unpriced_joules"), total(books, "facility_joules"))
    assert all(posting.cost.get("energy", 0.0) == 0.0 for posting in books.postings.values())


@given(stretches(), st.data())
def test_no_counter_ever_falls_not_across_a_kill_either(stretch: Stretch, data: st.DataObject) -> None:
    all_ticks = ticks(stretch)
    killed_at = data.draw(st.integers(0, len(all_ticks)))
    before = play(all_ticks[:killed_at], POLICY)
    after = play(all_ticks[killed_at:], POLICY, restarted(before[-1]) if before else None)

    last: dict[tuple[object, ...], float] = {}
    for books in (*before, *after):
        now = numbers(books)
        for what, value in last.items():
            assert now[what] >= value, what
        last = now


@given(stretches(), st.data())
def test_a_kill_loses_no_joule_and_no_token_that_the_counters_still_know(stretch: Stretch, data: st.DataObject) -> None:
    all_ticks = ticks(stretch)
    killed_at = data.draw(st.integers(1, len(all_ticks)))
    straight = play(all_ticks, POLICY)[-1]
    before = play(all_ticks[:killed_at], POLICY)[-1]
    after = play(all_ticks[killed_at:], POLICY, restarted(before))
    killed = after[-1] if after else before

    for gpu in stretch.gpus:
        booked = [
            math.fsum(p.joules for key, p in books.postings.items() if key.gpu == gpu.uuid)
            for books in (straight, killed)
        ]
        assert close(booked[1], booked[0])
    for name in stretch.servers:
        assert killed.servers[name].tokens == straight.servers[name].tokens


@given(stretches())
def test_the_order_of_the_sources_changes_nothing(stretch: Stretch) -> None:
    straight = numbers(play(ticks(stretch), POLICY)[-1])
    turned = numbers(play([reordered(tick) for tick in ticks(stretch)], POLICY)[-1])

    assert turned.keys() == straight.keys()
    for what, value in straight.items():
        assert close(turned[what], value), what


@given(stretches(), st.sampled_from([2, 4, 8]), st.booleans())
def test_cutting_an_interval_changes_no_total(stretch: Stretch, parts: int, evenly: bool) -> None:
    """Ticks in between, at which everything was read and nothing else happened.

    Cut into parts of a length that a float represents exactly, so that the wall clock adds no rounding. The tokens come in
    the first part; where servers share a GPU by their tokens, they come evenly, because when they came decides there.
    """
    first = stretch.moments[0].used
    calm = replace(
        stretch,
        moments=tuple(
            replace(
                moment,
                heard=tuple(True for _ in moment.heard),
                answers=tuple("ok" for _ in moment.answers),
                owned=stretch.moments[0].owned,
                used=first if evenly else tuple(used or 0.0 for used in first),
                instances=stretch.moments[0].instances if evenly else (),
                running=tuple(1 for _ in moment.running),
            )
            for moment in stretch.moments
        ),
    )
    whole = play(ticks(calm), POLICY)[-1]
    cut = replace(
        calm,
        moments=tuple(
            replace(
                moment,
                seconds=moment.seconds / parts,
                joules=tuple(j / parts for j in moment.joules),
                host_joules=moment.host_joules / parts,
                tokens=tuple(
                    tuple(count / parts if evenly else count * (part == 0) for count in counts)
                    for counts in moment.tokens
                ),
            )
            for moment in calm.moments
            for part in range(parts)
        ),
    )
    pieces = play(ticks(cut), POLICY)[-1]

    expected, actual = numbers(whole), numbers(pieces)
    assert actual.keys() == expected.keys()
    for what, value in expected.items():
        assert math.isclose(actual[what], value, rel_tol=1e-9, abs_tol=1e-9), what


@given(stretches())
def test_tokens_are_the_rise_of_the_servers_own_counters(stretch: Stretch) -> None:
    """A counter that restarted is counted from 0; tokens of a process that was never read are lost with it."""
    books = play(ticks(stretch), POLICY)[-1]

    for i, name in enumerate(stretch.servers):
        expected = output = 0
        for moment in stretch.moments:
            if moment.answers[i] == "restart":
                output = 0
            output += moment.tokens[i][2]
            if moment.answers[i] in ("ok", "restart"):
                expected += output
                output = 0
        counted = books.servers[name].tokens
        assert counted.get(("m", TokenKind.OUTPUT), 0.0) == expected


@given(stretches())
def test_input_and_cached_input_are_disjoint_and_sum_to_the_prompt(stretch: Stretch) -> None:
    books = play(ticks(stretch), POLICY)[-1]

    for server in books.servers.values():
        prompt = sum(value for (_, role), value in server.counted.items() if role == "prompt")
        cached = server.tokens.get(("m", TokenKind.CACHED_INPUT), 0.0)
        assert server.tokens.get(("m", TokenKind.INPUT), 0.0) + cached == prompt


@given(stretches(), st.integers(0, 2))
def test_a_broken_source_leaves_the_others_as_they_were(stretch: Stretch, which: int) -> None:
    """GPU ``which`` never answers: every other GPU has the joules it had."""
    if which >= len(stretch.gpus):
        which = 0
    broken = replace(
        stretch,
        moments=tuple(
            replace(moment, heard=tuple(heard and i != which for i, heard in enumerate(moment.heard)))
            for moment in stretch.moments
        ),
    )
    whole, hurt = play(ticks(stretch), POLICY)[-1], play(ticks(broken), POLICY)[-1]

    for i, gpu in enumerate(stretch.gpus):
        if i != which:
            assert close(
                math.fsum(p.joules for key, p in hurt.postings.items() if key.gpu == gpu.uuid),
                math.fsum(p.joules for key, p in whole.postings.items() if key.gpu == gpu.uuid),
            )
    assert {name: s.tokens for name, s in hurt.servers.items()} == {name: s.tokens for name, s in whole.servers.items()}


@given(stretches(method=EnergyMethod.AVERAGE_POWER))
def test_integrated_power_and_unmetered_time_are_all_time(stretch: Stretch) -> None:
    """Without a counter: a trapezoid between neighbours, nothing over a gap of three ticks, or of three times the usual gap
    of a slow meter; what cannot be integrated any more is unmetered, at once."""
    books = play(ticks(stretch), POLICY)[-1]

    for i, gpu in enumerate(stretch.gpus):
        joules = unmetered = waiting = 0.0
        watts: float | None = 100.0
        last = earlier = 0.0
        for moment in stretch.moments:
            waiting += moment.seconds
            if not moment.heard[i]:
                continue
            now = moment.joules[i] / moment.seconds
            if watts is None or waiting > 3.0 * max(1.0, min(last, earlier)):
                unmetered += waiting
            else:
                joules += (watts + now) / 2.0 * waiting
            watts, waiting, last, earlier = now, 0.0, waiting, last
        if waiting > 3.0 * max(1.0, min(last, earlier)):
            unmetered += waiting
        booked = math.fsum(p.joules for key, p in books.postings.items() if key.gpu == gpu.uuid)
        assert close(booked, joules)
        assert close(books.gpus[gpu.uuid].unmetered_seconds, unmetered)


@pytest.mark.parametrize("ahead", [0.0, 3600.0, -7200.0])
def test_a_step_of_the_wall_clock_books_no_other_energy_or_time(ahead: float) -> None:
    """Durations are monotonic; only the price of the moment is by the wall clock."""
    gpu_ticks = []
    gpu = Gpu("GPU-0", 0, max_power_watts=700.0)
    for n in range(4):
        wall = START_WALL + n + (ahead if n >= 2 else 0.0)
        mono = START_MONOTONIC + n
        gpu_ticks.append(
            Tick(Instant(mono, wall), AcceleratorReading((gpu,), (GpuSample("GPU-0", mono, 100.0 * n, 100.0),)))
        )
    books = play(gpu_ticks, FLAT)[-1]

    (posting,) = books.postings.values()
    assert posting == Amounts(
        seconds=3.0,
        joules=300.0,
        facility_joules=pytest.approx(390.0),
        cost={
            "hardware": pytest.approx(0.0009),
            "hosting": pytest.approx(0.0003),
            "energy": pytest.approx(390 / 3.6e6 / 4),
        },
    )
