"""Routes: the metrics page, the landing page, health, status and the operator's endpoints.

A request reads one snapshot and never waits for a source. A bug in rendering fails that
request (500, logged once) and nothing else.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence

import structlog

from tpw.exposition.actions import NOT_ENABLED, Action, BusyError, Hosts, Shared
from tpw.exposition.http1 import Request, Response
from tpw.exposition.render import Page, accepts_gzip, negotiate
from tpw.exposition.status import status
from tpw.exposition.waste import WasteTrend
from tpw.snapshot import Snapshot

_log = structlog.get_logger(__name__)

_JSON = "application/json; charset=utf-8"
_HTML = "text/html; charset=utf-8"
_NO_STORE = ("Cache-Control", "no-store")
_VARY = ("Vary", "Accept, Accept-Encoding")
_RESUME_SECONDS = 0.2
"""How long a process that was suspended may take to tick. Shorter than the timeout of a probe, 1 s."""
_NOT_RELOADED = "reload failed; the old configuration stays in force:"


class _Route:
    """An operator's action and the texts of its responses."""

    __slots__ = ("done", "failed", "failed_status", "run", "signal")

    def __init__(
        self, action: Action | None, turn: threading.Lock, done: str, failed: str, failed_status: int, signal: str
    ) -> None:
        self.run = None if action is None else Shared(action, turn)
        self.done, self.failed, self.failed_status = done, failed, failed_status
        self.signal = signal


class Web:
    """The handler of the exporter's HTTP server.

    Args:
        get_snapshot: returns the current snapshot. Called once per request; must not block.
        page: renders the metrics.
        telemetry_path: path of the metrics.
        reload: for ``POST /-/reload``. Actions run one at a time (:class:`tpw.exposition.actions.Shared`); None where an
            action is not available.
        release: for ``POST /-/release``: closes the GPU driver.
        resume: for ``POST /-/resume``: opens the GPU driver again.
        is_lifecycle_enabled: whether actions are allowed over HTTP.
        hosts: the host names for which they are.
        awaited: what must be tried before the exporter is ready, one phrase each; empty once it is.
        stuck: why the exporter cannot go on; "" while it can.
        host: name of this host, for the title of the landing page.
        advice: answers ``/api/v1/advice``; None where there are no books to read.
        wait: sleeps for so many seconds.
    """

    def __init__(
        self,
        get_snapshot: Callable[[], Snapshot],
        page: Page,
        *,
        telemetry_path: str = "/metrics",
        reload: Action | None = None,
        release: Action | None = None,
        resume: Action | None = None,
        is_lifecycle_enabled: bool = False,
        hosts: Hosts | None = None,
        awaited: Callable[[], Sequence[str]] = tuple,
        stuck: Callable[[], str] = str,
        host: str = "",
        advice: Callable[[Request], Response] | None = None,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self._get_snapshot = get_snapshot
        self._page = page
        self._telemetry_path = "/" + telemetry_path.strip("/")
        turn = threading.Lock()
        self._actions = {
            "/-/reload": _Route(reload, turn, "reloaded", _NOT_RELOADED, 400, "SIGHUP"),
            "/-/release": _Route(release, turn, "released", "the GPU driver is not released yet:", 503, "SIGUSR1"),
            "/-/resume": _Route(resume, turn, "resumed", "the GPU driver was not opened again:", 503, "SIGUSR2"),
        }
        self._is_lifecycle_enabled = is_lifecycle_enabled
        self._hosts = hosts or Hosts()
        self._awaited = awaited
        self._host = host
        self._stuck = stuck
        self._wait = wait
        self._waste = WasteTrend()
        self._ready = False
        self._logged: set[str] = set()
        self._routes: dict[str, Callable[[Request], Response]] = {
            "/": self._landing,
            "/api/v1/status": self._status,
            "/api/v1/prices": self._prices,
            **({} if advice is None else {"/api/v1/advice": advice}),
            "/docs/metrics": self._reference,
            "/runbooks/": self._runbook,
            # After the landing page, which it replaces if both have the same path. Before the probes: they need no
            # password, and the metrics must never be served under their paths.
            self._telemetry_path: self._metrics,
            "/-/healthy": self._healthy,
            "/-/ready": self._is_ready,
        }

    def __call__(self, request: Request) -> Response:
        """Answer. Never raises."""
        try:
            if request.path in self._actions:
                return self._act(request)
            route = self._routes.get("/runbooks/" if request.path.startswith("/runbooks/") else request.path)
            if route is None:
                known = ", ".join(sorted({*self._routes, *self._actions}))
                return Response(f"not found; available paths: {known}\n".encode(), 404)
            if request.method not in ("GET", "HEAD"):
                return Response(b"use GET\n", 405, headers=(("Allow", "GET, HEAD"),))
            return route(request)
        except Exception as error:  # noqa: BLE001 (a bug must not affect other responses)
            self._log_once(request.path, error)
            return Response(b"internal error; see the log of the exporter\n", 500)

    def prepare(self, snapshot: Snapshot) -> None:
        """Render a new snapshot ahead of its scrapes (see :meth:`Page.prepare`). Never raises."""
        try:
            self._page.prepare(snapshot)
        except Exception as error:  # noqa: BLE001 (a bug must not affect the tick)
            self._log_once("prepare", error)

    def _log_once(self, path: str, error: Exception) -> None:
        key = f"{path} {type(error).__name__}"
        if key not in self._logged:
            self._logged.add(key)
            _log.error("http_request_failed", path=path, error=f"{type(error).__name__}: {error}", exc_info=True)

    def _metrics(self, request: Request) -> Response:
        snapshot = self._get_snapshot()
        headers = request.headers
        form = negotiate(headers.get("accept", ""))
        compressed = accepts_gzip(headers.get("accept-encoding", ""))
        names = request.query.get("name[]")
        before = self._page.drops.count
        body = self._page.body(snapshot, form, frozenset(names) if names else None, compressed=compressed)
        if self._page.drops.count != before:
            self._log_drops()
        self._waste.observe(snapshot)
        if compressed:
            return Response(body, 200, form.value, (("Content-Encoding", "gzip"), _VARY))
        return Response(body, 200, form.value, (_VARY,))

    def _log_drops(self) -> None:
        for metric, problem in list(self._page.drops.problems.items()):
            if metric not in self._logged:
                self._logged.add(metric)
                _log.error("sample_dropped", metric=metric, problem=problem)

    def _landing(self, request: Request) -> Response:
        from tpw.exposition import landing

        snapshot = self._get_snapshot()
        body = landing.page(status(snapshot, self._waste.observe(snapshot)), self._telemetry_path, self._host)
        return Response(body, 200, _HTML, (_NO_STORE, ("Content-Security-Policy", landing.content_security_policy())))

    def _reference(self, request: Request) -> Response:
        from tpw.exposition import landing

        policy = ("Content-Security-Policy", landing.content_security_policy())
        return Response(landing.reference(), 200, _HTML, (policy,))

    def _runbook(self, request: Request) -> Response:
        from tpw.exposition import landing, runbooks

        body = runbooks.page(request.path.removeprefix("/runbooks/"))
        if body is None:
            return Response(b"no such runbook; /runbooks/ lists all\n", 404)
        return Response(body, 200, _HTML, (("Content-Security-Policy", landing.content_security_policy()),))

    def _status(self, request: Request) -> Response:
        snapshot = self._get_snapshot()
        current = status(snapshot, self._waste.observe(snapshot))
        if request.query.get("view") == ["html"]:
            from tpw.exposition import landing

            return Response(landing.main(current, self._host).encode("utf-8", "replace"), 200, _HTML, (_NO_STORE,))
        return Response(json.dumps(current, allow_nan=False).encode(), 200, _JSON, (_NO_STORE,))

    def _prices(self, request: Request) -> Response:
        from tpw.exposition.ahead import ahead

        asked = [(request.query.get(name) or [""])[-1] for name in ("hours", "before")]
        try:
            answer = ahead(self._get_snapshot(), *asked)
        except (ValueError, OverflowError, OSError) as error:
            return Response(f"{error}\n".encode("utf-8", "replace"), 400, headers=(_NO_STORE,))
        return Response(json.dumps(answer, allow_nan=False).encode(), 200, _JSON, (_NO_STORE,))

    def _healthy(self, request: Request) -> Response:
        if self._stuck():
            # After a suspension of the whole process a tick is due at once.
            self._wait(_RESUME_SECONDS)
            reason = self._stuck()
            if reason:
                return Response(f"unhealthy: {reason}\n".encode(), 503, headers=(_NO_STORE,))
        return Response(b"healthy\n", headers=(_NO_STORE,))

    def _is_ready(self, request: Request) -> Response:
        """Ready once nothing is awaited any more, then while the books can be written."""
        if not self._ready:
            awaited = self._awaited()
            if awaited:
                lines = "\n".join(("not ready; awaited:", *awaited))
                return Response(f"{lines}\n".encode("utf-8", "replace"), 503, headers=(_NO_STORE,))
            self._ready = True
        problem = self._get_snapshot().store.problem
        if problem:
            text = f"not ready: the books cannot be written: {problem}\n"
            return Response(text.encode("utf-8", "replace"), 503, headers=(_NO_STORE,))
        return Response(b"ready\n", headers=(_NO_STORE,))

    def _act(self, request: Request) -> Response:
        route = self._actions[request.path]
        name = request.path.rpartition("/")[2]
        if request.method not in ("POST", "PUT"):
            return Response(b"use POST or PUT\n", 405, headers=(("Allow", "POST, PUT"),))
        refusal = self._hosts.refusal(request)
        if not self._is_lifecycle_enabled:
            refusal = f"{name} over HTTP {NOT_ENABLED.format(signal=route.signal)}"
        if refusal:
            return Response(f"{refusal}\n".encode("utf-8", "replace"), 403)
        if route.run is None:
            return Response(f"nothing to {name}\n".encode(), 404)
        try:
            problems = route.run()
        except BusyError:
            return Response(b"other requests wait for this already\n", 503, headers=(("Retry-After", "1"),))
        if problems:
            lines = "\n".join((route.failed, *problems))
            return Response(f"{lines}\n".encode("utf-8", "replace"), route.failed_status)
        return Response(f"{route.done}\n".encode())
