"""HTTP/1.1 message heads: parses requests, formats responses. No sockets."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from urllib.parse import parse_qs, unquote

_REASONS = {status.value: status.phrase for status in HTTPStatus}


@dataclass(frozen=True, slots=True)
class Request:
    """One request without its body."""

    method: str
    path: str
    query: Mapping[str, Sequence[str]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    """By lower-case name."""


@dataclass(frozen=True, slots=True)
class Response:
    """One response."""

    body: bytes
    status: int = 200
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


class MalformedError(Exception):
    """A request that is not valid HTTP/1.1. ``status`` is the response status; the connection is closed after it."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


def parse_head(head: bytes) -> tuple[Request, bool]:
    """The request, and whether the client wants to keep the connection. Raises MalformedError."""
    lines = head.decode("latin-1").lstrip("\r\n").split("\r\n")
    try:
        method, target, version = lines[0].split(" ")
    except ValueError:
        raise MalformedError(400, "not an HTTP request") from None
    if not method.isalpha() or not method.isascii():
        raise MalformedError(400, "not an HTTP method")
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        raise MalformedError(505 if version.startswith("HTTP/") else 400, "only HTTP/1.1 is supported")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise MalformedError(400, "a header line is malformed")
        name, value = name.lower(), value.strip()
        if name in headers:
            if name in ("content-length", "host"):
                raise MalformedError(400, f"two {name} headers")
            value = f"{headers[name]},{value}"
        headers[name] = value
    if version == "HTTP/1.1" and "host" not in headers:
        raise MalformedError(400, "the Host header is missing")
    if "://" in target:
        _, slash, rest = target.partition("://")[2].partition("/")
        target = slash + rest or "/"
    path, _, query = target.partition("?")
    connection = headers.get("connection", "").lower()
    keep = "close" not in connection if version == "HTTP/1.1" else "keep-alive" in connection
    if "%" in path:
        path = unquote(path)
    return Request(method, path, parse_qs(query, keep_blank_values=True) if query else {}, headers), keep


def response_head(
    status: int, content_type: str, length: int, headers: tuple[tuple[str, str], ...], *, close: bool
) -> bytes:
    """The head of a response with a body of ``length`` bytes, including the empty line."""
    lines = [
        f"HTTP/1.1 {status} {_REASONS.get(status, '')}",
        f"Content-Type: {content_type}",
        f"Content-Length: {length}",
        f"Date: {_date(int(time.time()))}",
    ]
    lines += [f"{name}: {value}" for name, value in headers]
    if close:
        lines.append("Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


_last_date = (0, "")


def _date(second: int) -> str:
    """The HTTP date, cached for the second."""
    global _last_date  # noqa: PLW0603 (one tuple, replaced as a whole)
    known, text = _last_date
    if known != second:
        text = formatdate(second, usegmt=True)
        _last_date = (second, text)
    return text
