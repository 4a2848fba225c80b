"""The all-in price: the sum of several layers (energy, network, levies) with taxes.

A layer has a source of prices and terms: the times at which it applies, a factor, a floor and a cap, and the share of the
consumption that it prices. A price that depends on the consumption of the billing month has steps. The sum has the steps
of all its parts, and its intervals are cut where a billing month begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise

from tpw.model import PriceInterval, SourceError
from tpw.tariff import PriceSource
from tpw.tariff.contract import Contract
from tpw.tariff.curve import PriceCurve
from tpw.tariff.demand import Apparent, DemandRules
from tpw.tariff.months import BillingMonths
from tpw.tariff.spans import least_reliable, merged

_TOLERANCE = 1e-6
"""Of the sum of shares."""

ENERGY = "energy"
"""The slot in which at least one layer applies at any time that has a price."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What becomes of the price of a source."""

    factor: float = 1.0
    floor: float = float("-inf")
    cap: float = float("inf")
    share: float | PriceSource | None = 1.0
    """A number, numbers by interval, or None for what the other layers of ``energy`` leave."""
    times: PriceSource | None = None
    """1 while the layer applies, 0 while it does not; time that it does not cover is unknown. None: always."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One part of the price. ``factor`` is that of taxes: 1 + VAT, or 1 where the part contains VAT."""

    source: PriceSource
    factor: float = 1.0
    slot: str = ENERGY
    name: str = ""
    """As in the configuration."""
    terms: Terms = field(default_factory=Terms)
    demand_factor: float | None = None
    """That of the demand charges of its contract; None: ``factor``."""
    fixed_factor: float | None = None
    """That of its standing charges."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one layer adds to the price of a kWh of the whole consumption, before taxes."""

    layer: Layer
    share: float
    price: PriceInterval
    """Per kWh of the share."""


@dataclass(frozen=True, slots=True)
class MeteredCharge:
    """A demand charge in kVA with power factors from a source."""

    source: PriceSource
    nominal: float
    """The power factor of its prices per kW, and of time without a metered one."""
    rules: Callable[[Apparent, float | None], tuple[DemandRules, ...]]
    """Its rules, with taxes or times another factor."""

    def charged(self, power_factors: Sequence[PriceInterval], factor: float | None = None) -> tuple[DemandRules, ...]:
        """Its rules with known power factors."""
        return self.rules(Metered(PriceCurve.from_intervals(power_factors), self.nominal), factor)


@dataclass(frozen=True, slots=True)
class Metered:
    """Power factors by time."""

    curve: PriceCurve
    nominal: float

    def factor(self, at_seconds: float) -> float:
        """See Apparent."""
        found = self.curve.at(at_seconds)
        return 1.0 if found is None or found.price_per_kwh <= 0.0 else self.nominal / found.price_per_kwh


class _Column:
    """Values by interval, read in order of time."""

    def __init__(self, intervals: Sequence[PriceInterval]) -> None:
        self.intervals = intervals
        self._position = 0

    def at(self, start: float) -> PriceInterval | None:
        """The interval that contains a moment; moments rise."""
        while self._position < len(self.intervals) and self.intervals[self._position].end_seconds <= start:
            self._position += 1
        found = self.intervals[self._position] if self._position < len(self.intervals) else None
        return found if found is not None and found.start_seconds <= start else None


class Layers:
    """The sum of its layers. It has no price where one of them has none: part of a price would be wrong. Nor has it one
    where no layer of ``energy`` applies."""

    def __init__(
        self, layers: Sequence[Layer], months: BillingMonths | None = None, metered: Sequence[MeteredCharge] = ()
    ) -> None:
        if not layers:
            raise ValueError("a price has at least one layer")
        self._layers = tuple(layers)
        self._months = months or BillingMonths()
        self.metered = tuple(metered)
        self.power_factors: list[tuple[PriceInterval, ...]] = [() for _ in metered]
        """Of each metered charge, those of the time that was read last."""
        self.name = layers[0].source.name

    @property
    def error(self) -> SourceError | None:
        """Why one of the feeds cannot be read now. Its known prices remain in force. None: every feed can be read."""
        sources = [source for layer in self._layers for source in (layer.source, layer.terms.share)]
        errors = (getattr(source, "error", None) for source in (*sources, *(charge.source for charge in self.metered)))
        return next((error for error in errors if error is not None), None)

    @property
    def contract(self) -> Contract:
        """What the sources charge beside their prices, with taxes."""
        result = Contract()
        for layer, charges in self._contracts():
            demand = layer.factor if layer.demand_factor is None else layer.demand_factor
            fixed = layer.factor if layer.fixed_factor is None else layer.fixed_factor
            result += charges.scaled(demand, fixed)
        for charge, known in zip(self.metered, self.power_factors, strict=True):
            result += Contract(charge.charged(known))
        return result

    @property
    def untaxed_contract(self) -> Contract:
        """The same without taxes."""
        return sum((charges for _, charges in self._contracts()), Contract())

    def _contracts(self) -> Iterator[tuple[Layer, Contract]]:
        for layer in self._layers:
            charges: Contract | None = getattr(layer.source, "contract", None)
            if charges is not None:
                yield layer, charges

    def intervals(self, start_seconds: float, end_seconds: float) -> tuple[PriceInterval, ...]:
        """See PriceSource."""
        pieces: list[PriceInterval] = []
        for start, end, parts in self.parts(start_seconds, end_seconds):
            if parts:
                price = sum(part.price.price_per_kwh * part.share * part.layer.factor for part in parts)
                state = least_reliable(part.price.state for part in parts)
                pieces.append(PriceInterval(start, end, price, state, _steps(parts)))
        return merged(part for piece in pieces for part in self.by_month(piece))

    def parts(self, start_seconds: float, end_seconds: float) -> Iterator[tuple[float, float, tuple[Part, ...]]]:
        """(start, end, what each layer that applies adds); none where there is no price."""
        for index, charge in enumerate(self.metered):
            self.power_factors[index] = ()
            with suppress(SourceError):  # reported as the source's error; the charge has its nominal power factor
                self.power_factors[index] = tuple(charge.source.intervals(start_seconds, end_seconds))
        prices = [_Column(layer.source.intervals(start_seconds, end_seconds)) for layer in self._layers]
        times = [_column(layer.terms.times, start_seconds, end_seconds) for layer in self._layers]
        shares = [_column(layer.terms.share, start_seconds, end_seconds) for layer in self._layers]
        columns = [column for column in (*prices, *times, *shares) if column is not None]
        edges = {
            edge for column in columns for part in column.intervals for edge in (part.start_seconds, part.end_seconds)
        }
        for start, end in pairwise(sorted(edges)):
            applies = [True if column is None else _value(column, start) for column in times]
            given = [
                _value(column, start) if column is not None else layer.terms.share
                for layer, column in zip(self._layers, shares, strict=True)
            ]
            yield start, end, self._parts_at(start, prices, applies, given)

    def _parts_at(
        self, start: float, prices: Sequence[_Column], applies: Sequence[object], shares: Sequence[object]
    ) -> tuple[Part, ...]:
        """The parts of a moment; none where one that is needed is not known."""
        energy = [
            (layer.terms.share, share)
            for layer, is_in_force, share in zip(self._layers, applies, shares, strict=True)
            if layer.slot == ENERGY and is_in_force
        ]
        if not energy or None in applies:
            return ()
        # A layer with a share of 1 is on every kWh, such as a margin: it leaves what it finds to the others.
        parts = [share for configured, share in energy if configured != 1.0]
        rest = 1.0 - sum(share for share in parts if isinstance(share, float))
        if rest < -_TOLERANCE or (parts and rest > _TOLERANCE and (None, None) not in energy):
            return ()  # the shares of this moment do not add up
        result: list[Part] = []
        for layer, column, is_in_force, share in zip(self._layers, prices, applies, shares, strict=True):
            if not is_in_force:
                continue
            if share is None and layer.terms.share is not None:
                return ()  # a share that is not known
            part = share if isinstance(share, float) else max(0.0, rest)
            if part > 0.0:
                price = column.at(start)
                if price is None:
                    return ()
                result.append(Part(layer, part, _termed(price, layer.terms, part)))
        return tuple(result)

    def by_month(self, piece: PriceInterval) -> list[PriceInterval]:
        """A price with steps, cut where the count of kWh restarts."""
        if not piece.steps:
            return [piece]
        return [
            replace(piece, start_seconds=start, end_seconds=end, month_start_seconds=month)
            for start, end, month in self._months.pieces(piece.start_seconds, piece.end_seconds)
        ]


def _column(source: float | PriceSource | None, start: float, end: float) -> _Column | None:
    return None if source is None or isinstance(source, float) else _Column(source.intervals(start, end))


def _value(column: _Column, start: float) -> float | None:
    found = column.at(start)
    return None if found is None else found.price_per_kwh


def _termed(price: PriceInterval, terms: Terms, share: float) -> PriceInterval:
    """The price by the terms. Steps are by the kWh of the whole consumption, of which the layer has its share."""
    if terms.factor == 1.0 and share == 1.0 and terms.floor <= price.price_per_kwh <= terms.cap:
        return price
    return replace(
        price,
        price_per_kwh=min(max(price.price_per_kwh * terms.factor, terms.floor), terms.cap),
        steps=tuple((beyond / share, difference * terms.factor) for beyond, difference in price.steps),
    )


def _steps(parts: Sequence[Part]) -> tuple[tuple[float, float], ...]:
    """The steps of a sum: those of all its parts, added where they are at the same quantity."""
    added: dict[float, float] = {}
    for part in parts:
        for beyond, difference in part.price.steps:
            added[beyond] = added.get(beyond, 0.0) + difference * part.share * part.layer.factor
    return tuple(sorted(added.items()))
