"""All advice for one node, the largest saving first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

from tpw.advice.consolidation import consolidation
from tpw.advice.contracts import Priced, contracts
from tpw.advice.elsewhere import elsewhere
from tpw.advice.fleet import Fleet
from tpw.advice.limits import limits
from tpw.advice.lines import Advice, Kind, Missing
from tpw.advice.shifting import PeakCost, shifting
from tpw.advice.waste import idle, parked, schedule
from tpw.ledger.amounts import JOULES_PER_KWH
from tpw.ledger.calendar import Calendar


@dataclass(frozen=True, slots=True)
class Question:
    """What the books do not have."""

    calendar: Calendar
    rented: frozenset[str] = frozenset()
    """References that are prices of GPU time."""
    can_wait_hours: Mapping[str, float] = field(default_factory=dict)
    """Servers and workloads that can wait, and for how long."""
    peak_cost: PeakCost | None = None
    present_contract: str = ""
    contracts: Mapping[str, str] = field(default_factory=dict)
    bill_of: Priced | None = None


@dataclass(frozen=True, slots=True)
class Findings:
    """All of it."""

    advice: tuple[Advice, ...]
    missing: tuple[Missing, ...]
    answered: tuple[Kind, ...] = ()
    """Kinds for which the books show that there is nothing to save, or what there is."""


def advise(fleet: Fleet, question: Question) -> Findings:
    """What would save money."""
    if not fleet.components.get(""):
        text = (
            "Nothing has a cost: configure `tariff` and `costs`, and what is booked from then on has."
            if fleet.uses
            else "Nothing was booked in this time."
        )
        return Findings((), (Missing(Kind.IDLE, "", text),))
    found: Iterator[Advice | Missing] = chain(
        idle(fleet),
        parked(fleet),
        schedule(fleet, question.calendar),
        consolidation(fleet),
        limits(fleet),
        shifting(fleet, question.can_wait_hours, question.peak_cost),
        elsewhere(fleet, question.rented),
        ()
        if question.bill_of is None or not question.contracts
        else contracts(fleet, question.present_contract, question.contracts, question.bill_of),
    )
    lines = list(found)
    advice = [line for line in lines if isinstance(line, Advice) and line.saving.value > 0.0]
    missing = [line for line in lines if isinstance(line, Missing)]
    given = {
        Kind.POWER_LIMIT: bool(fleet.limits),
        Kind.SHIFT: bool(question.can_wait_hours),
        Kind.CONTRACT: bool(question.contracts) and question.bill_of is not None,
        Kind.ELSEWHERE: any(work.reference_cost for work in fleet.work.values()),
    }
    lacking = {one.kind for one in missing} - {one.kind for one in advice}
    if fleet.unpriced_joules[0] > 0.0:
        kwh = fleet.unpriced_joules[0] / JOULES_PER_KWH
        missing.append(Missing(Kind.IDLE, "", f"{kwh:,.1f} kWh of this time have no price yet, and count as nothing."))
    answered = tuple(kind for kind in Kind if given.get(kind, True) and kind not in lacking)
    return Findings(tuple(sorted(advice, key=lambda one: -one.saving.value)), tuple(missing), answered)
