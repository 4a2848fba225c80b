"""The all-in price: the sum of several sources (energy, network, levies), value added tax on top.

A price that depends on how much was used in the billing month arrives here as a price with steps; the sum has the steps
of all its parts, and every interval is cut where a billing month begins.
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
    """One part of the price. ``factor`` is 1 + VAT, or 1 where the part contains it already."""

    source: PriceSource
    factor: float = 1.0


class Layers:
    """The sum of its layers. Where one of them has no price the sum has none: a part of a price is a wrong price."""

    def __init__(self, layers: Sequence[Layer], months: BillingMonths | None = None) -> None:
        if not layers:
            raise ValueError("a price has at least one layer")
        self._layers = tuple(layers)
        self._months = months or BillingMonths()
        self.name = layers[0].source.name

    @property
    def trouble(self) -> SourceError | None:
        """Why a feed among the layers cannot be read now, though what it said before may still hold. None: all is well."""
        for layer in self._layers:
            trouble: SourceError | None = getattr(layer.source, "trouble", None)
            if trouble is not None:
                return trouble
        return None

    @property
    def contract(self) -> Contract:
        """What the sources of the layers charge beside their prices, value added tax on top."""
        result = Contract()
        for layer in self._layers:
            charges: Contract | None = getattr(layer.source, "contract", None)
            if charges is not None:
                result = result.plus(charges.times(layer.factor))
        return result

    def intervals(self, start_seconds: float, end_seconds: float) -> tuple[PriceInterval, ...]:
        """Raises what a layer raises."""
        factors = [layer.factor for layer in self._layers]
        columns = [layer.source.intervals(start_seconds, end_seconds) for layer in self._layers]
        if len(columns) == 1 and factors == [1.0]:
            return merged(each for piece in columns[0] for each in self._by_month(piece))
        cuts = sorted(
            {edge for column in columns for each in column for edge in (each.start_seconds, each.end_seconds)}
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
        return merged(each for piece in pieces for each in self._by_month(piece))

    def _by_month(self, piece: PriceInterval) -> list[PriceInterval]:
        """A price with steps, cut where the count of kWh begins anew."""
        if not piece.steps:
            return [piece]
        return [
            replace(piece, start_seconds=start, end_seconds=end, month_start_seconds=month)
            for start, end, month in self._months.pieces(piece.start_seconds, piece.end_seconds)
        ]


def _steps(parts: Sequence[PriceInterval], factors: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """The steps of a sum: those of all its parts; steps at the same quantity are one."""
    added: dict[float, float] = {}
    for part, factor in zip(parts, factors, strict=True):
        for beyond, difference in part.steps:
            added[beyond] = added.get(beyond, 0.0) + difference * factor
    return tuple(sorted(added.items()))
