"""From the configuration to price sources, rates and references: the one place where both are known."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from tpw.config.schema import Config
from tpw.config.tariff import (
    EntsoeLayer,
    FlatLayer,
    IntervalsLayer,
    Layer,
    OctopusLayer,
    Tariff,
    TimeOfUseLayer,
    UrdbLayer,
)
from tpw.model import Rate, Reference
from tpw.tariff import PriceSource
from tpw.tariff import costs as rates
from tpw.tariff.fetch import Fetch, over_http

if TYPE_CHECKING:
    from tpw.tariff.layers import Layers
    from tpw.tariff.layout import Layout


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What feeds need of the world."""

    clock: Callable[[], float] = time.time
    """Unix time."""
    fetch: Fetch = over_http
    cache: Path | None = None
    """Directory that keeps fetched prices; None keeps them in memory."""
    jitter: float = field(default_factory=random.random)
    """In [0, 1): when after publication this process asks."""


def price_source(config: Config, surroundings: Surroundings | None = None) -> Layers | None:
    """The all-in price of electricity; None where no tariff is configured.

    Nothing is read or fetched here; the first question to the source does. That can take as long as the service takes to
    answer, so it is for a thread of its own.
    """
    from tpw.tariff import layers

    tariff = config.tariff
    if tariff.energy is None:
        return None
    around = surroundings or Surroundings(cache=Path(config.state.dir) / "prices")
    given = [layer for layer in (tariff.energy, tariff.grid, tariff.levies) if layer is not None]
    parts = [_source(layer, tariff, around) for layer in given]
    return layers.Layers(
        [layers.Layer(source, 1.0 if includes_vat else 1.0 + tariff.vat) for source, includes_vat in parts]
    )


def _source(layer: Layer, tariff: Tariff, around: Surroundings) -> tuple[PriceSource, bool]:
    """The source of a layer, and whether its prices include VAT."""
    match layer:
        case FlatLayer():
            from tpw.tariff.flat import Flat

            return Flat(layer.price_per_kwh), layer.includes_vat
        case TimeOfUseLayer():
            return _time_of_use(layer, tariff), layer.includes_vat
        case UrdbLayer():
            return _urdb(layer, tariff, around), layer.includes_vat
        case OctopusLayer():
            return _octopus(layer, tariff, around), False
        case EntsoeLayer():
            return _entsoe(layer, tariff, around), False
        case IntervalsLayer():
            return _intervals(layer, tariff, around)


def _time_of_use(layer: TimeOfUseLayer, tariff: Tariff) -> PriceSource:
    from tpw.tariff.time_of_use import TimeOfUse, Zone

    zones = [Zone(**{each.name: getattr(zone, each.name) for each in fields(zone)}) for zone in layer.zones]
    return TimeOfUse(layer.price_per_kwh, zones, tariff.timezone or "UTC", _holidays(layer))


def _holidays(layer: TimeOfUseLayer | UrdbLayer) -> Callable[[date], bool] | None:
    dates = layer.holidays
    if layer.holidays_region is None:
        return dates.__contains__ if dates else None
    from tpw.tariff.time_of_use import holidays_of

    in_region = holidays_of(layer.holidays_region)
    return lambda day: day in dates or in_region(day)


def _urdb(layer: UrdbLayer, tariff: Tariff, around: Surroundings) -> PriceSource:
    from tpw.tariff.feed import Feed
    from tpw.tariff.schedule import Schedule
    from tpw.tariff.urdb import UrdbReader, from_api, from_file

    label, is_file = layer.label or "", layer.file is not None
    load = from_file(layer.file) if layer.file is not None else from_api(label, layer.api_key_file or "", around.fetch)
    identity = f"{layer.file or 'openei'} {label} {layer.monthly_kwh} {sorted(layer.holidays)} {layer.holidays_region}"
    reader = UrdbReader(load, identity, tariff.timezone or "UTC", label, layer.monthly_kwh, _holidays(layer))
    every = 60.0 if is_file else 86400.0
    schedule = Schedule(every_seconds=every, patience_seconds=60.0 if is_file else 600.0, jitter=around.jitter)
    return Feed(
        reader,
        clock=around.clock,
        currency=tariff.currency or "",
        schedule=schedule,
        cache=None if is_file else _cache(around, reader.name, identity),
    )


def _octopus(layer: OctopusLayer, tariff: Tariff, around: Surroundings) -> PriceSource:
    from tpw.tariff.feed import Feed
    from tpw.tariff.octopus import PUBLICATION, Octopus
    from tpw.tariff.schedule import Schedule

    reader = Octopus(layer.tariff_code, around.fetch, layer.payment_method)
    return Feed(
        reader,
        clock=around.clock,
        currency=tariff.currency or "",
        schedule=Schedule(PUBLICATION, jitter=around.jitter),
        cache=_cache(around, reader.name, reader.identity),
        max_price_per_kwh=layer.max_price_per_kwh,
        fallback_price_per_kwh=layer.fallback_price_per_kwh,
    )


def _entsoe(layer: EntsoeLayer, tariff: Tariff, around: Surroundings) -> PriceSource:
    from tpw.tariff.entsoe import PUBLICATION, Entsoe
    from tpw.tariff.feed import Feed
    from tpw.tariff.schedule import Schedule

    reader = Entsoe(layer.area, layer.token_file, tariff.currency or "", around.fetch, layer.sequence)
    return Feed(
        reader,
        clock=around.clock,
        currency=tariff.currency or "",
        schedule=Schedule(PUBLICATION, jitter=around.jitter),
        cache=_cache(around, reader.name, reader.identity),
        max_price_per_kwh=layer.max_price_per_kwh,
        fallback_price_per_kwh=layer.fallback_price_per_kwh,
    )


def _intervals(layer: IntervalsLayer, tariff: Tariff, around: Surroundings) -> tuple[PriceSource, bool]:
    from datetime import time as time_of_day

    from tpw.tariff.feed import Feed, Reader
    from tpw.tariff.intervals import PRESETS, FromAddress, FromFile
    from tpw.tariff.schedule import Publication, Schedule

    currency, area = tariff.currency or "", layer.area or "0"
    publication, includes_vat = None, layer.includes_vat
    reader: Reader
    if layer.preset is not None:
        preset = PRESETS[layer.preset]
        publication, includes_vat = preset.publication, includes_vat or preset.includes_vat
        reader = preset.reader(area, currency, around.fetch, layer.url, layer.token_file, layer.headers_file)
    elif layer.file is not None:
        reader = FromFile(layer.file, _layout(layer, tariff))
    else:
        reader = FromAddress(
            layer.url or "",
            _layout(layer, tariff),
            around.fetch,
            token_file=layer.token_file,
            headers_file=layer.headers_file,
        )
    if layer.published_at is not None:
        zone = layer.timezone or tariff.timezone or "UTC"
        publication = Publication(zone, time_of_day(*divmod(layer.published_at, 60)))
    schedule = Schedule(publication, every_seconds=layer.every, jitter=around.jitter)
    if layer.file is not None:
        schedule = replace(schedule, every_seconds=60.0, patience_seconds=60.0, last_retry_seconds=60.0)
    feed = Feed(
        reader,
        clock=around.clock,
        currency=currency,
        schedule=schedule,
        cache=None if layer.file is not None else _cache(around, reader.name, reader.identity),
        max_price_per_kwh=layer.max_price_per_kwh,
        fallback_price_per_kwh=layer.fallback_price_per_kwh,
    )
    return feed, includes_vat


def _layout(layer: IntervalsLayer, tariff: Tariff) -> Layout:
    from tpw.tariff.layout import Layout

    return Layout(
        price=layer.price or "",
        time=layer.time or "",
        end=layer.end or "",
        rows=layer.rows or ("",),
        is_columnar=layer.columns,
        is_csv=layer.format == "csv",
        delimiter=layer.delimiter,
        where=layer.where,
        stamps_end=layer.stamp == "end",
        time_format=layer.time_format,
        timezone=layer.timezone or tariff.timezone or "UTC",
        ignores_offset=layer.ignore_offset,
        per_mwh=layer.per == "MWh",
        in_minor_units=layer.minor_units,
        resolution_seconds=layer.resolution,
    )


def _cache(around: Surroundings, name: str, identity: str) -> Path | None:
    """One file per thing that is read, so that two layers, or yesterday's tariff, are not mixed up."""
    if around.cache is None:
        return None
    return around.cache / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}.json"


def cost_rates(config: Config) -> tuple[Rate, ...]:
    """What runs with time, one rate per component."""
    costs = config.costs
    result: list[Rate] = []
    if costs.hardware is not None:
        owned = costs.hardware
        result.append(rates.hardware(owned.price_per_gpu, owned.years, owned.interest, owned.residual))
    if costs.gpu_hour is not None:
        result.append(rates.gpu_hour(costs.gpu_hour.price))
    if costs.hosting is not None:
        result.append(rates.hosting(costs.hosting.price_per_kw_month, costs.hosting.kw_per_gpu))
    if costs.operations is not None:
        result.append(rates.operations(costs.operations.price_per_gpu_month))
    return tuple(result)


def references(config: Config) -> tuple[Reference, ...]:
    """What the same work costs elsewhere."""
    result: list[Reference] = []
    for each in config.references:
        if each.price_per_gpu_hour is not None:
            result.append(rates.rented(each.name, each.price_per_gpu_hour))
        elif each.price_per_million is not None:
            million = each.price_per_million
            result.append(rates.api(each.name, million.input, million.output, million.cached_input))
    return tuple(result)
