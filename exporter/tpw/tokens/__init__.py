"""Reads the token counters of inference servers.

- :mod:`tpw.tokens.dialects`: the form of an engine's row; :mod:`tpw.tokens.engines`: the rows; :mod:`tpw.tokens.mapping`: a
  row from a user's configuration.
- :mod:`tpw.tokens.page`: samples of a metrics page; :mod:`tpw.tokens.reading`: a row applied to a page.
- :mod:`tpw.tokens.scrape`: a server over HTTP, with :mod:`tpw.tokens.lookups` (its model and version) and
  :mod:`tpw.tokens.progress` (tokens of running requests).

A token source returns raw counters. Differences, resets and disjoint kinds of tokens are the ledger's work.
"""

from __future__ import annotations

from typing import Protocol

from tpw.model import ServerReading


class TokenSource(Protocol):
    """Reads one server."""

    name: str
    """The server's name."""

    def read(self) -> ServerReading:
        """The counters now. Raises SourceError. Bounded in time and in bytes."""

    def close(self) -> None:
        """Close the connection. Never raises."""
