"""Carbon intensity of the grid: grams of CO2 equivalent per kWh, over time. One file per source, one protocol.

What a number means is part of it: the mean of all plants or the plant that reacts (marginal), what leaves the chimney
(direct) or the whole life of the plant. Numbers of different bases must not be added, so a source has one basis and
every gram carries it.

The patience, the cache and the arithmetic are those of the price feeds (:mod:`tpw.tariff`): an intensity, too, is a
number per kWh over half-open UTC intervals that somebody publishes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from tpw.model import PriceInterval, PriceState, Reason, SourceError
from tpw.tariff import PriceSource


class Basis(StrEnum):
    """What an intensity counts."""

    AVERAGE_DIRECT = "average_direct"
    """All plants of the mix, what they emit while running."""
    AVERAGE_LIFECYCLE = "average_lifecycle"
    """All plants, building, fuel supply and dismantling included."""
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
    """Tells intensities."""

    @property
    def name(self) -> str:
        """Kind of the source."""

    @property
    def basis(self) -> Basis:
        """What its numbers count."""

    def intervals(self, start_seconds: float, end_seconds: float) -> Sequence[Intensity]:
        """Intensities known for [start, end): ordered, disjoint, clipped. Unknown time is not covered. Raises SourceError
        when a feed cannot be read and nothing is cached."""


class Static:
    """One number, always: the yearly figure of a supplier or a country."""

    name = "static"

    def __init__(self, grams_per_kwh: float, basis: Basis) -> None:
        self.basis = basis
        self._grams_per_kwh = grams_per_kwh

    def intervals(self, start_seconds: float, end_seconds: float) -> tuple[Intensity, ...]:
        """One interval: the range itself."""
        if end_seconds <= start_seconds:
            return ()
        return (Intensity(start_seconds, end_seconds, self._grams_per_kwh),)


class FromFeed:
    """Intensities of a feed whose numbers are grams per kWh."""

    def __init__(self, feed: PriceSource, basis: Basis) -> None:
        self.name = feed.name
        self.basis = basis
        self._feed = feed

    @property
    def trouble(self) -> SourceError | None:
        """Why the feed cannot be read now; what it said before may still hold."""
        trouble: SourceError | None = getattr(self._feed, "trouble", None)
        return trouble

    def intervals(self, start_seconds: float, end_seconds: float) -> tuple[Intensity, ...]:
        """See IntensitySource."""
        return tuple(
            Intensity(each.start_seconds, each.end_seconds, each.price_per_kwh, each.state)
            for each in self._feed.intervals(start_seconds, end_seconds)
        )


MAX_GRAMS_PER_KWH = 3000.0
"""Twice the dirtiest lignite plant. More is another unit."""


def refuse_implausible(fresh: Sequence[PriceInterval], known: Sequence[PriceInterval]) -> None:
    """Raise SourceError(MALFORMED) for what cannot be grams per kWh. A marginal plant may be negative, but not by much."""
    del known  # intensities swing from a few grams to hundreds within a day: only the bounds tell anything
    for each in fresh:
        if not -MAX_GRAMS_PER_KWH / 10 <= each.price_per_kwh <= MAX_GRAMS_PER_KWH:
            raise SourceError(
                Reason.MALFORMED,
                f"{each.price_per_kwh:g} g/kWh is no carbon intensity: the feed may be in another unit",
                "check the unit of the feed",
            )


def scaled(factor: float, numbers: Iterable[PriceInterval]) -> tuple[PriceInterval, ...]:
    """Numbers in another unit."""
    return tuple(
        PriceInterval(each.start_seconds, each.end_seconds, each.price_per_kwh * factor, each.state) for each in numbers
    )


Clock = Callable[[], float]
"""Unix time."""
