"""The loss table of the scenarios, printed at the end of the run."""

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
        terminalreporter.section("energy: loss in each scenario")
        for line in table(losses):
            terminalreporter.write_line(line)


@pytest.fixture
def losses(pytestconfig: pytest.Config) -> Losses:
    """Rows of the loss table."""
    return pytestconfig.stash.setdefault(LOSSES, {})


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNvml]:
    """Two GPUs, and two more to hot-plug, on a manual clock."""
    monkeypatch.setenv("FAKENVML_CONTROL", "")  # restored after the test
    with FakeNvml(tmp_path, count=2, spare=2, start_seconds=1000.0) as nvml:
        nvml.preload()
        yield nvml
        nvml.close()
        shut_down()


def shut_down() -> None:
    """Shut NVML down as often as it was initialised: the next test has other GPUs."""
    try:
        while True:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return
