"""Hours, days and months of a zone's calendar, and the range that a report covers.

Rows are quarter-hours of UTC. The offset of every current zone is whole quarter-hours, so local days cut no row. Days with
a clock change have 23 or 25 hours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from tpw.ledger.books import ROW_SECONDS

_HOUR_SECONDS = 3600.0


class Unit(StrEnum):
    """Units of time to group by."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, slots=True, order=True)
class Period:
    """[start, end), Unix seconds."""

    start_seconds: float
    end_seconds: float

    def within(self, other: Period) -> Period:
        """The part that lies in another one."""
        return Period(
            max(self.start_seconds, other.start_seconds),
            min(self.end_seconds, other.end_seconds),
        )


class RangeError(ValueError):
    """An invalid range. The message is a whole sentence."""


class Calendar:
    """The calendar of a zone. The last period of each unit is cached: ask in order of time."""

    def __init__(self, timezone: str) -> None:
        self.timezone = timezone
        self.zone = ZoneInfo(timezone)
        self._last: dict[Unit, Period] = {}

    def period(self, unit: Unit, at_seconds: float) -> Period:
        """The hour, day or month of a moment."""
        last = self._last.get(unit)
        if last is None or not last.start_seconds <= at_seconds < last.end_seconds:
            last = self._last[unit] = self._period(unit, at_seconds)
        return last

    def _period(self, unit: Unit, at_seconds: float) -> Period:
        local = self.local(at_seconds)
        if unit is Unit.HOUR:
            offset = local.utcoffset() or timedelta()
            start = at_seconds - (at_seconds + offset.total_seconds()) % _HOUR_SECONDS
            return Period(start, start + _HOUR_SECONDS)
        day = local.date()
        if unit is Unit.DAY:
            return Period(self.midnight(day), self.midnight(day + timedelta(days=1)))
        first = day.replace(day=1)
        following = (first + timedelta(days=32)).replace(day=1)
        return Period(self.midnight(first), self.midnight(following))

    def midnight(self, day: date) -> float:
        """When a day begins."""
        return datetime.combine(day, time(), self.zone).timestamp()

    def local(self, at_seconds: float) -> datetime:
        """A moment on the zone's clock."""
        return datetime.fromtimestamp(at_seconds, UTC).astimezone(self.zone)

    def name(self, unit: Unit, period: Period) -> str:
        """2026-10, 2026-10-25, or 2026-10-25T02:00+01:00: an hour has its offset, since one in autumn occurs twice."""
        local = self.local(period.start_seconds)
        if unit is Unit.MONTH:
            return f"{local:%Y-%m}"
        if unit is Unit.DAY:
            return f"{local:%Y-%m-%d}"
        return local.isoformat(timespec="minutes")


def range_of(
    calendar: Calendar,
    now_seconds: float,
    *,
    since: str | None = None,
    until: str | None = None,
    month: str | None = None,
    last: str | None = None,
) -> Period:
    """The range of the command line. Default: the last seven days, today included.

    Args:
        calendar: of the zone.
        now_seconds: Unix time.
        since: a day, or a moment such as 2026-10-25T06:00.
        until: a day, which is included, or a moment.
        month: such as 2026-10.
        last: such as 7d or 24h, today or this hour included.

    Raises:
        RangeError: the range is invalid, contradictory, or cuts a quarter-hour.
    """
    given = [name for name, value in (("--from/--to", since or until), ("--month", month), ("--last", last)) if value]
    if len(given) > 1:
        raise RangeError(f"{' and '.join(given)} exclude each other: give one of them")
    if month:
        return _month(calendar, month)
    if since or until:
        start = _moment(calendar, since) if since else 0.0
        end = _moment(calendar, until, is_end=True) if until else calendar.period(Unit.DAY, now_seconds).end_seconds
        if start >= end:
            raise RangeError(f"nothing lies between --from={since or ''} and --to={until or 'now'}")
        return Period(start, end)
    return _last(calendar, now_seconds, last or "7d")


def _month(calendar: Calendar, text: str) -> Period:
    match = re.fullmatch(r"(\d{4})-(\d{2})", text)
    if match is None or not 1 <= int(match.group(2)) <= 12 or int(match.group(1)) < 1970:
        raise RangeError(f"--month={text} is no month: write 2026-10")
    return calendar.period(Unit.MONTH, calendar.midnight(date(int(match.group(1)), int(match.group(2)), 1)))


def _last(calendar: Calendar, now_seconds: float, text: str) -> Period:
    match = re.fullmatch(r"([1-9]\d{0,4})([hdw])", text)
    if match is None:
        raise RangeError(f"--last={text} is no length of time: write 24h, 7d or 4w")
    count, unit = int(match.group(1)), match.group(2)
    if unit == "h":
        end = calendar.period(Unit.HOUR, now_seconds).end_seconds
        return Period(max(0.0, end - count * _HOUR_SECONDS), end)
    days = count * 7 if unit == "w" else count
    today = calendar.local(now_seconds).date()
    if days > (today - date(1970, 1, 2)).days:
        raise RangeError(f"--last={text} goes back to before 1970")
    return Period(calendar.midnight(today - timedelta(days=days - 1)), calendar.midnight(today + timedelta(days=1)))


def _moment(calendar: Calendar, text: str, *, is_end: bool = False) -> float:
    """Of a day its midnight, or as an end the midnight after it; of a moment itself, on the zone's clock where it names no
    offset."""
    option = "--to" if is_end else "--from"
    try:
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            day = date.fromisoformat(text)
            return calendar.midnight(day + timedelta(days=1) if is_end else day)
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise RangeError(f"{option}={text} is no day or moment: write 2026-10-25 or 2026-10-25T06:00") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=calendar.zone)
    seconds = moment.timestamp()
    if seconds % ROW_SECONDS:
        raise RangeError(f"{option}={text} lies within a quarter-hour, and the books are kept by quarter-hours")
    return seconds
