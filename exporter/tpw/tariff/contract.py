"""What a contract costs beside its price per kWh."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tpw.model import StandingCharge
from tpw.tariff.demand import DemandRules


@dataclass(frozen=True, slots=True)
class Contract:
    """Demand charges and standing charges from the source of the prices."""

    demand: tuple[DemandRules, ...] = ()
    standing_charges: tuple[StandingCharge, ...] = ()
    excluded: tuple[str, ...] = ()
    """Charges that no figure includes, in sentences."""
    minimum_per_month: float = 0.0
    """A minimum bill: of the whole meter, so that no hour or server has a share of it."""

    def scaled(self, factor: float, fixed: float) -> Contract:
        """The demand charges times a factor, and the standing charges times another: taxes."""
        return Contract(
            tuple(replace(rules, price_per_kw_month=rules.price_per_kw_month * factor) for rules in self.demand),
            tuple(
                replace(charge, per_month=charge.per_month * fixed, per_day=charge.per_day * fixed)
                for charge in self.standing_charges
            ),
            self.excluded,
            self.minimum_per_month,
        )

    def __add__(self, other: Contract) -> Contract:
        return Contract(
            self.demand + other.demand,
            self.standing_charges + other.standing_charges,
            self.excluded + other.excluded,
            max(self.minimum_per_month, other.minimum_per_month),
        )
