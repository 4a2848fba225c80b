"""A daemon with its HTTP server and its signals: what ``run`` and ``demo`` share."""

from __future__ import annotations

import gc
import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import structlog

from tpw import __version__
from tpw.app import Daemon
from tpw.config.schema import Web as WebSettings
from tpw.exposition.access import Access
from tpw.exposition.process import ProcessTail
from tpw.exposition.render import Page
from tpw.exposition.serving import ListenError, Server
from tpw.exposition.web import Web
from tpw.exposition.web_config import WebConfigError

_log = structlog.get_logger("tpw")

_DEED_SECONDS = 10.0
"""How long an operator's request waits for the tick that does it."""
_NOT_RELEASED = "a driver call does not return, or no tick came; it is done as soon as it can be: ask again"
_NOT_RESUMED = "no tick came: the pollers do not move; see the log of the exporter"


def serve(
    daemon: Daemon,
    web: WebSettings,
    reload: Callable[[], Sequence[str]] | None = None,
    announce: Callable[[int], None] | None = None,
) -> int:
    """Run a daemon until SIGTERM or SIGINT. Returns the exit status.

    Args:
        daemon: not started.
        web: where to listen.
        reload: reads the configuration anew and puts it in force; returns what is wrong with it.
        announce: told the port once everything answers.
    """
    ended = threading.Event()
    again = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    def reread(number: int, frame: FrameType | None) -> None:
        again.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGHUP, reread)
    # Whoever wants to reset or partition a GPU needs every client of its driver gone for a while.
    signal.signal(signal.SIGUSR1, lambda number, frame: daemon.release())
    signal.signal(signal.SIGUSR2, lambda number, frame: daemon.resume())

    handler = Web(
        lambda: daemon.snapshot,
        Page(ProcessTail()),
        telemetry_path=web.telemetry_path,
        reload=reload,
        release=lambda: [] if daemon.release(_DEED_SECONDS) else [_NOT_RELEASED],
        resume=lambda: [] if daemon.resume(_DEED_SECONDS) else [_NOT_RESUMED],
        host=socket.gethostname(),
    )
    daemon.on_snapshot = handler.prepare
    try:
        gate = None if web.config_file is None else Access(Path(web.config_file))
        server = Server([web.listen_address], handler, gate=gate)
    except (WebConfigError, ValueError) as error:
        _log.error("web configuration", detail=str(error))
        return 2
    try:
        daemon.start()
        server.start()
    except ListenError as error:
        _log.error("cannot listen", detail=str(error))
        daemon.stop()
        return 1
    _log.info("started", version=__version__, address=web.listen_address, pid=os.getpid())
    if announce is not None:
        announce(server.ports[0])
    _settle_memory()
    try:
        while not ended.wait(1.0):
            daemon.keep_ticking()
            if again.is_set():
                again.clear()
                for problem in reload() if reload is not None else ():
                    _log.error("configuration not reloaded", detail=problem)
            if daemon.fatal is not None:
                _log.error("cannot go on", detail=daemon.fatal.detail, hint=daemon.fatal.hint)
                return 1
        return 0
    finally:
        server.stop()
        daemon.stop()
        _log.info("stopped")


def _settle_memory() -> None:
    """What start-up made lives as long as the process: the collector need not look at it again at every turn."""
    gc.collect()
    gc.freeze()
