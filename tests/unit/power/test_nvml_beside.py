"""What is read beside energy and power, and how often."""

from __future__ import annotations

from collections import Counter

import pytest

from tpw.power.nvml_gpu import Beside, due_beside


@pytest.mark.parametrize(("round_seconds", "most"), [(0.01, len(Beside)), (0.2, 1), (20.0, 1)])
def test_a_read_makes_few_calls_beside_the_first(round_seconds: float, most: int) -> None:
    calls = [len(due_beside(reads, 3, round_seconds)) for reads in range(60)]

    assert max(calls) == most
    assert sum(calls) / 60 <= {0.01: 1.9, 0.2: 1.0, 20.0: 0.5}[round_seconds]


@pytest.mark.parametrize("round_seconds", [0.01, 0.2, 20.0])
def test_every_value_gets_its_turn(round_seconds: float) -> None:
    turns = Counter(value for reads in range(24) for value in due_beside(reads, 5, round_seconds))

    assert set(turns) == set(Beside)
    assert turns.most_common(1)[0][0] is Beside.UTILIZATION


def test_gpus_take_their_slow_reads_at_different_ticks() -> None:
    """After the first read, at which all values are read."""
    slow = [sum(len(due_beside(reads, index, 0.01)) == len(Beside) for index in range(10)) for reads in range(1, 11)]

    assert slow == [2] * 10


@pytest.mark.parametrize(("round_seconds", "most"), [(0.2, 1.0), (1.0, 0.125), (20.0, 0.125)])
def test_without_a_counter_a_slow_driver_is_left_to_power(round_seconds: float, most: float) -> None:
    calls = [due_beside(reads, 3, round_seconds, has_counter=False) for reads in range(200)]
    assert sum(map(len, calls)) / 200 <= most
    assert {value for call in calls for value in call} == set(Beside)
