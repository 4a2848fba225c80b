"""Every trap in reading token counters has a test that is named after it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

TRAPS = {
    1: "counters that move only when a request ends",
    2: "a prompt that is counted when its prefill ends",
    3: "input with or without cached tokens",
    4: "ranks that repeat one quantity",
    5: "ranks that are shards of one quantity",
    6: "a prompt that several stages count",
    7: "counters printed with few digits",
    8: "counters that start again",
    9: "counters that continue from an exited process's files",
    10: "series that appear later",
    11: "names that only resemble a counter",
    12: "counters without _total",
    13: "answers that are not a metrics page",
    14: "spellings of a prefix",
    15: "several models on a page",
    16: "several answers to one prompt",
    17: "requests of a client that disconnects",
    18: "repeated work",
    19: "draft tokens of speculation",
    20: "reasoning tokens",
    21: "images and sound",
    22: "embeddings",
    23: "an idle server",
    24: "reads that change the server",
    25: "a server on several nodes",
    26: "tokens and joules of different moments",
    27: "several servers on a GPU",
    28: "one server under two addresses",
    29: "servers that only publish an engine's names",
    30: "series by process id",
}


def by_number() -> dict[int, list[str]]:
    """Tests by the number in their name."""
    found: dict[int, list[str]] = {}
    for path in TESTS.rglob("test_*.py"):
        for number, name in re.findall(r"^ *def test_t(\d\d)_(\w+)", path.read_text(), re.MULTILINE):
            found.setdefault(int(number), []).append(name)
    return found


@pytest.mark.parametrize("number", TRAPS, ids=lambda number: f"t{number:02d}")
def test_every_trap_has_a_test(number: int) -> None:
    assert by_number().get(number), TRAPS[number]


def test_no_test_is_named_after_a_trap_that_is_not_listed() -> None:
    assert set(by_number()) <= set(TRAPS)
