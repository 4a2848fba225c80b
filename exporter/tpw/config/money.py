# ruff: noqa: RUF009 - setting() is dataclasses.field() with metadata
"""The sections that name money beside the tariff: costs and references."""

from __future__ import annotations

from dataclasses import dataclass

from tpw.config.scalars import number, text
from tpw.config.shapes import Section, setting


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
