"""What is not energy: costs that run with time, and what the same work costs elsewhere. All in one currency.

A year has 8760 hours and a month is its twelfth part, always: a cost that depended on the length of the month would
jump at midnight for no reason in the world.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import expm1, log1p

from tpw.model import Rate, Reference, TokenKind
from tpw.settings.scalars import number, text
from tpw.settings.shapes import Section, setting

HOUR_SECONDS = 3600.0
YEAR_SECONDS = 8760 * HOUR_SECONDS
MONTH_SECONDS = YEAR_SECONDS / 12


def annuity(price: float, years: float, interest: float = 0.0, residual: float = 0.0) -> float:
    """What a thing costs per year of its life, its value at the end (``residual``, a fraction of the price) given back.

    ``interest`` is per year, as a fraction; at 0 this is straight-line depreciation.
    """
    if interest == 0:
        return price * (1 - residual) / years
    # 1 less the discount, without the cancellation that would make it 0 for an interest of next to nothing.
    written_off = -expm1(-years * log1p(interest))
    return price * (1 - residual * (1 - written_off)) * interest / written_off


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

    def rate(self) -> Rate:
        """The annuity, spread over every hour of a year."""
        return Rate("hardware", annuity(self.price_per_gpu, self.years, self.interest, self.residual) / YEAR_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuHour:
    """A GPU that is paid by the hour, used or not."""

    price: float = setting(number("an amount of money", minimum=0.0), "Price of one GPU for one hour.")

    def rate(self) -> Rate:
        """Per second."""
        return Rate("gpu_hour", self.price / HOUR_SECONDS)


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

    def rate(self) -> Rate:
        """Per second."""
        return Rate("hosting", self.price_per_kw_month * self.kw_per_gpu / MONTH_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operations:
    """People, support, licences."""

    price_per_gpu_month: float = setting(
        number("an amount of money", minimum=0.0), "Cost of running one GPU for a month."
    )

    def rate(self) -> Rate:
        """Per second."""
        return Rate("operations", self.price_per_gpu_month / MONTH_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What is not energy: each part runs with time and becomes a `component` of the cost metrics."""

    hardware: Hardware | None = setting(Section(Hardware), "GPUs that are owned.", default=None)
    gpu_hour: GpuHour | None = setting(Section(GpuHour), "GPUs that are rented.", default=None)
    hosting: Hosting | None = setting(Section(Hosting), "Colocation by committed power.", default=None)
    operations: Operations | None = setting(Section(Operations), "Running costs.", default=None)

    def rates(self) -> tuple[Rate, ...]:
        """One rate for each component that is configured."""
        parts = (self.hardware, self.gpu_hour, self.hosting, self.operations)
        return tuple(part.rate() for part in parts if part is not None)


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

    def per_token(self) -> dict[TokenKind, float]:
        """The price of one token. Without a price, cached input costs the same as input."""
        cached_input = self.input if self.cached_input is None else self.cached_input
        return {
            TokenKind.INPUT: self.input / 1e6,
            TokenKind.CACHED_INPUT: cached_input / 1e6,
            TokenKind.OUTPUT: self.output / 1e6,
        }


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

    def reference(self) -> Reference:
        """The price of a GPU second or of each kind of token."""
        if self.price_per_gpu_hour is not None:
            return Reference(self.name, price_per_gpu_second=self.price_per_gpu_hour / HOUR_SECONDS)
        assert self.price_per_million is not None  # noqa: S101 - one of the two is given
        return Reference(self.name, price_per_token=self.price_per_million.per_token())
