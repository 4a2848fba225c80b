"""Price sources: one file for each, with its settings, factory and reader.

A price source returns the all-in price per kWh as half-open UTC intervals. It knows nothing of joules: the ledger splits
energy at the interval boundaries and prices each piece at its moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from tpw.model import PriceInterval
from tpw.settings.shapes import Report

if TYPE_CHECKING:
    from tpw.tariff.context import FeedContext
    from tpw.tariff.settings import Tariff

LAYERS: Mapping[str, str] = {
    "flat": "tpw.tariff.flat:FlatLayer",
    "time_of_use": "tpw.tariff.time_of_use:TimeOfUseLayer",
    "urdb": "tpw.tariff.urdb:UrdbLayer",
    "octopus": "tpw.tariff.octopus:OctopusLayer",
    "entsoe": "tpw.tariff.entsoe:EntsoeLayer",
    "intervals": "tpw.tariff.intervals:IntervalsLayer",
}
"""Kind of a price layer -> ``module:class`` of its settings, which make its source."""


class PriceSource(Protocol):
    """Returns prices."""

    name: str
    """Kind of the source, e.g. ``flat``."""

    def intervals(self, start_seconds: float, end_seconds: float) -> Sequence[PriceInterval]:
        """Prices known for [start, end), Unix seconds: ordered, not overlapping, clipped to the range. Time without a
        known price is not covered. Raises SourceError when a feed cannot be read and nothing is cached."""


class Layer:
    """The settings of one layer of the price."""

    __slots__ = ()

    @property
    def contains_vat(self) -> bool:
        """Whether the prices contain value added tax."""
        return bool(getattr(self, "includes_vat", False))

    @property
    def needs_network(self) -> bool:
        """Whether its prices come over the network."""
        return getattr(self, "file", None) is None

    def check(self, path: str, tariff: Tariff, report: Report) -> None:
        """Report settings that contradict or need each other. A setting that could not be read is BAD."""

    def notes(self, tariff: Tariff) -> Sequence[str]:
        """What an operator should know of these valid settings. May read files that the settings name."""
        return ()

    def source(self, tariff: Tariff, context: FeedContext) -> PriceSource:
        """The source. Reads and fetches nothing."""
        raise NotImplementedError
