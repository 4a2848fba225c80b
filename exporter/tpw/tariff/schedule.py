"""When to ask a feed again: after it has published, with some patience, and not more often than it likes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from tpw.model import Reason

HOUR_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Publication:
    """A feed that publishes the prices of the next local day at a time of day."""

    timezone: str
    at: time
    """Local time from which tomorrow's prices can be expected."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How often to ask. ``jitter`` in [0, 1) spreads the askers, so that a fleet does not ask in one second."""

    publication: Publication | None = None
    """None: the feed says what it knows at any time, and is asked every ``every_seconds``."""
    every_seconds: float = 6 * HOUR_SECONDS
    """Ask at least this often, for corrections."""
    patience_seconds: float = 600.0
    """After "not yet", and the most that jitter adds."""
    first_retry_seconds: float = 60.0
    last_retry_seconds: float = HOUR_SECONDS
    jitter: float = 0.0

    def wanted_until(self, now_seconds: float) -> float:
        """Until when prices should be known by now."""
        if self.publication is None:
            return now_seconds
        zone = ZoneInfo(self.publication.timezone)
        now = datetime.fromtimestamp(now_seconds, UTC).astimezone(zone)
        delay = timedelta(seconds=self.patience_seconds * self.jitter)
        published = datetime.combine(now.date(), self.publication.at, zone) + delay
        days = 2 if now >= published else 1
        return datetime.combine(now.date() + timedelta(days=days), time(), zone).timestamp()


@dataclass(frozen=True, slots=True)
class Attempts:
    """What became of asking so far."""

    last_at_seconds: float | None = None
    last_good_at_seconds: float | None = None
    failures: int = 0
    """In a row."""
    last_reason: Reason | None = None

    def succeeded(self, at_seconds: float) -> Attempts:
        """After a good answer."""
        return Attempts(at_seconds, at_seconds)

    def failed(self, at_seconds: float, reason: Reason) -> Attempts:
        """After a bad one. A feed that has not published yet has not failed."""
        failures = self.failures if reason is Reason.NOT_YET else self.failures + 1
        return Attempts(at_seconds, self.last_good_at_seconds, failures, reason)


def is_due(schedule: Schedule, attempts: Attempts, now_seconds: float, covered_until_seconds: float | None) -> bool:
    """Whether to ask now.

    ``covered_until_seconds`` is until when prices are known without a gap from now on; None: not even now.
    """
    if attempts.last_at_seconds is None:
        return True
    since = now_seconds - attempts.last_at_seconds
    if since < 0:
        return True  # the clock was set back
    spread = 1 + 0.25 * schedule.jitter
    if attempts.last_reason is Reason.NOT_YET:
        return since >= schedule.patience_seconds * spread
    if attempts.failures:
        wait = min(schedule.first_retry_seconds * 2.0 ** min(attempts.failures - 1, 16), schedule.last_retry_seconds)
        return since >= wait * spread
    if covered_until_seconds is None or covered_until_seconds < schedule.wanted_until(now_seconds):
        return since >= schedule.patience_seconds * spread
    return since >= schedule.every_seconds * spread
