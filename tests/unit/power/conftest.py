from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pynvml
import pytest

from fakenvml import FakeNvml


class Clock:
    """A monotonic clock that tests move."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNvml]:
    """The fake NVML, loaded into this process, with three GPUs of which two are listed."""
    monkeypatch.setenv("FAKENVML_CONTROL", "")  # restored after the test
    with FakeNvml(tmp_path, count=2, spare=1) as nvml:
        nvml.preload()
        yield nvml
        nvml.close()
        _shut_down()


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FakeNvml]]:
    """Factory for tests that need another fake NVML than ``driver``. It is unloaded after the test."""
    monkeypatch.setenv("FAKENVML_CONTROL", "")

    def load(count: int = 1, **what: Any) -> FakeNvml:
        nvml = FakeNvml(tmp_path, count, **what)
        nvml.preload()
        return nvml

    yield load
    _shut_down()


def _shut_down() -> None:
    """Shut NVML down as often as it was initialised: the next test has other GPUs."""
    try:
        while True:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return
