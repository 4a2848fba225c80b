"""A small HTTP/1.1 server for a handful of clients that come back every few seconds.

One thread per connection, connections kept alive and bounded in number, every wait bounded in time: a client that says
nothing, too much or too slowly costs one thread for a while and nobody else anything. When all connections are taken, the
one that has been idle longest makes way. The standard library's handler spends more time on the headers of a scrape than
the page itself takes; this one reads what is needed and no more.
"""

from __future__ import annotations

import errno
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

import structlog

from tpw.exposition.http1 import MalformedError, Request, Response, parse_head, response_head

_log = structlog.get_logger(__name__)

_HEAD_LIMIT = 16 * 1024
_BODY_LIMIT = 64 * 1024
_TLS_HANDSHAKE = b"\x16"


class ListenError(OSError):
    """An address cannot be listened on; the message says which, why and what to do."""


Handler = Callable[[Request], Response]


class Gate(Protocol):
    """What may be asked by whom (see :mod:`tpw.exposition.access`)."""

    def context(self) -> ssl.SSLContext | None:
        """TLS for a new connection; None for none."""

    def generation(self) -> object:
        """Another object whenever the rules have changed: connections made under the old ones end."""

    def admit(self, peer: ssl.SSLSocket) -> bool:
        """Whether the certificate of this client is one that may ask."""

    def refuse(self, request: Request) -> Response | None:
        """The answer to a request that is not allowed; None where it is."""

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Headers for every answer."""


class OpenGate:
    """Everybody may ask everything."""

    def context(self) -> None:
        """No TLS."""

    def generation(self) -> object:
        """Never changes."""
        return None

    def admit(self, peer: ssl.SSLSocket) -> bool:
        """Always."""
        return True

    def refuse(self, request: Request) -> None:
        """Never."""

    def headers(self) -> tuple[tuple[str, str], ...]:
        """None."""
        return ()


def parse_address(text: str) -> tuple[str, int]:
    """``HOST:PORT``, ``:PORT`` (all addresses) or ``[IPV6]:PORT``. Raises ValueError, with what is wrong."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is not an address to listen on: write HOST:PORT, :PORT or [IPV6]:PORT")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r} is not an address to listen on: put the IPv6 address in brackets, [{host}]:{port}")
    return host, int(port)


def _listen(text: str) -> socket.socket:
    """A listening socket for one address. Raises ListenError."""
    host, port = parse_address(text)
    try:
        return _listen_on(host, port) if host else _listen_everywhere(port)
    except OSError as error:
        hint = {
            "EADDRINUSE": "another process has it; choose another with --web.listen-address",
            "EACCES": "ports below 1024 need a privilege; choose another with --web.listen-address",
            "EADDRNOTAVAIL": "it is no address of this host",
        }.get(_errno_name(error), "see --web.listen-address")
        raise ListenError(f"cannot listen on {text}: {error.strerror or error} ({hint})") from error


def _listen_on(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # A name with addresses of both kinds (localhost) means IPv4, as it does for exporters written in Go.
    family, _, _, _, address = next((entry for entry in found if entry[0] == socket.AF_INET), found[0])
    return _bound(family, address)


def _listen_everywhere(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return _bound(socket.AF_INET6, ("::", port), dual=True)
        except OSError as error:
            # IPv6 may be compiled in but switched off in the kernel: then IPv4 is everywhere.
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
    return _bound(socket.AF_INET, ("", port))


def _errno_name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "")


def _bound(family: int, address: tuple[object, ...], *, dual: bool = False) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual else 1)
        listener.bind(address)
        listener.listen(64)
        listener.settimeout(0.0)
    except OSError:
        listener.close()
        raise
    return listener


class _GoneError(Exception):
    """The client has gone, or took too long."""


class Server:
    """Listens, and answers with a handler.

    Args:
        addresses: as :func:`parse_address` takes them.
        handler: called in the connection's thread; must not raise.
        gate: TLS and who may ask.
        max_connections: above it the longest idle connection is closed for a new one; if none is idle the new one is
            refused with 503.
        idle_seconds: how long a connection may wait for its next request.
        request_seconds: how long one request may take to arrive, and one answer to be taken.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        handler: Handler,
        *,
        gate: Gate | None = None,
        max_connections: int = 64,
        idle_seconds: float = 120.0,
        request_seconds: float = 10.0,
    ) -> None:
        self._addresses = tuple(addresses)
        self._handler = handler
        self.gate: Gate = gate or OpenGate()
        self.idle_seconds = idle_seconds
        self.request_seconds = request_seconds
        self._max_connections = max_connections
        self._listeners: list[socket.socket] = []
        self._connections: set[_Connection] = set()
        self._lock = threading.Lock()
        self._wake: tuple[socket.socket, socket.socket] | None = None
        self._thread: threading.Thread | None = None
        self.stopping = False

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports it listens on, in the order of the addresses."""
        return tuple(listener.getsockname()[1] for listener in self._listeners)

    def start(self) -> None:
        """Listen. Raises ListenError or ValueError, and then listens nowhere."""
        try:
            for address in self._addresses:
                self._listeners.append(_listen(address))
        except (OSError, ValueError):
            self._close_listeners()
            raise
        self.stopping = False
        self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._accept, name="http", daemon=True)
        self._thread.start()

    def stop(self, grace_seconds: float = 1.0) -> None:
        """Stop listening, close idle connections, and wait for answers on their way, at most so long."""
        if self._thread is None or self._wake is None:
            return
        self.stopping = True
        self._wake[1].send(b"x")
        self._thread.join()
        self._thread = None
        self._close_listeners()
        for end in self._wake:
            end.close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            if connection.idle_since is not None:
                connection.interrupt()
        deadline = time.monotonic() + grace_seconds
        for connection in connections:
            connection.thread.join(max(0.0, deadline - time.monotonic()))
            connection.interrupt()

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners = []

    def _accept(self) -> None:
        assert self._wake is not None  # noqa: S101 (set before the thread starts)
        wake = self._wake[0]
        with selectors.DefaultSelector() as selector:
            selector.register(wake, selectors.EVENT_READ)
            for listener in self._listeners:
                selector.register(listener, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is wake:
                        return
                    self._welcome(key.fileobj)  # type: ignore[arg-type]

    def _welcome(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            # Out of descriptors, or the client is gone already. Not a reason to spin.
            _log.warning("http_accept_failed", error=str(error))
            time.sleep(0.05)
            return
        connection = _Connection(self, client)
        with self._lock:
            full = len(self._connections) >= self._max_connections
            if not full or self._make_way():
                self._connections.add(connection)
                full = False
        if full:
            connection.refuse()
            return
        try:
            connection.thread.start()
        except RuntimeError as error:
            self.forget(connection)
            connection.refuse()
            _log.warning("http_thread_failed", error=str(error))

    def _make_way(self) -> bool:
        """Close the connection that has been idle longest. Called with the lock held."""
        idle = [(connection.idle_since, connection) for connection in self._connections]
        waiting = [(since, connection) for since, connection in idle if since is not None]
        if not waiting:
            return False
        _, oldest = min(waiting, key=lambda pair: pair[0])
        self._connections.discard(oldest)
        oldest.interrupt()
        return True

    def forget(self, connection: _Connection) -> None:
        """A connection has ended."""
        with self._lock:
            self._connections.discard(connection)

    def answer(self, request: Request) -> Response:
        """What the handler, or the gate before it, says."""
        return self.gate.refuse(request) or self._handler(request)


class _Connection:
    """One client. All of it but ``interrupt`` runs in the connection's own thread."""

    def __init__(self, server: Server, client: socket.socket) -> None:
        self._server = server
        self._socket = client
        self._buffer = b""
        self.idle_since: float | None = None
        self.thread = threading.Thread(target=self._run, name="http-connection", daemon=True)

    def interrupt(self) -> None:
        """Wake the thread out of its waiting; it then ends."""
        with suppress(OSError):
            # Not SSLSocket's own: that one forgets its keys, and the thread may be in the middle of a word.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def refuse(self) -> None:
        """Say that there is no room. Never waits."""
        with suppress(OSError):
            self._socket.settimeout(0.0)
            self._socket.send(response_head(503, "text/plain; charset=utf-8", 0, (("Retry-After", "1"),), close=True))
        self._socket.close()

    def _run(self) -> None:
        try:
            with suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            generation = self._server.gate.generation()
            if self._secure():
                while self._server.gate.generation() is generation and self._exchange(generation):
                    pass
        except (_GoneError, OSError):
            pass
        finally:
            self._server.forget(self)
            self._socket.close()

    def _secure(self) -> bool:
        """Do the TLS handshake, where there is one. False when the client may not ask."""
        context = self._server.gate.context()
        if context is None:
            return True
        self._socket.settimeout(self._server.request_seconds)
        self.idle_since = time.monotonic()
        first = self._socket.recv(1, socket.MSG_PEEK)
        self.idle_since = None
        if first not in (_TLS_HANDSHAKE, b""):
            self._farewell(400, "this port speaks HTTPS: use https:// in the address")
            return False
        secured = context.wrap_socket(self._socket, server_side=True)
        self._socket = secured
        return self._server.gate.admit(secured)

    def _exchange(self, generation: object) -> bool:
        """One request and its answer. Whether the connection stays open."""
        try:
            head = self._read_head()
            request, keep = parse_head(head)
            self._skip_body(request.headers)
        except MalformedError as error:
            self._farewell(error.status, error.reason)
            return False
        if self._server.gate.generation() is not generation:
            # Made under other rules: the client comes again under the new ones.
            return False
        response = self._server.answer(request)
        keep = keep and not self._server.stopping
        headers = response.headers
        fixed = self._server.gate.headers()
        if fixed:
            headers = tuple({**dict(headers), **dict(fixed)}.items())
        out = response_head(response.status, response.content_type, len(response.body), headers, close=not keep)
        if request.method != "HEAD":
            out += response.body
        self._socket.settimeout(self._server.request_seconds)
        self._socket.sendall(out)
        return keep

    def _farewell(self, status: int, reason: str) -> None:
        """Answer what cannot be read to its end. What is still coming is taken in for a moment, since closing on unread
        bytes would take the answer away from the client."""
        body = f"{reason}\n".encode()
        self._socket.settimeout(1.0)
        self._socket.sendall(response_head(status, "text/plain; charset=utf-8", len(body), (), close=True) + body)
        socket.socket.shutdown(self._socket, socket.SHUT_WR)
        deadline = time.monotonic() + 1.0
        while socket.socket.recv(self._socket, 16 * 1024) and time.monotonic() < deadline:
            pass

    def _read_head(self) -> bytes:
        """Up to and without the empty line. Waits long for the first byte, briefly for the rest."""
        deadline: float | None = None
        if not self._buffer:
            self.idle_since = time.monotonic()
            self._socket.settimeout(self._server.idle_seconds)
            self._buffer = self._receive()
            self.idle_since = None
        while True:
            end = self._buffer.find(b"\r\n\r\n")
            if 0 <= end <= _HEAD_LIMIT:
                head, self._buffer = self._buffer[:end], self._buffer[end + 4 :]
                return head
            if end >= 0 or len(self._buffer) > _HEAD_LIMIT:
                raise MalformedError(431, "the headers are too long")
            now = time.monotonic()
            deadline = deadline or now + self._server.request_seconds
            self._socket.settimeout(max(1e-3, deadline - now))
            self._buffer += self._receive()

    def _skip_body(self, headers: Mapping[str, str]) -> None:
        if "transfer-encoding" in headers:
            raise MalformedError(501, "no request here needs a body")
        text = headers.get("content-length")
        if text is None:
            return
        if not text.isascii() or not text.isdigit():
            raise MalformedError(400, "the Content-Length is not a number")
        length = int(text)
        if length > _BODY_LIMIT:
            raise MalformedError(413, "no request here needs a body")
        deadline = time.monotonic() + self._server.request_seconds
        while len(self._buffer) < length:
            self._socket.settimeout(max(1e-3, deadline - time.monotonic()))
            self._buffer += self._receive()
        self._buffer = self._buffer[length:]

    def _receive(self) -> bytes:
        data = self._socket.recv(16 * 1024)
        if not data:
            raise _GoneError
        return data
