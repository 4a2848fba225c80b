"""From the configuration to price sources, rates and references: the one place where both are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from datetime import date

from tpw.config.money import FlatLayer, Layer, TimeOfUseLayer
from tpw.config.schema import Config
from tpw.model import Rate, Reference
from tpw.tariff import KINDS, PriceSource
from tpw.tariff import costs as rates


def price_source(config: Config) -> PriceSource | None:
    """The all-in price of electricity; None where no tariff is configured."""
    from tpw.tariff import layers

    tariff = config.tariff
    given = [layer for layer in (tariff.energy, tariff.grid, tariff.levies) if layer is not None]
    if tariff.energy is None:
        return None
    return layers.Layers(
        [
            layers.Layer(_source(layer, tariff.timezone or "UTC"), 1.0 if layer.includes_vat else 1.0 + tariff.vat)
            for layer in given
        ]
    )


def _source(layer: Layer, timezone: str) -> PriceSource:
    match layer:
        case FlatLayer():
            return KINDS["flat"](price_per_kwh=layer.price_per_kwh)
        case TimeOfUseLayer():
            from tpw.tariff.time_of_use import Zone

            zones = [Zone(**{each.name: getattr(zone, each.name) for each in fields(zone)}) for zone in layer.zones]
            return KINDS["time_of_use"](
                price_per_kwh=layer.price_per_kwh, zones=zones, timezone=timezone, is_holiday=_holidays(layer)
            )


def _holidays(layer: TimeOfUseLayer) -> Callable[[date], bool] | None:
    dates = layer.holidays
    if layer.holidays_region is None:
        return dates.__contains__ if dates else None
    from tpw.tariff.time_of_use import holidays_of

    in_region = holidays_of(layer.holidays_region)
    return lambda day: day in dates or in_region(day)


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
