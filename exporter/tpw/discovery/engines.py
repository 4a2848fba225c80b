"""What discovery needs to know about an inference engine. A :class:`tpw.tokens.dialects.Dialect` has this form."""

from __future__ import annotations

from typing import Protocol

SELF = "self"
"""GPU processes are the listener or its descendants."""
ANCESTOR = "ancestor"
"""GPU processes may be siblings of the listener: up to the common ancestor, then down."""


class ProcessNames(Protocol):
    """Names of an engine's processes: see :mod:`tpw.discovery.naming`."""

    @property
    def listener(self) -> tuple[str, ...]:
        """Of the process that listens."""

    @property
    def gpu(self) -> tuple[str, ...]:
        """Of the processes that hold the GPUs."""

    @property
    def climb(self) -> str:
        """``SELF`` or ``ANCESTOR``."""


class Engine(Protocol):
    """One engine."""

    @property
    def name(self) -> str:
        """As in the configuration."""

    @property
    def level(self) -> str:
        """``engine``, or a proxy in front of engines, which counts their tokens again."""

    @property
    def port(self) -> int | None:
        """The usual port of its metrics page."""

    @property
    def other_ports(self) -> tuple[int, ...]:
        """Less usual ports of it."""

    @property
    def enable(self) -> str:
        """Which setting of the engine enables its page."""

    @property
    def processes(self) -> ProcessNames:
        """Names of its processes."""
