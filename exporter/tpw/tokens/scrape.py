"""Reads a server's metrics page: the usual way to know its tokens.

Everything a server may answer becomes a reading or a :class:`~tpw.model.SourceError` whose text says what happened, to
what, and what to do. The connection is kept; the engine, the path and the model's name are found once and remembered.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tpw.http.client import Client, Tls, target_of
from tpw.http.messages import Answer
from tpw.model import Cadence, InFlight, OsProcess, ProcessIdentity, Reason, Role, ServerReading, SourceError
from tpw.tokens.answers import json_of, writable
from tpw.tokens.dialects import Dialect, Lookup, Progress
from tpw.tokens.engines import DIALECTS, KNOWN_PATHS, TPW_HOOK
from tpw.tokens.page import Page
from tpw.tokens.progress import Requests, Takeover, requests_in
from tpw.tokens.reading import DialectReader, PageReading, bears, recognise

ACCEPT = "text/plain;version=0.0.4;q=1,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1"
"""Plain text is wanted; what an engine sends all the same (OpenMetrics from Rust clients) is read too."""

_OPENMETRICS = "application/openmetrics-text"
_NO_PAGES = ("application/json", "text/html", "application/octet-stream")
_LOOK_UP_AGAIN_SECONDS = 60.0
_LOOK_UP_TIMEOUT_SECONDS = 1.0
_LOOK_UP_MAX_BYTES = 1 << 20
_SLOW_SECONDS = 10.0
_MISTRUSTED_SECONDS = 3600.0
"""Pause after an engine's output counter failed to include the tokens of a finished request. An hour: a build with this
fault keeps it until it is replaced."""


class ScrapeSource:
    """A :class:`tpw.tokens.TokenSource` over HTTP.

    Args:
        name: the server's name.
        url: a base address (``http://127.0.0.1:8000``: the engine's own paths are tried) or a full one (taken as it is).
        dialect: the engine's row; None recognises it from the page, and remembers.
        clock: monotonic seconds.
        timeout_seconds: for a whole read.
        max_bytes: most a page may have.
        headers_file: see :class:`tpw.http.client.Client`.
        tls: for https.
        model: the model's name where the series carry none; without it the engine is asked.
        cadence: overrides the dialect's, for servers that only speak like the engine.
        process: who listens, where that is known; stands in for an identity where the page has none.
        dialects: rows to recognise from.
        paths: where to look for the page while the engine is not known.

    Raises:
        ValueError: from the constructor, when the address is none.
    """

    def __init__(
        self,
        name: str,
        url: str,
        dialect: Dialect | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        timeout_seconds: float = 2.0,
        max_bytes: int = 8 << 20,
        headers_file: str | Path | None = None,
        tls: Tls | None = None,
        model: str = "",
        cadence: Cadence | None = None,
        process: Callable[[], OsProcess | None] = lambda: None,
        dialects: Sequence[Dialect] = DIALECTS,
        paths: Sequence[str] = KNOWN_PATHS,
    ) -> None:
        parts = urlsplit(url)
        self.name = name
        self.url = url
        self._client = Client(url, clock=clock, max_bytes=max_bytes, headers_file=headers_file, tls=tls)
        self._path = target_of(url) if parts.path not in ("", "/") or parts.query else ""
        self._target = ""
        """The path that answered, once one did; after redirects."""
        self._dialect = dialect
        self._dialects = tuple(dialects)
        self._paths_to_try = tuple(paths)
        self._reader: DialectReader | None = None
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._configured_model = model
        self._cadence = cadence
        self._process = process
        self._looked_up = _LookedUp()
        self._takeover = Takeover()
        self._progress_off = _Off()

    @property
    def dialect(self) -> Dialect | None:
        """The engine: as given, or as recognised so far."""
        return self._reader.dialect if self._reader is not None else self._dialect

    def read(self) -> ServerReading:
        """One look. Raises SourceError."""
        deadline = self._clock() + self._timeout_seconds
        answer, page = self._page(deadline)
        reader = self._reader
        assert reader is not None  # noqa: S101 - a page is only returned with its reader
        found = reader.read(page)
        if not found.series and not found.work:
            self._check_is_page(answer, page, self._target)
            reader, found = self._without_series(reader, page, found)
        if self._look_up(reader.dialect, found, deadline):
            found = reader.read(page)
        identity, started = self._identity(found)
        in_flight = self._in_flight(reader.dialect, found, deadline)
        live = reader.dialect.progress is not None and not self._progress_off.note and found.cadence is Cadence.FINISH
        return ServerReading(
            server=self.name,
            at_seconds=answer.at_seconds,
            engine=reader.dialect.name,
            cadence=self._cadence or (Cadence.STEP if live else found.cadence),
            version=self._looked_up.version,
            identity=identity,
            series=found.series,
            loads=found.loads,
            work=found.work,
            started_wall_seconds=started,
            in_flight=in_flight,
            note=self._progress_off.note,
            address=self._client.origin + self._path,
        )

    def close(self) -> None:
        """Drop the connection. Never raises."""
        self._client.close()

    # ---------------------------------------------------------------------------------------------------------- paths

    def _page(self, deadline: float) -> tuple[Answer, Page]:
        """The page and, in ``_reader``, who reads it."""
        if self._target:
            try:
                return self._attempt(self._target, deadline)
            except SourceError:
                self._target = ""
                raise
        failures: list[tuple[str, SourceError]] = []
        for path in self._paths():
            try:
                return self._attempt(path, deadline)
            except SourceError as failure:
                failures.append((path, failure))
                if failure.reason in (Reason.UNREACHABLE, Reason.TIMEOUT, Reason.PERMISSION, Reason.LOADING):
                    break
        raise min(failures, key=_telling)[1]

    def _paths(self) -> tuple[str, ...]:
        if self._path:
            return (self._path,)
        if self._dialect is not None:
            return self._dialect.paths
        # Also where an engine was recognised before: what answers there no more may have been replaced by another one.
        recognised = self._reader.dialect.paths if self._reader is not None else ()
        return tuple(dict.fromkeys((*self._paths_to_try, *recognised)))

    def _attempt(self, path: str, deadline: float) -> tuple[Answer, Page]:
        left = max(deadline - self._clock(), 0.001)
        answer = self._client.request(path, headers={"Accept": ACCEPT}, timeout_seconds=left)
        self._check_status(answer, path)
        page = self._checked(answer, path)
        if self._reader is None:
            self._reader = DialectReader(self._dialect or self._recognised(page, path), self._model)
        self._target = answer.target
        return answer, page

    def _check_status(self, answer: Answer, path: str) -> None:
        if answer.status == 200:
            return
        where = f"{self._client.origin}{path}"
        dialect = self.dialect
        enable = dialect.enable if dialect is not None else ""
        said = _said(answer)
        status = f"{where}: HTTP {answer.status}" + (f" ({said})" if said else "")
        if answer.status in (401, 403):
            raise SourceError(Reason.UNAUTHORIZED, status, "give the server's key in its headers_file")
        if answer.status == 404:
            raise SourceError(Reason.ABSENT, status, enable or "give the full address of its metrics page as the url")
        if answer.status == 501:
            raise SourceError(Reason.DISABLED, status, enable or "the server's metrics are switched off")
        if answer.status == 503:
            raise SourceError(Reason.LOADING, status, "the model is being loaded; nothing to do but wait")
        if answer.status == 400:
            hint = (
                "a router of llama-server tells of a model at `?model=NAME&autoload=false`, while it is loaded; on its own"
                " host its models are found by themselves"
            )
            raise SourceError(Reason.BROKEN, status, hint)
        raise SourceError(Reason.BROKEN, status, "see the server's own log")

    # ---------------------------------------------------------------------------------------------------------- pages

    def _checked(self, answer: Answer, path: str) -> Page:
        where = f"{self._client.origin}{path}"
        if answer.content_type in _NO_PAGES:
            raise SourceError(
                Reason.MALFORMED,
                f"{where}: {answer.content_type} instead of a metrics page",
                "give the full address of its Prometheus page as the url",
            )
        # A last line that nothing ends may be half a number.
        page = Page(answer.body if answer.is_framed else answer.body[: answer.body.rfind(b"\n") + 1])
        if answer.content_type == _OPENMETRICS and not page.is_complete():
            raise SourceError(Reason.MALFORMED, f"{where}: the page was cut off (no # EOF)")
        if self._reader is None:
            self._check_is_page(answer, page, path)
        return page

    def _check_is_page(self, answer: Answer, page: Page, path: str) -> None:
        """Looks at every line, so it is asked only where the engine is not known yet or its counters are missing."""
        if not page.is_empty() and not page.has_samples():
            raise SourceError(
                Reason.MALFORMED,
                f"{self._client.origin}{path}: not a metrics page, it begins with {answer.body[:40]!r}",
                "give the full address of its Prometheus page as the url",
            )

    def _recognised(self, page: Page, path: str) -> Dialect:
        dialect = recognise(page, self._dialects)
        if dialect is None:
            raise SourceError(
                Reason.DISABLED,
                f"{self._client.origin}{path}: a metrics page, but of no engine that is known",
                "say which engine it is (`engine:`), or which metrics count tokens (`engine: custom`, `tokens:`);"
                " an engine whose counters are switched off cannot be recognised",
            )
        return dialect

    def _without_series(
        self, reader: DialectReader, page: Page, found: PageReading
    ) -> tuple[DialectReader, PageReading]:
        """No series is there: a reading all the same where they come with the first request, or another engine by now."""
        dialect = reader.dialect
        speaks = bears(page, dialect.mark)
        if self._dialect is None and not speaks and not page.is_empty():
            reader = self._reader = DialectReader(self._recognised(page, self._target), self._model)
            return reader, reader.read(page)
        unmarked = not dialect.mark.any_prefix
        if reader.counts(page) or (dialect.late and (speaks or unmarked or page.is_empty())):
            return reader, found
        raise SourceError(
            Reason.DISABLED,
            f"{self._client.origin}{self._target}: the page has none of {dialect.name}'s counters"
            f" ({', '.join(reader.wanted()[:4])})",
            dialect.enable,
        )

    # -------------------------------------------------------------------------------------------- requests in work

    def _in_flight(self, dialect: Dialect, found: PageReading, deadline: float) -> tuple[InFlight, ...]:
        """Output tokens that the counters of the page do not hold yet, where the engine tells them."""
        output = [series for series in found.series if series.role is Role.OUTPUT]
        models = {series.model for series in output}
        if found.in_flight or dialect.progress is None or found.cadence is not Cadence.FINISH or len(models) != 1:
            return found.in_flight
        requests: Requests | None = {}
        if any(load.running for load in found.loads):
            requests = self._requests(dialect.progress, deadline)
        if requests is None:
            self._takeover = Takeover()
            return ()
        if not self._takeover.holds(sum(series.value for series in output), requests):
            self._progress_off = _Off(
                f"{self._client.origin}: its output counter did not take over the tokens of a request that ended, so"
                " tokens are counted when requests end",
                self._clock() + _MISTRUSTED_SECONDS,
            )
            return ()
        tokens = sum(requests.values())
        return (InFlight(models.pop(), tokens),) if tokens else ()

    def _requests(self, progress: Progress, deadline: float) -> Requests | None:
        """The requests in work; None where they are not known at this look."""
        off = self._progress_off
        left = min(deadline - self._clock(), _LOOK_UP_TIMEOUT_SECONDS)
        if self._clock() < off.until_seconds or left <= 0:
            return None
        path = _beside(self._target, progress.path)
        try:
            answer = self._client.request(path, headers={"Accept": "application/json"}, timeout_seconds=left)
        except SourceError:
            # The page was read a moment ago. It may pass; but a page must not wait for this at every look.
            self._progress_off = _Off(off.note, self._clock() + _SLOW_SECONDS)
            return None
        requests = requests_in(answer.body, progress) if answer.status == 200 else None
        if requests is not None:
            self._progress_off = _Off()
            return requests
        said = f"HTTP {answer.status}" if answer.status != 200 else "an answer of another form"
        self._progress_off = _Off(
            f"{self._client.origin}{path}: {said}, so tokens are counted when requests end; {progress.note}",
            self._clock() + _LOOK_UP_AGAIN_SECONDS,
        )
        return None

    # ------------------------------------------------------------------------------------------------- who it is

    def _identity(self, found: PageReading) -> tuple[ProcessIdentity | None, float | None]:
        """The process behind the page, and when its counters began at 0; None for what is unknown."""
        if found.started_wall_seconds is not None:
            return ProcessIdentity(found.started_wall_seconds), found.started_wall_seconds
        process = self._process()
        if process is None:
            return None, None
        identity = ProcessIdentity(process.started_wall_seconds, process.pid)
        return identity, None if process.keeps_counters else process.started_wall_seconds

    def _model(self) -> str:
        return self._configured_model or self._looked_up.model

    def _look_up(self, dialect: Dialect, found: PageReading, deadline: float) -> bool:
        """Ask for the model's name and the version once per process behind the page. True when the model's name is new."""
        now = self._clock()
        known = self._looked_up
        epoch = (self._identity(found)[0], self._client.connects)
        needs_model = not self._configured_model and bool(dialect.model_source)
        is_done = epoch == known.epoch and bool(known.model or not needs_model)
        if is_done or (known.at_seconds is not None and now - known.at_seconds < _LOOK_UP_AGAIN_SECONDS):
            return False
        answers: dict[str, Any] = {}
        model = self._value(dialect.model_source, answers, deadline) if needs_model else ""
        version = self._value(dialect.version_source, answers, deadline)
        # The lookups may themselves have had to connect anew.
        self._looked_up = _LookedUp(
            epoch=(epoch[0], self._client.connects),
            at_seconds=now,
            model=_base_name(model) or known.model,
            version=version or known.version,
        )
        return self._looked_up.model != known.model

    def _value(self, lookups: tuple[Lookup, ...], answers: dict[str, Any], deadline: float) -> str:
        """The first that is there. A failed lookup costs only itself: names are no reason to lose tokens."""
        for lookup in lookups:
            if lookup.path not in answers:
                answers[lookup.path] = self._json(lookup.path, deadline)
            value: Any = answers[lookup.path]
            try:
                for step in lookup.pointer:
                    value = value[step]
            except (KeyError, IndexError, TypeError):
                continue
            if isinstance(value, str) and value:
                return writable(value)
        return ""

    def _json(self, path: str, deadline: float) -> Any:
        left = min(deadline - self._clock(), _LOOK_UP_TIMEOUT_SECONDS)
        if left <= 0:
            return None
        try:
            answer = self._client.request(path, headers={"Accept": "application/json"}, timeout_seconds=left)
        except SourceError:
            return None
        if answer.status != 200 or len(answer.body) > _LOOK_UP_MAX_BYTES:
            return None
        try:
            return json_of(answer.body)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class _LookedUp:
    """What the engine said about itself, and for which process behind which connection."""

    epoch: tuple[ProcessIdentity | None, int] = (None, -1)
    at_seconds: float | None = None
    model: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class _Off:
    """Why requests in work are not asked for, and until when."""

    note: str = ""
    until_seconds: float = float("-inf")


_TELLING = (
    Reason.PERMISSION,
    Reason.UNAUTHORIZED,
    Reason.LOADING,
    Reason.DISABLED,
    Reason.UNREACHABLE,
    Reason.TIMEOUT,
    Reason.BROKEN,
    Reason.MALFORMED,
    Reason.ABSENT,
)


def _telling(failed: tuple[str, SourceError]) -> tuple[int, bool]:
    """When several paths were tried: which failure says most about the server; of equals, that of the usual path."""
    path, failure = failed
    rank = _TELLING.index(failure.reason) if failure.reason in _TELLING else len(_TELLING)
    return rank, path != "/metrics"


def _beside(page: str, path: str) -> str:
    """The address of something that stands beside the page, with the page's own query (a router's model)."""
    place, mark, query = page.partition("?")
    return place.rpartition("/")[0] + path + mark + query


def _base_name(model: str) -> str:
    """A file's own name: llama.cpp's last resort is the path of the model on its disk."""
    return model.rpartition("/")[2] if model.endswith(".gguf") else model


def _said(answer: Answer) -> str:
    """What a server says about its refusal, where it says it in the usual JSON form; one line, short."""
    if answer.content_type != "application/json" or len(answer.body) > 4096:
        return ""
    try:
        error = json_of(answer.body)
        error = error.get("error", error)
        text = error.get("message", "") if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        return ""
    return " ".join(writable(str(text)).split())[:200]


def recognise_at(
    url: str, dialects: Sequence[Dialect] = DIALECTS, expected: Sequence[Dialect] = (), *, timeout_seconds: float = 1.0
) -> Dialect:
    """Ask an address once which engine speaks there.

    Args:
        url: the base address.
        dialects: rows to recognise from.
        expected: engines that the process behind the address is called like: only their paths are asked, and that of our
            own counters, which it may have in it; one alone is believed where a page bears no mark (a server that has not
            worked yet, or one whose page has none).
        timeout_seconds: for all of it.

    Raises:
        SourceError: it is none of them, or it cannot be known now (LOADING, UNREACHABLE, UNAUTHORIZED, DISABLED ...).
    """
    paths = KNOWN_PATHS
    if expected:
        paths = tuple(dict.fromkeys((*(path for dialect in expected for path in dialect.paths), TPW_HOOK.paths[0])))
    source = ScrapeSource("probe", url, timeout_seconds=timeout_seconds, dialects=dialects, paths=paths)
    try:
        source.read()
        assert source.dialect is not None  # noqa: S101 - a reading has one
        return source.dialect
    except SourceError as failure:
        if failure.reason is not Reason.DISABLED or len(expected) != 1:
            raise
    finally:
        source.close()
    source = ScrapeSource("probe", url, expected[0], timeout_seconds=timeout_seconds)
    try:
        source.read()
    finally:
        source.close()
    return expected[0]
