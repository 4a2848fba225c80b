"""When to fetch a feed: after it has published, with back-off after failures, and no more often than needed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from tpw.model import Reason

HOUR_SECONDS = 3600.0
JITTER_SHARE = 0.25
"""The most that jitter adds to an interval, as a share of it. Chosen to spread a fleet's requests over minutes where one
service has failed for all of it, while a retry stays close to its interval."""


@dataclass(frozen=True, slots=True)
class Publication:
    """A feed publishes the prices of the next local day at a time of day."""

    timezone: str
    at: time
    """Local time from which tomorrow's prices can be expected."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How often a feed is fetched. ``jitter`` in [0, 1) spreads the requests of a fleet."""

    publication: Publication | None = None
    """None: the feed has no time of publication and is fetched every ``refresh_seconds``."""
    refresh_seconds: float = 6 * HOUR_SECONDS
    """Interval while every price is known, for corrections."""
    pending_seconds: float = 600.0
    """Interval while a publication is awaited, and the most that jitter delays the first request for it. Day-ahead auctions
    are rarely late by more than an hour, and their services limit the number of requests."""
    min_backoff_seconds: float = 60.0
    """Interval after the first failure; it doubles with each further one."""
    max_backoff_seconds: float = HOUR_SECONDS
    jitter: float = 0.0

    def wanted_until(self, now_seconds: float) -> float:
        """Until when prices should be known now."""
        if self.publication is None:
            return now_seconds
        zone = ZoneInfo(self.publication.timezone)
        now = datetime.fromtimestamp(now_seconds, UTC).astimezone(zone)
        delay = timedelta(seconds=self.pending_seconds * self.jitter)
        published = datetime.combine(now.date(), self.publication.at, zone) + delay
        days = 2 if now >= published else 1
        return datetime.combine(now.date() + timedelta(days=days), time(), zone).timestamp()


@dataclass(frozen=True, slots=True)
class Attempts:
    """The result of the requests so far."""

    last_at_seconds: float | None = None
    failures: int = 0
    """In a row."""
    last_reason: Reason | None = None

    def succeeded(self, at_seconds: float) -> Attempts:
        """After a good answer."""
        return Attempts(at_seconds)

    def failed(self, at_seconds: float, reason: Reason) -> Attempts:
        """After a failure. A feed that has not published yet has not failed."""
        return Attempts(at_seconds, self.failures + (reason is not Reason.NOT_YET), reason)


def is_due(schedule: Schedule, attempts: Attempts, now_seconds: float, covered_until_seconds: float | None) -> bool:
    """Whether to fetch now. Prices are known without a gap from now to ``covered_until_seconds``; None: not even now."""
    if attempts.last_at_seconds is None:
        return True
    since = now_seconds - attempts.last_at_seconds
    if since < 0:
        return True  # the clock was set back
    if attempts.last_reason is Reason.NOT_YET:
        wait = schedule.pending_seconds
    elif attempts.failures:
        doublings = min(attempts.failures - 1, 16)  # bounds the power, not the wait
        wait = min(schedule.min_backoff_seconds * 2.0**doublings, schedule.max_backoff_seconds)
    elif covered_until_seconds is None or covered_until_seconds < schedule.wanted_until(now_seconds):
        wait = schedule.pending_seconds
    else:
        wait = schedule.refresh_seconds
    return since >= wait * (1 + JITTER_SHARE * schedule.jitter)
