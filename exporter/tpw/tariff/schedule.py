"""When to fetch a feed: after it has published, with back-off after failures, and no more often than needed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from tpw.model import Reason

HOUR_SECONDS = 3600.0
DAILY_LIMIT = 40
"""Requests to a service in 24 hours: enough to find a late publication, for a fleet that shares its servers with others."""
JITTER_SHARE = 0.25
"""The most that jitter adds to an interval, as a share of it. Chosen to spread a fleet's requests over minutes where one
service has failed for all of it, while a retry stays close to its interval."""
PENDING_SHARE = 1 / 6
"""A publication that is late is asked for again after this share of its delay: every ten minutes in the first hour, every
hour after six."""


@dataclass(frozen=True, slots=True)
class Publication:
    """A feed publishes the prices of the next local day at a time of day."""

    timezone: str
    at: time
    """Local time from which tomorrow's prices can be expected."""
    until: time = time()
    """Local time at which the prices of a day end; 00:00 is the midnight after it."""

    def end_of(self, day: date, zone: ZoneInfo) -> float:
        """When the prices of a local day end, Unix seconds."""
        return datetime.combine(day + timedelta(days=self.until == time()), self.until, zone).timestamp()


@dataclass(frozen=True, slots=True)
class Schedule:
    """How often a feed is fetched. ``jitter`` in [0, 1) spreads the requests of a fleet."""

    publication: Publication | None = None
    """None: the feed has no time of publication and is fetched every ``refresh_seconds``."""
    refresh_seconds: float = 6 * HOUR_SECONDS
    """Interval while every price is known, for corrections."""
    pending_seconds: float = 600.0
    """Interval while a publication is awaited, and the most that jitter delays the first request for it. Day-ahead auctions
    are rarely late by more than an hour: after that, the interval grows with the delay."""
    min_backoff_seconds: float = 60.0
    """Interval after the first failure; it doubles with each further one."""
    max_backoff_seconds: float = HOUR_SECONDS
    jitter: float = 0.0
    daily_limit: int | None = DAILY_LIMIT
    """The most requests in 24 hours, whatever happens. None: the source is the operator's own."""

    def wanted_until(self, now_seconds: float) -> float:
        """Until when prices should be known now."""
        if self.publication is None:
            return now_seconds
        zone = ZoneInfo(self.publication.timezone)
        now = datetime.fromtimestamp(now_seconds, UTC).astimezone(zone)
        delay = timedelta(seconds=self.pending_seconds * self.jitter)
        published = datetime.combine(now.date(), self.publication.at, zone) + delay
        return self.publication.end_of(now.date() + timedelta(days=now >= published), zone)

    def pending_wait(self, unmet_seconds: float) -> float:
        """Interval while a publication is awaited that was first found missing so many seconds ago."""
        if self.daily_limit is None:
            return self.pending_seconds
        return min(max(self.pending_seconds, unmet_seconds * PENDING_SHARE), max(self.pending_seconds, HOUR_SECONDS))


@dataclass(frozen=True, slots=True)
class Attempts:
    """The result of the requests so far."""

    last_at_seconds: float | None = None
    failures: int = 0
    """In a row."""
    last_reason: Reason | None = None
    unmet_since_seconds: float | None = None
    """Time of the first of the last answers that lacked something that should have been published."""
    retry_after_seconds: float = 0.0
    """How long the service asked to wait."""

    def succeeded(self, at_seconds: float, *, is_complete: bool = True) -> Attempts:
        """After a good answer, with everything that should have been published or not."""
        return Attempts(at_seconds, unmet_since_seconds=None if is_complete else self._unmet_since(at_seconds))

    def failed(self, at_seconds: float, reason: Reason, retry_after_seconds: float = 0.0) -> Attempts:
        """After a failure. A feed that has not published yet has not failed."""
        is_failure = reason is not Reason.NOT_YET
        unmet_since = self.unmet_since_seconds if is_failure else self._unmet_since(at_seconds)
        return Attempts(at_seconds, self.failures + is_failure, reason, unmet_since, retry_after_seconds)

    def _unmet_since(self, at_seconds: float) -> float:
        return at_seconds if self.unmet_since_seconds is None else self.unmet_since_seconds


def is_due(schedule: Schedule, attempts: Attempts, now_seconds: float, covered_until_seconds: float | None) -> bool:
    """Whether to fetch now. Prices are known without a gap from now to ``covered_until_seconds``; None: not even now."""
    if attempts.last_at_seconds is None:
        return True
    since = now_seconds - attempts.last_at_seconds
    if since < 0:
        return True  # the clock was set back
    unmet = attempts.last_at_seconds - (attempts.unmet_since_seconds or attempts.last_at_seconds)
    if attempts.last_reason is Reason.NOT_YET:
        wait = schedule.pending_wait(unmet)
    elif attempts.failures:
        doublings = min(attempts.failures - 1, 16)  # bounds the power, not the wait
        wait = min(schedule.min_backoff_seconds * 2.0**doublings, schedule.max_backoff_seconds)
    elif covered_until_seconds is None or covered_until_seconds < schedule.wanted_until(now_seconds):
        wait = schedule.pending_wait(unmet)
    else:
        wait = schedule.refresh_seconds
    return since >= max(wait, attempts.retry_after_seconds) * (1 + JITTER_SHARE * schedule.jitter)
