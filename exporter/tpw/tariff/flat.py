"""A contract with one price, or one by blocks of the month's kWh."""

from __future__ import annotations

from collections.abc import Sequence

from tpw.model import PriceInterval


class Flat:
    """The same price per kWh, always.

    Args:
        price_per_kwh: of the first kWh of a billing month.
        steps: see :class:`tpw.model.PriceInterval`.
    """

    name = "flat"

    def __init__(self, price_per_kwh: float, steps: Sequence[tuple[float, float]] = ()) -> None:
        self._price_per_kwh = price_per_kwh
        self._steps = tuple(steps)

    def intervals(self, start_seconds: float, end_seconds: float) -> tuple[PriceInterval, ...]:
        """One interval: the range itself."""
        if end_seconds <= start_seconds:
            return ()
        return (PriceInterval(start_seconds, end_seconds, self._price_per_kwh, steps=self._steps),)
