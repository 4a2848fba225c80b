"""Billing months: from midnight of the billing day to that of the next month, in the tariff's time zone.

Months have 28 to 31 days, and an hour more or less where the clock changes. A monthly charge accrues in fractions of the
month it is in, so that twelve months cost twelve times the charge.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from zoneinfo import ZoneInfo


class BillingMonths:
    """The billing months of a contract.

    Args:
        timezone: of the contract's calendar.
        day: first day of a billing month, 1 to 28.
    """

    def __init__(self, timezone: str = "UTC", day: int = 1) -> None:
        self._zone = ZoneInfo(timezone)
        self._timezone, self._day = timezone, day
        self._last = (0.0, 0.0)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BillingMonths) and (self._timezone, self._day) == (other._timezone, other._day)

    def __hash__(self) -> int:
        return hash((self._timezone, self._day))

    def bounds(self, at_seconds: float) -> tuple[float, float]:
        """[start, end) of the month of a moment, Unix seconds."""
        start, end = self._last
        if not start <= at_seconds < end:
            # Moments come in order of time: nearly all fall into the month of the one before.
            day = datetime.fromtimestamp(at_seconds, UTC).astimezone(self._zone).date()
            months = day.year * 12 + day.month - 1 - (1 if day.day < self._day else 0)
            start, end = self._midnight(months), self._midnight(months + 1)
            self._last = (start, end)
        return start, end

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
