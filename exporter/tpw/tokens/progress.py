"""Tokens of running requests, for an engine with an output counter that moves only when a request ends.

Such an engine's counter C is constant while a request runs, and rises by all its tokens when it ends. If the engine also
lists the tokens of each running request, C plus the listed tokens moves at every read and equals C when no request runs:
nothing has to be reconciled. The counter is read first, the list after it. A request that ends in between is missing from
one read and is never counted twice.

Whether C does rise by the listed tokens is checked at every request that ends. If it does not (a build that drops the
tokens of clients that disconnect), running requests of that server are ignored for an hour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tpw.http.client import Client
from tpw.http.messages import json_of
from tpw.model import Cadence, InFlight, Role, SourceError
from tpw.tokens.dialects import Dialect, Progress
from tpw.tokens.lookups import RETRY_SECONDS, TIMEOUT_SECONDS
from tpw.tokens.page import HIGHEST
from tpw.tokens.reading import PageReading

Requests = Mapping[tuple[Any, ...], float]
"""Output tokens so far of each running request, by its identity."""

_AFTER_FAILURE_SECONDS = 10.0
_AFTER_MISMATCH_SECONDS = 3600.0
"""An hour: a build with this fault keeps it until it is replaced."""


class RunningRequests:
    """The list of running requests of one server.

    Args:
        client: the connection of the page.
        clock: monotonic seconds.
    """

    def __init__(self, client: Client, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._takeover = Takeover()
        self._paused_until = float("-inf")
        self.note = ""
        """Why running requests are not counted and which setting enables them; "" if they are."""

    def in_flight(
        self, dialect: Dialect, found: PageReading, page_path: str, deadline_seconds: float
    ) -> tuple[InFlight, ...]:
        """Output tokens that the counters of the page do not contain yet. Never raises."""
        output = [series for series in found.series if series.role is Role.OUTPUT]
        models = {series.model for series in output}
        if found.in_flight or dialect.progress is None or found.cadence is not Cadence.FINISH or len(models) != 1:
            return found.in_flight
        requests: Requests | None = {}
        if any(load.running for load in found.loads):
            requests = self._read(dialect.progress, page_path, deadline_seconds)
        if requests is None:
            self._takeover = Takeover()
            return ()
        if not self._takeover.holds(sum(series.value for series in output), requests):
            self.note = (
                f"{self._client.origin}: the output counter did not rise by the tokens of a request that ended, so tokens"
                " are counted when requests end"
            )
            self._paused_until = self._clock() + _AFTER_MISMATCH_SECONDS
            return ()
        tokens = sum(requests.values())
        return (InFlight(models.pop(), tokens),) if tokens else ()

    def _read(self, progress: Progress, page_path: str, deadline_seconds: float) -> Requests | None:
        """The running requests; None if they are unknown at this read."""
        now = self._clock()
        left = min(deadline_seconds - now, TIMEOUT_SECONDS)
        if now < self._paused_until or left <= 0:
            return None
        path = _relative(page_path, progress.path)
        try:
            answer = self._client.request(path, headers={"Accept": "application/json"}, timeout_seconds=left)
        except SourceError:
            # The page was read before: the server works, but this path must not delay every read.
            self._paused_until = self._clock() + _AFTER_FAILURE_SECONDS
            return None
        requests = requests_in(answer.body, progress) if answer.status == 200 else None
        if requests is not None:
            self.note = ""
            return requests
        problem = f"HTTP {answer.status}" if answer.status != 200 else "unexpected JSON"
        self.note = f"{self._client.origin}{path}: {problem}, so tokens are counted when requests end; {progress.note}"
        self._paused_until = self._clock() + RETRY_SECONDS
        return None


def requests_in(body: bytes, progress: Progress) -> Requests | None:
    """The running requests in a document; None if it has not the form that the row describes."""
    try:
        entries = json_of(body, progress.path)
    except SourceError:
        return None
    if not isinstance(entries, list):
        return None
    found: dict[tuple[Any, ...], float] = {}
    for entry in entries:
        if not isinstance(entry, dict):
            return None
        if entry.get(progress.busy) is not True:
            continue
        tokens = next(
            (value for value in (_number(entry, path) for path in progress.tokens) if value is not None), None
        )
        if tokens is None:
            return None
        found[tuple(entry.get(key) for key in progress.identity)] = tokens
    return found


def _number(entry: Any, path: tuple[str | int, ...]) -> float | None:
    value = entry
    try:
        for step in path:
            value = value[step]
    except (KeyError, IndexError, TypeError):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        return None
    return float(value) if value < HIGHEST else None


def _relative(page: str, path: str) -> str:
    """A path relative to the page's, with the page's query (a router's model)."""
    directory, mark, query = page.partition("?")
    return directory.rpartition("/")[0] + path + mark + query


class Takeover:
    """Checks that the counter rises by the listed tokens of every request that ends.

    ``holds`` must be called at every read.
    """

    __slots__ = ("_before", "_expected", "_from", "_requests")

    def __init__(self) -> None:
        self._before: float | None = None
        self._requests: Requests = {}
        self._expected = 0.0
        self._from = 0.0

    def holds(self, counter: float, requests: Requests) -> bool:
        """Whether the rule still holds at this read. A counter that fell is another process's: nothing is expected of
        it."""
        if self._before is None or counter < self._before:
            self._before, self._requests, self._expected = counter, requests, 0.0
            return True
        holds = True
        if self._expected:
            # Expected since the last read: this counter was read after those requests had ended.
            holds = counter - self._from >= self._expected
            self._expected = 0.0
        ended = sum(tokens for request, tokens in self._requests.items() if request not in requests)
        if ended and counter - self._before < ended:
            self._expected, self._from = ended, self._before
        self._before, self._requests = counter, requests
        return holds
