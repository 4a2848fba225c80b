"""The postings of the books, summed by GPU and by server: what the metrics page and the status API show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import fsum

from tpw.ledger.amounts import Amounts
from tpw.ledger.books import Books
from tpw.model import EnergyMethod, Workload


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
