"""The sum of layers, and arithmetic on intervals."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpw.model import PriceInterval, PriceState, Reason, SourceError
from tpw.tariff.curve import PriceCurve
from tpw.tariff.flat import Flat
from tpw.tariff.layers import Layer, Layers
from tpw.tariff.spans import clipped, merged, overlaid


class Listed:
    """A source with given intervals."""

    name = "listed"

    def __init__(self, *intervals: PriceInterval) -> None:
        self.known = intervals

    def intervals(self, start_seconds: float, end_seconds: float) -> Sequence[PriceInterval]:
        return clipped(self.known, start_seconds, end_seconds)


def test_price_of_one_layer_is_its_price_exactly() -> None:
    assert Layers([Layer(Flat(0.2))]).intervals(0, 10) == (PriceInterval(0, 10, 0.2),)


def test_vat_is_added_to_layers_that_do_not_include_it() -> None:
    layers = Layers([Layer(Flat(0.10), 1.19), Layer(Flat(0.05), 1.19), Layer(Flat(0.02))])
    [interval] = layers.intervals(0, 10)
    assert interval.price_per_kwh == pytest.approx(0.15 * 1.19 + 0.02)


def test_sum_is_cut_at_every_boundary_and_named_after_the_energy() -> None:
    energy = Listed(PriceInterval(0, 10, 1.0), PriceInterval(10, 30, 2.0))
    grid = Listed(PriceInterval(0, 20, 0.25), PriceInterval(20, 30, 0.5))
    layers = Layers([Layer(energy), Layer(grid)])
    assert layers.name == "listed"
    assert layers.intervals(5, 25) == (
        PriceInterval(5, 10, 1.25),
        PriceInterval(10, 20, 2.25),
        PriceInterval(20, 25, 2.5),
    )


def test_where_one_layer_has_no_price_the_sum_has_none() -> None:
    energy = Listed(PriceInterval(0, 10, 1.0), PriceInterval(20, 30, 1.0))
    layers = Layers([Layer(energy), Layer(Flat(0.5))])
    assert layers.intervals(0, 40) == (PriceInterval(0, 10, 1.5), PriceInterval(20, 30, 1.5))


def test_the_sum_has_the_state_of_its_least_reliable_part() -> None:
    energy = Listed(PriceInterval(0, 10, 1.0), PriceInterval(10, 20, 1.0, PriceState.FORECAST))
    layers = Layers([Layer(energy), Layer(Flat(0.5))])
    assert [price.state for price in layers.intervals(0, 20)] == [PriceState.FINAL, PriceState.FORECAST]


def test_negative_price_stays_negative_and_fees_are_added() -> None:
    layers = Layers([Layer(Flat(-0.10), 1.2), Layer(Flat(0.05), 1.2)])
    assert layers.intervals(0, 1)[0].price_per_kwh == pytest.approx(-0.06)


def test_a_layer_that_cannot_be_read_is_an_error_of_the_sum() -> None:
    class Down:
        name = "down"

        def intervals(self, start_seconds: float, end_seconds: float) -> Sequence[PriceInterval]:
            raise SourceError(Reason.UNREACHABLE, "no answer")

    with pytest.raises(SourceError, match="no answer"):
        Layers([Layer(Flat(0.1)), Layer(Down())]).intervals(0, 1)


def test_no_layer_is_no_price() -> None:
    with pytest.raises(ValueError, match="at least one layer"):
        Layers([])


@st.composite
def tracks(draw: st.DrawFn) -> tuple[PriceInterval, ...]:
    at = 0
    intervals = []
    for _ in range(draw(st.integers(0, 6))):
        start = at + draw(st.integers(0, 3))
        at = start + draw(st.integers(1, 6))
        state = draw(st.sampled_from([PriceState.FINAL, PriceState.FORECAST]))
        intervals.append(PriceInterval(start, at, draw(st.sampled_from([0.0, 0.25, 0.5])), state))
    return merged(intervals)


def at(track: Sequence[PriceInterval], moment: float) -> PriceInterval | None:
    return next((price for price in track if price.start_seconds <= moment < price.end_seconds), None)


@given(tracks(), tracks(), tracks())
def test_law_sum_at_every_moment_is_the_sum_of_the_layers(
    first: tuple[PriceInterval, ...], second: tuple[PriceInterval, ...], third: tuple[PriceInterval, ...]
) -> None:
    summed = Layers([Layer(Listed(*first)), Layer(Listed(*second), 2.0), Layer(Listed(*third))]).intervals(0, 60)
    PriceCurve.from_intervals(summed)
    for half in range(120):
        parts = [at(track, half / 2) for track in (first, second, third)]
        found = at(summed, half / 2)
        if None in parts:
            assert found is None
        else:
            prices = [part.price_per_kwh for part in parts if part is not None]
            assert found is not None
            assert found.price_per_kwh == prices[0] + 2 * prices[1] + prices[2]


@given(tracks(), tracks())
def test_law_overlay_is_the_upper_where_it_covers(
    upper: tuple[PriceInterval, ...], lower: tuple[PriceInterval, ...]
) -> None:
    result = overlaid(upper, lower)
    PriceCurve.from_intervals(result)
    for half in range(120):
        wanted = at(upper, half / 2) or at(lower, half / 2)
        found = at(result, half / 2)
        assert (found is None) == (wanted is None)
        if found is not None and wanted is not None:
            assert (found.price_per_kwh, found.state) == (wanted.price_per_kwh, wanted.state)


@given(tracks(), st.integers(-5, 60), st.integers(0, 40))
def test_law_clipping_keeps_what_lies_inside(track: tuple[PriceInterval, ...], start: int, length: int) -> None:
    result = clipped(track, start, start + length)
    for half in range(-10, 200):
        inside = start <= half / 2 < start + length
        found, wanted = at(result, half / 2), at(track, half / 2) if inside else None
        assert (found and found.price_per_kwh) == (wanted and wanted.price_per_kwh)
