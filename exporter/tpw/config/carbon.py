"""The section of the carbon intensity: one section per kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tpw.config.scalars import choice, file_path, number, text
from tpw.config.shapes import ByKind, setting
from tpw.config.tables import Report, Table, check_table

_GRAMS = number("grams of CO2 equivalent per kWh", minimum=0.0, maximum=3000.0, advice="grams per kWh")
_BASIS = choice("average_direct", "average_lifecycle", "marginal_direct")
_BASIS_HELP = (
    "What the numbers count: all plants while they run, over their whole life, or the plants that follow demand."
)


def _fallback() -> Any:
    return setting(
        _GRAMS,
        "Intensity, for time for which the service has none. Without it that energy has no emissions.",
        default=None,
        default_words="none",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticIntensity:
    """One number, always: the yearly figure of a supplier or a country."""

    grams_per_kwh: float = setting(_GRAMS, "Grams of CO2 equivalent per kWh.")
    basis: str = setting(_BASIS, _BASIS_HELP)


@dataclass(frozen=True, slots=True, kw_only=True)
class UkIntensity:
    """The Carbon Intensity service of Great Britain (basis average_direct); no key."""

    postcode: str | None = setting(
        text("an outward postcode such as RG10", pattern="[A-Z]{1,2}[0-9][0-9A-Z]?"),
        "Outward postcode, for the figures of its region.",
        default=None,
        default_words="the nation",
    )
    fallback_grams_per_kwh: float | None = _fallback()


@dataclass(frozen=True, slots=True, kw_only=True)
class ElectricityMapsIntensity:
    """Electricity Maps: the mix of a zone by hour."""

    zone: str = setting(text("a zone such as DE or US-CAL-CISO", pattern="[A-Z]{2}[A-Z0-9-]*"), "Zone of the service.")
    token_file: str = setting(file_path(), "File with the token.")
    factors: str = setting(
        choice("lifecycle", "direct"),
        "Emission factors, which are the basis: average_lifecycle or average_direct.",
        default="lifecycle",
    )
    fallback_grams_per_kwh: float | None = _fallback()


@dataclass(frozen=True, slots=True, kw_only=True)
class WattTimeIntensity:
    """WattTime: the plants that follow demand (basis marginal_direct), every five minutes."""

    region: str = setting(text("a region such as CAISO_NORTH", pattern="[A-Z0-9_]+"), "Region of the service.")
    account_file: str = setting(file_path(), "File with `user:password`.")
    fallback_grams_per_kwh: float | None = _fallback()


@dataclass(frozen=True, slots=True, kw_only=True)
class IntensityTable(Table):
    """Intensities by interval: any JSON, CSV or Prometheus series from a `url` or `file`."""

    value: str | None = setting(text("a field"), "Field, column or path of the number.", default=None)
    unit: str = setting(choice("g/kWh", "kg/MWh", "lb/MWh", "kg/kWh"), "Unit of the numbers.", default="g/kWh")
    basis: str = setting(_BASIS, _BASIS_HELP)
    fallback_grams_per_kwh: float | None = _fallback()


KINDS: Mapping[str, type] = {
    "static": StaticIntensity,
    "uk": UkIntensity,
    "electricity_maps": ElectricityMapsIntensity,
    "watttime": WattTimeIntensity,
    "intervals": IntensityTable,
}
"""Kind of an intensity -> its settings."""

CarbonSettings = StaticIntensity | UkIntensity | ElectricityMapsIntensity | WattTimeIntensity | IntensityTable

CARBON = ByKind(KINDS, "a mapping of settings with a kind")


def check_carbon(carbon: CarbonSettings | None, timezone: str | None, report: Report) -> None:
    """Note every contradiction at the key it concerns."""
    if not isinstance(carbon, IntensityTable):
        return
    given = [key for key in ("url", "file") if getattr(carbon, key) is not None]
    if len(given) != 1:
        report("carbon", f"give one of `url` and `file`{', not both' if given else ''}")
        return
    check_table("carbon", carbon, "value", timezone, report)
