"""The range that a report covers, by days of a zone's calendar."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta

from tpw.ledger.books import ROW_SECONDS
from tpw.ledger.calendar import Calendar, Period, Unit

__all__ = ["Calendar", "Period", "RangeError", "Unit", "range_of"]

_HOUR_SECONDS = 3600.0


class RangeError(ValueError):
    """An invalid range. The message is a whole sentence."""


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
