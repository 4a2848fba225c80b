"""When a part of a contract applies: hours, days, months, listed dates, first and last day.

All times are local to the contract. A zone of a price, a layer and a demand charge have the same keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import date
from functools import lru_cache
from pathlib import Path

from tpw.model import Reason, SourceError
from tpw.settings.scalars import text
from tpw.settings.shapes import FilePath, ListOf, Report, setting
from tpw.settings.values import DAYS, HOURS, MONTHS, calendar_date, clock_time
from tpw.tariff.holidays import check_region, holidays_region_setting, holidays_setting

SUNDAY = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Some of the time. A missing key does not restrict. All times are local (`tariff.timezone`)."""

    hours: tuple[tuple[int, int], ...] = setting(
        HOURS,
        "Hours of the day, end excluded: `22:00-06:00` extends past midnight. One range or a list.",
        default=(),
        default_words="all hours",
    )
    days: frozenset[int] = setting(
        DAYS,
        "Days of the week, such as [mon-fri] or [sat, sun].",
        default=frozenset(),
        default_words="all days",
    )
    months: frozenset[int] = setting(
        MONTHS, "Months, such as [11-3] or [6, 7, 8].", default=frozenset(), default_words="all months"
    )
    dates: frozenset[date] = setting(
        ListOf(calendar_date(), "a list of dates", or_one=True, gather=frozenset),
        "Listed days.",
        default=frozenset(),
        default_words="all days",
    )
    dates_file: str | None = setting(
        FilePath(),
        "CSV file of listed days, a date in the first column; read again when it changes.",
        default=None,
    )
    dates_value: str | None = setting(
        text("a value"),
        "The days of `dates_file` with this value in the second column, such as RED. A day that is not in the file is then"
        " unknown, and has no price.",
        default=None,
    )
    valid_from: date | None = setting(calendar_date(), "First day.", default=None)
    valid_to: date | None = setting(calendar_date(), "Last day, included.", default=None)
    day_starts: int = setting(
        clock_time(),
        "Time at which a day begins, for `days`, `months`, dates and holidays: with 06:00, the night belongs to the day"
        " before.",
        default=0,
        default_words="midnight",
    )

    @property
    def is_restricted(self) -> bool:
        """Whether there is time in which it does not apply."""
        return any(getattr(self, item.name) != item.default for item in fields(Times) if item.name != "day_starts")

    def applies_on(self, day: date, weekday: int, month: int | None = None) -> bool | None:
        """Whether it applies on a local day (at some hours); None where that is not known. The weekday of a holiday is a
        Sunday, ``month`` stands in for that of the day. Raises SourceError where the file of dates cannot be read."""
        return (
            (not self.days or weekday in self.days)
            and (not self.months or (month or day.month) in self.months)
            and (self.valid_from is None or day >= self.valid_from)
            and (self.valid_to is None or day <= self.valid_to)
            and ((not self.dates and self.dates_file is None) or day in self.dates or self._in_file(day))
        )

    def applies_at(self, minute: float) -> bool:
        """Whether it applies at a minute of the local day."""
        return not self.hours or any(
            start <= minute < end if start < end else minute >= start or minute < end for start, end in self.hours
        )

    def _in_file(self, day: date) -> bool | None:
        if self.dates_file is None:
            return False
        listed = dates_of(self.dates_file)
        if self.dates_value is None:
            return day in listed
        value = listed.get(day)
        return None if value is None else value.casefold() == self.dates_value.casefold()

    def check_times(self, path: str, report: Report) -> None:
        """Report settings that contradict or need each other."""
        if self.valid_from and self.valid_to and self.valid_from > self.valid_to:
            report(f"{path}.valid_to", "is before valid_from: it never applies")
        if self.dates_value is not None and self.dates_file is None:
            report(f"{path}.dates_value", "needs `dates_file`: the file with the values")

    def bounds(self) -> set[int]:
        """Minutes of the day at which it may begin or end to apply."""
        return {self.day_starts, *(minute % 1440 for pair in self.hours for minute in pair)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Calendar(Times):
    """Some of the time, with holidays."""

    holidays: frozenset[date] = holidays_setting("Sundays")
    holidays_region: str | None = holidays_region_setting("Sundays")

    def check_times(self, path: str, report: Report) -> None:
        """See Times."""
        Times.check_times(self, path, report)
        check_region(path, self.holidays_region, report)


def dates_of(path: str) -> Mapping[date, str]:
    """The days in a file, each with its value ("" where it has none). Raises SourceError."""
    try:
        status = Path(path).stat()
        return _read(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        reason = Reason.PERMISSION if isinstance(error, PermissionError) else Reason.ABSENT
        raise SourceError(reason, f"the dates cannot be read from {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise SourceError(Reason.MALFORMED, f"{path} is no text in UTF-8") from error


@lru_cache(maxsize=16)
def _read(path: str, changed_ns: int, size: int) -> Mapping[date, str]:
    del changed_ns, size  # of the version that is read
    lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    rows = [line.replace(";", ",").split(",") for line in lines if line.strip() and not line.startswith("#")]
    found: dict[date, str] = {}
    for number, row in enumerate(rows):
        try:
            day = date.fromisoformat(row[0].strip())
        except ValueError:
            if number == 0:
                continue  # a header
            raise SourceError(
                Reason.MALFORMED, f"{path}: `{row[0]}` is not a date", "write one day a line, such as 2026-12-25,RED"
            ) from None
        value = row[1].strip() if len(row) > 1 else ""
        if found.setdefault(day, value) != value:
            raise SourceError(Reason.MALFORMED, f"{path}: {day} has two values")
    return found
