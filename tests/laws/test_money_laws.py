"""The laws of money: rows sum to counters, prices that depend on use, charges of the contract, prices that come late."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.days import START_MONOTONIC, START_WALL, Steps, Stretch, flat, play, stretches, ticks
from support.examples import examples
from tpw.config import load
from tpw.daemon.pricing import Feeds, policy
from tpw.ledger.advance import advance
from tpw.ledger.amounts import Amounts, Served
from tpw.ledger.books import ROW_SECONDS, Books
from tpw.ledger.rows import open_from, price_late, unpriced_since, without_closed
from tpw.ledger.tick import Policy, Tick
from tpw.model import (
    AcceleratorReading,
    Attribution,
    Gpu,
    GpuSample,
    Instant,
    Ownership,
    PriceInterval,
    PriceState,
    Rate,
    Reference,
    StandingCharge,
    TokenKind,
)
from tpw.polling import SourceHealth
from tpw.tariff.curve import PriceCurve
from tpw.tariff.demand import DemandRules, kw_months, peak_watts
from tpw.tariff.flat import Flat
from tpw.tariff.layers import Layer, Layers
from tpw.tariff.months import BillingMonths
from tpw.tariff.tiers import Tier, steps_of


@dataclass(frozen=True)
class Grams:
    """One intensity."""

    grams_per_kwh: float


@dataclass(frozen=True)
class Carbon:
    """Intensities in equal steps, repeated for ever; None is unknown."""

    steps: tuple[float | None, ...]
    step_seconds: float

    def pieces(self, start: float, end: float) -> Iterator[tuple[float, float, Grams | None]]:
        for at, stop, price in Steps(self.steps, self.step_seconds).pieces(start, end):
            yield at, stop, None if price is None else Grams(price.price_per_kwh)


POLICY = Policy(
    pue=1.3,
    currency="EUR",
    curve=Steps((0.30, 0.10, -0.05, None), 3.0),
    rates=(Rate("hardware", 0.0003),),
    standing_charges=(
        StandingCharge("fixed", per_month=100.0, per_day=0.5),
        StandingCharge("capacity", per_month=380.0),
    ),
    demand=(
        DemandRules(price_per_kw_month=12.0, window_seconds=60.0),
        DemandRules(price_per_kw_month=5.0, name="above", above_kw=0.3, window_seconds=4.0),
    ),
    intensities=Carbon((400.0, None, 20.0), 4.0),
    carbon_basis="average_direct",
    references=(
        Reference("api", price_per_token={TokenKind.OUTPUT: 8e-7}),
        Reference("rented", price_per_gpu_second=0.0007),
    ),
)


def summed_rows(books: Books) -> dict[object, Amounts]:
    """The rows, summed by key."""
    sums: dict[object, Amounts] = {}
    for row in books.rows.values():
        for key, posting in row.items():
            sums[key] = sums.get(key, Amounts()) + posting
    return sums


def of_cost(books: Books, component: str) -> float:
    return math.fsum(posting.cost.get(component, 0.0) for posting in books.postings.values())


@given(stretches())
def test_rows_sum_to_the_counters(stretch: Stretch) -> None:
    books = play(ticks(stretch), POLICY)[-1]

    sums = summed_rows(books)
    assert sums.keys() == books.postings.keys()
    for key, posting in books.postings.items():
        assert flat(sums[key]) == pytest.approx(flat(posting), rel=1e-9, abs=1e-12)
        assert sums[key].unpriced_joules == pytest.approx(posting.unpriced_joules, rel=1e-9)


@given(stretches())
def test_rows_of_servers_sum_to_their_counters(stretch: Stretch) -> None:
    books = play(ticks(stretch), POLICY)[-1]

    sums: dict[tuple[str, str], Served] = {}
    for row in books.served.values():
        for key, served in row.items():
            sums[key] = sums.get(key, Served()) + served
    for name, account in books.servers.items():
        for (model, kind), tokens in account.tokens.items():
            got = sums[name, model].tokens.get(kind, 0.0) if (name, model) in sums else 0.0
            assert got == pytest.approx(tokens, rel=1e-9)
        for (model, reference), cost in account.reference_cost.items():
            assert sums[name, model].reference_cost.get(reference, 0.0) == pytest.approx(cost, rel=1e-9)


@given(stretches())
def test_time_lies_in_the_row_in_which_it_passed(stretch: Stretch) -> None:
    books = play(ticks(stretch), POLICY)[-1]
    end = START_WALL + math.fsum(moment.seconds for moment in stretch.moments)

    for start, row in books.rows.items():
        passed = min(end, start + ROW_SECONDS) - max(START_WALL, start)
        for gpu in stretch.gpus:
            seconds = math.fsum(posting.seconds for key, posting in row.items() if key.gpu == gpu.uuid)
            assert seconds == pytest.approx(max(0.0, passed), abs=1e-6)


@given(stretches())
def test_standing_charges_are_accrued_once_however_many_gpus_there_are(stretch: Stretch) -> None:
    books = play(ticks(stretch), POLICY)[-1]

    elapsed = math.fsum(moment.seconds for moment in stretch.moments)
    months = POLICY.months.between(START_WALL, START_WALL + elapsed)
    assert of_cost(books, "fixed") == pytest.approx(100.0 * months + 0.5 * elapsed / 86400.0, rel=1e-9)
    assert of_cost(books, "capacity") == pytest.approx(380.0 * months, rel=1e-9)


@given(stretches())
def test_the_demand_charge_is_the_accrued_peak(stretch: Stretch) -> None:
    """What is booked is what has accrued, down to what waits for the next joules."""
    books = play(ticks(stretch), POLICY)[-1]

    booked = {name: demand.booked_kw_months for name, demand in books.demand.items()}
    assert of_cost(books, "demand") == pytest.approx(
        12.0 * booked["demand"] + 5.0 * booked["above"], rel=1e-9, abs=1e-15
    )


@given(stretches())
def test_grams_are_facility_energy_times_the_intensity_of_its_moment(stretch: Stretch) -> None:
    constant = replace(POLICY, intensities=Carbon((250.0,), 1e9))
    books = play(ticks(stretch), constant)[-1]

    for posting in books.postings.values():
        grams = posting.emissions_grams.get("average_direct", 0.0)
        assert grams == pytest.approx(posting.facility_joules / 3.6e6 * 250.0, rel=1e-9)
        assert posting.unrated_joules == 0.0


@given(stretches())
def test_energy_has_an_intensity_or_is_counted_as_without(stretch: Stretch) -> None:
    books = play(ticks(stretch), replace(POLICY, intensities=Carbon((100.0, None), 4.0)))[-1]

    for posting in books.postings.values():
        rated = posting.emissions_grams.get("average_direct", 0.0) / 100.0 * 3.6e6
        assert rated + posting.unrated_joules == pytest.approx(posting.facility_joules, rel=1e-9, abs=1e-9)


# ------------------------------------------------------------------------------------------- demand, whatever comes late


@dataclass(frozen=True)
class EvenHours:
    """Charges that count every other hour."""

    def contains(self, month_start: float, at: float) -> bool:
        return at // 3600 % 2 == 0


PEAKS = (DemandRules(10.0), DemandRules(4.0, "even", hours=EvenHours()), DemandRules(7.0, "block", above_kw=0.9))


_QUIET = (0.0, (0.0, 0.0), (True, True))


@st.composite
def days_with_gaps(draw: st.DrawFn) -> tuple[float, list[tuple[float, tuple[float, float], tuple[bool, bool]]]]:
    """The start before the end of a month, and (seconds, watts of both GPUs, which of them answer)."""
    steps = st.tuples(
        st.sampled_from([100.0, 450.0, 900.0, 1700.0]),
        st.tuples(st.sampled_from([30.0, 80.0, 700.0]), st.sampled_from([40.0, 300.0, 650.0])),
        st.tuples(st.booleans(), st.booleans()),
    )
    return draw(st.sampled_from([3600.0, 40_000.0])), draw(st.lists(steps, min_size=2, max_size=40))


@settings(max_examples=examples(30), deadline=None)
@given(days_with_gaps())
@example((3600.0, [(100.0, (30.0, 40.0), (False, False))] * 2 + [(1700.0, (30.0, 40.0), (False, False))] * 2))
def test_law_peaks_are_those_of_the_quarter_hours_however_late_their_joules_come(
    given_days: tuple[float, list[tuple[float, tuple[float, float], tuple[bool, bool]]]],
) -> None:
    """Silent GPUs report their use when they answer again, over the end of a month too. The quarter-hours of
    the books are those of the meter: the highest of a month is its peak."""
    before_end, steps = given_days
    month_end = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
    wall, joules = month_end - before_end, [1e6, 2e6]
    first_read = wall
    gpus = tuple(Gpu(f"GPU-{i}", i, max_power_watts=1000.0) for i in range(2))
    policy = Policy(demand=PEAKS, currency="EUR")
    books, began = Books(), dict[str, float]()
    for seconds, watts, heard in [_QUIET, *steps, (60.0, (50.0, 50.0), (True, True))]:
        wall += seconds
        joules = [total + seconds * power for total, power in zip(joules, watts, strict=True)]
        samples = tuple(GpuSample(gpu.uuid, wall, joules[i], watts[i]) for i, gpu in enumerate(gpus) if heard[i])
        books = advance(books, Tick(Instant(wall, wall), AcceleratorReading(gpus, samples)), policy)
        for name, demand in books.demand.items():
            if demand.began_seconds is not None:
                # Use of a month and of the end of the last one, reported at once, is charged from the first reading on.
                began.setdefault(name, first_read if demand.earlier_peaks_watts else demand.began_seconds)

    used = {
        start: math.fsum(posting.facility_joules for posting in row.values()) / 900
        for start, row in books.rows.items()
        if start + 900 <= wall
    }
    months = BillingMonths()
    for rules in PEAKS:
        counting = {
            start: watts for start, watts in used.items() if rules.hours is None or rules.hours.contains(0, start)
        }
        peaks: dict[float, float] = {}
        for start, watts in counting.items():
            month, _ = months.bounds(start)
            peaks[month] = max(peaks.get(month, 0.0), watts)
        demand = books.demand[rules.name]
        expected = 0.0
        for month in {months.bounds(began[rules.name])[0], months.bounds(wall)[0]}:
            first, last = max(month, began[rules.name]), min(months.bounds(month)[1], wall)
            kw = max(0.0, peaks.get(month, 0.0) / 1000 - rules.above_kw)
            expected += kw * max(0.0, last - first) / (months.bounds(month)[1] - month)
        assert kw_months(demand, rules, wall) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_charge_that_is_gone_for_a_while_is_kept_for_its_month_and_no_longer() -> None:
    """A rate that cannot be read after a restart: its peak stands when it is back."""
    every = list(quarter_hours(8))
    with_demand = replace(LATE_TARIFF, demand=PEAKS)
    books = play(every[:40], with_demand)[-1]
    gone = play(every[40:60], LATE_TARIFF, books)[-1]
    assert gone.demand == books.demand
    back = play(every[60:], with_demand, gone)[-1]
    for rules in PEAKS:
        assert back.demand[rules.name].began_seconds == books.demand[rules.name].began_seconds
        assert back.demand[rules.name].peak_watts >= books.demand[rules.name].peak_watts
    last = every[-1]
    much_later = replace(last, at=Instant(last.at.monotonic_seconds + 40 * 86400, last.at.wall_seconds + 40 * 86400))
    assert advance(gone, much_later, LATE_TARIFF).demand == {}


# ------------------------------------------------------------------------------------------------- price by the month's kWh

TIERS = (Tier(0.30, 0.001), Tier(0.20, 0.004), Tier(0.25))
MONTH_END = START_WALL + 30.0
TIERED = PriceCurve.from_intervals(
    [
        PriceInterval(0.0, MONTH_END, 0.30, steps=steps_of(TIERS), month_start_seconds=0.0),
        PriceInterval(MONTH_END, 1e11, 0.30, steps=steps_of(TIERS), month_start_seconds=MONTH_END),
    ]
)


@given(stretches())
def test_the_months_kwh_cost_the_price_of_their_tiers(stretch: Stretch) -> None:
    """For any ticks, GPUs and order: each month costs the price of its tiers, from nothing on."""
    books = play(ticks(stretch), replace(POLICY, curve=TIERED))[-1]

    def costs(kwh: float) -> float:
        first, second = min(kwh, 0.001), min(max(0.0, kwh - 0.001), 0.003)
        return 0.30 * first + 0.20 * second + 0.25 * (kwh - first - second)

    expected = math.fsum(map(costs, books.month_kwh.values()))
    assert of_cost(books, "energy") == pytest.approx(expected, rel=1e-9)
    facility = math.fsum(posting.facility_joules for posting in books.postings.values())
    assert math.fsum(books.month_kwh.values()) * 3.6e6 == pytest.approx(facility, rel=1e-9)


@settings(max_examples=examples(30), deadline=None)
@given(
    st.sampled_from(
        [("Europe/Berlin", 1), ("America/Los_Angeles", 26), ("Australia/Lord_Howe", 5), ("Asia/Kathmandu", 1)]
    ),
    st.lists(
        st.tuples(st.sampled_from([900.0, 5400.0, 86_400.0, 201_600.0]), st.integers(20, 700)), min_size=20, max_size=40
    ),
)
def test_law_blocks_begin_anew_with_each_month_of_the_contracts_clock(
    contract: tuple[str, int], loads: list[tuple[float, int]]
) -> None:
    """Through the autumn, in which clocks are put back and forward: every month costs the blocks of its own kWh, to which
    each second belongs by the date on the contract's calendar."""
    timezone, billing_day = contract
    zone = ZoneInfo(timezone)
    start = datetime(2026, 9, 20, tzinfo=UTC).timestamp()
    total = math.fsum(seconds for seconds, _ in loads)
    blocks = [(60.0, 0.20), (150.0, 0.35)]
    prices = Layers(
        [Layer(Flat(0.30, [(60.0, -0.10), (150.0, 0.15)])), Layer(Flat(0.05))], BillingMonths(timezone, billing_day)
    )
    policy = Policy(currency="EUR", curve=PriceCurve.from_intervals(prices.intervals(start, start + total)))
    books, wall, joules = Books(), start, 1e6
    used: dict[tuple[int, int], float] = {}
    for seconds, watts in [(0.0, 0), *loads]:
        for piece in range(int(seconds // 900)):
            day = datetime.fromtimestamp(wall + piece * 900, UTC).astimezone(zone)
            month = (day.year, day.month - (1 if day.day < billing_day else 0))
            used[month] = used.get(month, 0.0) + watts * 900 / 3.6e6
        wall, joules = wall + seconds, joules + seconds * watts
        sample = GpuSample(GPU.uuid, wall, joules, float(watts))
        books = advance(books, Tick(Instant(wall, wall), AcceleratorReading((GPU,), (sample,))), policy)

    def costs(kwh: float) -> float:
        cost, lower, price = 0.0, 0.0, 0.30
        for beyond, following in [*blocks, (math.inf, 0.0)]:
            cost += max(0.0, min(kwh, beyond) - lower) * (price + 0.05)
            lower, price = beyond, following
        return cost

    assert of_cost(books, "energy") == pytest.approx(math.fsum(map(costs, used.values())), rel=1e-9, abs=1e-12)


# -------------------------------------------------------------------------------------------------------------- late prices

GPU = Gpu("GPU-0", 0, max_power_watts=1000.0)
LATE_TARIFF = Policy(currency="EUR", curve=PriceCurve())


def quarter_hours(count: int, watts: float = 500.0) -> Iterator[Tick]:
    """One GPU, read every 100 seconds from the start of a row on."""
    start = START_WALL // ROW_SECONDS * ROW_SECONDS
    for step in range(count * 9 + 1):
        at = step * 100.0
        yield Tick(
            Instant(START_MONOTONIC + at, start + at),
            AcceleratorReading((GPU,), (GpuSample(GPU.uuid, START_MONOTONIC + at, 1000.0 + watts * at, watts),)),
            owners={"s": Ownership("s", frozenset({GPU.uuid}), Attribution.CONFIGURED, model="m", has_counters=False)},
        )


def test_energy_without_a_price_is_priced_when_the_price_arrives() -> None:
    books = play(quarter_hours(4), LATE_TARIFF)[-1]
    start = min(books.rows)
    assert math.fsum(p.unpriced_joules for p in books.postings.values()) == pytest.approx(500.0 * 3600)
    assert of_cost(books, "energy") == 0.0
    assert unpriced_since(books) == start

    known = PriceCurve.from_intervals(
        [PriceInterval(start, start + 900, 0.2), PriceInterval(start + 900, start + 1800, -0.1)]
    )
    priced = price_late(books, replace(LATE_TARIFF, curve=known))
    assert of_cost(priced, "energy") == pytest.approx(500.0 * 900 / 3.6e6 * 0.2)
    (posting,) = priced.postings.values()
    assert posting.credit == pytest.approx(500.0 * 900 / 3.6e6 * 0.1)
    assert posting.late_priced_joules == pytest.approx(500.0 * 1800)
    assert posting.unpriced_joules == pytest.approx(500.0 * 3600), "what was unpriced is a counter: it stays"
    assert unpriced_since(priced) == start + 1800
    assert summed_rows(priced)[next(iter(priced.postings))].cost == pytest.approx(posting.cost)


def test_the_software_carbon_intensity_can_be_recomputed_by_hand() -> None:
    """(E x I + M) per R: an hour of one GPU at 500 W, PUE 1.2, 380 g/kWh, 42 g/kWh by contract, 30 g per GPU hour."""
    config = load(
        "carbon: {kind: static, grams_per_kwh: 380, basis: average_lifecycle}\n"
        "emissions: {market_grams_per_kwh: 42, embodied_grams_per_gpu_hour: 30}\n"
        "facility: {pue: 1.2, host_share: false}\n"
    )
    start = START_WALL // ROW_SECONDS * ROW_SECONDS
    feeds = Feeds(config, lambda name: SourceHealth(name, clock=float, wall=float), lambda: start)
    books = play(quarter_hours(4), policy(config, feeds.read_all(start)))[-1]
    [posting] = books.postings.values()
    kwh = 0.5 * 1.2
    assert posting.emissions_grams == pytest.approx(
        {"average_lifecycle": kwh * 380.0, "market_based": kwh * 42.0, "embodied": 30.0}
    )
    assert summed_rows(books)[next(iter(books.postings))].emissions_grams == pytest.approx(posting.emissions_grams)


def test_emissions_that_are_not_configured_are_not_counted() -> None:
    [posting] = play(quarter_hours(1), LATE_TARIFF)[-1].postings.values()
    assert posting.emissions_grams == {}


def test_energy_of_a_preliminary_price_is_booked_at_its_own_price_when_that_is_published() -> None:
    start = START_WALL // ROW_SECONDS * ROW_SECONDS
    published = PriceInterval(start, start + 900, 0.2)
    held = PriceInterval(start + 900, start + 8100, 0.2, PriceState.PRELIMINARY)
    policy = replace(LATE_TARIFF, curve=PriceCurve.from_intervals([published, held]))
    books = play(quarter_hours(4), policy)[-1]
    assert of_cost(books, "energy") == pytest.approx(500.0 * 900 / 3.6e6 * 0.2)
    assert unpriced_since(books) == start + 900
    assert price_late(books, policy) is books

    real = [published, PriceInterval(start + 900, start + 1800, 0.5), replace(held, start_seconds=start + 1800)]
    priced = price_late(books, replace(policy, curve=PriceCurve.from_intervals(real)))
    assert of_cost(priced, "energy") == pytest.approx(500.0 * 900 / 3.6e6 * (0.2 + 0.5))
    assert unpriced_since(priced) == start + 1800


def test_what_is_priced_late_is_priced_once() -> None:
    books = play(quarter_hours(2), LATE_TARIFF)[-1]
    policy = replace(LATE_TARIFF, curve=PriceCurve.from_intervals([PriceInterval(0.0, 1e11, 0.2)]))
    once = price_late(books, policy)
    assert price_late(once, replace(policy, curve=PriceCurve.from_intervals([PriceInterval(0.0, 1e11, 0.9)]))) is once
    assert of_cost(once, "energy") == pytest.approx(500.0 * 1800 / 3.6e6 * 0.2)


def test_a_late_price_is_no_cost_of_this_minutes_tokens_and_interrupts_no_ratio() -> None:
    """A feed that publishes each quarter-hour when it is over must not take the live ratios away four times an hour."""
    prices = PriceCurve.from_intervals([PriceInterval(START_WALL - 1000.0, START_WALL + 60.0, 0.2)])
    known = replace(LATE_TARIFF, curve=prices, window_seconds=1000.0, rates=(Rate("hardware", 0.0003),))
    books = play(quarter_hours(2), known)[-1]
    assert books.servers["s"].window[-1].amounts["m"].unpriced_joules > 0.0
    everything = replace(known, curve=PriceCurve.from_intervals([PriceInterval(0.0, 1e11, 0.2)]))
    priced = price_late(books, everything)
    assert of_cost(priced, "energy") > of_cost(books, "energy")

    def rises(books: Books) -> list[tuple[float, float, float, float]]:
        window = books.servers["s"].window
        first = window[0].amounts["m"]
        return [
            (
                sample.at_seconds,
                sample.amounts["m"].joules - first.joules,
                sample.amounts["m"].net_energy_cost - first.net_energy_cost,
                sample.amounts["m"].net_cost - first.net_cost,
            )
            for sample in window
        ]

    for before, after in zip(rises(books), rises(priced), strict=True):
        assert after == pytest.approx(before)
    following = play(list(quarter_hours(3))[19:20], everything, priced)[-1]
    costs = [one.servers["s"].window[-1].amounts["m"].net_energy_cost for one in (priced, following)]
    assert costs[1] - costs[0] == pytest.approx(500.0 * 100.0 / 3.6e6 * 0.2)


@given(st.lists(st.sampled_from([0.1, 0.3, -0.2, None]), min_size=4, max_size=4), st.lists(st.integers(0, 3)))
def test_law_prices_that_come_late_in_any_order_cost_what_they_cost_in_time(
    prices: list[float | None], order: list[int]
) -> None:
    """A feed that publishes quarter after quarter, late, ends with the cost of one in time."""
    start = START_WALL // ROW_SECONDS * ROW_SECONDS
    intervals = [
        PriceInterval(start + i * 900, start + (i + 1) * 900, price)
        for i, price in enumerate(prices)
        if price is not None
    ]
    in_time = play(quarter_hours(4), replace(LATE_TARIFF, curve=PriceCurve.from_intervals(intervals)))[-1]
    late = play(quarter_hours(4), LATE_TARIFF)[-1]
    for index in (*order, 0, 1, 2, 3):
        known = [interval for interval in intervals if interval.start_seconds == start + index * 900]
        late = price_late(late, replace(LATE_TARIFF, curve=PriceCurve.from_intervals(known)))
    for key, posting in in_time.postings.items():
        assert late.postings[key].cost.get("energy", 0.0) == pytest.approx(posting.cost.get("energy", 0.0))
        assert late.postings[key].credit == pytest.approx(posting.credit)


# --------------------------------------------------------------------------------------------------------------- open rows


def test_rows_are_kept_while_something_can_still_be_added() -> None:
    every = list(quarter_hours(12))
    priced = replace(LATE_TARIFF, curve=PriceCurve.from_intervals([PriceInterval(0.0, 1e11, 0.2)]))
    books = play(every, priced)[-1]
    assert len(books.rows) == 12
    kept = without_closed(books)
    assert sorted(kept.rows) == sorted(books.rows)[-1:]
    assert sorted(without_closed(play(every, LATE_TARIFF)[-1]).rows) == sorted(books.rows)

    silent = advance(
        kept,
        replace(every[-1], at=Instant(every[-1].at.monotonic_seconds + 7200, every[-1].at.wall_seconds + 7200),
                accelerators=AcceleratorReading((GPU,), ())),
        priced,
    )  # fmt: skip
    assert open_from(silent.gpus, silent.at.wall_seconds if silent.at else 0.0) == every[-1].at.wall_seconds
    assert min(without_closed(silent).rows) <= every[-1].at.wall_seconds


def test_a_clock_that_was_years_ahead_for_a_while_does_not_end_the_demand_charge() -> None:
    rules = DemandRules(price_per_kw_month=10.0)
    policy = replace(LATE_TARIFF, demand=(rules,))
    ahead = 12 * 365 * 86400.0
    books = play(
        (
            replace(tick, at=replace(tick.at, wall_seconds=tick.at.wall_seconds + (ahead if 10 < n < 20 else 0.0)))
            for n, tick in enumerate(quarter_hours(8, watts=700.0))
        ),
        policy,
    )[-1]
    assert books.at is not None
    assert peak_watts(books.demand["demand"], rules, books.at.wall_seconds) == pytest.approx(700.0)


def test_the_contracts_months_may_begin_on_another_day() -> None:
    policy = replace(
        LATE_TARIFF, standing_charges=(StandingCharge("fixed", per_month=30.0),), months=BillingMonths("UTC", 10)
    )
    books = play(quarter_hours(4), policy)[-1]
    start = START_WALL // ROW_SECONDS * ROW_SECONDS
    assert of_cost(books, "fixed") == pytest.approx(30.0 * BillingMonths("UTC", 10).between(start, start + 3600))
