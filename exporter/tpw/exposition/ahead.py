"""Snapshot -> the JSON of ``/api/v1/prices``: known prices and carbon intensities ahead, and the best window in them.

Loaded with the first request. ``null`` means unknown. Times are Unix seconds, money is in ``currency`` per kWh.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, time, timedelta
from typing import TypedDict
from zoneinfo import ZoneInfo

from tpw.model import PriceState
from tpw.snapshot import Snapshot
from tpw.tariff.spans import least_reliable
from tpw.tariff.windows import Piece, Window, lowest, mean_within

LONGEST_HOURS = 48.0
"""As far ahead as prices are read."""
_UNIX = re.compile(r"\d{1,12}(\.\d*)?", re.ASCII)
_CLOCK_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)", re.ASCII)


class AheadPrice(TypedDict):
    """A price in force over [start, end)."""

    start: float
    end: float
    per_kwh: float
    state: str
    """final, preliminary, forecast, fallback."""


class AheadIntensity(TypedDict):
    """A carbon intensity over [start, end)."""

    start: float
    end: float
    grams_per_kwh: float
    state: str


class WindowStatus(TypedDict):
    """An interval, and what steady power costs in it."""

    start: float
    end: float
    per_kwh: float | None
    grams_per_kwh: float | None
    state: str | None
    """Of its least reliable price."""


class Windows(TypedDict):
    """Windows of some length. A price that is a fallback is not known: no window contains it."""

    hours: float
    before: float
    """By when they end."""
    now: WindowStatus | None
    """The one that begins now. null where its prices are not known, or it would end too late."""
    cheapest: WindowStatus | None
    cleanest: WindowStatus | None


class PricesAhead(TypedDict):
    """The whole answer."""

    at: float
    timezone: str
    """Of the tariff."""
    currency: str | None
    rank_ratio: float | None
    """As tpw_electricity_price_rank_ratio."""
    prices: list[AheadPrice]
    basis: str | None
    """Of the carbon intensities."""
    intensities: list[AheadIntensity]
    windows: Windows | None
    """null without ``hours``."""


def moment(text: str, now: float, timezone: str) -> float:
    """Unix seconds of ``1764028800``, ``2026-11-26T07:00`` (with an offset, or local) or ``07:00``, which is the next one.
    Raises ValueError with a sentence."""
    zone = ZoneInfo(timezone)
    clock_time = _CLOCK_TIME.fullmatch(text)
    if clock_time:
        local, at = datetime.fromtimestamp(now, zone), time(int(clock_time[1]), int(clock_time[2]))
        days = (datetime.combine(local.date() + timedelta(days=day), at, zone).timestamp() for day in (0, 1))
        return next(found for found in days if found > now)
    if _UNIX.fullmatch(text):
        return float(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"`{text}` is no time: write 07:00, 2026-11-26T07:00 or Unix seconds") from None
    return (found if found.tzinfo else found.replace(tzinfo=zone)).timestamp()


def ahead(snapshot: Snapshot, hours: str = "", before: str = "") -> PricesAhead:
    """The answer, with windows of so many hours that end before a moment (see :func:`moment`). Raises ValueError with a
    sentence."""
    now, seconds = snapshot.at.wall_seconds, LONGEST_HOURS * 3600.0
    prices = [
        AheadPrice(start=one.start_seconds, end=one.end_seconds, per_kwh=one.price_per_kwh, state=str(one.state))
        for one in snapshot.prices_ahead(seconds)
    ]
    carbon = snapshot.carbon
    curve = None if carbon is None else carbon.curve
    intensities = [
        AheadIntensity(start=start, end=end, grams_per_kwh=one.grams_per_kwh, state=str(one.state))
        for start, end, one in (() if curve is None else curve.pieces(now, now + seconds))
        if one is not None
    ]
    windows = None
    if hours or before:
        end = moment(before, now, snapshot.prices.timezone) if before else now + seconds
        windows = _windows(_hours(hours or "1"), end, now, prices, intensities)
    return PricesAhead(
        at=now,
        timezone=snapshot.prices.timezone,
        currency=snapshot.prices.currency or None,
        rank_ratio=snapshot.price_rank_ratio,
        prices=prices,
        basis=None if carbon is None else carbon.basis,
        intensities=intensities,
        windows=windows,
    )


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    if not 0.0 < hours <= LONGEST_HOURS:
        raise ValueError(f"`{text}` hours: write a number above 0, at most {LONGEST_HOURS:g}")
    return hours


def _windows(
    hours: float, before: float, now: float, prices: Sequence[AheadPrice], intensities: Sequence[AheadIntensity]
) -> Windows:
    known = [one for one in prices if one["state"] != PriceState.FALLBACK]
    costs: list[Piece] = [(one["start"], one["end"], one["per_kwh"]) for one in known]
    grams: list[Piece] = [(one["start"], one["end"], one["grams_per_kwh"]) for one in intensities]
    seconds = hours * 3600.0

    def shown(window: Window | None) -> WindowStatus | None:
        if window is None:
            return None
        start, end = window.start_seconds, window.end_seconds
        cost = mean_within(costs, start, end)
        states = [PriceState(one["state"]) for one in known if one["start"] < end and one["end"] > start]
        return WindowStatus(
            start=start,
            end=end,
            per_kwh=cost,
            grams_per_kwh=mean_within(grams, start, end),
            state=None if cost is None else str(least_reliable(states)),
        )

    at_once = [lowest(pieces, seconds, now, min(before, now + seconds)) for pieces in (costs, grams)]
    return Windows(
        hours=hours,
        before=before,
        now=shown(at_once[0] or at_once[1]),
        cheapest=shown(lowest(costs, seconds, now, before)),
        cleanest=shown(lowest(grams, seconds, now, before)),
    )
