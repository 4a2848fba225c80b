"""What is not energy: costs that run with time, and what the same work costs elsewhere. All in one currency.

A year has 8760 hours and a month is its twelfth part, always: a cost that depended on the length of the month would
jump at midnight for no reason in the world.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import expm1, log1p

from tpw.model import Rate, Reference, TokenKind

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


def hardware(price_per_gpu: float, years: float, interest: float = 0.0, residual: float = 0.0) -> Rate:
    """Owned GPUs: the annuity, spread over every hour of a year, used or not."""
    return Rate("hardware", annuity(price_per_gpu, years, interest, residual) / YEAR_SECONDS)


def gpu_hour(price: float) -> Rate:
    """Rented GPUs: the price of one GPU for one hour."""
    return Rate("gpu_hour", price / HOUR_SECONDS)


def hosting(price_per_kw_month: float, kw_per_gpu: float) -> Rate:
    """Colocation: committed power, metered or not."""
    return Rate("hosting", price_per_kw_month * kw_per_gpu / MONTH_SECONDS)


def operations(price_per_gpu_month: float) -> Rate:
    """People, support, licences."""
    return Rate("operations", price_per_gpu_month / MONTH_SECONDS)


def rented(name: str, price_per_gpu_hour: float) -> Reference:
    """A reference by GPU time."""
    return Reference(name, price_per_gpu_second=price_per_gpu_hour / HOUR_SECONDS)


def api(name: str, input_price: float, output_price: float, cached_input_price: float | None = None) -> Reference:
    """A reference by tokens, from prices per million. An API without a price for cached input charges it as input."""
    per_million: Mapping[TokenKind, float] = {
        TokenKind.INPUT: input_price,
        TokenKind.CACHED_INPUT: input_price if cached_input_price is None else cached_input_price,
        TokenKind.OUTPUT: output_price,
    }
    return Reference(name, price_per_token={kind: price / 1e6 for kind, price in per_million.items()})
