"""Intensities from any list: the readers of price lists, with another unit."""

from __future__ import annotations

from dataclasses import dataclass

from tpw.carbon import scaled
from tpw.model import PriceInterval
from tpw.tariff.feed import Reader

GRAMS = {"g/kWh": 1.0, "kg/MWh": 1.0, "lb/MWh": 0.45359237, "kg/kWh": 1000.0}
"""Unit of a list -> grams per kWh."""


@dataclass(frozen=True, slots=True)
class InGrams:
    """Reads a list whose numbers are in a unit of :data:`GRAMS`."""

    reader: Reader
    unit: str

    @property
    def name(self) -> str:
        """Kind of the source."""
        return self.reader.name

    @property
    def identity(self) -> str:
        """What is read, and its unit."""
        return f"{self.reader.identity} {self.unit}"

    def read(self, start_seconds: float, end_seconds: float) -> tuple[PriceInterval, ...]:
        """See tpw.tariff.feed.Reader."""
        return scaled(GRAMS[self.unit], self.reader.read(start_seconds, end_seconds))
