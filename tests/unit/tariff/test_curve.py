"""Lookup and cutting of prices."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpw.model import PriceInterval, PriceState
from tpw.tariff.curve import PriceCurve

A = PriceInterval(0, 10, 0.1)
B = PriceInterval(10, 20, 0.2)
D = PriceInterval(30, 40, 0.2)
CURVE = PriceCurve.from_intervals([A, B, D])


@pytest.mark.parametrize(
    ("moment", "expected"),
    [(-1, None), (0, A), (9.999, A), (10, B), (19.999, B), (20, None), (29.9, None), (30, D), (40, None)],
)
def test_at_is_half_open(moment: float, expected: PriceInterval | None) -> None:
    assert CURVE.at(moment) == expected


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (2, 3, [(2, 3, A)]),
        (0, 10, [(0, 10, A)]),
        (5, 15, [(5, 10, A), (10, 15, B)]),
        (-5, 45, [(-5, 0, None), (0, 10, A), (10, 20, B), (20, 30, None), (30, 40, D), (40, 45, None)]),
        (22, 25, [(22, 25, None)]),
        (20, 30, [(20, 30, None)]),
        (50, 60, [(50, 60, None)]),
        (5, 5, []),
        (6, 5, []),
    ],
)
def test_pieces(start: float, end: float, expected: object) -> None:
    assert list(CURVE.pieces(start, end)) == expected


def test_curve_without_prices_has_one_unpriced_piece() -> None:
    assert list(PriceCurve().pieces(1, 2)) == [(1, 2, None)]
    assert PriceCurve().at(1) is None
    assert PriceCurve().next_change(1) is None


@pytest.mark.parametrize(
    ("moment", "expected"),
    [(-5, A), (0, B), (10, None), (25, D), (35, None)],
)
def test_next_change_is_the_first_other_price(moment: float, expected: PriceInterval | None) -> None:
    assert CURVE.next_change(moment) == expected


def test_next_change_skips_an_interval_with_the_same_price() -> None:
    forecast = PriceInterval(10, 20, 0.1, PriceState.FORECAST)
    later = PriceInterval(20, 30, 0.3, PriceState.FORECAST)
    curve = PriceCurve.from_intervals([A, forecast, later])
    assert curve.next_change(5) == later


def test_adjacent_equal_intervals_are_merged() -> None:
    assert PriceCurve.from_intervals([A, PriceInterval(10, 20, 0.1)]).intervals == (PriceInterval(0, 20, 0.1),)


@pytest.mark.parametrize("bad", [[B, A], [A, PriceInterval(9, 20, 0.2)], [PriceInterval(5, 5, 0.1)]])
def test_disorder_is_refused(bad: list[PriceInterval]) -> None:
    with pytest.raises(ValueError, match="out of order"):
        PriceCurve.from_intervals(bad)


@st.composite
def curves(draw: st.DrawFn) -> PriceCurve:
    at = 0.0
    intervals = []
    for _ in range(draw(st.integers(0, 6))):
        start = at + draw(st.sampled_from([0.0, 0.0, 0.5, 3.25]))
        at = start + draw(st.sampled_from([0.25, 1.0, 7.5]))
        intervals.append(PriceInterval(start, at, draw(st.sampled_from([-0.1, 0.1, 0.2]))))
    return PriceCurve.from_intervals(intervals)


@given(curves(), st.floats(-5, 40, allow_subnormal=False), st.floats(0, 40, allow_subnormal=False))
def test_law_pieces_partition_the_interval_and_agree_with_at(curve: PriceCurve, start: float, length: float) -> None:
    end = start + length
    pieces = list(curve.pieces(start, end))
    if start >= end:
        assert pieces == []
        return
    assert pieces[0][0] == start
    assert pieces[-1][1] == end
    assert all(before[1] == after[0] for before, after in pairwise(pieces))
    for piece_start, piece_end, price in pieces:
        assert piece_start < piece_end
        assert curve.at(piece_start) == price
        assert curve.at((piece_start + piece_end) / 2) == price


@given(curves(), st.floats(-5, 40, allow_subnormal=False), st.floats(0.001, 40), st.floats(0, 1))
def test_law_cutting_an_interval_changes_no_cost(curve: PriceCurve, start: float, length: float, where: float) -> None:
    end, cut = start + length, start + where * length

    def cost(low: float, high: float) -> float:
        return sum((b - a) * price.price_per_kwh for a, b, price in curve.pieces(low, high) if price is not None)

    assert cost(start, cut) + cost(cut, end) == pytest.approx(cost(start, end), abs=1e-9)
