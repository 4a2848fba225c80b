"""Servers of one model that fit on fewer of them, by what each was measured to carry and to draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import fsum

from tpw.advice.curves import Curve, curve, points, strain, sum_of
from tpw.advice.fleet import Fleet, Slot
from tpw.advice.lines import LEAST_RATIO, Advice, Kind, Missing
from tpw.advice.waste import how_to_stop, without_requests
from tpw.ledger.amounts import JOULES_PER_KWH
from tpw.ledger.books import ROW_SECONDS
from tpw.model import State, server_of_replica

_MOST_SETS = 6
"""Servers of a model of which every set is tried; of more, those that draw least for their work are kept first."""
_QUIET = 0.3
"""Part of their time without work from which servers are worth a note that their capacity is not known."""


@dataclass(frozen=True, slots=True)
class _Member:
    """One server of a model."""

    name: str
    curve: Curve
    idle_watts: float
    """Of its GPUs with no model loaded; while that is unknown, what they draw parked."""
    is_idle_known: bool
    rent: float
    """Per second of all its GPUs."""
    owned: float


def consolidation(fleet: Fleet) -> Iterator[Advice | Missing]:
    """For each model with several servers that work."""
    groups: dict[tuple[str, bool, bool], list[str]] = {}
    for server in fleet.servers():
        work = fleet.work.get(server)
        held = fleet.total("seconds", lambda slot, server=server: slot.server == server)  # type: ignore[misc]
        if (
            work is not None
            and any(work.computed)
            and without_requests(fleet, server) is None
            and fleet.covers(held, 0, len(fleet.gpus_of(server)))
        ):
            groups.setdefault((work.model, *work.phases()), []).append(server)
    prices = fleet.prices()
    for (model, _, _), servers in groups.items():
        members = [member for name in servers if (member := _member(fleet, name)) is not None]
        if len(members) < 2 or len(members) < len(servers):
            continue
        load = [
            value / ROW_SECONDS for value in sum_of((fleet.work[name].computed for name in servers), fleet.quarters)
        ]
        best = _best(fleet, members, load, prices)
        if best is not None:
            yield _advice(fleet, model, members, best, load, prices)
        elif _parked_ratio(fleet, servers) > _QUIET:
            yield Missing(
                Kind.CONSOLIDATE,
                model,
                f"{_list(servers)} serve {model} and are without work for {_parked_ratio(fleet, servers):.0%} of the time,"
                f" but none was measured at the load of all: together up to {max(load):,.0f} weighted tokens per second,"
                f" {max(member.curve.capacity for member in members):,.0f} the most of one. A sweep of one of them"
                " (tpw-exporter measure --sweep), or an hour with all requests on it, shows it.",
            )


def _member(fleet: Fleet, name: str) -> _Member | None:
    found = curve(points(fleet, name), strain(fleet, name))
    if found is None:
        return None
    gpus = fleet.gpus_of(name)
    idle, is_known = fleet.freed_watts(name)

    def is_its(slot: Slot) -> bool:
        return slot.server == name

    seconds = fsum(fleet.total("seconds", is_its)) / len(gpus)
    return _Member(
        name,
        found,
        idle if is_known or idle else found.watts[0],
        is_known,
        fsum(fleet.total("rent", is_its)) / seconds,
        fsum(fleet.total("owned_cost", is_its)) / seconds,
    )


@dataclass(frozen=True, slots=True)
class _Choice:
    kept: tuple[_Member, ...]
    gains: tuple[float, ...]
    """By quarter-hour: electricity and rent."""
    freed: float
    """Of GPU time that is paid for already, per second."""


def _best(
    fleet: Fleet, members: Sequence[_Member], load: Sequence[float], prices: Sequence[float | None]
) -> _Choice | None:
    """The servers to keep that save most; None where all are needed."""
    peak = max(load)
    before = sum_of(
        (fleet.total("energy_cost", lambda slot, name=member.name: slot.server == name) for member in members),  # type: ignore[misc]
        fleet.quarters,
    )
    best: _Choice | None = None
    for kept in _sets(members):
        if fsum(member.curve.capacity for member in kept) < peak:
            continue
        dropped = [member for member in members if member not in kept]
        rent = fsum(member.rent for member in dropped)
        watts_off = 0.0 if rent else fsum(member.idle_watts for member in dropped)
        gains = []
        for index, total in enumerate(load):
            price = prices[index]
            after = 0.0 if price is None else (_watts(kept, total) + watts_off) * ROW_SECONDS / JOULES_PER_KWH * price
            gains.append((before[index] - after if before[index] else 0.0) + rent * ROW_SECONDS)
        choice = _Choice(tuple(kept), tuple(gains), fsum(member.owned for member in dropped))
        if best is None or _worth(choice) > _worth(best):
            best = choice
    cost = fsum(before) + fsum((member.rent + member.owned) * len(load) * ROW_SECONDS for member in members)
    return best if best is not None and _worth(best) > LEAST_RATIO * cost else None


def _worth(choice: _Choice) -> float:
    return fsum(choice.gains) + choice.freed * len(choice.gains) * ROW_SECONDS


def _sets(members: Sequence[_Member]) -> Iterator[Sequence[_Member]]:
    if len(members) <= _MOST_SETS:
        for size in range(1, len(members)):
            yield from combinations(members, size)
        return
    order = sorted(members, key=lambda member: member.curve.at(member.curve.capacity) / member.curve.capacity)
    for size in range(1, len(members)):
        yield order[:size]


def _watts(kept: Sequence[_Member], load: float) -> float:
    """What they draw together, each loaded in proportion to what it can carry."""
    capacity = fsum(member.curve.capacity for member in kept)
    return fsum(member.curve.at(load * member.curve.capacity / capacity) for member in kept)


def _advice(
    fleet: Fleet,
    model: str,
    members: Sequence[_Member],
    choice: _Choice,
    load: Sequence[float],
    prices: Sequence[float | None],
) -> Advice:
    dropped = [member for member in members if member not in choice.kept]
    capacity = fsum(member.curve.capacity for member in choice.kept)
    freed = choice.freed * ROW_SECONDS
    paid = fleet.monthly(choice.gains)
    text = (
        ""
        if all(member.is_idle_known for member in dropped)
        else " Idle power of their GPUs was never measured: they count"
        " as if they went on drawing what they draw parked."
    )
    names: Mapping[str, str] = {member.name: server_of_replica(member.name) for member in members}
    kept_names = [names[member.name] for member in choice.kept]
    return Advice(
        Kind.CONSOLIDATE,
        model,
        fleet.monthly([gain + freed for gain in choice.gains]),
        paid.value,
        f"Serve {model} with {_list(kept_names)} alone and stop {_list([names[one.name] for one in dropped])}.",
        f"Their loads together reach {max(load):,.0f} weighted tokens per second in a quarter-hour, and"
        f" {_list(kept_names)} carried {capacity:,.0f} within their service level. What is drawn at each load is as"
        f" measured.{text} Peaks shorter than a quarter-hour are not in the books.",
        "Send its requests to the others, then: "
        + " ".join(how_to_stop(names[one.name], fleet.owners.get(one.name)) for one in dropped),
        details={"peak_load": max(load), "measured_capacity": capacity},
    )


def _parked_ratio(fleet: Fleet, servers: Sequence[str]) -> float:
    seconds = {
        state: fsum(fleet.total("seconds", lambda slot, state=state: slot.server in servers and slot.state is state))  # type: ignore[misc]
        for state in (State.ACTIVE, State.PARKED)
    }
    whole = fsum(seconds.values())
    return seconds[State.PARKED] / whole if whole else 0.0


def _list(names: Sequence[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"
