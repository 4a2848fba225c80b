"""Tests that need a real NVIDIA GPU. Every test in this directory carries the marker ``device``.

They are skipped where there is no driver, in CI too.
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
    """Add the marker."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.device)


@pytest.fixture(scope="session")
def rows(pytestconfig: pytest.Config) -> Rows:
    """Rows of the table of measurements."""
    return pytestconfig.stash.setdefault(ROWS, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table in the form of docs/accuracy.md."""
    rows = config.stash.get(ROWS, None)
    if rows:
        terminalreporter.section("energy counter against the integral of power, on this machine")
        for line in aligned([HEADINGS, *rows]):
            terminalreporter.write_line(line)
