"""Tests that need a real NVIDIA GPU. Every test in this directory carries the marker ``device``.

They are skipped where there is no driver, in CI too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from support.devicechecks import Finding, faults
from support.losses import aligned
from support.watched_gpus import HEADINGS

HERE = Path(__file__).parent

Rows = list[tuple[str, ...]]
ROWS = pytest.StashKey[Rows]()
FINDINGS = pytest.StashKey[Rows]()
FIGURES = Path("device-figures.md")
"""Where the figures are written, in the working directory."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Add the marker."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.device)


@pytest.fixture(scope="session")
def rows(pytestconfig: pytest.Config) -> Rows:
    """Rows of the table of measurements."""
    return pytestconfig.stash.setdefault(ROWS, [])


@pytest.fixture(scope="session")
def judge(pytestconfig: pytest.Config) -> Callable[[str, Sequence[Finding]], None]:
    """Records findings about a GPU, and fails where one is a fault."""
    table = pytestconfig.stash.setdefault(FINDINGS, [])

    def record(gpu: str, findings: Sequence[Finding]) -> None:
        table.extend((gpu, finding.check, finding.figure, finding.fault) for finding in findings)
        assert faults(findings) == []

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table in the form of docs/accuracy.md."""
    findings = config.stash.get(FINDINGS, None)
    if findings:
        terminalreporter.section("figures of this machine, for docs/accuracy.md")
        table = aligned([("GPU", "check", "figure", "fault"), *findings])
        for line in table:
            terminalreporter.write_line(line)
        FIGURES.write_text("\n".join(table) + "\n")
        terminalreporter.write_line(f"written to {FIGURES}")
    rows = config.stash.get(ROWS, None)
    if rows:
        terminalreporter.section("energy counter against the integral of power, on this machine")
        for line in aligned([HEADINGS, *rows]):
            terminalreporter.write_line(line)
