"""Every trap in reading token counters has a test that is named after it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

TRAPS = {
    1: "counters that move only when a request ends",
    2: "a prompt that is counted when its prefill has ended",
    3: "input with or without cached tokens",
    4: "ranks that repeat one quantity",
    5: "ranks that are shards of one quantity",
    6: "a prompt that several stages count",
    7: "counters printed with few digits",
    8: "counters that begin again",
    9: "counters that go on from a dead process's files",
    10: "series that appear later",
    11: "names that only look like a counter",
    12: "counters without _total",
    13: "answers that are no page",
    14: "spellings of a prefix",
    15: "several models on a page",
    16: "several answers to one prompt",
    17: "requests whose client went away",
    18: "work that is done again",
    19: "draft tokens of speculation",
    20: "reasoning tokens",
    21: "images and sound",
    22: "embeddings",
    23: "a server that does nothing",
    24: "reads that change the server",
    25: "a server on several nodes",
    26: "tokens and joules of different moments",
    27: "several servers on a board",
    28: "one server under two addresses",
    29: "servers that only speak like an engine",
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
