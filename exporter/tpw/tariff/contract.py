"""What a contract costs beside its price per kWh."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tpw.model import StandingCharge
from tpw.tariff.demand import DemandRules


@dataclass(frozen=True, slots=True)
class Contract:
    """Charges on peaks and standing charges, as the source of the prices tells them."""

    demand: tuple[DemandRules, ...] = ()
    standing: tuple[StandingCharge, ...] = ()
    left_out: tuple[str, ...] = ()
    """What it costs besides and is in no figure here, in sentences."""

    def times(self, factor: float) -> Contract:
        """With value added tax."""
        return Contract(
            tuple(replace(each, price_per_kw_month=each.price_per_kw_month * factor) for each in self.demand),
            tuple(
                replace(each, per_month=each.per_month * factor, per_day=each.per_day * factor)
                for each in self.standing
            ),
            self.left_out,
        )

    def plus(self, other: Contract) -> Contract:
        """Both together."""
        return Contract(
            (*self.demand, *other.demand), (*self.standing, *other.standing), (*self.left_out, *other.left_out)
        )
