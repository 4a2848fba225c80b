"""Clients that try to keep everybody else from the exporter's port, and a probe that measures whether they do."""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

from support.servers import HttpStatusError, http_get, http_request


@contextmanager
def attacked(count: int, attack: Callable[[int, threading.Event], None]) -> Iterator[None]:
    """``count`` threads that attack until the block ends. ``attack(number, is_over)`` is one attempt, repeated."""
    is_over = threading.Event()

    def go_on(number: int) -> None:
        while not is_over.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                attack(number, is_over)
            is_over.wait(0.005)

    threads = [threading.Thread(target=go_on, args=[number], daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.5)  # until every place is taken
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join(10)


def drip_head(port: int) -> Callable[[int, threading.Event], None]:
    """Send the head of a request byte by byte."""

    return _drip(port, b"GET /metrics HTTP/1.1\r\nX-Slow: ")


def drip_handshake(port: int) -> Callable[[int, threading.Event], None]:
    """Send the first message of a TLS handshake, of 16 KiB, byte by byte."""
    return _drip(port, b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc")


def _drip(port: int, start: bytes) -> Callable[[int, threading.Event], None]:
    def attack(number: int, is_over: threading.Event) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as client:
            for byte in itertools.chain(start, itertools.repeat(0x61)):
                client.sendall(bytes([byte]))
                if is_over.wait(0.1):
                    return

    return attack


def read_nothing(port: int) -> Callable[[int, threading.Event], None]:
    """Request pages and read none of them."""

    def attack(number: int, is_over: threading.Event) -> None:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(2)
            client.connect(("127.0.0.1", port))
            for _ in range(400):
                client.sendall(b"GET /docs/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            is_over.wait(5)

    return attack


def guess_passwords(port: int, user: str) -> Callable[[int, threading.Event], None]:
    """Request a page with another wrong password each time."""
    numbers = itertools.count()

    def attack(number: int, is_over: threading.Event) -> None:
        secret = base64.b64encode(f"{user}:guess {next(numbers)}".encode()).decode()
        with contextlib.suppress(HttpStatusError):
            http_get(f"http://127.0.0.1:{port}/metrics", headers={"Authorization": f"Basic {secret}"}, timeout=5)

    return attack


def post(port: int, path: str) -> Callable[[int, threading.Event], None]:
    """Ask for an action."""

    def attack(number: int, is_over: threading.Event) -> None:
        with contextlib.suppress(HttpStatusError):
            http_request(f"http://127.0.0.1:{port}{path}", method="POST", timeout=20)

    return attack


@dataclass
class Probed:
    """Results of requests for one path."""

    path: str
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def p99_seconds(self) -> float:
        return sorted(self.seconds)[max(0, round(0.99 * len(self.seconds)) - 1)] if self.seconds else float("inf")

    def __str__(self) -> str:
        total = len(self.seconds) + len(self.failures)
        return f"{self.path}: {len(self.failures)} of {total} failed, p99 {self.p99_seconds * 1000.0:.0f} ms"


def probe(
    port: int,
    paths: dict[str, dict[str, str]],
    times: int,
    every_seconds: float = 0.05,
    context: ssl.SSLContext | None = None,
) -> list[Probed]:
    """Request every path (with its headers) so many times, each on a new connection.

    A request fails without an answer, and all do where half of them take longer than 1 s, as long as a kubelet waits: a
    busy machine may hold back any one.
    """
    results = [Probed(path) for path in paths]
    for _ in range(times):
        for result in results:
            began = time.monotonic()
            try:
                scheme = "http" if context is None else "https"
                request = urllib.request.Request(
                    f"{scheme}://127.0.0.1:{port}{result.path}", headers=paths[result.path]
                )
                with urllib.request.urlopen(request, timeout=20.0, context=context) as response:
                    response.read()
            except (OSError, http.client.HTTPException) as error:
                result.failures.append(str(error))
            else:
                result.seconds.append(time.monotonic() - began)
        time.sleep(every_seconds)
    for result in results:
        if result.seconds and median(result.seconds) > 1.0:
            result.failures.append(f"half of {len(result.seconds)} answers took {median(result.seconds):.1f} s")
    return results
