"""Hours, days, weeks and months of a zone's calendar.

Rows are quarter-hours of UTC. The offset of every current zone is whole quarter-hours, so local days cut no row. Days with
a clock change have 23 or 25 hours.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

_HOUR_SECONDS = 3600.0


class Unit(StrEnum):
    """Units of time to group by."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
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


class Calendar:
    """The calendar of a zone. The last period of each unit is cached: ask in order of time."""

    def __init__(self, timezone: str) -> None:
        self.timezone = timezone
        self.zone = ZoneInfo(timezone)
        self._last: dict[Unit, Period] = {}

    def period(self, unit: Unit, at_seconds: float) -> Period:
        """The hour, day, week (from Monday on) or month of a moment."""
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
        if unit is Unit.WEEK:
            monday = day - timedelta(days=day.weekday())
            return Period(self.midnight(monday), self.midnight(monday + timedelta(days=7)))
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
        """2026-10, 2026-W43 (ISO 8601), 2026-10-25, or 2026-10-25T02:00+01:00: an hour has its offset, since one in autumn
        occurs twice."""
        local = self.local(period.start_seconds)
        if unit is Unit.WEEK:
            return f"{local:%G-W%V}"
        if unit is Unit.MONTH:
            return f"{local:%Y-%m}"
        if unit is Unit.DAY:
            return f"{local:%Y-%m-%d}"
        return local.isoformat(timespec="minutes")
