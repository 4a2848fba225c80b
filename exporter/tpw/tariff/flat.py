"""A contract with one price."""

from __future__ import annotations

from tpw.model import PriceInterval


class Flat:
    """The same price per kWh, always."""

    name = "flat"

    def __init__(self, price_per_kwh: float) -> None:
        self._price_per_kwh = price_per_kwh

    def intervals(self, start_seconds: float, end_seconds: float) -> tuple[PriceInterval, ...]:
        """One interval: the range itself."""
        if end_seconds <= start_seconds:
            return ()
        return (PriceInterval(start_seconds, end_seconds, self._price_per_kwh),)
