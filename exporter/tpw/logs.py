"""Configuration of structlog: logfmt or JSON, on standard error."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import TextIO

import structlog


def configure(level: str = "info", form: str = "logfmt", stream: TextIO | None = None) -> None:
    """Configure the log.

    Args:
        level: debug, info, warning or error.
        form: ``logfmt`` or ``json``.
        stream: standard error by default.
    """
    renderer = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], drop_missing=True)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_: _Lines(stream or sys.stderr),
        cache_logger_on_first_use=False,
    )


class _Lines(structlog.PrintLogger):
    """Writes lines, and drops those that cannot be written: a full disk or a closed pipe behind the log must not end a
    tick."""

    def msg(self, message: str) -> None:
        """One line."""
        with suppress(OSError, ValueError):  # the latter: the stream was closed
            super().msg(message)

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg
