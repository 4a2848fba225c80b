"""What is answered where: the metrics page, the page for people, health, status, and what an operator may ask for.

Everything shown comes from one snapshot, whose reference is taken once per request. Nothing here waits for a source, so a
scrape cannot be slow because a GPU is; a bug in rendering costs that answer (500, logged once) and nothing else.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence

import structlog

from tpw.exposition import figures
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

Deed = Callable[[], Sequence[str]]
"""Does what an operator asks for; returns what stood in the way, nothing where it is done."""


class Web:
    """The handler of the exporter's HTTP server.

    Args:
        get_snapshot: the current snapshot. Called once per request; must not wait.
        page: renders the metrics; owns what is kept between scrapes.
        telemetry_path: where the metrics are.
        reload: called by ``POST /-/reload``, one deed at a time; None where nothing can be reloaded.
        release: called by ``POST /-/release``: lets go of the GPUs' driver.
        resume: called by ``POST /-/resume``: takes it up again.
        host: whose numbers these are, for the title of the page for people.
        clock: monotonic, the one the snapshots are stamped with.
    """

    def __init__(
        self,
        get_snapshot: Callable[[], Snapshot],
        page: Page,
        *,
        telemetry_path: str = "/metrics",
        reload: Deed | None = None,
        release: Deed | None = None,
        resume: Deed | None = None,
        host: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._get_snapshot = get_snapshot
        self._page = page
        self._telemetry_path = "/" + telemetry_path.strip("/")
        self._doing = threading.Lock()
        self._deeds: dict[str, tuple[Deed | None, str, str, int]] = {
            "/-/reload": (
                reload,
                "reloaded",
                "the configuration was not reloaded; the old one stays in force:",
                400,
            ),
            "/-/release": (release, "released", "the driver is not let go of yet:", 503),
            "/-/resume": (resume, "resumed", "the driver was not taken up again:", 503),
        }
        self._host = host
        self._clock = clock
        self._waste = WasteTrend()
        self._ready = False
        self._logged: set[str] = set()
        self._routes: dict[str, Callable[[Request], Response]] = {
            "/": self._landing,
            "/api/v1/status": self._status,
            "/docs/metrics": self._reference,
            # After them, so that it wins over the page for people where the two are one. Never over the probes, which
            # anybody may ask.
            self._telemetry_path: self._metrics,
            "/-/healthy": self._healthy,
            "/-/ready": self._is_ready,
        }

    def __call__(self, request: Request) -> Response:
        """Answer. Never raises."""
        try:
            if request.path in self._deeds:
                return self._do(request)
            route = self._routes.get(request.path)
            if route is None:
                known = ", ".join(sorted({*self._routes, *self._deeds}))
                return Response(f"not found; here are: {known}\n".encode(), 404)
            if request.method not in ("GET", "HEAD"):
                return Response(b"use GET\n", 405, headers=(("Allow", "GET, HEAD"),))
            return route(request)
        except Exception as error:  # noqa: BLE001 (the one wall between a bug here and the other answers)
            self._log_once(request.path, error)
            return Response(b"the answer could not be made; see the log of the exporter\n", 500)

    def prepare(self, snapshot: Snapshot) -> None:
        """Render a new snapshot ahead of the scrapes that will come for it (see :meth:`Page.prepare`). Never raises."""
        try:
            self._page.prepare(snapshot)
        except Exception as error:  # noqa: BLE001 (the same wall: the one who ticks is not to suffer)
            self._log_once("prepare", error)

    def _log_once(self, path: str, error: Exception) -> None:
        what = f"{path} {type(error).__name__}"
        if what not in self._logged:
            self._logged.add(what)
            _log.error("http_answer_failed", path=path, error=f"{type(error).__name__}: {error}", exc_info=True)

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

    def _status(self, request: Request) -> Response:
        snapshot = self._get_snapshot()
        current = status(snapshot, self._waste.observe(snapshot))
        if request.query.get("view") == ["html"]:
            from tpw.exposition import landing

            return Response(landing.main(current, self._host).encode("utf-8", "replace"), 200, _HTML, (_NO_STORE,))
        return Response(json.dumps(current, allow_nan=False).encode(), 200, _JSON, (_NO_STORE,))

    def _healthy(self, request: Request) -> Response:
        snapshot = self._get_snapshot()
        age = self._clock() - snapshot.at.monotonic_seconds
        limit = max(10.0, 5.0 * snapshot.interval_seconds)
        if age < limit:
            return Response(b"healthy\n", headers=(_NO_STORE,))
        since = figures.moment(snapshot.at.wall_seconds)
        text = f"unhealthy: nothing was polled since {since}, {figures.duration(age)} ago (limit {limit:g} s)\n"
        return Response(text.encode(), 503, headers=(_NO_STORE,))

    def _is_ready(self, request: Request) -> Response:
        """Ready once every source was tried once in this process (a try leaves its duration); then for good."""
        if not self._ready:
            sources = self._get_snapshot().sources
            untried = sum(source.read_duration_seconds is None for source in sources)
            if untried:
                # Without names: whoever asks has shown no password (tpw.exposition.access).
                text = f"not ready: {untried} of {len(sources)} sources were not tried yet; / says which\n"
                return Response(text.encode(), 503, headers=(_NO_STORE,))
            self._ready = True
        return Response(b"ready\n", headers=(_NO_STORE,))

    def _do(self, request: Request) -> Response:
        deed, done, undone, status = self._deeds[request.path]
        if request.method not in ("POST", "PUT"):
            return Response(b"use POST or PUT\n", 405, headers=(("Allow", "POST, PUT"),))
        if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            # A page elsewhere that a person's browser has open has no business here.
            return Response(b"not from another site\n", 403)
        if deed is None:
            return Response(f"nothing to {request.path.rpartition('/')[2]}\n".encode(), 404)
        with self._doing:
            problems = deed()
        if problems:
            lines = "\n".join((undone, *problems))
            return Response(f"{lines}\n".encode("utf-8", "replace"), status)
        return Response(f"{done}\n".encode())
