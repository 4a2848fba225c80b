"""Ways to read an inference server's token counters: one file each. What an engine calls its counters is data, in
:mod:`tpw.tokens.dialects`.

A token source reads one server. It knows neither GPUs nor prices nor the configuration file; it raises
:class:`tpw.model.SourceError` where it cannot read, and returns raw counters: differences, resets and the disjoint
kinds are the ledger's work.
"""

from __future__ import annotations

from typing import Protocol

from tpw.model import ServerReading


class TokenSource(Protocol):
    """Reads one server."""

    name: str
    """The server's name."""

    def read(self) -> ServerReading:
        """One look. Raises SourceError. Bounded in time and in bytes."""

    def close(self) -> None:
        """Drop the connection. Never raises."""
