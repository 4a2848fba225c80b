"""The best window is that of a search through every possible start."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from tpw.tariff.windows import Piece, Window, lowest, mean_within

STEP = 300
QUARTER = 900


@st.composite
def pieces(draw: st.DrawFn) -> list[Piece]:
    """Quarter hours with a whole price, some of them without one."""
    values = draw(st.lists(st.none() | st.integers(-3, 4), min_size=1, max_size=24))
    return [(n * QUARTER, (n + 1) * QUARTER, float(value)) for n, value in enumerate(values) if value is not None]


def searched(known: list[Piece], seconds: int, begin: int, deadline: int) -> tuple[int, Fraction] | None:
    """(start, mean) by every start; all borders are on the grid, so the best start is too."""
    by_step = {int(start) + at: int(value) for start, _, value in known for at in range(0, QUARTER, STEP)}
    found = []
    for start in range(begin, deadline - seconds + 1, STEP):
        values = [by_step.get(at) for at in range(start, start + seconds, STEP)]
        if None not in values:
            found.append((Fraction(sum(values), len(values)), start))  # type: ignore[arg-type]
    return None if not found else (min(found)[1], min(found)[0])


@given(
    pieces(),
    st.integers(1, 20).map(lambda n: n * STEP),
    st.integers(-4, 20).map(lambda n: n * STEP),
    st.integers(0, 80).map(lambda n: n * STEP),
)
def test_the_lowest_window_is_that_of_a_search_through_all(known: list[Piece], seconds: int, begin: int, deadline: int):
    expected, found = searched(known, seconds, begin, deadline), lowest(known, seconds, begin, deadline)
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert (found.start_seconds, found.end_seconds) == (expected[0], expected[0] + seconds)
        assert abs(found.mean - expected[1]) < 1e-9


def test_a_window_begins_within_a_piece_where_a_border_is_reached_earlier():
    known = [(0.0, 100.0, 5.0), (100.0, 400.0, 1.0), (400.0, 500.0, 2.0)]
    assert lowest(known, 350.0, 0.0, 500.0) == Window(100.0, 450.0, (300.0 + 100.0) / 350.0)
    assert lowest(known, 350.0, 0.0, 420.0) == Window(70.0, 420.0, (150.0 + 300.0 + 40.0) / 350.0)


def test_equal_windows_are_the_first_in_spite_of_rounding():
    known = [(n * 900.0, (n + 1) * 900.0, 0.1 + 0.2) for n in range(96)]
    found = lowest(known, 3 * 3600.0, 77.7, 86400.0)
    assert found is not None
    assert found.start_seconds == 77.7


def test_the_mean_of_a_time_with_a_gap_is_not_known():
    known = [(0.0, 10.0, 1.0), (11.0, 20.0, 1.0)]
    assert mean_within(known, 0.0, 10.0) == 1.0
    assert mean_within(known, 0.0, 20.0) is None
    assert mean_within(known, 9.0, 12.0) is None
