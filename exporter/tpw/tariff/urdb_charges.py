"""Demand and fixed charges of a rate of the Utility Rate Database.

The month's peak at any time (``flatdemand``), by seasons, and the peak of each period of hours (``demandrate``) are
separate charges, and so is each block of kW. A billing month has the season of the calendar month in which it begins, so
that no month is charged twice. A charge with unsupported terms is not included, and named with its size: an approximate
demand charge can be wrong by thousands, and the price of the energy does not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from math import inf
from zoneinfo import ZoneInfo

from tpw.model import StandingCharge
from tpw.tariff.contract import Contract
from tpw.tariff.demand import DemandRules, Hours
from tpw.tariff.months import BillingMonths
from tpw.tariff.tiers import Tier
from tpw.tariff.urdb import Charges, Rate
from tpw.tariff.urdb_fields import SAMPLE_KW

KW_OF_HORSEPOWER = 0.745699872
"""Mechanical horsepower, 550 foot-pounds per second."""

DEMAND, FIXED = "demand", "fixed"
"""The charges of a rate that can be included."""

_SATURDAY = 5
_HINT = "Configure it as tariff.demand, and remove `demand` from `charges`"
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
    power_factor: float | None = None,
) -> Contract:
    """The included charges of a rate. Those that are wanted and have unsupported terms are in ``excluded``, without
    ``power_factor`` also demand per kVA."""
    terms = _Terms(months, ZoneInfo(timezone), is_holiday, power_factor, rate.demand_window_minutes * 60.0)
    demand, no_demand = _demand(rate, terms) if DEMAND in wanted else ((), ())
    fixed, no_fixed = _fixed(rate) if FIXED in wanted else ((), ())
    return Contract(demand, fixed, (*no_demand, *no_fixed))


@dataclass(frozen=True, slots=True)
class _Terms:
    """What a rate leaves open."""

    months: BillingMonths
    zone: ZoneInfo
    is_holiday: Callable[[date], bool] | None
    power_factor: float | None
    window_seconds: float

    def kw_of(self, unit: str) -> float | None:
        """Kilowatt of a unit of demand; None where it is not supported."""
        known = {"kw": 1.0, "hp": KW_OF_HORSEPOWER, "kva": self.power_factor}
        return known.get(unit.strip().lower())


def _demand(rate: Rate, terms: _Terms) -> tuple[tuple[DemandRules, ...], tuple[str, ...]]:
    """The demand charges, and those that cannot be included, in sentences."""
    zone = terms.zone
    rules: list[DemandRules] = []
    excluded: list[str] = []
    if rate.flat_demand is not None:
        flat = rate.flat_demand
        used = sorted(set(flat.months))
        found: list[tuple[str, tuple[Tier, ...], Hours | None]] = [
            (f"peak {period}", flat.periods[period], SeasonMonths(flat.months, period, zone) if len(used) > 1 else None)
            for period in used
        ]
        if problem := _problem(rate, rate.flat_demand_unit, flat.periods, terms):
            excluded.append(_excluded("on the month's peak (flatdemandstructure)", problem, flat.periods))
        else:
            for name, tiers, hours in found:
                rules += _blocks(f"{rate.label} {name}", tiers, hours, terms, rate.flat_demand_unit)
    if rate.demand is not None:
        if problem := _problem(rate, rate.demand_unit, rate.demand.periods, terms):
            excluded.append(_excluded("on the peaks of hours (demandratestructure)", problem, rate.demand.periods))
        else:
            for period, tiers in enumerate(rate.demand.periods):
                hours = PeriodHours(rate.demand, period, zone, terms.is_holiday)
                rules += _blocks(f"{rate.label} period {period}", tiers, hours, terms, rate.demand_unit)
    if rate.flat_demand is None and rate.demand is None and rate.unsupported_demand:
        excluded.append(f"the rate has {rate.unsupported_demand}, which no cost here includes")
    return tuple(rules), tuple(excluded)


def _problem(rate: Rate, unit: str, periods: Sequence[Sequence[Tier]], terms: _Terms) -> str:
    """Why a demand charge cannot be included; "" if it can."""
    if rate.unsupported_demand:
        return f"it has {rate.unsupported_demand}"
    if terms.kw_of(unit) is None:
        return f"it is per {unit}" + (", and `power_factor` is not given" if unit.strip().lower() == "kva" else "")
    if not 60.0 <= terms.window_seconds <= 3600.0:
        return f"its window of {rate.demand_window_minutes:g} minutes (demandwindow) is not from 1 to 60"
    credit = min(tier.price for tiers in periods for tier in tiers)
    return f"it credits {-credit:g} for a kW" if credit < 0.0 else ""


def _excluded(charge: str, problem: str, periods: Sequence[Sequence[Tier]]) -> str:
    size = max(sum(priced(tiers, SAMPLE_KW)) for tiers in periods)
    return (
        f"the rate's demand charge {charge} is not supported, because {problem}: no cost here includes up to {size:,.2f}"
        f" a month for {SAMPLE_KW:g} kW. {_HINT}"
    )


def priced(tiers: Sequence[Tier], quantity: float) -> Iterator[float]:
    """The charge of each block for a quantity."""
    lower = 0.0
    for tier in tiers:
        upper = inf if tier.upper_bound is None else tier.upper_bound
        yield tier.price * max(0.0, min(quantity, upper) - lower)
        lower = upper


def _blocks(name: str, tiers: Sequence[Tier], hours: Hours | None, terms: _Terms, unit: str) -> list[DemandRules]:
    """One charge for each block of kW with a price."""
    result: list[DemandRules] = []
    lower, kw = 0.0, terms.kw_of(unit) or 1.0
    for index, tier in enumerate(tiers):
        upper = inf if tier.upper_bound is None else tier.upper_bound * kw
        if tier.price > 0.0:
            block = f"{name} block {index}" if len(tiers) > 1 else name
            result.append(
                DemandRules(
                    price_per_kw_month=tier.price / kw,
                    name=block,
                    above_kw=lower,
                    up_to_kw=upper,
                    hours=hours,
                    window_seconds=terms.window_seconds,
                    months=terms.months,
                )
            )
        lower = upper
    return result


def _fixed(rate: Rate) -> tuple[tuple[StandingCharge, ...], tuple[str, ...]]:
    """The fixed charge, or why it is not included."""
    unit = rate.fixed_charge_unit.strip().lower()
    if rate.fixed_charge == 0.0:
        return (), ()
    if unit == "$/day":
        return (StandingCharge("fixed", per_day=rate.fixed_charge),), ()
    if unit not in _PER_MONTH or rate.fixed_charge < 0.0:
        excluded = (
            f"the rate has a fixed charge of {rate.fixed_charge:g} {unit or 'without a unit'}, which no cost here"
            " includes: configure it as tariff.fixed, and remove `fixed` from `charges`"
        )
        return (), (excluded,)
    return (StandingCharge("fixed", per_month=rate.fixed_charge * _PER_MONTH[unit]),), ()
