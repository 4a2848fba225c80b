# ruff: noqa: RUF009 - setting() is dataclasses.field() with metadata
"""The section of the tariff: layers of prices, one section per kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from tpw.config.scalars import choice, file_path, number, switch, text, whole_number
from tpw.config.shapes import ByKind, ListOf, Section, setting
from tpw.config.tables import Table
from tpw.config.values import (
    DAYS,
    HOURS,
    MONTHS,
    bidding_zone,
    calendar_date,
    clock_time,
    currency,
    duration,
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
class Block:
    """A price beyond a quantity."""

    above_kwh: float = setting(
        number("a number of kWh", above=0.0),
        "Beyond so many kWh of the billing month, over everything the exporter sees.",
    )
    price_per_kwh: float = setting(_PRICE, "Price of each further kWh.")


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatLayer:
    """The same price always, or one by blocks of the month's kWh."""

    price_per_kwh: float = setting(_PRICE, "Price per kWh, in whole units of the currency.")
    blocks: tuple[Block, ...] = setting(
        ListOf(Section(Block), "a list of blocks"),
        "Other prices beyond a quantity, in ascending order. In `grid` or `levies` the layer is added to the others.",
        default=(),
    )
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
        "What the whole meter uses in a month: says in which tier a further kWh falls.",
        default=None,
        default_words="tiers by the kWh of the billing month that the exporter sees",
    )
    charges: frozenset[str] = setting(
        ListOf(choice("demand", "fixed"), "a list of charges", or_one=True, gather=frozenset),
        "What else of the rate is charged: `demand` (peaks by hours, seasons and blocks), `fixed`. A rate that goes beyond"
        " what is understood is refused.",
        default=frozenset(),
        default_words="the price per kWh alone",
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
class IntervalsLayer(Table):
    """Prices by interval: a well-known list (`preset`), or any JSON, CSV or Prometheus series from a `url` or `file`."""

    preset: str | None = setting(choice(*PRESET_NAMES), "A well-known list of prices.", default=None)
    area: str | None = setting(text("an area"), "Area of the preset: a bidding zone, a country.", default=None)
    price: str | None = setting(
        text("a field"), "Field of the price; a path such as `parts[unit=CHF_kWh].value` goes deeper.", default=None
    )
    per: str = setting(choice("kWh", "MWh"), "What the prices are for.", default="kWh")
    minor_units: bool = setting(switch(), "Prices are in hundredths of the currency: cents, pence.", default=False)
    published_at: int | None = setting(
        clock_time(),
        "Local time of day at which tomorrow's prices come out; asked again then until they are there.",
        default=None,
        default_words="by the preset; else no such time",
    )
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
class DemandCharge:
    """What the highest quarter-hour of a billing month costs. Accrued over the month; the exporter sees its own share."""

    price_per_kw_month: float = setting(
        number("an amount of money", minimum=0.0), "Price of one kW of the month's peak."
    )
    window: float = setting(
        duration(60.0, 3600.0), "What the meter averages over: 15m, or 30m in some countries.", default=900.0
    )
    ratchet: float = setting(
        number("a fraction such as 0.80", minimum=0.0, maximum=1.0, advice="write 80 % as 0.80"),
        "Fraction of the highest peak of earlier months that is billed at least.",
        default=0.0,
    )
    ratchet_months: int = setting(
        whole_number("a number of months", minimum=1, maximum=24), "How many earlier months that looks at.", default=11
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedCharge:
    """What the contract costs however much is used. Accrued over time and shared evenly by the GPUs."""

    per_month: float = setting(number("an amount of money", minimum=0.0), "Per billing month.", default=0.0)
    per_day: float = setting(number("an amount of money", minimum=0.0), "Per day of 24 hours.", default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityCharge:
    """Power that is paid for whether it is drawn or not: the connection, the contracted kW. Shared evenly by the GPUs."""

    kw: float = setting(number("a power in kW", minimum=0.0, advice="kW, not W"), "Contracted power.")
    price_per_kw_month: float = setting(number("an amount of money", minimum=0.0), "Price of one kW for a month.")


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
    demand: DemandCharge | None = setting(
        Section(DemandCharge), "What the highest demand of a month costs, beside the price per kWh.", default=None
    )
    capacity: CapacityCharge | None = setting(Section(CapacityCharge), "Contracted power.", default=None)
    fixed: FixedCharge | None = setting(Section(FixedCharge), "Standing charges.", default=None)
    billing_day: int = setting(
        whole_number("a day of the month", minimum=1, maximum=28), "Day on which a billing month begins.", default=1
    )
