"""Parsers of durations, hours, days, months and dates. All raise ValueError with a sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date

from tpw.settings.words import did_you_mean

_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})")
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

MINUTES_PER_DAY = 1440


def duration_seconds(text: str) -> float:
    """Seconds of ``1s``, ``500ms``, ``5m`` or ``1h30m``."""
    if re.fullmatch(r"[+-]?\d+(\.\d+)?", text):
        raise ValueError(f"`{text}` lacks a unit: write {text.lstrip('+-')}s for seconds, or ms, m, h, d")
    position, seconds, units = 0, 0.0, []
    for match in _DURATION_PART.finditer(text):
        if match.start() != position:
            break
        position = match.end()
        units.append(match.group(2))
        seconds += float(match.group(1)) * _UNIT_SECONDS[match.group(2)]
    if position != len(text) or not units:
        raise ValueError(f"`{text}` is not a duration: write 500ms, 1s, 5m or 1h30m")
    if len(set(units)) != len(units):
        raise ValueError(f"`{text}` names a unit twice")
    return seconds


def duration_text(seconds: float) -> str:
    """A duration in the largest unit that divides it."""
    if seconds < 1:
        return f"{seconds * 1000:g}ms"
    for unit in ("d", "h", "m"):
        if seconds % _UNIT_SECONDS[unit] == 0:
            return f"{seconds / _UNIT_SECONDS[unit]:g}{unit}"
    return f"{seconds:g}s"


def hour_range(text: str) -> tuple[int, int]:
    """(start, end) of ``22:00-06:00`` in minutes of the local day, end excluded; start > end extends past midnight."""
    parts = text.replace(" ", "").split("-")
    if len(parts) != 2:
        raise ValueError(f"`{text}` is not a range of hours: write 22:00-06:00")
    start, end = (_clock_minutes(part, text) for part in parts)
    if start == end:
        raise ValueError(f"`{text}` is empty: for the whole day leave the hours out, or write 00:00-24:00")
    if start == MINUTES_PER_DAY:
        raise ValueError(f"`{text}` starts at 24:00: write 00:00")
    return start, end


def _clock_minutes(part: str, text: str) -> int:
    match = _CLOCK.fullmatch(part)
    if match is None:
        raise ValueError(f"`{text}` is not a range of hours: write 22:00-06:00, 24-hour clock with minutes")
    hours, minutes = int(match.group(1)), int(match.group(2))
    if minutes > 59 or hours * 60 + minutes > MINUTES_PER_DAY:
        raise ValueError(f"`{part}` is not a time of day")
    return hours * 60 + minutes


def day_range(text: str) -> tuple[int, ...]:
    """Weekdays (Monday = 0) of ``mon``, ``mon-fri`` or ``sat-mon``."""
    start, end = _range(text, lambda word: _named(word, _DAYS, "day of the week", "mon, tue, wed, thu, fri, sat, sun"))
    return tuple((start + step) % 7 for step in range((end - start) % 7 + 1))


def month_range(text: str) -> tuple[int, ...]:
    """Months (January = 1) of ``7``, ``11-3`` or ``nov-mar``."""
    start, end = _range(text, _month)
    return tuple((start - 1 + step) % 12 + 1 for step in range((end - start) % 12 + 1))


def _month(word: str) -> int:
    if word.isdigit():
        if not 1 <= int(word) <= 12:
            raise ValueError(f"`{word}` is not a month: write 1 to 12")
        return int(word)
    return _named(word, _MONTHS, "month", "1 to 12, or jan to dec") + 1


def _range(text: str, read: Callable[[str], int]) -> tuple[int, int]:
    words = text.replace(" ", "").lower().split("-")
    if len(words) > 2 or not all(words):
        raise ValueError(f"`{text}` is not a range: write start-end")
    return read(words[0]), read(words[-1])


def _named(word: str, names: tuple[str, ...], what: str, known: str) -> int:
    for index, name in enumerate(names):
        if word == name or (len(word) > 3 and word.startswith(name)):
            return index
    raise ValueError(f"`{word}` is not a {what} ({known}){did_you_mean(word, names)}")


def calendar_date(text: str) -> date:
    """A day written as 2026-12-25."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"`{text}` is not a date: write 2026-12-25") from None
