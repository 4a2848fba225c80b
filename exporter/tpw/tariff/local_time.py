"""Local clock time over a range of UTC, as stretches in which it runs evenly.

Inside a stretch, local time is UTC plus a constant; at its borders a clock is put forward or back. Whatever depends on
the local clock is decided stretch by stretch, so the hour that comes twice in autumn is simply two stretches showing
the same clock, and the hour that is missing in spring is in none.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, tzinfo

DAY_SECONDS = 86400

_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()


def offset_seconds(zone: tzinfo, at_seconds: float) -> int:
    """UTC offset of a zone at a moment, seconds east."""
    offset = datetime.fromtimestamp(at_seconds, UTC).astimezone(zone).utcoffset()
    return 0 if offset is None else round(offset.total_seconds())


def stretches(zone: tzinfo, start_seconds: float, end_seconds: float) -> Iterator[tuple[float, float, int]]:
    """(start, end, offset) of every stretch of [start, end), in order, without gaps.

    The clock is looked at once a day, and a change found is bisected to the second. (No zone changes its clock back and
    forth within one day.)
    """
    begun, offset = start_seconds, offset_seconds(zone, start_seconds)
    at = start_seconds
    while at < end_seconds:
        following = min(at + DAY_SECONDS, end_seconds)
        new_offset = offset_seconds(zone, following)
        if new_offset != offset:
            change = _change(zone, at, following, offset)
            if change < end_seconds:
                if change > begun:
                    yield begun, change, offset
                begun, offset = change, new_offset
        at = following
    if end_seconds > begun:
        yield begun, end_seconds, offset


def _change(zone: tzinfo, low: float, high: float, old_offset: int) -> float:
    """The whole second in (low, high] at which the offset is no longer the old one. Zones change on whole seconds."""
    before, after = int(low // 1), -int(-high // 1)
    while after - before > 1:
        middle = (before + after) // 2
        if offset_seconds(zone, middle) == old_offset:
            before = middle
        else:
            after = middle
    return float(after)


def calendar_day(local_seconds: float) -> date:
    """The local day of a local clock reading (Unix seconds plus offset)."""
    return date.fromordinal(_EPOCH_ORDINAL + int(local_seconds // DAY_SECONDS))


def utc_seconds(stamp: str) -> float:
    """Unix seconds of an ISO 8601 stamp that says its offset. Raises ValueError for one that does not: guessing a zone
    would shift every price."""
    moment = datetime.fromisoformat(stamp.strip())
    if moment.tzinfo is None:
        raise ValueError(f"{stamp} names no time zone")
    return moment.timestamp()
