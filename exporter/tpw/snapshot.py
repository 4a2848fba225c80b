"""The one immutable thing the exposition sees: the books of a tick, the sources' lives, and the prices around it.

The app swaps one reference to a new snapshot per tick; a scrape takes that reference once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tpw.ledger.books import Books
from tpw.model import Instant, PriceInterval, Reference, SourceStatus


@dataclass(frozen=True, slots=True)
class Prices:
    """The price of electricity around now. ``currency`` is "" where no tariff is configured."""

    currency: str = ""
    now: PriceInterval | None = None
    next: PriceInterval | None = None
    """The first later interval with another price. None while it is not known."""


@dataclass(frozen=True, slots=True)
class Carbon:
    """The carbon intensity of the grid now."""

    basis: str
    grams_per_kwh: float


@dataclass(frozen=True, slots=True)
class DemandNow:
    """Where the demand of the billing month stands."""

    interval_watts: float | None
    """Mean power of the interval that forms, over its part that has passed."""
    peak_watts: float
    price_per_kw_month: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One tick, complete."""

    at: Instant
    books: Books
    sources: tuple[SourceStatus, ...] = ()
    prices: Prices = field(default_factory=Prices)
    carbon: Carbon | None = None
    """None where no intensity is known for now."""
    demand: DemandNow | None = None
    """None where demand is not charged."""
    pue: float = 1.0
    references: tuple[Reference, ...] = ()
    config_reload_successful: bool = True
    poll_lag_seconds: float = 0.0
    interval_seconds: float = 1.0
    store_written_wall_seconds: float | None = None
    notes: tuple[str, ...] = ()
    """What the operator should know, in sentences: no tariff configured, RAPL not readable ..."""
