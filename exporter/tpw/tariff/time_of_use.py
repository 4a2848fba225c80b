"""A contract with prices by local time and calendar.

As in evcc: a default price and a list of zones, of which the last match applies; with validity dates and holidays. A zone
is matched against the local date and time of the moment itself: after midnight it is the next day.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from zoneinfo import ZoneInfo

from tpw.model import PriceInterval
from tpw.settings.shapes import BAD, ListOf, Report, Section, setting
from tpw.settings.values import DAYS, HOURS, MONTHS, calendar_date
from tpw.tariff import Layer
from tpw.tariff.context import FeedContext
from tpw.tariff.fields import PRICE, includes_vat_setting
from tpw.tariff.holidays import IsHoliday, check_region, holidays_region_setting, holidays_setting, is_holiday
from tpw.tariff.local_time import DAY_SECONDS, calendar_day, stretches
from tpw.tariff.sanity import check_plausible
from tpw.tariff.settings import Tariff
from tpw.tariff.spans import merged

SUNDAY = 6


@dataclass(frozen=True, slots=True)
class Zone:
    """A price for some of the time. A missing key does not restrict. All times are local (`tariff.timezone`)."""

    price_per_kwh: float = setting(PRICE, "Price per kWh while the zone matches.")
    hours: tuple[tuple[int, int], ...] = setting(
        HOURS,
        "Hours of the day, end excluded: `22:00-06:00` extends past midnight. One range or a list.",
        default=(),
        default_words="all hours",
    )
    days: frozenset[int] = setting(
        DAYS,
        "Days of the week, such as [mon-fri] or [sat, sun]. After midnight it is the next day.",
        default=frozenset(),
        default_words="all days",
    )
    months: frozenset[int] = setting(
        MONTHS, "Months, such as [11-3] or [6, 7, 8].", default=frozenset(), default_words="all months"
    )
    valid_from: date | None = setting(calendar_date(), "First day of the zone.", default=None)
    valid_to: date | None = setting(calendar_date(), "Last day of the zone, included.", default=None)

    def applies_on(self, day: date, weekday: int) -> bool:
        """Whether it applies on a local day (at some hours). The weekday of a holiday is a Sunday."""
        return (
            (not self.days or weekday in self.days)
            and (not self.months or day.month in self.months)
            and (self.valid_from is None or day >= self.valid_from)
            and (self.valid_to is None or day <= self.valid_to)
        )

    def applies_at(self, minute: float) -> bool:
        """Whether it applies at a minute of the local day."""
        return not self.hours or any(
            start <= minute < end if start < end else minute >= start or minute < end for start, end in self.hours
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeOfUseLayer(Layer):
    """A price by local time and calendar."""

    price_per_kwh: float = setting(PRICE, "Price per kWh where no zone matches.")
    zones: tuple[Zone, ...] = setting(
        ListOf(Section(Zone), "a list of zones"), "Zones with other prices; the last match applies.", default=()
    )
    holidays: frozenset[date] = holidays_setting("Sundays")
    holidays_region: str | None = holidays_region_setting("Sundays")
    includes_vat: bool = includes_vat_setting()

    @property
    def needs_network(self) -> bool:
        """See Layer."""
        return False

    def check(self, path: str, tariff: Tariff, report: Report) -> None:
        """See Layer."""
        tariff.check_timezone(report)
        check_region(path, self.holidays_region, report)
        check_plausible(f"{path}.price_per_kwh", self.price_per_kwh, tariff.currency, report)
        for index, zone in enumerate(self.zones or ()):
            if zone is BAD:
                continue
            check_plausible(f"{path}.zones[{index}].price_per_kwh", zone.price_per_kwh, tariff.currency, report)
            if zone.valid_from and zone.valid_to and zone.valid_from > zone.valid_to:
                report(f"{path}.zones[{index}].valid_to", "is before valid_from: the zone never applies")

    def source(self, tariff: Tariff, context: FeedContext) -> TimeOfUse:
        """See Layer."""
        del context
        holidays = is_holiday(self.holidays, self.holidays_region)
        return TimeOfUse(self.price_per_kwh, self.zones, tariff.timezone or "UTC", holidays)


class TimeOfUse:
    """A default price and zones; see :class:`Zone`. Days for which ``is_holiday`` is true count as Sundays."""

    name = "time_of_use"

    def __init__(
        self,
        price_per_kwh: float,
        zones: Sequence[Zone],
        timezone: str,
        is_holiday: IsHoliday | None = None,
    ) -> None:
        self._price_per_kwh = price_per_kwh
        self._last_first = tuple(reversed(zones))
        self._timezone = ZoneInfo(timezone)
        self._is_holiday = is_holiday
        self._cuts = sorted({0, *(minute % 1440 for zone in zones for pair in zone.hours for minute in pair)})

    def intervals(self, start_seconds: float, end_seconds: float) -> tuple[PriceInterval, ...]:
        """See PriceSource. Exact for any range."""
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
        zones = [zone for zone in self._last_first if zone.applies_on(day, weekday)]
        if not zones:
            return [(0, DAY_SECONDS, self._price_per_kwh)]
        cuts = self._cuts
        return [
            (cut * 60, (cuts[index + 1] if index + 1 < len(cuts) else 1440) * 60, self._price_at(cut, zones))
            for index, cut in enumerate(cuts)
        ]

    def _price_at(self, minute: int, zones: Sequence[Zone]) -> float:
        for zone in zones:
            if zone.applies_at(minute):
                return zone.price_per_kwh
        return self._price_per_kwh
