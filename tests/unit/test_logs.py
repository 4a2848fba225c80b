"""The log does not affect what logs."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from tpw import logs


class Full(io.StringIO):
    """A stream on a full disk."""

    def write(self, _: str) -> int:
        raise OSError(28, "No space left on device")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before: dict[str, Any] = structlog.get_config()
    yield
    structlog.configure(**before)


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [Full(), closed()], ids=["full", "closed"])
@pytest.mark.parametrize("level", ["info", "warning", "error", "exception"])
def test_a_line_that_cannot_be_written_is_dropped(stream: io.StringIO, level: str) -> None:
    logs.configure(stream=stream)

    getattr(structlog.get_logger("tpw"), level)("gpu_lost", gpu=1)


def test_lines_are_logfmt() -> None:
    stream = io.StringIO()
    logs.configure(stream=stream)

    structlog.get_logger("tpw").warning("gpu_lost", gpu=1)

    assert stream.getvalue().endswith(" level=warning event=gpu_lost gpu=1\n")
