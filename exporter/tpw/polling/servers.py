"""Reads many inference servers at once, so that a slow one delays no other.

Threads take servers from one queue. Another thread starts only when, at the present rate, the servers that wait will not
all be read by the deadline, and there are never more threads than servers. Threads that were not needed for a while end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

from tpw.model import Reason, ServerFault, ServerReading, SourceError, SourceStatus, server_source
from tpw.polling.health import JITTER, BackOff, Jitter, SourceHealth, attempt
from tpw.power import Clock
from tpw.tokens import TokenSource

PATIENCE_SECONDS = 0.02
"""After how long it is judged whether another thread is needed. Tuning: above the 1 to 5 ms of a quick page, far below a
tick."""

_MANY_THREADS = 8
"""From here on it is judged more and more slowly: where nothing ends, the whole machine may be busy. Tuning: a few servers
that hang delay the others by less than a tick."""

SPARE_TICKS = 5
"""A quarter of the threads ends after so many ticks in which all reads ended in half the time. Tuning: starting a thread is
cheap, but each that is kept costs 0.1 MiB, and the more there are, the more they wait for the interpreter's lock."""

_SLOW = frozenset({Reason.ABSENT, Reason.DISABLED, Reason.UNAUTHORIZED, Reason.PERMISSION, Reason.UNSUPPORTED})
"""Failures that end only when a person changes something: retried after 15 to 30 s. A malformed page may have been cut
off, or be another service's: retried after 2 s at first, then after up to 30 s. All others after 1 to 5 s."""


class _Server:
    """One source and when to read it next."""

    __slots__ = ("health", "in_flight", "late", "malformed", "removed", "slow", "source", "transient")

    def __init__(self, source: TokenSource, health: SourceHealth, random: Jitter) -> None:
        self.source = source
        self.health = health
        self.in_flight = False
        self.late = False
        self.removed = False
        self.slow = BackOff(15.0, 30.0, random)
        self.malformed = BackOff(2.0, 30.0, random)
        self.transient = BackOff(1.0, 5.0, random)

    def is_due(self, now: float) -> bool:
        return all(back_off.is_due(now) for back_off in (self.slow, self.malformed, self.transient))

    def failed(self, reason: Reason, now: float) -> None:
        if reason is Reason.MALFORMED:
            self.malformed.failed(now)
        else:
            (self.slow if reason in _SLOW else self.transient).failed(now)

    def succeeded(self) -> None:
        for back_off in (self.slow, self.malformed, self.transient):
            back_off.reset()


_Result = tuple[_Server, ServerReading | SourceError, float]


class TokenPoller:
    """Polls token sources. All methods are called from one thread (the tick).

    Args:
        sources: the first sources; see :meth:`set_sources`.
        clock: monotonic seconds.
        health_of: creates the record of a source from its name, with the counts that survive the process.
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
        self._queue_empty = threading.Event()
        """Set by a thread that has ended a read and finds the queue empty."""
        self._threads: list[threading.Thread] = []
        self._in_flight = 0
        self._late = 0
        """Of those in flight: of an earlier tick, so that nobody waits for them now."""
        self._spare_ticks = 0
        self.set_sources(sources)

    def set_sources(self, sources: Sequence[TokenSource]) -> None:
        """Poll these from now on. A source object that is polled already continues; one that is left out is closed when its
        read has ended."""
        polled: dict[str, _Server] = {}
        for source in sources:
            server = self._servers.get(source.name)
            if server is None or server.source is not source:
                health = server.health if server is not None else self._health_of(server_source(source.name))
                server = _Server(source, health, self._random)
            polled[source.name] = server
        for server in self._servers.values():
            if polled.get(server.source.name) is not server:
                server.removed = True
                if not server.in_flight:
                    server.source.close()
                elif not server.late:
                    server.late = True
                    self._late += 1
        self._servers = polled

    def begin(self) -> None:
        """Start a read of every server that is due and not being read."""
        now = self._clock()
        stuck = self._in_flight
        for server in self._servers.values():
            if server.in_flight:
                self._late += not server.late
                server.late = True
            elif server.is_due(now):
                server.in_flight = True
                self._in_flight += 1
                self._tasks.put(server)
        if self._in_flight > stuck:
            while len(self._threads) <= stuck:  # every read that is stuck holds a thread
                self._start_thread()

    def finish(self, deadline_seconds: float) -> list[ServerReading | ServerFault]:
        """The reads that ended by this monotonic instant, late ones of earlier ticks included. Returns earlier when all
        reads of this tick have ended."""
        ended: list[ServerReading | ServerFault] = []
        before, best = self._drain(ended), 0.0
        began = self._clock()
        while True:
            now = self._clock()
            if now >= deadline_seconds or self._in_flight <= self._late:
                self._end_spare_threads(is_early=now - began < 0.5 * (deadline_seconds - began))
                return ended
            left = deadline_seconds - now
            crowded = self._in_flight > len(self._threads)
            # One wake-up for all servers that are quick: waking for each costs more than reading them.
            patience = PATIENCE_SECONDS * (1.0 + len(self._threads) / _MANY_THREADS)
            woken = self._queue_empty.wait(min(patience, left) if crowded else left)
            self._queue_empty.clear()
            done, before = self._drain(ended) - before, len(ended)
            if not crowded or woken:
                continue
            per_thread = done / len(self._threads)
            best = max(best, per_thread)
            is_late = self._in_flight - len(self._threads) > done * left / patience
            # Where each thread reads less than before, the processor is the limit, and more threads make it worse.
            if is_late and (done == 0 or per_thread > 0.5 * best):
                self._start_thread()

    def _drain(self, ended: list[ServerReading | ServerFault]) -> int:
        """Take the results that have arrived. Returns how many there are so far."""
        while True:
            try:
                self._ended(self._results.get_nowait(), ended)
            except Empty:
                return len(ended)

    def statuses(self) -> tuple[SourceStatus, ...]:
        """Health of the servers, in the order of the sources."""
        return tuple(server.health.status() for server in self._servers.values())

    def close(self) -> None:
        """End the threads and close the sources. A read that is still running ends by its own timeout."""
        self.set_sources(())
        for _ in self._threads:
            self._tasks.put(None)
        self._threads = []

    def _ended(self, result: _Result, ended: list[ServerReading | ServerFault]) -> None:
        server, outcome, duration = result
        self._in_flight -= 1
        self._late -= server.late
        server.in_flight = server.late = False
        if server.removed:
            server.source.close()
            return
        if isinstance(outcome, SourceError):
            now = self._clock()
            server.health.failed(outcome, duration)
            server.failed(outcome.reason, now)
            ended.append(ServerFault(server.source.name, now, outcome.reason, outcome.detail))
        else:
            server.health.succeeded(duration)
            server.succeeded()
            ended.append(outcome)

    def _end_spare_threads(self, *, is_early: bool) -> None:
        """End some threads if there were more than enough for a while."""
        threads = len(self._threads)
        self._spare_ticks = self._spare_ticks + 1 if is_early and not self._in_flight and threads > 1 else 0
        if self._spare_ticks >= SPARE_TICKS:
            self._spare_ticks = 0
            for _ in range(max(1, threads // 4)):
                self._threads.pop()
                self._tasks.put(None)

    def _start_thread(self) -> None:
        self._spare_ticks = 0
        thread = threading.Thread(target=self._work, name=f"token-poller-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while True:
            server = self._tasks.get()
            if server is None:
                return
            start = self._clock()
            outcome = attempt(server.source.read)
            self._results.put((server, outcome, self._clock() - start))
            if self._tasks.empty():
                self._queue_empty.set()
