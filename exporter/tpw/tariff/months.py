"""Billing months: from midnight of the billing day to that of the next month, in the tariff's time zone.

Seasons and years are made of them.

Months have 28 to 31 days, and an hour more or less where the clock changes. A monthly charge accrues in fractions of the
month it is in, so that twelve months cost twelve times the charge.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from datetime import UTC, date, datetime, time
from zoneinfo import ZoneInfo

ALL_MONTHS = frozenset(range(1, 13))
_MEAN_MONTH_SECONDS = 86400.0 * 365.25 / 12.0


def whole_months(start_seconds: float, end_seconds: float) -> int:
    """The number of months in a period of whole months, 1 at least."""
    return max(1, round((end_seconds - start_seconds) / _MEAN_MONTH_SECONDS))


class BillingMonths:
    """The billing months of a contract.

    Args:
        timezone: of the contract's calendar.
        day: first day of a billing month, 1 to 28.
        starts: calendar months in which a period begins; all of them for months, one of them for years.
    """

    def __init__(self, timezone: str = "UTC", day: int = 1, starts: AbstractSet[int] = ALL_MONTHS) -> None:
        self._zone = ZoneInfo(timezone)
        self._identity = timezone, day, frozenset(starts)
        self._day, self._starts = day, frozenset(starts)
        self._last = (0.0, 0.0)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BillingMonths) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def bounds(self, at_seconds: float) -> tuple[float, float]:
        """[start, end) of the month of a moment, Unix seconds."""
        start, end = self._last
        if not start <= at_seconds < end:
            # Moments come in order of time: nearly all fall into the month of the one before.
            first = self._month(at_seconds)
            while first % 12 + 1 not in self._starts:
                first -= 1
            start, end = self._midnight(first), self._midnight(first + self._length(first))
            self._last = (start, end)
        return start, end

    def calendar_month(self, start_seconds: float) -> int:
        """The calendar month, 1 to 12, in which a period begins."""
        return self._month(start_seconds) % 12 + 1

    def _month(self, at_seconds: float) -> int:
        """The billing month of a moment, counted from year 0."""
        day = datetime.fromtimestamp(at_seconds, UTC).astimezone(self._zone).date()
        return day.year * 12 + day.month - 1 - (1 if day.day < self._day else 0)

    def _length(self, first: int) -> int:
        following = first + 1
        while following % 12 + 1 not in self._starts:
            following += 1
        return following - first

    def _midnight(self, months: int) -> float:
        """Midnight of the billing day of a month counted from year 0."""
        day = date(months // 12, months % 12 + 1, self._day)
        return datetime.combine(day, time(), self._zone).timestamp()

    def pieces(self, start_seconds: float, end_seconds: float) -> Iterator[tuple[float, float, float]]:
        """[start, end) cut where months begin: (start, end, start of the month)."""
        at = start_seconds
        while at < end_seconds:
            month, end = self.bounds(at)
            yield at, min(end, end_seconds), month
            at = end

    def between(self, start_seconds: float, end_seconds: float) -> float:
        """The number of months in [start, end): a second counts as its fraction of its month."""
        total = 0.0
        for start, end, month in self.pieces(start_seconds, end_seconds):
            first, last = self.bounds(month)
            total += (end - start) / (last - first)
        return total
