"""Asking for what clients do not ask for: the usage at the end of an OpenAI-compatible stream.

Such a stream says what it used only where the request has ``stream_options.include_usage``. ``with_usage_asked`` puts it
in, ``UsageEvents`` takes the one event out again that the client did not ask for. Used only where the operator wants it.
Standard library only.
"""

from __future__ import annotations

import json
from typing import Any

ASKED_PATHS = ("/v1/completions", "/v1/chat/completions")
"""Ends of the paths that know ``stream_options``."""

_EVENT_BYTES = 64 << 10
_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")


def with_usage_asked(body: bytes) -> bytes | None:
    """The request's body, asking for usage; None where it asks already, streams nothing or is not understood.

    What the client wrote stays as it is where it has no ``stream_options`` of its own.
    """
    try:
        request = json.loads(body.decode())  # not UTF-16, which json would take and this would break
    except (ValueError, RecursionError):
        return None
    if not isinstance(request, dict) or request.get("stream") is not True:
        return None
    if "stream_options" not in request:
        return body.replace(b"{", b'{"stream_options":{"include_usage":true},', 1)
    options = request["stream_options"]
    if not isinstance(options, dict | None) or (options or {}).get("include_usage"):
        return None
    request["stream_options"] = {**(options or {}), "include_usage": True}
    return json.dumps(request, ensure_ascii=False).encode()


class UsageEvents:
    """Takes the events out of a stream that say usage and nothing else.

    An event is handed on as soon as it is whole; of a piece that ends within an event, that rest waits for its end.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> bytes:
        """What the client may have of the stream up to here."""
        text = self._rest + piece
        kept = []
        start = 0
        while (end := _end_of_event(text, start)) >= 0:
            if not _is_usage_alone(text[start:end]):
                kept.append(text[start:end])
            start = end
        self._rest = text[start:]
        if len(self._rest) > _EVENT_BYTES:  # no usage is as long as that
            kept.append(self.end())
        return b"".join(kept)

    def end(self) -> bytes:
        """What is left when the stream is over."""
        rest, self._rest = self._rest, b""
        return rest


def _end_of_event(text: bytes, start: int) -> int:
    found = [at + len(end) for end in _ENDS if (at := text.find(end, start)) >= 0]
    return min(found, default=-1)


def _is_usage_alone(event: bytes) -> bool:
    if b'"usage"' not in event or not event.startswith(b"data:"):
        return False
    try:
        said: Any = json.loads(event[5:])
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and said.get("choices") == [] and isinstance(said.get("usage"), dict)
