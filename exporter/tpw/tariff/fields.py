"""Settings that several price layers have."""

from __future__ import annotations

from typing import Any

from tpw.settings.scalars import number, switch
from tpw.settings.shapes import setting

PRICE = number("a price per kWh")


def includes_vat_setting() -> Any:
    """Whether prices contain VAT."""
    return setting(switch(), "Whether the price contains VAT already; `tariff.vat` is then not added.", default=False)


def fallback_setting() -> Any:
    """A price for time without one."""
    return setting(
        PRICE,
        "Price, marked as a fallback, for time for which the feed has none. Without it that energy is not priced, and"
        " counted as such.",
        default=None,
        default_words="none: unpriced",
    )


def max_price_setting() -> Any:
    """The bound of plausible prices."""
    return setting(
        number("a price per kWh", above=0.0),
        "Prices with a greater magnitude are refused as being in another unit.",
        default=None,
        default_words="by the currency: 15 for EUR or USD",
    )
