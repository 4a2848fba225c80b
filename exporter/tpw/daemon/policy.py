"""From the configuration, and what feeds have reported, to the rules by which the ledger books."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tpw.config.schema import Config
from tpw.daemon.anomalies import limits
from tpw.ledger.amounts import JOULES_PER_KWH
from tpw.ledger.planned import Pause, Plan
from tpw.ledger.site import Site
from tpw.ledger.tick import Policy
from tpw.model import Calibration
from tpw.tariff.contract import Contract
from tpw.tariff.curve import PriceCurve
from tpw.tariff.months import BillingMonths
from tpw.tariff.site import SiteReading

if TYPE_CHECKING:
    from tpw.carbon.curve import IntensityCurve

FINISH_WINDOWS = 5.0
"""The window of engines that count at the end of a request, in windows of the others: longer than most requests run."""

IN_KUBERNETES = "KUBERNETES_SERVICE_HOST"
"""Set in every container of a cluster."""

NO_SITE = (
    "tariff: fixed, capacity and demand are charges of the whole site, and in a cluster many nodes have this configuration:"
    " without `site` they are not booked. If this node is the whole site, add `site: {name: here, node: 1, total: 1}`."
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the feeds have reported. None where nothing is configured."""

    curve: PriceCurve | None = None
    intensities: IntensityCurve | None = None
    carbon_basis: str = ""
    pue: float = 1.0
    contract: Contract = field(default_factory=Contract)
    """What the source of the prices charges besides them."""
    site: SiteReading = field(default_factory=SiteReading)


def policy(config: Config, facts: Facts) -> Policy:
    """The rules by which ticks are booked."""
    months = config.tariff.months()
    demand = (*config.tariff.demand_rules(), *facts.contract.demand)
    standing_charges = (*config.tariff.standing_charges(), *facts.contract.standing_charges)
    return Policy(
        interval_seconds=config.polling.interval,
        window_seconds=config.polling.window,
        finish_window_seconds=FINISH_WINDOWS * config.polling.window,
        pue=facts.pue,
        host_share=config.facility.host_share,
        currency=config.tariff.currency or "",
        curve=facts.curve,
        demand=demand,
        standing_charges=standing_charges,
        months=months,
        site=site(config, facts.site, months, has_charges=bool(demand or standing_charges)),
        intensities=facts.intensities,
        carbon_basis=facts.carbon_basis,
        emissions=config.emissions.fixed(),
        rates=config.costs.rates(),
        references=tuple(item.reference() for item in config.references),
        limits=limits(config),
        held_seconds=config.polling.hold,
        plan=plan(config),
        calibration={item.gpu: Calibration(item.gain, item.offset_watts) for item in config.calibration},
    )


def plan(config: Config) -> Plan | None:
    """The planned pauses; None where none are configured."""
    if not config.planned_off:
        return None
    pauses = (
        Pause(
            item.hours,
            item.days,
            frozenset(item.gpus),
            frozenset(item.servers),
            _exposed(item.labels),
        )
        for item in config.planned_off
    )
    return Plan(tuple(pauses), config.tariff.timezone or "UTC")


def _exposed(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Labels of pods by their names in metrics."""
    if not labels:
        return ()
    from tpw.discovery.pods import exposed_label  # only where the API of the cluster is read

    return tuple(sorted((exposed_label(name), value) for name, value in labels.items()))


def site(config: Config, reading: SiteReading, months: BillingMonths, *, has_charges: bool) -> Site | None:
    """The site of the node; None where the node is the whole site. In Kubernetes a configuration is that of many nodes, so
    charges are deferred until the site is configured: every node would book all of them."""
    settings = config.site
    if settings is None:
        return Site() if has_charges and IN_KUBERNETES in os.environ else None
    month_kwh: dict[float, float] = {}
    for start, _, joules in reading.spans:
        month, _ = months.bounds(start)
        month_kwh[month] = month_kwh.get(month, 0.0) + joules / JOULES_PER_KWH
    return Site(settings.name, settings.by, settings.node, reading.total, reading.spans, month_kwh)
