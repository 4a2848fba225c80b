"""A small HTTP/1.1 server for a few clients that poll every few seconds.

One thread per connection. Connections are kept alive and limited in number, and every wait has a time limit: a client that
sends nothing, too much or too slowly occupies one thread for a while and does not affect others. When connections are
scarce, the slowest makes way (:mod:`tpw.exposition.admission`). The standard library's handler spends more time on the
headers of a scrape than the page takes to render; this one parses only what is needed.
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from tpw.exposition.admission import PROBES, Limits, Phase, admit, may_use_reserve, peer_of
from tpw.exposition.http1 import MalformedError, Request, Response, parse_head, response_head
from tpw.exposition.listening import ListenError, listen, parse_address

if TYPE_CHECKING:
    import ssl

__all__ = ["Gate", "Handler", "ListenError", "Server", "parse_address"]

_log = structlog.get_logger(__name__)

_HEAD_LIMIT = 16 * 1024
_BODY_LIMIT = 64 * 1024
_PAGES_AT_ONCE = 2
"""Pages that are made at the same time. Tuning: more threads would take the interpreter's lock from probes and the tick."""
_TLS_HANDSHAKE = b"\x16"


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


class _DisconnectedError(Exception):
    """The client closed the connection."""


class Server:
    """Listens on addresses and answers requests with a handler.

    Args:
        addresses: in the form that :func:`parse_address` accepts.
        handler: called in the connection's thread; must not raise.
        gate: TLS and access control.
        limits: numbers of connections. Who finds no place gets 503.
        idle_seconds: how long a connection may wait for its next request.
        head_seconds: how long receiving the head of a request, or a TLS handshake, may take.
        request_seconds: how long receiving the body of a request, or sending one response, may take.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        handler: Handler,
        *,
        gate: Gate | None = None,
        limits: Limits | None = None,
        idle_seconds: float = 120.0,
        head_seconds: float = 2.0,
        request_seconds: float = 10.0,
    ) -> None:
        self._addresses = tuple(addresses)
        self._handler = handler
        self.gate = gate or Gate()
        self.idle_seconds = idle_seconds
        self.head_seconds = head_seconds
        self.request_seconds = request_seconds
        self._limits = limits or Limits()
        self._listeners: list[socket.socket] = []
        self.connections: set[_Connection] = set()
        """Open ones. Changed with the lock held."""
        self._lock = threading.Lock()
        self._turns = threading.BoundedSemaphore(_PAGES_AT_ONCE)
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
                self._listeners.append(listen(address))
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
            connections = list(self.connections)
        for connection in connections:
            if connection.phase in (Phase.IDLE, Phase.RECEIVING):
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
            client, address = listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            # Out of descriptors, or the client has disconnected. The pause avoids a busy loop.
            _log.warning("http_accept_failed", error=str(error))
            time.sleep(0.05)
            return
        peer = peer_of(str(address[0]))
        with self._lock:
            admission, victim = admit(peer, self.connections, self._limits)
            connection = _Connection(self, client, peer, is_reserve=admission.from_reserve)
            if victim is not None:
                self.connections.discard(victim)
            if admission.admitted:
                self.connections.add(connection)
        if victim is not None:
            victim.interrupt()
        if not admission.admitted:
            connection.refuse()
            return
        try:
            connection.thread.start()
        except RuntimeError as error:
            self.forget(connection)
            connection.refuse()
            _log.warning("http_thread_failed", error=str(error))

    def forget(self, connection: _Connection) -> None:
        """Remove a connection that has ended."""
        with self._lock:
            self.connections.discard(connection)

    def answer(self, request: Request, connection: _Connection) -> Response:
        """The response of the gate if it refuses the request, else that of the handler."""
        if connection.is_reserve:
            with self._lock:
                is_allowed = may_use_reserve(connection, request.path, self.connections)
            if not is_allowed:
                return Response(b"too many connections\n", 503, headers=(("Retry-After", "1"),))
        refused = self.gate.refuse(request)
        if refused is not None:
            return refused
        if request.path in PROBES or request.method not in ("GET", "HEAD"):
            return self._handler(request)
        with self._turns:
            return self._handler(request)


class _Connection:
    """One client. Everything except ``interrupt`` runs in the connection's own thread."""

    def __init__(self, server: Server, client: socket.socket, peer: str, *, is_reserve: bool) -> None:
        self._server = server
        self._socket = client
        self._buffer = b""
        self.peer = peer
        self.is_reserve = is_reserve
        self._is_fresh = True
        """No request has arrived yet. It counts as incomplete since the connection was made: if new connections counted as
        idle, those of slow clients would displace each other's and everybody's."""
        self.phase = Phase.RECEIVING
        self.since_seconds = time.monotonic()
        self.thread = threading.Thread(target=self._run, name="http-connection", daemon=True)

    def _enter(self, phase: Phase) -> None:
        self.since_seconds = time.monotonic()
        self.phase = phase

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
        self._socket.settimeout(self._server.idle_seconds)
        first = self._socket.recv(1, socket.MSG_PEEK)
        self._socket.settimeout(self._server.head_seconds)
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
        self._enter(Phase.HANDLING)
        response = self._server.answer(request, self)
        keep = keep and not self._server.stopping
        headers = response.headers
        fixed = self._server.gate.headers()
        if fixed:
            headers = tuple({**dict(headers), **dict(fixed)}.items())
        out = response_head(response.status, response.content_type, len(response.body), headers, close=not keep)
        if request.method != "HEAD":
            out += response.body
        self._enter(Phase.SENDING)
        self._socket.settimeout(self._server.request_seconds)
        self._socket.sendall(out)
        return keep

    def _reject(self, status: int, reason: str) -> None:
        """Answer a request that was not read completely. Reads on for up to 1 s: closing a socket with unread bytes resets
        the connection, and the client would lose the response."""
        body = f"{reason}\n".encode()
        self._enter(Phase.SENDING)
        self._socket.settimeout(1.0)
        self._socket.sendall(response_head(status, "text/plain; charset=utf-8", len(body), (), close=True) + body)
        socket.socket.shutdown(self._socket, socket.SHUT_WR)
        deadline = time.monotonic() + 1.0
        while socket.socket.recv(self._socket, 16 * 1024) and time.monotonic() < deadline:
            pass

    def _read_head(self) -> bytes:
        """The bytes before the empty line. Waits ``idle_seconds`` for the first byte, ``head_seconds`` for the rest."""
        deadline: float | None = None
        if not self._buffer:
            if not self._is_fresh:
                self._enter(Phase.IDLE)
            self._socket.settimeout(self._server.idle_seconds)
            self._buffer = self._receive()
        if not self._is_fresh:
            self._enter(Phase.RECEIVING)
        self._is_fresh = False
        while True:
            end = self._buffer.find(b"\r\n\r\n")
            if 0 <= end <= _HEAD_LIMIT:
                head, self._buffer = self._buffer[:end], self._buffer[end + 4 :]
                return head
            if end >= 0 or len(self._buffer) > _HEAD_LIMIT:
                raise MalformedError(431, "the headers are too long")
            now = time.monotonic()
            deadline = deadline or now + self._server.head_seconds
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
