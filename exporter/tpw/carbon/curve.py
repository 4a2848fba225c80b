"""Intensities around now, ready for the ledger."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tpw.carbon import Intensity
from tpw.tariff.curve import Steps, starts_of


@dataclass(frozen=True, slots=True)
class IntensityCurve(Steps[Intensity]):
    """Known intensities; ``at`` and ``pieces`` as for prices."""

    @classmethod
    def of(cls, intensities: Iterable[Intensity]) -> IntensityCurve:
        """A curve of what a source tells. Raises ValueError where intensities overlap or are empty."""
        ordered = tuple(intensities)
        return cls(ordered, starts_of(ordered))
