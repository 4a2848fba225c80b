"""Reads a server's metrics page over HTTP.

Every answer becomes a reading or a :class:`~tpw.model.SourceError` that names the problem, the address and the remedy. The
connection, the recognised engine and the path are kept between reads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tpw.http.client import Client, Tls
from tpw.http.messages import Answer, json_of
from tpw.model import (
    Cadence,
    KvTransfer,
    OsProcess,
    Phase,
    ProcessIdentity,
    Reason,
    ServerReading,
    Slo,
    SourceError,
)
from tpw.tokens.dialects import Dialect, Level
from tpw.tokens.engines import DIALECTS, KNOWN_PATHS, TPW_HOOK
from tpw.tokens.lookups import EngineFacts, printable
from tpw.tokens.page import Page
from tpw.tokens.progress import RunningRequests
from tpw.tokens.reading import DialectReader, PageReading, has_mark, recognise

ACCEPT = "text/plain;version=0.0.4;q=1,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1"
"""Plain text is preferred; engines that send OpenMetrics anyway (Rust clients) are read too."""

_OPENMETRICS = "application/openmetrics-text"
_NO_PAGES = ("application/json", "text/html", "application/octet-stream")
_FULL_URL = "set the server's `url` to the full address of its Prometheus page"


class ScrapeSource:
    """A :class:`tpw.tokens.TokenSource` over HTTP.

    Args:
        name: the server's name.
        url: a base address (``http://127.0.0.1:8000``: the engine's paths are tried) or the full address of the page.
        dialect: the engine's row; None recognises it from the page.
        clock: monotonic seconds.
        timeout_seconds: for a whole read.
        max_bytes: maximum size of the page.
        headers_file: see :class:`tpw.http.client.Client`.
        tls: for https.
        model: the model's name if the series carry none; "" requests it from the server.
        cadence: overrides the dialect's, for a server that only publishes the engine's names.
        process: the process that listens, or None; identifies the server if the page does not.
        phase: of a prefill and decode pair; None is known from the process, or both.
        targets: seconds of each latency that has a target.
        dialects: rows to recognise from.
        paths: paths to try while the engine is unknown.
        reader: reads the pages, with the dialect; None makes one.

    Raises:
        ValueError: from the constructor, for an invalid URL.
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
        phase: Phase | None = None,
        targets: Mapping[Slo, float] | None = None,
        dialects: Sequence[Dialect] = DIALECTS,
        paths: Sequence[str] = KNOWN_PATHS,
        reader: DialectReader | None = None,
    ) -> None:
        self.name = name
        self.url = url
        self._client = Client(url, clock=clock, max_bytes=max_bytes, headers_file=headers_file, tls=tls)
        target = self._client.address.target
        self._path = "" if target == "/" else target
        self._target = ""
        """The path that answered last, after redirects; "" if none did."""
        self._dialect = dialect
        self._dialects = tuple(dialects)
        self._paths_to_try = tuple(paths)
        self._reader = reader
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._configured = cadence, phase, targets or {}
        self._process = process
        self._facts = EngineFacts(self._client, clock, model)
        self._requests = RunningRequests(self._client, clock)

    @property
    def dialect(self) -> Dialect | None:
        """The engine, as configured or recognised; None if it is unknown yet."""
        return self._reader.dialect if self._reader is not None else self._dialect

    def read(self) -> ServerReading:
        """Read the page. Raises SourceError."""
        deadline = self._clock() + self._timeout_seconds
        answer, page = self._page(deadline)
        reader = self._reader
        assert reader is not None  # noqa: S101 - a page is only returned with its reader
        process = self._process()
        transfer = KvTransfer() if process is None else process.transfer
        cadence, phase, _ = self._configured
        transfer = replace(transfer, phase=phase) if phase else transfer
        found = reader.read(page, transfer)
        if not found.series and not found.work:
            self._check_is_page(answer, page, self._target)
            reader, found = self._without_series(reader, page, found)
        identity, started = _identity(found, process)
        if self._facts.update(reader.dialect, identity, deadline):
            found = reader.read(page, transfer)
        in_flight = self._requests.in_flight(reader.dialect, found, self._target, deadline)
        live = reader.dialect.progress is not None and not self._requests.note and found.cadence is Cadence.FINISH
        return ServerReading(
            server=self.name,
            at_seconds=answer.at_seconds,
            engine=reader.dialect.name,
            cadence=cadence or (Cadence.STEP if live else found.cadence),
            version=self._facts.version,
            identity=identity,
            series=found.series,
            loads=found.loads,
            work=found.work,
            uncounted=found.uncounted,
            refused=found.refused,
            started_wall_seconds=started,
            in_flight=in_flight,
            note="; ".join(filter(None, (self._requests.note, found.note))),
            service=found.service,
            address=self._client.origin + self._path,
            phase=transfer.phase or (None if reader.dialect.level is Level.ENGINE else Phase.ROUTER),
        )

    def _reader_of(self, dialect: Dialect) -> DialectReader:
        return DialectReader(dialect, self._facts.model, self._configured[2])

    def close(self) -> None:
        """Close the connection. Never raises."""
        self._client.close()

    # ---------------------------------------------------------------------------------------------------------- paths

    def _page(self, deadline: float) -> tuple[Answer, Page]:
        """The page; ``_reader`` is set to its reader."""
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
        raise min(failures, key=_severity)[1]

    def _paths(self) -> tuple[str, ...]:
        if self._path:
            return (self._path,)
        if self._dialect is not None:
            return self._dialect.paths
        # Include the paths of the engine that was recognised before: another engine may have replaced it.
        recognised = self._reader.dialect.paths if self._reader is not None else ()
        return tuple(dict.fromkeys((*self._paths_to_try, *recognised)))

    def _attempt(self, path: str, deadline: float) -> tuple[Answer, Page]:
        left = max(deadline - self._clock(), 0.001)
        answer = self._client.request(path, headers={"Accept": ACCEPT}, timeout_seconds=left)
        self._check_status(answer, path)
        page = self._checked(answer, path)
        if self._reader is None:
            self._reader = self._reader_of(self._dialect or self._recognised(page, path))
        self._target = answer.target
        return answer, page

    def _check_status(self, answer: Answer, path: str) -> None:
        if answer.status == 200:
            return
        where = f"{self._client.origin}{path}"
        dialect = self.dialect
        enable = dialect.enable if dialect is not None else ""
        message = _error_message(answer)
        status = f"{where}: HTTP {answer.status}" + (f" ({message})" if message else "")
        if answer.status in (401, 403):
            raise SourceError(Reason.UNAUTHORIZED, status, "put the server's key into its `headers_file`")
        if answer.status == 404:
            raise SourceError(Reason.ABSENT, status, enable or _FULL_URL)
        if answer.status == 501:
            raise SourceError(Reason.DISABLED, status, enable or "enable the server's metrics")
        if answer.status == 503:
            raise SourceError(Reason.LOADING, status, "the model is loading; no action is needed")
        if answer.status == 400:
            hint = (
                "a router of llama-server needs `?model=NAME&autoload=false` in the `url`, and answers while that model is"
                " loaded; on its own host its models are discovered"
            )
            raise SourceError(Reason.BROKEN, status, hint)
        raise SourceError(Reason.BROKEN, status, "see the server's log")

    # ---------------------------------------------------------------------------------------------------------- pages

    def _checked(self, answer: Answer, path: str) -> Page:
        where = f"{self._client.origin}{path}"
        if answer.content_type in _NO_PAGES:
            raise SourceError(
                Reason.MALFORMED,
                f"{where}: {answer.content_type} instead of a metrics page",
                _FULL_URL,
            )
        # A last line without an end may be half a number.
        page = Page(answer.body if answer.is_framed else answer.body[: answer.body.rfind(b"\n") + 1])
        if answer.content_type == _OPENMETRICS and not page.is_complete():
            raise SourceError(Reason.MALFORMED, f"{where}: the page was cut off (no # EOF)")
        if self._reader is None:
            self._check_is_page(answer, page, path)
        return page

    def _check_is_page(self, answer: Answer, page: Page, path: str) -> None:
        """Reads every line, so it is called only if the engine is unknown or its counters are missing."""
        if not page.is_empty() and not page.has_samples():
            raise SourceError(
                Reason.MALFORMED,
                f"{self._client.origin}{path}: not a metrics page, it begins with {answer.body[:40]!r}",
                _FULL_URL,
            )

    def _recognised(self, page: Page, path: str) -> Dialect:
        dialect = recognise(page, self._dialects)
        if dialect is None:
            raise SourceError(
                Reason.DISABLED,
                f"{self._client.origin}{path}: a metrics page of no known engine",
                "set the server's `engine`, or name the metrics that count tokens (`engine: custom`, `tokens:`);"
                " an engine with disabled counters is not recognised",
            )
        return dialect

    def _without_series(
        self, reader: DialectReader, page: Page, found: PageReading
    ) -> tuple[DialectReader, PageReading]:
        """The page has no series: a valid reading if they appear with the first request, or another engine's page."""
        dialect = reader.dialect
        is_marked = has_mark(page, dialect.mark)
        if self._dialect is None and not is_marked and not page.is_empty():
            reader = self._reader = self._reader_of(self._recognised(page, self._target))
            return reader, reader.read(page)
        has_no_prefix = not dialect.mark.any_prefix
        if reader.counts(page) or (dialect.late and (is_marked or has_no_prefix or page.is_empty())):
            return reader, found
        raise SourceError(
            Reason.DISABLED,
            f"{self._client.origin}{self._target}: the page has none of {dialect.name}'s counters"
            f" ({', '.join(reader.wanted()[:4])})",
            dialect.enable,
        )


def _identity(found: PageReading, process: OsProcess | None) -> tuple[ProcessIdentity | None, float | None]:
    """The process behind the page, and when its counters began at 0; None for what is unknown."""
    if found.started_wall_seconds is not None:
        return ProcessIdentity(found.started_wall_seconds), found.started_wall_seconds
    if process is None:
        return None, None
    identity = ProcessIdentity(process.started_wall_seconds, process.pid)
    return identity, None if process.keeps_counters else process.started_wall_seconds


_BY_SEVERITY = (
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


def _severity(failed: tuple[str, SourceError]) -> tuple[int, bool]:
    """Sorts the failures of several paths: the most informative one first; of equals, that of the usual path."""
    path, failure = failed
    rank = _BY_SEVERITY.index(failure.reason) if failure.reason in _BY_SEVERITY else len(_BY_SEVERITY)
    return rank, path != "/metrics"


def _error_message(answer: Answer) -> str:
    """The message of an error in OpenAI's JSON form, on one short line; "" if there is none."""
    if answer.content_type != "application/json" or len(answer.body) > 4096:
        return ""
    try:
        error = json_of(answer.body, answer.target)
        error = error.get("error", error)
        text = error.get("message", "") if isinstance(error, dict) else error
    except (SourceError, AttributeError):
        return ""
    return " ".join(printable(str(text)).split())[:200]


def recognise_at(
    url: str, dialects: Sequence[Dialect] = DIALECTS, expected: Sequence[Dialect] = (), *, timeout_seconds: float = 1.0
) -> Dialect:
    """Recognise the engine at an address.

    Args:
        url: the base address.
        dialects: rows to recognise from.
        expected: engines that match the name of the listening process: only their paths are tried, and that of this
            project's middleware, which the process may contain. A single one is accepted for a page without a mark (a
            server without requests so far, or an engine without a mark).
        timeout_seconds: for each of at most two reads.

    Raises:
        SourceError: it is none of them, or unknown for now (LOADING, UNREACHABLE, UNAUTHORIZED, DISABLED ...).
    """
    paths = KNOWN_PATHS
    if expected:
        paths = tuple(dict.fromkeys((*(path for dialect in expected for path in dialect.paths), TPW_HOOK.paths[0])))
    tls = Tls(skip_verify=True)  # nothing secret is sent to a process of this host
    source = ScrapeSource("probe", url, timeout_seconds=timeout_seconds, dialects=dialects, paths=paths, tls=tls)
    try:
        source.read()
        assert source.dialect is not None  # noqa: S101 - a reading has one
        return source.dialect
    except SourceError as failure:
        if failure.reason is not Reason.DISABLED or len(expected) != 1:
            raise
    finally:
        source.close()
    source = ScrapeSource("probe", url, expected[0], timeout_seconds=timeout_seconds, tls=tls)
    try:
        source.read()
    finally:
        source.close()
    return expected[0]
