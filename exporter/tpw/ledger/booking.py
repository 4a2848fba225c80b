"""Time, joules and money into entries: increments of the row of one quarter-hour and of a posting.

Time is booked as it passes, with the costs that accrue by time. Joules are booked when they are read, spread evenly over
the time they cover. Each piece is priced at the price of its moment, so an interval that spans a price change is split
there. What has a price is never priced again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add

from tpw.ledger.amounts import ENERGY, JOULES_PER_KWH, Amounts
from tpw.ledger.books import LONGEST_SECONDS, ROW_SECONDS, Pending, PostingKey, Postings, Rows, Shares
from tpw.ledger.planned import Planned
from tpw.ledger.site import Site
from tpw.ledger.tick import Curve, Policy
from tpw.model import PriceInterval, PriceState
from tpw.tariff.demand import Demand, DemandRules, after_clock_step, close_windows, kw_months, record

_NO_DEMAND = Demand()

_MAX_PENDING = 512
"""Pieces of pending time of a GPU that does not answer; above it the oldest two are joined. Tuning: bounds the memory."""

_DAY_SECONDS = 86400.0
_FINE_SECONDS = 9 * _DAY_SECONDS
"""Rows are quarter-hours this far back, which is a day more than prices can be late."""


@dataclass(frozen=True, slots=True)
class Posted:
    """The books after the entries of a tick."""

    postings: Postings
    rows: Rows
    held: Rows
    """Entries of servers that cannot be read; by row."""


class Journal:
    """The entries of one tick. Those of one row with the same shares are one entry until they are posted."""

    __slots__ = ("_entries", "_planned")

    def __init__(self, planned: Planned | None = None) -> None:
        self._entries: dict[tuple[float, Shares], list[Amounts]] = {}
        self._planned = planned

    def add(self, row: float, shares: Shares, amounts: Amounts) -> None:
        """Enter ``amounts`` in one row, to be divided by ``shares``."""
        self._entries.setdefault((row, shares), []).append(amounts)

    def post(self, postings: Postings, rows: Rows, waiting: Collection[str] = ()) -> Posted:
        """Both with the entries; those of the servers in ``waiting`` apart."""
        posted = dict(postings)
        changed: dict[float, dict[PostingKey, Amounts]] = {}
        held: dict[float, dict[PostingKey, Amounts]] = {}
        for (start, shares), entries in self._entries.items():
            amounts = reduce(add, entries)
            row = changed.get(start)
            if row is None:
                row = changed[start] = dict(rows.get(start, {}))
            for key, weight in shares:
                entry = amounts * weight
                is_held = key.server in waiting
                if self._planned is not None and not is_held:
                    key = self._planned.state(key, start)  # noqa: PLW2901
                for accounts in (held.setdefault(start, {}),) if is_held else (posted, row):
                    before = accounts.get(key)
                    accounts[key] = entry if before is None else before + entry
        return Posted(posted, {**rows, **changed}, held)


def cut(start_seconds: float, end_seconds: float) -> Iterator[tuple[float, float, float]]:
    """[start, end) cut at the borders of the rows: (start, end, row). An empty interval is one piece, and one of more than
    ``LONGEST_SECONDS`` (a wrong clock) is one piece in its last row. What is more than nine days before the end is cut by
    days, in the row of their noon (UTC): its course is unknown anyway, and the memory is bounded."""
    row = start_seconds // ROW_SECONDS * ROW_SECONDS
    if end_seconds <= row + ROW_SECONDS:
        yield start_seconds, end_seconds, row
        return
    if end_seconds - start_seconds > LONGEST_SECONDS:
        yield start_seconds, end_seconds, end_seconds // ROW_SECONDS * ROW_SECONDS
        return
    at = start_seconds
    while at < end_seconds - _FINE_SECONDS:
        day = at // _DAY_SECONDS * _DAY_SECONDS
        yield at, day + _DAY_SECONDS, day + 0.5 * _DAY_SECONDS
        at = day + _DAY_SECONDS
    while at < end_seconds:
        row = at // ROW_SECONDS * ROW_SECONDS
        until = min(row + ROW_SECONDS, end_seconds)
        yield at, until, row
        at = until


def book_time(journal: Journal, shares: Shares, start_seconds: float, end_seconds: float, policy: Policy) -> None:
    """Time of one GPU, and the costs that accrue by time."""
    for start, end, row in cut(start_seconds, end_seconds):
        seconds = end - start
        cost = _by_component((rate.component, seconds * rate.per_gpu_second) for rate in policy.rates)
        grams = {basis: seconds / 3600.0 * per_hour for basis, per_hour in policy.emissions.per_gpu_hour}
        journal.add(row, shares, Amounts(seconds=seconds, cost=cost, emissions_grams=grams))


def _by_component(charges: Iterable[tuple[str, float]]) -> dict[str, float]:
    cost: dict[str, float] = {}
    for component, amount in charges:
        cost[component] = cost.get(component, 0.0) + amount
    return cost


def book_standing_charges(
    journal: Journal,
    gpus: Sequence[Shares],
    start_seconds: float,
    end_seconds: float,
    policy: Policy,
    share: float = 1.0,
) -> None:
    """The node's share of the contract's charges by month or day, divided evenly by its GPUs."""
    for start, end, row in cut(start_seconds, end_seconds):
        months, days = policy.months.between(start, end), (end - start) / 86400.0
        cost = _by_component(
            (charge.component, (charge.per_month * months + charge.per_day * days) * share / len(gpus))
            for charge in policy.standing_charges
        )
        for shares in gpus:
            journal.add(row, shares, Amounts(cost=cost))


@dataclass(slots=True)
class Meter:
    """The use of all GPUs in one tick, for prices that depend on it."""

    month_kwh: dict[float, float]
    facility_joules: dict[Shares, float] = field(default_factory=dict)
    """Booked in this tick, by shares."""
    spans: dict[tuple[float, float], float] = field(default_factory=dict)
    """The same joules by the time in which they were used: peaks are formed from them."""


def book_joules(
    journal: Journal, meter: Meter, pending: Sequence[Pending], joules: float, facility_factor: float, policy: Policy
) -> None:
    """Joules of one GPU over its pending time.

    Args:
        journal: receives the entries.
        meter: adds them up.
        pending: the time they cover, at least one piece.
        joules: boundary gpu.
        facility_factor: facility joules per joule of the GPU.
        policy: prices and intensities.
    """
    total_seconds = sum(piece.end_seconds - piece.start_seconds for piece in pending)
    for piece in pending:
        seconds = piece.end_seconds - piece.start_seconds
        whole = joules * seconds / total_seconds if total_seconds > 0.0 else joules / len(pending)
        for start, end, row in cut(piece.start_seconds, piece.end_seconds):
            part = whole * (end - start) / seconds if seconds > 0.0 else whole
            facility = part * facility_factor
            charge, credit, unpriced = price(start, end, facility, policy.curve, meter.month_kwh)
            grams, unrated = rate(start, end, facility, policy)
            if policy.demand:
                meter.spans[start, end] = meter.spans.get((start, end), 0.0) + facility
            meter.facility_joules[piece.shares] = meter.facility_joules.get(piece.shares, 0.0) + facility
            by_basis = {} if policy.intensities is None else {policy.carbon_basis: grams}
            for basis, per_kwh in policy.emissions.per_kwh:
                by_basis[basis] = facility / JOULES_PER_KWH * per_kwh
            used = Amounts(
                joules=part,
                facility_joules=facility,
                unpriced_joules=unpriced,
                cost={} if policy.curve is None else {ENERGY: charge},
                credit=credit,
                emissions_grams=by_basis,
                unrated_joules=unrated,
            )
            journal.add(row, piece.shares, used)


def price(
    start_seconds: float,
    end_seconds: float,
    facility_joules: float,
    curve: Curve | None,
    month_kwh: dict[float, float],
) -> tuple[float, float, float]:
    """(charge, credit, unpriced joules) of facility joules spread evenly over [start, end). Counts the kWh of the month
    where the price depends on them."""
    if curve is None:
        return 0.0, 0.0, 0.0
    # A piece without length (the first reading of a GPU) is priced at its moment.
    end = end_seconds if end_seconds > start_seconds else start_seconds + 1e-3
    span = end - start_seconds
    charge = credit = unpriced = 0.0
    for cut_start, cut_end, interval in curve.pieces(start_seconds, end):
        part = facility_joules * (cut_end - cut_start) / span
        if interval is None or interval.state is PriceState.PRELIMINARY:
            unpriced += part  # a preliminary price is shown, and what is booked keeps its price
            continue
        for kwh, price_per_kwh in _stepped(interval, part / JOULES_PER_KWH, month_kwh):
            if price_per_kwh >= 0.0:
                charge += kwh * price_per_kwh
            else:
                credit -= kwh * price_per_kwh
    return charge, credit, unpriced


def _stepped(interval: PriceInterval, kwh: float, month_kwh: dict[float, float]) -> Iterator[tuple[float, float]]:
    """(kWh, price) of each step that the kWh fall in."""
    if not interval.steps or interval.month_start_seconds is None:
        yield kwh, interval.price_per_kwh
        return
    used = month_kwh.get(interval.month_start_seconds, 0.0)
    month_kwh[interval.month_start_seconds] = used + kwh
    yield from interval.stepped(kwh, used)


def rate(start_seconds: float, end_seconds: float, facility_joules: float, policy: Policy) -> tuple[float, float]:
    """(grams, joules without a known intensity) of facility joules spread evenly over [start, end).

    A marginal intensity below zero counts as zero: a counter of grams must not fall.
    """
    if policy.intensities is None:
        return 0.0, 0.0
    end = end_seconds if end_seconds > start_seconds else start_seconds + 1e-3
    span = end - start_seconds
    grams = unrated = 0.0
    for cut_start, cut_end, intensity in policy.intensities.pieces(start_seconds, end):
        part = facility_joules * (cut_end - cut_start) / span
        if intensity is None:
            unrated += part
        else:
            grams += part / JOULES_PER_KWH * max(0.0, intensity.grams_per_kwh)
    return grams, unrated


def book_demand(
    journal: Journal,
    meter: Meter,
    before: Mapping[str, Demand],
    policy: Policy,
    open_from: float,
    now: float,
    share: float | None = 1.0,
) -> dict[str, Demand]:
    """Book the accrued demand charges, shared by the facility joules of the tick; without joules they are deferred.

    What a past month still owes (its last window, or its end while the exporter was down) enters its last row. Returns the
    state of each charge. A charge that is no longer in force is kept until its month ends: perhaps its rate is only
    unreadable now. The peak is that of the site, and the node has a share of its charge; without one it is deferred.
    """
    total = sum(meter.facility_joules.values())
    result = {name: state for name, state in before.items() if now < state.month_end_seconds}
    amounts: dict[float, float] = {}
    for rules in policy.demand:
        state = after_clock_step(before.get(rules.name, _NO_DEMAND), rules, now)
        if policy.site is None:
            for (start, end), joules in meter.spans.items():
                state = record(state, rules, start, end, joules)
            state = close_windows(state, rules, open_from)
        else:
            state = _of_site(state, rules, policy.site, now)
        if total > 0.0 and share is not None:
            for at, accrued in _accrued(state, rules, now):
                if accrued > state.booked_kw_months:
                    row = at // ROW_SECONDS * ROW_SECONDS
                    amount = (accrued - state.booked_kw_months) * rules.price_per_kw_month * share
                    amounts[row] = amounts.get(row, 0.0) + amount
                    state = replace(state, booked_kw_months=accrued)
        result[rules.name] = state
    for row, amount in amounts.items():
        for shares, joules in meter.facility_joules.items():
            journal.add(row, shares, Amounts(cost={"demand": amount * joules / total}))
    return result


def _of_site(state: Demand, rules: DemandRules, site: Site, now: float) -> Demand:
    """The state with the windows of the whole site that are complete. The charge begins with the node, but its peak is that
    of the month."""
    until, _ = rules.window(site.known_until_seconds)
    if state.began_seconds is None:
        month, month_end = rules.months.bounds(now)
        state = replace(
            state,
            began_seconds=now,
            month_start_seconds=month,
            month_end_seconds=month_end,
            closed_until_seconds=month,
            window_seconds=rules.window_seconds,
        )
    if until <= state.closed_until_seconds:
        return state
    for start, end, joules in site.between(state.closed_until_seconds, until):
        state = record(state, rules, start, end, joules)
    return close_windows(state, rules, until)


def _accrued(state: Demand, rules: DemandRules, now: float) -> Iterator[tuple[float, float]]:
    """(moment, kW-months accrued by then): the end of the month before, then now or, if the month is over, its end."""
    if state.began_seconds is not None and state.closed_kw_months > 0.0:
        yield state.began_seconds - ROW_SECONDS, state.closed_kw_months
    is_over = now >= state.month_end_seconds
    yield state.month_end_seconds - ROW_SECONDS if is_over else now, kw_months(state, rules, now)


def extend(pending: tuple[Pending, ...], start: float, end: float, shares: Shares) -> tuple[Pending, ...]:
    """Pending time with [start, end) added; time with the same shares grows the last piece."""
    if not pending:
        return (Pending(start, end, shares),)
    last = pending[-1]
    if last.shares == shares:
        return (*pending[:-1], _joined(last, Pending(start, end, shares)))
    grown = (*pending, Pending(start, end, shares))
    if len(grown) > _MAX_PENDING:
        grown = (_joined(grown[0], grown[1]), *grown[2:])
    return grown


def _joined(first: Pending, second: Pending) -> Pending:
    """Both as one piece. Lengths add up and the end is kept: the wall clock may have been set in between."""
    seconds = (first.end_seconds - first.start_seconds) + (second.end_seconds - second.start_seconds)
    return Pending(second.end_seconds - seconds, second.end_seconds, second.shares)
