"""Unmetered time: when energy is given up, and which ratios that withholds."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from support.snapshots import EPOCH
from tpw.ledger.advance import advance
from tpw.ledger.booking import extend
from tpw.ledger.books import Books, Pending, PostingKey
from tpw.ledger.tick import Policy, Tick
from tpw.model import (
    AcceleratorReading,
    Attribution,
    EnergyMethod,
    Gpu,
    GpuFault,
    GpuSample,
    HostSample,
    Instant,
    Ownership,
    Reason,
    State,
)

COUNTER = Gpu("GPU-0", 0, max_power_watts=700.0)
POWER = replace(COUNTER, energy_method=EnergyMethod.AVERAGE_POWER)
OWNERS = {"big": Ownership("big", frozenset({"GPU-0"}), Attribution.CONFIGURED, model="m", has_counters=False)}

Reading = tuple[float, float | None, float | None]
"""(second, joules, watts)."""


def played(gpu: Gpu, *readings: Reading | float) -> list[Books]:
    """The books after each reading; a number alone is a tick at which the GPU did not answer."""
    books, all_books = Books(), []
    for one in readings:
        second, joules, watts = one if isinstance(one, tuple) else (one, None, None)
        at = Instant(1000.0 + second, EPOCH + second)
        sample = GpuSample("GPU-0", at.monotonic_seconds, joules, watts, utilization_ratio=0.5)
        fault = GpuFault("GPU-0", at.monotonic_seconds, Reason.LOST, "gone")
        reading = (
            AcceleratorReading((gpu,), (sample,))
            if isinstance(one, tuple)
            else AcceleratorReading((gpu,), (), (fault,))
        )
        books = advance(books, Tick(at, reading, owners=OWNERS), Policy())
        all_books.append(books)
    return all_books


def unmetered(books: list[Books]) -> list[float]:
    return [one.gpus["GPU-0"].unmetered_seconds for one in books]


def metered(books: list[Books]) -> list[bool]:
    lost = [0.0, *(one.servers["big"].window[-1].lost_joules for one in books)]
    return [after == before for before, after in pairwise(lost)]


def booked(books: Books) -> float:
    return sum(posting.joules for posting in books.postings.values())


def test_a_lost_gpu_without_a_counter_is_unmetered_from_when_nothing_can_be_integrated_any_more() -> None:
    books = played(POWER, (0.0, None, 300.0), (1.0, None, 300.0), 2.0, 3.0, 4.0, 5.0, 6.0, (7.0, None, 300.0))

    assert unmetered(books) == [0.0, 0.0, 0.0, 0.0, 0.0, 4.0, 5.0, 6.0]
    assert booked(books[-1]) == 300.0


def test_a_lost_gpu_with_a_counter_is_waited_for_and_nothing_of_it_is_unmetered() -> None:
    books = played(COUNTER, (0.0, 1000.0, None), *map(float, range(1, 100)), (100.0, 31000.0, None))

    assert unmetered(books) == [0.0] * 101
    assert booked(books[-1]) == 30000.0


def test_a_gpu_that_never_answered_is_unmetered_from_the_start() -> None:
    assert unmetered(played(COUNTER, 0.0, 1.0, 2.0)) == [0.0, 1.0, 2.0]


def test_a_reset_books_what_the_counter_shows_in_the_state_of_its_time_and_the_time_is_unmetered() -> None:
    books = played(COUNTER, (0.0, 1e6, None), (1.0, 1e6 + 300, None), (2.0, 200.0, None))

    assert unmetered(books) == [0.0, 0.0, 1.0]
    assert booked(books[-1]) == 500.0
    assert {key.state for key, posting in books[-1].postings.items() if posting.joules} == {State.ACTIVE}


@pytest.mark.parametrize(
    "readings",
    [
        [(0.0, 1e6, None), (1.0, 1e6 + 300, None), (2.0, 200.0, None), (3.0, 500.0, None)],
        [(0.0, 1e6, None), (1.0, 1e6 + 300, None), (2.0, 9e6, None), (3.0, 9e6 + 300, None)],
    ],
    ids=["reset", "implausible"],
)
def test_a_tick_that_is_not_metered_is_no_part_of_a_live_ratio(readings: list[Reading]) -> None:
    assert metered(played(COUNTER, *readings)) == [True, True, False, True]


def test_a_gap_without_a_counter_is_no_part_of_a_live_ratio() -> None:
    readings: list[Reading] = [(0.0, None, 300.0), (1.0, None, 300.0), (31.0, None, 300.0), (32.0, None, 300.0)]

    assert metered(played(POWER, *readings)) == [True, True, False, True]


@pytest.mark.parametrize("watts", [0.0, 5000.0])
def test_rejected_power_is_not_exposed(watts: float) -> None:
    accepted, rejected = played(COUNTER, (0.0, 1000.0, 300.0), (1.0, 1300.0, watts))[:2]

    assert accepted.gpus["GPU-0"].sample is not None and accepted.gpus["GPU-0"].sample.power_watts == 300.0
    assert rejected.gpus["GPU-0"].sample is not None and rejected.gpus["GPU-0"].sample.power_watts is None


@pytest.mark.parametrize(("every", "last_shown"), [(1.0, 3.0), (30.0, 90.0)])
def test_power_of_a_host_meter_that_fell_silent_is_shown_no_longer(every: float, last_shown: float) -> None:
    """A meter of half a minute is not silent in between; one of every second is after three."""
    books, nothing = Books(), AcceleratorReading((), ())

    def tick(second: float, *samples: HostSample) -> float | None:
        nonlocal books
        books = advance(books, Tick(Instant(1000.0 + second, EPOCH + second), nothing, samples), Policy())
        return books.hosts["node"].power_watts

    first = [tick(second, HostSample("node", 1000.0 + second, 10.0 * second, 300.0)) for second in (0.0, every)]
    energy = books.hosts["node"].joules
    between = [tick(every + second) for second in (1.0, last_shown - 0.5, last_shown, last_shown + 0.5)]

    assert first == [300.0, 300.0]
    assert between == [300.0, 300.0, 300.0, None]
    assert books.hosts["node"].joules == energy > 0.0
    assert tick(every + last_shown + 5.0, HostSample("node", 1000.0 + every + last_shown + 5.0, 1e4, 310.0)) == 310.0


def test_time_of_a_gpu_that_is_silent_for_long_stays_complete_though_the_clock_was_set_back() -> None:
    """The oldest pieces become one; what is negative would take joules back."""
    pending: tuple[Pending, ...] = ()
    for number in range(1000):
        shares = ((PostingKey("GPU-0", f"s{number % 2}", "m", State.ACTIVE), 1.0),)
        end = 10_000.0 + 2.0 * number - (5_000.0 if number > 0 else 0.0)
        pending = extend(pending, end - 2.0, end, shares)
    lengths = [piece.end_seconds - piece.start_seconds for piece in pending]
    assert len(pending) < 1000
    assert min(lengths) > 0.0
    assert sum(lengths) == 2000.0
