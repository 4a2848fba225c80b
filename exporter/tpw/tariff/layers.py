"""The all-in price: the sum of several sources (energy, network, levies) with value added tax.

A price that depends on the consumption of the billing month has steps. The sum has the steps of all its parts, and its
intervals are cut where a billing month begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from tpw.model import PriceInterval, SourceError
from tpw.tariff import PriceSource
from tpw.tariff.contract import Contract
from tpw.tariff.months import BillingMonths
from tpw.tariff.spans import least_reliable, merged


@dataclass(frozen=True, slots=True)
class Layer:
    """One part of the price. ``factor`` is 1 + VAT, or 1 where the part contains VAT."""

    source: PriceSource
    factor: float = 1.0


class Layers:
    """The sum of its layers. It has no price where one of them has none: part of a price would be wrong."""

    def __init__(self, layers: Sequence[Layer], months: BillingMonths | None = None) -> None:
        if not layers:
            raise ValueError("a price has at least one layer")
        self._layers = tuple(layers)
        self._months = months or BillingMonths()
        self.name = layers[0].source.name

    @property
    def error(self) -> SourceError | None:
        """Why one of the feeds cannot be read now. Its known prices remain in force. None: every feed can be read."""
        errors = (getattr(layer.source, "error", None) for layer in self._layers)
        return next((error for error in errors if error is not None), None)

    @property
    def contract(self) -> Contract:
        """What the sources charge beside their prices, with value added tax."""
        result = Contract()
        for layer in self._layers:
            charges: Contract | None = getattr(layer.source, "contract", None)
            if charges is not None:
                result += charges.scaled(layer.factor)
        return result

    def intervals(self, start_seconds: float, end_seconds: float) -> tuple[PriceInterval, ...]:
        """See PriceSource."""
        factors = [layer.factor for layer in self._layers]
        columns = [layer.source.intervals(start_seconds, end_seconds) for layer in self._layers]
        if len(columns) == 1 and factors == [1.0]:
            return merged(part for piece in columns[0] for part in self._by_month(piece))
        cuts = sorted(
            {edge for column in columns for part in column for edge in (part.start_seconds, part.end_seconds)}
        )
        positions = [0] * len(columns)
        pieces: list[PriceInterval] = []
        for start, end in pairwise(cuts):
            parts: list[PriceInterval] = []
            for index, column in enumerate(columns):
                position = positions[index]
                while position < len(column) and column[position].end_seconds <= start:
                    position += 1
                positions[index] = position
                if position < len(column) and column[position].start_seconds <= start:
                    parts.append(column[position])
            if len(parts) == len(columns):
                price = sum(part.price_per_kwh * factor for part, factor in zip(parts, factors, strict=True))
                pieces.append(
                    PriceInterval(
                        start, end, price, least_reliable(part.state for part in parts), _steps(parts, factors)
                    )
                )
        return merged(part for piece in pieces for part in self._by_month(piece))

    def _by_month(self, piece: PriceInterval) -> list[PriceInterval]:
        """A price with steps, cut where the count of kWh restarts."""
        if not piece.steps:
            return [piece]
        return [
            replace(piece, start_seconds=start, end_seconds=end, month_start_seconds=month)
            for start, end, month in self._months.pieces(piece.start_seconds, piece.end_seconds)
        ]


def _steps(parts: Sequence[PriceInterval], factors: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """The steps of a sum: those of all its parts, added where they are at the same quantity."""
    added: dict[float, float] = {}
    for part, factor in zip(parts, factors, strict=True):
        for beyond, difference in part.steps:
            added[beyond] = added.get(beyond, 0.0) + difference * factor
    return tuple(sorted(added.items()))
