"""From the configuration to price sources, rates and references: the one place where both are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from datetime import date
from functools import partial
from typing import TYPE_CHECKING

from tpw.config.feeds import Surroundings, cache_file, layout_of, table_cache, table_reader, table_schedule
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
from tpw.model import Rate, Reference, SourceError, StandingCharge
from tpw.tariff import PriceSource
from tpw.tariff import costs as rates

if TYPE_CHECKING:
    from tpw.tariff.contract import Contract
    from tpw.tariff.demand import DemandRules
    from tpw.tariff.feed import Judge
    from tpw.tariff.layers import Layers
    from tpw.tariff.months import BillingMonths
    from tpw.tariff.urdb import Rate as UrdbRate


def price_source(config: Config, around: Surroundings) -> Layers | None:
    """The all-in price of electricity; None where no tariff is configured.

    Nothing is read or fetched here; the first question to the source does. That can take as long as the service takes to
    answer, so it is for a thread of its own.
    """
    from tpw.tariff import layers

    tariff = config.tariff
    if tariff.energy is None:
        return None
    given = [layer for layer in (tariff.energy, tariff.grid, tariff.levies) if layer is not None]
    parts = [_source(layer, tariff, around) for layer in given]
    return layers.Layers(
        [layers.Layer(source, 1.0 if includes_vat else 1.0 + tariff.vat) for source, includes_vat in parts],
        billing_months(config),
    )


def billing_months(config: Config) -> BillingMonths:
    """The contract's billing months."""
    return _months(config.tariff)


def _months(tariff: Tariff) -> BillingMonths:
    from tpw.tariff.months import BillingMonths

    return BillingMonths(tariff.timezone or "UTC", tariff.billing_day)


def _source(layer: Layer, tariff: Tariff, around: Surroundings) -> tuple[PriceSource, bool]:
    """The source of a layer, and whether its prices include VAT."""
    match layer:
        case FlatLayer():
            from tpw.tariff.flat import Flat

            return Flat(layer.price_per_kwh, _block_steps(layer)), layer.includes_vat
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


def _block_steps(layer: FlatLayer) -> tuple[tuple[float, float], ...]:
    """Blocks as steps: by how much the price changes at each."""
    prices = [layer.price_per_kwh, *(block.price_per_kwh for block in layer.blocks)]
    return tuple((block.above_kwh, block.price_per_kwh - prices[i]) for i, block in enumerate(layer.blocks))


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
    from tpw.tariff.urdb import UrdbPrices, UrdbReader, from_api, from_file

    label, is_file = layer.label or "", layer.file is not None
    load = from_file(layer.file) if layer.file is not None else from_api(label, layer.api_key_file or "", around.fetch)
    calendar = f"{tariff.timezone} {sorted(layer.holidays)} {layer.holidays_region}"
    identity = f"{layer.file or 'openei'} {label} {layer.monthly_kwh} {calendar}"
    is_holiday = _holidays(layer)
    reader = UrdbReader(
        load,
        identity,
        tariff.timezone or "UTC",
        label,
        monthly_kwh=layer.monthly_kwh,
        is_holiday=is_holiday,
        charges=_rate_charges(layer, tariff, is_holiday),
        kept=None if is_file else cache_file(around, "urdb-rate", identity),
    )
    every = 60.0 if is_file else 86400.0
    schedule = Schedule(every_seconds=every, patience_seconds=60.0 if is_file else 600.0, jitter=around.jitter)
    feed = Feed(
        reader,
        clock=around.clock,
        unit=tariff.currency or "",
        schedule=schedule,
        judge=_judge(tariff, None),
        cache=None if is_file else cache_file(around, reader.name, identity),
    )
    return UrdbPrices(feed, reader)


def tariff_notes(config: Config) -> tuple[str, ...]:
    """What there is to know of a valid tariff: what it takes for granted, and of rates in files what is in no cost and what
    they say that cannot be followed. Reads those files, and nothing else."""
    from tpw.tariff.urdb import from_file, parse

    tariff = config.tariff
    notes: list[str] = []
    layers = [layer for layer in (tariff.energy, tariff.grid, tariff.levies) if isinstance(layer, FlatLayer)]
    by_month = tariff.demand or tariff.capacity or tariff.fixed or any(layer.blocks for layer in layers)
    if by_month and tariff.timezone is None:
        notes.append("tariff: billing months begin at midnight UTC, since no `timezone` is given")
    for name, layer in (("energy", tariff.energy), ("grid", tariff.grid), ("levies", tariff.levies)):
        if isinstance(layer, UrdbLayer) and layer.file is not None:
            charges = _rate_charges(layer, tariff, _holidays(layer))
            try:
                rate = parse(from_file(layer.file)(), layer.label or "")
                if charges is not None:
                    charges(rate)
            except SourceError as error:
                notes.append(f"tariff.{name}: {error.detail}" + (f" ({error.hint})" if error.hint else ""))
            else:
                notes += [f"tariff.{name}: {said}" for said in rate.left_out]
    return tuple(notes)


def _rate_charges(
    layer: UrdbLayer, tariff: Tariff, is_holiday: Callable[[date], bool] | None
) -> Callable[[UrdbRate], Contract] | None:
    if not layer.charges:
        return None
    from tpw.tariff.urdb_charges import contract_of

    timezone = tariff.timezone or "UTC"
    return partial(contract_of, wanted=layer.charges, months=_months(tariff), timezone=timezone, is_holiday=is_holiday)


def _octopus(layer: OctopusLayer, tariff: Tariff, around: Surroundings) -> PriceSource:
    from tpw.tariff.feed import Feed
    from tpw.tariff.octopus import PUBLICATION, Octopus
    from tpw.tariff.schedule import Schedule

    reader = Octopus(layer.tariff_code, around.fetch, layer.payment_method)
    return Feed(
        reader,
        clock=around.clock,
        unit=tariff.currency or "",
        schedule=Schedule(PUBLICATION, jitter=around.jitter),
        cache=cache_file(around, reader.name, reader.identity),
        judge=_judge(tariff, layer.max_price_per_kwh),
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
        unit=tariff.currency or "",
        schedule=Schedule(PUBLICATION, jitter=around.jitter),
        cache=cache_file(around, reader.name, reader.identity),
        judge=_judge(tariff, layer.max_price_per_kwh),
        fallback_price_per_kwh=layer.fallback_price_per_kwh,
    )


def _intervals(layer: IntervalsLayer, tariff: Tariff, around: Surroundings) -> tuple[PriceSource, bool]:
    from datetime import time as time_of_day

    from tpw.tariff.feed import Feed, Reader
    from tpw.tariff.intervals import PRESETS
    from tpw.tariff.schedule import Publication

    currency = tariff.currency or ""
    publication, includes_vat = None, layer.includes_vat
    reader: Reader
    if layer.preset is not None:
        preset = PRESETS[layer.preset]
        publication, includes_vat = preset.publication, includes_vat or preset.includes_vat
        reader = preset.reader(
            layer.area or "0", currency, around.fetch, layer.url, layer.token_file, layer.headers_file
        )
        layout = preset.layout
    else:
        minor = layer.minor_units
        layout = layout_of(layer, layer.price or "", tariff.timezone, per_mwh=layer.per == "MWh", in_minor_units=minor)
        reader = table_reader(layer, layout, around.fetch)
    if layer.published_at is not None:
        zone = layer.timezone or tariff.timezone or "UTC"
        publication = Publication(zone, time_of_day(*divmod(layer.published_at, 60)))
    feed = Feed(
        reader,
        clock=around.clock,
        unit=currency,
        schedule=table_schedule(layer, publication, around),
        cache=table_cache(layer, around, reader, layout),
        judge=_judge(tariff, layer.max_price_per_kwh),
        fallback_price_per_kwh=layer.fallback_price_per_kwh,
    )
    return feed, includes_vat


def _judge(tariff: Tariff, max_price_per_kwh: float | None) -> Judge:
    from tpw.tariff.sanity import refuse_implausible

    return partial(refuse_implausible, currency=tariff.currency or "", max_price_per_kwh=max_price_per_kwh)


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


def demand_rules(config: Config) -> tuple[DemandRules, ...]:
    """How demand is charged by the file itself; a rate may have charges of its own."""
    from tpw.tariff.demand import DemandRules

    charge = config.tariff.demand
    if charge is None:
        return ()
    rules = DemandRules(
        price_per_kw_month=charge.price_per_kw_month * (1.0 + config.tariff.vat),
        window_seconds=charge.window,
        ratchet=charge.ratchet,
        ratchet_months=charge.ratchet_months,
        months=billing_months(config),
    )
    return (rules,)


def standing_charges(config: Config) -> tuple[StandingCharge, ...]:
    """What the contract costs however much is used."""
    tariff = config.tariff
    factor = 1.0 + tariff.vat
    result: list[StandingCharge] = []
    if tariff.capacity is not None:
        result.append(StandingCharge("capacity", tariff.capacity.kw * tariff.capacity.price_per_kw_month * factor))
    if tariff.fixed is not None:
        result.append(StandingCharge("fixed", tariff.fixed.per_month * factor, tariff.fixed.per_day * factor))
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
