"""Demand and fixed charges of a rate of the Utility Rate Database.

The month's peak at any time (``flatdemand``), by seasons, and the peak of each period of hours (``demandrate``) are
separate charges, and so is each block of kW. A billing month has the season of the calendar month in which it begins, so
that no month is charged twice. Unsupported terms are refused: an approximate demand charge can be wrong by thousands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from math import inf
from zoneinfo import ZoneInfo

from tpw.model import Reason, SourceError, StandingCharge
from tpw.tariff.contract import Contract
from tpw.tariff.demand import DemandRules, Hours
from tpw.tariff.months import BillingMonths
from tpw.tariff.tiers import Tier
from tpw.tariff.urdb import Charges, Rate

DEMAND, FIXED = "demand", "fixed"
"""The charges of a rate that can be included."""

_SATURDAY = 5
_HINT = "configure this charge as tariff.demand, and remove `demand` from `charges`"
_PER_MONTH = {"$/month": 1.0, "$/year": 1.0 / 12.0}


@dataclass(frozen=True, slots=True)
class PeriodHours:
    """The hours of one period of a rate."""

    charges: Charges
    period: int
    zone: ZoneInfo
    is_holiday: Callable[[date], bool] | None = None

    def contains(self, month_start_seconds: float, at_seconds: float) -> bool:
        """See Hours."""
        moment = _local(at_seconds, self.zone)
        is_weekend = moment.weekday() >= _SATURDAY or (self.is_holiday is not None and self.is_holiday(moment.date()))
        matrix = self.charges.weekend if is_weekend else self.charges.weekday
        return matrix[_local(month_start_seconds, self.zone).month - 1][moment.hour] == self.period


@dataclass(frozen=True, slots=True)
class SeasonMonths:
    """The months of one period of a rate."""

    months: tuple[int, ...]
    """Period by month."""
    period: int
    zone: ZoneInfo

    def contains(self, month_start_seconds: float, at_seconds: float) -> bool:
        """See Hours."""
        del at_seconds
        return self.months[_local(month_start_seconds, self.zone).month - 1] == self.period


def _local(at_seconds: float, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(at_seconds, UTC).astimezone(zone)


def contract_of(
    rate: Rate,
    wanted: frozenset[str],
    months: BillingMonths,
    timezone: str,
    is_holiday: Callable[[date], bool] | None = None,
) -> Contract:
    """The included charges of a rate. Raises SourceError (UNSUPPORTED) for unsupported terms."""
    return Contract(
        _demand(rate, months, ZoneInfo(timezone), is_holiday) if DEMAND in wanted else (),
        _fixed(rate) if FIXED in wanted else (),
    )


def _demand(
    rate: Rate, months: BillingMonths, zone: ZoneInfo, is_holiday: Callable[[date], bool] | None
) -> tuple[DemandRules, ...]:
    if rate.unsupported_demand:
        raise SourceError(Reason.UNSUPPORTED, f"this rate has {rate.unsupported_demand}, which is not supported", _HINT)
    window = rate.demand_window_minutes * 60.0
    rules: list[DemandRules] = []
    if rate.flat_demand is not None:
        _check_unit(rate.flat_demand_unit)
        flat = rate.flat_demand
        for period in sorted(set(flat.months)):
            hours: Hours | None = SeasonMonths(flat.months, period, zone) if len(set(flat.months)) > 1 else None
            rules += _blocks(f"{rate.label} peak {period}", flat.periods[period], hours, window, months)
    if rate.demand is not None:
        _check_unit(rate.demand_unit)
        for period, tiers in enumerate(rate.demand.periods):
            hours = PeriodHours(rate.demand, period, zone, is_holiday)
            rules += _blocks(f"{rate.label} period {period}", tiers, hours, window, months)
    return tuple(rules)


def _blocks(
    name: str, tiers: Sequence[Tier], hours: Hours | None, window: float, months: BillingMonths
) -> list[DemandRules]:
    """One charge for each block of kW with a price."""
    result: list[DemandRules] = []
    lower = 0.0
    for index, tier in enumerate(tiers):
        upper = inf if tier.upper_bound is None else tier.upper_bound
        if tier.price < 0.0:
            raise SourceError(Reason.UNSUPPORTED, f"this rate credits {-tier.price:g} for a kW of demand", _HINT)
        if tier.price > 0.0:
            block = f"{name} block {index}" if len(tiers) > 1 else name
            result.append(
                DemandRules(
                    price_per_kw_month=tier.price,
                    name=block,
                    above_kw=lower,
                    up_to_kw=upper,
                    hours=hours,
                    window_seconds=window,
                    months=months,
                )
            )
        lower = upper
    return result


def _check_unit(unit: str) -> None:
    if unit.strip().lower() != "kw":
        raise SourceError(
            Reason.UNSUPPORTED, f"this rate charges demand per {unit}; only kW per month are supported", _HINT
        )


def _fixed(rate: Rate) -> tuple[StandingCharge, ...]:
    unit = rate.fixed_charge_unit.strip().lower()
    if rate.fixed_charge == 0.0:
        return ()
    if unit == "$/day":
        return (StandingCharge("fixed", per_day=rate.fixed_charge),)
    if unit not in _PER_MONTH or rate.fixed_charge < 0.0:
        raise SourceError(
            Reason.UNSUPPORTED,
            f"this rate has a fixed charge of {rate.fixed_charge:g} {unit or 'without a unit'}, which is not supported",
            "configure it as tariff.fixed, and remove `fixed` from `charges`",
        )
    return (StandingCharge("fixed", per_month=rate.fixed_charge * _PER_MONTH[unit]),)
