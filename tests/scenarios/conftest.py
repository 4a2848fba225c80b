"""The loss table: what each scenario cost, printed when the run is over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

from fakenvml import FakeNvml
from support.losses import LOSSES, Losses, table


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    losses = config.stash.get(LOSSES, None)
    if losses:
        terminalreporter.section("energy: what each scenario cost")
        for line in table(losses):
            terminalreporter.write_line(line)


@pytest.fixture
def losses(pytestconfig: pytest.Config) -> Losses:
    """Where a scenario leaves its row of the table."""
    return pytestconfig.stash.setdefault(LOSSES, {})


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNvml]:
    """Two boards, and two more that can be brought in, on a clock that the test moves."""
    monkeypatch.setenv("FAKENVML_CONTROL", "")  # restored after the test
    with FakeNvml(tmp_path, count=2, spare=2, start_seconds=1000.0) as nvml:
        nvml.preload()
        yield nvml
        nvml.close()
        shut_down()


def shut_down() -> None:
    """The library counts initialisations: leave none to the next test, whose boards are others."""
    try:
        while True:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return
