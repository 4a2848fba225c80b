"""Billing months."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpw.tariff.months import BillingMonths


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_a_month_begins_on_the_billing_day_at_local_midnight() -> None:
    months = BillingMonths("Europe/Berlin", 15)
    assert months.bounds(at("2026-03-14T22:59Z")) == (at("2026-02-14T23:00Z"), at("2026-03-14T23:00Z"))
    assert months.bounds(at("2026-03-14T23:00Z")) == (at("2026-03-14T23:00Z"), at("2026-04-14T22:00Z"))
    assert months.bounds(at("2026-01-03T00:00Z")) == (at("2025-12-14T23:00Z"), at("2026-01-14T23:00Z"))


def test_a_month_is_one_month_however_long_it_is() -> None:
    months = BillingMonths("Europe/Berlin")
    assert months.between(at("2026-02-28T23:00Z"), at("2026-03-31T22:00Z")) == pytest.approx(1.0, abs=1e-12)
    assert months.between(at("2026-01-31T23:00Z"), at("2026-02-28T23:00Z")) == 1.0
    assert months.between(at("2026-01-31T23:00Z"), at("2026-02-14T23:00Z")) == 0.5


@given(st.lists(st.floats(0, 3e7), min_size=1, max_size=8), st.sampled_from([1, 9, 28]))
def test_law_pieces_sum_to_the_whole(cuts: list[float], day: int) -> None:
    months = BillingMonths("America/New_York", day)
    edges = sorted(at("2026-01-01T00:00Z") + cut for cut in cuts)
    whole = months.between(edges[0], edges[-1])
    parts = [months.between(a, b) for a, b in pairwise(edges)]
    assert sum(parts) == pytest.approx(whole, abs=1e-12)
