"""What counting tokens costs: a piece of a stream on its way through the proxy or the middleware, and a page that is read.

A server of its own process sends a stream, a piece every 2 ms, each with the moment it was sent; the client takes the
moment it came. The same stream is asked for with and without the proxy in turns, and what the proxy adds is the
difference of the medians, and of the 99th percentiles, each of the quietest round; beside it, the proxy's CPU time per
piece. The middleware runs within its server, so it is timed there: what sending a piece takes with it and without. Last,
a read of llama-server, with and without its running requests.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from bench.servers import page
from support.pageserver import PageServer, answer, pages
from support.servers import free_port
from tpw.hook import TokenCounter
from tpw.tokens.engines import LLAMACPP, VLLM
from tpw.tokens.page import Page
from tpw.tokens.reading import DialectReader
from tpw.tokens.scrape import ScrapeSource

PIECES = 500
ROUNDS = 8
SENT = 20000
READS = 3000
READS = 1000
GOALS = {"median": 150.0, "p99": 2000.0, "reading": 1000.0}
"""Microseconds."""

_CAPTURES = Path(__file__).parent.parent / "captures" / "servers"
_PIECE = b'data: {"model":"m","choices":[{"index":0,"delta":{"content":" %d"}}],"at":%d}\n\n'
_USAGE_PIECE = (
    b'data: {"id":"cmpl-1","model":"m","choices":[{"index":0,"text":" %d","finish_reason":null}],'
    b'"usage":{"prompt_tokens":16,"total_tokens":%d,"completion_tokens":1}}\n\n'
)
"""vLLM with continuous_usage_stats."""
_STAMP = re.compile(rb'"at":(\d+)')
_ASK = b"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"


async def stamped(scope: Any, receive: Any, send: Any) -> None:
    """The application behind the middleware: every piece holds the time at which it was sent."""
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": message["type"] + ".complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for n in range(PIECES if scope["method"] == "POST" else 0):
        await asyncio.sleep(0.002)
        piece = _PIECE % (n, time.monotonic_ns())
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    last = b'data: {"model":"m","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":%d}}\n\n' % PIECES
    await send({"type": "http.response.body", "body": last})


@contextmanager
def running(*command: str, port: int) -> Iterator[psutil.Process]:
    """A process that listens on a port."""
    environment = {**os.environ, "PYTHONPATH": ":".join([*sys.path, str(Path(__file__).parent.parent)])}
    child = subprocess.Popen([sys.executable, "-m", *command], env=environment)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if child.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{command[0]} does not listen") from None
                time.sleep(0.05)
        yield psutil.Process(child.pid)
    finally:
        child.terminate()
        child.wait(10)


def delays(port: int) -> list[float]:
    """Microseconds from sending to coming of every piece of one stream."""
    found: list[float] = []
    rest = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(_ASK)
        while data := connection.recv(1 << 16):
            now = time.monotonic_ns()
            *lines, rest = (rest + data).split(b"\n")
            found += [(now - int(stamp)) / 1e3 for line in lines for stamp in _STAMP.findall(line)]
    assert len(found) == PIECES
    return found


def cpu_us(process: psutil.Process) -> float:
    """CPU time so far."""
    times = process.cpu_times()
    return (times.user + times.system) * 1e6


def compared(without: int, with_it: int) -> tuple[float, float]:
    """What lies between two ports adds: median and 99th percentile."""
    plain, through = [], []
    for _ in range(ROUNDS):
        plain.append(delays(without))
        through.append(delays(with_it))
    median, p99 = (
        min(figure(one) for one in through) - min(figure(one) for one in plain) for figure in (statistics.median, _p99)
    )
    return median, p99


def _p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * len(values)) - 1]


def proxy_row() -> tuple[float, float, float, float]:
    """Added median and p99, CPU per piece (microseconds), resident memory (MiB)."""
    behind, port = free_port(), free_port()
    options = ("--log-level", "error", "--http", "h11")
    flags = (f"--upstream=http://127.0.0.1:{behind}", f"--web.listen-address=127.0.0.1:{port}", "--log.level=error")
    with (
        running("uvicorn", "bench.counting:stamped", "--port", str(behind), *options, port=behind),
        running("tpw", "proxy", *flags, port=port) as proxy,
    ):
        delays(port)
        before = cpu_us(proxy)
        median, p99 = compared(behind, port)
        return median, p99, (cpu_us(proxy) - before) / (ROUNDS * PIECES), proxy.memory_info().rss / 2**20


async def _sent(app: Any, form: bytes) -> list[float]:
    """Microseconds that sending each piece of one stream took."""
    took = []

    async def send(message: Any) -> None:
        pass

    async def streaming(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for n in range(SENT):
            piece = {"type": "http.response.body", "body": form % (n, n), "more_body": True}
            begun = time.perf_counter_ns()
            await send(piece)
            took.append((time.perf_counter_ns() - begun) / 1e3)

    await app(streaming)({"type": "http", "method": "POST", "path": "/v1/chat/completions"}, None, send)
    return took


def middleware_row(form: bytes = _PIECE) -> tuple[float, float, float]:
    """Added median, p99 and mean, in microseconds."""
    plain, with_it = asyncio.run(_sent(lambda app: app, form)), asyncio.run(_sent(TokenCounter, form))
    added = [figure(with_it) - figure(plain) for figure in (statistics.median, _p99, statistics.fmean)]
    return added[0], added[1], added[2]


def reading_row() -> tuple[float, float, int]:
    """CPU of reading vLLM's page, median and p99 in microseconds, and the page's bytes. Every page is another one."""
    reader = DialectReader(VLLM)
    pages = [page(time.monotonic() - n) for n in range(20)]
    took = []
    for n in range(READS):
        begun = time.process_time_ns()
        reader.read(Page(pages[n % len(pages)]))
        took.append((time.process_time_ns() - begun) / 1e3)
    return statistics.median(took), _p99(took), len(pages[0])


def slots_row() -> tuple[float, float]:
    """CPU time of a read of llama-server, of its page alone and of its four running requests too: medians in
    microseconds. The server is a thread of this process, so only the time of the reading thread counts."""
    busy = (_CAPTURES / "llamacpp-b11669-busy.txt").read_bytes()
    idle = busy.replace(b"requests_processing 4", b"requests_processing 0")
    slots = answer((_CAPTURES / "llamacpp-b11669-busy-slots.json").read_bytes(), content_type="application/json")
    took = {}
    for body in (idle, busy):
        with PageServer(pages({"/metrics": answer(body), "/slots": slots})) as server:
            source = ScrapeSource("bench", server.url, LLAMACPP, model="m")
            microseconds = []
            for _ in range(READS):
                begun = time.thread_time_ns()
                reading = source.read()
                microseconds.append((time.thread_time_ns() - begun) / 1e3)
            source.close()
            took[bool(reading.in_flight)] = statistics.median(microseconds)
    return took[False], took[True]


def table() -> None:
    """All rows."""
    heads = ["median us", "p99 us", "CPU us", "RSS MiB", "pieces", "bytes"]
    print(f"{'counting':<12}" + "".join(f"{head:>16}" for head in heads))

    def row(name: str, *cells: str) -> None:
        print(f"{name:<12}" + "".join(f"{cell:>16}" for cell in cells), flush=True)

    def goal(value: float, most: float) -> str:
        return f"{value:.0f} (<={most:.0f})"

    median, p99, cpu, rss = proxy_row()
    pieces = str(ROUNDS * PIECES)
    row("proxy", goal(median, GOALS["median"]), goal(p99, GOALS["p99"]), f"{cpu:.0f}", f"{rss:.1f}", pieces, "")
    median, p99, cpu = middleware_row()
    row("middleware", f"{median:.1f} (<=2)", f"{p99:.1f} (<=50)", f"{cpu:.1f}", "", str(SENT), "")
    median, p99, cpu = middleware_row(_USAGE_PIECE)
    row("..with usage", f"{median:.1f} (<=2)", f"{p99:.1f} (<=50)", f"{cpu:.1f}", "", str(SENT), "")
    median, p99, size = reading_row()
    row("reading", "", "", f"{goal(median, GOALS['reading'])}", "", "", str(size))
    alone, with_requests = slots_row()
    row("llama", "", "", f"{alone:.0f}", "", "", "")
    row("llama+slots", "", "", f"{with_requests:.0f}", "", "", "")
