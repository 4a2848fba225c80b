"""The postings of the books, summed by GPU and by server: what the metrics page and the status API show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import fsum
from typing import TYPE_CHECKING

from tpw.ledger.amounts import Amounts
from tpw.ledger.books import Books, ServerAccount
from tpw.ledger.retirement import Retired
from tpw.model import EnergyMethod, State, Workload

if TYPE_CHECKING:
    from tpw.ledger.service import Outcomes, Service


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums of postings, each rounded once, so that the order of the postings changes no bit of a counter."""

    gpus: Mapping[tuple[str, str], Amounts]
    """By (uuid, state). States are plain strings: members of an enum hash slowly."""
    servers: Mapping[tuple[str, str, str], Amounts]
    """By (server, model, state)."""
    workloads: Mapping[Workload, float]
    """Joules of workloads that are no servers (state ``other``)."""
    models: Mapping[str, set[str]]
    """Models with postings, by server."""
    components: frozenset[str]
    """All booked components of cost."""
    bases: frozenset[str]
    """All booked bases of emissions."""
    unmeasured: frozenset[tuple[str, str]]
    """(server, model) with postings only on GPUs that report no energy."""


def totals(books: Books) -> Totals:
    """The totals of the books."""
    gpus: dict[tuple[str, str], list[Amounts]] = {}
    workloads: dict[Workload, list[float]] = {}
    servers: dict[tuple[str, str, str], list[Amounts]] = {}
    models: dict[str, set[str]] = {}
    components: set[str] = set()
    bases: set[str] = set()
    measured: set[tuple[str, str]] = set()
    without_energy = {uuid for uuid, account in books.gpus.items() if account.gpu.energy_method is EnergyMethod.NONE}
    for (gpu, server, model, member, workload), amounts in books.postings.items():
        state = str(member)
        gpus.setdefault((gpu, state), []).append(amounts)
        components.update(amounts.cost)
        bases.update(amounts.emissions_grams)
        if workload is not None:
            workloads.setdefault(workload, []).append(amounts.joules)
        if server:
            servers.setdefault((server, model, state), []).append(amounts)
            models.setdefault(server, set()).add(model)
            if amounts.joules > 0.0 or gpu not in without_energy:
                measured.add((server, model))
    return Totals(
        {key: Amounts.total(parts) for key, parts in gpus.items()},
        {key: Amounts.total(parts) for key, parts in servers.items()},
        {workload: fsum(joules) for workload, joules in workloads.items()},
        models,
        frozenset(components),
        frozenset(bases),
        frozenset((server, model) for server, model, _ in servers if (server, model) not in measured),
    )


def listed(books: Books, booked: Totals, retired: Retired) -> tuple[Totals, Mapping[str, ServerAccount]]:
    """The totals and the servers without what is retired. The totals of GPUs keep it."""
    if not retired:
        return booked, books.servers
    models = {
        server: {model for model in models if (server, model) not in retired}
        for server, models in booked.models.items()
        if server not in retired.servers
    }
    servers = {
        name: _without(account, retired) for name, account in books.servers.items() if name not in retired.servers
    }
    return replace(booked, models=models), servers


def unlisted(booked: Totals, retired: Retired) -> Amounts:
    """What is booked for what is retired, planned pauses left out: servers on the page, this and the rest sum to the GPUs,
    where the rest is states idle and other, and planned pauses instead of those of the servers."""
    if not retired:
        return Amounts()
    return Amounts.total(
        amounts
        for (server, model, state), amounts in booked.servers.items()
        if (server, model) in retired and state != State.PLANNED_OFF
    )


def _without(account: ServerAccount, retired: Retired) -> ServerAccount:
    if not any(server == account.name for server, _ in retired.models):
        return account
    name, service = account.name, account.service
    if service is not None:
        service = replace(
            service,
            outcomes={key: value for key, value in service.outcomes.items() if (name, key[0]) not in retired},
            seconds={key: value for key, value in service.seconds.items() if (name, key[0]) not in retired},
            joint={model: value for model, value in service.joint.items() if (name, model) not in retired},
        )
    return replace(
        account,
        tokens={key: value for key, value in account.tokens.items() if (name, key[0]) not in retired},
        requests={model: value for model, value in account.requests.items() if (name, model) not in retired},
        work={key: value for key, value in account.work.items() if (name, key[0]) not in retired},
        tiers={key: value for key, value in account.tiers.items() if (name, key[0]) not in retired},
        reference_cost={key: value for key, value in account.reference_cost.items() if (name, key[0]) not in retired},
        service=service,
        phases=None
        if account.phases is None
        else replace(
            account.phases,
            joules={key: value for key, value in account.phases.joules.items() if (name, key[0]) not in retired},
        ),
    )


ALL_TARGETS = "all"
"""Label of requests by all targets of latency together."""


def slo_outcomes(service: Service) -> dict[tuple[str, str], Outcomes]:
    """Requests within and outside the targets in force, by model and target, and of all targets together."""
    targets = {slo for slo, _ in service.targets}
    found = {(model, str(slo)): one for (model, slo), one in sorted(service.outcomes.items()) if slo in targets}
    for model, joint in sorted(service.joint.items()):
        if all((model, str(slo)) in found for slo in targets):
            found[model, ALL_TARGETS] = joint.booked
    return found
