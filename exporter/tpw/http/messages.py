"""Requests and answers, and the reasons of answers that cannot be used. Does no I/O."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from tpw.model import Reason, SourceError

MAX_BYTES = 8 << 20
"""Largest body that is read, before and after decompression. A year of quarter-hourly prices in the longest format is a
third of it, a page of a busy inference server a tenth."""

MAX_RETRY_SECONDS = 86400.0
"""The longest wait that a service may ask for: a day without prices."""

_REASONS = {
    204: Reason.NOT_YET,
    401: Reason.UNAUTHORIZED,
    403: Reason.UNAUTHORIZED,
    404: Reason.ABSENT,
    410: Reason.ABSENT,
    501: Reason.DISABLED,
    503: Reason.LOADING,
}
_HINTS = {
    Reason.UNAUTHORIZED: "Check the secret that is configured (headers, token or credentials file) and its permissions.",
    Reason.ABSENT: "Check the address and its path.",
}


@dataclass(frozen=True, slots=True)
class Request:
    """One request to any address. With a body it is a POST, else a GET."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        """The URL without user and query, which may hold secrets: for messages."""
        return address_of(self.url)


@dataclass(frozen=True, slots=True)
class Answer:
    """One complete answer, of any status."""

    status: int
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Names in lower case."""
    target: str = ""
    """Path and query that answered, after redirects."""
    at_seconds: float = 0.0
    """Monotonic instant halfway between the request and the first line of the answer: when the server read its state."""
    is_framed: bool = True
    """False where only the end of the connection marks the end of the body, so that it may have been cut off."""

    @property
    def content_type(self) -> str:
        """The media type in lower case, without parameters; "" where there is none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


Fetch = Callable[[Request], Answer]
"""Sends a request to any address and returns the answer, whatever its status. Raises SourceError where there is none."""


UNIX = "unix:"
"""Beginning of the address of a Unix socket: ``unix:/run/server.sock``, or ``unix:/run/server.sock:/metrics`` with what is
requested there, as nginx writes them."""


def socket_of(url: str) -> tuple[str, str]:
    """Path of the Unix socket of an address, and what is requested there. Raises ValueError."""
    path, separator, target = url.removeprefix(UNIX).partition(":/")
    if not url.startswith(UNIX) or not path.startswith("/") or "\0" in path:
        raise ValueError(f"{url!r} is not the address of a Unix socket")
    return path, "/" + target if separator else "/"


def address_of(url: str) -> str:
    """A URL without user, query and fragment."""
    if url.startswith(UNIX):
        return url.partition("?")[0]
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class StatusError(SourceError):
    """An answer without a usable body; ``status`` is its status."""

    def __init__(self, reason: Reason, detail: str, hint: str, answer: Answer) -> None:
        super().__init__(reason, detail, hint, retry_after_seconds=retry_after_seconds(answer.headers))
        self.status = answer.status


def status_error(where: str, answer: Answer, *, reason: Reason | None = None, hint: str = "") -> StatusError:
    """The error for an answer without a usable body.

    Args:
        where: the address, without secrets.
        answer: the answer.
        reason: overrides the usual reason of the status.
        hint: overrides the usual hint of the reason.
    """
    found = reason or _REASONS.get(answer.status, Reason.BROKEN)
    detail = f"{where}: HTTP {answer.status}{_excerpt(answer.body)}"
    return StatusError(found, detail, hint or _HINTS.get(found, ""), answer)


def retry_after_seconds(headers: Mapping[str, str]) -> float:
    """How long the service asks to wait: ``Retry-After`` is seconds, or a date, which is compared with the ``Date`` of the
    answer (RFC 9110). At most a day; 0 where it asks for nothing that can be read."""
    text = headers.get("retry-after", "").strip()
    if text.isdecimal():
        return min(float(text), MAX_RETRY_SECONDS)
    try:
        wait = parsedate_to_datetime(text) - parsedate_to_datetime(headers.get("date", ""))
    except (ValueError, TypeError):
        return 0.0
    return min(max(wait.total_seconds(), 0.0), MAX_RETRY_SECONDS)


def json_of(body: str | bytes, what: str) -> Any:
    """The JSON value in a body. Raises SourceError (MALFORMED), which names the document as ``what``."""
    try:
        return json.loads(body)
    except RecursionError:
        raise SourceError(Reason.MALFORMED, f"{what} is nested too deep") from None
    except ValueError as error:  # includes bytes that are not text
        raise SourceError(Reason.MALFORMED, f"{what} is not JSON: {brief(error)}") from None


def brief(error: BaseException, limit: int = 200) -> str:
    """The message of an error on one line of limited length: it may quote the body of an answer."""
    text = f"no field {error}" if isinstance(error, KeyError) else str(error)
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _excerpt(body: bytes) -> str:
    """The start of an error page on one line, printable."""
    text = " ".join(body[:300].decode("utf-8", "replace").split())[:160]
    return f": {''.join(letter if letter.isprintable() else '?' for letter in text)}" if text else ""
