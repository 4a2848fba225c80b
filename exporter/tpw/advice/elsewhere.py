"""Models that cost more here than the same work at a reference, and the use from which on they do not."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from math import fsum

from tpw.advice.fleet import Fleet, Slot
from tpw.advice.lines import Advice, Kind, Missing
from tpw.advice.waste import without_requests
from tpw.ledger.amounts import ENERGY
from tpw.model import ALL_IN, CAPITAL, State, server_of_replica

_LEAST_RATIO = 0.05
"""Of the cost here. Tuning: prices elsewhere change by more within months, and a move has a cost of its own."""


def elsewhere(fleet: Fleet, rented: Collection[str]) -> Iterator[Advice | Missing]:
    """For each deployment, or server without one. ``rented`` names the references that are prices of GPU time."""
    by_server: dict[str, list[str]] = {}
    for replica in fleet.servers():
        owner = fleet.owners.get(replica)
        deployment = "" if owner is None else owner.deployment
        by_server.setdefault(deployment or server_of_replica(replica), []).append(replica)
    for server, replicas in by_server.items():
        work = [fleet.work[name] for name in replicas if name in fleet.work]
        prices = {
            name: fsum(one.reference_cost.get(name, 0.0) for one in work) for one in work for name in one.reference_cost
        }
        tokens = fsum(one.tokens for one in work)
        if not prices or not tokens or all(without_requests(fleet, name) is not None for name in replicas):
            continue  # stopping it is better than moving it
        has_input, has_output = map(any, zip(*(one.phases() for one in work), strict=True))
        others = {other.model for name, other in fleet.work.items() if name not in replicas}
        if not has_input or (not has_output and others & {one.model for one in work}):
            continue  # decode or prefill alone has no price elsewhere; embeddings have one
        components = set().union(*(fleet.components.get(name, set()) for name in replicas))
        if components.isdisjoint(CAPITAL) or components.isdisjoint((ENERGY, *ALL_IN)):
            yield Missing(
                Kind.ELSEWHERE,
                server,
                f"What {server} costs lacks the GPUs (costs.hardware, costs.gpu_hour) or their electricity: it does not"
                " compare with the references.",
            )
            continue
        yield from _compared(fleet, server, replicas, prices, tokens, rented)


def _compared(
    fleet: Fleet,
    server: str,
    replicas: Collection[str],
    prices: dict[str, float],
    tokens: float,
    rented: Collection[str],
) -> Iterator[Advice]:
    def is_its(slot: Slot) -> bool:
        return slot.server in replicas

    columns = [fleet.total(part, is_its) for part in ("energy_cost", "rent", "owned_cost")]
    rest = fsum(fleet.other_cost.get(name, 0.0) for name in replicas)
    here = fsum(map(fsum, columns)) + rest
    reference = min(prices, key=lambda name: prices[name])
    there = prices[reference]
    if here - there <= _LEAST_RATIO * here:
        return
    # By day: the reference's price as the tokens of the day are of all.
    computed = [
        fsum(fleet.work[name].computed[index] for name in replicas if name in fleet.work)
        for index in range(fleet.quarters)
    ]
    whole = fsum(computed)
    gains = [
        fsum(parts) + rest / fleet.quarters - there * load / whole
        for parts, load in zip(zip(*columns, strict=True), computed, strict=True)
    ]
    paid = fsum(columns[0]) + fsum(columns[1]) - there
    month = 365.0 / 12.0 / fleet.days
    if reference in rented:
        turn = " Both are paid by time, so more use changes nothing."
    else:
        parked = fleet.mean_watts(lambda slot: is_its(slot) and slot.state is State.PARKED)
        seconds = fsum(fleet.total("seconds", is_its))
        joules = fsum(fleet.total("facility_joules", is_its))
        base = 1.0 if parked is None else min(1.0, parked * seconds / joules)
        marginal = fsum(columns[0]) * (1.0 - base) / tokens
        fixed = here - marginal * tokens
        margin = there / tokens - marginal
        turn = (
            " Each further token costs more here than there: no use turns it."
            if margin <= 0.0
            else f" From {fixed / margin * month:,.3g} tokens a month on, {fixed / margin / tokens:.1f} times the present"
            " use, it is cheaper here: if its GPUs can do that."
        )
    yield Advice(
        Kind.ELSEWHERE,
        server,
        fleet.monthly(gains),
        paid * month,
        f"Send the requests of {server} to {reference}, or use it more.",
        f"Its tokens cost {here * month:,.2f} {fleet.currency} a month here and {there * month:,.2f} there, at the prices"
        f" in `references` and in its mix of input, cached input and output.{turn}"
        + ("" if paid >= 0.0 else " Bills rise, and the saving is the time of its GPUs for other work."),
        f"Route {server} to {reference}; stop it once nothing is left.",
        details={"cost_per_month": here * month, "reference_cost_per_month": there * month},
    )
