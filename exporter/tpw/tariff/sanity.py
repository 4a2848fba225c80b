"""Bounds of plausible prices, which catch a feed in the wrong unit."""

from __future__ import annotations

from collections.abc import Sequence
from math import isclose, isfinite

from tpw.model import PriceInterval, Reason, SourceError
from tpw.settings.shapes import BAD, Report

MAX_PRICE_PER_KWH = {
    # The technical limit of the European day-ahead market is 4 EUR/kWh, that of the balancing market 15.
    **dict.fromkeys(("EUR", "USD", "GBP", "CHF", "CAD", "SGD"), 15.0),
    # Australia's market cap alone is above 20 AUD/kWh.
    **dict.fromkeys(("AUD", "NZD"), 40.0),
    **dict.fromkeys(("DKK", "NOK", "SEK", "PLN", "RON", "BGN", "BRL", "ILS"), 120.0),
    **dict.fromkeys(("CZK", "TRY", "UAH", "MXN", "ZAR", "INR", "THB", "TWD", "PHP"), 600.0),
    **dict.fromkeys(("HUF", "JPY", "ISK", "RSD"), 6000.0),
}
"""The highest plausible price of a kWh by currency. Prices in other currencies are not checked."""

_RISE = 80.0
_FALL = 1 / 400
"""Beyond these multiples of the days before, prices are in another unit. Unit errors are factors of 100 (cents) and 1000
(MWh). The lower bound is wider: a sunny and windy day can cost almost nothing."""


def refuse_implausible(
    fresh: Sequence[PriceInterval],
    known: Sequence[PriceInterval],
    currency: str,
    max_price_per_kwh: float | None = None,
) -> None:
    """Raise SourceError(MALFORMED) where fresh prices are not plausible prices per kWh.

    ``known`` are the accepted prices of the days before. The largest magnitudes of both are compared, unless the fresh
    prices repeat the known ones.
    """
    bound = max_price_per_kwh if max_price_per_kwh is not None else MAX_PRICE_PER_KWH.get(currency, float("inf"))
    for interval in fresh:
        if not isfinite(interval.price_per_kwh) or abs(interval.price_per_kwh) > bound:
            raise SourceError(
                Reason.MALFORMED,
                f"{interval.price_per_kwh:g} {currency}/kWh is implausible: the unit may be wrong (per MWh, cents)",
                "check the unit and currency of the feed, or raise max_price_per_kwh",
            )
    before, after = _magnitude(known), _magnitude(fresh)
    if max_price_per_kwh is not None or len(known) < 4 or len(fresh) < 4 or before == 0 or after == 0:
        return
    if (after / before > _RISE or after / before < _FALL) and not _repeats(fresh, known):
        raise SourceError(
            Reason.MALFORMED,
            f"prices up to {after:g} {currency}/kWh follow prices up to {before:g}: the feed may have changed its unit",
            "if the prices are right, set max_price_per_kwh, which turns this comparison off",
        )


def _repeats(fresh: Sequence[PriceInterval], known: Sequence[PriceInterval]) -> bool:
    """Whether fresh prices equal the known ones for most of the time that both cover. The unit is then the same, however
    expensive the next day is; corrections of single intervals do not matter."""
    same = other = 0.0
    at = iter(known)
    before = next(at, None)
    for interval in fresh:
        while before is not None and before.end_seconds <= interval.start_seconds:
            before = next(at, None)
        while before is not None and before.start_seconds < interval.end_seconds:
            shared = min(interval.end_seconds, before.end_seconds) - max(interval.start_seconds, before.start_seconds)
            if isclose(interval.price_per_kwh, before.price_per_kwh, rel_tol=1e-6, abs_tol=1e-9):
                same += shared
            else:
                other += shared
            if before.end_seconds > interval.end_seconds:
                break
            before = next(at, None)
    return same > other


def _magnitude(prices: Sequence[PriceInterval]) -> float:
    """The largest magnitude without the highest tenth: a spike is not a unit error."""
    ordered = sorted(abs(interval.price_per_kwh) for interval in prices)
    return ordered[(len(ordered) - 1) * 9 // 10] if ordered else 0.0


def check_plausible(path: str, price: float, currency: str | None, report: Report) -> None:
    """Report a configured price beyond the bound of its currency."""
    bound = MAX_PRICE_PER_KWH.get(currency or "")
    if bound is not None and price is not BAD and abs(price) > bound:
        report(
            path,
            f"{price:g} {currency} for one kWh is implausible: write whole units per kWh, not cents or per MWh",
        )
