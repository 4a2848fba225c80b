"""Costs that accrue with time (section ``costs``), prices of the same work elsewhere (``references``), and ``budgets``.

A year has 8760 hours and every month is a twelfth of it, so that the rates do not change with the length of a month.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import expm1, log1p

from tpw.model import ALL_IN, CAPITAL, Budget, Rate, Reference, TokenKind
from tpw.settings.scalars import choice, number, text
from tpw.settings.shapes import Section, setting

HOUR_SECONDS = 3600.0
YEAR_SECONDS = 8760 * HOUR_SECONDS
MONTH_SECONDS = YEAR_SECONDS / 12


def annuity(price: float, years: float, interest: float = 0.0, residual: float = 0.0) -> float:
    """Yearly cost of an asset over its economic life.

    ``residual`` is its value at the end as a fraction of the price; ``interest`` is per year, as a fraction. Without
    interest this is straight-line depreciation.
    """
    if interest == 0:
        return price * (1 - residual) / years
    # 1 - (1 + interest) ** -years, without the cancellation that makes it 0 for a tiny interest.
    written_off = -expm1(-years * log1p(interest))
    return price * (1 - residual * (1 - written_off)) * interest / written_off


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """Cost of owning a GPU: an annuity over its economic life, spread over every hour of a year (8760)."""

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
        "Value at the end of its life, as a fraction of the price.",
        default=0.0,
    )

    def rate(self) -> Rate:
        """The annuity, spread over every hour of a year."""
        return Rate("hardware", annuity(self.price_per_gpu, self.years, self.interest, self.residual) / YEAR_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuHour:
    """A GPU rented by the hour, used or not."""

    price: float = setting(number("an amount of money", minimum=0.0), "Price of one GPU for one hour.")

    def rate(self) -> Rate:
        """Per second."""
        return Rate("gpu_hour", self.price / HOUR_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosting:
    """Colocation: committed power, used or not."""

    price_per_kw_month: float = setting(
        number("an amount of money", minimum=0.0), "Price of one kW of committed power for a month."
    )
    kw_per_gpu: float = setting(
        number("a power in kW", minimum=0.0, maximum=100.0, advice="kW, not W"),
        "Committed power per GPU, with its share of the server.",
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
    """Costs beside energy. Each accrues with time and is a `component` of the cost metrics."""

    hardware: Hardware | None = setting(Section(Hardware), "Owned GPUs.", default=None)
    gpu_hour: GpuHour | None = setting(Section(GpuHour), "Rented GPUs.", default=None)
    hosting: Hosting | None = setting(Section(Hosting), "Colocation by committed power.", default=None)
    operations: Operations | None = setting(Section(Operations), "Running costs.", default=None)

    def rates(self) -> tuple[Rate, ...]:
        """One rate for each component that is configured."""
        parts = (self.hardware, self.gpu_hour, self.hosting, self.operations)
        return tuple(part.rate() for part in parts if part is not None)

    def notes(self, *, has_energy_price: bool, has_references: bool) -> tuple[str, ...]:
        """What an operator should know: why no cost is full."""
        components = {rate.component for rate in self.rates()}
        compares = " and none is compared with the references" if has_references else ""
        if (components or has_references) and components.isdisjoint(CAPITAL):
            return (f"costs: without `hardware` or `gpu_hour` no cost per token is full{compares}",)
        if components and not has_energy_price and components.isdisjoint(ALL_IN):
            return (
                f"costs: electricity is in none of them, so no cost per token is full{compares}: set tariff.energy",
            )
        return ()


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
    """The price of the same work elsewhere. Give one of the two prices."""

    name: str = setting(text("a name"), "The `reference` label. Each name once.")
    price_per_gpu_hour: float | None = setting(
        number("an amount of money", minimum=0.0), "Price of one rented GPU for one hour.", default=None
    )
    price_per_million: TokenPrices | None = setting(
        Section(TokenPrices), "Prices of an API, per million tokens.", default=None
    )

    def reference(self) -> Reference:
        """The price of a GPU second or of each kind of token."""
        if self.price_per_gpu_hour is not None:
            return Reference(self.name, price_per_gpu_second=self.price_per_gpu_hour / HOUR_SECONDS)
        assert self.price_per_million is not None  # noqa: S101 - one of the two is given
        return Reference(self.name, price_per_token=self.price_per_million.per_token())


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodBudget:
    """An amount of money for each day, week or month. Without `server`, `namespace` and `tenant` it is for everything."""

    name: str = setting(text("a name"), "The `budget` label. Each name once.")
    amount: float = setting(
        number("an amount of money", above=0.0),
        "Amount for one period, of all exporters that have this budget together.",
    )
    period: str = setting(
        choice("day", "week", "month"),
        "Calendar day, week (from Monday on) or month in `tariff.timezone`.",
        default="month",
    )
    server: str | None = setting(text("the name of a server"), "Only what this server costs.", default=None)
    namespace: str | None = setting(
        text("a Kubernetes namespace"),
        "Only what the servers of this Kubernetes namespace cost. A server without a process is counted by its name"
        " `namespace/workload`.",
        default=None,
    )

    tenant: str | None = setting(
        text("the name of a tenant"), "Only what this tenant costs, on all servers with `tenants`.", default=None
    )

    def budget(self) -> Budget:
        """For the exposition."""
        return Budget(self.name, self.amount, self.period, self.server or "", self.namespace or "", self.tenant or "")
