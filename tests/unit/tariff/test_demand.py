"""Demand charges, against adding up window by window."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpw.tariff.demand import (
    Demand,
    DemandRules,
    accrued_cost,
    billed_watts,
    cost_of_a_new_peak,
    month_start,
    moved,
    next_month_start,
    recorded,
)

RULES = DemandRules(price_per_kw_month=10.0)
WINDOW = 900.0


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


JUNE, JULY, AUGUST = at("2026-06-01T00:00Z"), at("2026-07-01T00:00Z"), at("2026-08-01T00:00Z")


def test_demand_is_the_mean_of_a_window() -> None:
    """1000 W for five minutes and 400 W for ten are 600 W."""
    state = recorded(Demand(), RULES, JUNE, JUNE + 300, 300_000)
    assert state.window_mean_watts(JUNE + 300) == 1000
    assert state.peak_watts == 0
    state = recorded(state, RULES, JUNE + 300, JUNE + 900, 240_000)
    assert (state.peak_watts, state.peak_at_seconds) == (600, JUNE)
    assert state.window_mean_watts(JUNE + 900) is None


def test_energy_over_several_windows_is_split_among_them() -> None:
    state = recorded(Demand(), RULES, JUNE + 450, JUNE + 2250, 1_800_000)
    assert (state.peak_watts, state.peak_at_seconds) == (1000, JUNE + 900)
    assert state.window_joules == 450_000


def test_month_begins_on_the_billing_day_at_local_midnight() -> None:
    rules = DemandRules(timezone="Europe/Berlin", billing_day=15)
    assert month_start(at("2026-03-14T22:59Z"), rules) == at("2026-02-14T23:00Z")
    assert month_start(at("2026-03-14T23:00Z"), rules) == at("2026-03-14T23:00Z")
    assert next_month_start(at("2026-03-14T23:00Z"), rules) == at("2026-04-14T22:00Z")
    assert month_start(at("2026-01-03T00:00Z"), rules) == at("2025-12-14T23:00Z")
    assert next_month_start(at("2026-12-14T23:00Z"), rules) == at("2027-01-14T23:00Z")


def test_month_that_ends_is_billed_and_the_next_begins_at_nothing() -> None:
    state = recorded(Demand(), RULES, JUNE, JUNE + 900, 900_000 * 5)
    state = moved(state, RULES, JULY)
    assert (state.month_start_seconds, state.peak_watts, state.peak_at_seconds) == (JULY, 0, None)
    assert state.closed_cost == 50.0
    assert state.earlier_peaks_watts == (5000,)


def test_ratchet_bills_a_fraction_of_the_highest_earlier_peak() -> None:
    rules = DemandRules(price_per_kw_month=10.0, ratchet=0.8, ratchet_months=2)
    state = recorded(Demand(), rules, JUNE, JUNE + 900, 900_000 * 10)
    state = recorded(state, rules, JULY, JULY + 900, 900_000 * 3)
    assert billed_watts(state, rules) == 8000
    state = moved(state, rules, AUGUST)
    assert state.closed_cost == pytest.approx(100 + 80)
    september = at("2026-09-01T00:00Z")
    state = moved(state, rules, september)
    assert state.closed_cost == pytest.approx(100 + 80 + 80)
    assert state.earlier_peaks_watts == (3000, 0)
    assert billed_watts(state, rules) == pytest.approx(2400)


def test_charge_accrues_over_the_month() -> None:
    state = recorded(Demand(), RULES, JUNE, JUNE + 900, 900_000 * 5)
    half = JUNE + (JULY - JUNE) / 2
    assert accrued_cost(state, RULES, half) == pytest.approx(25)
    assert accrued_cost(moved(state, RULES, JULY), RULES, JULY) == pytest.approx(50)
    assert accrued_cost(Demand(), RULES, JUNE) == 0


def test_new_peak_costs_what_it_adds_to_the_bill() -> None:
    state = recorded(Demand(), RULES, JUNE, JUNE + 900, 900_000 * 5)
    assert cost_of_a_new_peak(state, RULES, 7000) == pytest.approx(20)
    assert cost_of_a_new_peak(state, RULES, 4000) == 0


def test_what_belongs_to_a_closed_window_is_left_out() -> None:
    state = recorded(Demand(), RULES, JUNE, JUNE + 1800, 1_800_000)
    late = recorded(state, RULES, JUNE, JUNE + 2700, 2_700_000 * 50)
    assert late.peak_at_seconds == JUNE + 1800


def test_years_of_silence_are_passed_quickly() -> None:
    state = recorded(Demand(), RULES, JUNE, JUNE + 900, 900_000)
    later = moved(state, RULES, JUNE + 20 * 365.25 * 86400)
    assert later.closed_cost == pytest.approx(10)
    assert later.earlier_peaks_watts == (0.0,) * 11


def test_window_that_does_not_divide_the_month_ends_with_it() -> None:
    rules = DemandRules(window_seconds=7 * 3600.0, price_per_kw_month=1.0)
    state = recorded(Demand(), rules, JULY - 3600, JULY, 3600 * 1000.0)
    assert state.month_start_seconds == JULY
    assert state.earlier_peaks_watts == (pytest.approx(1000 * 3600 / (720 % 7 * 3600)),)


stretches = st.lists(
    st.tuples(st.integers(1, 4000), st.sampled_from([0.0, 100.0, 700.0, 12_000.0])), min_size=1, max_size=25
)
begins = st.sampled_from([JUNE, JULY - 5000, at("2026-03-29T00:30Z"), at("2026-10-24T22:10Z"), at("2026-12-31T22:00Z")])
rule_sets = st.sampled_from(
    [
        RULES,
        DemandRules(price_per_kw_month=7.0, window_seconds=1800, timezone="Europe/Berlin", ratchet=0.5),
        DemandRules(price_per_kw_month=7.0, window_seconds=3600, timezone="Asia/Kathmandu", billing_day=28),
    ]
)


@settings(max_examples=60, deadline=None)
@given(stretches, begins, rule_sets)
def test_law_peak_is_the_highest_window_second_by_second(
    parts: list[tuple[int, float]], begin: float, rules: DemandRules
) -> None:
    state, moment = Demand(), begin
    month = month_start(begin, rules)
    joules: dict[tuple[float, float], float] = {}
    for seconds, watts in parts:
        state = recorded(state, rules, moment, moment + seconds, watts * seconds)
        for second in range(seconds):
            if moment + second >= next_month_start(month, rules):
                month = next_month_start(month, rules)
            window = month + (moment + second - month) // rules.window_seconds * rules.window_seconds
            joules[month, window] = joules.get((month, window), 0.0) + watts
        moment += seconds
    month = month_start(moment, rules)
    closed = [
        (total / rules.window_seconds, window)
        for (of, window), total in joules.items()
        if of == month and window + rules.window_seconds <= moment
    ]
    assert state.month_start_seconds == month
    assert state.peak_watts == pytest.approx(max((mean for mean, _ in closed), default=0.0))


@settings(max_examples=60, deadline=None)
@given(stretches, begins, rule_sets, st.integers(2, 5))
def test_law_cutting_changes_nothing_and_the_charge_never_falls(
    parts: list[tuple[int, float]], begin: float, rules: DemandRules, cuts: int
) -> None:
    whole, cut, moment = Demand(), Demand(), begin
    charged = 0.0
    for seconds, watts in parts:
        whole = recorded(whole, rules, moment, moment + seconds, watts * seconds)
        edges = [moment + seconds * index / cuts for index in range(cuts + 1)]
        for start, end in pairwise(edges):
            cut = recorded(cut, rules, start, end, watts * (end - start))
            now = accrued_cost(cut, rules, end)
            assert now >= charged - 1e-9
            charged = now
        moment += seconds
    assert cut.peak_watts == pytest.approx(whole.peak_watts)
    assert cut.window_joules == pytest.approx(whole.window_joules, abs=1e-6)
    assert cut.closed_cost == pytest.approx(whole.closed_cost)
    assert cut.earlier_peaks_watts == pytest.approx(whole.earlier_peaks_watts)


def test_month_boundaries_are_read_in_the_zone() -> None:
    rules = DemandRules(timezone="America/Los_Angeles")
    assert datetime.fromtimestamp(month_start(JUNE, rules), UTC) == datetime(2026, 5, 1, 7, tzinfo=UTC)
