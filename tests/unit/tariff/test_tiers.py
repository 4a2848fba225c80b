"""Block tariffs, against adding up kWh by kWh."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpw.tariff.tiers import Tier, cost_between, tier_at

TIERS = (Tier(0.30, 100), Tier(0.20, 500), Tier(0.10))


@pytest.mark.parametrize(
    ("used", "price"), [(0, 0.30), (99.9, 0.30), (100, 0.20), (499, 0.20), (500, 0.10), (1e9, 0.10)]
)
def test_tier_of_the_next_unit(used: float, price: float) -> None:
    assert tier_at(TIERS, used).price == price


def test_cost_by_hand() -> None:
    assert cost_between(TIERS, 50, 600) == pytest.approx(50 * 0.30 + 400 * 0.20 + 100 * 0.10)


def test_last_tier_has_no_bound_even_where_one_is_written() -> None:
    assert cost_between((Tier(0.3, 100), Tier(0.2, 200)), 0, 1000) == pytest.approx(30 + 180)


@st.composite
def tier_lists(draw: st.DrawFn) -> tuple[Tier, ...]:
    bounds = sorted(draw(st.sets(st.integers(1, 60), max_size=4)))
    prices = draw(st.lists(st.sampled_from([-0.1, 0.1, 0.2, 0.5]), min_size=len(bounds) + 1, max_size=len(bounds) + 1))
    return tuple(Tier(price, bound) for price, bound in zip(prices, [*bounds, None], strict=True))


@given(tier_lists(), st.integers(0, 80), st.integers(0, 80))
def test_law_cost_is_the_sum_unit_by_unit(tiers: tuple[Tier, ...], before: int, more: int) -> None:
    unit_by_unit = sum(tier_at(tiers, unit).price for unit in range(before, before + more))
    assert cost_between(tiers, before, before + more) == pytest.approx(unit_by_unit, abs=1e-9)


@given(tier_lists(), st.floats(0, 80), st.floats(0, 80), st.floats(0, 1))
def test_law_cutting_a_month_changes_no_cost(tiers: tuple[Tier, ...], before: float, more: float, where: float) -> None:
    middle, after = before + more * where, before + more
    parts = cost_between(tiers, before, middle) + cost_between(tiers, middle, after)
    assert parts == pytest.approx(cost_between(tiers, before, after), abs=1e-9)
