"""Heads of answers are read as the standard library reads them."""

from __future__ import annotations

import http.client
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpw.http.response import Response


class Sock:
    """A socket that has received some bytes."""

    def __init__(self, received: bytes) -> None:
        self._received = received

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._received)


def read(kind: type[http.client.HTTPResponse], received: bytes, method: str = "GET") -> tuple[Any, ...]:
    response = kind(Sock(received), method=method)  # type: ignore[arg-type]
    try:
        response.begin()
        return response.status, response.version, bool(response.chunked), response.length, response.will_close
    except http.client.HTTPException as error:
        return (type(error),)


HEADS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n",
    b"HTTP/1.1 200 OK\ncontent-length:12\nConnection: close\n\n",
    b"HTTP/1.0 200\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 3\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: CHUNKED\r\nContent-Length: 3\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: a\r\n  b\r\nContent-Length: 7\r\n\r\n",
    b"HTTP/2.0 200 OK\r\n\r\n",
    b"HTTP/1.1 2000 OK\r\n\r\n",
    b"HTTP/1.1 two OK\r\n\r\n",
    b"SSH-2.0-OpenSSH\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 101 + b"\r\n",
    b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70000 + b"\r\n\r\n",
    b"",
]


@pytest.mark.parametrize("received", HEADS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_head_is_read_like_by_the_standard_library(received: bytes, method: str) -> None:
    assert read(Response, received, method) == read(http.client.HTTPResponse, received, method)


@given(st.binary(max_size=200), st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length:"]))
def test_any_bytes_are_a_head_or_an_http_exception(received: bytes, start: bytes) -> None:
    read(Response, start + received)


@pytest.mark.parametrize("digits", [19, 5000])
def test_an_absurd_length_is_ignored(digits: int) -> None:
    received = b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * digits + b"\r\n\r\n"

    assert read(Response, received) == (200, 11, False, None, True)


def test_endless_interim_answers_are_an_error() -> None:
    assert read(Response, b"HTTP/1.1 100 Continue\r\n\r\n" * 100) == (http.client.BadStatusLine,)
