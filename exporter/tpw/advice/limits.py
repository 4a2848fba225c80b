"""Power limits: of those that were in force, the one with which a token costs least, everything included.

What is compared is what was measured under each limit. Where a server has the requests that come, its load is the same
under every limit that carries it, and the limit that draws least is best. Where it always works as fast as it can, a lower
limit makes fewer tokens of the same GPU time: then the full cost of a token decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import fsum

from tpw.advice.curves import Curve, Point, curve, points, strain
from tpw.advice.fleet import Fleet, Slot
from tpw.advice.lines import LEAST_RATIO, Advice, Kind, Missing
from tpw.advice.waste import gpus_text
from tpw.ledger.amounts import JOULES_PER_KWH
from tpw.ledger.books import ROW_SECONDS, PowerLimit
from tpw.model import State, server_of_replica

_BINDS_RATIO = 0.9
"""A GPU that draws less than this part of its limit in its busiest quarter-hours is not held back by it."""
_LEAST_ACTIVE = 0.25
"""Part of a quarter-hour that a server works."""
_MOST_PRICES = 4
_MOST_TRIALS = 12
"""More changes of a limit in the time of the books are a rule, and fewer are trials."""
_LEAST_QUARTERS = 16
"""Of work under a limit: four hours."""
_DETECTED_SECONDS = 120.0
"""A limit is read some seconds after it was set: a quarter-hour that begins so soon before is not used."""
_SATURATED = 0.9
"""The median load of a server that always works as fast as it can, as a part of the highest."""
_LIKE_CONCURRENCY = 0.25
_CARRIED = 0.995
"""Part of the quarter-hours with a load that another limit must have carried."""


@dataclass(frozen=True, slots=True)
class _Observed:
    """A server under one limit."""

    watts: float
    """The limit of each of its GPUs."""
    measured: tuple[Point, ...]
    curve: Curve
    gpu_watts: float
    """Of one GPU in its busiest quarter-hours, without the host and PUE."""
    concurrency: float
    """Mean running requests; 0 where they are unknown."""

    @property
    def is_saturated(self) -> bool:
        loads = sorted(point.load for point in self.measured)
        return loads[len(loads) // 2] >= _SATURATED * loads[-1]

    @property
    def load(self) -> float:
        return fsum(point.load for point in self.measured) / len(self.measured)

    @property
    def draw(self) -> float:
        return fsum(point.watts for point in self.measured) / len(self.measured)


def limits(fleet: Fleet) -> Iterator[Advice | Missing]:
    """For each server with known limits."""
    unbound = []
    for server in fleet.servers():
        by_limit = _observed(fleet, server)
        now = _limit_now(fleet, server)
        if now is None or now not in by_limit:
            continue
        current, others = by_limit[now], [one for watts, one in sorted(by_limit.items()) if watts != now]
        if others:
            yield from _compared(fleet, server, current, others)
        elif current.gpu_watts < _BINDS_RATIO * current.watts:
            unbound.append(f"{server_of_replica(server)} ({current.gpu_watts:.0f} of {current.watts:.0f} W)")
        else:
            yield _untried(fleet, server, current)
    if unbound:
        yield Missing(
            Kind.POWER_LIMIT,
            "",
            f"The power limit does not bind, by what a GPU draws in the busiest quarter-hours: {', '.join(unbound)}. A"
            " limit above that changes nothing.",
        )


def _untried(fleet: Fleet, server: str, current: _Observed) -> Missing:
    name, gpus = server_of_replica(server), fleet.gpus_of(server)
    steps = [round(current.watts * part / 10.0) * 10 for part in (0.9, 0.8, 0.7, 0.6)]
    return Missing(
        Kind.POWER_LIMIT,
        name,
        f"{name} works at its limit of {current.watts:.0f} W, and no other was in force: what another would save is not"
        f" known. Try {', '.join(f'{watts} W' for watts in steps)} for a day each under its usual load:"
        f" nvidia-smi -i {_indices(fleet, gpus)} -pl {steps[0]}.",
    )


@dataclass(frozen=True, slots=True)
class _Option:
    """A limit, and what it saves in each quarter-hour: electricity and rent, and GPU time that is paid for already."""

    limit: _Observed
    paid: list[float]
    freed: list[float]

    @property
    def gain(self) -> float:
        return fsum(self.paid) + fsum(self.freed)

    def less(self, other: _Option) -> _Option:
        """The difference of two."""
        paid = [one - two for one, two in zip(self.paid, other.paid, strict=True)]
        return _Option(self.limit, paid, [one - two for one, two in zip(self.freed, other.freed, strict=True)])


def _compared(fleet: Fleet, server: str, current: _Observed, others: Sequence[_Observed]) -> Iterator[Advice | Missing]:
    name, currency = server_of_replica(server), fleet.currency
    prices, cost_rates = fleet.prices(), _rates(fleet, server)
    working = {point.index: point.load for one in (current, *others) for point in one.measured}
    nothing = [0.0] * fleet.quarters
    options = [_Option(current, nothing, nothing)]
    for other in others:
        if current.is_saturated and other.is_saturated:
            if not _is_alike(current, other):
                yield Missing(
                    Kind.POWER_LIMIT,
                    name,
                    f"{name} ran {other.concurrency:.0f} requests at once under {other.watts:.0f} W and"
                    f" {current.concurrency:.0f} under {current.watts:.0f} W: the two do not compare. Try both under the"
                    " same load.",
                )
                continue
            options.append(_Option(other, *_by_token(fleet.quarters, working, current, other, prices, cost_rates)))
        elif _carries(working, current, other):
            saved = _at_same_load(fleet.quarters, working, current, other, prices)
            options.append(_Option(other, saved, nothing))
    rent, owned = cost_rates
    cost = fsum(_kwh(current.curve.at(load)) * (prices[index] or 0.0) for index, load in working.items())
    least = LEAST_RATIO * (cost + (rent + owned) * ROW_SECONDS * len(working))
    if _alternates(fleet, server):  # what there is now is no single limit
        present = _mixed(options, {point.index: one for one in options for point in one.limit.measured})
        options = [option.less(present) for option in options]
    best = max(options, key=lambda option: option.gain)
    cheapest = [
        max(options, key=lambda option: option.paid[index] + option.freed[index]) for index in range(fleet.quarters)
    ]
    mixed = _mixed(options, dict(enumerate(cheapest)))
    bands = _bands(prices, [option.limit for option in options], rent + owned)
    follows = bool(bands) and mixed.gain > max(0.0, best.gain) + least
    if best.gain <= least and not follows:
        return
    other = next(option.limit for option in (best, *options) if option.limit is not current)
    if current.is_saturated and other.is_saturated:
        reason = (
            f"It always works as fast as it can: {current.load:,.0f} weighted tokens per second at {current.draw:,.0f} W"
            f" under {current.watts:.0f} W, {other.load:,.0f} at {other.draw:,.0f} W under {other.watts:.0f} W (facility)."
            " The saving is that of the same tokens, each at its full cost."
        )
    else:
        reason = (
            f"Under {other.watts:.0f} W it carried such loads too, up to {other.curve.capacity:,.0f} weighted tokens per"
            f" second, and drew less at the same load. Its load reaches {max(working.values()):,.0f}."
        )
    chosen, gpus = (mixed if follows else best), gpus_text(fleet, fleet.gpus_of(server))
    reason += "".join(f" At {price:.4g} {currency}/kWh {watts:.0f} W costs least per token." for price, watts in bands)
    command = f"nvidia-smi -i {_indices(fleet, fleet.gpus_of(server))} -pl {best.limit.watts:.0f}"
    yield Advice(
        Kind.POWER_LIMIT,
        name,
        fleet.monthly([one + two for one, two in zip(chosen.paid, chosen.freed, strict=True)]),
        fleet.monthly(chosen.paid).value,
        f"Let the power limit of {gpus}, now {current.watts:.0f} W, follow the price."
        if follows
        else f"Set the power limit of {gpus} from {current.watts:.0f} W to {best.limit.watts:.0f} W.",
        reason,
        command + (" and the others, by tpw_electricity_price_per_kwh" if follows else ""),
        details={"limit_watts": best.limit.watts, "present_limit_watts": current.watts},
    )


def _mixed(options: Sequence[_Option], chosen: Mapping[int, _Option]) -> _Option:
    """One option in some quarter-hours, others in others."""
    paid, freed = ([0.0] * len(options[0].paid) for _ in range(2))
    for index, option in chosen.items():
        paid[index], freed[index] = option.paid[index], option.freed[index]
    return _Option(options[0].limit, paid, freed)


def _alternates(fleet: Fleet, server: str) -> bool:
    """Whether the limit goes to and fro, as one that follows the price does."""
    changes = [one for one in fleet.limits[fleet.gpus_of(server)[0]] if one.since_seconds > fleet.start_seconds]
    return len(changes) > _MOST_TRIALS


def _kwh(watts: float) -> float:
    """Of a quarter-hour."""
    return watts * ROW_SECONDS / JOULES_PER_KWH


def _is_alike(one: _Observed, other: _Observed) -> bool:
    if not one.concurrency or not other.concurrency:
        return True
    return abs(one.concurrency - other.concurrency) <= _LIKE_CONCURRENCY * max(one.concurrency, other.concurrency)


def _carries(working: Mapping[int, float], current: _Observed, other: _Observed) -> bool:
    """Whether both limits carried the loads that there are."""
    least = 1.01 * min(current.curve.capacity, other.curve.capacity)
    return sum(load <= least for load in working.values()) >= _CARRIED * len(working)


def _at_same_load(
    quarters: int, working: Mapping[int, float], current: _Observed, other: _Observed, prices: Sequence[float | None]
) -> list[float]:
    """What the other limit saves in each quarter-hour."""
    gains = [0.0] * quarters
    for index, load in working.items():
        gains[index] = _kwh(current.curve.at(load) - other.curve.at(load)) * (prices[index] or 0.0)
    return gains


def _by_token(
    quarters: int,
    working: Mapping[int, float],
    current: _Observed,
    other: _Observed,
    prices: Sequence[float | None],
    cost_rates: tuple[float, float],
) -> tuple[list[float], list[float]]:
    """The same for the tokens of a quarter-hour under the present limit, which take less or more time: (electricity and
    rent, GPU time that is paid for already)."""
    rent, owned = cost_rates
    longer = current.load / other.load
    paid, freed = [0.0] * quarters, [0.0] * quarters
    for index in working:
        price = prices[index] or 0.0
        paid[index] = _kwh(current.draw - other.draw * longer) * price + rent * ROW_SECONDS * (1.0 - longer)
        freed[index] = owned * ROW_SECONDS * (1.0 - longer)
    return paid, freed


def _bands(
    prices: Sequence[float | None], choices: Sequence[_Observed], per_second: float
) -> list[tuple[float, float]]:
    """(price, limit with the least full cost per token) at the prices there were, or at low, middle and high ones of many.
    Empty where one limit is best at all of them."""
    known = sorted({round(price, 6) for price in prices if price is not None})
    if len(known) > _MOST_PRICES:
        known = [known[len(known) // 10], known[len(known) // 2], known[-1 - len(known) // 10]]
    saturated = all(one.is_saturated for one in choices)
    load = min(one.load for one in choices)

    def cost(one: _Observed, price: float) -> float:
        draw, speed = (one.draw, one.load) if saturated else (one.curve.at(load), load)
        return (draw / JOULES_PER_KWH * price + per_second) / speed

    bands = [(price, min(choices, key=lambda one, price=price: cost(one, price)).watts) for price in known]  # type: ignore[misc]
    return bands if len({watts for _, watts in bands}) > 1 else []


# ------------------------------------------------------------------------------------------------------------ observations


def _observed(fleet: Fleet, server: str) -> dict[float, _Observed]:
    """What a server did under each limit of its GPUs, while all had the same."""
    work = fleet.work.get(server)
    gpus = fleet.gpus_of(server)
    if work is None or not gpus or any(gpu not in fleet.limits for gpu in gpus):
        return {}
    active = fleet.total("seconds", lambda slot: slot.server == server and slot.state is State.ACTIVE)
    joules = fleet.total("joules", lambda slot: slot.server == server)
    whole = len(gpus) * ROW_SECONDS
    strained = strain(fleet, server)
    by_limit: dict[float, list[Point]] = {}
    for point in points(
        fleet, server, lambda index: active[index] > _LEAST_ACTIVE * whole and work.computed[index] > 0.0
    ):
        start = fleet.at(point.index)
        watts = {_limit_of(fleet.limits[gpu], start - _DETECTED_SECONDS, start + ROW_SECONDS) for gpu in gpus}
        if len(watts) == 1 and None not in watts:
            by_limit.setdefault(watts.pop() or 0.0, []).append(point)
    found = {}
    for limit, measured in by_limit.items():
        # A server that works as fast as it can has a queue: only where some of its time has none that is left out.
        busy = [point for point in measured if strained(point.index)]
        shape = curve(measured, strained if len(busy) < 0.5 * len(measured) else lambda _: False)
        if shape is None or len(measured) < _LEAST_QUARTERS:
            continue
        highest = sorted(joules[point.index] / whole for point in measured)[-max(1, len(measured) // 20) :]
        running = fsum(work.running_seconds[point.index] for point in measured) / len(measured) / ROW_SECONDS
        found[limit] = _Observed(limit, tuple(measured), shape, fsum(highest) / len(highest), running)
    return found


def _limit_of(changes: Sequence[PowerLimit], start: float, end: float) -> float | None:
    """The limit in force in all of [start, end); None where it changed or is not known."""
    before = [change.watts for change in changes if change.since_seconds <= start]
    return None if not before or any(start < change.since_seconds < end for change in changes) else before[-1]


def _limit_now(fleet: Fleet, server: str) -> float | None:
    """The same of all its GPUs; None where they differ."""
    watts = {fleet.limits[gpu][-1].watts for gpu in fleet.gpus_of(server) if gpu in fleet.limits}
    return watts.pop() if len(watts) == 1 else None


def _rates(fleet: Fleet, server: str) -> tuple[float, float]:
    """Rent, and cost of owned GPUs, per second of all its GPUs."""

    def is_its(slot: Slot) -> bool:
        return slot.server == server

    seconds = fsum(fleet.total("seconds", is_its)) / len(fleet.gpus_of(server))
    return fsum(fleet.total("rent", is_its)) / seconds, fsum(fleet.total("owned_cost", is_its)) / seconds


def _indices(fleet: Fleet, gpus: Sequence[str]) -> str:
    return ",".join(str(fleet.index_of(gpu)) for gpu in gpus)
