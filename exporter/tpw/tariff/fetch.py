"""Fetching a page of prices: one request, one answer, bounded in time and bytes.

Sources take a :data:`Fetch` as an argument; :func:`over_http` is the real one. A failure is a SourceError that says
what happened to which address; an address is shown without its query, which may hold a key.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tpw.model import Reason, SourceError

if TYPE_CHECKING:
    from http.client import HTTPMessage, HTTPResponse
    from typing import IO
    from urllib.request import OpenerDirector
    from urllib.request import Request as Asked

TIMEOUT_SECONDS = 20.0
MAX_BYTES = 8 * 1024 * 1024
"""A year of quarter-hours in the wordiest format is a third of this; more is not a price list."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask for. With a body it is a POST."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        """The address without its query, for messages."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@dataclass(frozen=True, slots=True)
class Response:
    """What came back."""

    status: int
    body: bytes = field(repr=False)


Fetch = Callable[[Request], Response]
"""Raises SourceError where no answer came; any status is an answer."""


def over_http(request: Request, timeout_seconds: float = TIMEOUT_SECONDS, max_bytes: int = MAX_BYTES) -> Response:
    """Fetch over HTTP(S), proxies of the environment honoured. An answer may send the question on; to another host it goes
    without the headers of this one, which may log in."""
    import http.client
    import urllib.error
    import urllib.request

    if urlsplit(request.url).scheme not in {"http", "https"}:
        raise SourceError(Reason.UNREACHABLE, f"{request.address} is neither http nor https")
    headers = {"User-Agent": "tpw-exporter", "Accept": "*/*", **request.headers}
    asked = urllib.request.Request(request.url, data=request.body, headers=headers)  # noqa: S310 - checked above
    try:
        with _opener().open(asked, timeout=timeout_seconds) as answer:
            body = _all_of(answer, max_bytes, time.monotonic() + timeout_seconds)
            status = answer.status
            expected = answer.headers.get("Content-Length", "")
    except urllib.error.HTTPError as error:
        with error:
            return Response(error.code, error.read(4096) if error.fp is not None else b"")
    except TimeoutError as error:
        raise SourceError(Reason.TIMEOUT, f"{request.address} did not answer in {timeout_seconds:g} s") from error
    except http.client.IncompleteRead as error:
        raise SourceError(Reason.UNREACHABLE, f"{request.address} ended its answer early") from error
    except (OSError, http.client.HTTPException) as error:
        if isinstance(getattr(error, "reason", None), TimeoutError):
            raise SourceError(Reason.TIMEOUT, f"{request.address} did not answer in {timeout_seconds:g} s") from error
        said = getattr(error, "reason", None) or error
        raise SourceError(Reason.UNREACHABLE, f"{request.address} cannot be reached: {said}") from error
    if len(body) > max_bytes:
        raise SourceError(Reason.MALFORMED, f"{request.address} sent more than {max_bytes // 1024 // 1024} MiB")
    if expected.isdigit() and len(body) < int(expected):
        raise SourceError(Reason.UNREACHABLE, f"{request.address} ended its answer early")
    return Response(status, body)


@cache
def _opener() -> OpenerDirector:
    import urllib.request

    class Redirects(urllib.request.HTTPRedirectHandler):
        def redirect_request(
            self, req: Asked, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
        ) -> Asked | None:
            following = super().redirect_request(req, fp, code, msg, headers, newurl)
            if following is not None and urlsplit(newurl)[:2] != urlsplit(req.full_url)[:2]:
                plain = {"User-agent", "Accept"}
                following.headers = {name: value for name, value in following.headers.items() if name in plain}
            return following

    return urllib.request.build_opener(Redirects())


def _all_of(answer: HTTPResponse, max_bytes: int, deadline: float) -> bytes:
    """The body, one byte more than allowed at most. A server that drips is cut off: socket timeouts are per packet."""
    parts: list[bytes] = []
    size = 0
    while size <= max_bytes and (part := answer.read1(65536)):
        if time.monotonic() > deadline:
            raise TimeoutError
        parts.append(part)
        size += len(part)
    return b"".join(parts)[: max_bytes + 1]


_TOKEN_HINT = "check the token or key file, and that the account may use this service"  # noqa: S105 - a sentence


def body_of(request: Request, response: Response) -> bytes:
    """The body of a good answer; SourceError for any other. 204 means that nothing is published yet."""
    status, address = response.status, request.address
    if status == HTTPStatus.NO_CONTENT:
        raise SourceError(Reason.NOT_YET, f"{address} has not published yet (HTTP 204)")
    if status == HTTPStatus.OK:
        if len(response.body) > MAX_BYTES:
            raise SourceError(Reason.MALFORMED, f"{address} sent more than {MAX_BYTES // 1024 // 1024} MiB")
        return response.body
    said = f"{address} answered HTTP {status}{_excerpt(response.body)}"
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        raise SourceError(Reason.UNAUTHORIZED, said, _TOKEN_HINT)
    if status in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}:
        raise SourceError(Reason.ABSENT, said, "check area, tariff or product code; services also move or close")
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        raise SourceError(Reason.BROKEN, said, "too many requests from this address or key; it is asked again later")
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        raise SourceError(Reason.MALFORMED, said, "the service does not accept the question")
    raise SourceError(Reason.BROKEN, said)


def _excerpt(body: bytes) -> str:
    """The start of an error's text, printable, on one line."""
    text = " ".join(body[:300].decode("utf-8", "replace").split())
    return f": {''.join(each if each.isprintable() else '?' for each in text[:160])}" if text else ""


def json_of(body: str | bytes, what: str) -> Any:
    """The JSON in a body; SourceError(MALFORMED) where it is none. ``what`` names it in the message."""
    import json

    try:
        return json.loads(body)
    except RecursionError as error:
        raise SourceError(Reason.MALFORMED, f"{what} is nested too deep") from error
    except ValueError as error:  # bytes that are no text, too
        raise SourceError(Reason.MALFORMED, f"{what} is not JSON: {brief(error)}") from error


def brief(error: BaseException, limit: int = 200) -> str:
    """What an error says, short enough for a log line: bodies of feeds end up in messages."""
    said = f"no field {error}" if isinstance(error, KeyError) else str(error)
    said = " ".join(said.split())
    return said if len(said) <= limit else f"{said[: limit - 3]}..."


def secret_of(path: str, what: str) -> str:
    """The one line of a file that holds a key or token. Read anew each time, so that it can be rotated."""
    from pathlib import Path

    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = Reason.PERMISSION if isinstance(error, PermissionError) else Reason.ABSENT
        raise SourceError(reason, f"{what} cannot be read from {path}: {error}") from error
    if not text or "\n" in text:
        raise SourceError(Reason.MALFORMED, f"{path} should hold {what}, on one line", "write the bare value into it")
    return text
