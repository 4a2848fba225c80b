"""A reverse proxy that counts tokens, for servers without counters (Ollama).

It passes every byte on as it arrives, in both directions, and parses answers after they are sent. Each client connection
has one connection to the server: headers about the connection stay valid, an idle one ends when the server closes it, and
clients never share one. The counters are a Prometheus page at ``/tpw/metrics`` of the proxy's address, which the exporter
reads as engine ``tpw_hook``.

When a client disconnects, its connection to the server is closed at once, so that the server can stop generating. A client
that closes only its sending side is treated as disconnected, as by the servers behind the proxy.

Two request headers are changed: ``Host``, because servers check it, and ``Accept-Encoding``, because compressed answers
cannot be counted. Upgraded connections (websockets) are passed on and not counted. Standard library only; imports nothing
of the exporter outside this package.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tpw.hook.counting import CONTENT_TYPE, AnswerWatch, Counters
from tpw.hook.inject import INJECTED_PATHS, UsageEvents, with_usage_requested
from tpw.hook.paths import is_read
from tpw.hook.wire import (
    PIECE_BYTES,
    Head,
    MalformedError,
    Reader,
    body,
    has_body,
    is_framed,
    read_head,
    request_line,
    status_of,
)

if TYPE_CHECKING:
    from tpw.hook.tenants import TenantHeaders

METRICS_PATH = "/tpw/metrics"

_CONNECT_SECONDS = 10.0
_DRAIN_SECONDS = 2.0
_MAX_INJECTED_BYTES = 8 << 20
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Upstream:
    """The server behind the proxy."""

    host: str
    port: int
    authority: str
    tls: ssl.SSLContext | None = None

    @classmethod
    def at(cls, address: str, *, ca_file: str | None = None) -> Upstream:
        """The server at a base address, ``http://127.0.0.1:11434``.

        ``ca_file`` has the certificates (PEM) to trust for https, instead of the system's. Raises ValueError for an invalid
        address, OSError for a file that cannot be read or has no certificate.
        """
        parts = urlsplit(address)
        if "@" in parts.netloc:
            raise ValueError("the address of the server contains a user or a password, which the proxy does not send")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
            raise ValueError(f"not the base address of a server: {address!r}. Write http://HOST:PORT, without a path")
        tls = ssl.create_default_context(cafile=ca_file) if parts.scheme == "https" else None
        port = parts.port or (443 if tls else 80)
        return cls(parts.hostname, port, parts.netloc.rpartition("@")[2], tls)

    async def connect(self) -> _Peer:
        """Raises OSError, TimeoutError among them."""
        loop = asyncio.get_running_loop()
        reader = Reader(loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        async with asyncio.timeout(_CONNECT_SECONDS):
            transport, _ = await loop.create_connection(
                lambda: protocol, self.host, self.port, ssl=self.tls, server_hostname=self.host if self.tls else None
            )
        return _Peer(reader, asyncio.StreamWriter(transport, protocol, reader, loop))


@dataclass(frozen=True, slots=True)
class _Peer:
    """The client's or the server's connection."""

    reader: Reader
    writer: asyncio.StreamWriter

    async def write(self, data: bytes) -> None:
        """Raises OSError."""
        self.writer.write(data)
        await self.writer.drain()

    async def close(self) -> None:
        """Never raises."""
        self.reader.on_close = None
        self.writer.close()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self.writer.wait_closed()

    async def half_close(self) -> None:
        """Send no more, and read for a moment: closing with unread bytes would discard the last bytes sent."""
        with contextlib.suppress(OSError, EOFError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                self.writer.write_eof()
                while await self.reader.read(PIECE_BYTES):
                    pass


async def serve_proxy(
    upstream: Upstream | str,
    listen: str = "127.0.0.1:11435",
    *,
    metrics_path: str = METRICS_PATH,
    ask_for_usage: bool = False,
    tenants: TenantHeaders | None = None,
    ready: Callable[[str, int], None] | None = None,
    reached: Callable[[str], None] | None = None,
    stop: asyncio.Event | None = None,
    grace_seconds: float = 0.0,
    counters: Counters | None = None,
) -> None:
    """Serve until ``stop`` is set, or for ever; then wait for running requests and close all connections.

    Args:
        upstream: the server, or its base address, ``http://127.0.0.1:11434``; no path.
        listen: ``host:port``; port 0 selects a free port. ``:port`` listens on all interfaces.
        metrics_path: path of the counters' page.
        ask_for_usage: request the usage of OpenAI-compatible streams (see :mod:`tpw.hook.inject`). Changes requests.
        tenants: who sends a request, by its headers; None counts no tenants.
        ready: called with host and port once it listens.
        reached: called once with the reason if the server cannot be reached, and with "" when it is reached again.
        stop: stops the proxy.
        grace_seconds: how long requests may run after ``stop``.
        counters: the counters; new ones if None.

    Raises:
        ValueError: an invalid address.
        OSError: listening failed.
    """
    server_behind = Upstream.at(upstream) if isinstance(upstream, str) else upstream
    proxy = _Proxy(
        server_behind, metrics_path, counters or Counters(), reached, ask_for_usage=ask_for_usage, tenants=tenants
    )
    host, _, port = listen.rpartition(":")
    if not port.isdecimal():
        raise ValueError(f"not an address to listen on: {listen!r}")
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: asyncio.StreamReaderProtocol(Reader(loop), proxy.serve, loop=loop), host.strip("[]") or None, int(port)
    )
    try:
        if ready is not None:
            name = server.sockets[0].getsockname()
            ready(name[0], name[1])
        await (stop or asyncio.Event()).wait()
        server.close()
        await proxy.finish(grace_seconds)
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()


class _Proxy:
    """The open client connections and the counters."""

    def __init__(
        self,
        upstream: Upstream,
        metrics_path: str,
        counters: Counters,
        reached: Callable[[str], None] | None,
        *,
        ask_for_usage: bool,
        tenants: TenantHeaders | None,
    ) -> None:
        self._upstream = upstream
        self._tenants = tenants
        self._metrics_path = metrics_path
        self._counters = counters
        self._reached = reached
        self._ask_for_usage = ask_for_usage
        self._is_reached = True
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle: set[asyncio.Task[None]] = set()
        self._ending = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - the protocol runs this in a task
        assert isinstance(reader, Reader)  # noqa: S101 - as constructed above
        client = _Peer(reader, writer)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._tasks.add(task)
        try:
            await self._serve_requests(client, task)
        except (OSError, EOFError, MalformedError, asyncio.CancelledError):
            pass  # the client or the server closed the connection, or this proxy is stopping
        finally:
            self._tasks.discard(task)
            await client.close()

    async def finish(self, grace_seconds: float) -> None:
        """Accept no further request and wait for the running ones."""
        self._ending = True
        for task in self._idle:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_seconds)

    async def close(self) -> None:
        """Close all connections."""
        self._ending = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve_requests(self, client: _Peer, task: asyncio.Task[None]) -> None:
        server: _Peer | None = None
        try:
            while not self._ending:
                try:
                    head = await self._next(client, server, task)
                    if head is None:
                        return
                    head = _in_origin_form(head, self._upstream.authority)
                    method, target = request_line(head)
                except MalformedError as error:
                    await _refuse(client, "400 Bad Request", f"this proxy was sent {error}")
                    return
                refusal = _refusal(method, target)
                if refusal is not None:
                    await _refuse(client, *refusal)
                    return
                if target.partition("?")[0] == self._metrics_path and method in ("GET", "HEAD"):
                    await self._publish(client, method)
                    if head.is_chunked or head.length:
                        return
                    continue
                is_fresh = server is None
                if server is None:
                    server = await self._connect(client)
                if server is None or not await self._exchange(head, client, server, task, is_fresh=is_fresh):
                    return
        finally:
            if server is not None:
                await server.close()

    async def _next(self, client: _Peer, server: _Peer | None, task: asyncio.Task[None]) -> Head | None:
        """The next request; None if the client or the server closes the connection."""
        self._idle.add(task)
        try:
            if server is not None:
                if server.reader.is_closed:
                    return None
                server.reader.on_close = task.cancel
            return await read_head(client.reader)
        finally:
            self._idle.discard(task)
            if server is not None:
                server.reader.on_close = None

    async def _connect(self, client: _Peer) -> _Peer | None:
        """A connection to the server; None, after an error to the client, if it cannot be reached."""
        try:
            server = await self._upstream.connect()
        except OSError as error:
            why = str(error) or f"no connection within {_CONNECT_SECONDS:.0f} s"
            if self._reached is not None and self._is_reached:
                self._reached(why)
            self._is_reached = False
            text = f"the server behind this proxy cannot be reached at {self._upstream.authority}: {why}"
            await _refuse(client, "502 Bad Gateway", text)
            return None
        if self._reached is not None and not self._is_reached:
            self._reached("")
        self._is_reached = True
        return server

    async def _exchange(
        self, head: Head, client: _Peer, server: _Peer, task: asyncio.Task[None], *, is_fresh: bool
    ) -> bool:
        """One request and its answer. Returns whether the connection may be used again."""
        if client.reader.is_closed:
            return False
        method, target = request_line(head)
        path = target.partition("?")[0]
        tenant = "" if self._tenants is None else self._tenants.tenant(head.value)
        watch = AnswerWatch(self._counters, path, tenant) if is_read(method, path) else None
        self._counters.running += watch is not None
        client.reader.on_close = task.cancel
        upload: asyncio.Task[None] | None = None
        is_kept_alive = False
        try:
            injects = self._ask_for_usage and method == "POST" and path.rstrip("/").endswith(INJECTED_PATHS)
            head, sent, injects = await self._inject(head, client) if injects else (head, b"", False)
            server.writer.write(self._rewritten(head).encoded() + sent)
            # The answer may start before the request's body is sent (100 Continue, early errors).
            upload = asyncio.create_task(
                server.writer.drain() if sent else _pass_on(body(head, client.reader, is_answer=False), server.writer)
            )
            upload.add_done_callback(lambda done: _stop_where_malformed(done, task))
            is_kept_alive = await self._answer(
                head, client, server, upload, watch, UsageEvents() if injects else None, is_fresh=is_fresh
            )
        finally:
            client.reader.on_close = None
            self._counters.running -= watch is not None
            if watch is not None:
                watch.end()
            is_up = upload is not None and upload.done()
            if upload is not None:
                upload.cancel()
                with contextlib.suppress(asyncio.CancelledError, OSError, EOFError, MalformedError):
                    await upload
        if not is_up:
            await client.half_close()
        return is_kept_alive and is_up

    async def _answer(
        self,
        head: Head,
        client: _Peer,
        server: _Peer,
        upload: asyncio.Task[None],
        watch: AnswerWatch | None,
        events: UsageEvents | None,
        *,
        is_fresh: bool,
    ) -> bool:
        """Pass on the answer. Returns whether the connection may be used again."""
        method, _ = request_line(head)
        try:
            answer = await _final_head(server.reader, client)
            why = "closed the connection without an answer"
        except (OSError, EOFError) as error:
            answer, why = None, f"closed the connection without an answer: {error or type(error).__name__}"
        except MalformedError as error:
            answer, why, is_fresh = None, f"sent {error}", True
        if answer is None:
            if is_fresh:
                await _refuse(
                    client, "502 Bad Gateway", f"the server behind this proxy ({self._upstream.authority}) {why}"
                )
            return False  # otherwise the server closed an idle connection as the request arrived: clients retry
        status = status_of(answer)
        if watch is not None:
            watch.begin(status, answer.value("content-type"), answer.value("content-encoding"))
        await client.write(answer.encoded())
        if status == 101:
            await upload
            client.reader.on_close = None
            await _both_ways(client, server)
            return False
        if has_body(answer, method, status):
            pieces = body(answer, server.reader, is_answer=True)
            is_stream = answer.value("content-type").startswith("text/event-stream")
            if events is not None and is_stream and status == 200 and answer.length is None:
                await _pass_on_without_usage(pieces, client.writer, watch, events, is_chunked=answer.is_chunked)
            else:
                await _pass_on(pieces, client.writer, watch)
        return head.is_kept_alive and answer.is_kept_alive and is_framed(answer, method, status)

    async def _inject(self, head: Head, client: _Peer) -> tuple[Head, bytes, bool]:
        """A request with usage requested: its head, its body, and whether the proxy changed it.

        The body is b"" if it was not read: it is too long or has no length.
        """
        length = head.length
        if head.is_chunked or not length or length > _MAX_INJECTED_BYTES:
            return head, b"", False
        if head.value("expect"):
            await client.write(_CONTINUE)
        sent = await client.reader.readexactly(length)
        injected = with_usage_requested(sent)
        if injected is None:
            return head.replaced("expect"), sent, False
        head = head.replaced("expect", "content-length", more=(f"Content-Length: {len(injected)}",))
        return head, injected, True

    def _rewritten(self, head: Head) -> Head:
        more = (f"Host: {self._upstream.authority}", "Accept-Encoding: identity")
        return head.replaced("host", "accept-encoding", more=more)

    async def _publish(self, client: _Peer, method: str) -> None:
        page = self._counters.page()
        await client.write(_response("200 OK", CONTENT_TYPE, page if method == "GET" else b"", length=len(page)))


def _refusal(method: str, target: str) -> tuple[str, str] | None:
    """Status and text for a request that asks for another server than the one behind this proxy; None for any other."""
    if method == "CONNECT":
        return "405 Method Not Allowed", "this proxy opens no tunnels: it stands in front of one server"
    if not target.startswith("/") and target != "*":
        return "421 Misdirected Request", "this proxy stands in front of one server: request a path such as /v1/models"
    return None


def _in_origin_form(head: Head, authority: str) -> Head:
    """A request for ``http://authority/path`` as one for ``/path``; any other unchanged. Raises MalformedError."""
    method, target = request_line(head)
    prefix = f"http://{authority}/"
    if not target.lower().startswith(prefix.lower()):
        return head
    version = head.first.rpartition(" ")[2]
    return Head((f"{method} {target[len(prefix) - 1 :]} {version}".encode("latin-1"), *head.lines[1:]))


async def _pass_on(
    pieces: AsyncIterator[tuple[bytes, bytes]], writer: asyncio.StreamWriter, watch: AnswerWatch | None = None
) -> None:
    """Write every piece as it arrives, then pass its content to the watch."""
    async for raw, content in pieces:
        writer.write(raw)
        await writer.drain()
        if watch is not None and content:
            watch.feed(content)


async def _pass_on_without_usage(
    pieces: AsyncIterator[tuple[bytes, bytes]],
    writer: asyncio.StreamWriter,
    watch: AnswerWatch | None,
    events: UsageEvents,
    *,
    is_chunked: bool,
) -> None:
    """The same for a stream with usage that its client did not request."""

    async def write(content: bytes) -> None:
        if content:
            writer.write(b"%x\r\n%b\r\n" % (len(content), content) if is_chunked else content)
            await writer.drain()

    last = b""
    async for raw, content in pieces:
        last = raw
        await write(events.feed(content))
        if watch is not None and content:
            watch.feed(content)
    await write(events.end())
    if is_chunked:
        writer.write(last)
        await writer.drain()


def _stop_where_malformed(upload: asyncio.Task[None], conversation: asyncio.Task[None]) -> None:
    """A server must not wait for the rest of an invalid body."""
    if not upload.cancelled() and isinstance(upload.exception(), MalformedError):
        conversation.cancel()


async def _final_head(from_server: Reader, client: _Peer) -> Head | None:
    """The head of the final answer; interim ones (100 Continue, 103 Early Hints) are passed on."""
    while (head := await read_head(from_server)) is not None:
        if not 100 <= status_of(head) < 200 or status_of(head) == 101:
            return head
        await client.write(head.encoded())
    return None


async def _both_ways(client: _Peer, server: _Peer) -> None:
    """After an upgrade (websockets): pass bytes on until either side closes."""

    async def pass_on(source: asyncio.StreamReader, target: _Peer) -> None:
        while piece := await source.read(PIECE_BYTES):
            await target.write(piece)

    directions = [
        asyncio.create_task(pass_on(client.reader, server)),
        asyncio.create_task(pass_on(server.reader, client)),
    ]
    try:
        await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for direction in directions:
            direction.cancel()
        await asyncio.gather(*directions, return_exceptions=True)


async def _refuse(client: _Peer, status: str, text: str) -> None:
    """Answer with an error in OpenAI's JSON form and close the connection."""
    kind = status.partition(" ")[2].lower().replace(" ", "_")
    document = json.dumps({"error": {"message": text, "type": kind}}).encode()
    with contextlib.suppress(OSError):
        await client.write(_response(status, "application/json", document, "Connection: close"))
    await client.half_close()


def _response(status: str, content_type: str, text: bytes, *more: str, length: int | None = None) -> bytes:
    lines = (
        f"HTTP/1.1 {status}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(text) if length is None else length}",
        *more,
    )
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + text
