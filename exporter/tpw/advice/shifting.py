"""Work that can wait: what moving it to cheaper hours, or below the peak, saves.

The books do not show what can wait, so it is named, with the hours it can wait. What moves is the energy above that of a
parked server. In no quarter-hour is more of it used than was measured in one. The cheapest arrangement is exact: of all
choices of when to use how much, nothing earlier than it was due nor later than it can wait, it has the least cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import fsum, inf

from tpw.advice.fleet import WEEK, Fleet, Slot
from tpw.advice.lines import LEAST_RATIO, Advice, Kind, Missing
from tpw.ledger.amounts import JOULES_PER_KWH
from tpw.ledger.books import ROW_SECONDS
from tpw.model import State, server_of_replica

PeakCost = Callable[[Sequence[float]], float]
"""Facility joules by quarter-hour -> what their peaks cost over that time."""

_PEAKS = 8
"""Heights of the peak that are tried, between the lowest possible and the present one."""
_HOUR = 4


@dataclass(frozen=True, slots=True)
class _Plan:
    joules: Sequence[float]
    """Of the work that can wait, by quarter-hour. What waits beyond the last is where it would be a week earlier."""
    peak_joules: float
    """Of all that the node uses in the highest quarter-hour."""
    energy: float
    """Money saved on energy."""
    peak: float
    """And on peaks."""


def shifting(fleet: Fleet, hours: Mapping[str, float], peak_cost: PeakCost | None) -> Iterator[Advice | Missing]:
    """For each server or workload that can wait.

    Args:
        fleet: the books.
        hours: how long each can wait, by its name.
        peak_cost: None where peaks cost nothing.
    """
    prices = fleet.prices()
    site = fleet.total("facility_joules", lambda _: True)
    for name, wait in hours.items():

        def is_its(slot: Slot, name: str = name) -> bool:
            return name in (server_of_replica(slot.server), slot.workload)

        whole = fleet.total("facility_joules", is_its)
        if not any(whole):
            yield Missing(Kind.SHIFT, name, f"No server and no workload in the books has the name {name}.")
            continue
        movable = _movable(fleet, is_its)
        highest = sorted(movable)[-3]
        if highest <= 0.0 or all(price is None for price in prices):
            continue
        delay = int(wait * _HOUR)
        plan = _best(movable, delay, highest, prices, site, peak_cost)
        cost = fsum(fleet.total("energy_cost", is_its)) + (0.0 if peak_cost is None else plan.peak)
        if plan.energy + plan.peak <= LEAST_RATIO * cost:
            continue
        moved = fsum(max(0.0, before - after) for before, after in zip(movable, plan.joules, strict=True))
        gains = [
            (before - after) / JOULES_PER_KWH * (price or 0.0) + plan.peak / fleet.quarters
            for before, after, price in zip(movable, plan.joules, prices, strict=True)
        ]
        present, then = max(site) / ROW_SECONDS, plan.peak_joules / ROW_SECONDS
        grams = _grams(fleet, movable, plan.joules)
        saving = fleet.monthly(gains)
        yield Advice(
            Kind.SHIFT,
            name,
            saving,
            saving.value,
            f"Let the work of {name} wait up to {wait:g} h for cheaper hours.",
            f"{moved / fsum(whole):.0%} of its energy moves. Energy costs {_money(fleet, plan.energy)} less a month, peaks"
            f" {_money(fleet, plan.peak)} less: the highest quarter-hour of the node is {then / 1e3:.2f} kW in place of"
            f" {present / 1e3:.2f} kW. Never more of its work at once than was measured. The prices of the coming weeks"
            " must be known as far ahead as it can wait."
            + ("" if not grams else f" {_monthly(fleet, grams) / 1e3:+,.1f} kg CO2 equivalent a month."),
            "Start it by price: tpw-exporter prices names the cheapest hours before a deadline.",
            details={"moved_ratio": moved / fsum(whole), "peak_watts": present, "peak_watts_then": then},
        )


def _movable(fleet: Fleet, is_its: Callable[[Slot], bool]) -> list[float]:
    """Facility joules above those of a parked server, or above those of idle GPUs for another workload."""
    joules, seconds = fleet.total("facility_joules", is_its), fleet.total("seconds", is_its)
    base = fleet.mean_watts(lambda slot: is_its(slot) and slot.state is State.PARKED)
    if base is None:
        watts = [fleet.idle_watts(gpu) for gpu in {slot.gpu for slot in fleet.uses if is_its(slot)}]
        base = fsum(watt or 0.0 for watt in watts) / len(watts)
    return [max(0.0, used - base * time) for used, time in zip(joules, seconds, strict=True)]


def _best(
    movable: Sequence[float],
    delay: int,
    highest: float,
    prices: Sequence[float | None],
    site: Sequence[float],
    peak_cost: PeakCost | None,
) -> _Plan:
    """The plan that saves most, of those that keep below several peaks."""
    count = len(movable)
    # The time after the books, for what is asked for at their end, is as it was a week before.
    after = [count - WEEK + step % WEEK for step in range(delay)]
    asked = [*movable, *(0.0 for _ in after)]
    rest = [one - other for one, other in zip(site, movable, strict=True)]
    rest += [rest[index] for index in after]
    paid = [*prices, *(prices[index] for index in after)]
    present = max(site)

    def capacity(peak: float) -> list[float]:
        return [
            joules if price is None else min(max(highest, joules), max(0.0, peak - other))
            for other, joules, price in zip(rest, asked, paid, strict=True)
        ]

    def planned(peak: float) -> _Plan | None:
        found = arrange(asked, capacity(peak), delay, [inf if price is None else price for price in paid])
        if found is None:
            return None
        energy = fsum(
            (before - then) / JOULES_PER_KWH * (price or 0.0)
            for before, then, price in zip(asked, found, paid, strict=True)
        )
        then = [one + other for one, other in zip(rest[:count], found, strict=False)]
        for step, index in enumerate(after):
            found[index] += found[count + step]
        return _Plan(found[:count], max(then), energy, 0.0 if peak_cost is None else peak_cost(site) - peak_cost(then))

    as_high = planned(inf if peak_cost is None else present)
    assert as_high is not None  # noqa: S101 - as it was is possible
    if peak_cost is None:
        return as_high
    low, high = max(rest), present
    for _ in range(20):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if is_possible(asked, capacity(middle), delay) else (middle, high)
    plans = [plan for step in range(_PEAKS) if (plan := planned(high + (present - high) * step / _PEAKS)) is not None]
    return max([as_high, *plans], key=lambda plan: plan.energy + plan.peak)


def is_possible(asked: Sequence[float], capacity: Sequence[float], delay: int) -> bool:
    """Whether what is asked for in each quarter-hour has capacity within ``delay`` of them, the earliest first."""
    waiting: list[list[float]] = []
    first = 0
    for index, most in enumerate(capacity):
        left = most
        waiting.append([index, asked[index]])
        while first < len(waiting) and left > 0.0:
            part = min(left, waiting[first][1])
            waiting[first][1] -= part
            left -= part
            if waiting[first][1] > _TOLERANCE:
                break
            first += 1
        while first < len(waiting) and waiting[first][1] <= _TOLERANCE:
            first += 1
        if first < len(waiting) and waiting[first][0] <= index - delay:
            return False
    return first >= len(waiting) or all(rest <= _TOLERANCE for _, rest in waiting[first:])


_TOLERANCE = 1e-3
"""Joules."""


def arrange(
    asked: Sequence[float], capacity: Sequence[float], delay: int, prices: Sequence[float]
) -> list[float] | None:
    """The cheapest use in each quarter-hour; None where there is no capacity.

    The amounts that quarter-hours can take form a polymatroid: each, the cheapest first, takes as much as leaves what all
    have taken possible. That is so where no stretch [a, b] has taken more than was asked for in [a - delay, b].
    """
    count = len(asked)
    before = [0.0] * (count + 1)  # asked for before each quarter-hour
    for index, joules in enumerate(asked):
        before[index + 1] = before[index] + joules
    supply = [before[max(0, index - delay)] for index in range(count)]
    slack_after = before[1:]  # of each b: asked for up to it, less what was taken up to it
    slack_before = [-value for value in supply]  # of each a: taken before it, less asked for before a - delay
    taken = [0.0] * count
    for index in sorted(range(count), key=lambda index: (prices[index], index)):
        amount = min(capacity[index], min(slack_after[index:]) + min(slack_before[: index + 1]))
        if amount <= 0.0:
            continue
        taken[index] = amount
        slack_after[index:] = [value - amount for value in slack_after[index:]]
        slack_before[index + 1 :] = [value + amount for value in slack_before[index + 1 :]]
    return taken if fsum(taken) >= before[-1] - _TOLERANCE * count else None


def _grams(fleet: Fleet, before: Sequence[float], after: Sequence[float]) -> float:
    """What the emissions change by."""
    grams, joules = fleet.total("grams", lambda _: True), fleet.total("facility_joules", lambda _: True)
    return fsum(
        (new - old) * gram / joule for old, new, gram, joule in zip(before, after, grams, joules, strict=True) if joule
    )


def _monthly(fleet: Fleet, amount: float) -> float:
    return amount / fleet.days * 365.0 / 12.0


def _money(fleet: Fleet, amount: float) -> str:
    return f"{round(_monthly(fleet, amount), 2) + 0.0:,.2f} {fleet.currency}"
