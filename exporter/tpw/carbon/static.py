"""One intensity, always."""

from __future__ import annotations

from dataclasses import dataclass

from tpw.carbon import Basis, CarbonSettings, Intensity
from tpw.carbon.fields import GRAMS_PER_KWH, basis_setting
from tpw.settings.shapes import setting
from tpw.tariff.context import FeedContext


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticIntensity(CarbonSettings):
    """One number, always: the yearly figure of a supplier or a country."""

    grams_per_kwh: float = setting(GRAMS_PER_KWH, "Grams of CO2 equivalent per kWh.")
    basis: str = basis_setting()

    def source(self, timezone: str | None, context: FeedContext) -> Static:
        """See CarbonSettings."""
        del timezone, context
        return Static(self.grams_per_kwh, Basis(self.basis))


class Static:
    """One number, always: the yearly figure of a supplier or a country."""

    name = "static"

    def __init__(self, grams_per_kwh: float, basis: Basis) -> None:
        self.basis = basis
        self._grams_per_kwh = grams_per_kwh

    def intervals(self, start_seconds: float, end_seconds: float) -> tuple[Intensity, ...]:
        """One interval: the range itself."""
        if end_seconds <= start_seconds:
            return ()
        return (Intensity(start_seconds, end_seconds, self._grams_per_kwh),)
