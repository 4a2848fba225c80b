"""Samples of the periods to date, of their forecasts, and of budgets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import fsum
from typing import TYPE_CHECKING, TypeVar

from tpw.ledger.amounts import ENERGY, Amounts
from tpw.ledger.periods import Sums, ToDate
from tpw.ledger.retirement import FORGOTTEN, Retired

if TYPE_CHECKING:
    from tpw.exposition.families import Sheet
    from tpw.snapshot import Snapshot

RETIRED = "(retired)"
"""In place of servers that have no series of their own any more."""

_FORECAST = "month"

_Labels = TypeVar("_Labels", bound=tuple[str, ...])


def add_periods(sheet: Sheet, snapshot: Snapshot, to_date: ToDate) -> None:
    """The samples of a snapshot's periods."""
    currency = snapshot.books.currency
    for period, sums in to_date.periods.items():
        _period(sheet, period, sums, snapshot.retired, currency)
        if snapshot.energy_priced:
            unpriced = fsum(amounts.unpriced_joules for amounts in sums.used.values())
            sheet.add("tpw_period_unpriced_energy_joules", (period,), unpriced)
    _forecasts(sheet, to_date, snapshot.retired, currency)
    tenants = _of_tenants(snapshot)
    for budget in snapshot.budgets if currency else ():
        labels = (budget.name, budget.period, currency)
        sheet.add("tpw_budget_amount", labels, budget.amount)
        shown = tenants if budget.tenant else to_date
        spent = None if shown is None else shown.spent(budget, snapshot.owners)
        if spent is not None:
            sheet.add("tpw_budget_spent", labels, spent[0])
            sheet.add("tpw_budget_projected", labels, spent[1])


def _of_tenants(snapshot: Snapshot) -> ToDate | None:
    if snapshot.tenant_periods is None:
        return None
    from tpw.ledger.tenants import by_tenant

    return snapshot.tenant_periods.to_date(by_tenant(snapshot.books))


def _period(sheet: Sheet, period: str, sums: Sums, retired: Retired, currency: str) -> None:
    used: dict[tuple[str, str], list[Amounts]] = {}
    for (server, state), amounts in sums.used.items():
        used.setdefault((_shown(server, retired), state), []).append(amounts)
    for (server, state), parts in sorted(used.items()):
        amounts, who = Amounts.total(parts), (period, server, state)
        sheet.add("tpw_period_energy_joules", who, amounts.joules)
        sheet.add("tpw_period_facility_energy_joules", who, amounts.facility_joules)
        for component, cost in sorted(amounts.cost.items()) if currency else ():
            net = amounts.net_energy_cost if component == ENERGY else cost
            sheet.add("tpw_period_cost", (*who, component, currency), net)
    tokens = (
        ((period, _shown(server, retired), str(kind)), count)
        for server, work in sums.served.items()
        for kind, count in work.tokens.items()
    )
    for labels, count in _summed(tokens):
        sheet.add("tpw_period_tokens", labels, count)


def _forecasts(sheet: Sheet, to_date: ToDate, retired: Retired, currency: str) -> None:
    forecasts = [((_FORECAST, _shown(server, retired)), one) for server, one in to_date.forecasts(_FORECAST)]
    for who, joules in _summed((who, one.facility_joules) for who, one in forecasts):
        sheet.add("tpw_period_facility_energy_forecast_joules", who, joules)
    tokens = (((*who, str(kind)), count) for who, one in forecasts for kind, count in one.tokens.items())
    for labels, count in _summed(tokens):
        sheet.add("tpw_period_tokens_forecast", labels, count)
    for who, cost in _summed((who, one.cost) for who, one in forecasts if one.cost is not None and currency):
        sheet.add("tpw_period_cost_forecast", (*who, currency), cost)


def _shown(server: str, retired: Retired) -> str:
    return RETIRED if server == FORGOTTEN or server in retired.servers else server


def _summed(samples: Iterable[tuple[_Labels, float]]) -> Iterator[tuple[_Labels, float]]:
    sums: dict[_Labels, float] = {}
    for labels, value in samples:
        sums[labels] = sums.get(labels, 0.0) + value
    return iter(sorted(sums.items()))
