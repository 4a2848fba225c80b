"""Servers with vLLM's pages: the recorded page with increasing counters. ``python -m bench.servers N`` prints N ports.

One process of its own, so that what it costs is not counted as the daemon's.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from pathlib import Path

_PAGE = (Path(__file__).parent.parent / "captures" / "servers" / "vllm-0.32.0-after-16-requests.txt").read_bytes()
_MOVING = re.compile(
    rb"^(vllm:generation_tokens_total\{[^}]*\}|vllm:prompt_tokens_total\{[^}]*\}"
    rb"|vllm:prompt_tokens_by_source_total\{[^}]*local_compute[^}]*\}) [0-9.e+]+$",
    re.MULTILINE,
)
_RUNNING = re.compile(rb"^(vllm:num_requests_running\{[^}]*\}) [0-9.]+$", re.MULTILINE)


def page(begun: float) -> bytes:
    """The page now: a busy server, 1,500 tokens a second."""
    made = b"%.1f" % (1500.0 * (time.monotonic() - begun) + 384.0)
    return _RUNNING.sub(rb"\1 12.0", _MOVING.sub(lambda found: found.group(1) + b" " + made, _PAGE))


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, begun: float) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            found = head.startswith((b"GET /metrics ", b"GET /metrics?"))
            body = page(begun) if found else b'{"version": "0.32.0"}'
            kind = b"text/plain; version=1.0.0; charset=utf-8" if found else b"application/json"
            writer.write(
                b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
                % (kind, len(body))
            )
            writer.write(body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def serve(number: int) -> None:
    """Serve until killed."""
    begun = time.monotonic()
    servers = [await asyncio.start_server(lambda r, w: _answer(r, w, begun), "127.0.0.1", 0) for _ in range(number)]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
