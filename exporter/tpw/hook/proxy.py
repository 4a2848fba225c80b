"""A reverse proxy that counts the tokens of what passes through it: for servers that publish no counters (Ollama).

It hands every byte on as it comes, in both directions, and looks at answers only after they are on their way. One
connection of a client is one connection to the server. The counters are a Prometheus page at ``/tpw/metrics`` of the
proxy's own address, the exporter's engine ``tpw_hook`` reads them.

A client that gives up is noticed at the next piece for it; a server that works on one single answer is let finish it.

Changed on the way are two request headers: ``Host``, because servers check it, and ``Accept-Encoding``, because what is
compressed cannot be counted. Standard library only; imports nothing of the exporter outside this package.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from tpw.hook.counting import CONTENT_TYPE, AnswerWatch, Counters, is_counted

_HEAD_BYTES = 64 << 10
_PIECE_BYTES = 64 << 10
_CONNECT_SECONDS = 10.0
_NO_BODY = (204, 304)


class _MalformedError(Exception):
    """What came is not HTTP/1."""


@dataclass(frozen=True, slots=True)
class _Head:
    """The first line of a message and its headers, in their order and spelling."""

    first: str
    headers: tuple[tuple[str, str], ...]

    def value(self, name: str) -> str:
        """All values of a header, joined; "" where it is absent."""
        return ",".join(value for each, value in self.headers if each.lower() == name)

    def encoded(self) -> bytes:
        """As it goes over the wire."""
        lines = (self.first, *(f"{name}: {value}" for name, value in self.headers))
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"

    @property
    def is_chunked(self) -> bool:
        """Whether the body comes in chunks."""
        return "chunked" in self.value("transfer-encoding").lower()

    @property
    def length(self) -> int | None:
        """How long the body is; None where that is not said."""
        text = self.value("content-length").strip()
        if not text:
            return None
        if not text.isdecimal():
            raise _MalformedError(f"Content-Length {text!r}")
        return int(text)


@dataclass(frozen=True, slots=True)
class _Upstream:
    """The server behind."""

    host: str
    port: int
    authority: str
    tls: ssl.SSLContext | None

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Raises OSError, TimeoutError."""
        opening = asyncio.open_connection(
            self.host, self.port, ssl=self.tls, limit=_HEAD_BYTES, server_hostname=self.host if self.tls else None
        )
        return await asyncio.wait_for(opening, _CONNECT_SECONDS)


async def serve_proxy(
    upstream: str,
    listen: str = "127.0.0.1:11435",
    *,
    metrics_path: str = "/tpw/metrics",
    ready: Callable[[str, int], None] | None = None,
    stop: asyncio.Event | None = None,
    counters: Counters | None = None,
) -> None:
    """Serve until ``stop`` is set, or for ever; then close what is open.

    Args:
        upstream: the server's base address, ``http://127.0.0.1:11434``; no path.
        listen: ``host:port``; port 0 takes any. ``:port`` listens on all interfaces.
        metrics_path: where the proxy publishes its counters.
        ready: told host and port once it listens.
        stop: ends it.
        counters: where to count.

    Raises:
        ValueError: an address that is none.
        OSError: the address cannot be listened on.
    """
    proxy = _Proxy(_upstream_of(upstream), metrics_path, counters or Counters())
    host, _, port = listen.rpartition(":")
    if not port.isdecimal():
        raise ValueError(f"not an address to listen on: {listen!r}")
    server = await asyncio.start_server(proxy.serve, host.strip("[]") or None, int(port), limit=_HEAD_BYTES)
    try:
        if ready is not None:
            name = server.sockets[0].getsockname()
            ready(name[0], name[1])
        await (stop or asyncio.Event()).wait()
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()


def _upstream_of(address: str) -> _Upstream:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ValueError(f"not the base address of a server: {address!r}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    authority = parts.netloc.rpartition("@")[2]
    return _Upstream(parts.hostname, port, authority, ssl.create_default_context() if parts.scheme == "https" else None)


class _Proxy:
    """The connections that are open, and what they have counted."""

    def __init__(self, upstream: _Upstream, metrics_path: str, counters: Counters) -> None:
        self._upstream = upstream
        self._metrics_path = metrics_path
        self._counters = counters
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - start_server runs this in a task
        self._tasks.add(task)
        try:
            await self._converse(reader, writer)
        except (OSError, EOFError, _MalformedError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # the client or the server hung up, or this proxy is being stopped: there is nobody left to tell
        finally:
            self._tasks.discard(task)
            await _closed(writer)

    async def close(self) -> None:
        """End all conversations."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        try:
            while (head := await _read_head(reader)) is not None:
                method, target, _ = _request_line(head)
                if target.partition("?")[0] == self._metrics_path and method in ("GET", "HEAD"):
                    await self._publish(writer, method)
                    continue
                try:
                    behind = behind or await self._upstream.connect()
                except OSError as error:
                    await _refuse(writer, f"the server behind this proxy cannot be reached: {error}")
                    return
                if not await self._exchange(head, reader, writer, *behind):
                    return
        finally:
            if behind is not None:
                await _closed(behind[1])

    async def _exchange(
        self,
        head: _Head,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        from_server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> bool:
        """One request and its answer. Returns whether the connection may be used again."""
        method, target, _ = _request_line(head)
        counted = is_counted(method, target.partition("?")[0])
        watch = AnswerWatch(self._counters) if counted else None
        self._counters.running += counted
        to_server.write(self._rewritten(head).encoded())
        # The request's body may still be going up when the answer begins (100 Continue, early refusals).
        going_up = asyncio.create_task(_hand_on(_body(head, reader, is_answer=False), to_server))
        try:
            answer = await _final_head(from_server, writer)
            if answer is None:
                await _refuse(writer, "the server behind this proxy hung up without an answer")
                return False
            status = _status(answer)
            if watch is not None:
                watch.begin(status, answer.value("content-type"), answer.value("content-encoding"))
            writer.write(answer.encoded())
            if status == 101:
                await writer.drain()
                await going_up
                await _both_ways(reader, writer, from_server, to_server)
                return False
            if method != "HEAD" and status not in _NO_BODY:
                await _hand_on(_body(answer, from_server, is_answer=True), writer, watch)
            await writer.drain()
            return going_up.done() and _is_kept(head) and _is_kept(answer) and _is_framed(answer, method, status)
        finally:
            self._counters.running -= counted
            if watch is not None:
                watch.end()
            going_up.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError, EOFError, _MalformedError):
                await going_up

    def _rewritten(self, head: _Head) -> _Head:
        kept = tuple((name, value) for name, value in head.headers if name.lower() not in ("host", "accept-encoding"))
        return _Head(head.first, (("Host", self._upstream.authority), *kept, ("Accept-Encoding", "identity")))

    async def _publish(self, writer: asyncio.StreamWriter, method: str) -> None:
        page = self._counters.page()
        head = _Head("HTTP/1.1 200 OK", (("Content-Type", CONTENT_TYPE), ("Content-Length", str(len(page)))))
        writer.write(head.encoded() + (page if method == "GET" else b""))
        await writer.drain()


async def _hand_on(
    pieces: AsyncIterator[tuple[bytes, bytes]], writer: asyncio.StreamWriter, watch: AnswerWatch | None = None
) -> None:
    """Write every piece as it comes, then show its content to the watch."""
    async for raw, content in pieces:
        writer.write(raw)
        await writer.drain()
        if watch is not None and content:
            watch.feed(content)


async def _body(head: _Head, reader: asyncio.StreamReader, *, is_answer: bool) -> AsyncIterator[tuple[bytes, bytes]]:
    """The pieces of a message's body: as they stand on the wire, and their content. Raises EOFError when it is cut off."""
    if head.is_chunked:
        async for part in _chunks(reader):
            yield part
        return
    left = head.length
    if left is None and not is_answer:
        return
    while left is None or left > 0:
        piece = await reader.read(_PIECE_BYTES if left is None else min(left, _PIECE_BYTES))
        if not piece:
            if left is None:
                return
            raise EOFError
        if left is not None:
            left -= len(piece)
        yield piece, piece


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[tuple[bytes, bytes]]:
    while True:
        line = await reader.readuntil(b"\n")
        try:
            left = int(line.partition(b";")[0], 16)
        except ValueError:
            raise _MalformedError("a chunk without its size") from None
        if left == 0:
            yield line, b""
            while True:
                line = await reader.readuntil(b"\n")
                yield line, b""
                if not line.strip():
                    return
        yield line, b""
        while left > 0:
            piece = await reader.read(min(left, _PIECE_BYTES))
            if not piece:
                raise EOFError
            left -= len(piece)
            yield piece, piece
        yield await reader.readuntil(b"\n"), b""


async def _read_head(reader: asyncio.StreamReader) -> _Head | None:
    """The next message's head; None at the end of the connection. Raises LimitOverrunError, EOFError, _MalformedError."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial.strip():
            raise
        return None
    lines = raw.decode("latin-1").strip("\r\n").split("\r\n")
    headers = []
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon:
            raise _MalformedError(f"a header without a colon: {line!r}")
        headers.append((name, value.strip()))
    return _Head(lines[0], tuple(headers))


async def _final_head(from_server: asyncio.StreamReader, writer: asyncio.StreamWriter) -> _Head | None:
    """The head of the answer itself; what comes before it (100 Continue, 103 Early Hints) is handed on."""
    while (head := await _read_head(from_server)) is not None:
        if not 100 <= _status(head) < 200 or _status(head) == 101:
            return head
        writer.write(head.encoded())
        await writer.drain()
    return None


async def _both_ways(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    from_server: asyncio.StreamReader,
    to_server: asyncio.StreamWriter,
) -> None:
    """After an upgrade (websockets): bytes, until either side hangs up."""

    async def hand_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while piece := await source.read(_PIECE_BYTES):
            target.write(piece)
            await target.drain()

    ways = [asyncio.create_task(hand_on(reader, to_server)), asyncio.create_task(hand_on(from_server, writer))]
    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    for way in ways:
        way.cancel()
    await asyncio.gather(*ways, return_exceptions=True)


async def _refuse(writer: asyncio.StreamWriter, text: str) -> None:
    body = b'{"error": {"message": "%s", "type": "bad_gateway"}}' % text.replace('"', "'").encode()
    headers = (("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Connection", "close"))
    writer.write(_Head("HTTP/1.1 502 Bad Gateway", headers).encoded() + body)
    await writer.drain()


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, asyncio.CancelledError):
        await writer.wait_closed()


def _request_line(head: _Head) -> tuple[str, str, str]:
    words = head.first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise _MalformedError(head.first)
    return words[0], words[1], words[2]


def _status(head: _Head) -> int:
    words = head.first.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdecimal():
        raise _MalformedError(head.first)
    return int(words[1])


def _is_kept(head: _Head) -> bool:
    """Whether a message lets its connection live."""
    wish = head.value("connection").lower()
    return "close" not in wish and ("HTTP/1.0" not in head.first or "keep-alive" in wish)


def _is_framed(answer: _Head, method: str, status: int) -> bool:
    """Whether the end of an answer is known without the end of the connection."""
    return answer.is_chunked or answer.length is not None or method == "HEAD" or status in _NO_BODY
