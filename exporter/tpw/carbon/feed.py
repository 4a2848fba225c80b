"""What feeds of intensities have in common: the schedule, the bounds, the unit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tpw.carbon import Basis, Intensity
from tpw.model import PriceInterval, Reason, SourceError
from tpw.tariff import FeedContext
from tpw.tariff.feed import Feed, Reader
from tpw.tariff.schedule import Schedule

HALF_HOUR_SECONDS = 1800.0


def intensity_feed(
    reader: Reader,
    basis: Basis,
    fallback: float | None,
    context: FeedContext,
    schedule: Schedule | None = None,
    cache: Path | None = None,
) -> FromFeed:
    """A feed of intensities. Without a schedule the reader is a service, fetched every half-hour and cached by identity."""
    if schedule is None:
        schedule = Schedule(every_seconds=HALF_HOUR_SECONDS, jitter=context.jitter)
        cache = context.cache_file(reader.name, reader.identity)
    feed = Feed(
        reader,
        clock=context.clock,
        unit="g",
        schedule=schedule,
        judge=refuse_implausible,
        cache=cache,
        fallback_price_per_kwh=fallback,
    )
    return FromFeed(feed, basis)


class FromFeed:
    """Intensities of a feed whose numbers are grams per kWh."""

    def __init__(self, feed: Feed, basis: Basis) -> None:
        self.name = feed.name
        self.basis = basis
        self._feed = feed

    @property
    def trouble(self) -> SourceError | None:
        """Why the feed cannot be read now; what it said before may still hold."""
        return self._feed.trouble

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
