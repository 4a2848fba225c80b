"""What feeds of intensities have in common: the schedule, the bounds, the unit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tpw.carbon import Basis, Intensity
from tpw.model import PriceInterval, Reason, SourceError
from tpw.tariff.context import FeedContext
from tpw.tariff.feed import Feed, Reader
from tpw.tariff.schedule import Schedule

REFRESH_SECONDS = 1800.0
"""The services publish every five to sixty minutes; their free plans limit the number of requests."""


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
        schedule = Schedule(refresh_seconds=REFRESH_SECONDS, jitter=context.jitter, daily_limit=None)
        cache = context.cache_file(reader.name, reader.identity)
    feed = Feed(
        reader,
        clock=context.clock,
        unit="g",
        schedule=schedule,
        check=refuse_implausible,
        cache=cache,
        fallback_price_per_kwh=fallback,
    )
    return FromFeed(feed, basis)


class FromFeed:
    """Intensities of a feed of grams per kWh."""

    def __init__(self, feed: Feed, basis: Basis) -> None:
        self.name = feed.name
        self.basis = basis
        self._feed = feed

    @property
    def error(self) -> SourceError | None:
        """Why the feed cannot be read now. Known intensities remain in force."""
        return self._feed.error

    def intervals(self, start_seconds: float, end_seconds: float) -> tuple[Intensity, ...]:
        """See IntensitySource."""
        return tuple(
            Intensity(item.start_seconds, item.end_seconds, item.price_per_kwh, item.state)
            for item in self._feed.intervals(start_seconds, end_seconds)
        )


MAX_GRAMS_PER_KWH = 3000.0
"""Twice the emissions of the worst lignite plant: more is another unit."""


def refuse_implausible(fresh: Sequence[PriceInterval], known: Sequence[PriceInterval]) -> None:
    """Raise SourceError(MALFORMED) for implausible grams per kWh. A marginal intensity may be slightly negative."""
    del known  # intensities vary from a few grams to hundreds within a day
    for interval in fresh:
        if not -MAX_GRAMS_PER_KWH / 10 <= interval.price_per_kwh <= MAX_GRAMS_PER_KWH:
            raise SourceError(
                Reason.MALFORMED,
                f"{interval.price_per_kwh:g} g/kWh is implausible: the feed may be in another unit",
                "check the unit of the feed",
            )
