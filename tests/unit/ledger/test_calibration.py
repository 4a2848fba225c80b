"""Calibration of a GPU's meter: of energy and power, from now on."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpw.ledger.advance import advance
from tpw.ledger.books import Books
from tpw.ledger.tick import Policy, Tick
from tpw.model import AcceleratorReading, Calibration, EnergyMethod, Gpu, GpuSample, Instant

A, B = Gpu("GPU-a", 0, max_power_watts=700.0), Gpu("GPU-b", 1, max_power_watts=700.0)
CORRECTED = Policy(calibration={"GPU-a": Calibration(1.05, 3.5)})


def played(
    policies: list[Policy], watts: float = 200.0, seconds: float = 1.0, *, gpus: tuple[Gpu, ...] = (A, B)
) -> Books:
    """A tick under each policy, with so many seconds at so many watts before each but the first."""
    books = Books()
    for n, policy in enumerate(policies):
        at = n * seconds
        samples = tuple(
            GpuSample(gpu.uuid, at, None if gpu.energy_method is not EnergyMethod.COUNTER else watts * at, watts)
            for gpu in gpus
        )
        books = advance(books, Tick(Instant(at, 1e9 + at), AcceleratorReading(gpus, samples)), policy)
    return books


def joules(books: Books, uuid: str) -> float:
    return math.fsum(posting.joules for key, posting in books.postings.items() if key.gpu == uuid)


def test_energy_and_power_of_the_named_gpu_are_calibrated() -> None:
    books = played([CORRECTED] * 11)

    assert joules(books, "GPU-a") == pytest.approx(10 * (1.05 * 200.0 + 3.5))
    assert joules(books, "GPU-b") == pytest.approx(10 * 200.0)
    watts = [account.sample.power_watts if account.sample else None for account in books.gpus.values()]
    assert watts == [pytest.approx(213.5), 200.0]
    assert [account.calibration for account in books.gpus.values()] == [Calibration(1.05, 3.5), None]


def test_integrated_power_is_corrected_once() -> None:
    gpu = replace(A, energy_method=EnergyMethod.AVERAGE_POWER)

    assert joules(played([CORRECTED] * 11, gpus=(gpu,)), "GPU-a") == pytest.approx(10 * 213.5)


def test_plausibility_is_checked_on_raw_readings() -> None:
    """A counter at the GPU's limit is accepted though its calibrated power is above it."""
    books = played([CORRECTED] * 3, watts=860.0)

    assert books.gpus["GPU-a"].anomalies == {}
    assert books.gpus["GPU-a"].baseline_joules == 1720.0


def test_a_change_is_in_force_for_what_is_used_from_then_on() -> None:
    books = played([Policy()] * 6 + [Policy(calibration={"GPU-a": Calibration(2.0)})] * 5)

    assert joules(books, "GPU-a") == pytest.approx(5 * 200.0 + 5 * 400.0)


def test_a_correction_below_zero_books_nothing_and_takes_nothing_back() -> None:
    books = played([Policy()] * 3 + [Policy(calibration={"GPU-a": Calibration(1.0, -200.0)})] * 3, watts=60.0)

    assert joules(books, "GPU-a") == pytest.approx(120.0)
    assert books.gpus["GPU-a"].sample is not None
    assert books.gpus["GPU-a"].sample.power_watts == 0.0


@given(st.floats(0.5, 2.0), st.floats(-200.0, 200.0), st.lists(st.floats(0.0, 700.0), min_size=1, max_size=8))
def test_no_correction_makes_a_sum_of_joules_fall(gain: float, offset: float, watts: list[float]) -> None:
    correction = Calibration(gain, offset)

    assert all(correction.joules(shown, 1.0) >= 0.0 for shown in watts)
    assert all(
        correction.joules(shown * 10.0, 10.0) == pytest.approx(10.0 * correction.watts(shown)) for shown in watts
    )
