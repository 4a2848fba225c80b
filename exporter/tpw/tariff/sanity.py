"""What a price cannot be: the bounds that catch a feed in the wrong unit."""

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
"""Most that a kWh can cost, by currency; currencies that are not here are not judged."""

_RISE = 80.0
_FALL = 1 / 400
"""Beyond these multiples of the days before, prices are in another unit: 100 and 1000 are the slips that happen (cents,
MWh). Downwards there is more room: a day of sun and wind can cost next to nothing."""


def refuse_implausible(
    fresh: Sequence[PriceInterval],
    known: Sequence[PriceInterval],
    currency: str,
    max_price_per_kwh: float | None = None,
) -> None:
    """Raise SourceError(MALFORMED) where fresh prices cannot be prices per kWh.

    ``known`` are the accepted prices of the days before; the largest magnitudes of both are compared, unless the fresh ones
    repeat them.
    """
    bound = max_price_per_kwh if max_price_per_kwh is not None else MAX_PRICE_PER_KWH.get(currency, float("inf"))
    for each in fresh:
        if not isfinite(each.price_per_kwh) or abs(each.price_per_kwh) > bound:
            raise SourceError(
                Reason.MALFORMED,
                f"{each.price_per_kwh:g} {currency}/kWh is no price: the feed may be in another unit (per MWh, cents)",
                "check unit and currency of the feed; max_price_per_kwh raises the bound",
            )
    before, after = _magnitude(known), _magnitude(fresh)
    if max_price_per_kwh is not None or len(known) < 4 or len(fresh) < 4 or before == 0 or after == 0:
        return
    if (after / before > _RISE or after / before < _FALL) and not _told_again(fresh, known):
        raise SourceError(
            Reason.MALFORMED,
            f"prices up to {after:g} {currency}/kWh after prices up to {before:g}: the feed has changed its unit",
            "if they are right, set max_price_per_kwh, which switches this comparison off",
        )


def _told_again(fresh: Sequence[PriceInterval], known: Sequence[PriceInterval]) -> bool:
    """Whether fresh prices repeat those known before for most of the time that both tell of: the unit is the same then,
    however dear the next day is. Corrections of single intervals change nothing in that."""
    same = other = 0.0
    at = iter(known)
    before = next(at, None)
    for each in fresh:
        while before is not None and before.end_seconds <= each.start_seconds:
            before = next(at, None)
        while before is not None and before.start_seconds < each.end_seconds:
            shared = min(each.end_seconds, before.end_seconds) - max(each.start_seconds, before.start_seconds)
            if isclose(each.price_per_kwh, before.price_per_kwh, rel_tol=1e-6, abs_tol=1e-9):
                same += shared
            else:
                other += shared
            if before.end_seconds > each.end_seconds:
                break
            before = next(at, None)
    return same > other


def _magnitude(prices: Sequence[PriceInterval]) -> float:
    """The largest magnitude, the topmost tenth left out: one spike is no unit slip."""
    ordered = sorted(abs(each.price_per_kwh) for each in prices)
    return ordered[(len(ordered) - 1) * 9 // 10] if ordered else 0.0


def check_plausible(path: str, price: float, currency: str | None, report: Report) -> None:
    """Report a price of the file beyond the bound of its currency."""
    bound = MAX_PRICE_PER_KWH.get(currency or "")
    if bound is not None and price is not BAD and abs(price) > bound:
        report(
            path,
            f"{price:g} {currency} for one kWh is implausible: write whole units per kWh, not cents or per MWh",
        )
