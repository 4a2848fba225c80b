"""Price sources: one file each, one protocol.

A price source tells the all-in price per kWh as half-open UTC intervals. It knows nothing of joules: the ledger splits
energy at the interval boundaries and prices each piece at its moment. Sources know no configuration file either: they
are built from plain values; the explicit table of kinds is the ``match`` in :mod:`tpw.config.prices`, which maps the
settings of each kind to its source and imports only what is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tpw.model import PriceInterval


class PriceSource(Protocol):
    """Tells prices."""

    name: str
    """Kind of the source, e.g. ``flat``."""

    def intervals(self, start_seconds: float, end_seconds: float) -> Sequence[PriceInterval]:
        """Prices known for [start, end), Unix seconds: ordered, not overlapping, clipped to the range. Time for which
        no price is known is simply not covered. Raises SourceError when a feed cannot be read and nothing is cached."""
