"""A step of the wall clock changes no total: time is booked by the monotonic clock."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.days import START_MONOTONIC, START_WALL, Steps, Stretch, play, stretches, ticks
from tpw.ledger.advance import advance
from tpw.ledger.books import Books, GpuAccount, HostShare, Pending, ServerAccount
from tpw.ledger.clock import after_clock_step, stepped_seconds
from tpw.ledger.tick import Policy, Tick
from tpw.model import AcceleratorReading, Gpu, GpuSample, Instant, Rate, StandingCharge
from tpw.tariff.demand import DemandRules
from tpw.tariff.months import BillingMonths

DAY = 86400.0
POLICY = Policy(
    pue=1.3,
    currency="EUR",
    curve=Steps((0.25,), 1e9),
    rates=(Rate("hardware", 0.0003),),
    standing_charges=(StandingCharge("fixed", per_day=2.0),),
)
SIZES = [0.0, 0.0, 20.0, -20.0, 3600.0, -7200.0, 30 * DAY, -30 * DAY, 400 * DAY, -56 * 365 * DAY]


@st.composite
def stepped(draw: st.DrawFn) -> Stretch:
    """A life with steps of the clock, and with GPUs that no meter reports for a while."""
    stretch = draw(stretches())
    return replace(
        stretch,
        moments=tuple(
            replace(
                moment,
                clock_step=draw(st.sampled_from(SIZES)),
                reports=tuple(draw(st.sampled_from([True, True, False])) for _ in stretch.gpus),
                meters=draw(st.sampled_from([("cpu",), ("cpu", "node"), ()])),
                other_joules=40.0 * moment.seconds,
            )
            for moment in stretch.moments
        ),
    )


def totals(books: Books) -> dict[tuple[object, ...], float]:
    """Every counter of the books."""
    found: dict[tuple[object, ...], float] = {}
    for key, posting in books.postings.items():
        found[(*key, "seconds")] = posting.seconds
        found[(*key, "joules")] = posting.joules
        found[(*key, "facility")] = posting.facility_joules
        found |= {(*key, "cost", component): money for component, money in posting.cost.items()}
    for name, server in books.servers.items():
        found |= {(name, *slot): tokens for slot, tokens in server.tokens.items()}
    for uuid, account in books.gpus.items():
        found[uuid, "unmetered"] = account.unmetered_seconds
    return found


@given(stepped())
def test_steps_of_the_clock_change_no_total(stretch: Stretch) -> None:
    steady = replace(stretch, moments=tuple(replace(moment, clock_step=0.0) for moment in stretch.moments))
    expected = totals(play(ticks(steady), POLICY)[-1])
    found = totals(play(ticks(stretch), POLICY)[-1])
    assert {key: value for key, value in found.items() if value} == {
        # Sums of the same parts, at Unix times that are more or less round.
        key: pytest.approx(value, rel=1e-6, abs=1e-5)
        for key, value in expected.items()
        if value
    }


@pytest.mark.parametrize(("wall", "step"), [(101.0, 0.0), (101.9, 0.0), (102.1, 1.1), (99.0, -2.0), (1e9, 1e9 - 101.0)])
def test_a_step_is_what_the_monotonic_clock_does_not_explain(wall: float, step: float) -> None:
    assert stepped_seconds(Instant(5.0, 100.0), Instant(6.0, wall)) == pytest.approx(step)


MONTHS = BillingMonths()
RULES = DemandRules(price_per_kw_month=10.0, months=MONTHS)


def charged(steps: dict[int, float], hours: int = 24) -> tuple[float, float]:
    """(booked demand charge, shortest hour's rise) of a GPU with 1 kW, with the clock set before some hours."""
    books, wall, rises, before = Books(), START_WALL, [], 0.0
    policy = Policy(demand=(RULES,), currency="EUR", interval_seconds=900.0, window_seconds=1800.0)
    for quarter in range(hours * 4 + 1):
        wall += steps.get(quarter // 4, 0.0) if quarter % 4 == 0 else 0.0
        at = Instant(START_MONOTONIC + 900.0 * quarter, wall + 900.0 * quarter)
        gpu = Gpu("GPU-0", 0, max_power_watts=2000.0)
        sample = GpuSample("GPU-0", at.monotonic_seconds, 900_000.0 * quarter, 1000.0)
        books = advance(books, Tick(at, AcceleratorReading((gpu,), (sample,))), policy)
        cost = sum(posting.cost.get("demand", 0.0) for posting in books.postings.values())
        rises.append(cost - before)
        before = cost
    return before, min(rises)


@pytest.mark.parametrize("step", [300.0, -300.0, 2 * 3600.0, -2 * 3600.0, 30 * DAY, 400 * DAY, -400 * DAY])
def test_no_demand_charge_accrues_for_time_that_the_clock_skipped(step: float) -> None:
    steady, _ = charged({})
    there, lowest = charged({8: step})
    and_back, lowest_back = charged({8: step, 16: -step})
    # A quarter-hour may count only once it is over, and months have 28 to 31 days.
    assert there == pytest.approx(steady, rel=0.2)
    assert and_back == pytest.approx(steady, rel=0.2)
    assert min(lowest, lowest_back) >= -1e-12


def test_what_waits_in_the_books_moves_with_the_clock() -> None:
    gpu = GpuAccount(
        Gpu("GPU-0", 0),
        pending=(Pending(90.0, 95.0, ()), Pending(95.0, 100.0, ())),
        baseline_at_seconds=5.0,
        baseline_wall_seconds=99.0,
        unreported_since_seconds=98.0,
    )
    server = ServerAccount("chat", since_wall_seconds=10.0, read_wall_seconds=99.0, seen={"": 99.0, "m": 60.0})
    books = Books(
        at=Instant(5.0, 100.0),
        gpus={"GPU-0": gpu},
        servers={"chat": server},
        host_share=HostShare(since_seconds=50.0),
        standing_charges_since_seconds=70.0,
    )

    moved = after_clock_step(books, Instant(6.0, 1101.0), ())
    assert moved.at == Instant(5.0, 1100.0)
    assert moved.gpus["GPU-0"] == replace(
        gpu,
        pending=(Pending(1090.0, 1095.0, ()), Pending(1095.0, 1100.0, ())),
        baseline_wall_seconds=1099.0,
        unreported_since_seconds=1098.0,
    )
    assert moved.servers["chat"] == replace(
        server, since_wall_seconds=1010.0, read_wall_seconds=1099.0, seen={"": 1099.0, "m": 1060.0}
    )
    assert (moved.host_share.since_seconds, moved.standing_charges_since_seconds) == (1050.0, 1070.0)
    assert after_clock_step(books, Instant(6.0, 101.0), ()) is books
    # Over a restart of the daemon the monotonic clock goes on; over one of the machine its instant is not kept.
    assert after_clock_step(replace(books, resumed=True), Instant(6.0, 1101.0), ()).gpus == moved.gpus
    rebooted = replace(books, resumed=True, at=Instant(0.0, 100.0))
    assert after_clock_step(rebooted, Instant(6.0, 1101.0), ()) is rebooted
    assert after_clock_step(replace(books, resumed=True), Instant(4.0, 1101.0), ()).gpus == books.gpus


def test_when_a_server_was_seen_by_another_clock_stays_as_it_is() -> None:
    """The machine started under a wrong clock, which is then set."""
    seen = {"": 1000.0, "gone": 900.0, "here": 5000.0}
    ahead = Books(at=Instant(5.0, 5000.0), servers={"chat": ServerAccount("chat", seen=seen)})
    back = after_clock_step(ahead, Instant(6.0, 1101.0), ()).servers["chat"].seen
    assert back == {"": 1000.0, "gone": 900.0, "here": 1100.0}

    behind = Books(at=Instant(5.0, 50.0), servers={"chat": ServerAccount("chat", seen={**seen, "here": 50.0})})
    forward = after_clock_step(behind, Instant(6.0, 1101.0), ()).servers["chat"].seen
    assert forward == {**seen, "here": 1100.0}
