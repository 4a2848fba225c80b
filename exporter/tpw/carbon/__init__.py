"""Carbon intensity of the grid: grams of CO2 equivalent per kWh over time. One file for each source, with its settings,
factory and reader.

A number has a basis: all plants or the plants that follow demand (marginal), emissions while running (direct) or over the
whole life. Numbers of different bases must not be added, so a source has one basis.

Schedule, cache and arithmetic are those of the price feeds (:mod:`tpw.tariff`): an intensity, too, is a published number
per kWh over half-open UTC intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from tpw.model import PriceState
from tpw.settings.shapes import ByKind, Report

if TYPE_CHECKING:
    from tpw.tariff.context import FeedContext

KINDS: Mapping[str, str] = {
    "static": "tpw.carbon.static:StaticIntensity",
    "uk": "tpw.carbon.uk:UkIntensity",
    "electricity_maps": "tpw.carbon.electricity_maps:ElectricityMapsIntensity",
    "watttime": "tpw.carbon.watttime:WattTimeIntensity",
    "intervals": "tpw.carbon.intervals:IntensityTable",
}
"""Kind of an intensity source -> ``module:class`` of its settings, which make the source."""

CARBON = ByKind(KINDS, "a mapping of settings with a kind")


class Basis(StrEnum):
    """The emissions that an intensity counts."""

    AVERAGE_DIRECT = "average_direct"
    """All plants of the mix, while running."""
    AVERAGE_LIFECYCLE = "average_lifecycle"
    """All plants, with construction, fuel supply and dismantling."""
    MARGINAL_DIRECT = "marginal_direct"
    """The plants that follow a change in demand."""


@dataclass(frozen=True, slots=True)
class Intensity:
    """Grams of CO2 equivalent per kWh over [start, end), Unix seconds."""

    start_seconds: float
    end_seconds: float
    grams_per_kwh: float
    state: PriceState = PriceState.FINAL


class IntensitySource(Protocol):
    """Returns intensities."""

    @property
    def name(self) -> str:
        """Kind of the source."""

    @property
    def basis(self) -> Basis:
        """Basis of its numbers."""

    def intervals(self, start_seconds: float, end_seconds: float) -> Sequence[Intensity]:
        """Intensities known for [start, end): ordered, disjoint, clipped. Time without one is not covered. Raises
        SourceError when a feed cannot be read and nothing is cached."""


class CarbonSettings:
    """The settings of an intensity source."""

    __slots__ = ()

    def check(self, path: str, timezone: str | None, report: Report) -> None:
        """Report settings that contradict or need each other. A setting that could not be read is BAD."""

    def source(self, timezone: str | None, context: FeedContext) -> IntensitySource:
        """The source. Reads and fetches nothing. ``timezone`` is the tariff's."""
        raise NotImplementedError


Clock = Callable[[], float]
"""Unix time."""
