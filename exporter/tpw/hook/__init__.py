"""An ASGI middleware that counts tokens from the ``usage`` in a server's answers.

For OpenAI-compatible servers in Python without token counters of their own (TabbyAPI, Infinity)::

    from tpw.hook import TokenCounter

    app = TokenCounter(app)          # or app.add_middleware(TokenCounter) with Starlette and FastAPI

The counters are a Prometheus page at ``/tpw/metrics`` of the same server, which the exporter reads as engine ``tpw_hook``.
Every piece of an answer is sent before it is parsed, nothing is delayed, and an error in this package is counted and never
reaches the server. Counters are of one process: a server with several worker processes shows those of one worker.

Standard library only. It imports nothing of the exporter.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from tpw.hook.counting import CONTENT_TYPE, COUNTED_PATHS, AnswerWatch, Counters, is_counted

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = ["TokenCounter"]


class TokenCounter:
    """Counts the tokens in the answers of an ASGI application.

    Args:
        app: the application.
        path: path of the counters' page; "" publishes none (``page()`` returns it).
        counted_paths: suffixes of the paths to count.
    """

    def __init__(self, app: App, *, path: str = "/tpw/metrics", counted_paths: tuple[str, ...] = COUNTED_PATHS) -> None:
        self._app = app
        self._path = path
        self._counted_paths = tuple(counted_paths)
        self._counters = Counters()

    def page(self) -> bytes:
        """The counters in the Prometheus text format."""
        return self._counters.page()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope.get("type") != "http":
            await self._app(scope, receive, send)
        elif self._path and scope.get("path") == self._path and scope.get("method") in ("GET", "HEAD"):
            await _publish(self._counters.page(), send)
        elif is_counted(scope.get("method", ""), scope.get("path", ""), self._counted_paths):
            await self._watched(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _watched(self, scope: Scope, receive: Receive, send: Send) -> None:
        watch = AnswerWatch(self._counters)

        async def passing(message: Message) -> None:
            await send(message)
            try:
                _observe(watch, message)
            except Exception:  # noqa: BLE001 - an error here must not reach the server
                self._counters.errors += 1

        self._counters.running += 1
        try:
            await self._app(scope, receive, passing)
        finally:
            self._counters.running -= 1
            watch.end()


def _observe(watch: AnswerWatch, message: Message) -> None:
    if message.get("type") == "http.response.start":
        headers = {bytes(name).lower(): bytes(value) for name, value in message.get("headers", ())}
        watch.begin(
            int(message.get("status", 0)),
            headers.get(b"content-type", b"").decode("latin-1"),
            headers.get(b"content-encoding", b"").decode("latin-1"),
        )
    elif message.get("type") == "http.response.body":
        watch.feed(bytes(message.get("body", b"")))
        if not message.get("more_body", False):
            watch.end()


async def _publish(page: bytes, send: Send) -> None:
    headers = [(b"content-type", CONTENT_TYPE.encode()), (b"content-length", str(len(page)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": page})
