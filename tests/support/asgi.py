"""A small ASGI application that answers like inference servers do, with and without the token counter around it.

``uvicorn support.asgi:plain`` and ``support.asgi:counted`` serve the same answers; what is asked for decides them, so two
of them can be compared byte by byte. ``support.asgi:broken`` has a counter with a fault in every part of it.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tpw.hook import TokenCounter, counting

MODEL = "tiny"


async def plain(scope: Any, receive: Any, send: Any) -> None:
    """OpenAI's chat form at /v1/chat/completions, Ollama's at /api/chat; ``{"tokens": n}`` chooses the number of tokens."""
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": message["type"] + ".complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    asked = json.loads(body or b"{}")
    if scope["path"] == "/v1/chat/completions":
        await (_events if asked.get("stream") else _answer)(asked, send)
    elif scope["path"] == "/api/chat":
        await _lines(asked, send)
    else:
        await _respond(send, "text/plain", [b"here\n"])


async def _answer(asked: Any, send: Any) -> None:
    document = {
        "model": MODEL,
        "choices": [{"message": {"content": " token" * asked["tokens"]}}],
        "usage": _usage(asked),
    }
    await _respond(send, "application/json", [json.dumps(document).encode()])


async def _events(asked: Any, send: Any) -> None:
    events: list[Any] = [{"model": MODEL, "choices": [{"delta": {"content": f" {n}"}}]} for n in range(asked["tokens"])]
    if (asked.get("stream_options") or {}).get("include_usage"):
        events.append({"model": MODEL, "choices": [], "usage": _usage(asked)})
    pieces = [b"data: %b\n\n" % json.dumps(event).encode() for event in events]
    await _respond(send, "text/event-stream", [*pieces, b"data: [DONE]\n\n"], pause=asked.get("pause", 0.0))


async def _lines(asked: Any, send: Any) -> None:
    lines: list[Any] = [{"model": MODEL, "message": {"content": "x"}, "done": False} for _ in range(asked["tokens"])]
    last = {"model": MODEL, "done": True, "prompt_eval_count": asked["prompt"], "eval_count": asked["tokens"]}
    await _respond(send, "application/x-ndjson", [json.dumps(line).encode() + b"\n" for line in [*lines, last]])


def _usage(asked: Any) -> dict[str, int]:
    return {"prompt_tokens": asked["prompt"], "completion_tokens": asked["tokens"]}


async def _respond(send: Any, content_type: str, pieces: list[bytes], *, pause: float = 0.0) -> None:
    headers = [(b"content-type", content_type.encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        await asyncio.sleep(pause)
    await send({"type": "http.response.body", "body": b""})


class _Broken(counting.Counters):
    def add(self, model: str, usage: Any) -> None:
        raise RuntimeError("a fault")


class BrokenCounter(TokenCounter):
    """Answers each request with the next of several errors."""

    def __init__(self, app: Any) -> None:
        super().__init__(app)
        self._counters = _Broken()


counted = TokenCounter(plain)
broken = BrokenCounter(plain)
