"""The law of periods: what is exposed of the day, the week and the month is what a report of them shows, at any moment."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.examples import examples
from support.quarters import MODELS, POLICY, ticks
from tpw.daemon.periods import PeriodSums
from tpw.daemon.persistence import Persistence
from tpw.ledger.advance import advance
from tpw.ledger.amounts import Amounts, Served
from tpw.ledger.books import Books, Correction
from tpw.ledger.periods import Periods, ToDate, by_server
from tpw.ledger.rows import price_late
from tpw.ledger.tick import Tick
from tpw.model import PriceInterval, TokenKind
from tpw.report.periods import Calendar, Period, Unit
from tpw.report.tabulate import Dimension, Report, Tabulation
from tpw.store.editing import correct, editing
from tpw.store.reading import BooksReader
from tpw.store.sqlite import BooksFile, History

BEGIN = datetime.fromisoformat("2026-10-24T08:00:00+00:00").timestamp()
"""The day before the clock change in Europe, eight before a month's end."""
DAYS = 9
TICKS = tuple(ticks(BEGIN, BEGIN + DAYS * 86400.0))


class Published:
    """An hourly price that is published up to a moment, below zero in some hours."""

    known_until = 0.0

    def pieces(self, start: float, end: float) -> Iterator[tuple[float, float, PriceInterval | None]]:
        at = start
        while at < end:
            hour = at // 3600.0
            until = min(end, (hour + 1.0) * 3600.0)
            price = 0.11 + 0.01 * (hour % 31) if hour % 7 else -0.04
            known = until <= self.known_until
            yield at, until, PriceInterval(hour * 3600.0, (hour + 1.0) * 3600.0, price) if known else None
            at = until


class Late:
    """Reads what periods need so many updates after it was wanted."""

    def __init__(self, periods: PeriodSums, updates: int) -> None:
        self._periods, self._updates = periods, updates
        self._waiting: list[tuple[int, Callable[[], None]]] = []
        self._number = 0
        periods.run = lambda read: self._waiting.append((self._number + updates, read))

    def update(self, before: Books, books: Books, zone: str) -> Periods | None:
        """As of the periods, which are unknown until the rows are read, and no longer."""
        self._number += 1
        while self._waiting and self._waiting[0][0] < self._number:
            self._waiting.pop(0)[1]()
        found = self._periods.update(before, books, zone)
        if self._waiting and not self._updates:
            self._waiting.pop(0)[1]()
            found = self._periods.update(books, books, zone)
        assert (found is None) == bool(self._waiting)
        return found


def reported(directory: Path, calendar: Calendar, covered: Period) -> Report:
    tabulation = Tabulation((Dimension.SERVER, Dimension.STATE), covered, calendar)
    with BooksReader(directory) as books:
        corrections = books.corrections(covered.start_seconds, covered.end_seconds)
        tabulation.add(
            books.rows(covered.start_seconds, covered.end_seconds),
            books.served(covered.start_seconds, covered.end_seconds),
            ((one.at_seconds, one.server, one.model, Served(tokens={one.kind: one.tokens})) for one in corrections),
        )
        return tabulation.report("EUR")


def assert_as_reported(to_date: ToDate, directory: Path, zone: str, now: float) -> None:
    assert list(to_date.periods) == ["day", "week", "month"]
    for name, sums in to_date.periods.items():
        calendar = Calendar(zone)
        report = reported(directory, calendar, calendar.period(Unit(name), now))
        lines = {(line.server or f"({line.state})", line.state): line.totals for line in report.lines}
        assert {key for key, amounts in sums.used.items() if amounts != Amounts()} <= lines.keys()
        servers = by_server(sums)
        for (server, state), totals in lines.items():
            found = sums.used.get((server, state), Amounts())
            for field in ("joules", "facility_joules", "unpriced_joules", "seconds", "net_cost", "net_energy_cost"):
                expected = pytest.approx(getattr(totals.amounts, field), rel=1e-9, abs=1e-9)
                assert getattr(found, field) == expected, (name, server, state, field)
            if state == "active":
                assert servers[server][1].tokens == pytest.approx(totals.served.tokens, rel=1e-9)


@settings(max_examples=examples(6))
@given(
    zone=st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu", "America/New_York"]),
    strides=st.lists(st.integers(1, 140), min_size=8, max_size=30),
    restart_every=st.integers(12, 40),
    late_hours=st.integers(0, 40),
    late_updates=st.integers(0, 8),
)
def test_periods_are_what_a_report_of_them_shows(
    zone: str, strides: list[int], restart_every: int, late_hours: int, late_updates: int
) -> None:
    curve = Published()
    policy = replace(POLICY, curve=curve)
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        now = BEGIN
        file = BooksFile(directory)
        books, periods = file.load(), Late(PeriodSums(file.history, 400 * 86400.0), 0)
        chosen, at = [TICKS[0]], 0
        while at < len(TICKS) - 141:
            at += strides[len(chosen) % len(strides)]
            chosen.append(TICKS[at])
        checks = {len(chosen) * part // 4 for part in (1, 2, 3)} | {2, len(chosen) - 1}
        for number, tick in enumerate(chosen):
            now = tick.at.wall_seconds
            curve.known_until = now - 3600.0 * late_hours
            before = price_late(advance(books, tick, policy), policy)
            books = file.save(before)
            found = periods.update(before, books, zone)
            if found is not None and number in checks:
                assert_as_reported(found.to_date(books), directory, zone, now)
            if number and number % restart_every == 0:
                file.close()
                if number % 2:
                    with editing(directory) as connection:
                        made = Correction(
                            now - 86400.0, "chat", MODELS["chat"], TokenKind.OUTPUT, -77.0, "x", now, "me"
                        )
                        correct(connection, made)
                file = BooksFile(directory)
                books, periods = file.load(), Late(PeriodSums(file.history, 400 * 86400.0), late_updates)
        file.close()


@pytest.mark.parametrize("late_updates", [0, 25])
def test_rows_that_leave_the_memory_late_or_return_to_it_are_counted_once(tmp_path: Path, late_updates: int) -> None:
    """The clock is set back by a day and forward again; the zone changes."""
    now, back = BEGIN, 0.0
    file = BooksFile(tmp_path, lambda: now)
    books, periods = file.load(), Late(PeriodSums(file.history, 400 * 86400.0), late_updates)
    shown = 0
    for number, tick in enumerate(ticks(BEGIN, BEGIN + 4 * 86400.0)):
        if number % 6:
            continue
        back = -86400.0 if 400 < number < 700 else 0.0
        zone = "Asia/Tokyo" if number > 900 else "Europe/Berlin"
        now = tick.at.wall_seconds + back
        before = advance(books, replace(tick, at=replace(tick.at, wall_seconds=now)), POLICY)
        books = file.save(before)
        found = periods.update(before, books, zone)
        if found is not None and number % 90 == 0:
            assert_as_reported(found.to_date(books), tmp_path, zone, now)
            shown += 1
    file.close()
    assert shown > 3


def booked(hours: float, zone: str = "Europe/Berlin", begin: float = BEGIN, keep: float = 400 * 86400.0) -> ToDate:
    """Books that are only in memory, of so many hours."""
    with tempfile.TemporaryDirectory() as place:
        file = BooksFile(Path(place), lambda: begin)
        books, periods = Books(), PeriodSums(file.history, keep)
        found = None
        for number, tick in enumerate(ticks(begin, begin + hours * 3600.0)):
            if number % 3 == 0:
                before = advance(books, tick, replace(POLICY, curve=None))
                books = file.save(before)
                found = periods.update(before, books, zone)
        file.close()
        assert found is not None
        return found.to_date(books)


def test_a_forecast_needs_a_day_of_the_books() -> None:
    assert list(booked(23.5).forecasts("month")) == []
    assert list(booked(24.5).forecasts("month")) != []


def test_the_forecasts_of_servers_and_idle_gpus_sum_to_what_an_even_pace_comes_to() -> None:
    """Hardware and hosting cost 1.2 an hour for each of three GPUs."""
    begin = datetime.fromisoformat("2026-10-01T00:00:00+02:00").timestamp()
    to_date = booked(9 * 24.0, begin=begin)
    forecasts = dict(to_date.forecasts("month"))
    assert list(forecasts) == ["(idle)", "chat", "code"]
    hours_of_the_month = 31 * 24 + 1
    assert sum(one.cost or 0.0 for one in forecasts.values()) == pytest.approx(3 * 1.2 * hours_of_the_month, rel=0.002)
    day = dict(booked(9 * 24.0 - 6.0, begin=begin).forecasts("day"))
    assert sum(one.cost or 0.0 for one in day.values()) == pytest.approx(3 * 1.2 * 24, rel=0.002)


def test_a_period_of_which_the_first_rows_are_not_kept_is_unknown() -> None:
    assert list(booked(6 * 24.0, keep=3 * 86400.0).periods) == ["day"]


def test_nothing_is_read_from_disk_while_days_pass(tmp_path: Path) -> None:
    reads = []
    file = BooksFile(tmp_path, lambda: BEGIN)

    def history(start: float, end: float) -> object:
        reads.append((start, end))
        return file.history(start, end)

    books, periods = file.load(), PeriodSums(history, 400 * 86400.0)  # type: ignore[arg-type]

    for number, tick in enumerate(ticks(BEGIN, BEGIN + DAYS * 86400.0)):
        if number % 12 == 0:
            before = advance(books, tick, POLICY)
            books = file.save(before)
            periods.update(before, books, "Europe/Berlin")
    file.close()
    assert len(reads) == 1


def test_a_damaged_row_leaves_the_periods_unknown_and_the_ticks_go_on(tmp_path: Path) -> None:
    def history(start: float, end: float) -> History:
        return History(rows=iter([None]))  # type: ignore[list-item]

    periods = PeriodSums(history, 400 * 86400.0)
    books = advance(Books(), TICKS[0], POLICY)
    assert periods.update(books, books, "UTC") is None
    assert periods.update(books, books, "UTC") is None


def test_books_that_are_kept_in_memory_have_no_history_to_begin_again_with() -> None:
    """At first there is nothing before. Later, what has left the memory is gone: periods that have begun are unknown."""
    now = BEGIN
    store = Persistence(None, lambda: 0.0, lambda: now)
    books: Books = Books()

    def update(tick: Tick, zone: str) -> list[str]:
        nonlocal books, now
        now = tick.at.wall_seconds
        before = advance(books, tick, POLICY)
        books = store.save(before)
        found = store.periods.update(before, books, zone)
        assert found is not None
        return list(found.to_date(books).periods)

    assert update(TICKS[0], "UTC") == update(TICKS[200], "UTC") == ["day", "week", "month"]
    assert update(TICKS[201], "Asia/Tokyo") == []
    # The week has begun meanwhile, the month has not.
    assert update(TICKS[1000], "Asia/Tokyo") == ["day", "week"]
