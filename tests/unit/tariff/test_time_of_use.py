"""Prices by local time: clock changes, midnight, calendar; compared with an evaluation minute by minute."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.examples import examples
from tpw.ledger.booking import price
from tpw.model import PriceInterval
from tpw.tariff.curve import PriceCurve
from tpw.tariff.flat import Flat
from tpw.tariff.local_time import stretches
from tpw.tariff.time_of_use import SUNDAY, TimeOfUse, Zone

BERLIN = "Europe/Berlin"
NIGHT = Zone(0.1, hours=((22 * 60, 6 * 60),))
EVENING = Zone(0.3, hours=((17 * 60, 20 * 60),), days=frozenset(range(5)), months=frozenset({11, 12, 1, 2, 3}))
EXAMPLE = TimeOfUse(0.2, [NIGHT, EVENING], BERLIN)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def hours(intervals: tuple[PriceInterval, ...]) -> list[tuple[str, float, float]]:
    """(UTC start, hours, price)."""
    return [
        (
            f"{datetime.fromtimestamp(price.start_seconds, UTC):%d.%H:%M}",
            (price.end_seconds - price.start_seconds) / 3600,
            price.price_per_kwh,
        )
        for price in intervals
    ]


def test_flat_is_one_interval() -> None:
    assert Flat(0.2).intervals(5.0, 7.5) == (PriceInterval(5.0, 7.5, 0.2),)
    assert Flat(0.2).intervals(5.0, 5.0) == ()


def test_winter_weekday() -> None:
    assert hours(EXAMPLE.intervals(at("2026-01-14"), at("2026-01-15"))) == [
        ("14.00:00", 5, 0.1),
        ("14.05:00", 11, 0.2),
        ("14.16:00", 3, 0.3),
        ("14.19:00", 2, 0.2),
        ("14.21:00", 3, 0.1),
    ]


def test_weekend_has_no_evening_price() -> None:
    assert hours(EXAMPLE.intervals(at("2026-01-17T05:00"), at("2026-01-17T21:00"))) == [("17.05:00", 16, 0.2)]


def test_the_night_in_spring_is_an_hour_shorter() -> None:
    """On 2026-03-29 in Berlin, 02:00 is followed by 03:00: 22:00 to 06:00 lasts seven hours."""
    prices = hours(EXAMPLE.intervals(at("2026-03-28T20:00"), at("2026-03-29T12:00")))
    assert prices == [("28.20:00", 1, 0.2), ("28.21:00", 7, 0.1), ("29.04:00", 8, 0.2)]


def test_the_night_in_autumn_is_an_hour_longer() -> None:
    """On 2026-10-25 in Berlin, 03:00 is followed by 02:00."""
    prices = hours(EXAMPLE.intervals(at("2026-10-24T18:00"), at("2026-10-25T12:00")))
    assert prices == [("24.18:00", 2, 0.2), ("24.20:00", 9, 0.1), ("25.05:00", 7, 0.2)]


def test_an_hour_that_occurs_twice_has_its_price_twice() -> None:
    """02:00 to 02:30 local is 00:00 to 00:30 UTC and again 01:00 to 01:30 UTC."""
    source = TimeOfUse(0.2, [Zone(0.5, hours=((120, 150),))], BERLIN)
    assert hours(source.intervals(at("2026-10-25"), at("2026-10-25T03:00"))) == [
        ("25.00:00", 0.5, 0.5),
        ("25.00:30", 0.5, 0.2),
        ("25.01:00", 0.5, 0.5),
        ("25.01:30", 1.5, 0.2),
    ]


@pytest.mark.parametrize(
    ("zone_hours", "expected"),
    [
        (
            (150, 300),
            [("29.00:00", 1, 0.2), ("29.01:00", 2, 0.5), ("29.03:00", 1, 0.2)],
        ),  # starts at 02:30: at the jump
        ((60, 150), [("29.00:00", 1, 0.5), ("29.01:00", 3, 0.2)]),  # ends at 02:30: at the jump
        ((130, 150), [("29.00:00", 4, 0.2)]),  # lies within the missing hour: never
    ],
)
def test_a_boundary_in_the_skipped_hour_is_at_the_clock_change(zone_hours: tuple[int, int], expected: object) -> None:
    source = TimeOfUse(0.2, [Zone(0.5, hours=(zone_hours,))], BERLIN)
    assert hours(source.intervals(at("2026-03-29"), at("2026-03-29T04:00"))) == expected


@pytest.mark.parametrize(("day", "quarters"), [("2026-03-29", 92), ("2026-10-25", 100), ("2026-06-01", 96)])
def test_local_day_has_its_true_length(day: str, quarters: int) -> None:
    local = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(BERLIN))
    day_only = Zone(0.5, valid_from=local.date(), valid_to=local.date())
    source = TimeOfUse(0.2, [day_only], BERLIN)
    start = local.timestamp()
    [found] = [price for price in source.intervals(start - 86400, start + 2 * 86400) if price.price_per_kwh == 0.5]
    assert (found.end_seconds - found.start_seconds) / 900 == quarters
    assert found.start_seconds == start


def test_the_last_matching_zone_applies() -> None:
    source = TimeOfUse(0.2, [Zone(0.5, hours=((0, 720),)), Zone(0.7, hours=((360, 840),))], "UTC")
    assert hours(source.intervals(at("2026-01-01"), at("2026-01-02"))) == [
        ("01.00:00", 6, 0.5),
        ("01.06:00", 8, 0.7),
        ("01.14:00", 10, 0.2),
    ]


def test_holiday_counts_as_a_sunday() -> None:
    weekday = Zone(0.5, days=frozenset(range(5)))
    christmas = {date(2026, 12, 25)}  # a Friday
    source = TimeOfUse(0.2, [weekday], "UTC", christmas.__contains__)
    assert hours(source.intervals(at("2026-12-24"), at("2026-12-28"))) == [("24.00:00", 24, 0.5), ("25.00:00", 72, 0.2)]
    sunday = TimeOfUse(0.2, [Zone(0.5, days=frozenset({SUNDAY}))], "UTC", christmas.__contains__)
    assert hours(sunday.intervals(at("2026-12-25"), at("2026-12-26"))) == [("25.00:00", 24, 0.5)]


def test_adjacent_equal_intervals_are_one_over_a_year() -> None:
    source = TimeOfUse(0.2, [Zone(0.2, hours=((60, 120),))], BERLIN)
    assert len(source.intervals(at("2026-01-01"), at("2027-01-01"))) == 1


def test_empty_range_has_no_interval() -> None:
    assert EXAMPLE.intervals(100.0, 100.0) == ()
    assert EXAMPLE.intervals(100.0, 50.0) == ()


# --------------------------------------------------------------------------------------------- against a plain evaluation


def plainly(
    zones: list[Zone], default: float, timezone: str, seconds: float, holidays: frozenset[date] = frozenset()
) -> float:
    """The price by the local time of one moment, without shortcuts."""
    local = datetime.fromtimestamp(seconds, ZoneInfo(timezone))
    minute = local.hour * 60 + local.minute
    weekday = 6 if local.date() in holidays else local.weekday()
    price = default
    for zone in zones:
        if zone.days and weekday not in zone.days:
            continue
        if zone.months and local.month not in zone.months:
            continue
        if zone.valid_from is not None and local.date() < zone.valid_from:
            continue
        if zone.valid_to is not None and local.date() > zone.valid_to:
            continue
        inside = not zone.hours
        for start, end in zone.hours:
            inside = inside or (start <= minute < end if start < end else (minute >= start or minute < end))
        if inside:
            price = zone.price_per_kwh
    return price


def assert_law(zones: list[Zone], timezone: str, start: float, end: float, step: float) -> None:
    source = TimeOfUse(0.2, zones, timezone)
    intervals = source.intervals(start, end)
    assert intervals[0].start_seconds == start
    assert intervals[-1].end_seconds == end
    for before, after in pairwise(intervals):
        assert before.end_seconds == after.start_seconds
        assert before.price_per_kwh != after.price_per_kwh
    position = 0
    moment = start
    while moment < end:
        while intervals[position].end_seconds <= moment:
            position += 1
        assert intervals[position].price_per_kwh == plainly(zones, 0.2, timezone, moment), moment
        moment += step


minutes = st.integers(0, 1439)
hour_ranges = st.tuples(minutes, st.integers(1, 1440)).filter(lambda pair: pair[0] != pair[1])
dates = st.dates(date(2026, 3, 20), date(2026, 11, 10))
zone_strategy = st.builds(
    Zone,
    price_per_kwh=st.sampled_from([-0.1, 0.1, 0.3, 0.5]),
    hours=st.lists(hour_ranges, max_size=2).map(tuple),
    days=st.frozensets(st.integers(0, 6)),
    months=st.frozensets(st.integers(1, 12)),
    valid_from=st.none() | dates,
    valid_to=st.none() | dates,
)
zone_lists = st.lists(zone_strategy, max_size=4)
# Lord Howe shifts by half an hour; Nepal is 45 minutes off; Havana changes at midnight; Casablanca during Ramadan.
timezones = st.sampled_from(
    [
        BERLIN,
        "America/Los_Angeles",
        "Australia/Lord_Howe",
        "Asia/Kathmandu",
        "America/Havana",
        "Africa/Casablanca",
        "UTC",
    ]
)
CHANGES = {
    BERLIN: ("2026-03-29T01:00", "2026-10-25T01:00"),
    "America/Los_Angeles": ("2026-03-08T10:00", "2026-11-01T09:00"),
    "Australia/Lord_Howe": ("2026-04-04T15:00", "2026-10-03T15:30"),
    "America/Havana": ("2026-03-08T05:00", "2026-11-01T05:00"),
    "Africa/Casablanca": ("2026-02-15T02:00", "2026-03-22T02:00"),
}


@settings(max_examples=examples(40), deadline=None)
@given(zone_lists, timezones, st.integers(0, 1), st.integers(0, 2880), st.integers(1, 2 * 1440))
@example([NIGHT, EVENING], BERLIN, 0, 60, 2880)
def test_law_minute_by_minute_around_clock_changes(
    zones: list[Zone], timezone: str, which: int, before_minutes: int, length_minutes: int
) -> None:
    change = at(CHANGES.get(timezone, CHANGES[BERLIN])[which])
    start = change - before_minutes * 60
    assert_law(zones, timezone, start, start + length_minutes * 60, 60)


@settings(max_examples=examples(8), deadline=None)
@given(zone_lists, timezones, st.floats(0, 86400, allow_nan=False))
def test_law_over_a_year(zones: list[Zone], timezone: str, shift: float) -> None:
    start = at("2026-01-01") + shift
    assert_law(zones, timezone, start, start + 365 * 86400, 2999)


@pytest.mark.parametrize("timezone", [BERLIN, "Australia/Lord_Howe"])
def test_every_minute_of_a_year(timezone: str) -> None:
    """Seasons, nights that wrap, weekends, holidays, a zone for some weeks, both changes of the clock: each minute has the
    price of its local time and calendar."""
    holidays = frozenset(
        date(2026, *day) for day in ((1, 1), (4, 3), (4, 6), (5, 1), (5, 14), (10, 3), (12, 25), (12, 26))
    )
    zones = [
        Zone(0.10, hours=((1320, 360),)),
        Zone(0.30, hours=((990, 1200),), days=frozenset(range(5)), months=frozenset({11, 12, 1, 2, 3})),
        Zone(0.08, days=frozenset({5, 6}), hours=((0, 840), (1080, 1440))),
        Zone(0.05, hours=((105, 165),), valid_from=date(2026, 3, 20), valid_to=date(2026, 10, 31)),
        Zone(-0.02, days=frozenset({6}), hours=((720, 840),), months=frozenset({5, 6, 7, 8})),
    ]
    start, end = at("2026-01-01"), at("2027-01-01")
    intervals = TimeOfUse(0.2, zones, timezone, holidays.__contains__).intervals(start, end)
    assert sum(price.end_seconds - price.start_seconds for price in intervals) == end - start
    minute = start
    for interval in intervals:
        while minute < interval.end_seconds:
            assert interval.price_per_kwh == plainly(zones, 0.2, timezone, minute, holidays), minute
            minute += 60
    assert minute == end


@settings(max_examples=examples(60), deadline=None)
@given(zone_lists, timezones, st.integers(0, 1), st.floats(-7200, 7200, allow_nan=False), st.integers(1, 5400))
def test_law_a_stretch_costs_the_sum_of_its_seconds(
    zones: list[Zone], timezone: str, which: int, offset: float, seconds: int
) -> None:
    """Around the changes of the clock: joules spread evenly over a stretch, each second at the price of its moment."""
    start = at(CHANGES.get(timezone, CHANGES[BERLIN])[which]) + round(offset)
    curve = PriceCurve.from_intervals(TimeOfUse(0.2, zones, timezone).intervals(start - 60, start + seconds + 60))
    charge, credit, unpriced = price(start, start + seconds, seconds * 700.0, curve, {})
    by_second = [700.0 / 3.6e6 * plainly(zones, 0.2, timezone, start + second) for second in range(seconds)]
    assert charge == pytest.approx(sum(amount for amount in by_second if amount > 0), rel=1e-9, abs=1e-15)
    assert credit == pytest.approx(-sum(amount for amount in by_second if amount < 0), rel=1e-9, abs=1e-15)
    assert unpriced == 0.0


@settings(max_examples=examples(30), deadline=None)
@given(zone_lists, timezones, st.integers(0, 400 * 86400), st.lists(st.integers(1, 10 * 86400), min_size=1, max_size=4))
def test_law_parts_of_a_range_have_the_same_prices(
    zones: list[Zone], timezone: str, offset: int, lengths: list[int]
) -> None:
    source = TimeOfUse(0.2, zones, timezone)
    start = at("2026-01-01") + offset
    parts: list[PriceInterval] = []
    moment = start
    for length in lengths:
        parts.extend(source.intervals(moment, moment + length))
        moment += length
    whole = source.intervals(start, moment)
    for part in parts:
        [inside] = [price for price in whole if price.start_seconds <= part.start_seconds < price.end_seconds]
        assert (inside.price_per_kwh, part.end_seconds <= inside.end_seconds) == (part.price_per_kwh, True)


@pytest.mark.parametrize("timezone", sorted(CHANGES))
def test_stretches_border_on_the_changes_of_the_clock(timezone: str) -> None:
    found = list(stretches(ZoneInfo(timezone), at("2026-01-01"), at("2027-01-01")))
    assert [start for start, _, _ in found[1:]] == [at(text) for text in CHANGES[timezone]]
    assert [end for _, end, _ in found[:-1]] == [start for start, _, _ in found[1:]]


@pytest.mark.parametrize("nudge", [timedelta(0), timedelta(seconds=1), timedelta(seconds=-1), timedelta(seconds=0.5)])
def test_range_may_start_or_end_at_the_change_itself(nudge: timedelta) -> None:
    change = at("2026-03-29T01:00") + nudge.total_seconds()
    assert_law([Zone(0.5, hours=((60, 180),))], BERLIN, change, change + 7200, 60)
    assert_law([Zone(0.5, hours=((60, 180),))], BERLIN, change - 7200, change, 60)
