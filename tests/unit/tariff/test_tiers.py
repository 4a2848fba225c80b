"""Prices by quantity, as tiers and as steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpw.model import PriceInterval
from tpw.tariff.tiers import Tier, steps_of, tier_at

TIERS = (Tier(0.30, 100), Tier(0.20, 500), Tier(0.10))


@pytest.mark.parametrize(
    ("used", "price"), [(0, 0.30), (99.9, 0.30), (100, 0.20), (499, 0.20), (500, 0.10), (1e9, 0.10)]
)
def test_tier_of_the_next_unit(used: float, price: float) -> None:
    assert tier_at(TIERS, used).price == price


def test_last_tier_has_no_bound_even_where_one_is_written() -> None:
    assert tier_at((Tier(0.3, 100), Tier(0.2, 200)), 1000).price == 0.2


@st.composite
def tier_lists(draw: st.DrawFn) -> tuple[Tier, ...]:
    bounds = sorted(draw(st.sets(st.integers(1, 50), max_size=4)))
    prices = draw(st.lists(st.floats(-1, 1), min_size=len(bounds) + 1, max_size=len(bounds) + 1))
    return tuple(Tier(price, bound) for price, bound in zip(prices, [*bounds, None], strict=True))


@given(tier_lists(), st.integers(0, 60))
def test_law_steps_equal_the_tiers(tiers: tuple[Tier, ...], used: int) -> None:
    interval = PriceInterval(0, 1, tiers[0].price, steps=steps_of(tiers))
    assert interval.price_after(used) == pytest.approx(tier_at(tiers, used).price, abs=1e-12)
