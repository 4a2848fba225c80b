"""A contract whose price depends on the local clock and calendar.

The shape is the one evcc has proved: a default price and a list of zones, of which the last that matches wins; with
validity dates and holidays added. A zone is matched against the local clock reading of the moment itself, nothing else:
after midnight it is the next day.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from importlib import import_module
from typing import Any
from zoneinfo import ZoneInfo

from tpw.model import PriceInterval
from tpw.tariff.local_time import DAY_SECONDS, calendar_day, stretches
from tpw.tariff.spans import merged

SUNDAY = 6


@dataclass(frozen=True, slots=True)
class Zone:
    """A price for some of the time. Empty restrictions do not restrict."""

    price_per_kwh: float
    hours: tuple[tuple[int, int], ...] = ()
    """(start, end) in minutes of the local day, end exclusive; start > end wraps past midnight."""
    days: frozenset[int] = frozenset()
    """Days of the week, Monday = 0."""
    months: frozenset[int] = frozenset()
    """Months, January = 1."""
    valid_from: date | None = None
    """First local day."""
    valid_to: date | None = None
    """Last local day, included."""

    def holds_on(self, day: date, weekday: int) -> bool:
        """Whether it holds on a local day (at some hours). The weekday of a holiday is a Sunday."""
        return (
            (not self.days or weekday in self.days)
            and (not self.months or day.month in self.months)
            and (self.valid_from is None or day >= self.valid_from)
            and (self.valid_to is None or day <= self.valid_to)
        )

    def holds_at(self, minute: float) -> bool:
        """Whether it holds at a minute of the local day."""
        return not self.hours or any(
            start <= minute < end if start < end else minute >= start or minute < end for start, end in self.hours
        )


class TimeOfUse:
    """A default price and zones; see :class:`Zone`. ``is_holiday`` tells local days that count as Sundays."""

    name = "time_of_use"

    def __init__(
        self,
        price_per_kwh: float,
        zones: Sequence[Zone],
        timezone: str,
        is_holiday: Callable[[date], bool] | None = None,
    ) -> None:
        self._price_per_kwh = price_per_kwh
        self._last_first = tuple(reversed(zones))
        self._timezone = ZoneInfo(timezone)
        self._is_holiday = is_holiday
        self._cuts = sorted({0, *(minute % 1440 for zone in zones for pair in zone.hours for minute in pair)})

    def intervals(self, start_seconds: float, end_seconds: float) -> tuple[PriceInterval, ...]:
        """Exact for any range; equal neighbours are one interval."""
        pieces: list[PriceInterval] = []
        for start, end, offset in stretches(self._timezone, start_seconds, end_seconds):
            local_start, local_end = start + offset, end + offset
            midnight = local_start // DAY_SECONDS * DAY_SECONDS
            while midnight < local_end:
                for from_second, to_second, price in self._day(calendar_day(midnight)):
                    piece_start = max(midnight + from_second, local_start) - offset
                    piece_end = min(midnight + to_second, local_end) - offset
                    if piece_start < piece_end:
                        pieces.append(PriceInterval(piece_start, piece_end, price))
                midnight += DAY_SECONDS
        return merged(pieces)

    def _day(self, day: date) -> list[tuple[int, int, float]]:
        """(from, to, price) in seconds of the local day."""
        weekday = SUNDAY if self._is_holiday is not None and self._is_holiday(day) else day.weekday()
        zones = [zone for zone in self._last_first if zone.holds_on(day, weekday)]
        if not zones:
            return [(0, DAY_SECONDS, self._price_per_kwh)]
        cuts = self._cuts
        return [
            (cut * 60, (cuts[index + 1] if index + 1 < len(cuts) else 1440) * 60, self._price_at(cut, zones))
            for index, cut in enumerate(cuts)
        ]

    def _price_at(self, minute: int, zones: Sequence[Zone]) -> float:
        for zone in zones:
            if zone.holds_at(minute):
                return zone.price_per_kwh
        return self._price_per_kwh


def holidays_of(region: str) -> Callable[[date], bool]:
    """Public holidays of a country (``DE``) or a subdivision (``DE-BY``), by the optional package ``holidays``.

    Raises ImportError where the package is not installed, ValueError where it does not know the region.
    """
    holidays: Any = import_module("holidays")
    country, _, subdivision = region.partition("-")
    try:
        calendar = holidays.country_holidays(country, subdiv=subdivision or None)
    except NotImplementedError as error:
        raise ValueError(f"the package `holidays` does not know the region {region}") from error

    def is_holiday(day: date) -> bool:
        return day in calendar

    return is_holiday
