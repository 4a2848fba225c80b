"""A contract with one price, or one by blocks of the month's kWh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tpw.model import PriceInterval
from tpw.settings.scalars import number
from tpw.settings.shapes import BAD, ListOf, Report, Section, setting
from tpw.tariff import Layer
from tpw.tariff.context import FeedContext
from tpw.tariff.fields import PRICE, includes_vat_setting
from tpw.tariff.sanity import check_plausible
from tpw.tariff.settings import Tariff
from tpw.tariff.tiers import Tier, steps_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A price beyond a quantity."""

    above_kwh: float = setting(
        number("a number of kWh", above=0.0),
        "Beyond so many kWh of the billing month, over everything the exporter sees.",
    )
    price_per_kwh: float = setting(PRICE, "Price of each further kWh.")


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatLayer(Layer):
    """The same price always, or one by blocks of the month's kWh."""

    price_per_kwh: float = setting(PRICE, "Price per kWh, in whole units of the currency.")
    blocks: tuple[Block, ...] = setting(
        ListOf(Section(Block), "a list of blocks"),
        "Other prices beyond a quantity, in ascending order. In `grid` or `levies` the layer is added to the others.",
        default=(),
    )
    includes_vat: bool = includes_vat_setting()

    @property
    def needs_network(self) -> bool:
        """See Layer."""
        return False

    def check(self, path: str, tariff: Tariff, report: Report) -> None:
        """See Layer."""
        check_plausible(f"{path}.price_per_kwh", self.price_per_kwh, tariff.currency, report)
        beyond = 0.0
        for index, block in enumerate(self.blocks or ()):
            if block is BAD or block.above_kwh is BAD:
                continue
            check_plausible(f"{path}.blocks[{index}].price_per_kwh", block.price_per_kwh, tariff.currency, report)
            if block.above_kwh <= beyond:
                report(f"{path}.blocks[{index}].above_kwh", "blocks must be in ascending order")
            beyond = block.above_kwh

    def source(self, tariff: Tariff, context: FeedContext) -> Flat:
        """See Layer."""
        del tariff, context
        bounds = [*(block.above_kwh for block in self.blocks), None]
        prices = [self.price_per_kwh, *(block.price_per_kwh for block in self.blocks)]
        return Flat(self.price_per_kwh, steps_of([Tier(*tier) for tier in zip(prices, bounds, strict=True)]))


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
