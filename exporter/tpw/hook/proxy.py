"""A reverse proxy that counts the tokens of what passes through it: for servers that publish no counters (Ollama).

It hands every byte on as it comes, in both directions, and looks at answers only after they are on their way. One
connection of a client is one connection to the server: what they tell each other about their connection stays true, an
idle one ends when the server ends it, and no two clients share one. The counters are a Prometheus page at
``/tpw/metrics`` of the proxy's own address, the exporter's engine ``tpw_hook`` reads them.

A client that gives up is noticed at once, and so is it by the server: its connection is closed, and what is made for
nobody can be stopped. A client that closes only its sending side counts as gone, as it does with the servers behind.

Changed on the way are two request headers: ``Host``, because servers check it, and ``Accept-Encoding``, because what is
compressed cannot be counted. Upgraded connections (websockets) are handed on and not counted. Standard library only;
imports nothing of the exporter outside this package.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from tpw.hook.asking import ASKED_PATHS, UsageEvents, with_usage_asked
from tpw.hook.counting import CONTENT_TYPE, AnswerWatch, Counters, is_counted
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

METRICS_PATH = "/tpw/metrics"

_CONNECT_SECONDS = 10.0
_LAST_WORDS_SECONDS = 2.0
_READ_FOR_ASKING_BYTES = 8 << 20
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Upstream:
    """The server behind."""

    host: str
    port: int
    authority: str
    tls: ssl.SSLContext | None = None

    @classmethod
    def at(cls, address: str, *, ca_file: str | None = None) -> Upstream:
        """The server at a base address, ``http://127.0.0.1:11434``.

        ``ca_file`` holds the certificates (PEM) to trust for https, instead of the system's. Raises ValueError for an
        address that is none, OSError for a file that cannot be read or holds no certificate.
        """
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
            raise ValueError(f"not the base address of a server: {address!r}. Write http://HOST:PORT, without a path")
        tls = ssl.create_default_context(cafile=ca_file) if parts.scheme == "https" else None
        port = parts.port or (443 if tls else 80)
        return cls(parts.hostname, port, parts.netloc.rpartition("@")[2], tls)

    async def connect(self) -> _End:
        """Raises OSError, TimeoutError among them."""
        loop = asyncio.get_running_loop()
        reader = Reader(loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        async with asyncio.timeout(_CONNECT_SECONDS):
            transport, _ = await loop.create_connection(
                lambda: protocol, self.host, self.port, ssl=self.tls, server_hostname=self.host if self.tls else None
            )
        return _End(reader, asyncio.StreamWriter(transport, protocol, reader, loop))


@dataclass(frozen=True, slots=True)
class _End:
    """One end of a conversation: the client's or the server's."""

    reader: Reader
    writer: asyncio.StreamWriter

    async def write(self, data: bytes) -> None:
        """Raises OSError."""
        self.writer.write(data)
        await self.writer.drain()

    async def close(self) -> None:
        """Never raises."""
        self.reader.on_hang_up = None
        self.writer.close()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self.writer.wait_closed()

    async def part(self) -> None:
        """Send no more, and read a moment longer: closed over unread bytes, a connection takes its last words along."""
        with contextlib.suppress(OSError, EOFError):
            async with asyncio.timeout(_LAST_WORDS_SECONDS):
                self.writer.write_eof()
                while await self.reader.read(PIECE_BYTES):
                    pass


async def serve_proxy(
    upstream: Upstream | str,
    listen: str = "127.0.0.1:11435",
    *,
    metrics_path: str = METRICS_PATH,
    ask_for_usage: bool = False,
    ready: Callable[[str, int], None] | None = None,
    reached: Callable[[str], None] | None = None,
    stop: asyncio.Event | None = None,
    grace_seconds: float = 0.0,
    counters: Counters | None = None,
) -> None:
    """Serve until ``stop`` is set, or for ever; then let what is being answered end, and close what is open.

    Args:
        upstream: the server, or its base address, ``http://127.0.0.1:11434``; no path.
        listen: ``host:port``; port 0 takes any. ``:port`` listens on all interfaces.
        metrics_path: where the proxy publishes its counters.
        ask_for_usage: have OpenAI-compatible streams say what they used (see :mod:`tpw.hook.asking`). Changes requests.
        ready: told host and port once it listens.
        reached: told why when the server cannot be reached, once, and "" when it can be again.
        stop: ends it.
        grace_seconds: how long requests may go on after ``stop``.
        counters: where to count.

    Raises:
        ValueError: an address that is none.
        OSError: the address cannot be listened on.
    """
    server_behind = Upstream.at(upstream) if isinstance(upstream, str) else upstream
    proxy = _Proxy(server_behind, metrics_path, counters or Counters(), reached, ask_for_usage=ask_for_usage)
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
    """The conversations that are going on, and what they have counted."""

    def __init__(
        self,
        upstream: Upstream,
        metrics_path: str,
        counters: Counters,
        reached: Callable[[str], None] | None,
        *,
        ask_for_usage: bool,
    ) -> None:
        self._upstream = upstream
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
        assert isinstance(reader, Reader)  # noqa: S101 - as made above
        client = _End(reader, writer)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._tasks.add(task)
        try:
            await self._converse(client, task)
        except (OSError, EOFError, MalformedError, asyncio.CancelledError):
            pass  # the client or the server hung up, or this proxy is being stopped: there is nobody left to tell
        finally:
            self._tasks.discard(task)
            await client.close()

    async def finish(self, grace_seconds: float) -> None:
        """Take no further request, and wait for those that are being answered."""
        self._ending = True
        for task in self._idle:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_seconds)

    async def close(self) -> None:
        """End all conversations."""
        self._ending = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _converse(self, client: _End, task: asyncio.Task[None]) -> None:
        server: _End | None = None
        try:
            while not self._ending:
                try:
                    head = await self._next(client, server, task)
                    if head is None:
                        return
                    method, target = request_line(head)
                except MalformedError as error:
                    await _refuse(client, "400 Bad Request", f"this proxy was sent {error}")
                    return
                if target.partition("?")[0] == self._metrics_path and method in ("GET", "HEAD"):
                    await self._publish(client, method)
                    if head.is_chunked or head.length:
                        return
                    continue
                is_fresh = server is None
                if server is None:
                    server = await self._connected(client)
                if server is None or not await self._exchange(head, client, server, task, is_fresh=is_fresh):
                    return
        finally:
            if server is not None:
                await server.close()

    async def _next(self, client: _End, server: _End | None, task: asyncio.Task[None]) -> Head | None:
        """The next request; the conversation ends where the server ends it meanwhile."""
        self._idle.add(task)
        try:
            if server is not None:
                if server.reader.is_gone:
                    return None
                server.reader.on_hang_up = task.cancel
            return await read_head(client.reader)
        finally:
            self._idle.discard(task)
            if server is not None:
                server.reader.on_hang_up = None

    async def _connected(self, client: _End) -> _End | None:
        """The server's end; None, and the client is told, where it cannot be reached."""
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
        self, head: Head, client: _End, server: _End, task: asyncio.Task[None], *, is_fresh: bool
    ) -> bool:
        """One request and its answer. Returns whether the connection may be used again."""
        if client.reader.is_gone:
            return False
        method, target = request_line(head)
        path = target.partition("?")[0]
        watch = AnswerWatch(self._counters) if is_counted(method, path) else None
        self._counters.running += watch is not None
        client.reader.on_hang_up = task.cancel
        going_up: asyncio.Task[None] | None = None
        is_kept = False
        try:
            asked = self._ask_for_usage and method == "POST" and path.rstrip("/").endswith(ASKED_PATHS)
            head, sent, asked = await self._asked(head, client) if asked else (head, b"", False)
            server.writer.write(self._rewritten(head).encoded() + sent)
            # The request's body may still be going up when the answer begins (100 Continue, early refusals).
            going_up = asyncio.create_task(
                server.writer.drain() if sent else _hand_on(body(head, client.reader, is_answer=False), server.writer)
            )
            going_up.add_done_callback(lambda done: _stop_where_malformed(done, task))
            is_kept = await self._answer(
                head, client, server, going_up, watch, UsageEvents() if asked else None, is_fresh=is_fresh
            )
        finally:
            client.reader.on_hang_up = None
            self._counters.running -= watch is not None
            if watch is not None:
                watch.end()
            is_up = going_up is not None and going_up.done()
            if going_up is not None:
                going_up.cancel()
                with contextlib.suppress(asyncio.CancelledError, OSError, EOFError, MalformedError):
                    await going_up
        if not is_up:
            await client.part()
        return is_kept and is_up

    async def _answer(
        self,
        head: Head,
        client: _End,
        server: _End,
        going_up: asyncio.Task[None],
        watch: AnswerWatch | None,
        events: UsageEvents | None,
        *,
        is_fresh: bool,
    ) -> bool:
        """Hand on the answer. Returns whether the connection may be used again after it."""
        method, _ = request_line(head)
        try:
            answer = await _final_head(server.reader, client)
            why = "hung up without an answer"
        except (OSError, EOFError) as error:
            answer, why = None, f"hung up without an answer: {error or type(error).__name__}"
        except MalformedError as error:
            answer, why, is_fresh = None, f"sent {error}", True
        if answer is None:
            if is_fresh:
                await _refuse(
                    client, "502 Bad Gateway", f"the server behind this proxy ({self._upstream.authority}) {why}"
                )
            return False  # else an idle connection that the server closed as the request came: clients ask anew then
        status = status_of(answer)
        if watch is not None:
            watch.begin(status, answer.value("content-type"), answer.value("content-encoding"))
        await client.write(answer.encoded())
        if status == 101:
            await going_up
            client.reader.on_hang_up = None
            await _both_ways(client, server)
            return False
        if has_body(answer, method, status):
            pieces = body(answer, server.reader, is_answer=True)
            is_stream = answer.value("content-type").startswith("text/event-stream")
            if events is not None and is_stream and status == 200 and answer.length is None:
                await _hand_on_without_usage(pieces, client.writer, watch, events, is_chunked=answer.is_chunked)
            else:
                await _hand_on(pieces, client.writer, watch)
        return head.is_kept and answer.is_kept and is_framed(answer, method, status)

    async def _asked(self, head: Head, client: _End) -> tuple[Head, bytes, bool]:
        """A request that asks for usage: its head, its body, and whether it was this proxy that asked.

        The body is b"" where it was not read: it is too long, or its length is not said.
        """
        length = head.length
        if head.is_chunked or not length or length > _READ_FOR_ASKING_BYTES:
            return head, b"", False
        if head.value("expect"):
            await client.write(_CONTINUE)
        sent = await client.reader.readexactly(length)
        asking = with_usage_asked(sent)
        if asking is None:
            return head.replaced("expect"), sent, False
        head = head.replaced("expect", "content-length", more=(f"Content-Length: {len(asking)}",))
        return head, asking, True

    def _rewritten(self, head: Head) -> Head:
        more = (f"Host: {self._upstream.authority}", "Accept-Encoding: identity")
        return head.replaced("host", "accept-encoding", more=more)

    async def _publish(self, client: _End, method: str) -> None:
        page = self._counters.page()
        await client.write(_said("200 OK", CONTENT_TYPE, page if method == "GET" else b"", length=len(page)))


async def _hand_on(
    pieces: AsyncIterator[tuple[bytes, bytes]], writer: asyncio.StreamWriter, watch: AnswerWatch | None = None
) -> None:
    """Write every piece as it comes, then show its content to the watch."""
    async for raw, content in pieces:
        writer.write(raw)
        await writer.drain()
        if watch is not None and content:
            watch.feed(content)


async def _hand_on_without_usage(
    pieces: AsyncIterator[tuple[bytes, bytes]],
    writer: asyncio.StreamWriter,
    watch: AnswerWatch | None,
    events: UsageEvents,
    *,
    is_chunked: bool,
) -> None:
    """The same for a stream that says more than its client asked for."""

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


def _stop_where_malformed(going_up: asyncio.Task[None], conversation: asyncio.Task[None]) -> None:
    """A server that waits for the rest of a body waits in vain where that is no HTTP."""
    if not going_up.cancelled() and isinstance(going_up.exception(), MalformedError):
        conversation.cancel()


async def _final_head(from_server: Reader, client: _End) -> Head | None:
    """The head of the answer itself; what comes before it (100 Continue, 103 Early Hints) is handed on."""
    while (head := await read_head(from_server)) is not None:
        if not 100 <= status_of(head) < 200 or status_of(head) == 101:
            return head
        await client.write(head.encoded())
    return None


async def _both_ways(client: _End, server: _End) -> None:
    """After an upgrade (websockets): bytes, until either side hangs up."""

    async def hand_on(source: asyncio.StreamReader, target: _End) -> None:
        while piece := await source.read(PIECE_BYTES):
            await target.write(piece)

    ways = [asyncio.create_task(hand_on(client.reader, server)), asyncio.create_task(hand_on(server.reader, client))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _refuse(client: _End, status: str, text: str) -> None:
    """Say why there is no answer, in the form in which OpenAI's clients look for it, and end the connection."""
    kind = status.partition(" ")[2].lower().replace(" ", "_")
    said = json.dumps({"error": {"message": text, "type": kind}}).encode()
    with contextlib.suppress(OSError):
        await client.write(_said(status, "application/json", said, "Connection: close"))
    await client.part()


def _said(status: str, content_type: str, text: bytes, *more: str, length: int | None = None) -> bytes:
    lines = (
        f"HTTP/1.1 {status}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(text) if length is None else length}",
        *more,
    )
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + text
