"""Prices that somebody publishes: asked for when they can be expected, kept on disk, never guessed.

A :class:`Feed` is the patience around a :class:`Reader`, which knows one service and nothing of time. What was read once
is kept: yesterday's prices are still needed when joules arrive late, and a feed that is down changes nothing that is
known already.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Protocol

from tpw.model import PriceInterval, PriceState, Reason, SourceError
from tpw.tariff import FeedContext
from tpw.tariff.curve import PriceCurve
from tpw.tariff.sanity import refuse_implausible
from tpw.tariff.schedule import Attempts, Schedule, is_due
from tpw.tariff.spans import clipped, merged, overlaid

DAY_SECONDS = 86400.0
KEPT_SECONDS = 45 * DAY_SECONDS
"""A billing month and what comes late."""
LOOK_BACK_SECONDS = 8 * DAY_SECONDS
"""History that is fetched for joules that were used while the daemon was down."""
LOOK_AHEAD_SECONDS = 2.5 * DAY_SECONDS

_CACHE_LAYOUT = 1

Judge = Callable[[Sequence[PriceInterval], Sequence[PriceInterval]], None]


class Reader(Protocol):
    """Knows one service."""

    @property
    def name(self) -> str:
        """Kind of the source."""

    @property
    def identity(self) -> str:
        """What exactly is read (service, area, tariff): prices of another identity are not ours."""

    def read(self, start_seconds: float, end_seconds: float) -> Sequence[PriceInterval]:
        """Everything the service knows of [start, end), ordered and disjoint; may say more than was asked. Raises
        SourceError; reason NOT_YET where nothing is published for the range."""


class PriceBounds(Protocol):
    """The settings of a feed's prices."""

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
) -> Feed:
    """A feed of prices per kWh in a currency, checked for plausibility."""
    max_price = bounds.max_price_per_kwh if bounds is not None else None
    return Feed(
        reader,
        clock=context.clock,
        unit=currency or "",
        schedule=schedule,
        judge=partial(refuse_implausible, currency=currency or "", max_price_per_kwh=max_price),
        cache=cache,
        fallback_price_per_kwh=bounds.fallback_price_per_kwh if bounds is not None else None,
    )


class Feed:
    """A price source around a reader.

    Args:
        reader: knows the service.
        clock: Unix time.
        unit: of the numbers per kWh, usually the currency: numbers kept in another unit are not ours.
        schedule: when to ask.
        cache: file that keeps the prices over a restart; None keeps them in memory.
        judge: raises SourceError for fresh intervals (first argument) that cannot be, given those known before.
        fallback_price_per_kwh: price, marked as a fallback, for time for which none is known. None leaves it unpriced.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        clock: Callable[[], float],
        unit: str,
        schedule: Schedule,
        judge: Judge,
        cache: Path | None = None,
        fallback_price_per_kwh: float | None = None,
    ) -> None:
        self.name = reader.name
        self.trouble: SourceError | None = None
        """Why the last question had no good answer; None while all is well. Prices known from before still hold."""
        self._reader = reader
        self._clock = clock
        self._unit = unit
        self._schedule = schedule
        self._cache = cache
        self._judge = judge
        self._fallback = fallback_price_per_kwh
        self._attempts = Attempts()
        self._asked_from = float("inf")
        self._known = PriceCurve.of(_load(cache, reader.identity, unit)) if cache is not None else PriceCurve()

    def intervals(self, start_seconds: float, end_seconds: float) -> tuple[PriceInterval, ...]:
        """Known prices, asking the service first where that is due. Raises the SourceError of the service where
        nothing at all is known of the range."""
        now = self._clock()
        if self._is_due(start_seconds, now):
            self._ask(start_seconds, now)
        found = clipped(self._known.intervals, start_seconds, end_seconds)
        if self._fallback is not None and end_seconds > start_seconds:
            gap = PriceInterval(start_seconds, end_seconds, self._fallback, PriceState.FALLBACK)
            return overlaid(found, (gap,))
        if not found and self.trouble is not None and end_seconds > start_seconds:
            raise self.trouble
        return found

    def _is_due(self, start_seconds: float, now: float) -> bool:
        covered_until = _covered_until(self._known, now)
        if is_due(self._schedule, self._attempts, now, covered_until):
            return True
        # Once for every stretch of the past that is wanted and was never asked for.
        wanted_from = max(start_seconds, now - LOOK_BACK_SECONDS)
        is_past_missing = wanted_from < now and (_covered_until(self._known, wanted_from) or wanted_from) < now
        return is_past_missing and wanted_from < self._asked_from and self._attempts.failures == 0

    def _ask(self, start_seconds: float, now: float) -> None:
        asked_from = min(max(start_seconds, now - LOOK_BACK_SECONDS), now)
        covered_until = _covered_until(self._known, asked_from)
        if covered_until is not None and covered_until >= now:
            asked_from = now
        asked_from = asked_from // DAY_SECONDS * DAY_SECONDS
        try:
            fresh = merged(self._reader.read(asked_from, now + LOOK_AHEAD_SECONDS))
            PriceCurve.of(fresh)
            recent = [each for each in self._known.intervals if each.end_seconds > now - 3 * DAY_SECONDS]
            self._judge(fresh, recent)
        except SourceError as error:
            self._fail(error, now)
            return
        except ValueError as error:
            self._fail(SourceError(Reason.MALFORMED, f"{self._reader.identity}: {error}"), now)
            return
        self._asked_from = min(self._asked_from, asked_from)
        kept = overlaid(fresh, self._known.intervals)
        self._known = PriceCurve.of(clipped(kept, now - KEPT_SECONDS, float("inf")))
        if self._known.at(now) is None:
            self._fail(SourceError(Reason.NOT_YET, f"{self._reader.identity} knows no price for now"), now)
        else:
            self.trouble = None
            self._attempts = self._attempts.succeeded(now)
        self._save()

    def _fail(self, error: SourceError, now: float) -> None:
        self.trouble = error
        self._attempts = self._attempts.failed(now, error.reason)
        if error.reason is Reason.NOT_YET and self._known.at(now) is not None:
            self.trouble = None  # tomorrow is not out yet, and now is known: all is well

    def _save(self) -> None:
        if self._cache is None:
            return
        rows = [
            [
                each.start_seconds,
                each.end_seconds,
                each.price_per_kwh,
                each.state,
                *([each.steps] if each.steps else []),
            ]
            for each in self._known.intervals
        ]
        document = {
            "layout": _CACHE_LAYOUT,
            "identity": self._reader.identity,
            "unit": self._unit,
            "intervals": rows,
        }
        temporary = self._cache.with_suffix(".new")
        with contextlib.suppress(OSError):  # a cache that cannot be written costs a question after the next restart
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(document), encoding="utf-8")
            os.replace(temporary, self._cache)  # noqa: PTH105 - atomic on purpose


def _covered_until(known: PriceCurve, from_seconds: float) -> float | None:
    """Until when prices are known without a gap; None where not even the moment itself is."""
    first = known.at(from_seconds)
    if first is None:
        return None
    until = first.end_seconds
    while (following := known.at(until)) is not None:
        until = following.end_seconds
    return until


def _load(cache: Path, identity: str, unit: str) -> tuple[PriceInterval, ...]:
    """What the cache holds for this identity; nothing where it is missing, broken or somebody else's."""
    try:
        document = json.loads(cache.read_text(encoding="utf-8"))
        if (document["layout"], document["identity"], document["unit"]) != (_CACHE_LAYOUT, identity, unit):
            return ()
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
        return PriceCurve.of(found).intervals
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return ()


def _finite(value: float) -> float:
    """A number of the cache. Raises ValueError for one that would make every sum it enters none."""
    number = float(value)
    if not isfinite(number):
        raise ValueError(f"{number} is no time and no price")
    return number
