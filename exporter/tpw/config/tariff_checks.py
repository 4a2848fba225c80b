"""What the settings of the tariff need of each other."""

from __future__ import annotations

from importlib.util import find_spec

from tpw.config.nodes import BAD
from tpw.config.tables import Report, check_table
from tpw.config.tariff import (
    FlatLayer,
    IntervalsLayer,
    Layer,
    OctopusLayer,
    Tariff,
    TimeOfUseLayer,
    UrdbLayer,
)

_LAYOUT_KEYS = ("rows", "time", "end", "price", "where", "resolution")
_PLAIN = ("json", "iso", "start", "kWh")


def check_tariff(tariff: Tariff, report: Report) -> None:
    """Note every contradiction at the key it concerns."""
    if not tariff:
        return
    for name in ("energy", "grid", "levies"):
        layer = getattr(tariff, name)
        if layer:
            _layer(f"tariff.{name}", layer, tariff, report)
    if tariff.demand is not None and tariff.energy is None:
        report("tariff", "has demand but no `energy`: the bill would lack its larger part")
    for charge in ("capacity", "fixed"):
        if getattr(tariff, charge) is not None and tariff.energy is None:
            report("tariff", f"has {charge} but no `energy`: the bill would lack its larger part")
    if tariff.energy is None and (tariff.grid is not None or tariff.levies is not None):
        report("tariff", "has grid or levies but no `energy`: the price would be wrong, not partial")


def _layer(path: str, layer: Layer, tariff: Tariff, report: Report) -> None:
    match layer:
        case FlatLayer():
            _flat(path, layer, tariff, report)
        case TimeOfUseLayer():
            _time_of_use(path, layer, tariff, report)
        case UrdbLayer():
            _urdb(path, layer, tariff, report)
        case OctopusLayer():
            _currency_is(path, "Octopus Energy charges", ("GBP",), tariff, report)
        case IntervalsLayer():
            _intervals(path, layer, tariff, report)


def _flat(path: str, layer: FlatLayer, tariff: Tariff, report: Report) -> None:
    _plausible(f"{path}.price_per_kwh", layer.price_per_kwh, tariff, report)
    beyond = 0.0
    for index, block in enumerate(layer.blocks or ()):
        if block is BAD or block.above_kwh is BAD:
            continue
        _plausible(f"{path}.blocks[{index}].price_per_kwh", block.price_per_kwh, tariff, report)
        if block.above_kwh <= beyond:
            report(f"{path}.blocks[{index}].above_kwh", "blocks stand in ascending order")
        beyond = block.above_kwh


def _time_of_use(path: str, layer: TimeOfUseLayer, tariff: Tariff, report: Report) -> None:
    _needs_timezone(tariff, report)
    _holidays(path, layer, report)
    _plausible(f"{path}.price_per_kwh", layer.price_per_kwh, tariff, report)
    for index, zone in enumerate(layer.zones or ()):
        if zone is BAD:
            continue
        _plausible(f"{path}.zones[{index}].price_per_kwh", zone.price_per_kwh, tariff, report)
        if zone.valid_from and zone.valid_to and zone.valid_from > zone.valid_to:
            report(f"{path}.zones[{index}].valid_to", "lies before valid_from: the zone never holds")


def _urdb(path: str, layer: UrdbLayer, tariff: Tariff, report: Report) -> None:
    _needs_timezone(tariff, report)
    _holidays(path, layer, report)
    _currency_is(path, "rates of this database are", ("USD",), tariff, report)
    for charge in ("demand", "fixed"):
        if charge in (layer.charges or ()) and getattr(tariff, charge) is not None:
            report(f"tariff.{charge}", f"is charged twice: `{path}.charges` takes it from the rate")
    if layer.file is None and layer.label is None:
        report(path, "says no rate: give `file`, or `label` and `api_key_file`")
    elif layer.file is None and layer.api_key_file is None:
        report(f"{path}.label", "fetching a rate by its label needs `api_key_file`; or save the rate and give `file`")
    elif layer.file is not None and layer.api_key_file is not None:
        report(f"{path}.api_key_file", "has no meaning with `file`: nothing is fetched")


def _intervals(path: str, layer: IntervalsLayer, tariff: Tariff, report: Report) -> None:
    given = [key for key in ("preset", "url", "file") if getattr(layer, key) is not None]
    if given == ["preset"] or (given == ["preset", "url"] and layer.preset == "swiss"):
        _preset(path, layer, tariff, report)
        return
    if len(given) != 1:
        report(path, f"give one of `preset`, `url` and `file`{f', not {len(given)}' if given else ''}")
        return
    check_table(path, layer, "price", tariff.timezone, report)
    if layer.area is not None:
        report(f"{path}.area", "is for a preset; write it into the url")
    if layer.published_at is not None and layer.format == "prometheus":
        report(f"{path}.published_at", "has no meaning with `format: prometheus`: it is asked every minute")
    elif layer.published_at is not None and layer.timezone is None and tariff.timezone is None:
        report(f"{path}.published_at", "needs `timezone`: whose clock it is")


def _preset(path: str, layer: IntervalsLayer, tariff: Tariff, report: Report) -> None:
    from tpw.tariff.intervals import PRESETS

    if not layer.preset:
        return
    preset = PRESETS[layer.preset]
    if preset.areas and layer.area is None and layer.preset != "tibber":
        report(path, f"preset {layer.preset} needs `area`: {preset.areas}")
    if not preset.areas and layer.area is not None:
        report(f"{path}.area", f"has no meaning with preset {layer.preset}")
    if not preset.url and layer.url is None:
        report(path, f"preset {layer.preset} needs `url`: the address of the utility's tariffs")
    if preset.needs_token and layer.token_file is None:
        report(path, f"preset {layer.preset} needs `token_file`")
    changed = [key for key in _LAYOUT_KEYS if getattr(layer, key)]
    plain = (layer.format, layer.time_format, layer.stamp, layer.per) == _PLAIN
    if changed or not plain or layer.columns or layer.minor_units or layer.ignore_offset or layer.query:
        what = f"{path}.{changed[0]}" if changed else path
        report(what, f"preset {layer.preset} knows its layout: remove the settings of the layout, or the preset")
    _currency_is(path, f"prices of {layer.preset} are", preset.currencies, tariff, report)


def _needs_timezone(tariff: Tariff, report: Report) -> None:
    if tariff.timezone is None:
        report("tariff", "prices by the clock need `timezone`: which clock is meant, such as Europe/Berlin")


def _holidays(path: str, layer: TimeOfUseLayer | UrdbLayer, report: Report) -> None:
    region = layer.holidays_region
    if not region:
        return
    if find_spec("holidays") is None:
        report(
            f"{path}.holidays_region",
            "needs the Python package `holidays`, which is not installed; or list the dates in `holidays`",
        )
        return
    from tpw.tariff.time_of_use import holidays_of

    try:
        holidays_of(region)
    except ValueError as error:
        report(f"{path}.holidays_region", str(error))


def _currency_is(path: str, what: str, currencies: tuple[str, ...], tariff: Tariff, report: Report) -> None:
    if tariff.currency and tariff.currency not in currencies:
        known = " or ".join(currencies)
        report(path, f"{what} in {known}, and tariff.currency is {tariff.currency}: one currency per exporter")


def _plausible(path: str, price: float, tariff: Tariff, report: Report) -> None:
    from tpw.tariff.sanity import MAX_PRICE_PER_KWH

    bound = MAX_PRICE_PER_KWH.get(tariff.currency or "")
    if bound is not None and price is not BAD and abs(price) > bound:
        report(path, f"{price:g} {tariff.currency} for one kWh: is this in cents, or per MWh?")
