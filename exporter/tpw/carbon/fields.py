"""Settings that several intensity sources have."""

from __future__ import annotations

from typing import Any

from tpw.carbon import Basis
from tpw.settings.scalars import choice, number
from tpw.settings.shapes import setting

GRAMS_PER_KWH = number("grams of CO2 equivalent per kWh", minimum=0.0, maximum=3000.0, advice="grams per kWh")


def basis_setting() -> Any:
    """What the numbers count."""
    return setting(
        choice(*Basis),
        "What the numbers count: all plants while they run, over their whole life, or the plants that follow demand.",
    )


def fallback_setting() -> Any:
    """An intensity for time without one."""
    return setting(
        GRAMS_PER_KWH,
        "Intensity for time for which the service has none. Without it that energy has no emissions.",
        default=None,
        default_words="none",
    )
