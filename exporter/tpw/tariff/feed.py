"""Feeds: prices that a service publishes, fetched on a schedule and kept on disk.

A :class:`Feed` schedules and keeps what a :class:`Reader` reads; the reader knows one service. Known prices are kept: late
energy needs those of past days, and a feed that is down changes nothing that is known.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Protocol

from tpw.model import PriceInterval, PriceState, Reason, SourceError
from tpw.tariff.context import FeedContext
from tpw.tariff.contract import Contract
from tpw.tariff.curve import PriceCurve
from tpw.tariff.sanity import refuse_implausible
from tpw.tariff.schedule import Attempts, Schedule, is_due
from tpw.tariff.spans import clipped, merged, overlaid

DAY_SECONDS = 86400.0
KEPT_SECONDS = 45 * DAY_SECONDS
"""How long prices are kept: a billing month, and the days for which late energy is still priced."""
HISTORY_SECONDS = 8 * DAY_SECONDS
"""How far back prices are fetched, for energy used while the exporter was down. The ledger prices late energy for as
long."""
AHEAD_SECONDS = 2.5 * DAY_SECONDS
"""How far ahead prices are fetched: past the end of tomorrow, from any time of day and on a day of 25 hours."""
COMPARED_SECONDS = 3 * DAY_SECONDS
"""Fresh prices are compared with those of so many past days: enough for a weekend, too few for a season."""

_CACHE_LAYOUT = 1

Check = Callable[[Sequence[PriceInterval], Sequence[PriceInterval]], None]
"""Raises SourceError for implausible fresh intervals (first argument), given the known ones (second)."""


class Reader(Protocol):
    """Reads one service."""

    @property
    def name(self) -> str:
        """Kind of the source."""

    @property
    def identity(self) -> str:
        """What is read (service, area, tariff). Kept prices of another identity are ignored."""

    def read(self, start_seconds: float, end_seconds: float) -> Sequence[PriceInterval]:
        """The service's prices for [start, end), ordered and disjoint; may return more than the range. Raises SourceError;
        reason NOT_YET where nothing is published for the range. A reader that sends several requests counts them in an
        attribute ``requests_made``."""


class PriceBounds(Protocol):
    """Settings of a feed of prices."""

    @property
    def fallback_price_per_kwh(self) -> float | None:
        """Price for time without one; None leaves it unpriced."""

    @property
    def max_price_per_kwh(self) -> float | None:
        """Prices beyond it are refused; None: by the currency."""


def price_feed(
    reader: Reader,
    currency: str | None,
    context: FeedContext,
    schedule: Schedule,
    cache: Path | None,
    bounds: PriceBounds | None = None,
    hold_seconds: float = 0.0,
) -> Feed:
    """A feed of prices per kWh in a currency, checked for plausibility."""
    max_price = bounds.max_price_per_kwh if bounds is not None else None
    return Feed(
        reader,
        clock=context.clock,
        unit=currency or "",
        schedule=schedule,
        check=partial(refuse_implausible, currency=currency or "", max_price_per_kwh=max_price),
        cache=cache,
        fallback_price_per_kwh=bounds.fallback_price_per_kwh if bounds is not None else None,
        hold_seconds=hold_seconds,
    )


class Feed:
    """A price source around a reader.

    Args:
        reader: reads the service.
        clock: Unix time.
        unit: of the numbers per kWh, usually the currency. Kept numbers of another unit are ignored.
        schedule: when to fetch.
        check: refuses implausible prices.
        cache: file that keeps the prices over a restart; None keeps them in memory.
        fallback_price_per_kwh: price, marked as a fallback, for time without a known price. None leaves it unpriced.
        hold_seconds: how long the last price is repeated as a preliminary one, for markets that publish after the fact.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        clock: Callable[[], float],
        unit: str,
        schedule: Schedule,
        check: Check,
        cache: Path | None = None,
        fallback_price_per_kwh: float | None = None,
        hold_seconds: float = 0.0,
    ) -> None:
        self.name = reader.name
        self.error: SourceError | None = None
        """Why the feed cannot be read now; None while it can. Known prices remain in force."""
        self._reader = reader
        self._clock = clock
        self._unit = unit
        self._schedule = schedule
        self._cache = cache
        self._check = check
        self._fallback = fallback_price_per_kwh
        self._hold_seconds = hold_seconds
        self._attempts = Attempts()
        self._fetched_from = float("inf")
        kept, self._asked = ((), []) if cache is None else _load(cache, reader.identity, unit)
        self._known = PriceCurve.from_intervals(kept)
        now = clock()
        if self._asked and self._is_complete(now):
            self._attempts = Attempts(min(self._asked[-1], now))  # a restart is no reason to ask again

    def intervals(self, start_seconds: float, end_seconds: float) -> tuple[PriceInterval, ...]:
        """Known prices, after a fetch where one is due. Raises the SourceError of the service where no price in the range
        is known."""
        now = self._clock()
        if self._is_due(start_seconds, now):
            self._fetch(start_seconds, now)
        found = clipped(self._with_held().intervals, start_seconds, end_seconds)
        if self._fallback is not None and end_seconds > start_seconds:
            gap = PriceInterval(start_seconds, end_seconds, self._fallback, PriceState.FALLBACK)
            return overlaid(found, (gap,))
        if not found and self.error is not None and end_seconds > start_seconds:
            raise self.error
        return found

    @property
    def contract(self) -> Contract | None:
        """The charges that the reader has read beside the prices, if it reads any."""
        return getattr(self._reader, "contract", None)

    def _with_held(self) -> PriceCurve:
        """The known prices, with the last one repeated."""
        if not self._hold_seconds or not self._known.intervals:
            return self._known
        last = self._known.intervals[-1]
        end = last.end_seconds
        held = replace(last, start_seconds=end, end_seconds=end + self._hold_seconds, state=PriceState.PRELIMINARY)
        return PriceCurve.from_intervals((*self._known.intervals, held))

    def _is_complete(self, now: float) -> bool:
        """Whether everything is known that should have been published."""
        covered_until = _covered_until(self._with_held(), now)
        return covered_until is not None and covered_until >= self._schedule.wanted_until(now)

    def _is_due(self, start_seconds: float, now: float) -> bool:
        limit = self._schedule.daily_limit
        self._asked = [at for at in self._asked if now - DAY_SECONDS < at <= now]
        if limit is not None and len(self._asked) >= limit:
            if self.error is None and self._known.at(now) is None:
                detail = (
                    f"{self._reader.identity} was asked {len(self._asked)} times in 24 hours and has no price for now"
                )
                self.error = SourceError(
                    Reason.BROKEN, detail, "It is asked again later: see the first errors in the log."
                )
            return False
        covered_until = _covered_until(self._with_held(), now)
        if is_due(self._schedule, self._attempts, now, covered_until):
            return True
        # Once for each stretch of the past that is needed and was not fetched before.
        wanted_from = max(start_seconds, now - HISTORY_SECONDS)
        is_past_missing = wanted_from < now and (_covered_until(self._known, wanted_from) or wanted_from) < now
        return is_past_missing and wanted_from < self._fetched_from and self._attempts.failures == 0

    def _fetch(self, start_seconds: float, now: float) -> None:
        made = getattr(self._reader, "requests_made", 0)
        self._update(start_seconds, now)
        self._asked += [now] * max(1, getattr(self._reader, "requests_made", 0) - made)
        self._save()

    def _update(self, start_seconds: float, now: float) -> None:
        fetch_from = min(max(start_seconds, now - HISTORY_SECONDS), now)
        covered_until = _covered_until(self._known, fetch_from)
        if covered_until is not None and covered_until >= now:
            fetch_from = now
        fetch_from = fetch_from // DAY_SECONDS * DAY_SECONDS
        try:
            fresh = merged(self._reader.read(fetch_from, now + AHEAD_SECONDS))
            PriceCurve.from_intervals(fresh)
            recent = [known for known in self._known.intervals if known.end_seconds > now - COMPARED_SECONDS]
            self._check(fresh, recent)
        except SourceError as error:
            if error.reason is Reason.NOT_YET:
                self._fetched_from = min(self._fetched_from, fetch_from)  # nothing is published: that is an answer
            self._fail(error, now)
            return
        except ValueError as error:
            self._fail(SourceError(Reason.MALFORMED, f"{self._reader.identity}: {error}"), now)
            return
        self._fetched_from = min(self._fetched_from, fetch_from)
        known = overlaid(fresh, self._known.intervals)
        self._known = PriceCurve.from_intervals(clipped(known, now - KEPT_SECONDS, float("inf")))
        if self._with_held().at(now) is None:
            self._fail(SourceError(Reason.NOT_YET, f"{self._reader.identity} has no price for now"), now)
        else:
            self.error = None
            self._attempts = self._attempts.succeeded(now, is_complete=self._is_complete(now))

    def _fail(self, error: SourceError, now: float) -> None:
        self.error = error
        self._attempts = self._attempts.failed(now, error.reason, error.retry_after_seconds)
        if error.reason is Reason.NOT_YET and self._with_held().at(now) is not None:
            self.error = None  # tomorrow is not published yet, and the price of now is known

    def _save(self) -> None:
        if self._cache is None:
            return
        rows = [
            [known.start_seconds, known.end_seconds, known.price_per_kwh, known.state]
            + ([known.steps] if known.steps else [])
            for known in self._known.intervals
        ]
        document = {
            "layout": _CACHE_LAYOUT,
            "identity": self._reader.identity,
            "unit": self._unit,
            "asked": self._asked,
            "intervals": rows,
        }
        temporary = self._cache.with_suffix(".new")
        with contextlib.suppress(OSError):  # without the cache, the next start fetches again
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(document), encoding="utf-8")
            os.replace(temporary, self._cache)  # noqa: PTH105 - atomic on purpose


def _covered_until(known: PriceCurve, from_seconds: float) -> float | None:
    """Until when prices are known without a gap; None where the moment itself has none."""
    first = known.at(from_seconds)
    if first is None:
        return None
    until = first.end_seconds
    while (following := known.at(until)) is not None:
        until = following.end_seconds
    return until


def _load(cache: Path, identity: str, unit: str) -> tuple[tuple[PriceInterval, ...], list[float]]:
    """The cached prices of this identity and unit, and when the service was asked in the last day; nothing where the file
    is missing, damaged or of another identity."""
    try:
        document = json.loads(cache.read_text(encoding="utf-8"))
        if (document["layout"], document["identity"], document["unit"]) != (_CACHE_LAYOUT, identity, unit):
            return (), []
        found = tuple(
            PriceInterval(
                _finite(start),
                _finite(end),
                _finite(price),
                PriceState(state),
                tuple((_finite(beyond), _finite(difference)) for beyond, difference in (steps[0] if steps else ())),
            )
            for start, end, price, state, *steps in document["intervals"]
        )
        return PriceCurve.from_intervals(found).intervals, sorted(map(_finite, document.get("asked", [])))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return (), []


def _finite(value: float) -> float:
    """A number of the cache. Raises ValueError for NaN and infinity, which would spoil every sum."""
    number = float(value)
    if not isfinite(number):
        raise ValueError(f"{number} is not finite")
    return number
