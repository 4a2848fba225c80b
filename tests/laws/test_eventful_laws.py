"""The laws of the books where everything happens at once: lives of a node with restarts through the real file, reloads of
every rule in between, drivers that come late, clocks that are set, meters of the host that come and go.

What is held here is what a user sees: the page, tick by tick, and the rows on disk at the end.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings

from support.days import START_WALL, Stretch, eventful, flat, ticks
from support.examples import examples
from tpw.carbon import Intensity
from tpw.carbon.curve import IntensityCurve
from tpw.exposition.catalogue import Kind
from tpw.exposition.families import families
from tpw.ledger.advance import advance
from tpw.ledger.amounts import Amounts, Served
from tpw.ledger.books import Books
from tpw.ledger.rows import price_late
from tpw.ledger.tick import Policy
from tpw.model import Calibration, PriceInterval, Rate, Reference, StandingCharge, TokenKind
from tpw.snapshot import Prices, Snapshot
from tpw.store.files import FILE_NAME
from tpw.store.queries import rows_where, served_where
from tpw.store.sqlite import BooksFile
from tpw.tariff.curve import PriceCurve
from tpw.tariff.demand import DemandRules
from tpw.tariff.months import BillingMonths

MONTH_END = START_WALL + 40.0
TIERED = PriceCurve.from_intervals(
    PriceInterval(start, end, 0.30, steps=((0.0005, -0.12), (0.002, 0.05), (1.0, -0.4)), month_start_seconds=start)
    for start, end in ((START_WALL - 5e8, MONTH_END), (MONTH_END, START_WALL + 5e8))
)


def uneven() -> Iterator[tuple[float, float, int]]:
    """(start, end, number): steps of three seconds for a minute, of an hour for months before and after."""
    edges = [START_WALL + 3600.0 * hour for hour in range(-2400, 0)]
    edges += [START_WALL + 3.0 * step for step in range(20)]
    edges += [START_WALL + 60.0 + 3600.0 * hour for hour in range(9600)]
    yield from ((start, end, number) for number, (start, end) in enumerate(pairwise(edges)))


PRICES = (0.30, 0.10, -0.05, None)
GRAMS = (400.0, None, 20.0)
BASE = Policy(
    pue=1.3,
    currency="EUR",
    curve=PriceCurve.from_intervals(
        PriceInterval(start, end, price)
        for start, end, number in uneven()
        if (price := PRICES[number % len(PRICES)]) is not None
    ),
    rates=(Rate("hardware", 0.0003), Rate("hosting", 0.0001)),
    standing_charges=(
        StandingCharge("fixed", per_month=100.0, per_day=0.5),
        StandingCharge("capacity", per_month=380.0),
    ),
    demand=(DemandRules(12.0), DemandRules(5.0, "upper", above_kw=0.2, window_seconds=60.0, ratchet=0.5)),
    intensities=IntensityCurve.from_intervals(
        Intensity(start, end, grams)
        for start, end, number in uneven()
        if (grams := GRAMS[number % len(GRAMS)]) is not None
    ),
    carbon_basis="average_direct",
    references=(
        Reference("api", price_per_token={TokenKind.OUTPUT: 8e-7, TokenKind.INPUT: 6e-7}),
        Reference("rented", price_per_gpu_second=0.0007),
    ),
)
POLICIES = (
    BASE,
    replace(
        BASE,
        curve=TIERED,
        pue=1.1,
        months=BillingMonths("Europe/Berlin", 17),
        demand=(DemandRules(12.0, window_seconds=1800.0, months=BillingMonths("Europe/Berlin", 17)),),
    ),
    replace(
        BASE,
        curve=PriceCurve(),
        intensities=None,
        carbon_basis="",
        standing_charges=(),
        references=(),
        host_share=False,
    ),
    replace(
        BASE,
        curve=PriceCurve.from_intervals([PriceInterval(0.0, 1e11, 0.25)]),
        calibration={"GPU-0": Calibration(1.1, 5.0), "GPU-1": Calibration(0.9, -120.0)},
        carbon_basis="marginal_direct",
        demand=(),
    ),
    Policy(),
)
"""What a reload may put in force: the last is a configuration with nothing in it."""

Sample = tuple[str, tuple[str, ...]]


def lived(stretch: Stretch, directory: Path) -> Iterator[Books]:
    """The books after every tick, each as it was written."""
    clock = [START_WALL]

    def opened() -> BooksFile:
        return BooksFile(directory, lambda: clock[0])

    file = opened()
    books = file.load()
    moments = (stretch.moments[0], *stretch.moments)
    for moment, tick in zip(moments, ticks(stretch), strict=True):
        clock[0] = tick.at.wall_seconds
        if moment.restart:
            file.close()
            file = opened()
            books = file.load()
        policy = POLICIES[moment.policy]
        books = file.save(advance(price_late(books, policy), tick, policy))
        yield books
    file.close()


def page(books: Books) -> dict[Sample, float]:
    """Every sample of the page. Raises where one must not leave: twice, not finite, not in the catalogue."""
    assert books.at is not None
    shown: dict[Sample, float] = {}
    snapshot = Snapshot(books.at, books, prices=Prices(books.currency))
    for metric, samples in families(snapshot):
        for labels, value in samples:
            shown[metric.name, labels] = value
            assert value >= 0.0 or metric.kind is Kind.GAUGE, metric.name
    return shown


def gathered(shown: dict[Sample, float], name: str, *places: int) -> dict[tuple[str, ...], float]:
    """One metric, summed over all labels but those at these places."""
    sums: dict[tuple[str, ...], list[float]] = {}
    for (metric, labels), value in shown.items():
        if metric == name:
            sums.setdefault(tuple(labels[place] for place in places), []).append(value)
    return {labels: math.fsum(values) for labels, values in sums.items()}


@settings(max_examples=examples(40), deadline=None)
@given(eventful(policies=len(POLICIES)))
def test_whatever_happens_no_counter_of_the_page_falls_and_parts_sum_to_the_whole(
    tmp_path_factory: pytest.TempPathFactory, stretch: Stretch
) -> None:
    last: dict[Sample, float] = {}
    for books in lived(stretch, tmp_path_factory.mktemp("books")):
        shown = page(books)
        for sample, value in last.items():
            if sample[0].endswith("_total") and sample in shown:
                assert shown[sample] >= value, sample
        last.update(shown)

        # Law 1, to the last bit; law 2, for energy, facility and all money.
        by_gpu = {uuid: value for (_, uuid), value in gathered(shown, "tpw_gpu_energy_joules_total", 0, 1).items()}
        assert gathered(shown, "tpw_gpu_state_energy_joules_total", 1) == pytest.approx(
            {(uuid,): value for uuid, value in by_gpu.items()}, rel=1e-15
        )
        idle = math.fsum(
            value
            for (name, labels), value in shown.items()
            if name == "tpw_gpu_state_energy_joules_total" and labels[2] in ("idle", "other")
        )
        of_servers = gathered(shown, "tpw_server_energy_joules_total").get((), 0.0)
        others = gathered(shown, "tpw_gpu_state_energy_joules_total", 2).get(("other",), 0.0)
        workloads = gathered(shown, "tpw_workload_energy_joules_total").get((), 0.0)
        assert workloads == pytest.approx(others, rel=1e-9, abs=1e-9)
        assert of_servers + idle == pytest.approx(math.fsum(by_gpu.values()), rel=1e-9, abs=1e-9)
        money = gathered(shown, "tpw_gpu_state_cost_total", 3)
        by_state = gathered(shown, "tpw_gpu_state_cost_total", 2, 3)
        idle_money = {
            component: by_state.get(("idle", *component), 0.0) + by_state.get(("other", *component), 0.0)
            for component in money
        }
        of_servers_money = gathered(shown, "tpw_server_cost_total", 3)
        for component, cost in money.items():
            parts = idle_money.get(component, 0.0) + of_servers_money.get(component, 0.0)
            assert parts == pytest.approx(cost, rel=1e-9, abs=1e-12)


@settings(max_examples=examples(40), deadline=None)
@given(eventful(policies=len(POLICIES)))
def test_whatever_happens_rows_on_disk_sum_to_the_counters(
    tmp_path_factory: pytest.TempPathFactory, stretch: Stretch
) -> None:
    directory = tmp_path_factory.mktemp("books")
    books = list(lived(stretch, directory))[-1]
    with closing(sqlite3.connect(directory / FILE_NAME)) as connection, connection:
        rows = rows_where(connection, "1", ())
        served = served_where(connection, "1", ())
    connection.close()

    sums: dict[object, Amounts] = {}
    for row in rows.values():
        for key, posting in row.items():
            sums[key] = sums.get(key, Amounts()) + posting
    assert sums.keys() == books.postings.keys()
    for key, posting in books.postings.items():
        of_rows = sums[key]
        assert numbers(of_rows) == pytest.approx(numbers(posting), rel=1e-9, abs=1e-9)
        waiting = posting.unpriced_joules - posting.late_priced_joules
        assert of_rows.unpriced_joules == pytest.approx(waiting, rel=1e-9, abs=1e-6)
    work: dict[tuple[str, str], Served] = {}
    for of_server in served.values():
        for who, served in of_server.items():
            work[who] = work.get(who, Served()) + served
    for name, account in books.servers.items():
        for (model, kind), tokens in account.tokens.items():
            assert work.get((name, model), Served()).tokens.get(kind, 0.0) == pytest.approx(tokens, rel=1e-9)
        for (model, reference), cost in account.reference_cost.items():
            assert work[name, model].reference_cost.get(reference, 0.0) == pytest.approx(cost, rel=1e-9)


def numbers(posting: Amounts) -> dict[str, float]:
    """Every number of a posting that rows have in the same sense."""
    return {**flat(posting), "late": posting.late_priced_joules}


@settings(max_examples=examples(40), deadline=None)
@given(eventful(policies=len(POLICIES)))
def test_every_joule_and_second_of_a_gpu_is_booked_once_in_any_course_of_events(
    tmp_path_factory: pytest.TempPathFactory, stretch: Stretch
) -> None:
    """Except for calibrated GPUs, for a clock that was set back over a restart (its length is unknown), and for the first
    reading of a GPU."""
    forward = replace(
        stretch,
        moments=tuple(replace(moment, clock_step=max(0.0, moment.clock_step)) for moment in stretch.moments),
    )
    books = list(lived(forward, tmp_path_factory.mktemp("books")))[-1]
    steps = [moment.clock_step for moment in forward.moments]
    corrected = {uuid for moment in forward.moments for uuid in POLICIES[moment.policy].calibration}
    for i, gpu in enumerate(forward.gpus):
        read = [moment.heard[i] and (not moment.reports or moment.reports[i]) for moment in forward.moments]
        last = max((n for n, was_read in enumerate(read) if was_read), default=-1)
        of_gpu = [posting for key, posting in books.postings.items() if key.gpu == gpu.uuid]
        if gpu.uuid not in corrected:
            expected = math.fsum(moment.joules[i] for moment in forward.moments[: last + 1])
            assert math.fsum(posting.joules for posting in of_gpu) == pytest.approx(expected, rel=1e-9, abs=1e-6)
        reported = [n for n, moment in enumerate(forward.moments) if not moment.reports or moment.reports[i]]
        if not any(steps):
            passed = math.fsum(moment.seconds for moment in forward.moments[: max(reported, default=-1) + 1])
            assert math.fsum(posting.seconds for posting in of_gpu) == pytest.approx(passed, rel=1e-9, abs=1e-4)


@settings(max_examples=examples(40), deadline=None)
@given(eventful(policies=1))
def test_whatever_happens_contracts_charge_what_their_time_and_peaks_come_to(
    tmp_path_factory: pytest.TempPathFactory, stretch: Stretch
) -> None:
    """Under one contract, and a clock that is not set: standing charges are those of the time that somebody shared, and the
    charge for peaks is what has accrued."""
    steady = replace(stretch, moments=tuple(replace(moment, clock_step=0.0) for moment in stretch.moments))
    books = list(lived(steady, tmp_path_factory.mktemp("books")))[-1]
    costs: dict[str, float] = {}
    for posting in books.postings.values():
        for component, cost in posting.cost.items():
            costs[component] = costs.get(component, 0.0) + cost
    shared = [n for n, moment in enumerate(steady.moments) if not moment.reports or any(moment.reports)]
    passed = math.fsum(moment.seconds for moment in steady.moments[: max(shared, default=-1) + 1])
    months = BASE.months.between(START_WALL, START_WALL + passed)
    assert costs.get("fixed", 0.0) == pytest.approx(100.0 * months + 0.5 * passed / 86400.0, rel=1e-6, abs=1e-9)
    assert costs.get("capacity", 0.0) == pytest.approx(380.0 * months, rel=1e-6, abs=1e-9)
    accrued = math.fsum(
        rules.price_per_kw_month * books.demand[rules.name].booked_kw_months
        for rules in BASE.demand
        if rules.name in books.demand
    )
    assert costs.get("demand", 0.0) == pytest.approx(accrued, rel=1e-9, abs=1e-12)
