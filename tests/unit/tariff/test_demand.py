"""Demand charges, compared with sums over each window."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.examples import examples
from tpw.tariff.demand import (
    Demand,
    DemandRules,
    after_clock_step,
    billed_watts,
    close_windows,
    forming_watts,
    kw_months,
    peak_watts,
    record,
)
from tpw.tariff.months import BillingMonths

RULES = DemandRules(price_per_kw_month=10.0)


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


JUNE, JULY, AUGUST = at("2026-06-01T00:00Z"), at("2026-07-01T00:00Z"), at("2026-08-01T00:00Z")


def test_demand_is_the_mean_of_a_window() -> None:
    """1000 W for five minutes and 400 W for ten are 600 W."""
    state = record(Demand(), RULES, JUNE, JUNE + 300, 300_000)
    assert forming_watts(state, RULES, JUNE + 300) == 1000
    assert peak_watts(state, RULES, JUNE + 300) == 0
    state = record(state, RULES, JUNE + 300, JUNE + 900, 240_000)
    assert peak_watts(state, RULES, JUNE + 900) == 600
    assert forming_watts(state, RULES, JUNE + 900) is None


def test_the_first_window_has_its_mean_since_the_books_began() -> None:
    state = record(Demand(), RULES, JUNE + 600, JUNE + 700, 50_000)
    assert forming_watts(state, RULES, JUNE + 700) == 500


def test_energy_over_several_windows_is_split_among_them() -> None:
    state = record(Demand(), RULES, JUNE + 450, JUNE + 2250, 1_800_000)
    assert state.windows == {JUNE: 450_000, JUNE + 900: 900_000, JUNE + 1800: 450_000}


def test_gpus_read_one_after_the_other_add_up_across_the_end_of_a_window() -> None:
    state = Demand()
    for _ in range(8):
        state = record(state, RULES, JUNE + 890, JUNE + 910, 20 * 500)
    assert state.windows == {JUNE: 8 * 10 * 500, JUNE + 900: 8 * 10 * 500}


def test_late_joules_raise_the_peak_of_their_own_window() -> None:
    state = close_windows(record(Demand(), RULES, JUNE, JUNE + 900, 900_000), RULES, JUNE + 10)
    state = record(state, RULES, JUNE + 900, JUNE + 1800, 90_000)
    state = record(state, RULES, JUNE, JUNE + 900, 450_000)
    assert peak_watts(state, RULES, JUNE + 1800) == 1500
    assert (close_windows(state, RULES, JUNE + 1800).peak_watts, close_windows(state, RULES, JUNE + 1800).windows) == (
        1500,
        {},
    )


def test_joules_of_a_closed_window_are_ignored() -> None:
    state = close_windows(record(Demand(), RULES, JUNE, JUNE + 1800, 1_800_000), RULES, JUNE + 1800)
    late = record(state, RULES, JUNE, JUNE + 2700, 2_700_000)
    assert late.windows == {JUNE + 1800: 900_000}


def test_a_past_month_is_billed_and_the_next_begins_at_zero() -> None:
    state = close_windows(record(Demand(), RULES, JUNE, JUNE + 900, 900_000 * 5), RULES, JULY)
    assert (state.month_start_seconds, state.peak_watts, state.peak_at_seconds) == (JULY, 0, None)
    assert state.closed_kw_months == 5.0
    assert state.earlier_peaks_watts == (5000,)


def test_the_first_month_is_billed_from_the_beginning_of_the_books() -> None:
    half = JUNE + (JULY - JUNE) / 2
    state = record(Demand(), RULES, half, half + 900, 900_000 * 5)
    assert kw_months(state, RULES, half + 900) == pytest.approx(5 * 900 / (JULY - JUNE))
    assert close_windows(state, RULES, JULY).closed_kw_months == pytest.approx(2.5)


def test_ratchet_bills_a_fraction_of_the_highest_earlier_peak() -> None:
    rules = DemandRules(price_per_kw_month=10.0, ratchet=0.8, ratchet_months=2)
    state = close_windows(record(Demand(), rules, JUNE, JUNE + 900, 900_000 * 10), rules, JULY)
    state = record(state, rules, JULY, JULY + 900, 900_000 * 3)
    assert billed_watts(state, rules, JULY + 900) == 8000
    state = close_windows(state, rules, AUGUST)
    assert state.closed_kw_months == pytest.approx(10 + 8)
    september = at("2026-09-01T00:00Z")
    state = close_windows(state, rules, september)
    assert state.closed_kw_months == pytest.approx(10 + 8 + 8)
    assert state.earlier_peaks_watts == (3000, 0)
    assert billed_watts(state, rules, september) == pytest.approx(2400)


def test_charge_accrues_over_the_month() -> None:
    state = record(Demand(), RULES, JUNE, JUNE + 900, 900_000 * 5)
    assert kw_months(state, RULES, JUNE + (JULY - JUNE) / 2) == pytest.approx(2.5)
    assert kw_months(state, RULES, JULY) == kw_months(close_windows(state, RULES, JULY), RULES, JULY) == 5
    assert kw_months(Demand(), RULES, JUNE) == 0


def test_years_without_consumption_are_passed_quickly() -> None:
    state = record(Demand(), RULES, JUNE, JUNE + 900, 900_000)
    later = close_windows(state, RULES, JUNE + 20 * 365.25 * 86400)
    assert later.closed_kw_months == pytest.approx(1)
    assert later.earlier_peaks_watts == (0.0,) * 11


def test_window_that_does_not_divide_the_month_ends_with_it() -> None:
    rules = DemandRules(window_seconds=7 * 3600.0, price_per_kw_month=1.0)
    state = close_windows(record(Demand(), rules, JULY - 3600, JULY, 3600 * 1000.0), rules, JULY)
    assert state.earlier_peaks_watts == (pytest.approx(1000 * 3600 / (720 % 7 * 3600)),)


@pytest.mark.parametrize(("before", "after"), [(1800.0, 900.0), (900.0, 1800.0), (900.0, 60.0), (3600.0, 7000.0)])
def test_a_change_of_the_window_length_creates_no_peak(before: float, after: float) -> None:
    """A reload in the middle of a window: the open window is closed at its own length."""
    old, new = replace(RULES, window_seconds=before), replace(RULES, window_seconds=after)
    state = close_windows(record(Demand(), old, JUNE, JUNE + 1500, 1_500_000), old, JUNE + 1500)
    state = close_windows(record(state, new, JUNE + 1500, JUNE + 86400, 84_900_000), new, JUNE + 86400)
    assert peak_watts(state, new, JUNE + 86400) == pytest.approx(1000)
    assert all(start + after > JUNE + 86400 for start in state.windows)


def test_windows_of_another_calendar_are_closed() -> None:
    berlin, kathmandu = BillingMonths("Europe/Berlin"), BillingMonths("Asia/Kathmandu")
    old, new = (DemandRules(window_seconds=3600.0, months=months) for months in (berlin, kathmandu))
    state = close_windows(record(Demand(), old, JUNE, JUNE + 5000, 50_000_000), old, JUNE + 5000)
    state = close_windows(record(state, new, JUNE + 5000, JUNE + 9000, 400_000), new, JUNE + 9000)
    assert all(start > JUNE + 9000 - 3600 for start in state.windows)
    assert peak_watts(close_windows(state, new, AUGUST), new, AUGUST) == 0


def test_a_change_of_the_billing_day_charges_every_second_once() -> None:
    """1 kW throughout: a second is its fraction of its month, by the old billing day until that month ends."""
    fifteenth = replace(RULES, months=BillingMonths("UTC", 15))
    state = close_windows(record(Demand(), RULES, JUNE, JUNE + 900, 900_000), RULES, JUNE + 900)
    moment, accrued = JUNE + 900, 0.0
    while moment < AUGUST:
        state = close_windows(record(state, fifteenth, moment, moment + 21600, 21_600_000), fifteenth, moment + 21600)
        moment += 21600
        assert kw_months(state, fifteenth, moment) >= accrued
        accrued = kw_months(state, fifteenth, moment)
    expected = 1.0 + fifteenth.months.between(JULY, moment)
    assert accrued == pytest.approx(expected)


def test_a_clock_that_was_far_ahead_does_not_stop_the_recording() -> None:
    state = close_windows(record(Demand(), RULES, JUNE, JUNE + 900, 900_000), RULES, JUNE + 900)
    far = at("2038-01-01T00:00Z")
    state = close_windows(record(state, RULES, far, far + 1000, 1_000_000), RULES, far + 1000)
    accrued = kw_months(state, RULES, far + 1000)

    state = after_clock_step(state, RULES, JUNE + 1800)
    state = close_windows(record(state, RULES, JUNE + 1800, JUNE + 2700, 4_500_000), RULES, JUNE + 2700)
    assert peak_watts(state, RULES, JUNE + 2700) == 5000
    assert kw_months(state, RULES, JULY) == pytest.approx(accrued + 5.0, rel=1e-3)


def test_a_clock_that_was_days_ahead_hides_no_peak() -> None:
    state = close_windows(record(Demand(), RULES, JUNE, JUNE + 900, 900_000), RULES, JUNE + 900)
    ahead = JUNE + 10 * 86400
    state = close_windows(record(state, RULES, ahead, ahead + 1000, 1_000_000), RULES, ahead + 1000)
    state = after_clock_step(state, RULES, JUNE + 1800)
    state = close_windows(record(state, RULES, JUNE + 1800, JUNE + 2700, 4_500_000), RULES, JUNE + 2700)
    assert peak_watts(state, RULES, JUNE + 2700) == 5000
    assert kw_months(state, RULES, JULY) == 5


stretches = st.lists(
    st.tuples(st.integers(1, 4000), st.sampled_from([0.0, 100.0, 700.0, 12_000.0])), min_size=1, max_size=25
)
begins = st.sampled_from([JUNE, JULY - 5000, at("2026-03-29T00:30Z"), at("2026-10-24T22:10Z"), at("2026-12-31T22:00Z")])
rule_sets = st.sampled_from(
    [
        RULES,
        DemandRules(price_per_kw_month=7.0, window_seconds=1800, months=BillingMonths("Europe/Berlin"), ratchet=0.5),
        DemandRules(price_per_kw_month=7.0, window_seconds=3600, months=BillingMonths("Asia/Kathmandu", 28)),
    ]
)


@settings(max_examples=examples(60), deadline=None)
@given(stretches, begins, rule_sets, st.booleans())
def test_law_peak_is_the_highest_window_second_by_second(
    parts: list[tuple[int, float]], begin: float, rules: DemandRules, settles: bool
) -> None:
    state, moment = Demand(), begin
    joules: dict[tuple[float, float], float] = {}
    for seconds, watts in parts:
        state = record(state, rules, moment, moment + seconds, watts * seconds)
        for second in range(seconds):
            month, _ = rules.months.bounds(moment + second)
            window = month + (moment + second - month) // rules.window_seconds * rules.window_seconds
            joules[month, window] = joules.get((month, window), 0.0) + watts
        moment += seconds
        if settles:
            state = close_windows(state, rules, moment)
    state = close_windows(state, rules, moment)
    month, _ = rules.months.bounds(moment)
    over = [
        total / rules.window_seconds
        for (start, window), total in joules.items()
        if start == month and window + rules.window_seconds <= moment
    ]
    assert peak_watts(state, rules, moment) == pytest.approx(max(over, default=0.0))


@settings(max_examples=examples(60), deadline=None)
@given(stretches, begins, rule_sets, st.randoms(use_true_random=False))
def test_law_the_accrued_charge_never_falls_and_is_independent_of_the_order(
    parts: list[tuple[int, float]], begin: float, rules: DemandRules, random: st.DrawFn
) -> None:
    moment, pieces = begin, []
    state, accrued = Demand(), 0.0
    for seconds, watts in parts:
        pieces.append((moment, moment + seconds, watts * seconds))
        state = close_windows(record(state, rules, *pieces[-1]), rules, moment)
        moment += seconds
        now = kw_months(state, rules, moment)
        assert now >= accrued - 1e-12
        accrued = now
    first, *rest = pieces
    random.shuffle(rest)  # type: ignore[attr-defined]
    other = record(Demand(), rules, *first)
    for piece in rest:
        other = record(other, rules, *piece)
    assert kw_months(close_windows(other, rules, moment), rules, moment) == pytest.approx(
        kw_months(close_windows(state, rules, moment), rules, moment)
    )
