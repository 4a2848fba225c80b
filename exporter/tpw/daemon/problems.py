"""Problems of scans in the log: each once, though it comes and goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog

_log = structlog.get_logger("tpw")

SAME_PROBLEM_SECONDS = 3600.0
"""A problem that comes back within this time is the same one, and is not logged again."""


class ProblemLog:
    """Logs problems.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen_seconds: dict[str, float] = {}

    def report(self, problems: Iterable[str]) -> None:
        """The problems of one scan, each a sentence."""
        now = self._clock()
        self._seen_seconds = {
            problem: seen for problem, seen in self._seen_seconds.items() if now - seen <= SAME_PROBLEM_SECONDS
        }
        for problem in problems:
            if problem not in self._seen_seconds:
                _log.warning("scan_incomplete", detail=problem)
            self._seen_seconds[problem] = now
