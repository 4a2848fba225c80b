"""A load curve under a tariff: the lines of a bill.

The lines are the layers of the price, each with its own price and quantity, the charges on peaks, the standing charges and
the taxes. Their sum is what the counters of an exporter come to that meters this load over the whole time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import fsum
from zoneinfo import ZoneInfo

from tpw.billing.curve import JOULES_PER_KWH, Load, clipped, covered_seconds
from tpw.model import PriceInterval, SourceError, StandingCharge
from tpw.tariff.context import FeedContext
from tpw.tariff.contract import Contract
from tpw.tariff.demand import Demand, DemandRules, billed_kw, close_windows, kw_months, peak_at_seconds, record
from tpw.tariff.feed import HISTORY_SECONDS
from tpw.tariff.layers import Layers, Part
from tpw.tariff.settings import CHARGES, LAYER, SLOTS, Tariff

MOST_PRICES = 12
"""A layer with more prices than this has one line, with the mean of them."""

_DAY_SECONDS = 86400.0


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a bill, before taxes; a tax is a line of its own."""

    section: str
    """energy, grid, levies, demand, capacity, fixed, minimum, taxes or vat."""
    text: str
    quantity: float
    unit: str
    price: float | None
    """Of a unit; None where it is not one price."""
    amount: float
    contains_vat: bool = False


@dataclass(frozen=True, slots=True)
class Bill:
    """The bill of [start, end), Unix seconds."""

    currency: str
    start_seconds: float
    end_seconds: float
    lines: tuple[Line, ...]
    kwh: float
    unpriced_kwh: float
    """Without a known price: not in any line."""
    covered: float
    """Fraction of the time for which there is a load."""
    excluded: tuple[str, ...]
    """Charges that no line includes, in sentences."""
    problems: tuple[str, ...]
    """Why prices are not known."""
    notes: tuple[str, ...] = ()
    """What the load does not show, in sentences."""

    @property
    def total(self) -> float:
        """The sum of the lines."""
        return fsum(line.amount for line in self.lines)

    def of(self, *sections: str) -> float:
        """The sum of the lines of some sections."""
        return fsum(line.amount for line in self.lines if line.section in sections)


def bill(tariff: Tariff, loads: Sequence[Load], start_seconds: float, end_seconds: float, context: FeedContext) -> Bill:
    """The bill of a load for [start, end). Load before ``start`` counts for ratchets and annual peaks alone. Prices of
    feeds are fetched for that time."""
    moment = [start_seconds]
    source = tariff.prices(replace(context, clock=lambda: moment[0]))
    problems: list[str] = []
    energy = _Energy()
    contract = Contract()
    power_factors: list[list[PriceInterval]] = [[] for _ in source.metered] if source is not None else []
    if source is not None:
        at = start_seconds
        while at < end_seconds:  # a feed reads at most so much of the past
            until = min(at + HISTORY_SECONDS - _DAY_SECONDS, end_seconds)
            moment[0] = until
            try:
                energy.add(source, clipped(loads, at, until), at, until, tariff)
            except SourceError as error:
                energy.unpriced_joules += sum(load.joules for load in clipped(loads, at, until))
                if error.detail not in problems:
                    problems.append(error.detail)
            for index, read in enumerate(source.power_factors):
                power_factors[index] += read
            at = until
        contract = source.untaxed_contract
        for charge, found in zip(source.metered, power_factors, strict=True):
            contract += Contract(charge.charged(found, 1.0))
    else:
        energy.unpriced_joules = sum(load.joules for load in clipped(loads, start_seconds, end_seconds))
    lines = [*energy.lines(tariff), *_peaks(tariff, contract, loads, start_seconds, end_seconds)]
    charges = (*_capacity_and_fixed(tariff), *contract.standing_charges)
    lines += _by_time(tariff, charges, start_seconds, end_seconds)
    lines += _minimum(contract, tuple(lines), tariff.months().between(start_seconds, end_seconds))
    lines += _taxes(tariff, tuple(lines))
    used = sum(load.joules for load in clipped(loads, start_seconds, end_seconds))
    return Bill(
        tariff.currency or "",
        start_seconds,
        end_seconds,
        tuple(lines),
        used / JOULES_PER_KWH,
        energy.unpriced_joules / JOULES_PER_KWH,
        covered_seconds(loads, start_seconds, end_seconds) / (end_seconds - start_seconds),
        contract.excluded,
        tuple(problems),
        tuple(_coarse(tariff, contract, loads)),
    )


def _coarse(tariff: Tariff, contract: Contract, loads: Sequence[Load]) -> Iterator[str]:
    """That the load has no peaks of the length that is billed."""
    windows = [charge.window for charge in tariff.demand] + [rules.window_seconds for rules in contract.demand]
    longest = max((load.end_seconds - load.start_seconds for load in loads), default=0.0)
    if windows and longest > min(windows) + 1.0:
        yield (
            f"the load has means of {longest / 60.0:g} minutes, and peaks of {min(windows) / 60.0:g} minutes are billed:"
            " the real ones are higher"
        )


# ----------------------------------------------------------------------------------------------------------------- energy


class _Energy:
    """The lines of the layers, added up over time."""

    def __init__(self) -> None:
        self.unpriced_joules = 0.0
        self._kwh: dict[tuple[str, float], float] = {}
        self._month_kwh: dict[float, float] = {}

    def add(self, source: Layers, loads: Sequence[Load], start: float, end: float, tariff: Tariff) -> None:
        """The energy of loads within [start, end), in order of time."""
        months = tariff.months()
        position, covered = 0, start
        for cell_start, cell_end, parts in source.parts(start, end):
            self._skip(loads, covered, cell_start)
            covered = cell_end
            while position < len(loads) and loads[position].end_seconds <= cell_start:
                position += 1
            index = position
            while index < len(loads) and loads[index].start_seconds < cell_end:
                for load in clipped(loads[index : index + 1], cell_start, cell_end):
                    length = load.end_seconds - load.start_seconds
                    for begin, until, month in months.pieces(load.start_seconds, load.end_seconds):
                        self._used(load.joules * (until - begin) / length, parts, month)
                index += 1
        self._skip(loads, covered, end)

    def _skip(self, loads: Sequence[Load], start: float, end: float) -> None:
        """Time without any price."""
        if end > start:
            self.unpriced_joules += sum(load.joules for load in clipped(loads, start, end))

    def _used(self, joules: float, parts: Sequence[Part], month: float) -> None:
        if not parts:
            self.unpriced_joules += joules
            return
        kwh, before = joules / JOULES_PER_KWH, self._month_kwh.get(month, 0.0)
        for part in parts:
            for piece, price in part.price.stepped(kwh, before):
                key = part.layer.name, price
                self._kwh[key] = self._kwh.get(key, 0.0) + piece * part.share
        if any(part.price.steps for part in parts):
            self._month_kwh[month] = before + kwh

    def lines(self, tariff: Tariff) -> Iterator[Line]:
        """One for each price of a layer, or one with the mean."""
        for path, layer in tariff.layers():
            name = path.removeprefix("tariff.")
            slot = name.partition("[")[0]
            name = f"{name} {LAYER.kind(layer)}"
            found = sorted((price, kwh) for (layer_name, price), kwh in self._kwh.items() if layer_name == path)
            if len(found) <= MOST_PRICES:
                for price, kwh in found:
                    yield Line(slot, name, kwh, "kWh", price, kwh * price, layer.contains_vat)
                continue
            kwh, amount = sum(kwh for _, kwh in found), fsum(kwh * price for price, kwh in found)
            text = f"{name}, {len(found)} prices from {found[0][0]:g} to {found[-1][0]:g}"
            yield Line(slot, text, kwh, "kWh", amount / kwh if kwh else None, amount, layer.contains_vat)


# ------------------------------------------------------------------------------------------------------------ other charges


def _peaks(
    tariff: Tariff, contract: Contract, loads: Sequence[Load], start_seconds: float, end_seconds: float
) -> Iterator[Line]:
    zone = ZoneInfo(tariff.timezone or "UTC")
    has_kva = any(load.kva is not None for load in loads)
    for number, charge in enumerate(tariff.demand, 1):
        if has_kva or charge.power_factor is None or isinstance(charge.power_factor, float):
            for rules in charge.rules(tariff, number, 1.0):
                per_kva = charge.kw_per_unit if charge.unit == "kVA" else None
                yield from _peak(rules, loads, start_seconds, end_seconds, zone, per_kva)
    for rules in contract.demand:
        if not has_kva or rules.apparent is None:
            yield from _peak(rules, loads, start_seconds, end_seconds, zone, None)


def _peak(
    rules: DemandRules, loads: Sequence[Load], start: float, end: float, zone: ZoneInfo, power_factor: float | None
) -> Iterator[Line]:
    """The line of one charge. ``power_factor`` is that by which metered kVA are charged, so that the kVA are billed."""
    state, before = Demand(), 0.0
    text = rules.name
    is_before = True
    for load in loads:
        if load.start_seconds >= end:
            break
        if is_before and load.end_seconds > start:
            state = close_windows(state, rules, start)
            before, is_before = kw_months(state, rules, start), False
        state = close_windows(state, rules, load.start_seconds)
        joules = load.joules
        if power_factor is not None and load.kva is not None:
            joules = load.kva * power_factor * 1000.0 * (load.end_seconds - load.start_seconds)
        until = min(load.end_seconds, end)
        part = joules * (until - load.start_seconds) / (load.end_seconds - load.start_seconds)
        state = record(state, rules, load.start_seconds, until, part)
    if state.began_seconds is None or is_before:
        return
    if state.month_end_seconds < end:
        state = close_windows(state, rules, end)
    quantity = kw_months(state, rules, end) - before
    peak_at = peak_at_seconds(state, rules, end)
    if peak_at is not None and state.month_start_seconds <= start and not rules.events:
        text += f", {billed_kw(state, rules, end):,.3f} kW billed, peak {_local(peak_at, zone)}"
    yield Line("demand", text, quantity, "kW-months", rules.price_per_kw_month, quantity * rules.price_per_kw_month)


def _capacity_and_fixed(tariff: Tariff) -> Iterator[StandingCharge]:
    if tariff.capacity is not None:
        yield StandingCharge("capacity", tariff.capacity.kw * tariff.capacity.price_per_kw_month)
    if tariff.fixed is not None:
        yield StandingCharge("fixed", tariff.fixed.per_month, tariff.fixed.per_day)


def _by_time(tariff: Tariff, charges: Sequence[StandingCharge], start: float, end: float) -> Iterator[Line]:
    months, days = tariff.months().between(start, end), (end - start) / _DAY_SECONDS
    for charge in charges:
        for quantity, unit, price in ((months, "months", charge.per_month), (days, "days", charge.per_day)):
            if price:
                yield Line(charge.component, charge.component, quantity, unit, price, quantity * price)


def _minimum(contract: Contract, lines: Sequence[Line], months: float) -> Iterator[Line]:
    least = contract.minimum_per_month * months
    missing = least - fsum(line.amount for line in lines)
    if least and missing > 0.0:
        yield Line("minimum", "minimum bill, the difference (in no counter)", months, "months", None, missing)


def _taxes(tariff: Tariff, lines: Sequence[Line]) -> Iterator[Line]:
    for tax in tariff.taxes:
        base = fsum(line.amount for line in lines if line.section in tax.charges)
        yield Line("taxes", f"{tax.name}, {tax.rate:.4%}", base, tariff.currency or "", tax.rate, base * tax.rate)
    if tariff.vat:
        base = fsum(
            line.amount * tariff.factor(line.section if line.section in (*SLOTS, *CHARGES) else "", contains_vat=True)
            for line in lines
            if not line.contains_vat
        )
        yield Line("vat", f"VAT, {tariff.vat:.2%}", base, tariff.currency or "", tariff.vat, base * tariff.vat)


def _local(at_seconds: float, zone: ZoneInfo) -> str:
    return f"{datetime.fromtimestamp(at_seconds, UTC).astimezone(zone):%Y-%m-%d %H:%M}"
