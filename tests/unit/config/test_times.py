"""Durations, hours, days and months."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpw.settings import times


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1), ("500ms", 0.5), ("5m", 300), ("1h30m", 5400), ("1.5s", 1.5), ("1d", 86400), ("1w", 604800), ("0s", 0)],
)
def test_duration(text: str, seconds: float) -> None:
    assert times.duration_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "1", "-1s", "1 s", "1s ", "1min", "1S", "1s1s", "1,5s", "s1", "1h-30m"])
def test_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        times.duration_seconds(text)


@given(st.integers(min_value=1, max_value=10_000_000))
def test_duration_text_is_read_back(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert times.duration_seconds(times.duration_text(seconds)) == pytest.approx(seconds, rel=1e-5)


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("22:00-06:00", (1320, 360)),
        ("0:00-24:00", (0, 1440)),
        ("07:30 - 08:15", (450, 495)),
        ("22:00-24:00", (1320, 1440)),
    ],
)
def test_hours(text: str, minutes: tuple[int, int]) -> None:
    assert times.hour_range(text) == minutes


@pytest.mark.parametrize(
    "text", ["22-06", "22:00", "22:60-23:00", "24:30-01:00", "24:00-06:00", "1:00-1:00", "a-b", ""]
)
def test_not_hours(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        times.hour_range(text)


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("mon-fri", (0, 1, 2, 3, 4)),
        ("sat-mon", (5, 6, 0)),
        ("Sun", (6,)),
        ("tuesday", (1,)),
        ("thurs-fri", (3, 4)),
        ("mon-sun", tuple(range(7))),
    ],
)
def test_days(text: str, days: tuple[int, ...]) -> None:
    assert times.day_range(text) == days


@pytest.mark.parametrize(
    ("text", "months"),
    [
        ("11-3", (11, 12, 1, 2, 3)),
        ("7", (7,)),
        ("jun-august", (6, 7, 8)),
        ("1-12", tuple(range(1, 13))),
        ("Dec-1", (12, 1)),
    ],
)
def test_months(text: str, months: tuple[int, ...]) -> None:
    assert times.month_range(text) == months


@pytest.mark.parametrize("text", ["0", "13", "1-2-3", "-3", "", "foo", "mo"])
def test_not_months(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        times.month_range(text)


@pytest.mark.parametrize("text", ["", "mo", "1", "mon-", "mon-fri-sun", "dimanche"])
def test_not_days(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        times.day_range(text)
