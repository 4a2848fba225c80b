"""Keeps the sums of the day, the week and the month while the books advance.

The rows on disk are read once, beside the ticks: at the start, and again where the time zone changes or the clock is set to
another day. From that moment on the sums follow the rows that leave the memory of the books.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from math import inf

import structlog

from tpw.ledger.books import Books, Rows, ServedRows
from tpw.ledger.calendar import Calendar, Period, Unit
from tpw.ledger.periods import Adding, Periods, Sums, joined
from tpw.store.sqlite import History

_log = structlog.get_logger("tpw")

RECENT_DAYS = 7
"""Whole days before today for the pace of a forecast: each day of the week once."""

UNITS = (Unit.DAY, Unit.WEEK, Unit.MONTH)

RETRY_SECONDS = 60.0
"""Between two attempts to read books that cannot be read."""


@dataclass(slots=True)
class _Known:
    """Sums of the rows that have left the memory."""

    latest_seconds: float
    """Latest moment so far, by the clock or of a row: what begins later has no row on disk."""
    first_seconds: float
    pruned_seconds: float
    periods: dict[Unit, Sums]
    days: list[Sums]
    """The recent days, the oldest first."""
    published: Periods


@dataclass(slots=True)
class _Reading:
    """Rows on disk that are read beside the ticks."""

    left: list[tuple[Rows, ServedRows]] = field(default_factory=list)
    """Rows that have left the memory since it began."""
    known: _Known | None = None
    is_done: bool = False


class PeriodSums:
    """Belongs to the tick's thread.

    Args:
        history: the rows that are only on disk and began in [start, end); None while they cannot be read.
        keep_seconds: retention of the rows.
    """

    def __init__(self, history: Callable[[float, float], History | None], keep_seconds: float) -> None:
        self._history = history
        self.keep_seconds = keep_seconds
        self._calendar = Calendar("UTC")
        self._known: _Known | None = None
        self._reading: _Reading | None = None
        self._retry_at_seconds = -inf
        self.run: Callable[[Callable[[], None]], None] = _at_once
        """Runs what reads the rows: at once, or on another thread."""

    def update(self, before: Books, books: Books, timezone: str) -> Periods | None:
        """The periods of now; None until the rows are read, and while they cannot be.

        Args:
            before: the books after a tick, before they were written.
            books: the same, without the rows that only the disk has from now on.
            timezone: the tariff's.
        """
        if books.at is None:
            return None
        now = books.at.wall_seconds
        if timezone != self._calendar.timezone:
            self._calendar, self._known, self._reading = Calendar(timezone), None, None
        rows, served = {}, {}
        if books is not before:
            rows = {start: row for start, row in before.rows.items() if start not in books.rows}
            served = {start: row for start, row in before.served.items() if start not in books.served}
        if self._reading is not None and (rows or served):
            self._reading.left.append((rows, served))
        if self._known is not None:
            if self._follow(self._known, now):
                self._add(self._known, rows, served, now)
            else:
                self._known = None
        if self._known is None:
            self._known = self._finished(now)
        if self._known is None and self._reading is None and now >= self._retry_at_seconds:
            self._begin(now)  # what leaves the memory at this tick is on disk by now
            self._known = self._finished(now)
        return None if self._known is None else self._known.published

    def _begin(self, now: float) -> None:
        periods, recent = self._wanted(now)
        start = min([recent[0].start_seconds, *(period.start_seconds for period in periods.values())])
        history = self._history(start, inf)  # rows may be later than a clock that was set back
        if history is None:
            self._retry_at_seconds = now + RETRY_SECONDS
            return
        reading = self._reading = _Reading()
        calendar = self._calendar

        def read() -> None:
            try:
                reading.known = self._read(now, history, calendar, periods, recent)
            finally:
                reading.is_done = True

        self.run(read)

    def _finished(self, now: float) -> _Known | None:
        """What was read, and what has left the memory since."""
        reading = self._reading
        if reading is None or not reading.is_done:
            return None
        self._reading, known = None, reading.known
        self._retry_at_seconds = now + RETRY_SECONDS if known is None else -inf
        if known is None or not self._follow(known, now):
            return None
        for rows, served in reading.left:
            self._add(known, rows, served, now)
        return known

    def _wanted(self, now: float) -> tuple[dict[Unit, Period], list[Period]]:
        calendar = self._calendar
        today = calendar.local(now).date()
        midnights = [calendar.midnight(today + timedelta(days=count)) for count in range(-RECENT_DAYS, 2)]
        days = [Period(start, end) for start, end in pairwise(midnights)]
        return {unit: calendar.period(unit, now) for unit in UNITS}, days

    def _follow(self, known: _Known, now: float) -> bool:
        """Begin the periods that have begun. Returns False where rows on disk belong to one of them."""
        today = known.days[-1]
        if today.start_seconds <= now < today.end_seconds:
            known.latest_seconds = max(known.latest_seconds, now)
            return True
        periods, days = self._wanted(now)
        former = {(one.start_seconds, one.end_seconds): one for one in known.days}
        kept = {unit: known.periods.get(unit) for unit in UNITS}
        for unit, period in periods.items():
            one = kept[unit]
            if one is None or (one.start_seconds, one.end_seconds) != (period.start_seconds, period.end_seconds):
                if period.start_seconds < known.latest_seconds:
                    return False
                kept[unit] = Sums(period.start_seconds, period.end_seconds)
        for day in days:
            if (day.start_seconds, day.end_seconds) not in former and day.start_seconds < known.latest_seconds:
                return False
        known.periods = {unit: one for unit, one in kept.items() if one is not None}
        known.days = [
            former.get((day.start_seconds, day.end_seconds)) or Sums(day.start_seconds, day.end_seconds) for day in days
        ]
        known.latest_seconds = max(known.latest_seconds, now)
        self._publish(known, now)
        return True

    def _add(self, known: _Known, rows: Rows, served: ServedRows, now: float) -> None:
        if not rows and not served:
            return
        known.periods = {unit: sums.plus(rows, served) for unit, sums in known.periods.items()}
        known.days = [day.plus(rows, served) for day in known.days]
        recent = [start for start in (*rows, *served) if start >= known.days[0].start_seconds]
        known.first_seconds = min([known.first_seconds, *recent])
        known.latest_seconds = max([known.latest_seconds, *rows, *served])
        self._publish(known, now)

    def _publish(self, known: _Known, now: float) -> None:
        recent = joined(known.days, known.days[0].start_seconds, inf)
        oldest = max(known.pruned_seconds, now - self.keep_seconds)
        periods = {str(unit): sums for unit, sums in known.periods.items() if sums.start_seconds >= oldest}
        known.published = Periods(periods, recent, known.first_seconds)

    def _read(
        self, now: float, history: History, calendar: Calendar, periods: dict[Unit, Period], recent: list[Period]
    ) -> _Known | None:
        """Sums of the rows on disk. On any thread."""
        adding: dict[Period, Adding] = {}
        first, latest = inf, now

        def place(at: float) -> Adding:
            nonlocal first, latest
            latest = max(latest, at)
            if at >= recent[0].start_seconds:
                first = min(first, at)
            return adding.setdefault(calendar.period(Unit.DAY, at), Adding())

        try:
            for at, key, amounts in history.rows:
                place(at).use(key, amounts)
            for at, server, _, work in history.served:
                place(at).serve(server, work)
        except Exception:  # noqa: BLE001 - a row can be damaged in any way, and the ticks must go on
            _log.exception("periods_not_read", detail="The sums of the day, week and month are unknown.")
            return None
        days = {day: one.to(Sums(day.start_seconds, day.end_seconds)) for day, one in adding.items()}
        known = _Known(
            latest_seconds=latest,
            first_seconds=first,
            pruned_seconds=history.pruned_before_seconds,
            periods={
                unit: joined(
                    (
                        sums
                        for day, sums in days.items()
                        if period.start_seconds <= day.start_seconds < period.end_seconds
                    ),
                    period.start_seconds,
                    period.end_seconds,
                )
                for unit, period in periods.items()
            },
            days=[days.get(day) or Sums(day.start_seconds, day.end_seconds) for day in recent],
            published=Periods({}, Sums(0.0, 0.0), inf),
        )
        self._publish(known, now)
        return known


def _at_once(read: Callable[[], None]) -> None:
    read()
