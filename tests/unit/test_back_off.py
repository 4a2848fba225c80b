"""The waits between failed reads of a source."""

from __future__ import annotations

from itertools import cycle

import pytest

from tpw.polling.health import BackOff


def wait_of(back_off: BackOff, at_least_seconds: float = 0.0) -> float:
    """The wait after one more failure at the instant 100 s, to a millisecond."""
    back_off.failed(100.0, at_least_seconds)
    for milliseconds in range(200_000):
        if back_off.is_due(100.0 + milliseconds / 1000.0):
            return milliseconds / 1000.0
    raise AssertionError("never due")


def test_waits_double_up_to_the_longest() -> None:
    back_off = BackOff(1.0, 5.0, random=lambda: 0.5)
    assert [wait_of(back_off) for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]


@pytest.mark.parametrize(("random", "seconds"), [(0.0, 8.0), (0.25, 9.0), (0.5, 10.0), (0.75, 11.0), (1.0, 12.0)])
def test_a_wait_is_spread_by_a_fifth_to_both_sides(random: float, seconds: float) -> None:
    """Exporters of a fleet that lose the same service at once do not return to it in the same second."""
    assert wait_of(BackOff(10.0, 60.0, random=lambda: random)) == seconds


def test_the_longest_wait_is_spread_too() -> None:
    jitter = cycle([0.0, 1.0])
    back_off = BackOff(60.0, 60.0, random=lambda: next(jitter))
    assert [wait_of(back_off), wait_of(back_off)] == [48.0, 72.0]


def test_without_an_argument_waits_differ() -> None:
    assert len({wait_of(BackOff(10.0, 10.0)) for _ in range(8)}) > 1


def test_a_source_with_an_interval_of_its_own_waits_at_least_that_long() -> None:
    assert wait_of(BackOff(1.0, 60.0, random=lambda: 0.5), at_least_seconds=30.0) == 30.0


def test_a_success_starts_again_with_the_first_wait() -> None:
    back_off = BackOff(1.0, 60.0, random=lambda: 0.5)
    assert [wait_of(back_off), wait_of(back_off)] == [1.0, 2.0]
    back_off.retry_now()
    assert back_off.is_due(100.0)
    assert wait_of(back_off) == 4.0
    back_off.reset()
    assert (back_off.is_due(100.0), wait_of(back_off)) == (True, 1.0)
