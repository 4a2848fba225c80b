# ruff: noqa: RUF009 - setting() is dataclasses.field() with metadata
"""The sections that name money: tariff, costs, references."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from tpw.config.shapes import ByKind, ListOf, Section, number, setting, switch, text
from tpw.config.values import DAYS, HOURS, MONTHS, calendar_date, currency, time_zone

_PRICE = number("a price per kWh")
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
    holidays: frozenset[date] = setting(
        ListOf(calendar_date(), "a list of dates", gather=frozenset),
        "Days that count as Sundays.",
        default=frozenset(),
        default_words="none",
    )
    holidays_region: str | None = setting(
        text("a country such as DE, or a subdivision such as DE-BY", pattern="[A-Z]{2}(-[A-Z0-9]{1,3})?"),
        "Public holidays of this country or subdivision count as Sundays too. Needs the optional package `holidays`.",
        default=None,
    )
    includes_vat: bool = setting(switch(), _INCLUDES_VAT, default=False)


LAYERS: Mapping[str, type] = {"flat": FlatLayer, "time_of_use": TimeOfUseLayer}
"""Kind of a price layer -> its settings."""

Layer = FlatLayer | TimeOfUseLayer

_LAYER = ByKind(LAYERS, "a mapping of settings with a kind", default="flat")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What owning a GPU costs: an annuity over its life, spread over every hour of a year (8760)."""

    price_per_gpu: float = setting(
        number("an amount of money", minimum=0.0),
        "Price of one GPU with its share of the server and the network.",
    )
    years: float = setting(number("a number of years", above=0.0, maximum=50.0), "Economic life, in years.")
    interest: float = setting(
        number("a fraction such as 0.10", minimum=0.0, maximum=1.0, advice="write 10 % as 0.10"),
        "Interest per year, as a fraction. 0 is straight-line.",
        default=0.0,
    )
    residual: float = setting(
        number("a fraction such as 0.20", minimum=0.0, maximum=1.0, advice="write 20 % as 0.20"),
        "Value left at the end of its life, as a fraction of the price.",
        default=0.0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuHour:
    """A GPU that is paid by the hour, used or not."""

    price: float = setting(number("an amount of money", minimum=0.0), "Price of one GPU for one hour.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosting:
    """Committed power in somebody's data centre."""

    price_per_kw_month: float = setting(
        number("an amount of money", minimum=0.0), "Price of one kW of committed power for a month."
    )
    kw_per_gpu: float = setting(
        number("a power in kW", minimum=0.0, maximum=100.0, advice="kW, not W"),
        "Committed power per GPU, in kW, its share of the server included.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Operations:
    """People, support, licences."""

    price_per_gpu_month: float = setting(
        number("an amount of money", minimum=0.0), "Cost of running one GPU for a month."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What is not energy: each part runs with time and becomes a `component` of the cost metrics."""

    hardware: Hardware | None = setting(Section(Hardware), "GPUs that are owned.", default=None)
    gpu_hour: GpuHour | None = setting(Section(GpuHour), "GPUs that are rented.", default=None)
    hosting: Hosting | None = setting(Section(Hosting), "Colocation by committed power.", default=None)
    operations: Operations | None = setting(Section(Operations), "Running costs.", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPrices:
    """Prices of a million tokens."""

    input: float = setting(number("an amount of money", minimum=0.0), "A million prompt tokens.")
    output: float = setting(number("an amount of money", minimum=0.0), "A million generated tokens.")
    cached_input: float | None = setting(
        number("an amount of money", minimum=0.0),
        "A million prompt tokens from the prefix cache.",
        default=None,
        default_words="the price of input",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferencePrice:
    """What the same work costs elsewhere. Give one of the two prices."""

    name: str = setting(text("a name"), "The `reference` label. Each name once.")
    price_per_gpu_hour: float | None = setting(
        number("an amount of money", minimum=0.0), "Of one rented GPU for one hour.", default=None
    )
    price_per_million: TokenPrices | None = setting(
        Section(TokenPrices), "Of an API, per million tokens.", default=None
    )
