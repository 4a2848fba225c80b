"""A small HTTP/1.1 server for a few clients that poll every few seconds.

One thread per connection. Connections are kept alive and limited in number, and every wait has a time limit: a client that
sends nothing, too much or too slowly occupies one thread for a while and does not affect others. When all connections are
in use, the one that has been idle longest is closed. The standard library's handler spends more time on the headers of a
scrape than the page takes to render; this one parses only what is needed.
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

import structlog

from tpw.exposition.http1 import MalformedError, Request, Response, parse_head, response_head

_log = structlog.get_logger(__name__)

_HEAD_LIMIT = 16 * 1024
_BODY_LIMIT = 64 * 1024
_TLS_HANDSHAKE = b"\x16"


class ListenError(OSError):
    """An address cannot be listened on. The message has the address, the cause and a hint."""


Handler = Callable[[Request], Response]


class Gate:
    """TLS and access control. This one is plain HTTP without restrictions; see :mod:`tpw.exposition.access`."""

    def context(self) -> ssl.SSLContext | None:
        """TLS for a new connection; None for plain HTTP."""
        return None

    def generation(self) -> object:
        """Another object after each change of the rules: connections from before the change are closed."""
        return None

    def admit(self, peer: ssl.SSLSocket) -> bool:
        """Whether the client certificate is allowed."""
        return True

    def refuse(self, request: Request) -> Response | None:
        """The response to a request that is not allowed; None for an allowed one."""
        return None

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Headers for every response."""
        return ()


def parse_address(text: str) -> tuple[str, int]:
    """Parse ``HOST:PORT``, ``:PORT`` (all addresses) or ``[IPV6]:PORT``. Raises ValueError."""
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
            "EADDRINUSE": "another process uses it; choose another with --web.listen-address",
            "EACCES": "ports below 1024 need a privilege; choose another with --web.listen-address",
            "EADDRNOTAVAIL": "this host does not have this address",
        }.get(_errno_name(error), "see --web.listen-address")
        raise ListenError(f"cannot listen on {text}: {error.strerror or error} ({hint})") from error


def _listen_on(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # A name with addresses of both families (localhost) means IPv4, as in exporters written in Go.
    family, _, _, _, address = next((entry for entry in found if entry[0] == socket.AF_INET), found[0])
    return _bound(family, address)


def _listen_everywhere(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return _bound(socket.AF_INET6, ("::", port), dual=True)
        except OSError as error:
            # IPv6 can be compiled in but disabled in the kernel: then IPv4 covers all addresses.
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


class _DisconnectedError(Exception):
    """The client closed the connection."""


class Server:
    """Listens on addresses and answers requests with a handler.

    Args:
        addresses: in the form that :func:`parse_address` accepts.
        handler: called in the connection's thread; must not raise.
        gate: TLS and access control.
        max_connections: above it the longest idle connection is closed for a new one; if none is idle the new one is
            refused with 503.
        idle_seconds: how long a connection may wait for its next request.
        request_seconds: how long receiving one request, or sending one response, may take.
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
        self.gate = gate or Gate()
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
        """Listen on all addresses. Raises ListenError or ValueError, and then listens on none."""
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
        """Stop listening, close idle connections, and wait at most ``grace_seconds`` for responses in progress."""
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
                    self._connect(key.fileobj)  # type: ignore[arg-type]

    def _connect(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            # Out of descriptors, or the client has disconnected. The pause avoids a busy loop.
            _log.warning("http_accept_failed", error=str(error))
            time.sleep(0.05)
            return
        connection = _Connection(self, client)
        with self._lock:
            full = len(self._connections) >= self._max_connections
            if not full or self._close_idle():
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

    def _close_idle(self) -> bool:
        """Close the connection that has been idle longest. Called with the lock held."""
        since = [(connection.idle_since, connection) for connection in self._connections]
        idle = [(seconds, connection) for seconds, connection in since if seconds is not None]
        if not idle:
            return False
        _, oldest = min(idle, key=lambda pair: pair[0])
        self._connections.discard(oldest)
        oldest.interrupt()
        return True

    def forget(self, connection: _Connection) -> None:
        """Remove a connection that has ended."""
        with self._lock:
            self._connections.discard(connection)

    def answer(self, request: Request) -> Response:
        """The response of the gate if it refuses the request, else that of the handler."""
        return self.gate.refuse(request) or self._handler(request)


class _Connection:
    """One client. Everything except ``interrupt`` runs in the connection's own thread."""

    def __init__(self, server: Server, client: socket.socket) -> None:
        self._server = server
        self._socket = client
        self._buffer = b""
        self.idle_since: float | None = None
        self.thread = threading.Thread(target=self._run, name="http-connection", daemon=True)

    def interrupt(self) -> None:
        """Wake the thread; it then ends."""
        with suppress(OSError):
            # Not SSLSocket.shutdown: it drops the session keys while the thread may still be sending.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def refuse(self) -> None:
        """Answer 503 without blocking."""
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
        except (_DisconnectedError, OSError):
            pass
        finally:
            self._server.forget(self)
            self._socket.close()

    def _secure(self) -> bool:
        """Do the TLS handshake if TLS is configured. False if the client is not allowed."""
        context = self._server.gate.context()
        if context is None:
            return True
        self._socket.settimeout(self._server.request_seconds)
        self.idle_since = time.monotonic()
        first = self._socket.recv(1, socket.MSG_PEEK)
        self.idle_since = None
        if first not in (_TLS_HANDSHAKE, b""):
            self._reject(400, "this port uses HTTPS: write https:// in the address")
            return False
        secured = context.wrap_socket(self._socket, server_side=True)
        self._socket = secured
        return self._server.gate.admit(secured)

    def _exchange(self, generation: object) -> bool:
        """One request and its response. Whether the connection stays open."""
        try:
            head = self._read_head()
            request, keep = parse_head(head)
            self._skip_body(request.headers)
        except MalformedError as error:
            self._reject(error.status, error.reason)
            return False
        if self._server.gate.generation() is not generation:
            # The rules have changed since the connection was made: the client has to reconnect.
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

    def _reject(self, status: int, reason: str) -> None:
        """Answer a request that was not read completely. Reads on for up to 1 s: closing a socket with unread bytes resets
        the connection, and the client would lose the response."""
        body = f"{reason}\n".encode()
        self._socket.settimeout(1.0)
        self._socket.sendall(response_head(status, "text/plain; charset=utf-8", len(body), (), close=True) + body)
        socket.socket.shutdown(self._socket, socket.SHUT_WR)
        deadline = time.monotonic() + 1.0
        while socket.socket.recv(self._socket, 16 * 1024) and time.monotonic() < deadline:
            pass

    def _read_head(self) -> bytes:
        """The bytes before the empty line. Waits ``idle_seconds`` for the first byte, ``request_seconds`` for the rest."""
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
            raise MalformedError(501, "requests with a body are not supported")
        text = headers.get("content-length")
        if text is None:
            return
        if not text.isascii() or not text.isdigit():
            raise MalformedError(400, "the Content-Length is not a number")
        length = int(text)
        if length > _BODY_LIMIT:
            raise MalformedError(413, "the request body is too large")
        deadline = time.monotonic() + self._server.request_seconds
        while len(self._buffer) < length:
            self._socket.settimeout(max(1e-3, deadline - time.monotonic()))
            self._buffer += self._receive()
        self._buffer = self._buffer[length:]

    def _receive(self) -> bytes:
        data = self._socket.recv(16 * 1024)
        if not data:
            raise _DisconnectedError
        return data
