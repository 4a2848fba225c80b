"""The daemon's process: its HTTP server, its signals and its end. ``run`` and ``demo`` share it.

The HTTP server listens first. Everything that may take long or hang (opening the books, drivers, feeds, reloads) runs on
other threads, and the end waits for none of them.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING

import structlog

from tpw import __version__
from tpw.cli.supervision import Supervisor
from tpw.config.schema import Web as WebSettings
from tpw.exposition.actions import BusyError, Hosts, Shared
from tpw.exposition.http1 import Request, Response
from tpw.exposition.serving import ListenError, Server

if TYPE_CHECKING:
    from tpw.daemon.daemon import Daemon
    from tpw.exposition.advice import Advice
    from tpw.exposition.web import Web
    from tpw.model import SourceError
    from tpw.snapshot import Snapshot

_log = structlog.get_logger("tpw")

REQUEST_SECONDS = 10.0
"""How long an operator's request waits for the tick that carries it out."""
START_SECONDS = 60.0
"""How long a start counts as healthy without a tick: the books of years are loaded in seconds."""
STOP_HTTP_SECONDS = 0.5
STOP_DAEMON_SECONDS = 2.0

_NOT_RELEASED = (
    "A driver call has not returned, or no tick came. The driver is released as soon as possible: ask again."
)
_NOT_RESUMED = "No tick came, polling has stopped: see the log of the exporter."

Reload = Callable[["Daemon"], Sequence[str]]
"""Reads the configuration again and puts it in force. Returns what is wrong with it."""
Event = Callable[[], "int | None"]
"""What the main thread is to do next; an exit status ends the process."""


class StartError(Exception):
    """The daemon cannot be started. ``status`` is the exit status of the process; a message is printed."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class AdviceRoute:
    """Advice over HTTP (:mod:`tpw.exposition.advice`), loaded with the first request for it.

    Args:
        arguments: of ``tpw-exporter advise``.
        has_metric: whether its savings are in the metrics: then it is loaded at the start.
    """

    def __init__(self, arguments: Sequence[str], *, has_metric: bool) -> None:
        self._arguments, self.has_metric = arguments, has_metric
        self._advice: Advice | None = None

    def __call__(self, request: Request) -> Response:
        """Answer."""
        return self._loaded()(request)

    def with_savings(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot as it is exposed."""
        return self._loaded().with_savings(snapshot) if self.has_metric else snapshot

    def _loaded(self) -> Advice:
        if self._advice is None:
            from tpw.cli.advising import calculation
            from tpw.exposition.advice import Advice

            self._advice = Advice(calculation(self._arguments))
        return self._advice


class _Starting:
    """Answers until the first snapshot is there, and from then on hands requests to the real handler."""

    def __init__(self) -> None:
        self.handler: Callable[[Request], Response] | None = None
        self.awaited: Callable[[], Sequence[str]] = lambda: ["the books: they are being opened"]
        self._since_seconds = time.monotonic()

    def __call__(self, request: Request) -> Response:
        if self.handler is not None:
            return self.handler(request)
        if request.path == "/-/healthy" and not self.stuck():
            return Response(b"healthy\n", headers=(("Cache-Control", "no-store"),))
        lines = "\n".join(("not ready; awaited:", *self.awaited(), "the first tick"))
        return Response(f"{lines}\n".encode("utf-8", "replace"), 503, headers=(("Retry-After", "1"),))

    def stuck(self) -> str:
        """Why the start is considered stuck; "" while it may take on."""
        return "" if time.monotonic() - self._since_seconds < START_SECONDS else "the start does not end"


class _Events:
    """What the main thread is to do, in order. Any thread and signal handler may add to it at any moment.

    The main thread waits for a pipe: the kernel may deliver a signal to another thread, and a main thread that waits for a
    lock does not run the handler then (SIGUSR2 was lost once in ten times on a busy machine). The interpreter writes to
    the pipe on whichever thread the signal arrives.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[Event] = SimpleQueue()
        self._wakes, self._wake = os.pipe()
        for end in (self._wakes, self._wake):
            os.set_blocking(end, False)

    def wake_by_signals(self) -> None:
        """Have every signal end a wait from now on."""
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)

    def put(self, event: Event) -> None:
        """Add one."""
        self._queue.put(event)
        with suppress(BlockingIOError):  # full: the main thread wakes anyway
            os.write(self._wake, b"\0")

    def get(self, timeout_seconds: float | None) -> Event | None:
        """The next one; None when none has come in time."""
        if self._queue.empty():
            select.select([self._wakes], [], [], timeout_seconds)
            with suppress(BlockingIOError):
                os.read(self._wakes, 4096)
        try:
            return self._queue.get_nowait()
        except Empty:
            return None


class _Process:
    """One daemon from its start to its end.

    Args:
        new_daemon: makes the daemon; may take long. Raises StartError.
        web: where to listen.
        reload: see :data:`Reload`; None where nothing can be reloaded.
        supervisor: is informed about the start, the end, and that ticks go on.
        advice: None where there are no books to read.
    """

    def __init__(
        self,
        new_daemon: Callable[[], Daemon],
        web: WebSettings,
        reload: Reload | None,
        supervisor: Supervisor,
        advice: AdviceRoute | None = None,
    ) -> None:
        self._new_daemon = new_daemon
        self._web = web
        self._reload = None if reload is None else Shared(partial(self._reload_now, reload))
        """Shared by signals and HTTP requests: a storm of them costs one reload at a time."""
        self._daemon: Daemon | None = None
        self._front = _Starting()
        self._supervisor = supervisor
        self._advice = advice
        self._is_stopping = False
        self._events = _Events()

    def listen(self) -> Server:
        """Listen. Raises ListenError, ValueError."""
        gate = None
        if self._web.config_file is not None:
            from tpw.exposition.access import Access  # and with it OpenSSL

            gate = Access(Path(self._web.config_file))
        server = Server([self._web.listen_address], self._front, gate=gate)
        server.start()
        return server

    def handle_signals(self) -> None:
        """React to signals from now on."""
        signals: dict[signal.Signals, Event] = {
            signal.SIGTERM: lambda: 0,
            signal.SIGINT: lambda: 0,
            signal.SIGHUP: self._reload_aside,
            signal.SIGUSR1: self._release,
            signal.SIGUSR2: self._resume,
        }
        for number, event in signals.items():
            signal.signal(number, partial(self._on_signal, event))
        self._events.wake_by_signals()

    def run(self, started: Callable[[], None]) -> int:
        """Start the daemon and wait for the end. Returns the exit status.

        Args:
            started: called once there is a snapshot.
        """
        # Imported once the HTTP server listens, and on this thread: the stack that imports need stays with the process.
        import tpw.daemon.daemon
        import tpw.exposition.process
        import tpw.exposition.web  # noqa: F401

        threading.Thread(target=self._start, args=(started,), name="tick", daemon=True).start()
        while True:
            event = self._events.get(self._supervisor.ping_seconds)
            status = None if event is None else event()
            if status is not None:
                return status
            if self._supervisor.ping_seconds is not None and not self._stuck():
                self._supervisor.alive()

    def _stuck(self) -> str:
        """Why the process cannot go on; "" while it can."""
        return self._front.stuck() if self._front.handler is None or self._daemon is None else self._daemon.stuck()

    def stop(self) -> None:
        """Stop the daemon, if there is one by now."""
        self._is_stopping = True
        if self._daemon is not None:
            self._daemon.stop(STOP_DAEMON_SECONDS)

    # --------------------------------------------------------------------------------------------- on the tick's thread

    def _start(self, started: Callable[[], None]) -> None:
        try:
            daemon = self._new_daemon()
            handler = self._handler(daemon)
        except StartError as error:
            status = error.status
            if str(error):
                print(error, file=sys.stderr)
            self._events.put(lambda: status)
            return
        except Exception:  # noqa: BLE001 - of a thread nobody waits for: the process must not stay without a daemon
            _log.exception("start_failed")
            self._events.put(lambda: 1)
            return

        def publish(snapshot: Snapshot) -> None:
            handler.prepare(self._exposed(snapshot))
            if self._front.handler is None:
                self._front.handler = handler
                self._events.put(started)

        daemon.on_snapshot = publish
        daemon.on_fatal = lambda error: self._events.put(lambda: _fatal(error))
        self._front.awaited = self._awaited
        self._daemon = daemon
        if self._is_stopping:
            daemon.stop()
        else:
            daemon.run()

    def _handler(self, daemon: Daemon) -> Web:
        from tpw.exposition.process import ProcessTail
        from tpw.exposition.render import Page
        from tpw.exposition.web import Web

        web = self._web
        return Web(
            lambda: self._exposed(daemon.snapshot),
            Page(ProcessTail()),
            telemetry_path=web.telemetry_path,
            reload=self._reload,
            release=lambda: [] if daemon.release(REQUEST_SECONDS) else [_NOT_RELEASED],
            resume=lambda: [] if daemon.resume(REQUEST_SECONDS) else [_NOT_RESUMED],
            is_lifecycle_enabled=web.enable_lifecycle,
            hosts=Hosts([web.listen_address], web.external_url or "", web.allowed_hosts),
            awaited=self._awaited,
            stuck=daemon.stuck,
            host=socket.gethostname(),
            advice=self._advice,
        )

    def _exposed(self, snapshot: Snapshot) -> Snapshot:
        return snapshot if self._advice is None else self._advice.with_savings(snapshot)

    def _awaited(self) -> Sequence[str]:
        """What must be tried before the exporter is ready. Without names where a password protects them: probes need
        none (see :mod:`tpw.exposition.access`)."""
        awaited = [] if self._daemon is None else self._daemon.awaited()
        if self._web.config_file is None:
            return awaited
        return [
            f"a {phrase.partition(' ')[0]}" if phrase.startswith(("meter ", "server ")) else phrase
            for phrase in awaited
        ]

    # --------------------------------------------------------------------------------------------------------- signals

    def _on_signal(self, event: Event, _number: int, _frame: FrameType | None) -> None:
        self._events.put(event)

    def _reload_aside(self) -> None:
        """Reload on a thread of its own: it waits for feeds."""
        threading.Thread(target=self._reload_logged, name="reload", daemon=True).start()

    def _reload_logged(self) -> None:
        if self._reload is None:
            return
        try:
            problems = self._reload()
        except BusyError:
            return  # a reload that begins after this signal is queued already
        for problem in problems:
            _log.error("reload_failed", detail=problem)

    def _reload_now(self, reload: Reload) -> Sequence[str]:
        return [] if self._daemon is None else reload(self._daemon)

    def _release(self) -> None:
        # To reset or partition a GPU, every client of its driver must be closed for a while.
        if self._daemon is not None:
            self._daemon.release()

    def _resume(self) -> None:
        if self._daemon is not None:
            self._daemon.resume()


def serve(
    new_daemon: Callable[[], Daemon],
    web: WebSettings,
    reload: Reload | None = None,
    announce: Callable[[int], None] | None = None,
    advice: AdviceRoute | None = None,
) -> int:
    """Run a daemon until SIGTERM or SIGINT. Returns the exit status.

    Args:
        new_daemon: makes the daemon, not started; may take long. Raises StartError.
        web: where to listen.
        reload: see :data:`Reload`; None where nothing can be reloaded.
        announce: called with the port once there is a first snapshot.
        advice: None where there are no books to read.
    """
    gc.disable()  # until _freeze_memory: what the start makes is used until the end
    supervisor = Supervisor(os.environ, os.getpid())
    process = _Process(new_daemon, web, reload, supervisor, advice)
    process.handle_signals()
    try:
        server = process.listen()
    except ValueError as error:
        _log.error("web_config_invalid", detail=str(error))
        return 2
    except ListenError as error:
        _log.error("listen_failed", detail=str(error))
        return 1

    def started() -> None:
        _log.info("started", version=__version__, address=web.listen_address, pid=os.getpid())
        supervisor.ready()
        if announce is not None:
            announce(server.ports[0])
        _freeze_memory()

    try:
        return process.run(started)
    finally:
        supervisor.stopping()
        server.stop(STOP_HTTP_SECONDS)
        process.stop()
        _log.info("stopped")


def _fatal(error: SourceError) -> int:
    _log.error("driver_lost", detail=error.detail, hint=error.hint)
    return 1


def _freeze_memory() -> None:
    """Exempt what the start has allocated from garbage collection, as it is used until the end, and return what the start
    has freed to the system: about 1 MiB."""
    gc.enable()
    gc.collect()
    gc.freeze()
    if "ctypes" in sys.modules:  # as it is with a driver's binding; to load it would cost more than that
        import ctypes

        with suppress(OSError, AttributeError):  # another C library than glibc
            ctypes.CDLL(None).malloc_trim(0)
