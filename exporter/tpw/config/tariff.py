# ruff: noqa: RUF009 - setting() is dataclasses.field() with metadata
"""The section of the tariff: layers of prices, one section per kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from tpw.config.shapes import (
    ByKind,
    ListOf,
    MapOf,
    Section,
    choice,
    file_path,
    number,
    setting,
    switch,
    text,
    whole_number,
)
from tpw.config.values import (
    DAYS,
    HOURS,
    MONTHS,
    bidding_zone,
    calendar_date,
    clock_time,
    currency,
    duration,
    http_url,
    octopus_tariff_code,
    time_zone,
)

PRESET_NAMES = ("energy_charts", "energidataservice", "awattar_de", "awattar_at", "elering", "swiss", "tibber")
"""Presets of the kind intervals: the rows of ``tpw.tariff.intervals.PRESETS``."""

_PRICE = number("a price per kWh")


def _holidays(counted_as: str) -> Any:
    return setting(
        ListOf(calendar_date(), "a list of dates", gather=frozenset),
        f"Days that count as {counted_as}.",
        default=frozenset(),
        default_words="none",
    )


def _holidays_region(counted_as: str) -> Any:
    return setting(
        text("a country such as DE, or a subdivision such as DE-BY", pattern="[A-Z]{2}(-[A-Z0-9]{1,3})?"),
        f"Public holidays of this country or subdivision count as {counted_as} too. Needs the optional package"
        " `holidays`.",
        default=None,
    )


def _fallback() -> Any:
    return setting(
        _PRICE,
        "Price, marked as a fallback, for time for which the feed has none. Without it that energy is not priced, and"
        " counted as such.",
        default=None,
        default_words="none: unpriced",
    )


def _max_price() -> Any:
    return setting(
        number("a price per kWh", above=0.0),
        "Prices beyond this, either way, are refused as being in another unit.",
        default=None,
        default_words="by the currency: 15 for EUR or USD",
    )


_INCLUDES_VAT = "Whether the price contains VAT already; `tariff.vat` is then not added."


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatLayer:
    """The same price always."""

    price_per_kwh: float = setting(_PRICE, "Price per kWh, in whole units of the currency.")
    includes_vat: bool = setting(switch(), _INCLUDES_VAT, default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """A price for some of the time. What is left out does not restrict. All times are local (`tariff.timezone`)."""

    price_per_kwh: float = setting(_PRICE, "Price per kWh while the zone matches.")
    hours: tuple[tuple[int, int], ...] = setting(
        HOURS,
        "Hours of the day, end exclusive: `22:00-06:00` wraps past midnight. One range or a list.",
        default=(),
        default_words="all hours",
    )
    days: frozenset[int] = setting(
        DAYS,
        "Days of the week, such as [mon-fri] or [sat, sun]. The day is the local day of the moment itself: after midnight"
        " it is the next one.",
        default=frozenset(),
        default_words="all days",
    )
    months: frozenset[int] = setting(
        MONTHS, "Months, such as [11-3] or [6, 7, 8].", default=frozenset(), default_words="all months"
    )
    valid_from: date | None = setting(calendar_date(), "First day on which the zone holds.", default=None)
    valid_to: date | None = setting(
        calendar_date(), "Last day on which the zone holds, that day included.", default=None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeOfUseLayer:
    """A price by clock and calendar."""

    price_per_kwh: float = setting(_PRICE, "Price per kWh where no zone matches.")
    zones: tuple[Zone, ...] = setting(
        ListOf(Section(Zone), "a list of zones"), "Zones with other prices; the last that matches wins.", default=()
    )
    holidays: frozenset[date] = _holidays("Sundays")
    holidays_region: str | None = _holidays_region("Sundays")
    includes_vat: bool = setting(switch(), _INCLUDES_VAT, default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class UrdbLayer:
    """A rate of the OpenEI Utility Rate Database (United States, USD), from a file or by its label."""

    file: str | None = setting(file_path(), "File with the rate as JSON.", default=None)
    label: str | None = setting(
        text("the label of a rate", pattern="[0-9a-f]{24}", advice="24 hexadecimal digits"),
        "Label of the rate: fetched from OpenEI with `api_key_file`, or chosen from a `file` with several.",
        default=None,
    )
    api_key_file: str | None = setting(file_path(), "File with the key for OpenEI.", default=None)
    monthly_kwh: float | None = setting(
        number("a number of kWh", minimum=0.0),
        "What the whole meter uses in a month: says in which tier a further kWh falls. Needed for rates with tiers.",
        default=None,
    )
    holidays: frozenset[date] = _holidays("weekends")
    holidays_region: str | None = _holidays_region("weekends")
    includes_vat: bool = setting(switch(), _INCLUDES_VAT, default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class OctopusLayer:
    """A tariff of Octopus Energy (Great Britain, GBP), without VAT."""

    tariff_code: str = setting(octopus_tariff_code(), "Tariff code, such as E-1R-AGILE-24-10-01-C.")
    payment_method: str = setting(
        choice("DIRECT_DEBIT", "NON_DIRECT_DEBIT"), "Which price, where the tariff has several.", default="DIRECT_DEBIT"
    )
    fallback_price_per_kwh: float | None = _fallback()
    max_price_per_kwh: float | None = _max_price()


@dataclass(frozen=True, slots=True, kw_only=True)
class EntsoeLayer:
    """Day-ahead prices of a European bidding zone, from the ENTSO-E transparency platform."""

    area: str = setting(bidding_zone(), "Bidding zone, by name (DE-LU, FR, NO2) or code (10YFR-RTE------C).")
    token_file: str = setting(file_path(), "File with the security token of the platform.")
    sequence: int = setting(
        whole_number("the number of an auction", minimum=1, maximum=9),
        "Which auction, where the zone has several: 1 is the coupled European one.",
        default=1,
    )
    fallback_price_per_kwh: float | None = _fallback()
    max_price_per_kwh: float | None = _max_price()


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalsLayer:
    """Prices by interval: a well-known list (`preset`), or any JSON or CSV from a `url` or `file`."""

    preset: str | None = setting(choice(*PRESET_NAMES), "A well-known list of prices.", default=None)
    area: str | None = setting(text("an area"), "Area of the preset: a bidding zone, a country.", default=None)
    url: str | None = setting(
        http_url(), "Address of the list; `{start}` and `{end}` in it are replaced by times in UTC.", default=None
    )
    file: str | None = setting(file_path(), "File with the list, looked at once a minute.", default=None)
    token_file: str | None = setting(file_path(), "File with a bearer token to send.", default=None)
    headers_file: str | None = setting(
        file_path(), "File with HTTP headers to send, one `Name: value` a line.", default=None
    )
    format: str = setting(choice("json", "csv"), "Form of the list.", default="json")
    delimiter: str = setting(text("one character", pattern="."), "CSV: what separates the columns.", default=",")
    rows: tuple[str, ...] = setting(
        ListOf(text("a path"), "a path, or a list of paths", or_one=True),
        "JSON: path of the list of rows, such as `data.prices`; several are read one after the other.",
        default=(),
        default_words="the document itself",
    )
    columns: bool = setting(
        switch(), "JSON: `time` and `price` are parallel lists instead of fields of a row.", default=False
    )
    time: str | None = setting(text("a field"), "Field, column or path of the time.", default=None)
    end: str | None = setting(text("a field"), "Field of the end of the interval, where there is one.", default=None)
    price: str | None = setting(
        text("a field"), "Field of the price; a path such as `parts[unit=CHF_kWh].value` goes deeper.", default=None
    )
    where: Mapping[str, str] = setting(
        MapOf(text("a value"), "a mapping of fields to values"),
        "Only rows whose fields have these values.",
        default=dict,
        default_words="all rows",
    )
    stamp: str = setting(
        choice("start", "end"), "Whether the time is the start or the end of its interval.", default="start"
    )
    time_format: str = setting(
        text("iso, unix, unix_ms or a pattern such as %d.%m.%Y %H:%M", pattern="iso|unix|unix_ms|.*%.*"),
        "How times are written.",
        default="iso",
    )
    timezone: str | None = setting(
        time_zone(), "Zone of times that name none.", default=None, default_words="tariff.timezone, else UTC"
    )
    ignore_offset: bool = setting(
        switch(), "The offset or Z of the times is wrong: they are local to `timezone`.", default=False
    )
    per: str = setting(choice("kWh", "MWh"), "What the prices are for.", default="kWh")
    minor_units: bool = setting(switch(), "Prices are in hundredths of the currency: cents, pence.", default=False)
    resolution: float | None = setting(
        duration(60.0, 31 * 86400.0),
        "Length of an interval, where no end is given.",
        default=None,
        default_words="the shortest distance between two times",
    )
    published_at: int | None = setting(
        clock_time(),
        "Local time of day at which tomorrow's prices come out; asked again then until they are there.",
        default=None,
        default_words="by the preset; else no such time",
    )
    every: float = setting(duration(60.0, 7 * 86400.0), "How often the list is asked for at least.", default=6 * 3600.0)
    includes_vat: bool = setting(switch(), _INCLUDES_VAT, default=False)
    fallback_price_per_kwh: float | None = _fallback()
    max_price_per_kwh: float | None = _max_price()


LAYERS: Mapping[str, type] = {
    "flat": FlatLayer,
    "time_of_use": TimeOfUseLayer,
    "urdb": UrdbLayer,
    "octopus": OctopusLayer,
    "entsoe": EntsoeLayer,
    "intervals": IntervalsLayer,
}
"""Kind of a price layer -> its settings."""

Layer = FlatLayer | TimeOfUseLayer | UrdbLayer | OctopusLayer | EntsoeLayer | IntervalsLayer

_LAYER = ByKind(LAYERS, "a mapping of settings with a kind", default="flat", definition="price_layer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """What electricity costs. The all-in price is the sum of the layers `energy`, `grid` and `levies`, plus VAT."""

    currency: str | None = setting(
        currency(),
        "Currency of every amount of money in this file and in the metrics (ISO 4217). Needed as soon as there is one.",
        default=None,
    )
    timezone: str | None = setting(
        time_zone(), "Zone of the tariff's clock and calendar.", default=None, default_words="UTC, where none is needed"
    )
    vat: float = setting(
        number("a fraction such as 0.19", minimum=0.0, maximum=1.0, advice="write 19 % as 0.19"),
        "Value added tax on top of the layers, as a fraction. Leave it out where it is recovered.",
        default=0.0,
    )
    energy: Layer | None = setting(_LAYER, "The energy itself.", default=None, default_words="none: no price, no cost")
    grid: Layer | None = setting(_LAYER, "Network charges per kWh, on top.", default=None)
    levies: Layer | None = setting(_LAYER, "Taxes and levies per kWh, on top.", default=None)
