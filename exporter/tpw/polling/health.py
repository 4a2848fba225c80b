"""The health of one source: its reads, its failures, whether it is up, and when it is tried again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from random import random
from typing import TypeVar

import structlog

from tpw.model import Reason, SourceError, SourceStatus
from tpw.power import Clock

_T = TypeVar("_T")

log = structlog.get_logger("tpw.source")

Jitter = Callable[[], float]
"""Returns numbers from 0 to 1."""

JITTER: Jitter = random

_UNAVAILABLE = frozenset({Reason.ABSENT, Reason.UNSUPPORTED, Reason.PERMISSION})
"""Failures of the first try on a machine that lacks the source, or denies access to it."""


class SourceHealth:
    """Record of one source. Logs when the source goes down or up, and never in between.

    An optional source that the machine lacks is not down but omitted (see :attr:`is_omitted`), so that a meter that was
    only tried as a default raises no alert. After its first reading it is a source like any other.

    Args:
        name: of the source in metrics and logs, e.g. ``nvml`` or ``server:chat``.
        clock: monotonic seconds, for durations.
        wall: Unix time, for the last success.
        reads: reads before this process, from the books.
        failures: failures before this process by reason, from the books.
        optional: whether the source is only tried as a default.
    """

    __slots__ = (
        *("_clock", "_down", "_duration", "_failures", "_last_success", "_optional", "_reads", "_up", "_wall"),
        "name",
    )

    def __init__(
        self,
        name: str,
        *,
        clock: Clock = time.monotonic,
        wall: Callable[[], float] = time.time,
        reads: int = 0,
        failures: Mapping[str, int] | None = None,
        optional: bool = False,
    ) -> None:
        self.name = name
        self._clock = clock
        self._wall = wall
        self._reads = reads
        self._failures: dict[str, int] = dict(failures or {})
        # More reads than failures: it has given readings. Failures of single GPUs can hide that until the next reading.
        self._optional = optional and reads <= sum(self._failures.values())
        self._duration: float | None = None
        self._last_success: float | None = None
        self._up: bool | None = None
        self._down: SourceError | None = None

    def read(self, call: Callable[[], _T]) -> _T:
        """Run and record one read. Raises SourceError, with reason INTERNAL for a bug in the source."""
        start = self._clock()
        outcome = attempt(call)
        if isinstance(outcome, SourceError):
            self.failed(outcome, self._clock() - start)
            raise outcome
        self.succeeded(self._clock() - start)
        return outcome

    def succeeded(self, duration_seconds: float) -> None:
        """Record a read that gave a reading."""
        self._reads += 1
        self._duration = duration_seconds
        self._last_success = self._wall()
        if not self._up:
            log.info("source_up", source=self.name)
        self._up = True
        self._down = None
        self._optional = False

    def failed(self, error: SourceError, duration_seconds: float | None = None) -> None:
        """Record a read that gave no reading."""
        self._reads += 1
        self.count(error.reason)
        if duration_seconds is not None:
            self._duration = duration_seconds
        changed = self._down is None or self._down.reason is not error.reason
        self._up = False
        self._down = error
        if changed:
            # A denied permission can be granted: worth a warning even where a missing source is not.
            write = log.info if self.is_omitted and error.reason is not Reason.PERMISSION else log.warning
            event = "source_omitted" if self.is_omitted else "source_down"
            write(event, source=self.name, reason=error.reason.value, detail=error.detail, hint=error.hint)

    @property
    def is_omitted(self) -> bool:
        """Whether it is optional, has never given a reading, and is unavailable on this machine. A source that is present
        but does not work is down."""
        return self._optional and self._down is not None and self._down.reason in _UNAVAILABLE

    def add(self, reads: int, failures: Mapping[str, int]) -> None:
        """Add counts of before."""
        self._reads += reads
        for reason, count in failures.items():
            self._failures[reason] = self._failures.get(reason, 0) + count

    def count(self, reason: Reason) -> None:
        """Count the failure of a part (one GPU of many). The source stays up."""
        self._failures[reason.value] = self._failures.get(reason.value, 0) + 1

    def status(self) -> SourceStatus:
        """The record as it is now."""
        down = self._down
        return SourceStatus(
            name=self.name,
            up=bool(self._up),
            read_duration_seconds=self._duration,
            last_success_wall_seconds=self._last_success,
            reads=self._reads,
            failures=tuple(sorted(self._failures.items())),
            detail="" if down is None else down.detail,
            hint="" if down is None else down.hint,
        )


def attempt(call: Callable[[], _T]) -> _T | SourceError:
    """The result of a read, or why there is none. The only place that catches everything: a bug in a source must neither
    end the daemon nor cost other sources a reading, so it becomes a failure of that source (reason INTERNAL)."""
    try:
        return call()
    except SourceError as error:
        return error
    except Exception as error:
        log.exception("source_bug")
        return SourceError(
            Reason.INTERNAL,
            f"bug in the exporter: {type(error).__name__}: {error}",
            "Please report it with this log.",
        )


class BackOff:
    """When to try again after failures: waits that double.

    Args:
        first_seconds: after the first failure.
        most_seconds: the longest wait.
        random: jitter of +-20 %, so that the exporters of a fleet do not retry in the same second.
    """

    __slots__ = ("_due_at", "_failures", "_first", "_most", "_random")

    def __init__(self, first_seconds: float, most_seconds: float, random: Jitter = JITTER) -> None:
        self._first = first_seconds
        self._most = most_seconds
        self._random = random
        self._failures = 0
        self._due_at = float("-inf")

    def failed(self, now: float, at_least_seconds: float = 0.0) -> None:
        """One more failure: wait from now on (monotonic seconds)."""
        wait = min(self._most, self._first * 2.0 ** min(self._failures, 30)) * (0.8 + 0.4 * self._random())
        self._failures += 1
        self._due_at = now + max(at_least_seconds, wait)

    def is_due(self, now: float) -> bool:
        """Whether the wait is over."""
        return now >= self._due_at

    def retry_now(self) -> None:
        """End the wait; the next one is still longer."""
        self._due_at = float("-inf")

    def reset(self) -> None:
        """A try succeeded."""
        self._failures = 0
        self.retry_now()
