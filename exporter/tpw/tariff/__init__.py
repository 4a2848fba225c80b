"""Price sources: one file for each, with its settings, factory and reader.

A price source returns the all-in price per kWh as half-open UTC intervals. It knows nothing of joules: the ledger splits
energy at the interval boundaries and prices each piece at its moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tpw.model import PriceInterval
from tpw.settings.scalars import number
from tpw.settings.shapes import ByKind, OrMapping, Report, Scalar, setting
from tpw.tariff.fields import PRICE
from tpw.tariff.times import Calendar

if TYPE_CHECKING:
    from tpw.tariff.context import FeedContext
    from tpw.tariff.settings import Tariff
    from tpw.tariff.shares import ShareTable

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


_SHARE = number("a fraction such as 0.70, or `rest`", minimum=0.0, maximum=1.0, advice="write 70 % as 0.70")

REST = "rest"


def _share(value: str) -> float | str:
    return REST if value == REST else float(_SHARE.parse(value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer(Calendar):
    """The settings that a layer of every kind has. Its price is that of its source x `factor`, within `floor` and `cap`,
    times `share`, at the times at which it applies."""

    share: float | str | ShareTable = setting(
        OrMapping(
            Scalar(_SHARE.words, _share, {"anyOf": [_SHARE.json, {"const": REST}]}),
            ByKind({"table": "tpw.tariff.shares:ShareTable"}, "a table of shares", default="table", definition="share"),
            "a fraction such as 0.70, `rest`, or a mapping with a table of shares",
        ),
        "Fraction of the consumption that the layer prices: a number, a table by interval, or `rest`, what the other shares"
        " in `energy` leave. Those below 1 must add up to 1.",
        default=1.0,
    )
    factor: float = setting(
        number("a factor", above=0.0), "Factor of the price, such as 1.04 for losses of 4 %.", default=1.0
    )
    floor: float | None = setting(PRICE, "Lowest price per kWh, after the factor.", default=None)
    cap: float | None = setting(PRICE, "Highest price per kWh, after the factor.", default=None)

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

    def check_terms(self, path: str, tariff: Tariff, report: Report) -> None:
        """Report contradictions of the settings of every kind."""
        self.check_times(path, report)
        if self.is_restricted:
            tariff.check_timezone(report)
        if self.floor is not None and self.cap is not None and self.floor and self.cap and self.floor > self.cap:
            report(f"{path}.floor", "is above cap")
        by_quantity = bool(getattr(self, "blocks", ()))
        if by_quantity and (self.floor is not None or self.cap is not None):
            report(f"{path}.blocks", "cannot have a floor or cap: write them into the prices")
        if by_quantity and (self.hours or self.days or self.dates or self.dates_file):
            report(f"{path}.blocks", "count the kWh of all hours, so the layer cannot be limited to some")
        if by_quantity and not isinstance(self.share, float):
            report(f"{path}.share", "should be a number for a price by blocks")
        if self.share and not isinstance(self.share, float | str):
            self.share.check(f"{path}.share", tariff, report)

    def fields_of_rate(self) -> dict[str, list[str]]:
        """For a rate in a file: its fields by what becomes of them."""
        return {}

    def notes(self, tariff: Tariff) -> Sequence[str]:
        """What an operator should know of these valid settings. May read files that the settings name."""
        return ()

    def source(self, tariff: Tariff, context: FeedContext) -> PriceSource:
        """The source. Reads and fetches nothing."""
        raise NotImplementedError
