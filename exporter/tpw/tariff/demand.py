"""Demand charges: what the highest quarter-hour of a billing month costs. Pure functions on frozen states.

A contract may have several: one on the month's peak whenever it was, others on the peak of some hours, each by blocks of
kW. Every one of them is a :class:`DemandRules` of its own with a state of its own; together they are the bill.

The meter's clock cuts time into windows (15 minutes, from the hour on); the mean power of a window is its demand, the
highest of the month is billed, and with a ratchet at least a fraction of the highest of earlier months. The charge is
accrued over the month as peak so far x elapsed fraction of the month, in kW-months: both factors only grow, so the total
can be a counter, and at the month's end it is the bill. Before the books began nothing accrues.

Joules may arrive late, and those of several boards in any order: a window stays open until nothing can be added to it any
more, which the caller says (``settled``). It counts for the peak as soon as its time is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import floor, inf
from typing import Protocol

from tpw.tariff.months import BillingMonths


class Hours(Protocol):
    """Some of the time."""

    def holds(self, month_start_seconds: float, at_seconds: float) -> bool:
        """Whether a window that starts at this moment counts, in the billing month that starts at that one."""


@dataclass(frozen=True, slots=True)
class DemandRules:
    """How demand is charged."""

    price_per_kw_month: float = 0.0
    name: str = "demand"
    """Each charge of a contract has another: its state is kept under it."""
    above_kw: float = 0.0
    up_to_kw: float = inf
    """Only the kW between these two are charged: one block of a price by blocks."""
    hours: Hours | None = None
    """Only windows that start in these hours count. None: all do."""
    window_seconds: float = 900.0
    ratchet: float = 0.0
    """Fraction of the highest earlier peak that is billed at least."""
    ratchet_months: int = 11
    """How many earlier months the ratchet looks at."""
    months: BillingMonths = field(default_factory=BillingMonths)

    def window(self, at_seconds: float) -> tuple[float, float]:
        """[start, end) of the window of a moment. Windows are counted from the month's start, and end with it."""
        month, month_end = self.months.bounds(at_seconds)
        start = month + floor((at_seconds - month) / self.window_seconds) * self.window_seconds
        return start, min(start + self.window_seconds, month_end)

    def counts(self, at_seconds: float) -> bool:
        """Whether the window of a moment can raise the peak."""
        if self.hours is None:
            return True
        return self.hours.holds(self.months.bounds(at_seconds)[0], self.window(at_seconds)[0])


@dataclass(frozen=True, slots=True)
class Demand:
    """Where a billing month stands. The empty state has seen nothing."""

    began_seconds: float | None = None
    """From when on the month is charged: its start, or in its middle. None: nothing was recorded yet."""
    month_start_seconds: float = 0.0
    month_end_seconds: float = 0.0
    peak_watts: float = 0.0
    """Highest settled window of the month."""
    peak_at_seconds: float | None = None
    """Start of that window."""
    windows: Mapping[float, float] = field(default_factory=dict)
    """Joules by start of the window: those that may still get more."""
    settled_until_seconds: float = 0.0
    """What was used before cannot raise a peak any more."""
    earlier_peaks_watts: tuple[float, ...] = ()
    """Of the months before, the newest last."""
    closed_kw_months: float = 0.0
    """Billed for months that are over."""
    booked_kw_months: float = 0.0
    """How much of what has accrued is in the books."""
    window_seconds: float = 0.0
    """Length of the windows that form. 0: that of the rules."""


def recorded(state: Demand, rules: DemandRules, start_seconds: float, end_seconds: float, joules: float) -> Demand:
    """The state after ``joules`` that were used evenly over [start, end). In any order of time, down to what is settled."""
    state = _adopted(state, rules)
    if state.began_seconds is None:
        month, month_end = rules.months.bounds(start_seconds)
        state = replace(
            state,
            began_seconds=start_seconds,
            month_start_seconds=month,
            month_end_seconds=month_end,
            settled_until_seconds=month,
        )
    if end_seconds <= start_seconds:
        return state
    watts = joules / (end_seconds - start_seconds)
    windows = dict(state.windows)
    at = max(start_seconds, state.settled_until_seconds)
    while at < end_seconds:
        start, end = rules.window(at)
        until = min(end_seconds, end)
        if rules.hours is None or rules.hours.holds(rules.months.bounds(at)[0], start):
            windows[start] = windows.get(start, 0.0) + watts * (until - at)
        at = until
    return replace(state, windows=windows)


def settled(state: Demand, rules: DemandRules, until_seconds: float) -> Demand:
    """The state when everything before ``until`` is known: windows and months that are over are closed."""
    if state.began_seconds is None:
        return state
    state = _adopted(state, rules)
    while True:
        state = _windows_closed(state, rules, min(until_seconds, state.month_end_seconds))
        if until_seconds < state.month_end_seconds:
            return state
        # Where months begin on another day from now on, the next is one that has begun already: it is charged from here.
        over = state.month_end_seconds
        month, month_end = rules.months.bounds(over)
        peaks = (*state.earlier_peaks_watts, state.peak_watts)
        state = replace(
            state,
            began_seconds=over,
            closed_kw_months=kw_months(state, rules, over),
            earlier_peaks_watts=peaks[max(0, len(peaks) - rules.ratchet_months) :],
            month_start_seconds=month,
            month_end_seconds=month_end,
            peak_watts=0.0,
            peak_at_seconds=None,
        )


def turned_back(state: Demand, rules: DemandRules, now_seconds: float) -> Demand:
    """The state at a moment by which the clock was, perhaps, set back: what was recorded ahead of it stays billed, and
    hides nothing of the time until then."""
    if state.began_seconds is None or now_seconds >= max(state.month_start_seconds, state.settled_until_seconds):
        return state
    if now_seconds >= state.month_start_seconds:
        return replace(state, settled_until_seconds=now_seconds)
    month, month_end = rules.months.bounds(now_seconds)
    return replace(
        state,
        began_seconds=now_seconds,
        month_start_seconds=month,
        month_end_seconds=month_end,
        peak_watts=0.0,
        peak_at_seconds=None,
        windows={},
        settled_until_seconds=now_seconds,
        closed_kw_months=kw_months(state, rules, state.settled_until_seconds),
    )


def _adopted(state: Demand, rules: DemandRules) -> Demand:
    """The state under windows of the rules' length; what forms at another is judged as it stands, at the length it had."""
    if state.window_seconds == rules.window_seconds:
        return state
    if state.window_seconds > 0.0:
        old = replace(rules, window_seconds=state.window_seconds)
        peak, peak_at = _highest(state, old, inf)
        state = replace(state, peak_watts=peak, peak_at_seconds=peak_at, windows={})
    return replace(state, window_seconds=rules.window_seconds)


def _windows_closed(state: Demand, rules: DemandRules, until_seconds: float) -> Demand:
    """Windows of the month that are over by then become part of its peak."""
    ends = {begin: rules.window(begin)[1] for begin in state.windows}
    over = [end for end in ends.values() if end <= until_seconds]
    if not over:
        return state
    peak, peak_at = _highest(state, rules, until_seconds)
    kept = {begin: joules for begin, joules in state.windows.items() if ends[begin] > until_seconds}
    settled_until = max(state.settled_until_seconds, *over)
    return replace(state, peak_watts=peak, peak_at_seconds=peak_at, windows=kept, settled_until_seconds=settled_until)


def _highest(state: Demand, rules: DemandRules, now_seconds: float) -> tuple[float, float | None]:
    """(watts, start) of the highest window of the month that is over."""
    peak, peak_at = state.peak_watts, state.peak_at_seconds
    for begin, joules in sorted(state.windows.items()):
        start, end = rules.window(begin)
        if start < state.month_end_seconds and end <= now_seconds and joules / (end - start) > peak:
            peak, peak_at = joules / (end - start), start
    return peak, peak_at


def peak_watts(state: Demand, rules: DemandRules, now_seconds: float) -> float:
    """The month's peak: the highest window that is over."""
    return _highest(state, rules, now_seconds)[0]


def forming_watts(state: Demand, rules: DemandRules, now_seconds: float) -> float | None:
    """Mean power of the window that forms, over its part that has passed. None before anything was recorded in it."""
    start, _ = rules.window(now_seconds)
    joules = state.windows.get(start)
    begun = start if state.began_seconds is None else max(start, state.began_seconds)
    return None if joules is None or now_seconds <= begun else joules / (now_seconds - begun)


def billed_watts(state: Demand, rules: DemandRules, now_seconds: float) -> float:
    """The demand that would be billed if the month ended with the peak so far."""
    floor_watts = rules.ratchet * max(state.earlier_peaks_watts, default=0.0)
    return max(peak_watts(state, rules, now_seconds), floor_watts)


def billed_kw(state: Demand, rules: DemandRules, now_seconds: float) -> float:
    """Of that demand, what falls into the block of these rules."""
    kw = billed_watts(state, rules, now_seconds) / 1000.0
    return max(0.0, min(kw, rules.up_to_kw) - rules.above_kw)


def kw_months(state: Demand, rules: DemandRules, now_seconds: float) -> float:
    """What has accrued: bills of the months that are over, and the elapsed part of this one's. Never falls."""
    if state.began_seconds is None:
        return 0.0
    length = state.month_end_seconds - state.month_start_seconds
    begun = max(state.month_start_seconds, state.began_seconds)
    elapsed = (min(now_seconds, state.month_end_seconds) - begun) / length
    return state.closed_kw_months + billed_kw(state, rules, now_seconds) * max(elapsed, 0.0)
