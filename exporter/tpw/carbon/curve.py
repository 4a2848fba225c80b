"""Intensities over time, as the ledger reads them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tpw.carbon import Intensity
from tpw.tariff.curve import Steps, starts_of


@dataclass(frozen=True, slots=True)
class IntensityCurve(Steps[Intensity]):
    """Known intensities; ``at`` and ``pieces`` as for prices."""

    @classmethod
    def from_intervals(cls, intensities: Iterable[Intensity]) -> IntensityCurve:
        """The curve of a source's intensities. Raises ValueError where they overlap or are empty."""
        ordered = tuple(intensities)
        return cls(ordered, starts_of(ordered))
