"""The daemon without its HTTP server and its signals: the tick's thread, the slow jobs, and what may be asked of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue

import structlog

from tpw.config.schema import Config
from tpw.daemon import reload
from tpw.daemon.jobs import SlowJobs
from tpw.daemon.loop import Progress, TickLoop
from tpw.daemon.node import Node
from tpw.daemon.ownership import SCAN_SECONDS, Scanner
from tpw.daemon.persistence import KEEP_UP_SECONDS, CurrencyError, Persistence
from tpw.daemon.pricing import wanted_since
from tpw.model import SourceError
from tpw.power import AcceleratorMeter
from tpw.snapshot import Snapshot
from tpw.store.sqlite import BooksFile

_log = structlog.get_logger("tpw")

FEED_SECONDS = 60.0
"""Between two reads of a feed. Each feed has a schedule of its own, by which most of these reads answer from memory."""
FIRST_TICK_SECONDS = 1.5
"""How long the first tick waits for GPUs and servers: what was used meanwhile belongs to the servers that ran then."""
FIRST_RESULTS_SECONDS = 0.5
"""How long the first tick is held back for the first scan and the feeds. What comes later counts from the next tick on."""


class Daemon:
    """The daemon, started once and stopped once. Everything else may be called from any thread.

    Args:
        config: a valid configuration.
        books_file: where the books are kept; None keeps them in memory only.
        clock: monotonic seconds.
        wall: Unix time.
        accelerators: meters to use in place of the configured ones (the demo's).
        notes: what the operator should know from the start.

    Raises:
        CurrencyError: the books hold another currency.
        ValueError: a meter does not have one of its options.
    """

    def __init__(
        self,
        config: Config,
        books_file: BooksFile | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        accelerators: Sequence[AcceleratorMeter] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self._clock, self._wall = clock, wall
        self._store = Persistence(books_file, clock, wall, config.state.keep)
        self._node = Node(config, self._store, clock, wall, accelerators, notes)
        self._scanner = Scanner()
        self._loop = TickLoop(self._scheduled_tick, config.polling.interval, clock)
        self._progress = Progress(clock)
        self.jobs = SlowJobs(clock)
        self._mail: SimpleQueue[Callable[[], None]] = SimpleQueue()  # what other threads want done between two ticks
        self._ticking, self._reloading = threading.Lock(), threading.Lock()
        self.on_snapshot: Callable[[Snapshot], None] | None = None
        """Called with each new snapshot, on the tick's thread."""
        self.on_fatal: Callable[[SourceError], None] | None = None
        """Called, on the tick's thread, when only a new process can read a meter."""

    @property
    def snapshot(self) -> Snapshot:
        """The newest one."""
        return self._node.snapshot

    def awaited(self) -> list[str]:
        """What was not tried yet since the start; empty once the daemon is ready."""
        return self._node.awaited()

    def stuck(self) -> str:
        """Why no tick comes any more; "" while they come."""
        return self._progress.stuck(self._loop.interval_seconds)

    def holders(self) -> Mapping[str, frozenset[int] | None]:
        """Process ids by GPU as the driver last listed them; None where it does not."""
        return self._node.owners.holders

    # ------------------------------------------------------------------------------------------------- without a thread

    def poll_all(self) -> None:
        """Read feeds, scan, and tick once, on the caller's thread. ``snapshot`` is complete then."""
        self.read_feeds()
        self._node.open_meters(FIRST_TICK_SECONDS)
        self._scan()
        self.tick(FIRST_TICK_SECONDS)

    def read_feeds(self) -> None:
        """Read every feed, on the caller's thread. The next tick uses what they report."""
        for name in self._node.pricing.feeds.names:
            self._read_feed(name)

    def tick(self, patience_seconds: float = FIRST_TICK_SECONDS, late_seconds: float = 0.0, skipped: int = 0) -> None:
        """Tick once; see :meth:`Node.tick`. An exception costs only this tick: the next one books its energy."""
        with self._ticking, self._progress.tick(skipped):
            self._receive()
            snapshot = self._node.tick(patience_seconds, late_seconds, self._progress.unreported)
            self._progress.unreported = 0
            self._publish(snapshot)

    # --------------------------------------------------------------------------------------------------- start and stop

    def start(self) -> None:
        """:meth:`run` on a thread of its own."""
        threading.Thread(target=self.run, name="tick", daemon=True).start()

    def run(self) -> None:
        """Tick and run slow jobs until :meth:`stop`."""
        self._store.periods.run = lambda read: threading.Thread(target=read, name="periods", daemon=True).start()
        self._read_feeds_regularly()
        self.jobs.every("books", KEEP_UP_SECONDS, self._store.keep_up)
        self.jobs.start()
        with self._ticking:
            try:
                self._node.open_meters(FIRST_TICK_SECONDS)
                self.jobs.every("scan", SCAN_SECONDS, self._scan)
                self._await_first_results()
            except Exception:  # noqa: BLE001 - the ticks must go on
                _log.exception("start_failed")
        if not self._loop.is_stopping:
            self.tick(FIRST_TICK_SECONDS)
            self._loop.run()

    def stop(self, within_seconds: float = 2.0) -> None:
        """End within about this time, whatever hangs. Everything that was booked is written already."""
        self._loop.stop()
        self._mail.put(lambda: None)  # wakes a start that waits
        self.jobs.stop()
        has_ended = self._ticking.acquire(timeout=within_seconds / 2)
        self._node.close(within_seconds / 2)
        if has_ended:  # otherwise the tick that hangs may still write
            self._store.close()
            self._ticking.release()

    def reload(self, config: Config, apply_within_seconds: float = 10.0) -> None:
        """Put another configuration in force with the next tick, and wait for that.

        Raises:
            CurrencyError, ValueError: as the constructor; nothing has changed.
            TimeoutError: no tick came in time. The configuration takes effect with the next one.
        """
        with self._reloading:
            try:
                feeds = reload.prepare(self._node, config, self._wall())
            except (CurrencyError, ValueError):
                self.reload_failed()
                raise
            done = threading.Event()

            def apply() -> None:
                reload.apply(self._node, config, feeds)
                self._loop.interval_seconds = config.polling.interval
                self._read_feeds_regularly()
                self.jobs.soon("scan")
                done.set()

            self._mail.put(apply)
            if not done.wait(apply_within_seconds):
                raise TimeoutError("no tick came: polling has stopped")

    def reload_failed(self) -> None:
        """Report in the metrics that a configuration could not be put in force."""
        self._node.reload_failed = True

    def release(self, within_seconds: float = 0.0) -> bool:
        """Close the GPU drivers with the next tick, so that a GPU can be reset or partitioned. Returns whether they are
        closed within the given time; otherwise they are as soon as they can be."""
        return self._ask(self._node.meters.release, within_seconds)

    def resume(self, within_seconds: float = 0.0) -> bool:
        """Open the drivers again with the next tick. Returns whether that has happened within the given time."""
        return self._ask(self._node.meters.resume, within_seconds)

    def _ask(self, request: Callable[[], bool], within_seconds: float) -> bool:
        answers: SimpleQueue[bool] = SimpleQueue()
        self._mail.put(lambda: answers.put(request()))
        try:
            return answers.get(timeout=within_seconds)
        except Empty:  # no tick in time
            return False

    # --------------------------------------------------------------------------------------------- on the tick's thread

    def _read_feeds_regularly(self) -> None:
        for name in self._node.pricing.feeds.names:
            if name not in self.jobs:
                self.jobs.every(name, FEED_SECONDS, partial(self._read_feed, name))
        if self._node.servers.tenants is not None and "tenants" not in self.jobs:
            self.jobs.every("tenants", reload.TENANTS_SECONDS, partial(reload.read_tenants, self._node))

    def _scheduled_tick(self, late_seconds: float, skipped: int) -> None:
        self.tick(0.5 * self._node.config.polling.interval, late_seconds, skipped)

    def _receive(self) -> None:
        while True:
            try:
                request = self._mail.get_nowait()
            except Empty:
                return
            request()

    def _publish(self, snapshot: Snapshot) -> None:
        if self.on_snapshot is not None:
            self.on_snapshot(snapshot)
        node = self._node
        if node.meters.fatal is not None and self.on_fatal is not None:
            self.on_fatal(node.meters.fatal)
        if node.owners.servers_changed(node.books) or node.owners.has_new_holders():
            node.owners.update_holders(node.meters.accelerators, at_once=True)
            self.jobs.soon("scan")
        self.jobs.check()

    def _await_first_results(self) -> None:
        node, deadline = self._node, self._clock() + FIRST_RESULTS_SECONDS
        with suppress(Empty):
            while (not node.is_scanned or node.pricing.feeds.awaited) and not self._loop.is_stopping:
                self._mail.get(timeout=max(0.0, deadline - self._clock()))()
        node.receive_facts(node.pricing.feeds)
        if not node.is_scanned:
            node.servers.update(node.config)  # the configured ones need no scan

    # ------------------------------------------------------------------------------------------ on the threads of jobs

    def _scan(self) -> None:
        node, servers, scan = self._node, self._node.servers, self._node.owners.scan
        try:
            scan = self._scanner.scan(node.config, servers.rows, servers.dialects(), node.owners.holders, node.books)
        except Exception:  # noqa: BLE001 - the next scan may succeed
            _log.exception("scan_failed")
        self._mail.put(partial(node.receive_scan, scan))

    def _read_feed(self, name: str) -> None:
        node, feeds = self._node, self._node.pricing.feeds
        feeds.read(name, wanted_since(node.books, self._wall()))
        self._mail.put(partial(node.receive_facts, feeds))
