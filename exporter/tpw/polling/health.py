"""The health of one source: how often it was read, how often in vain, since when it is down, and why."""

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
"""Gives numbers from 0 to 1."""

JITTER: Jitter = random


_NOT_HERE = frozenset({Reason.ABSENT, Reason.UNSUPPORTED, Reason.PERMISSION})
"""What a machine that has no such thing, or does not let us have it, answers from the first try on."""


class SourceHealth:
    """Bookkeeping of one source, of whatever kind. Logs when the source goes down or comes back, and never in between.

    An optional source that a machine does not have is not down: it is left out (see :attr:`is_omitted`), so that nobody is
    called for a meter that nobody asked for. Once it has given a reading it is a source as any other.

    Args:
        name: of the source in metrics and logs, e.g. ``nvml`` or ``server:chat``.
        clock: monotonic seconds, for durations.
        wall: Unix time, for the last success.
        reads: reads before this process, from the books.
        failures: failures before this process by reason, from the books.
        optional: whether it is only tried because it is a default.
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
        # Reads beyond the failures gave readings. (GPUs that failed one by one may hide that; then it shows at the next.)
        self._optional = optional and reads <= sum(self._failures.values())
        self._duration: float | None = None
        self._last_success: float | None = None
        self._up: bool | None = None
        self._down: SourceError | None = None

    def read(self, look: Callable[[], _T]) -> _T:
        """Run one read and keep account of it. Raises SourceError, also (reason INTERNAL) for a bug in the source."""
        start = self._clock()
        outcome = outcome_of(look)
        if isinstance(outcome, SourceError):
            self.failed(outcome, self._clock() - start)
            raise outcome
        self.succeeded(self._clock() - start)
        return outcome

    def succeeded(self, duration_seconds: float) -> None:
        """A read gave a reading."""
        self._reads += 1
        self._duration = duration_seconds
        self._last_success = self._wall()
        if not self._up:
            log.info("source_up", source=self.name)
        self._up = True
        self._down = None
        self._optional = False

    def failed(self, error: SourceError, duration_seconds: float | None = None) -> None:
        """A read gave none."""
        self._reads += 1
        self.counted(error.reason)
        if duration_seconds is not None:
            self._duration = duration_seconds
        is_news = self._down is None or self._down.reason is not error.reason
        self._up = False
        self._down = error
        if is_news:
            # What is forbidden can be allowed: worth a warning where what is not there is not.
            tell = log.info if self.is_omitted and error.reason is not Reason.PERMISSION else log.warning
            event = "source_omitted" if self.is_omitted else "source_down"
            tell(event, source=self.name, reason=error.reason.value, detail=error.detail, hint=error.hint)

    @property
    def is_omitted(self) -> bool:
        """Whether it is optional, has never given a reading, and cannot be had on this machine: no source of it, then, and
        no fault. One that is there and does not work is a fault all the same."""
        return self._optional and self._down is not None and self._down.reason in _NOT_HERE

    def counted(self, reason: Reason) -> None:
        """A part of the source (one GPU of many) failed: counted, but the source is not down for it."""
        self._failures[reason.value] = self._failures.get(reason.value, 0) + 1

    def status(self) -> SourceStatus:
        """How it stands now."""
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


def outcome_of(look: Callable[[], _T]) -> _T | SourceError:
    """What a read gave, or why it gave nothing. The one place where everything is caught: a bug in a source must neither
    end the daemon nor cost the other sources a reading, so it becomes a failure of that source (reason INTERNAL)."""
    try:
        return look()
    except SourceError as error:
        return error
    except Exception as error:
        log.exception("source_bug")
        return SourceError(
            Reason.INTERNAL,
            f"a bug in the exporter: {type(error).__name__}: {error}",
            "Please report it with this log.",
        )


class BackOff:
    """Waiting times that double, with a jitter so that a fleet does not knock in step.

    Args:
        first_seconds: after the first failure.
        most_seconds: never longer.
        random: source of the jitter, which is +-20 %.
    """

    __slots__ = ("_failures", "_first", "_most", "_random")

    def __init__(self, first_seconds: float, most_seconds: float, random: Jitter = JITTER) -> None:
        self._first = first_seconds
        self._most = most_seconds
        self._random = random
        self._failures = 0

    def next_seconds(self) -> float:
        """How long to wait after one more failure."""
        wait = min(self._most, self._first * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return wait * (0.8 + 0.4 * self._random())

    def reset(self) -> None:
        """It worked."""
        self._failures = 0
