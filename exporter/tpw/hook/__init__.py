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
from typing import TYPE_CHECKING, Any

from tpw.hook.counting import CONTENT_TYPE, AnswerWatch, Counters
from tpw.hook.paths import is_read

if TYPE_CHECKING:
    from tpw.hook.tenants import TenantHeaders

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
        counted_paths: suffixes of the paths to count; None counts every POST that can use tokens.
        tenants: who sends a request, by its headers (:class:`tpw.hook.tenants.TenantHeaders`); None counts no tenants.
    """

    def __init__(
        self,
        app: App,
        *,
        path: str = "/tpw/metrics",
        counted_paths: tuple[str, ...] | None = None,
        tenants: TenantHeaders | None = None,
    ) -> None:
        self._app = app
        self._path = path
        self._counted_paths = None if counted_paths is None else tuple(counted_paths)
        self._counters = Counters()
        self._tenants = tenants

    def page(self) -> bytes:
        """The counters in the Prometheus text format."""
        return self._counters.page()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope.get("type") != "http":
            await self._app(scope, receive, send)
        elif self._path and scope.get("method") in ("GET", "HEAD") and self._is_page(scope):
            await _publish(self._counters.page(), send)
        elif self._is_read(scope.get("method", ""), scope.get("path", "")):
            await self._watched(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_page(self, scope: Scope) -> bool:
        """With a root path (``uvicorn --root-path``), the path of a request begins with it, or not: both are in use."""
        root = str(scope.get("root_path") or "").rstrip("/")
        return scope.get("path") in (self._path, root + self._path)

    def _is_read(self, method: str, path: str) -> bool:
        if self._counted_paths is not None and not path.rstrip("/").endswith(self._counted_paths):
            return False
        return is_read(method, path)

    def _tenant(self, scope: Scope) -> str:
        if self._tenants is None:
            return ""
        try:
            values = _values(scope)
            return self._tenants.tenant(lambda name: values.get(name, ""))
        except Exception:  # noqa: BLE001 - an error here must not reach the server
            self._counters.errors += 1
            return ""

    async def _watched(self, scope: Scope, receive: Receive, send: Send) -> None:
        watch = AnswerWatch(self._counters, _without_root(scope), self._tenant(scope))

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


def _values(scope: Scope) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in scope.get("headers", ()):
        found.setdefault(bytes(name).lower().decode("latin-1"), bytes(value).decode("latin-1"))
    return found


def _without_root(scope: Scope) -> str:
    return str(scope.get("path", "")).removeprefix(str(scope.get("root_path") or ""))


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
