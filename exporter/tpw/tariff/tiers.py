"""Prices that depend on the consumption of the billing month (block tariffs)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Tier:
    """A price up to a quantity, counted from the start of the billing month. The last tier has no bound."""

    price: float
    upper_bound: float | None = None


def tier_at(tiers: Sequence[Tier], used: float) -> Tier:
    """The tier of the next unit after ``used`` units."""
    for tier in tiers:
        if tier.upper_bound is None or used < tier.upper_bound:
            return tier
    return tiers[-1]


def steps_of(tiers: Sequence[Tier]) -> tuple[tuple[float, float], ...]:
    """The tiers as steps of a price: (bound, difference of the next tier's price)."""
    return tuple(
        (tier.upper_bound, following.price - tier.price)
        for tier, following in pairwise(tiers)
        if tier.upper_bound is not None
    )
