"""The all-in price: the sum of several sources (energy, network, levies), value added tax on top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tpw.model import PriceInterval, SourceError
from tpw.tariff import PriceSource
from tpw.tariff.spans import least_reliable, merged


@dataclass(frozen=True, slots=True)
class Layer:
    """One part of the price. ``factor`` is 1 + VAT, or 1 where the part contains it already."""

    source: PriceSource
    factor: float = 1.0


class Layers:
    """The sum of its layers. Where one of them has no price the sum has none: a part of a price is a wrong price."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        if not layers:
            raise ValueError("a price has at least one layer")
        self._layers = tuple(layers)
        self.name = layers[0].source.name

    @property
    def trouble(self) -> SourceError | None:
        """Why a feed among the layers cannot be read now, though what it said before may still hold. None: all is well."""
        for layer in self._layers:
            trouble: SourceError | None = getattr(layer.source, "trouble", None)
            if trouble is not None:
                return trouble
        return None

    def intervals(self, start_seconds: float, end_seconds: float) -> tuple[PriceInterval, ...]:
        """Raises what a layer raises."""
        factors = [layer.factor for layer in self._layers]
        columns = [layer.source.intervals(start_seconds, end_seconds) for layer in self._layers]
        if len(columns) == 1 and factors == [1.0]:
            return merged(columns[0])
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
                pieces.append(PriceInterval(start, end, price, least_reliable(part.state for part in parts)))
        return merged(pieces)
