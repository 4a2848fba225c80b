"""The cheapest arrangement of work that can wait, against all that there are."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpw.advice.shifting import arrange, is_possible

SLOTS = 5
AMOUNTS = st.lists(st.integers(0, 2), min_size=SLOTS, max_size=SLOTS)
PRICES = st.lists(st.sampled_from([-1.0, 0.1, 0.2, 0.2, 0.5]), min_size=SLOTS, max_size=SLOTS)


def by_trying(asked: list[int], space: list[int], delay: int, prices: list[float]) -> float | None:
    """The least cost over all assignments of units; None where none has space."""
    units = [index for index, amount in enumerate(asked) for _ in range(amount)]
    choices = [range(index, min(SLOTS, index + delay + 1)) for index in units]
    costs = [
        sum(prices[slot] for slot in slots)
        for slots in product(*choices)
        if all(slots.count(slot) <= space[slot] for slot in range(SLOTS))
    ]
    return min(costs, default=None)


@given(AMOUNTS, st.lists(st.integers(0, 3), min_size=SLOTS, max_size=SLOTS), st.integers(0, 2), PRICES)
def test_it_is_the_cheapest_of_all(asked: list[int], space: list[int], delay: int, prices: list[float]) -> None:
    best = by_trying(asked, space, delay, prices)
    found = arrange([1e6 * one for one in asked], [1e6 * one for one in space], delay, prices)
    assert is_possible([1e6 * one for one in asked], [1e6 * one for one in space], delay) == (best is not None)
    if best is None:
        assert found is None
    else:
        assert found is not None
        assert sum(amount / 1e6 * price for amount, price in zip(found, prices, strict=True)) == pytest.approx(best)
