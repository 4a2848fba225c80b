"""The law of a site: what its nodes book of the contract sums to the bill of the site, whatever they share it by."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.examples import examples
from tpw.ledger.advance import advance
from tpw.ledger.amounts import JOULES_PER_KWH
from tpw.ledger.books import ROW_SECONDS, Books
from tpw.ledger.site import Site
from tpw.ledger.tick import Policy, Tick
from tpw.model import AcceleratorReading, Gpu, GpuSample, Instant, PriceInterval, StandingCharge
from tpw.tariff.demand import DemandRules
from tpw.tariff.months import BillingMonths

START = 1_790_812_800.0
"""2026-10-01T00:00:00Z."""
MONTH_SECONDS = 31 * 86400.0
FIXED, CAPACITY, DEMAND_PRICE, PRICE, PUE = 3897.40, 512.0, 14.2, 0.25, 1.25

Watts = list[list[float]]
"""Of each node, by quarter-hour; over all its GPUs."""


class Flat:
    def pieces(self, start: float, end: float) -> list[tuple[float, float, PriceInterval]]:
        return [(start, end, PriceInterval(start, end, PRICE))]


POLICY = Policy(
    interval_seconds=ROW_SECONDS,
    pue=PUE,
    currency="EUR",
    curve=Flat(),
    months=BillingMonths(),
    demand=(DemandRules(DEMAND_PRICE),),
    standing_charges=(StandingCharge("fixed", FIXED), StandingCharge("capacity", CAPACITY)),
)


def used(watts: Watts, quarter: int) -> float:
    """Facility joules of all nodes in a quarter-hour."""
    return math.fsum(node[quarter] for node in watts) * ROW_SECONDS * PUE


def node(number: int, gpus: int, watts: list[float], site: list[Site | None]) -> Books:
    """The books of one node after all quarters."""
    mine = tuple(Gpu(f"GPU-{number}-{index}", index) for index in range(gpus))
    joules, books = 1e6, Books()
    for quarter in range(len(watts) + 1):
        at = START + ROW_SECONDS * quarter
        joules += watts[quarter - 1] * ROW_SECONDS / gpus if quarter else 0.0
        reading = AcceleratorReading(mine, tuple(GpuSample(gpu.uuid, at, joules, watts[0] / gpus) for gpu in mine))
        books = advance(books, Tick(Instant(at, at), reading), replace(POLICY, site=site[quarter]))
    return books


def booked(watts: Watts, gpus: list[int], by: str) -> dict[str, float]:
    """What all nodes have booked, by component."""
    spans = [(START + ROW_SECONDS * q, START + ROW_SECONDS * (q + 1), used(watts, q)) for q in range(len(watts[0]))]
    sums: dict[str, float] = {}
    for number, (mine, own) in enumerate(zip(gpus, watts, strict=True)):
        quantity, total = {
            "gpu": (None, float(sum(gpus))),
            "kw": (float(number + 1), len(gpus) * (len(gpus) + 1) / 2),
            "energy": (None, None),
        }[by]
        sites: list[Site | None] = [
            # What the site used is known a while after a quarter has ended.
            Site("s", by, quantity, total, tuple(spans[: max(0, quarter - 1)]))
            for quarter in range(len(own) + 1)
        ]
        for posting in node(number, mine, own, sites).postings.values():
            for component, cost in posting.cost.items():
                sums[component] = sums.get(component, 0.0) + cost
    return sums


def assert_is_the_bill(found: dict[str, float], watts: Watts) -> None:
    """Of the quarters that have passed, from the first tick on."""
    quarters = len(watts[0])
    part = quarters * ROW_SECONDS / MONTH_SECONDS
    peak = max(used(watts, quarter) for quarter in range(quarters - 1)) / ROW_SECONDS / 1000.0
    kwh = math.fsum(used(watts, quarter) for quarter in range(quarters)) / JOULES_PER_KWH
    assert found["fixed"] == pytest.approx(FIXED * part, rel=1e-9)
    assert found["capacity"] == pytest.approx(CAPACITY * part, rel=1e-9)
    assert found["demand"] == pytest.approx(DEMAND_PRICE * peak * part, rel=1e-9)
    assert found["energy"] == pytest.approx(PRICE * kwh, rel=1e-9)


@pytest.mark.parametrize("by", ["gpu", "kw", "energy"])
def test_a_hundred_nodes_book_the_bill_of_their_site_once(by: str) -> None:
    """Peaks of the nodes are at different times: that of the site is less than their sum."""
    watts = [[300.0 + 7.0 * ((5 * number + 11 * quarter) % 60) for quarter in range(8)] for number in range(100)]
    gpus = [1 + number % 3 for number in range(100)]

    assert_is_the_bill(booked(watts, gpus, by), watts)

    peaks = math.fsum(max(own) for own in watts)
    assert max(used(watts, quarter) for quarter in range(8)) < 0.9 * peaks * ROW_SECONDS * PUE


@settings(max_examples=examples(12))
@given(data=st.data(), by=st.sampled_from(["gpu", "kw", "energy"]), nodes=st.integers(1, 6), quarters=st.integers(3, 6))
def test_the_parts_of_any_nodes_sum_to_the_bill(data: st.DataObject, by: str, nodes: int, quarters: int) -> None:
    levels = st.lists(st.floats(100.0, 450.0), min_size=quarters, max_size=quarters)
    gpus = data.draw(st.lists(st.integers(1, 4), min_size=nodes, max_size=nodes))
    watts = [[watts * count for watts in data.draw(levels)] for count in gpus]
    assert_is_the_bill(booked(watts, gpus, by), watts)


def alone(site: list[Site | None], quarters: int = 6) -> Books:
    return node(0, 2, [500.0 + 10.0 * quarter for quarter in range(quarters)], site)


def cost(books: Books, component: str) -> float:
    return math.fsum(posting.cost.get(component, 0.0) for posting in books.postings.values())


def test_one_node_alone_books_all_of_it() -> None:
    as_before, as_site = alone([None] * 7), alone([Site("s", "gpu", None, 2.0)] * 7)
    assert cost(as_before, "fixed") == pytest.approx(FIXED * 6 * ROW_SECONDS / MONTH_SECONDS, rel=1e-9)
    assert cost(as_site, "fixed") == pytest.approx(cost(as_before, "fixed"), rel=1e-12)


def test_charges_wait_until_the_share_is_known_and_none_is_lost() -> None:
    unknown, known = Site("s", "gpu", None, None), Site("s", "gpu", None, 8.0)
    waiting = alone([unknown] * 7)
    assert cost(waiting, "fixed") == cost(waiting, "demand") == 0.0
    assert cost(waiting, "energy") > 0.0
    late = alone([unknown] * 4 + [known] * 3)
    assert cost(late, "fixed") == pytest.approx(FIXED * 6 * ROW_SECONDS / MONTH_SECONDS / 4.0, rel=1e-9)


def test_a_node_is_charged_from_its_beginning_by_the_peak_that_the_month_has() -> None:
    """The site was at 90 kW before the node was there."""
    earlier = (START - 1.0, START, 0.0), (START, START + ROW_SECONDS, 90e3 * ROW_SECONDS)
    begun = START + 2 * ROW_SECONDS
    site = Site("s", "gpu", 1.0, 10.0, earlier[1:])
    gpu, joules, books = Gpu("g", 0), 1e6, Books()
    for quarter in range(2, 6):
        at = START + quarter * ROW_SECONDS
        joules += 1e5
        reading = AcceleratorReading((gpu,), (GpuSample("g", at, joules, 100.0),))
        books = advance(books, Tick(Instant(at, at), reading), replace(POLICY, site=site))
    elapsed = START + 5 * ROW_SECONDS - begun
    assert cost(books, "demand") == pytest.approx(DEMAND_PRICE * 90.0 * elapsed / MONTH_SECONDS / 10.0, rel=1e-9)


def test_steps_of_a_price_follow_the_energy_of_the_site() -> None:
    """Beyond 1000 kWh of the site the price doubles; this node has used next to nothing."""

    class Stepped:
        def pieces(self, start: float, end: float) -> list[tuple[float, float, PriceInterval]]:
            interval = PriceInterval(start, end, PRICE, steps=((1000.0, PRICE),), month_start_seconds=START)
            return [(start, end, interval)]

    def energy(site: Site | None) -> float:
        reading = AcceleratorReading((Gpu("g", 0),), (GpuSample("g", START, 1e6, 100.0),))
        policy = replace(POLICY, curve=Stepped(), site=site)
        books = advance(Books(), Tick(Instant(START, START), reading), policy)
        later = AcceleratorReading((Gpu("g", 0),), (GpuSample("g", START + 900.0, 1e6 + 9e4, 100.0),))
        return cost(advance(books, Tick(Instant(START + 900.0, START + 900.0), later), policy), "energy")

    span = ((START - 900.0, START, 1.0),)
    below, beyond = Site("s", "gpu", 1, 9, span, {START: 900.0}), Site("s", "gpu", 1, 9, span, {START: 1200.0})
    assert energy(beyond) == pytest.approx(2 * energy(below), rel=1e-9)
    assert energy(None) == energy(below)
