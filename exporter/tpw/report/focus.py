"""A report as a FOCUS data set: FinOps Open Cost and Usage Specification, https://focus.finops.org/.

One row per charge: the cost of one GPU in one period, for one server, model and state, by component. The credit of negative
prices is a charge of its own. Tokens are rows without cost: their cost is in the rows of the GPUs, and any FOCUS tool finds
quantity and cost in one data set.

Version 1.3 names the provider of the service and its host in columns of their own, which replace ``ProviderName`` and
``PublisherName``; 1.3 has both pairs, 1.4 the new one.

There is no price list and no discount: billed, effective, contracted and list cost are equal, and the columns of unit
prices, commitments and reservations are omitted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum

from tpw.ledger.amounts import ENERGY, JOULES_PER_KWH
from tpw.model import Gpu
from tpw.report.periods import Period
from tpw.report.records import csv_rows
from tpw.report.tabulate import Dimension, Line, Report, Totals

VERSIONS = ("1.2", "1.3", "1.4")
"""The first is the default, for which the FinOps Foundation's validator has rules."""

LINES_BY = (Dimension.SERVER, Dimension.MODEL, Dimension.STATE, Dimension.GPU, Dimension.WORKLOAD)
"""The grouping of the report behind a data set, beside time."""

LINES_BY_TENANT = (Dimension.SERVER, Dimension.MODEL, Dimension.STATE, Dimension.WORKLOAD, Dimension.TENANT)
"""The same by tenant: what a tenant used is known by server."""

COLUMNS = (
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceId",
    "InvoiceIssuerName",
    "ListCost",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ResourceId",
    "ResourceName",
    "ResourceType",
    "ServiceCategory",
    "ServiceName",
    "ServiceSubcategory",
    "SkuId",
    "SkuMeter",
    "SubAccountId",
    "SubAccountName",
    "Tags",
    "x_UnpricedKilowattHours",
)
"""Of the data set, in the order of the specification; custom columns begin with ``x_``."""

_KWH = "Kilowatt-Hours"
_GPU_HOURS = "GPU-Hours"
_TOKENS = "Tokens"
_BY_ENERGY = {ENERGY, "demand"}
"""Components that are charged by energy; others accrue by time."""

_METERS = {
    ENERGY: "Facility Energy",
    "demand": "Peak Demand",
    "fixed": "Standing Charges",
    "capacity": "Contracted Power",
    "hardware": "GPU Hardware",
    "gpu_hour": "GPU Rental",
    "hosting": "Hosting",
    "operations": "Operations",
}


def columns(version: str = VERSIONS[0]) -> tuple[str, ...]:
    """Of a version, in the order of the specification."""
    names = set(COLUMNS)
    if version != "1.2":
        names |= {"HostProviderName", "ServiceProviderName"}
    if version == "1.4":
        names -= {"ProviderName", "PublisherName"}
    return tuple(sorted(names, key=lambda name: (name.startswith("x_"), name)))


class _Category(StrEnum):
    USAGE = "Usage"
    CREDIT = "Credit"


@dataclass(frozen=True, slots=True)
class Parties:
    """Who charges whom."""

    provider: str
    """The operator of the GPUs: provider, publisher and issuer of the invoice."""
    billing_account: str
    """Identifies what is charged."""
    invoice: str = ""
    """Number of the invoice that the charges are part of; "" for none."""


class NoCurrencyError(ValueError):
    """A data set of costs without a currency."""


def focus_text(
    report: Report,
    gpus: Mapping[str, Gpu],
    billing_period: Callable[[float], Period],
    parties: Parties,
    version: str = VERSIONS[0],
) -> Iterator[str]:
    """The data set as CSV; an empty field is null.

    Args:
        report: grouped by a unit of time and ``LINES_BY`` or ``LINES_BY_TENANT``.
        gpus: by UUID.
        billing_period: the billing period of a moment.
        parties: who charges whom.
        version: of the specification.

    Raises:
        NoCurrencyError: the books hold no money.
    """
    if not report.currency:
        raise NoCurrencyError(
            "these books hold no money, and a FOCUS data set has a currency: configure `tariff` or `costs`"
        )
    names = columns(version)
    rows = _rows(report, gpus, billing_period, parties)
    return csv_rows(names, ({name: row.get(name, "") for name in names} for row in rows))


def _rows(
    report: Report, gpus: Mapping[str, Gpu], billing_period: Callable[[float], Period], parties: Parties
) -> Iterator[dict[str, str]]:
    for line in report.lines:
        assert line.period is not None  # noqa: S101 - it is grouped by time
        common = _common(line, line.period, billing_period(line.period.start_seconds), parties, report.currency)
        for charge in _charges(line, gpus.get(line.gpu)):
            yield {**common, **charge}


def _common(line: Line, period: Period, billing: Period, parties: Parties, currency: str) -> dict[str, str]:
    """What all charges of a line have in common."""
    tags = {"tpw/server": line.server, "tpw/model": line.model, "tpw/state": line.state, "tpw/tenant": line.tenant}
    if line.workload is not None:
        tags |= {"tpw/workload": line.workload.name, "tpw/workload_kind": line.workload.kind}
    belongs = line.belongs
    tags |= {"tpw/namespace": belongs.namespace, "tpw/deployment": belongs.deployment, **dict(belongs.labels)}
    return {
        "BillingAccountId": parties.billing_account,
        "BillingAccountName": parties.billing_account,
        "BillingCurrency": currency,
        "BillingPeriodStart": _utc(billing.start_seconds),
        "BillingPeriodEnd": _utc(billing.end_seconds),
        "ChargePeriodStart": _utc(period.start_seconds),
        "ChargePeriodEnd": _utc(period.end_seconds),
        "InvoiceId": parties.invoice,
        "InvoiceIssuerName": parties.provider,
        "HostProviderName": parties.provider,
        "ProviderName": parties.provider,
        "PublisherName": parties.provider,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": "LLM Inference",
        "ServiceProviderName": parties.provider,
        "ServiceSubcategory": "Generative AI",
        "SubAccountId": line.tenant or belongs.namespace,
        "SubAccountName": line.tenant or belongs.namespace,
        "Tags": json.dumps({name: value for name, value in tags.items() if value}, ensure_ascii=False),
    }


def _charges(line: Line, gpu: Gpu | None) -> Iterator[dict[str, str]]:
    amounts = line.totals.amounts
    names = (line.server, line.model) if line.server or line.workload is None else (line.workload.name,)
    workload = ", ".join(name for name in names if name)
    label = "GPUs" if line.tenant else "a GPU" if gpu is None else f"GPU {gpu.index}"
    use = f"{label}, {line.state}" + (f" ({workload})" if workload else "")
    on = {
        "ResourceId": line.gpu,
        "ResourceName": "" if gpu is None else f"{label}, {gpu.name}".removesuffix(", "),
        "ResourceType": "GPU" if line.gpu else "",
    }
    if line.tenant:
        on = {"ResourceId": line.server, "ResourceName": line.server, "ResourceType": "Inference Server"}
    for component, cost in sorted(amounts.cost.items(), key=lambda item: (item[0] != ENERGY, item[0])):
        quantity, unit = _quantity(component, line.totals)
        if cost == 0.0 and quantity <= 0.0:
            # Energy without a price yet is no charge yet.
            continue
        meter = _METERS.get(component, component.capitalize())
        yield {
            **on,
            **_cost(cost),
            "ChargeCategory": _Category.USAGE,
            "ChargeDescription": f"{meter}: {use}",
            "ChargeFrequency": "Usage-Based" if component in _BY_ENERGY else "Recurring",
            **_used(quantity, unit),
            "SkuId": component,
            "SkuMeter": meter,
            "x_UnpricedKilowattHours": _decimal(amounts.unpriced_joules / JOULES_PER_KWH)
            if component == ENERGY and amounts.unpriced_joules > 0.0
            else "",
        }
    if amounts.credit:
        yield {
            **on,
            **_cost(-amounts.credit),
            "ChargeCategory": _Category.CREDIT,
            "ChargeDescription": f"Paid back by negative prices: {use}",
            "ChargeFrequency": "Usage-Based",
            "SkuId": ENERGY,
            "SkuMeter": _METERS[ENERGY],
        }
    for kind, tokens in sorted(line.totals.served.tokens.items()):
        if tokens > 0.0:
            words = kind.replace("_", " ")
            yield {
                "ResourceId": line.server,
                "ResourceName": line.server,
                "ResourceType": "Inference Server",
                **_cost(0.0),
                "ChargeCategory": _Category.USAGE,
                "ChargeDescription": f"{words.capitalize()} tokens ({workload}); their cost is that of the GPUs",
                "ChargeFrequency": "Usage-Based",
                **_used(tokens, _TOKENS),
                "SkuId": f"tokens-{kind.replace('_', '-')}",
                "SkuMeter": f"{words.title()} Tokens",
            }


def _quantity(component: str, line: Totals) -> tuple[float, str]:
    """What a component is charged by."""
    amounts = line.amounts
    if component == ENERGY:
        charged = amounts.facility_joules - amounts.unpriced_joules - line.untariffed_joules
        return max(0.0, charged) / JOULES_PER_KWH, _KWH
    if component in _BY_ENERGY:
        return amounts.facility_joules / JOULES_PER_KWH, _KWH
    return amounts.seconds / 3600.0, _GPU_HOURS


def _used(quantity: float, unit: str) -> dict[str, str]:
    text = _decimal(quantity)
    return {"ConsumedQuantity": text, "ConsumedUnit": unit, "PricingQuantity": text, "PricingUnit": unit}


def _cost(amount: float) -> dict[str, str]:
    text = _decimal(amount)
    return {"BilledCost": text, "EffectiveCost": text, "ContractedCost": text, "ListCost": text}


def _decimal(value: float) -> str:
    """All digits, without an exponent (Numeric Format)."""
    text = format(Decimal(repr(value)), "f")
    return text.removesuffix(".0") if value else "0"


def _utc(at_seconds: float) -> str:
    """Date/Time Format."""
    return f"{datetime.fromtimestamp(at_seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
