"""Samples of tenants. Imported only where tenants are configured."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from tpw.ledger.amounts import ENERGY
from tpw.ledger.books import Books
from tpw.ledger.tenants import TenantBooks, unsettled

if TYPE_CHECKING:
    from tpw.exposition.families import Sheet


def add_tenants(
    sheet: Sheet, books: Books, tenants: TenantBooks, servers: Collection[str], components: Sequence[str]
) -> None:
    """The samples of tenants of these servers."""
    currency = books.currency
    for (server, model, tenant, kind), tokens in sorted(tenants.tokens.items()):
        if server in servers:
            sheet.add("tpw_tenant_tokens_total", (server, model, tenant, str(kind)), tokens)
    for key, amounts in sorted(tenants.postings.items()):
        if key.server not in servers:
            continue
        who, method = (key.server, key.model, key.tenant, str(key.state)), str(key.method)
        sheet.add("tpw_tenant_energy_joules_total", (*who, method), amounts.joules)
        sheet.add("tpw_tenant_facility_energy_joules_total", (*who, method), amounts.facility_joules)
        for component in components:
            cost = amounts.cost.get(component, 0.0)
            sheet.add("tpw_tenant_cost_total", (*who, component, currency, method), cost)
        if ENERGY in components:
            sheet.add("tpw_tenant_credit_total", (*who, currency, method), amounts.credit)
        for basis, grams in sorted(amounts.emissions_grams.items()):
            sheet.add("tpw_tenant_emissions_grams_total", (*who, basis, method), grams)
    divided = {key.server for key in tenants.postings} | tenants.sources.keys()
    for server, model, state, left in unsettled(books, divided & set(servers)):
        sheet.add("tpw_tenant_unsettled_energy_joules", (server, model, str(state)), left.joules)
        for component in components:
            labels = (server, model, str(state), component, currency)
            sheet.add("tpw_tenant_unsettled_cost", labels, left.cost.get(component, 0.0))
