"""A node in a test: the daemon over the NVML stand-in, on a clock that the test moves.

Everything between the driver's functions and the page is the real thing: the binding, the meter, the poller with its
threads, the ledger, the exposition. Only time is the test's, so a minute takes a moment and comes out the same every time.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import pynvml

from fakenvml import FakeNvml
from support.scraped import Page as Scraped
from support.scraped import parse
from tpw.config.load import load
from tpw.daemon.daemon import Daemon
from tpw.exposition.render import Format, Page
from tpw.ledger.books import GpuAccount
from tpw.polling.health import BackOff
from tpw.polling.worker import Worker
from tpw.power.nvml import NvmlMeter
from tpw.store.sqlite import BooksFile

WALL = 1_790_000_000.0
PUE = 1.25
PRICE_PER_KWH = 0.4
OWNER = 1
"""A process id that is always there."""


class Node:
    """GPU 0 belongs to a server that is active while the GPU is utilised; the other GPUs have no owner.

    Args:
        nvml: the stand-in, made with ``start_seconds`` and loaded.
        state: where the books are kept, for a node that is to be restarted.
    """

    def __init__(self, nvml: FakeNvml, state: Path | None = None) -> None:
        self.nvml = nvml
        self.wall_ahead_seconds = WALL - nvml.now()
        """Add to it, and the wall clock jumps."""
        nvml.processes(0, [OWNER])
        self._state = state
        self._page = Page()
        self._in_tick = threading.Event()
        self._ended = False
        self.daemon = self._start()
        self._pump = threading.Thread(target=self._let_time_pass_while_a_call_hangs, daemon=True)
        self._pump.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended = True
        self._in_tick.set()
        self._pump.join()
        self.nvml.close()
        self.daemon.stop()

    def _start(self) -> Daemon:
        config = load(
            f"""
            host: {{meters: []}}
            discovery: {{processes: false}}
            servers: [{{name: big, gpus: [{self.nvml.uuid(0)}], model: m}}]
            facility: {{pue: {PUE}}}
            tariff: {{currency: EUR, energy: {{kind: flat, price_per_kwh: {PRICE_PER_KWH}}}}}
            """
        )
        books = None if self._state is None else BooksFile(self._state)
        meter = NvmlMeter(self.nvml.now)
        daemon = Daemon(config, books, clock=self.nvml.now, wall=self.wall, accelerators=[meter])
        poller = daemon._node.meters.accelerators[0]
        poller._back_off = BackOff(1.0, 60.0, lambda: 0.5)
        poller._reader.pause = lambda: None  # type: ignore[method-assign]  # the test samples, by its own clock
        daemon.poll_all()
        return daemon

    def wall(self) -> float:
        return self.nvml.now() + self.wall_ahead_seconds

    def restart(self) -> None:
        """End the daemon as its supervisor would, and start it afresh on the same books."""
        assert self._state is not None
        self.daemon.stop()
        with suppress(pynvml.NVMLError):
            while True:
                pynvml.nvmlShutdown()
        self.daemon = self._start()

    def tick(self) -> None:
        """Read everything now."""
        self._let_returned_calls_end()
        self._in_tick.set()
        try:
            self.daemon.tick()
        finally:
            self._in_tick.clear()

    def sample(self) -> None:
        """What the poller's thread does between two ticks, now."""
        poller, done = self.daemon._node.meters.accelerators[0], threading.Event()

        def task(worker: Worker) -> None:
            try:
                poller._reader.sample(worker)
            finally:
                done.set()

        poller._queue(task)
        assert done.wait(10)

    @property
    def account(self) -> GpuAccount:
        return self.account_of(0)

    def account_of(self, index: int) -> GpuAccount:
        return self.daemon.snapshot.books.gpus[self.nvml.uuid(index)]

    def booked_joules(self, index: int = 0) -> float:
        uuid = self.nvml.uuid(index)
        return sum(p.joules for key, p in self.daemon.snapshot.books.postings.items() if key.gpu == uuid)

    def pending_seconds(self, index: int = 0) -> float:
        """Time with energy that may still be read."""
        return sum(piece.end_seconds - piece.start_seconds for piece in self.account_of(index).pending)

    def page(self) -> Scraped:
        """What a scrape shows now."""
        return parse(self._page.body(self.daemon.snapshot, Format.TEXT, None, compressed=False).decode())

    # ------------------------------------------------------------------------------------------------- calls that hang

    def _let_time_pass_while_a_call_hangs(self) -> None:
        """While a call hangs, its read waits for it: only then does time pass within a tick."""
        while True:
            self._in_tick.wait()
            if self._ended:
                return
            if self.nvml.hanging > len(self.daemon._node.meters.accelerators[0]._reader.hung):
                self.nvml.advance(0.02)
            time.sleep(0.002)

    def _let_returned_calls_end(self) -> None:
        """Threads end on their own a moment after their call has returned, in real time."""
        poller = self.daemon._node.meters.accelerators[0]
        if not poller._reader.hung:
            return
        index = next(i for i in range(self.nvml.count) if self.nvml.uuid(i) in poller._reader.hung)
        if self.nvml.gpu(index)._record.hang_until_seconds > self.nvml.now():
            return
        for thread in threading.enumerate():
            if thread.name == "nvml-poller" and poller._worker is not None and thread is not poller._worker.thread:
                thread.join(10)
                assert not thread.is_alive()
