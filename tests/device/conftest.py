"""Tests that need a real NVIDIA GPU. Every test in this directory carries the marker ``device``.

Where no driver answers they are skipped with the reason, in CI as well: a machine without a GPU is no failure.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from support.losses import aligned
from support.watched_gpus import HEADINGS

HERE = Path(__file__).parent

Rows = list[tuple[str, ...]]
ROWS = pytest.StashKey[Rows]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.device)


@pytest.fixture(scope="session")
def rows(pytestconfig: pytest.Config) -> Rows:
    """Where a test leaves what it measured."""
    return pytestconfig.stash.setdefault(ROWS, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The figures, as docs/accuracy.md has them."""
    rows = config.stash.get(ROWS, None)
    if rows:
        terminalreporter.section("energy counter against the integral of power, on this machine")
        for line in aligned([HEADINGS, *rows]):
            terminalreporter.write_line(line)
