"""Time in which the daemon was down, or up without its GPUs."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from support.days import START_MONOTONIC, START_WALL, Steps
from tpw.ledger.advance import advance
from tpw.ledger.books import ROW_SECONDS, Books
from tpw.ledger.rows import LATE_SECONDS
from tpw.ledger.tick import Policy, Tick
from tpw.model import AcceleratorReading, Gpu, GpuSample, Instant, Rate, StandingCharge
from tpw.store.files import FILE_NAME
from tpw.store.queries import rows_where
from tpw.store.sqlite import BooksFile

GPU = Gpu("GPU-0", 0, max_power_watts=1000.0)
HERE = AcceleratorReading((GPU,), ())
NOTHING = AcceleratorReading((), ())
POLICY = Policy(
    currency="EUR",
    curve=Steps((0.30, 0.10), 1800.0),
    rates=(Rate("hardware", 0.0003),),
    standing_charges=(StandingCharge("fixed", per_day=86.4),),
)


def tick_at(second: float, *, reports: bool = True) -> Tick:
    """A GPU at 500 W."""
    at = START_MONOTONIC + second
    sample = GpuSample(GPU.uuid, at, 1000.0 + 500.0 * second, 500.0)
    reading = replace(HERE, samples=(sample,)) if reports else NOTHING
    return Tick(Instant(at, START_WALL + second), reading)


class Disk:
    """The file between two lives of a daemon."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def restarted(self, books: Books) -> Books:
        """The books as the next daemon finds them."""
        self.save(books)
        file = BooksFile(self.directory)
        loaded = file.load()
        file.close()
        return loaded

    def save(self, books: Books) -> None:
        file = BooksFile(self.directory)
        file.load()
        file.save(books)
        file.close()

    def joules(self) -> dict[float, float]:
        """By start of the interval."""
        with closing(sqlite3.connect(self.directory / FILE_NAME)) as connection, connection:
            rows = rows_where(connection, "1", ())
        connection.close()
        return {start: sum(posting.joules for posting in row.values()) for start, row in rows.items()}


def played(*ticks: Tick, books: Books | None = None) -> Books:
    books = books or Books()
    for tick in ticks:
        books = advance(books, tick, POLICY)
    return books


def money(books: Books) -> dict[str, float]:
    costs: dict[str, float] = {}
    for posting in books.postings.values():
        for component, cost in posting.cost.items():
            costs[component] = costs.get(component, 0.0) + cost
    return costs


@pytest.mark.parametrize("restarts", [1, 2])
def test_a_driver_that_is_there_later_than_the_daemon_costs_neither_time_nor_money_nor_moves_energy(
    tmp_path: Path, restarts: int
) -> None:
    """After a boot the daemon is often up before the driver: the time it was down is caught up all the same."""
    before = played(tick_at(0), tick_at(1))
    disks = Disk(tmp_path / "a"), Disk(tmp_path / "b")
    at_once = played(tick_at(7200), tick_at(7201), books=disks[0].restarted(before))
    late = before
    for time in range(restarts):
        late = played(tick_at(7190 + time, reports=False), books=disks[1].restarted(late))
    late = played(tick_at(7199, reports=False), tick_at(7200), tick_at(7201), books=late)
    for disk, books in zip(disks, (at_once, late), strict=True):
        disk.save(books)

    assert sum(posting.seconds for posting in late.postings.values()) == pytest.approx(7201.0)
    assert money(late) == pytest.approx(money(at_once))
    assert money(late)["fixed"] == pytest.approx(7.201)
    assert disks[1].joules() == pytest.approx(disks[0].joules())
    assert len(disks[1].joules()) == 9


def test_charges_of_the_contract_wait_for_a_gpu_to_share_them() -> None:
    books = played(
        tick_at(0, reports=False), tick_at(1, reports=False), tick_at(600, reports=False), tick_at(601), tick_at(602)
    )
    assert money(books)["fixed"] == pytest.approx(0.602)
    assert sum(posting.seconds for posting in books.postings.values()) == pytest.approx(1.0)


def test_charges_that_come_with_a_reload_are_none_of_the_time_before() -> None:
    free = replace(POLICY, standing_charges=())
    books = Books()
    for second in (0, 1, 600):
        books = advance(books, tick_at(second, reports=False), free)
    assert money(played(tick_at(601), tick_at(602), books=books))["fixed"] == pytest.approx(0.002)


@pytest.mark.parametrize(("years", "joules", "anomalies"), [(12, 2500.0, {}), (-12, 1500.0, {"implausible": 1})])
def test_a_clock_that_is_years_off_at_the_start_books_no_years(
    tmp_path: Path, years: int, joules: float, anomalies: dict[str, int]
) -> None:
    """Joules of a downtime are accepted as far as they fit the time by the clock."""
    books = Disk(tmp_path).restarted(played(tick_at(0), tick_at(1)))
    off = years * 365 * 86400.0
    for second in (3, 4):
        tick = tick_at(second)
        books = played(replace(tick, at=replace(tick.at, wall_seconds=tick.at.wall_seconds + off)), books=books)
    books = played(tick_at(5), books=books)

    assert sum(posting.joules for posting in books.postings.values()) == pytest.approx(joules)
    assert books.gpus[GPU.uuid].anomalies == anomalies
    assert sum(posting.seconds for posting in books.postings.values()) == pytest.approx(3.0)
    assert money(books)["fixed"] == pytest.approx(0.003)


def test_after_weeks_of_silence_the_last_days_are_booked_by_quarter_hours_and_those_before_by_days(
    tmp_path: Path,
) -> None:
    """Each moment at its price all the same. By quarter-hours throughout, a node of eight would need a gigabyte."""
    days = 40.0
    disk = Disk(tmp_path)
    books = disk.restarted(played(tick_at(0), tick_at(1)))
    second = days * 86400.0
    disk.save(played(tick_at(second), books=books))
    joules = disk.joules()
    end = START_WALL + second
    fine = [start for start in joules if start >= end - LATE_SECONDS]
    assert len(fine) == LATE_SECONDS / ROW_SECONDS, "as far back as a price may come late"
    assert len(joules) < 32 + 9 * 96
    assert all(start % ROW_SECONDS == 0.0 for start in joules)
    assert sum(joules.values()) == pytest.approx(500.0 * second)
    in_full = [start for start in sorted(joules) if start < end - 10 * 86400.0][2:]
    assert all(start % 86400.0 == 43200.0 and joules[start] == pytest.approx(500.0 * 86400.0) for start in in_full)
    booked = played(tick_at(second), books=books)
    assert money(booked)["energy"] == pytest.approx(500.0 * second / 3.6e6 * 0.2, rel=1e-3)
    assert money(booked)["hardware"] == pytest.approx(0.0003 * second)
    assert money(booked)["fixed"] == pytest.approx(0.001 * second)


@pytest.mark.parametrize("step", [3600.0, -3600.0, 30 * 86400.0, -4000 * 86400.0])
def test_a_wrong_clock_at_a_restart_of_the_daemon_costs_nothing(tmp_path: Path, step: float) -> None:
    """The monotonic clock goes on over a restart of the daemon, and so measures how long it was down."""

    def booked(wrong_by: float, boot: str) -> tuple[float, ...]:
        directory = tmp_path / f"{wrong_by} {boot}"
        books = Books()
        for second in range(5):
            books = advance(books, tick_at(second), POLICY)
        file = BooksFile(directory, boot="one")
        file.load()
        file.save(books)
        file.close()
        file = BooksFile(directory, boot=boot)
        books = file.load()
        file.close()
        for second in range(60, 64):
            tick = tick_at(second)
            at = replace(tick.at, wall_seconds=tick.at.wall_seconds + (wrong_by if second < 62 else 0.0))
            books = advance(books, replace(tick, at=at), POLICY)
        [account] = books.gpus.values()
        postings = books.postings.values()
        return (
            sum(posting.joules for posting in postings),
            sum(posting.seconds for posting in postings),
            sum(sum(cost for name, cost in posting.cost.items() if name != "energy") for posting in postings),
            account.unmetered_seconds,
        )

    right = booked(0.0, "one")
    assert right == pytest.approx((63 * 500.0, 63.0, 63 * 0.0013, 0.0))
    assert booked(step, "one") == pytest.approx(right)
    assert booked(0.0, "two") == pytest.approx(right)
    # After a restart of the machine the wall clock is the only one: what it cannot explain is not booked.
    assert booked(-4000 * 86400.0, "two")[0] < right[0]
