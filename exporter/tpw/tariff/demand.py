"""Demand charges: the price of the highest quarter-hour of a billing month. Pure functions on frozen states.

A season or a year may take the place of the month, as the time of which the peak is billed: below, a month is either.

A contract may have several: on the month's peak at any time, and on the peak of some hours, each by blocks of kW. Each is a
:class:`DemandRules` with its own state; their sum is the bill.

Time is cut into windows (15 minutes, from the start of the month). The mean power of a window is its demand. The highest
demand of the month is billed, and with a ratchet at least a fraction of the highest of earlier months. The charge accrues
over the month as peak so far x elapsed fraction of the month, in kW-months: both factors only grow, so the total is a
counter that equals the bill at the end of the month. Before the books began nothing accrues.

Joules may arrive late and in any order, so a window is open until the caller closes it (``close_windows``). It counts for
the peak from its end on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import floor, inf
from typing import Protocol

from tpw.tariff.months import BillingMonths, whole_months


class Hours(Protocol):
    """Hours in which a charge applies."""

    def contains(self, month_start_seconds: float, at_seconds: float) -> bool:
        """Whether a window that starts at ``at_seconds`` counts, in the billing month with this start."""


class Apparent(Protocol):
    """Metered power factors, for demand in kVA."""

    def factor(self, at_seconds: float) -> float:
        """Apparent power per power at a moment, times the power factor by which the charge was converted to kW."""


@dataclass(frozen=True, slots=True)
class DemandRules:
    """The terms of one demand charge."""

    price_per_kw_month: float = 0.0
    name: str = "demand"
    """Unique among the charges of a contract; the key of its state."""
    above_kw: float = 0.0
    up_to_kw: float = inf
    """Only the kW between these two are charged: one block of a block tariff."""
    hours: Hours | None = None
    """Only windows that start in these hours count. None: all windows."""
    apparent: Apparent | None = None
    """None: the power is charged as it is."""
    window_seconds: float = 900.0
    ratchet: float = 0.0
    """The least billed demand, as a fraction of the highest earlier peak."""
    ratchet_months: int = 11
    """Number of earlier months for the ratchet."""
    ratchet_peaks: frozenset[int] = frozenset()
    """Calendar months with peaks that count for the ratchet; none: all."""
    minimum_kw: float = 0.0
    """Billed at least."""
    billed_months: frozenset[int] = frozenset()
    """Calendar months in which a minimum and a ratchet are billed; none: all."""
    events: int = 0
    """Number of windows of which the mean is billed (a coincident peak); 0: the highest window is."""
    months: BillingMonths = field(default_factory=BillingMonths)
    """The periods of which the peak is billed: months, seasons or years. The price is that of a month of them."""

    def window(self, at_seconds: float) -> tuple[float, float]:
        """[start, end) of the window of a moment. Windows start with the month; the last ends with it."""
        month, month_end = self.months.bounds(at_seconds)
        start = month + floor((at_seconds - month) / self.window_seconds) * self.window_seconds
        return start, min(start + self.window_seconds, month_end)

    def counts(self, at_seconds: float) -> bool:
        """Whether the window of a moment can raise the peak."""
        if self.hours is None:
            return True
        return self.hours.contains(self.months.bounds(at_seconds)[0], self.window(at_seconds)[0])


@dataclass(frozen=True, slots=True)
class Demand:
    """The state of a demand charge in a billing month. The empty state has no consumption."""

    began_seconds: float | None = None
    """From when on the month is charged. None: nothing is recorded yet."""
    month_start_seconds: float = 0.0
    month_end_seconds: float = 0.0
    peak_watts: float = 0.0
    """Highest closed window of the month."""
    peak_at_seconds: float | None = None
    """Start of that window."""
    windows: Mapping[float, float] = field(default_factory=dict)
    """Joules of open windows, by their start."""
    closed_until_seconds: float = 0.0
    """Earlier consumption can no longer raise a peak."""
    earlier_peaks_watts: tuple[float, ...] = ()
    """Of earlier months, the newest last."""
    closed_kw_months: float = 0.0
    """Billed for past months."""
    booked_kw_months: float = 0.0
    """The part of the accrued charge that is booked."""
    window_seconds: float = 0.0
    """Length of the open windows. 0: that of the rules."""


def record(state: Demand, rules: DemandRules, start_seconds: float, end_seconds: float, joules: float) -> Demand:
    """The state after ``joules`` used evenly over [start, end), in any order of time after the closed windows."""
    state = _adopted(state, rules)
    if state.began_seconds is None:
        month, month_end = rules.months.bounds(start_seconds)
        state = replace(
            state,
            began_seconds=start_seconds,
            month_start_seconds=month,
            month_end_seconds=month_end,
            closed_until_seconds=month,
        )
    if end_seconds <= start_seconds:
        return state
    watts = joules / (end_seconds - start_seconds)
    windows = dict(state.windows)
    at = max(start_seconds, state.closed_until_seconds)
    while at < end_seconds:
        start, end = rules.window(at)
        until = min(end_seconds, end)
        if rules.hours is None or rules.hours.contains(rules.months.bounds(at)[0], start):
            part = watts * (until - at) * (1.0 if rules.apparent is None else rules.apparent.factor(at))
            windows[start] = windows.get(start, 0.0) + part
        at = until
    return replace(state, windows=windows)


def close_windows(state: Demand, rules: DemandRules, until_seconds: float) -> Demand:
    """The state when everything before ``until`` is known: past windows and months are closed."""
    if state.began_seconds is None:
        return state
    state = _shortened(_adopted(state, rules), rules, until_seconds)
    while True:
        state = _windows_closed(state, rules, min(until_seconds, state.month_end_seconds))
        if until_seconds < state.month_end_seconds:
            return state
        # After a change of the billing day the next month has already begun: it is charged from here.
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


def _shortened(state: Demand, rules: DemandRules, until_seconds: float) -> Demand:
    """The state where a year or season gave way to a shorter time: what has accrued is closed, and the new time is charged
    from here."""
    if not state.month_start_seconds <= until_seconds < state.month_end_seconds:
        return state
    month, month_end = rules.months.bounds(until_seconds)
    if whole_months(state.month_start_seconds, state.month_end_seconds) <= whole_months(month, month_end):
        return state
    state = _windows_closed(state, rules, until_seconds)
    return replace(
        state,
        began_seconds=until_seconds,
        closed_kw_months=kw_months(state, rules, until_seconds),
        month_start_seconds=month,
        month_end_seconds=month_end,
        peak_watts=0.0,
        peak_at_seconds=None,
    )


def after_clock_step(state: Demand, rules: DemandRules, now_seconds: float) -> Demand:
    """The state at a moment, for a clock that may have been set back. Consumption recorded after that moment remains
    billed and does not replace what is recorded until then."""
    if state.began_seconds is None or now_seconds >= max(state.month_start_seconds, state.closed_until_seconds):
        return state
    if now_seconds >= state.month_start_seconds:
        return replace(state, closed_until_seconds=now_seconds)
    month, month_end = rules.months.bounds(now_seconds)
    return replace(
        state,
        began_seconds=now_seconds,
        month_start_seconds=month,
        month_end_seconds=month_end,
        peak_watts=0.0,
        peak_at_seconds=None,
        windows={},
        closed_until_seconds=now_seconds,
        closed_kw_months=kw_months(state, rules, state.closed_until_seconds),
    )


def after_step(state: Demand, rules: DemandRules, before_seconds: float, step_seconds: float) -> Demand:
    """The state after the clock was set from ``before`` by ``step`` within a process: no time has passed, nothing accrues.

    Open windows end, unless the time moves on within one: a window that is entered again would hold some of its time twice.
    Within a month the time from which it is charged moves with the clock. Otherwise what has accrued is closed, and the
    month of the new time is charged from here; its peak begins at zero.
    """
    now_seconds = before_seconds + step_seconds
    began = state.began_seconds
    if began is None:
        return state
    if step_seconds < 0.0 or rules.window(before_seconds) != rules.window(now_seconds):
        peak, peak_at = _highest(state, rules, inf)
        state = replace(state, peak_watts=peak, peak_at_seconds=peak_at, windows={})
    if state.month_start_seconds <= now_seconds < state.month_end_seconds:
        return replace(state, began_seconds=max(state.month_start_seconds, began) + step_seconds)
    month, month_end = rules.months.bounds(now_seconds)
    peaks = (*state.earlier_peaks_watts, state.peak_watts) if step_seconds > 0.0 else state.earlier_peaks_watts
    return replace(
        state,
        began_seconds=now_seconds,
        month_start_seconds=month,
        month_end_seconds=month_end,
        peak_watts=0.0,
        peak_at_seconds=None,
        closed_until_seconds=now_seconds,
        closed_kw_months=kw_months(state, rules, before_seconds),
        earlier_peaks_watts=peaks[max(0, len(peaks) - rules.ratchet_months) :],
    )


def _adopted(state: Demand, rules: DemandRules) -> Demand:
    """The state with windows of the rules' length. Open windows of another length are closed at that length."""
    if state.window_seconds == rules.window_seconds:
        return state
    if state.window_seconds > 0.0:
        old = replace(rules, window_seconds=state.window_seconds)
        peak, peak_at = _highest(state, old, inf)
        state = replace(state, peak_watts=peak, peak_at_seconds=peak_at, windows={})
    return replace(state, window_seconds=rules.window_seconds)


def _windows_closed(state: Demand, rules: DemandRules, until_seconds: float) -> Demand:
    """The state with past windows of the month included in its peak."""
    ends = {begin: rules.window(begin)[1] for begin in state.windows}
    over = [end for end in ends.values() if end <= until_seconds]
    if not over:
        return state
    peak, peak_at = _highest(state, rules, until_seconds)
    still_open = {begin: joules for begin, joules in state.windows.items() if ends[begin] > until_seconds}
    closed_until = max(state.closed_until_seconds, *over)
    return replace(
        state, peak_watts=peak, peak_at_seconds=peak_at, windows=still_open, closed_until_seconds=closed_until
    )


def _highest(state: Demand, rules: DemandRules, now_seconds: float) -> tuple[float, float | None]:
    """(watts, start) of the highest past window of the month."""
    peak, peak_at = state.peak_watts, state.peak_at_seconds
    for begin, joules in sorted(state.windows.items()):
        start, end = rules.window(begin)
        if start >= state.month_end_seconds or end > now_seconds:
            continue
        watts = joules / (end - start)
        if rules.events:
            peak, peak_at = peak + watts / rules.events, start
        elif watts > peak:
            peak, peak_at = watts, start
    return peak, peak_at


def peak_watts(state: Demand, rules: DemandRules, now_seconds: float) -> float:
    """The month's peak: its highest past window."""
    return _highest(state, rules, now_seconds)[0]


def peak_at_seconds(state: Demand, rules: DemandRules, now_seconds: float) -> float | None:
    """Start of the window of the month's peak. None while there is none."""
    return _highest(state, rules, now_seconds)[1]


def forming_watts(state: Demand, rules: DemandRules, now_seconds: float) -> float | None:
    """Mean power of the current window so far. None while nothing is recorded in it."""
    start, _ = rules.window(now_seconds)
    joules = state.windows.get(start)
    begun = start if state.began_seconds is None else max(start, state.began_seconds)
    return None if joules is None or now_seconds <= begun else joules / (now_seconds - begun)


def billed_watts(state: Demand, rules: DemandRules, now_seconds: float) -> float:
    """The billed demand if the month ended with the peak so far."""
    peak = peak_watts(state, rules, now_seconds)
    if rules.ratchet == 0.0 and rules.minimum_kw == 0.0:
        return peak
    month = rules.months.calendar_month(state.month_start_seconds)
    if rules.billed_months and month not in rules.billed_months:
        return peak
    earlier = (
        watts
        for back, watts in enumerate(reversed(state.earlier_peaks_watts), 1)
        if not rules.ratchet_peaks or (month - back - 1) % 12 + 1 in rules.ratchet_peaks
    )
    return max(peak, rules.ratchet * max(earlier, default=0.0), rules.minimum_kw * 1000.0)


def billed_kw(state: Demand, rules: DemandRules, now_seconds: float) -> float:
    """The part of that demand in the block of these rules."""
    kw = billed_watts(state, rules, now_seconds) / 1000.0
    return max(0.0, min(kw, rules.up_to_kw) - rules.above_kw)


def kw_months(state: Demand, rules: DemandRules, now_seconds: float) -> float:
    """The accrued charge: past months, and the elapsed fraction of this one. Never falls."""
    if state.began_seconds is None:
        return 0.0
    length = state.month_end_seconds - state.month_start_seconds
    begun = max(state.month_start_seconds, state.began_seconds)
    elapsed = (min(now_seconds, state.month_end_seconds) - begun) / length
    months = whole_months(state.month_start_seconds, state.month_end_seconds) * max(elapsed, 0.0)
    return state.closed_kw_months + billed_kw(state, rules, now_seconds) * months
