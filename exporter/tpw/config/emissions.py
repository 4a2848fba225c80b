"""From the configuration to a source of carbon intensities."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tpw.config.carbon import (
    CarbonSettings,
    ElectricityMapsIntensity,
    IntensityTable,
    StaticIntensity,
    UkIntensity,
    WattTimeIntensity,
)
from tpw.config.feeds import Surroundings, cache_file, layout_of, table_cache, table_reader, table_schedule
from tpw.config.schema import Config

if TYPE_CHECKING:
    from tpw.carbon import Basis, IntensitySource
    from tpw.tariff.feed import Reader
    from tpw.tariff.schedule import Schedule

_HALF_HOUR_SECONDS = 1800.0


def intensity_source(config: Config, around: Surroundings) -> IntensitySource | None:
    """The carbon intensity of the grid; None where none is configured.

    Nothing is read or fetched here; the first question to the source does, and takes as long as the service does.
    """
    carbon = config.carbon
    if carbon is None:
        return None
    from tpw.carbon import Basis, Static

    if isinstance(carbon, StaticIntensity):
        return Static(carbon.grams_per_kwh, Basis(carbon.basis))
    return _feed(carbon, config.tariff.timezone, around)


def _feed(
    carbon: UkIntensity | ElectricityMapsIntensity | WattTimeIntensity | IntensityTable,
    timezone: str | None,
    around: Surroundings,
) -> IntensitySource:
    from tpw.carbon import FromFeed, refuse_implausible
    from tpw.tariff.feed import Feed
    from tpw.tariff.schedule import Schedule

    schedule: Schedule
    if isinstance(carbon, IntensityTable):
        schedule = table_schedule(carbon, None, around)
    else:
        schedule = Schedule(every_seconds=_HALF_HOUR_SECONDS, jitter=around.jitter)
    reader, basis = _reader(carbon, timezone, around)
    feed = Feed(
        reader,
        clock=around.clock,
        unit="g",
        schedule=schedule,
        judge=refuse_implausible,
        cache=table_cache(carbon, around, reader, layout_of(carbon, carbon.value or "", timezone))
        if isinstance(carbon, IntensityTable)
        else cache_file(around, reader.name, reader.identity),
        fallback_price_per_kwh=carbon.fallback_grams_per_kwh,
    )
    return FromFeed(feed, basis)


def _reader(carbon: CarbonSettings, timezone: str | None, around: Surroundings) -> tuple[Reader, Basis]:
    from tpw.carbon import Basis

    match carbon:
        case UkIntensity():
            from tpw.carbon import uk

            return uk.Uk(around.fetch, carbon.postcode or ""), uk.BASIS
        case ElectricityMapsIntensity():
            from tpw.carbon.electricity_maps import BASES, ElectricityMaps

            reader = ElectricityMaps(carbon.zone, carbon.token_file, around.fetch, carbon.factors)
            return reader, BASES[carbon.factors]
        case WattTimeIntensity():
            from tpw.carbon import watttime

            region = watttime.WattTime(carbon.region, carbon.account_file, around.fetch, around.clock)
            return region, watttime.BASIS
        case IntensityTable():
            from tpw.carbon.intervals import InGrams

            layout = layout_of(carbon, carbon.value or "", timezone)
            return InGrams(table_reader(carbon, layout, around.fetch), carbon.unit), Basis(carbon.basis)
        case StaticIntensity():
            raise TypeError("a static intensity is read from nowhere")
