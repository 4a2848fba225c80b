"""Reads many inference servers at once, so that a slow one delays nobody.

Long-lived threads take servers from one queue. There is one thread as long as one is enough; another joins when servers
wait while all threads are busy, and never more than there are servers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

from tpw.model import Reason, ServerFault, ServerReading, SourceError, SourceStatus
from tpw.polling.health import JITTER, BackOff, Jitter, SourceHealth, outcome_of
from tpw.power import Clock
from tpw.tokens import TokenSource

PATIENCE_SECONDS = 0.02
"""How long servers may wait for a thread before another one is started."""

_SLOW = frozenset(
    {Reason.ABSENT, Reason.DISABLED, Reason.UNAUTHORIZED, Reason.PERMISSION, Reason.UNSUPPORTED, Reason.MALFORMED}
)
"""What somebody must change by hand first: asked again every 15 to 30 s. All else passes by itself: 1 to 5 s."""


class _Server:
    """One source and when to read it next."""

    __slots__ = ("due_at", "health", "in_flight", "late", "removed", "slow", "source", "transient")

    def __init__(self, source: TokenSource, health: SourceHealth, random: Jitter) -> None:
        self.source = source
        self.health = health
        self.in_flight = False
        self.late = False
        self.removed = False
        self.due_at = float("-inf")
        self.slow = BackOff(15.0, 30.0, random)
        self.transient = BackOff(1.0, 5.0, random)

    def wait_after(self, reason: Reason) -> float:
        return self.slow.next_seconds() if reason in _SLOW else self.transient.next_seconds()

    def worked(self) -> None:
        self.due_at = float("-inf")
        self.slow.reset()
        self.transient.reset()


_Result = tuple[_Server, ServerReading | SourceError, float]


class TokenPoller:
    """Polls token sources. All methods are called from one thread (the tick).

    Args:
        sources: what to poll at first; see :meth:`set_sources`.
        clock: monotonic seconds.
        health_of: makes the bookkeeping of a source, by its name, with the counts that survive the process.
        random: jitter of the back-offs.
    """

    def __init__(
        self,
        sources: Sequence[TokenSource] = (),
        clock: Clock = time.monotonic,
        *,
        health_of: Callable[[str], SourceHealth] | None = None,
        random: Jitter = JITTER,
    ) -> None:
        self._clock = clock
        self._random = random
        self._health_of = health_of or (lambda name: SourceHealth(name, clock=clock))
        self._servers: dict[str, _Server] = {}
        self._tasks: SimpleQueue[_Server | None] = SimpleQueue()
        self._results: SimpleQueue[_Result] = SimpleQueue()
        self._drained = threading.Event()
        """Set by a thread that has ended a read and finds no other to begin."""
        self._threads: list[threading.Thread] = []
        self._in_flight = 0
        self.set_sources(sources)

    def set_sources(self, sources: Sequence[TokenSource]) -> None:
        """Poll these from now on. A source object that is there already goes on as it was; one that is left out is
        closed, once its read has ended."""
        kept: dict[str, _Server] = {}
        for source in sources:
            server = self._servers.get(source.name)
            if server is None or server.source is not source:
                health = server.health if server is not None else self._health_of(f"server:{source.name}")
                server = _Server(source, health, self._random)
            kept[source.name] = server
        for server in self._servers.values():
            if kept.get(server.source.name) is not server:
                server.removed = True
                if not server.in_flight:
                    server.source.close()
        self._servers = kept

    def begin(self) -> None:
        """Start a read of every server that is due and not being read."""
        now = self._clock()
        stuck = self._in_flight
        for server in self._servers.values():
            if server.in_flight:
                server.late = True
            elif server.due_at <= now:
                server.in_flight = True
                server.late = False
                self._in_flight += 1
                self._tasks.put(server)
        if self._in_flight > stuck:
            while len(self._threads) <= stuck:  # every read that is stuck holds a thread
                self._reinforce()

    def finish(self, deadline_seconds: float) -> list[ServerReading | ServerFault]:
        """What has ended by this monotonic instant, late reads of earlier looks included. Returns earlier when all reads
        of this look have ended."""
        ended: list[ServerReading | ServerFault] = []
        while True:
            while True:
                try:
                    self._take(self._results.get_nowait(), ended)
                except Empty:
                    break
            now = self._clock()
            if now >= deadline_seconds or all(not s.in_flight or s.late for s in self._servers.values()):
                return ended
            crowded = self._in_flight > len(self._threads)
            patience = PATIENCE_SECONDS if crowded else deadline_seconds - now
            # One wake-up for all servers that are quick: waking for each costs more than reading them.
            woken = self._drained.wait(min(patience, deadline_seconds - now))
            self._drained.clear()
            if crowded and not woken:
                self._reinforce()

    def statuses(self) -> tuple[SourceStatus, ...]:
        """How the servers stand, in the order in which they were given."""
        return tuple(server.health.status() for server in self._servers.values())

    def close(self) -> None:
        """End the threads and drop the connections. A read that is still running ends by its own timeout."""
        self.set_sources(())
        for _ in self._threads:
            self._tasks.put(None)
        self._threads = []

    def _take(self, result: _Result, ended: list[ServerReading | ServerFault]) -> None:
        server, outcome, duration = result
        server.in_flight = False
        self._in_flight -= 1
        if server.removed:
            server.source.close()
            return
        if isinstance(outcome, SourceError):
            now = self._clock()
            server.health.failed(outcome, duration)
            server.due_at = now + server.wait_after(outcome.reason)
            ended.append(ServerFault(server.source.name, now, outcome.reason, outcome.detail))
        else:
            server.health.succeeded(duration)
            server.worked()
            ended.append(outcome)

    def _reinforce(self) -> None:
        thread = threading.Thread(target=self._work, name=f"token-poller-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while True:
            server = self._tasks.get()
            if server is None:
                return
            start = self._clock()
            outcome = outcome_of(server.source.read)
            self._results.put((server, outcome, self._clock() - start))
            if self._tasks.empty():
                self._drained.set()
