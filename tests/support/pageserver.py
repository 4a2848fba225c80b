"""A server on a loopback port that sends byte for byte what a test scripts."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    path: str
    headers: dict[str, str]
    """Names in lower case."""
    connection: int
    """Number of the connection it arrived on, from 1."""


def answer(
    body: bytes | str = b"",
    *,
    status: int = 200,
    content_type: str = "text/plain; version=0.0.4",
    headers: dict[str, str] | None = None,
) -> bytes:
    """A well-formed answer that keeps the connection open."""
    raw = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} Status", f"Content-Type: {content_type}", f"Content-Length: {len(raw)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + raw


NOT_FOUND = answer('{"detail":"Not Found"}', status=404, content_type="application/json")

Script = Callable[[Asked], bytes | None]
"""Returns the answer to a request; None hangs up. An answer with ``Connection: close`` is followed by hanging up."""


@dataclass
class PageServer:
    """Runs a script in threads from entering to leaving the ``with`` block."""

    script: Script
    tls: ssl.SSLContext | None = None
    drips_from: bytes | None = None
    """After these bytes of an answer, one byte is sent every 20 ms: b"" drips the whole answer."""
    unix: str = ""
    """Path of a Unix socket to listen on instead."""
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0

    def __enter__(self) -> Self:
        if self.unix:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(self.unix)
            self._listener.listen()
            self.url = f"unix:{self.unix}"
        else:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.port = self._listener.getsockname()[1]
            self.url = f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # shutdown wakes a thread that waits in accept(); close alone does not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        for thread in self._threads:
            thread.join(5.0)

    def fileno(self) -> int:
        """Of the listening socket, for a child that is to hold it too."""
        return self._listener.fileno()

    def hang_up(self) -> None:
        """Close every open connection, as a restart of a server does."""
        with self._lock:
            still_open, self._open = self._open, set()
        for connection in still_open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def paths(self) -> list[str]:
        """The paths of all requests so far."""
        return [asked.path for asked in self.asked]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with self._lock:
                self._open.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection, self.connections), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        try:
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
            with connection, connection.makefile("rb") as incoming:
                while True:
                    request = incoming.readline()
                    if not request:
                        return
                    headers = {}
                    while (line := incoming.readline().strip()) != b"":
                        name, _, value = line.decode().partition(":")
                        headers[name.lower()] = value.strip()
                    asked = Asked(request.split()[1].decode(), headers, number)
                    self.asked.append(asked)
                    data = self.script(asked)
                    if data is None:
                        return
                    self._send(connection, data)
                    if b"connection: close" in data.partition(b"\r\n\r\n")[0].lower() or data.startswith(b"HTTP/1.0"):
                        return
        except OSError:
            return

    def _send(self, connection: socket.socket, data: bytes) -> None:
        if self.drips_from is None:
            connection.sendall(data)
            return
        start = data.index(self.drips_from) + len(self.drips_from)
        if start:
            connection.sendall(data[:start])
        for index in range(start, len(data)):
            connection.sendall(data[index : index + 1])
            time.sleep(0.02)


def pages(by_path: dict[str, bytes]) -> Script:
    """A script that answers by path, 404 elsewhere."""
    return lambda asked: by_path.get(asked.path, NOT_FOUND)
