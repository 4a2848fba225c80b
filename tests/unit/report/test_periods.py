"""Local hours, days and months, and ranges of the command line."""

from __future__ import annotations

from datetime import datetime

import pytest

from tpw.report.periods import Calendar, Period, RangeError, Unit, range_of

BERLIN, KATHMANDU = Calendar("Europe/Berlin"), Calendar("Asia/Kathmandu")


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


NOW = at("2026-11-24T09:20:00+01:00")


def hours(period: Period) -> float:
    return (period.end_seconds - period.start_seconds) / 3600.0


@pytest.mark.parametrize(
    ("moment", "length"),
    [("2026-03-29T12:00+02:00", 23.0), ("2026-10-25T12:00+01:00", 25.0), ("2026-10-26T12:00+01:00", 24.0)],
)
def test_days_on_which_the_clock_is_changed_have_an_hour_less_or_more(moment: str, length: float) -> None:
    day = BERLIN.period(Unit.DAY, at(moment))
    assert hours(day) == length
    assert BERLIN.name(Unit.DAY, day) == moment[:10]


def test_the_hour_that_comes_twice_is_two_hours_with_two_names() -> None:
    first = BERLIN.period(Unit.HOUR, at("2026-10-25T02:30+02:00"))
    second = BERLIN.period(Unit.HOUR, at("2026-10-25T02:30+01:00"))
    assert first.end_seconds == second.start_seconds
    assert BERLIN.name(Unit.HOUR, first) == "2026-10-25T02:00+02:00"
    assert BERLIN.name(Unit.HOUR, second) == "2026-10-25T02:00+01:00"


def test_zones_that_are_quarters_of_an_hour_from_utc_cut_no_row() -> None:
    for unit in Unit:
        period = KATHMANDU.period(unit, at("2026-11-24T00:10+05:45"))
        assert period.start_seconds % 900.0 == 0.0
        assert KATHMANDU.local(period.start_seconds).minute == 0
    assert hours(KATHMANDU.period(Unit.MONTH, at("2026-11-24T00:10+05:45"))) == 30 * 24


def test_a_month_over_a_change_of_the_clock_is_its_days() -> None:
    month = BERLIN.period(Unit.MONTH, at("2026-10-31T23:59+01:00"))
    assert hours(month) == 31 * 24 + 1
    assert BERLIN.name(Unit.MONTH, month) == "2026-10"


@pytest.mark.parametrize(
    ("options", "start", "end"),
    [
        ({}, "2026-11-18T00:00+01:00", "2026-11-25T00:00+01:00"),
        ({"last": "1d"}, "2026-11-24T00:00+01:00", "2026-11-25T00:00+01:00"),
        ({"last": "6w"}, "2026-10-14T00:00+02:00", "2026-11-25T00:00+01:00"),
        ({"last": "24h"}, "2026-11-23T10:00+01:00", "2026-11-24T10:00+01:00"),
        ({"month": "2026-12"}, "2026-12-01T00:00+01:00", "2027-01-01T00:00+01:00"),
        ({"since": "2026-11-20"}, "2026-11-20T00:00+01:00", "2026-11-25T00:00+01:00"),
        ({"since": "2026-10-25", "until": "2026-10-25"}, "2026-10-25T00:00+02:00", "2026-10-26T00:00+01:00"),
        ({"since": "2026-11-20T06:15", "until": "2026-11-20T18:30Z"}, "2026-11-20T06:15+01:00", "2026-11-20T18:30Z"),
        ({"until": "2026-11-20"}, "1970-01-01T00:00Z", "2026-11-21T00:00+01:00"),
    ],
)
def test_ranges(options: dict[str, str], start: str, end: str) -> None:
    assert range_of(BERLIN, NOW, **options) == Period(at(start), at(end))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"month": "2026-10", "last": "7d"}, "--month and --last exclude each other"),
        ({"since": "2026-10-01", "month": "2026-10"}, "--from/--to and --month"),
        ({"month": "2026-13"}, "is no month: write 2026-10"),
        ({"month": "october"}, "is no month"),
        ({"last": "7"}, "write 24h, 7d or 4w"),
        ({"last": "0d"}, "write 24h, 7d or 4w"),
        ({"last": "99999w"}, "before 1970"),
        ({"since": "yesterday"}, "--from=yesterday is no day or moment"),
        ({"until": "2026-02-30"}, "--to=2026-02-30 is no day or moment"),
        ({"since": "2026-11-20T06:10"}, "lies within a quarter-hour"),
        ({"since": "2026-11-20", "until": "2026-11-19"}, "nothing lies between"),
        ({"since": "2027-01-01"}, "nothing lies between"),
    ],
)
def test_an_invalid_range_is_reported(options: dict[str, str], message: str) -> None:
    with pytest.raises(RangeError, match=message.replace(".", r"\.")):
        range_of(BERLIN, NOW, **options)
