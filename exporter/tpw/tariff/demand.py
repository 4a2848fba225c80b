"""Demand charges: what the highest quarter-hour of a billing month costs. Pure functions on frozen states.

The meter's clock cuts time into windows (15 minutes, from the hour on); the mean power of a window is its demand, the
highest of the month is billed, and with a ratchet at least a fraction of the highest of earlier months. The charge is
accrued over the month as rate x demand so far x elapsed fraction: both factors only grow, so the total can be a counter,
and at the month's end it is the bill.

Energy must be recorded in the order of time. What belongs to a window that is closed already cannot raise its demand any
more and is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from math import floor
from zoneinfo import ZoneInfo


@dataclass(frozen=True, slots=True)
class DemandRules:
    """How demand is charged."""

    price_per_kw_month: float = 0.0
    window_seconds: float = 900.0
    ratchet: float = 0.0
    """Fraction of the highest earlier peak that is billed at least."""
    ratchet_months: int = 11
    """How many earlier months the ratchet looks at."""
    timezone: str = "UTC"
    billing_day: int = 1
    """Day of the month on which a billing month begins, 1 to 28."""


@dataclass(frozen=True, slots=True)
class Demand:
    """Where a billing month stands. The empty state is a month that has seen nothing."""

    month_start_seconds: float | None = None
    """None: nothing was recorded yet."""
    month_end_seconds: float = 0.0
    window_start_seconds: float = 0.0
    window_joules: float = 0.0
    peak_watts: float = 0.0
    """Highest window of this month that is over."""
    peak_at_seconds: float | None = None
    """Start of that window."""
    earlier_peaks_watts: tuple[float, ...] = ()
    """Of the months before, the newest last."""
    closed_cost: float = 0.0
    """Bills of the months that are over."""

    def window_mean_watts(self, now_seconds: float) -> float | None:
        """Mean power of the window that forms, over its part that has passed. None before anything was recorded."""
        elapsed = now_seconds - self.window_start_seconds
        return None if self.month_start_seconds is None or elapsed <= 0 else self.window_joules / elapsed


def month_start(at_seconds: float, rules: DemandRules) -> float:
    """Start of the billing month of a moment, Unix seconds."""
    day = datetime.fromtimestamp(at_seconds, UTC).astimezone(ZoneInfo(rules.timezone)).date()
    months = day.year * 12 + day.month - 1 - (1 if day.day < rules.billing_day else 0)
    return _local_midnight(months, rules)


def next_month_start(month_start_seconds: float, rules: DemandRules) -> float:
    """Start of the billing month after the one that begins then."""
    day = datetime.fromtimestamp(month_start_seconds, UTC).astimezone(ZoneInfo(rules.timezone)).date()
    return _local_midnight(day.year * 12 + day.month, rules)


def _local_midnight(months: int, rules: DemandRules) -> float:
    """Midnight of the billing day of a month counted from year 0."""
    day = date(months // 12, months % 12 + 1, rules.billing_day)
    return datetime.combine(day, time(), ZoneInfo(rules.timezone)).timestamp()


def recorded(state: Demand, rules: DemandRules, start_seconds: float, end_seconds: float, joules: float) -> Demand:
    """The state after ``joules`` that were used evenly over [start, end)."""
    if state.month_start_seconds is None:
        start = month_start(start_seconds, rules)
        state = replace(state, month_start_seconds=start, month_end_seconds=next_month_start(start, rules))
        state = replace(state, window_start_seconds=_window_of(state, rules, start_seconds))
    watts = joules / (end_seconds - start_seconds) if end_seconds > start_seconds else 0.0
    at = max(start_seconds, state.window_start_seconds)
    while at < end_seconds:
        state = moved(state, rules, at)
        until = min(end_seconds, _window_end(state, rules))
        state = replace(state, window_joules=state.window_joules + watts * (until - at))
        at = until
    return moved(state, rules, end_seconds)


def moved(state: Demand, rules: DemandRules, now_seconds: float) -> Demand:
    """The state when the clock says ``now``: windows and months that are over are closed."""
    while state.month_start_seconds is not None and now_seconds >= (end := _window_end(state, rules)):
        mean = state.window_joules / (end - state.window_start_seconds)
        if mean > state.peak_watts:
            state = replace(state, peak_watts=mean, peak_at_seconds=state.window_start_seconds)
        if end >= state.month_end_seconds:
            state = _closed(state, rules)
        else:  # on to the window of now, or the month's last: those between hold nothing
            last = _window_of(state, rules, min(now_seconds, state.month_end_seconds - 1e-3))
            state = replace(state, window_start_seconds=max(end, last), window_joules=0.0)
    return state


def _closed(state: Demand, rules: DemandRules) -> Demand:
    """The state at the end of its billing month."""
    peaks = (*state.earlier_peaks_watts, state.peak_watts)
    month_end = state.month_end_seconds
    return Demand(
        month_start_seconds=month_end,
        month_end_seconds=next_month_start(month_end, rules),
        window_start_seconds=month_end,
        earlier_peaks_watts=peaks[max(0, len(peaks) - rules.ratchet_months) :],
        closed_cost=state.closed_cost + rules.price_per_kw_month * billed_watts(state, rules) / 1000,
    )


def billed_watts(state: Demand, rules: DemandRules) -> float:
    """The demand that would be billed if the month ended with the peak so far."""
    return max(state.peak_watts, rules.ratchet * max(state.earlier_peaks_watts, default=0.0))


def accrued_cost(state: Demand, rules: DemandRules, now_seconds: float) -> float:
    """The charge so far: bills of the months that are over, and the elapsed part of this one's. Never falls."""
    if state.month_start_seconds is None:
        return state.closed_cost
    length = state.month_end_seconds - state.month_start_seconds
    elapsed = (now_seconds - state.month_start_seconds) / length
    return state.closed_cost + rules.price_per_kw_month * billed_watts(state, rules) / 1000 * min(
        max(elapsed, 0.0), 1.0
    )


def cost_of_a_new_peak(state: Demand, rules: DemandRules, watts: float) -> float:
    """What the month's bill rises by if a window reaches ``watts``."""
    return rules.price_per_kw_month * max(0.0, watts - billed_watts(state, rules)) / 1000


def _window_of(state: Demand, rules: DemandRules, at_seconds: float) -> float:
    """Start of the window of a moment of the month. Windows are counted from the month's start."""
    start = state.month_start_seconds or 0.0
    return start + floor((at_seconds - start) / rules.window_seconds) * rules.window_seconds


def _window_end(state: Demand, rules: DemandRules) -> float:
    return min(state.window_start_seconds + rules.window_seconds, state.month_end_seconds)
