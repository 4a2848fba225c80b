"""What the exposition reads: the books after a tick, the status of the sources, the current prices. Immutable.

The daemon replaces one reference per tick; a scrape takes that reference once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum
from typing import TYPE_CHECKING

from tpw.ledger.books import Books
from tpw.ledger.periods import Periods
from tpw.ledger.retirement import Retired
from tpw.ledger.site import SiteNow
from tpw.model import (
    ALL_IN,
    CAPITAL,
    Budget,
    Instant,
    PriceInterval,
    PriceState,
    Reference,
    Scope,
    ServerWorkload,
    SourceStatus,
    server_of_replica,
    server_source,
)
from tpw.tariff.curve import PriceCurve
from tpw.tariff.demand import Demand, DemandRules, billed_watts, forming_watts, peak_watts
from tpw.tariff.spans import merged

if TYPE_CHECKING:
    from tpw.carbon.curve import IntensityCurve

DAY_SECONDS = 86400.0
RANKED_SECONDS = 8 * 3600.0
"""A rank needs so much of the next day. Chosen below the 11 hours that are known just before the prices of the next day are
published at noon."""


@dataclass(frozen=True, slots=True)
class Prices:
    """The price of electricity around now. ``currency`` is "" where no tariff is configured."""

    currency: str = ""
    now: PriceInterval | None = None
    next: PriceInterval | None = None
    """The first later interval with another price. None while it is not known."""
    curve: PriceCurve | None = None
    """All that are known, with their steps."""
    timezone: str = "UTC"
    """That of the tariff."""

    @property
    def preliminary(self) -> float | None:
        """The price now, where energy is booked at its own price later. None where it is booked at once."""
        return self.now.price_per_kwh if self.now is not None and self.now.state is PriceState.PRELIMINARY else None


@dataclass(frozen=True, slots=True)
class Carbon:
    """The carbon intensity of the grid now."""

    basis: str
    grams_per_kwh: float
    curve: IntensityCurve | None = None
    """All that are known."""


@dataclass(frozen=True, slots=True)
class DemandNow:
    """The demand of the current billing month."""

    interval_watts: float | None
    """Mean power of the current interval so far."""
    peak_watts: float
    """The month's peak, of the charges that count the current interval; of several the lowest, which is raised first."""
    price_per_kw_month: float
    """Price of one more kW, summed over these charges."""


def demand_now(charges: Sequence[DemandRules], states: Mapping[str, Demand], wall_seconds: float) -> DemandNow | None:
    """The demand of the month at a moment. None while nothing was recorded, and where demand is not charged."""
    recorded = [
        (rules, state)
        for rules in charges
        if (state := states.get(rules.name)) is not None and state.began_seconds is not None
    ]
    counting = [(rules, state) for rules, state in recorded if rules.counts(wall_seconds)] or recorded
    if not counting:
        return None
    forming = [forming_watts(state, rules, wall_seconds) for rules, state in counting]
    kw = [(rules, billed_watts(state, rules, wall_seconds) / 1000.0) for rules, state in counting]
    return DemandNow(
        max((watts for watts in forming if watts is not None), default=None),
        min(peak_watts(state, rules, wall_seconds) for rules, state in counting),
        sum(rules.price_per_kw_month for rules, peak in kw if rules.above_kw <= peak < rules.up_to_kw),
    )


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """The file of the books."""

    written_wall_seconds: float | None = None
    """When it was last written. None: not yet by this process."""
    problem: str | None = None
    """Why it cannot be written; "" if it can, None if there is none."""


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
    periods: Periods | None = None
    """None while the rows of the books cannot be read."""
    tenant_periods: Periods | None = None
    """The same with tenants in place of servers; None where no budget is of a tenant."""
    budgets: tuple[Budget, ...] = ()
    planned_servers: frozenset[str] | None = None
    """Servers that are planned to be off now. None where no planned pauses are configured."""
    site: SiteNow | None = None
    """None where the node is the whole site."""
    pue: float = 1.0
    references: tuple[Reference, ...] = ()
    owners: Mapping[str, ServerWorkload] = field(default_factory=dict)
    """To whom each server belongs, where its process is known."""
    components: tuple[str, ...] = ()
    """Cost components that the configuration books besides energy: exposed at zero before their first increment."""
    config_reload_successful: bool = True
    poll_lag_seconds: float = 0.0
    interval_seconds: float = 1.0
    store: StoreStatus = field(default_factory=StoreStatus)
    retired: Retired = field(default_factory=Retired)
    """Servers and models that have no series any more."""
    advice: Mapping[str, float] = field(default_factory=dict)
    """What advice of a kind would save a month, where that is exposed."""
    notes: tuple[str, ...] = ()
    """Sentences for the operator: no tariff configured, RAPL not readable ..."""

    def prices_ahead(self, seconds: float) -> tuple[PriceInterval, ...]:
        """The prices from now on, for the next kWh of their billing month. Time without a price, even a fallback, is left
        out."""
        return merged(
            PriceInterval(start, end, self._per_kwh(one), one.state)
            for start, end, one in self._pieces(seconds)
            if one.state is not PriceState.MISSING
        )

    @property
    def price_rank_ratio(self) -> float | None:
        """Share of the next 24 hours with a lower price than now, of the time with a price that is published or forecast.
        None where that is less than RANKED_SECONDS, and where the price now is not such a price."""
        known = [
            (start, end - start, self._per_kwh(one))
            for start, end, one in self._pieces(DAY_SECONDS)
            if one.state not in (PriceState.MISSING, PriceState.FALLBACK)
        ]
        seconds = fsum(length for _, length, _ in known)
        if not known or known[0][0] > self.at.wall_seconds or seconds < RANKED_SECONDS:
            return None
        return fsum(length for _, length, price in known if price < known[0][2]) / seconds

    def _pieces(self, seconds: float) -> Iterator[tuple[float, float, PriceInterval]]:
        now = self.at.wall_seconds
        pieces = () if self.prices.curve is None else self.prices.curve.pieces(now, now + seconds)
        return ((start, end, one) for start, end, one in pieces if one is not None)

    def _per_kwh(self, one: PriceInterval) -> float:
        """The price of the next kWh."""
        if not one.steps:
            return one.price_per_kwh
        return one.price_after(self.books.month_kwh.get(one.month_start_seconds or 0.0, 0.0))

    @property
    def servers_read(self) -> frozenset[str]:
        """Names of the servers with a metrics page that is read here."""
        names = {server_of_replica(source.name) for source in self.sources}
        return frozenset(name for name in self.books.servers if server_source(name) in names)

    @property
    def energy_priced(self) -> bool:
        """Whether electricity has a price, or had one. Without one a cost per token would be incomplete."""
        if not self.books.currency:
            return False
        return bool(self.prices.currency) or any("energy" in posting.cost for posting in self.books.postings.values())

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """The scopes of a live cost: each only where all that its name promises is booked. Rent and colocation contain the
        electricity where it has no price of its own."""
        components, has_price = set(self.components), bool(self.prices.currency)
        is_powered = has_price or not components.isdisjoint(ALL_IN)
        known = {
            Scope.ENERGY: has_price,
            Scope.OPERATING: is_powered and bool(components.difference(CAPITAL)),
            Scope.FULL: is_powered and not components.isdisjoint(CAPITAL),
        }
        return tuple(scope for scope in Scope if known[scope]) if self.books.currency else ()
