"""A server on a loopback port that says byte for byte what a test wants it to say."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    connection: int
    """Which connection it came by, from 1."""


def answer(
    body: bytes | str = b"",
    *,
    status: int = 200,
    content_type: str = "text/plain; version=0.0.4",
    headers: dict[str, str] | None = None,
) -> bytes:
    """A well-formed answer that keeps the connection."""
    raw = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} Status", f"Content-Type: {content_type}", f"Content-Length: {len(raw)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + raw


NOT_FOUND = answer('{"detail":"Not Found"}', status=404, content_type="application/json")

Script = Callable[[Asked], bytes | None]
"""What to say; None hangs up. An answer with ``Connection: close`` is followed by hanging up."""


@dataclass
class PageServer:
    """Runs a script in threads from entering to leaving the ``with`` block."""

    script: Script
    tls: ssl.SSLContext | None = None
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0

    def __enter__(self) -> Self:
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
        """Drop every open connection, as a server that is restarted does."""
        with self._lock:
            still_open, self._open = self._open, set()
        for connection in still_open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def paths(self) -> list[str]:
        """What was asked for so far."""
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
                    said = self.script(asked)
                    if said is None:
                        return
                    connection.sendall(said)
                    if b"connection: close" in said.partition(b"\r\n\r\n")[0].lower() or said.startswith(b"HTTP/1.0"):
                        return
        except OSError:
            return


def pages(by_path: dict[str, bytes]) -> Script:
    """A script that answers by path, 404 elsewhere."""
    return lambda asked: by_path.get(asked.path, NOT_FOUND)
