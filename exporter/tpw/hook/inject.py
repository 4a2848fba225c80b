"""Requests the usage of an OpenAI-compatible stream for clients that do not.

Such a stream ends with its usage only if the request has ``stream_options.include_usage``. ``with_usage_requested`` adds
it, ``UsageEvents`` removes the one event that the client did not request. Off by default. Standard library only.
"""

from __future__ import annotations

import json
from typing import Any

INJECTED_PATHS = ("/v1/completions", "/v1/chat/completions")
"""Suffixes of the paths that support ``stream_options``."""

_EVENT_BYTES = 64 << 10
_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")


def with_usage_requested(body: bytes) -> bytes | None:
    """The request's body with usage requested; None if it is already, is not a stream or cannot be parsed.

    The client's text is not changed otherwise, unless it has ``stream_options`` of its own.
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
    """Removes events from a stream that contain usage and nothing else.

    An event is passed on as soon as it is complete; an incomplete one at the end of a piece waits for its rest.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> bytes:
        """The next bytes for the client."""
        text = self._rest + piece
        passed_on = []
        start = 0
        while (end := _end_of_event(text, start)) >= 0:
            if not _is_usage_alone(text[start:end]):
                passed_on.append(text[start:end])
            start = end
        self._rest = text[start:]
        if len(self._rest) > _EVENT_BYTES:  # no usage event is that long
            passed_on.append(self.end())
        return b"".join(passed_on)

    def end(self) -> bytes:
        """The rest at the end of the stream."""
        rest, self._rest = self._rest, b""
        return rest


def _end_of_event(text: bytes, start: int) -> int:
    found = [at + len(end) for end in _ENDS if (at := text.find(end, start)) >= 0]
    return min(found, default=-1)


def _is_usage_alone(event: bytes) -> bool:
    if b'"usage"' not in event or not event.startswith(b"data:"):
        return False
    try:
        content: Any = json.loads(event[5:])
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("choices") == [] and isinstance(content.get("usage"), dict)
