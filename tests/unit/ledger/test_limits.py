"""How far back the ledger reaches: rows that stay open, downtime that is booked, samples of a live window."""

from __future__ import annotations

from itertools import pairwise

import pytest

from support.snapshots import EPOCH
from tpw.ledger.advance import advance
from tpw.ledger.amounts import Amounts
from tpw.ledger.books import ROW_SECONDS, Books, GpuAccount, Pending, PostingKey
from tpw.ledger.rows import open_from, without_closed
from tpw.ledger.tick import Policy, Tick
from tpw.model import AcceleratorReading, Attribution, Gpu, GpuSample, Instant, Ownership, State

DAY = 86400.0
GPU = Gpu("GPU-0", 0, max_power_watts=700.0)
IDLE = ((PostingKey("GPU-0", "", "", State.IDLE), 1.0),)


def silent_since(days: float) -> dict[str, GpuAccount]:
    return {"GPU-0": GpuAccount(GPU, pending=(Pending(EPOCH - days * DAY, EPOCH, IDLE),))}


@pytest.mark.parametrize(("silent_days", "open_days"), [(0.5, 0.5), (1.9, 1.9), (2.0, 2.0), (2.1, 2.0), (30.0, 2.0)])
def test_rows_stay_open_for_a_silent_gpu_for_two_days(silent_days: float, open_days: float) -> None:
    assert open_from(silent_since(silent_days), EPOCH) == pytest.approx(EPOCH - open_days * DAY)


def test_the_memory_of_a_gpu_that_is_silent_for_a_week_is_that_of_two_days() -> None:
    starts = [EPOCH - i * ROW_SECONDS for i in range(7 * 96)]
    rows = {start: {IDLE[0][0]: Amounts(seconds=ROW_SECONDS)} for start in starts}
    books = Books(at=Instant(0.0, EPOCH), gpus=silent_since(7.0), rows=rows)

    assert min(without_closed(books).rows) == EPOCH - 2 * DAY - ROW_SECONDS


@pytest.mark.parametrize(("days", "booked"), [(61.9, True), (62.1, False)])
def test_downtime_is_booked_up_to_two_months(days: float, booked: bool) -> None:
    """A longer time is a wrong clock, or a machine that was in storage."""
    reading = AcceleratorReading((GPU,), (GpuSample("GPU-0", 5.0, energy_joules=1e6),))
    before = advance(Books(), Tick(Instant(5.0, EPOCH), reading), Policy())
    resumed = Books(at=Instant(0.0, EPOCH), resumed=True, gpus=before.gpus)

    after = advance(resumed, Tick(Instant(5.0, EPOCH + days * DAY), reading), Policy())

    assert sum(amounts.seconds for amounts in after.postings.values()) == pytest.approx(days * DAY if booked else 0.0)


def windowed(interval_seconds: float, ticks: int, *, reset_at: int | None = None) -> Books:
    """The books of a GPU of 300 W with a reset of its counter at one tick."""
    owners = {"s": Ownership("s", frozenset({"GPU-0"}), Attribution.CONFIGURED, model="m", has_counters=False)}
    policy = Policy(interval_seconds=interval_seconds, window_seconds=60.0)
    books = Books()
    joules = 1e6
    for n in range(ticks):
        at = Instant(n * interval_seconds, EPOCH + n * interval_seconds)
        joules = 0.0 if n == reset_at else joules + 300.0 * interval_seconds
        reading = AcceleratorReading((GPU,), (GpuSample("GPU-0", at.monotonic_seconds, energy_joules=joules),))
        books = advance(books, Tick(at, reading, owners=owners), policy)
    return books


@pytest.mark.parametrize("reset_at", range(8, 12))
def test_a_sample_that_was_not_metered_counts_after_the_next_one_has_replaced_it(reset_at: int) -> None:
    """Ticks are denser than the samples of a window: time of a replaced sample still withholds ratios."""
    window = windowed(0.25, 40, reset_at=reset_at).servers["s"].window

    assert len(window) == pytest.approx(11, abs=1)
    lost = [sample.lost_joules for sample in window]
    assert sum(after > before for before, after in pairwise(lost)) == 1
    assert lost[-1] == pytest.approx(700.0 * 0.25), "the limit's power, for the interval before the reset"


def test_a_live_window_has_some_sixty_samples_whatever_the_interval() -> None:
    assert 58 <= len(windowed(0.25, 600).servers["s"].window) <= 63
    assert len(windowed(2.0, 60).servers["s"].window) == 31
