"""The ASGI middleware counts without delaying or failing an answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from support.readings import totals_by_role
from tpw.hook import TokenCounter
from tpw.hook.body import TextBody
from tpw.hook.counting import AnswerWatch, Counters
from tpw.hook.usage import Tally
from tpw.model import Load, Role
from tpw.tokens.engines import TPW_HOOK
from tpw.tokens.page import Page
from tpw.tokens.reading import DialectReader, PageReading

USAGE = {"model": "m", "usage": {"prompt_tokens": 5, "completion_tokens": 3}}


def reading(page: bytes) -> PageReading:
    return DialectReader(TPW_HOOK).read(Page(page))


def answering(body: bytes, *, status: int = 200, content_type: bytes = b"application/json") -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [(b"Content-Type", content_type)]})
        await send({"type": "http.response.body", "body": body[:10], "more_body": True})
        await send({"type": "http.response.body", "body": body[10:]})

    return app


def call(
    app: Any, path: str = "/v1/chat/completions", method: str = "POST", kind: str = "http"
) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{}"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app({"type": kind, "path": path, "method": method}, receive, send))
    return sent


def test_an_answer_is_counted_and_unchanged():
    app = TokenCounter(answering(json.dumps(USAGE).encode()))
    sent = call(app)
    assert sent == call(answering(json.dumps(USAGE).encode()))
    assert dict(totals_by_role(reading(app.page()).series)) == {
        Role.OUTPUT: 3.0,
        Role.PROMPT: 5.0,
        Role.CACHED_INPUT: 0.0,
        Role.REQUESTS: 1.0,
    }
    assert reading(app.page()).loads == (Load("m", 0.0, None),)


def test_the_counters_are_published_at_their_path():
    app = TokenCounter(answering(json.dumps(USAGE).encode()))
    call(app)
    [start, body] = call(app, "/tpw/metrics", "GET")
    assert (start["status"], dict(start["headers"])[b"content-type"]) == (
        200,
        b"text/plain; version=0.0.4; charset=utf-8",
    )
    assert totals_by_role(reading(body["body"]).series)[Role.OUTPUT] == 3.0


@pytest.mark.parametrize("path", ["/api/tpw/metrics", "/tpw/metrics"])
def test_the_counters_are_published_under_a_root_path(path: str):
    """uvicorn --root-path puts it in front of the path of the request; other servers do not."""
    app = TokenCounter(answering(b"{}"))
    scope = {"type": "http", "path": path, "method": "GET", "root_path": "/api"}
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, None, send))  # type: ignore[arg-type]
    assert b"tpw_hook_requests_running 0" in sent[1]["body"]


def test_without_a_path_nothing_is_published():
    app = TokenCounter(answering(b"{}"), path="")
    assert call(app, "/tpw/metrics", "GET") == call(answering(b"{}"))


@pytest.mark.parametrize(("path", "method", "kind"), [("/health", "GET", "http"), ("/x", "POST", "websocket")])
def test_other_requests_pass_uncounted(path: str, method: str, kind: str):
    app = TokenCounter(answering(json.dumps(USAGE).encode()))
    call(app, path, method, kind)
    assert reading(app.page()).series == ()


def test_a_piece_is_sent_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch):
    order: list[str] = []
    monkeypatch.setattr(AnswerWatch, "feed", lambda self, piece: order.append(f"parsed {len(piece)}"))

    async def send(message: dict[str, Any]) -> None:
        order.append(f"sent {len(message.get('body', b''))}")

    asyncio.run(
        TokenCounter(answering(b"x" * 15))({"type": "http", "path": "/v1/completions", "method": "POST"}, None, send)
    )  # type: ignore[arg-type]
    assert order == ["sent 0", "sent 10", "parsed 10", "sent 5", "parsed 5"]


def test_an_error_in_the_counter_is_counted_and_not_raised(monkeypatch: pytest.MonkeyPatch):
    def broken(self: AnswerWatch, piece: bytes) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(AnswerWatch, "feed", broken)
    app = TokenCounter(answering(b"x" * 15))
    assert len(call(app)) == 3
    assert b"\ntpw_hook_errors_total 2\n" in app.page()


def test_an_error_of_the_server_is_raised_and_ends_the_request():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("the server's own")

    counter = TokenCounter(app)
    with pytest.raises(RuntimeError, match="the server's own"):
        call(counter)
    assert b"\ntpw_hook_requests_running 0\n" in counter.page()


def test_running_requests_are_counted():
    received: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        received.append(counter.page())
        await answering(b"{}")(scope, receive, send)

    counter = TokenCounter(app)
    call(counter)
    assert b"\ntpw_hook_requests_running 1\n" in received[0]
    assert b"\ntpw_hook_requests_running 0\n" in counter.page()


def test_an_answer_to_a_disconnected_client_has_no_usage():
    async def disconnected(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            raise OSError("client disconnected")

    counter = TokenCounter(answering(json.dumps(USAGE).encode()))
    with pytest.raises(OSError, match="client disconnected"):
        asyncio.run(counter({"type": "http", "path": "/v1/completions", "method": "POST"}, None, disconnected))  # type: ignore[arg-type]
    assert b'\ntpw_hook_requests_without_usage_total{path="/v1/completions"} 1\n' in counter.page()


@pytest.mark.parametrize("fault", ["_judge", "add", "add_without_usage", "end", "total", "feed"])
def test_no_error_in_the_counter_reaches_the_server(fault: str, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    place = {"_judge": AnswerWatch, "total": Tally, "end": TextBody, "feed": TextBody}.get(fault, Counters)
    monkeypatch.setattr(place, fault, broken)
    server = answering(b"{}" if fault == "add_without_usage" else json.dumps(USAGE).encode())
    app = TokenCounter(server)
    assert call(app) == call(server)
    assert b"\ntpw_hook_requests_running 0\n" in app.page()
    assert b"\ntpw_hook_errors_total 0\n" not in app.page()
