"""A contract with prices by local time and calendar.

As in evcc: a default price and a list of zones, of which the last match applies; with validity dates and holidays. A zone
is matched against the local date and time of the moment itself: after midnight it is the next day.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from zoneinfo import ZoneInfo

from tpw.model import PriceInterval
from tpw.settings.shapes import BAD, ListOf, Report, Section, setting
from tpw.tariff import Layer
from tpw.tariff.context import FeedContext
from tpw.tariff.fields import PRICE, includes_vat_setting
from tpw.tariff.holidays import IsHoliday, is_holiday
from tpw.tariff.local_time import DAY_SECONDS, calendar_day, stretches
from tpw.tariff.sanity import check_plausible
from tpw.tariff.settings import Tariff
from tpw.tariff.spans import merged
from tpw.tariff.times import SUNDAY, Times


@dataclass(frozen=True, slots=True)
class Zone(Times):
    """A price for some of the time. A missing key does not restrict. All times are local (`tariff.timezone`)."""

    price_per_kwh: float = setting(PRICE, "Price per kWh while the zone matches.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeOfUseLayer(Layer):
    """A price by local time and calendar."""

    price_per_kwh: float = setting(PRICE, "Price per kWh where no zone matches.")
    zones: tuple[Zone, ...] = setting(
        ListOf(Section(Zone), "a list of zones"), "Zones with other prices; the last match applies.", default=()
    )
    includes_vat: bool = includes_vat_setting()

    @property
    def needs_network(self) -> bool:
        """See Layer."""
        return False

    def check(self, path: str, tariff: Tariff, report: Report) -> None:
        """See Layer."""
        tariff.check_timezone(report)
        check_plausible(f"{path}.price_per_kwh", self.price_per_kwh, tariff.currency, report)
        for index, zone in enumerate(self.zones or ()):
            if zone is BAD:
                continue
            check_plausible(f"{path}.zones[{index}].price_per_kwh", zone.price_per_kwh, tariff.currency, report)
            zone.check_times(f"{path}.zones[{index}]", report)

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
        self._cuts = sorted({0, *(minute for zone in zones for minute in zone.bounds())})

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
                    if piece_start < piece_end and price is not None:
                        pieces.append(PriceInterval(piece_start, piece_end, price))
                midnight += DAY_SECONDS
        return merged(pieces)

    def _day(self, day: date) -> list[tuple[int, int, float | None]]:
        """(from, to, price or None where it is not known) in seconds of the local day."""
        applies: dict[tuple[int, bool], bool | None] = {}
        cuts = self._cuts

        def price_at(minute: int) -> float | None:
            for index, zone in enumerate(self._last_first):
                if zone.applies_at(minute):
                    key = index, minute < zone.day_starts
                    if key not in applies:
                        applies[key] = self._applies(zone, day - timedelta(days=1) if key[1] else day)
                    if applies[key] is not False:
                        return zone.price_per_kwh if applies[key] else None
            return self._price_per_kwh

        return [
            (cut * 60, (cuts[index + 1] if index + 1 < len(cuts) else 1440) * 60, price_at(cut))
            for index, cut in enumerate(cuts)
        ]

    def _applies(self, zone: Zone, day: date) -> bool | None:
        weekday = SUNDAY if self._is_holiday is not None and self._is_holiday(day) else day.weekday()
        return zone.applies_on(day, weekday)
