"""Demand and fixed charges of a rate."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.examples import examples
from tpw.config import load
from tpw.http.messages import Answer, Request
from tpw.model import Reason, SourceError, StandingCharge
from tpw.snapshot import DemandNow, demand_now
from tpw.tariff.context import FeedContext
from tpw.tariff.contract import Contract
from tpw.tariff.demand import Demand, DemandRules, billed_kw, close_windows, kw_months, record
from tpw.tariff.layers import Layers
from tpw.tariff.months import BillingMonths
from tpw.tariff.urdb import UrdbReader, parse
from tpw.tariff.urdb_charges import contract_of

CAPTURE = Path(__file__).parents[2] / "captures" / "tariff" / "urdb-smud-ci-tod4-2025.json"
ZONE = "America/Los_Angeles"
MONTHS = BillingMonths(ZONE)
BOTH = frozenset({"demand", "fixed"})


def item(**changes: object) -> str:
    found: dict[str, Any] = json.loads(CAPTURE.read_text())["items"][0]
    return json.dumps({**found, **changes})


def charges(months: BillingMonths = MONTHS, wanted: frozenset[str] = BOTH, **changes: object) -> Contract:
    return contract_of(parse(item(**changes)), wanted, months, ZONE)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(ZONE)).timestamp()


def month_of(rules: tuple[DemandRules, ...], begin: str, end: str, *loads: tuple[str, float]) -> dict[str, float]:
    """The bill of each charge for a month with a quarter-hour of so many kW at each of these moments."""
    bills = {}
    for charge in rules:
        state = record(Demand(), charge, at(begin), at(begin) + 900, 0.0)
        for moment, kw in loads:
            state = record(state, charge, at(moment), at(moment) + 900, kw * 1000 * 900)
        state = close_windows(state, charge, at(end))
        bills[charge.name.removeprefix("68c0cb49d7afaa668b0dc6fc ")] = (
            kw_months(state, charge, at(end)) * charge.price_per_kw_month
        )
    return bills


def test_rate_of_smud_charges_the_peak_and_the_peak_of_summer_afternoons() -> None:
    contract = charges()
    assert contract.standing_charges == (StandingCharge("fixed", per_month=3897.4),)
    assert [(charge.price_per_kw_month, charge.window_seconds) for charge in contract.demand] == [
        (5.539, 900.0),
        (11.609, 900.0),
    ]
    loads = [("2026-07-08T11:00", 1500.0), ("2026-07-14T17:00", 1200.0), ("2026-07-18T17:00", 1300.0)]
    bills = month_of(contract.demand, "2026-07-01", "2026-08-01", *loads)
    assert bills == pytest.approx({"peak 0": 1500 * 5.539, "period 1": 1200 * 11.609})
    january = [(moment.replace("07-", "01-"), kw) for moment, kw in loads]
    bills = month_of(contract.demand, "2026-01-01", "2026-02-01", *january)
    assert bills == pytest.approx({"peak 0": 1500 * 5.539, "period 1": 0.0})


@pytest.mark.parametrize(
    ("keys", "text", "per_month"),
    [
        ({"mincharge": 250.0, "minchargeunits": "$/month"}, "mincharge: 250 $/month", 250.0),
        ({"mincharge": 8.5, "minchargeunits": "$/day"}, "mincharge: 8.5 $/day", 8.5 * 365 / 12),
        ({"mincharge": 250}, "mincharge: 250 without a unit", 0.0),
        ({"minMonthlyCharge": "118.25"}, "minmonthlycharge: 118.25 $/month", 118.25),
        ({"annualmincharge": 3000}, "annualmincharge: 3000 $/year", 250.0),
    ],
)
@pytest.mark.parametrize("wanted", [frozenset(), BOTH])
def test_a_minimum_bill_is_excluded_and_named(
    keys: dict[str, object], text: str, per_month: float, wanted: frozenset[str]
) -> None:
    reader = UrdbReader(
        lambda: item(**keys).encode(), "a rate", ZONE, charges=lambda rate: contract_of(rate, wanted, MONTHS, ZONE)
    )
    reader.read(at("2026-07-01"), at("2026-07-02"))
    (words,) = reader.contract.excluded
    assert f"a minimum bill ({text})" in words
    assert reader.contract.minimum_per_month == pytest.approx(per_month)
    assert replace(reader.contract, excluded=(), minimum_per_month=0.0) == charges(wanted=wanted)


@pytest.mark.parametrize("keys", [{}, {"mincharge": 0, "minchargeunits": "$/month"}, {"mincharge": None}])
def test_a_rate_without_a_minimum_bill_excludes_nothing(keys: dict[str, object]) -> None:
    assert parse(item(**keys)).excluded == ()


def test_a_cached_rate_keeps_its_excluded_charges(tmp_path: Path) -> None:
    kept = tmp_path / "rate.json"
    rate = item(mincharge=250, minchargeunits="$/month")

    def reader(body: bytes) -> UrdbReader:
        contract = partial(contract_of, wanted=BOTH, months=MONTHS, timezone=ZONE)
        return UrdbReader(lambda: body, "a rate", ZONE, charges=contract, rate_cache=kept)

    first = reader(rate.encode())
    first.read(at("2026-07-01"), at("2026-07-02"))
    assert len(first.contract.excluded) == 1
    assert reader(b"").contract == first.contract


def test_only_the_included_charges_are_read() -> None:
    assert charges(wanted=frozenset()) == Contract()
    assert charges(wanted=frozenset({"fixed"})).demand == ()
    assert charges(wanted=frozenset({"demand"})).standing_charges == ()


def test_each_block_of_kw_has_its_price() -> None:
    """24.368 for the first 100 kW and 17.031 beyond: 250 kW are 2436.80 and 2554.65."""
    tiers = [{"rate": 24.0, "adj": 0.368, "max": 100}, {"rate": 17.031}]
    rules = charges(flatdemandstructure=[tiers], demandratestructure=None).demand
    bills = month_of(rules, "2026-03-01", "2026-04-01", ("2026-03-09T09:00", 250.0))
    assert bills == pytest.approx({"peak 0 block 0": 2436.80, "peak 0 block 1": 150 * 17.031})
    bills = month_of(rules, "2026-03-01", "2026-04-01", ("2026-03-09T09:00", 60.0))
    assert bills == pytest.approx({"peak 0 block 0": 60 * 24.368, "peak 0 block 1": 0.0})


def test_a_billing_month_has_the_season_of_the_calendar_month_in_which_it_begins() -> None:
    """The winter price until 15 June, then the summer price: no peak is charged twice."""
    months = BillingMonths(ZONE, 15)
    rules = charges(
        months,
        flatdemandstructure=[[{"rate": 5.0}], [{"rate": 8.0}]],
        flatdemandmonths=[0] * 5 + [1] * 4 + [0] * 3,
        demandratestructure=None,
    ).demand
    loads = [("2026-05-20T09:00", 100.0), ("2026-06-10T09:00", 120.0)]
    assert month_of(rules, "2026-05-15", "2026-06-15", *loads) == pytest.approx({"peak 0": 600.0, "peak 1": 0.0})
    loads = [("2026-06-20T09:00", 100.0)]
    assert month_of(rules, "2026-06-15", "2026-07-15", *loads) == pytest.approx({"peak 0": 0.0, "peak 1": 800.0})


def test_hours_have_the_same_season() -> None:
    """Afternoons are charged from June on: none in the billing month from 15 May, all in that from 15 June."""
    months = BillingMonths(ZONE, 15)
    rules = charges(months, flatdemandstructure=None).demand
    loads = [("2026-06-10T17:00", 120.0)]
    assert month_of(rules, "2026-05-15", "2026-06-15", *loads) == pytest.approx({"period 1": 0.0})
    loads = [("2026-06-16T17:00", 100.0), ("2026-07-10T17:00", 110.0)]
    assert month_of(rules, "2026-06-15", "2026-07-15", *loads) == pytest.approx({"period 1": 110 * 11.609})
    loads = [("2026-10-01T17:00", 130.0)]
    assert month_of(rules, "2026-09-15", "2026-10-15", *loads) == pytest.approx({"period 1": 130 * 11.609})


def test_holidays_have_the_hours_of_a_weekend() -> None:
    christmas = date(2026, 7, 14)
    rules = contract_of(parse(item()), BOTH, MONTHS, ZONE, {christmas}.__contains__).demand
    bills = month_of(rules, "2026-07-01", "2026-08-01", ("2026-07-14T17:00", 1200.0), ("2026-07-15T17:00", 800.0))
    assert bills["period 1"] == pytest.approx(800 * 11.609)


@pytest.mark.parametrize(
    ("unit", "charge", "expected"),
    [
        ("$/month", 30.0, StandingCharge("fixed", per_month=30.0)),
        ("$/year", 120.0, StandingCharge("fixed", per_month=10.0)),
        ("$/day", 0.5, StandingCharge("fixed", per_day=0.5)),
    ],
)
def test_fixed_charge_in_each_unit(unit: str, charge: float, expected: StandingCharge) -> None:
    found = charges(wanted=frozenset({"fixed"}), fixedchargefirstmeter=charge, fixedchargeunits=unit)
    assert found.standing_charges == (expected,)


@pytest.mark.parametrize(
    ("changes", "words", "included"),
    [
        ({"flatDemandUnits": "kVA"}, "per kVA", (0, 1, 1)),
        ({"demandrateunit": "kVA"}, "11,609.00 a month for 1000 kW", (1, 0, 1)),
        ({"demandwindow": 0.15}, "0.15 minutes", (0, 0, 1)),
        ({"demandrateunit": "kW daily"}, "per kW daily", (1, 0, 1)),
        ({"demandratchetpercentage": [0.0] * 11 + [0.5]}, "a ratchet", (0, 0, 1)),
        ({"lookbackpercent": 0.8}, "earlier peaks", (0, 0, 1)),
        ({"flatdemandstructure": [[{"rate": -1.0}]]}, "credits 1 for", (0, 1, 1)),
        ({"flatdemandmonths": None}, "cannot be read", (0, 0, 1)),
        ({"demandratestructure": [[{}], [{"rate": 3.0}]]}, "period 0 has no rate in tier 0", (0, 0, 1)),
        ({"fixedchargeunits": "$/furlong"}, "$/furlong", (1, 1, 0)),
        ({"fixedchargeunits": ""}, "without a unit", (1, 1, 0)),
    ],
)
def test_a_charge_with_unsupported_terms_is_excluded_and_named_and_the_others_are_included(
    changes: dict[str, object], words: str, included: tuple[int, int, int]
) -> None:
    found = charges(**changes)
    assert any(words in sentence for sentence in found.excluded)
    peaks = [charge.name.split()[1] for charge in found.demand]
    assert (peaks.count("peak"), peaks.count("period"), len(found.standing_charges)) == included
    assert charges(wanted=frozenset(), **changes) == Contract()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"coincidentratestructure": [[{"rate": 3.0}]]}, "3,000.00 for 1000 kW at that peak"),
        ({"demandreactivepowercharge": 0.3}, "145.30 for 1000 kW"),
        ({"demandReactPwrCharge": "0.3"}, "145.30 for 1000 kW"),
    ],
)
def test_charges_beside_the_kw_of_the_month_are_named_and_change_no_other(
    changes: dict[str, object], words: str
) -> None:
    (sentence,) = parse(item(**changes)).excluded
    assert words in sentence
    assert charges(**changes) == charges()


def test_demand_in_kva_at_a_power_factor_and_in_horsepower() -> None:
    """90 kW are 100 kVA or 120.69 hp."""
    tiers = [{"rate": 10.0, "max": 50}, {"rate": 4.0}]
    kva = parse(item(flatdemandstructure=[tiers], flatDemandUnits="kVA", demandratestructure=None))
    rules = contract_of(kva, BOTH, MONTHS, ZONE, power_factor=0.9).demand
    bills = month_of(rules, "2026-03-01", "2026-04-01", ("2026-03-09T09:00", 90.0))
    assert bills == pytest.approx({"peak 0 block 0": 50 * 10.0, "peak 0 block 1": 50 * 4.0})
    rules = charges(flatdemandstructure=[tiers], flatDemandUnits="hp", demandratestructure=None).demand
    bills = month_of(rules, "2026-03-01", "2026-04-01", ("2026-03-09T09:00", 90.0))
    assert sum(bills.values()) == pytest.approx(50 * 10.0 + (90 / 0.745699872 - 50) * 4.0)


@pytest.mark.parametrize("nothing", [{"demandratchetpercentage": [0.0] * 12}, {"coincidentratestructure": [[{}]]}])
def test_terms_of_zero_are_accepted(nothing: dict[str, object]) -> None:
    assert len(charges(**nothing).demand) == 2


# ------------------------------------------------------------------------------------------ through the file, over restarts


class World:
    """A service that can be down."""

    def __init__(self) -> None:
        self.now = at("2026-07-14T12:00")
        self.body: bytes | None = CAPTURE.read_bytes()

    def fetch(self, request: Request) -> Answer:
        if self.body is None:
            raise SourceError(Reason.UNREACHABLE, "nobody there")
        return Answer(200, self.body)

    def source(self, directory: Path, charged: str = "[demand, fixed]", more: str = "") -> Layers:
        (directory / "key").write_text("k")
        text = f"""
            tariff:
              currency: USD
              timezone: {ZONE}
              vat: 0.10
              energy: {{kind: urdb, label: 68c0cb49d7afaa668b0dc6fc, api_key_file: key, charges: {charged}{more}}}
        """
        found = load(text, str(directory / "tpw.yaml")).tariff.prices(
            FeedContext(lambda: self.now, self.fetch, directory / "prices", 0.0)
        )
        assert found is not None
        return found


def test_charges_include_value_added_tax(tmp_path: Path) -> None:
    world = World()
    source = world.source(tmp_path)
    assert source.contract == Contract()
    source.intervals(world.now, world.now + 60)
    assert [charge.price_per_kw_month for charge in source.contract.demand] == pytest.approx(
        [5.539 * 1.1, 11.609 * 1.1]
    )
    assert source.contract.standing_charges == (StandingCharge("fixed", per_month=pytest.approx(3897.4 * 1.1)),)
    included = world.source(tmp_path, more=", includes_vat: true")
    included.intervals(world.now, world.now + 60)
    assert included.contract.standing_charges == (StandingCharge("fixed", per_month=3897.4),)
    without = world.source(tmp_path, charged="[]")
    without.intervals(world.now, world.now + 60)
    assert without.contract == Contract()


def test_charges_are_known_after_a_restart_while_the_service_is_down(tmp_path: Path) -> None:
    world = World()
    first = world.source(tmp_path)
    first.intervals(world.now, world.now + 60)
    world.body = None
    again = world.source(tmp_path)
    assert [replace(charge, hours=None) for charge in again.contract.demand] == [
        replace(charge, hours=None) for charge in first.contract.demand
    ]
    assert again.intervals(world.now, world.now + 60)
    assert again.error is None  # a restart is no reason to ask again
    world.now += 1.5 * 86400
    assert again.intervals(world.now, world.now + 60)
    assert again.error is not None
    assert len(again.contract.demand) == 2


def test_energy_has_its_price_where_another_charge_is_not_supported(tmp_path: Path) -> None:
    world = World()
    world.body = item(demandrateunit="kVA").encode()
    source = world.source(tmp_path)
    assert source.intervals(world.now, world.now + 60)
    assert source.error is None
    assert "per kVA" in source.contract.excluded[0]
    again = world.source(tmp_path)
    assert again.contract.excluded == source.contract.excluded


# ------------------------------------------------------------------------------------------------------ where it stands now


def test_metrics_have_the_lowest_peak_and_the_price_of_one_more_kw() -> None:
    rules = charges().demand
    states = {}
    for charge in rules:
        state = record(Demand(), charge, at("2026-07-08T11:00"), at("2026-07-08T11:15"), 900 * 1_500_000.0)
        state = record(state, charge, at("2026-07-13T17:00"), at("2026-07-13T17:15"), 900 * 900_000.0)
        states[charge.name] = record(state, charge, at("2026-07-14T17:00"), at("2026-07-14T17:10"), 600 * 950_000.0)
    assert demand_now(rules, states, at("2026-07-14T17:10")) == DemandNow(
        pytest.approx(950_000.0), 900_000.0, pytest.approx(5.539 + 11.609)
    )
    assert demand_now(rules, states, at("2026-07-15T11:05")) == DemandNow(None, 1_500_000.0, 5.539)
    assert demand_now(rules, {}, at("2026-07-15T11:05")) is None
    assert demand_now((), states, at("2026-07-15T11:05")) is None


# ---------------------------------------------------------------------------------------------------------- by brute force


@st.composite
def rates(draw: st.DrawFn) -> dict[str, object]:
    """Rates with two periods by hours, two seasons, blocks."""
    day = st.lists(st.integers(0, 1), min_size=24, max_size=24)
    tiers = draw(st.sampled_from([[{"rate": 3.0}], [{"rate": 7.0, "max": 50}, {"rate": 2.0}]]))
    return {
        "demandratestructure": [[{"rate": draw(st.sampled_from([0.0, 4.0]))}], tiers],
        "demandweekdayschedule": [draw(day)] * 6 + [draw(day)] * 6,
        "demandweekendschedule": [draw(day)] * 12,
        "flatdemandstructure": [[{"rate": 5.0}], tiers],
        "flatdemandmonths": [draw(st.integers(0, 1)) for _ in range(12)],
    }


def priced(tiers: list[dict[str, float]], kw: float) -> float:
    """Kilowatt by block."""
    money, lower = 0.0, 0.0
    for tier in tiers:
        upper = tier.get("max", float("inf"))
        money += tier["rate"] * max(0.0, min(kw, upper) - lower)
        lower = upper
    return money


@settings(max_examples=examples(40), deadline=None)
@given(
    rates(),
    st.sampled_from(["2026-03-01", "2026-11-01", "2026-07-01"]),
    st.lists(st.tuples(st.integers(0, 27 * 96), st.floats(0, 300)), min_size=1, max_size=12),
)
def test_law_a_monthly_bill_equals_that_of_its_quarter_hours(
    changes: dict[str, Any], begin: str, loads: list[tuple[int, float]]
) -> None:
    """Also in the months of clock changes; the period of each quarter-hour is looked up."""
    start = at(begin)
    end = MONTHS.bounds(start)[1]
    kw: dict[int, float] = {}
    for quarter, more in loads:
        kw[quarter] = kw.get(quarter, 0.0) + more

    bill = 0.0
    for rules in charges(wanted=frozenset({"demand"}), **changes).demand:
        state = record(Demand(), rules, start, start + 1, 0.0)
        for quarter, more in loads:
            state = record(state, rules, start + quarter * 900, start + quarter * 900 + 900, more * 1000 * 900)
        assert billed_kw(state, rules, end) >= 0.0
        bill += kw_months(close_windows(state, rules, end), rules, end) * rules.price_per_kw_month

    by_period: dict[int, float] = {}
    month = datetime.fromtimestamp(start, UTC).astimezone(ZoneInfo(ZONE)).month - 1
    for quarter, load_kw in kw.items():
        moment = datetime.fromtimestamp(start + quarter * 900, UTC).astimezone(ZoneInfo(ZONE))
        which = "demandweekendschedule" if moment.weekday() >= 5 else "demandweekdayschedule"
        period = changes[which][month][moment.hour]
        by_period[period] = max(by_period.get(period, 0.0), load_kw)
    expected = priced(changes["flatdemandstructure"][changes["flatdemandmonths"][month]], max(kw.values()))
    expected += sum(priced(changes["demandratestructure"][period], peak) for period, peak in by_period.items())
    assert bill == pytest.approx(expected, rel=1e-9, abs=1e-9)
