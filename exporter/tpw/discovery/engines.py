"""What discovery needs to know of an inference engine. The rows of :mod:`tpw.tokens.engines` have this form."""

from __future__ import annotations

from typing import Protocol

SELF = "self"
"""GPU processes are the listener or its descendants."""
ANCESTOR = "ancestor"
"""GPU processes may be siblings of the listener: up to what started both, then down."""


class ProcessNames(Protocol):
    """How an engine's processes are called: see :mod:`tpw.discovery.naming`."""

    @property
    def listener(self) -> tuple[str, ...]:
        """Those that listen."""

    @property
    def gpu(self) -> tuple[str, ...]:
        """Those that hold the GPUs."""

    @property
    def climb(self) -> str:
        """``SELF`` or ``ANCESTOR``."""


class Engine(Protocol):
    """One engine."""

    @property
    def name(self) -> str:
        """As the configuration says it."""

    @property
    def level(self) -> str:
        """``engine``, or what stands before engines and counts their tokens again."""

    @property
    def port(self) -> int | None:
        """Where its page usually is."""

    @property
    def other_ports(self) -> tuple[int, ...]:
        """Where else it is sometimes."""

    @property
    def processes(self) -> ProcessNames:
        """How its processes are called."""
