"""Many lines in little memory: what was added comes back sorted, any number of times."""

from __future__ import annotations

import random
import tempfile
import tracemalloc
from pathlib import Path

import pytest

from tpw.report.spool import Spool

MANY = 12_345


def filled(items: list[int], folder: Path | None = None) -> Spool[tuple[int, str]]:
    spool: Spool[tuple[int, str]] = Spool(lambda item: item[0], folder)
    for item in items:
        spool.add((item, f"line {item}" * 50))
    return spool


@pytest.mark.parametrize("count", [0, 1, 1999, 2000, 2001, MANY])
@pytest.mark.parametrize("is_in_order", [True, False])
def test_what_was_added_comes_back_sorted_any_number_of_times(count: int, is_in_order: bool) -> None:
    items = list(range(count))
    if not is_in_order:
        random.Random(count).shuffle(items)
    spool = filled(items)
    assert len(spool) == count
    for _ in range(2):
        assert [number for number, _ in spool] == list(range(count))


@pytest.mark.parametrize("is_in_order", [True, False])
def test_few_lines_are_in_memory_at_once(is_in_order: bool) -> None:
    """Tens of megabytes of text pass through; the lines that are held are one or two."""
    items = list(range(MANY * 4))
    if not is_in_order:
        random.Random(1).shuffle(items)
    tracemalloc.start()
    assert sum(1 for _ in filled(items)) == len(items)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


def test_without_a_place_for_temporary_files_the_folder_is_used_and_else_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_place() -> str:
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(tempfile, "gettempdir", no_place)
    for folder in (tmp_path, tmp_path / "missing"):
        assert [number for number, _ in filled(list(range(MANY)), folder)] == list(range(MANY))
    assert list(tmp_path.iterdir()) == []
