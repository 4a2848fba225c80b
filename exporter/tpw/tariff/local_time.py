"""Local time over a range of UTC, as stretches with a constant UTC offset.

The clock is set forward or back between stretches. The hour that occurs twice in autumn is in two stretches, and the hour
that is skipped in spring is in none.
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

    The offset is sampled once a day, and a change is bisected to the second: no zone changes its clock forth and back
    within a day.
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
    """The first whole second in (low, high] with another offset. Zones change on whole seconds."""
    before, after = int(low // 1), -int(-high // 1)
    while after - before > 1:
        middle = (before + after) // 2
        if offset_seconds(zone, middle) == old_offset:
            before = middle
        else:
            after = middle
    return float(after)


def calendar_day(local_seconds: float) -> date:
    """The local day of a local time (Unix seconds + offset)."""
    return date.fromordinal(_EPOCH_ORDINAL + int(local_seconds // DAY_SECONDS))


def utc_seconds(stamp: str) -> float:
    """Unix seconds of an ISO 8601 time. Raises ValueError for a time without an offset: a guessed zone would shift
    prices."""
    moment = datetime.fromisoformat(stamp.strip())
    if moment.tzinfo is None:
        raise ValueError(f"{stamp} has no time zone")
    return moment.timestamp()
