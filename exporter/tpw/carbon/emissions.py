"""Emissions beside those of the grid's mix: of the contract (market-based), and of making the GPUs (embodied).

The GHG Protocol asks for scope 2 by both methods, location-based (the mix of the grid, here the ``carbon`` section) and
market-based (the supplier's factor, after certificates). The Software Carbon Intensity of the Green Software Foundation
(ISO/IEC 21031:2024) is (E x I + M) per R: energy times intensity, and the share of embodied emissions for the time of use.
Each is a basis of its own in the books, so that nothing is added that does not belong together.
"""

from __future__ import annotations

from dataclasses import dataclass

from tpw.carbon.fields import GRAMS_PER_KWH
from tpw.model import FixedEmissions
from tpw.settings.scalars import number
from tpw.settings.shapes import setting

MARKET_BASED = "market_based"
EMBODIED = "embodied"


def _given(basis: str, grams: float | None) -> tuple[tuple[str, float], ...]:
    return () if grams is None else ((basis, grams),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Emissions:
    """Emissions beside those of the grid's mix. Each is counted by a basis of its own."""

    market_grams_per_kwh: float | None = setting(
        GRAMS_PER_KWH,
        "Emission factor of the supplier or the certificates of the contract, in grams of CO2 equivalent per kWh: counted"
        " with basis market_based, beside the location-based grams of `carbon`.",
        default=None,
        default_words="none",
    )
    embodied_grams_per_gpu_hour: float | None = setting(
        number("grams of CO2 equivalent per GPU hour", minimum=0.0, maximum=10_000.0),
        "Emissions of making a GPU with its share of the server, in grams of CO2 equivalent per hour of its life: counted"
        " with basis embodied, for all time of a GPU.",
        default=None,
        default_words="none",
    )

    def fixed(self) -> FixedEmissions:
        """By basis, for the ledger."""
        return FixedEmissions(
            _given(MARKET_BASED, self.market_grams_per_kwh), _given(EMBODIED, self.embodied_grams_per_gpu_hour)
        )
