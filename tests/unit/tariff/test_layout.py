"""Tables of prices in local time, on days of clock changes."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from tpw.model import SourceError
from tpw.tariff.layout import Layout, read_table

BERLIN = ZoneInfo("Europe/Berlin")
ROWS = Layout(price="p", time="t", is_csv=True, timezone="Europe/Berlin", time_format="%Y-%m-%d %H:%M")
ENDING = replace(ROWS, stamps_end=True)
DAYS = replace(ROWS, time_format="%Y-%m-%d")


def table(*rows: tuple[object, ...], heading: str = "t,p") -> str:
    return "\n".join([heading, *(",".join(map(str, row)) for row in rows)])


def utc(text: str) -> float:
    return datetime.fromisoformat(text + "+00:00").timestamp()


def pieces(text: str, layout: Layout) -> list[tuple[float, float, float]]:
    return [(price.start_seconds, price.end_seconds, price.price_per_kwh) for price in read_table(text, layout)]


@pytest.mark.parametrize("at_the_jump", ["02:00", "03:00"])
def test_the_hour_that_ends_when_the_clock_is_set_forward(at_the_jump: str) -> None:
    """It ends at 02:00 in winter time, which is 03:00 in summer time: files have either."""
    rows = [("2026-03-29 01:00", 1), (f"2026-03-29 {at_the_jump}", 2), ("2026-03-29 04:00", 4), ("2026-03-29 05:00", 5)]
    assert pieces(table(*rows), ENDING) == [
        (utc("2026-03-28T23:00"), utc("2026-03-29T00:00"), 1),
        (utc("2026-03-29T00:00"), utc("2026-03-29T01:00"), 2),
        (utc("2026-03-29T01:00"), utc("2026-03-29T02:00"), 4),
        (utc("2026-03-29T02:00"), utc("2026-03-29T03:00"), 5),
    ]


def test_an_interval_with_both_its_ends_may_end_when_the_clock_is_set_forward() -> None:
    rows = [("2026-03-29 01:00", "2026-03-29 02:00", 1), ("2026-03-29 03:00", "2026-03-29 04:00", 3)]
    assert pieces(table(*rows, heading="t,e,p"), replace(ROWS, end="e")) == [
        (utc("2026-03-29T00:00"), utc("2026-03-29T01:00"), 1),
        (utc("2026-03-29T01:00"), utc("2026-03-29T02:00"), 3),
    ]


@pytest.mark.parametrize(("layout", "stamp"), [(ENDING, "02:15"), (ENDING, "02:59"), (ROWS, "02:00"), (ROWS, "02:30")])
def test_times_that_do_not_exist_on_that_day_are_refused(layout: Layout, stamp: str) -> None:
    text = table(("2026-03-29 01:00", 1), (f"2026-03-29 {stamp}", 2), ("2026-03-29 04:00", 4))
    with pytest.raises(SourceError, match="does not exist in Europe/Berlin"):
        read_table(text, layout)


def test_a_table_of_more_rows_than_years_of_prices_is_refused() -> None:
    text = "t,p\n" + "".join(f"{n},1\n" for n in range(200_001))
    with pytest.raises(SourceError, match="more than 200000 rows"):
        read_table(text, Layout("p", "t", is_csv=True, time_format="unix"))


def test_the_last_hour_of_a_day_may_end_at_24() -> None:
    rows = [("2026-12-31 23:00", 1), ("2026-12-31 24:00", 2), ("2027-01-01 01:00", 3)]
    expected = [
        (utc("2026-12-31T21:00"), utc("2026-12-31T22:00"), 1),
        (utc("2026-12-31T22:00"), utc("2026-12-31T23:00"), 2),
        (utc("2026-12-31T23:00"), utc("2027-01-01T00:00"), 3),
    ]
    assert pieces(table(*rows), ENDING) == expected
    iso = [(stamp.replace(" ", "T"), price) for stamp, price in rows]
    assert pieces(table(*iso), replace(ENDING, time_format="iso")) == expected


@pytest.mark.parametrize(
    ("first", "hours"),
    [("2026-03-28", [24, 23, 24]), ("2026-10-24", [24, 25, 24]), ("2026-06-01", [24, 24, 24])],
)
@pytest.mark.parametrize("resolution", [None, 86400.0])
def test_a_daily_price_applies_to_the_whole_local_day(first: str, hours: list[int], resolution: float | None) -> None:
    """A day of a clock change has 23 or 25 hours, and each has one price."""
    start = datetime.fromisoformat(first)
    days = [start.replace(day=start.day + index) for index in range(4)]
    rows = [(f"{day:%Y-%m-%d}", index) for index, day in enumerate(days)]
    found = pieces(table(*rows), replace(DAYS, resolution_seconds=resolution))
    midnights = [day.replace(tzinfo=BERLIN).timestamp() for day in days]
    assert [(begin, end) for begin, end, _ in found[:3]] == list(pairwise(midnights))
    assert [(end - begin) / 3600 for begin, end, _ in found[:3]] == hours


def test_a_missing_day_is_time_without_a_price() -> None:
    found = pieces(table(("2026-06-01", 1), ("2026-06-02", 2), ("2026-06-04", 4), ("2026-06-05", 5)), DAYS)
    assert [(end - begin) / 3600 for begin, end, _ in found] == [24, 24, 24, 24]
    assert found[1][1] == utc("2026-06-02T22:00") and found[2][0] == utc("2026-06-03T22:00")
