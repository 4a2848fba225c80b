"""The counting reverse proxy, between real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Self

import pytest

from tpw.hook.counting import Counters
from tpw.hook.proxy import serve_proxy
from tpw.model import Role
from tpw.tokens.engines import TPW_HOOK
from tpw.tokens.page import Page
from tpw.tokens.reading import DialectReader, summary

Speak = Callable[[bytes, bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool]]
"""Answers one request: its head, its body (by length). Returns whether the connection goes on."""


def plain(body: bytes, *, content_type: str = "application/json", more: str = "") -> bytes:
    return (
        f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body
    )


USED = json.dumps({"model": "m", "usage": {"prompt_tokens": 5, "completion_tokens": 3}}).encode()


def output_of(counters: Counters) -> float:
    return summary(DialectReader(TPW_HOOK).read(Page(counters.page())).series).get(Role.OUTPUT, 0.0)


class Between:
    """A server that speaks as told, the proxy before it, and a connection of a client to the proxy."""

    def __init__(self, speak: Speak) -> None:
        self.speak = speak
        self.heads: list[bytes] = []
        self.counters = Counters()
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self._stop = asyncio.Event()
        ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._proxy = asyncio.create_task(
            serve_proxy(
                f"http://127.0.0.1:{port}",
                "127.0.0.1:0",
                ready=lambda _, at: ready.set_result(at),
                stop=self._stop,
                counters=self.counters,
            )
        )
        self.port = await ready
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        self._stop.set()
        await asyncio.wait_for(self._proxy, 10)
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                length = next(
                    (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0
                )
                body = b"" if b"Expect" in head else await reader.readexactly(length)
                if not await self.speak(head, body, reader, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async def ask(self, path: str = "/v1/chat/completions", body: bytes = b"{}", more: str = "") -> None:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: proxy\r\nAccept-Encoding: gzip\r\nContent-Length: {len(body)}\r\n{more}\r\n"
        )
        self.writer.write(head.encode() + body)
        await self.writer.drain()

    async def exactly(self, expected: bytes) -> None:
        assert await asyncio.wait_for(self.reader.readexactly(len(expected)), 10) == expected


def saying(answer: bytes, *, goes_on: bool = True) -> Speak:
    async def speak(head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(answer)
        await writer.drain()
        return goes_on

    return speak


def run(speak: Speak, talk: Callable[[Between], Awaitable[None]]) -> Between:
    async def both() -> Between:
        async with Between(speak) as between:
            await talk(between)
        return between

    return asyncio.run(both())


def test_an_answer_passes_unchanged_and_is_counted_and_connections_are_kept():
    async def talk(between: Between) -> None:
        for _ in range(3):
            await between.ask()
            await between.exactly(plain(USED))

    between = run(saying(plain(USED)), talk)
    assert (output_of(between.counters), between.connections) == (9.0, 1)


def test_the_server_sees_its_own_name_and_is_asked_not_to_compress():
    async def talk(between: Between) -> None:
        await between.ask(more="X-Own: 1\r\n")
        await between.exactly(plain(USED))

    [head] = run(saying(plain(USED)), talk).heads
    assert b"Host: 127.0.0.1:" in head
    assert b"Host: proxy" not in head
    assert b"Accept-Encoding: identity" in head
    assert b"gzip" not in head
    assert b"X-Own: 1" in head


def test_a_stream_goes_out_piece_by_piece_while_it_is_made():
    """The server waits for the client to have seen each piece: a proxy that held one back would hang."""
    seen = asyncio.Queue[None]()

    async def speak(head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
        for line in (b'{"model":"m","done":false}\n', b'{"done":true,"prompt_eval_count":4,"eval_count":7}\n'):
            writer.write(b"%x\r\n%s\r\n" % (len(line), line))
            await writer.drain()
            await asyncio.wait_for(seen.get(), 10)
        writer.write(b"0\r\n\r\n")
        return True

    async def talk(between: Between) -> None:
        await between.ask("/api/chat")
        await asyncio.wait_for(between.reader.readuntil(b"\r\n\r\n"), 10)
        for end in (b"false}\n\r\n", b"7}\n\r\n"):
            await asyncio.wait_for(between.reader.readuntil(end), 10)
            seen.put_nowait(None)
        await between.exactly(b"0\r\n\r\n")

    assert output_of(run(speak, talk).counters) == 7.0


def test_an_answer_that_ends_with_its_connection():
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n" + USED

    async def talk(between: Between) -> None:
        await between.ask()
        assert await asyncio.wait_for(between.reader.read(-1), 10) == answer

    assert output_of(run(saying(answer, goes_on=False), talk).counters) == 3.0


def test_a_body_that_waits_for_permission():
    async def speak(head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
        assert await reader.readexactly(4) == b"late"
        writer.write(plain(USED))
        return True

    async def talk(between: Between) -> None:
        between.writer.write(
            b"POST /v1/completions HTTP/1.1\r\nHost: p\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        )
        await between.exactly(b"HTTP/1.1 100 Continue\r\n\r\n")
        between.writer.write(b"late")
        await between.exactly(plain(USED))

    assert output_of(run(speak, talk).counters) == 3.0


def test_after_an_upgrade_bytes_go_both_ways():
    async def speak(head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")
        writer.write(b"echo " + await reader.readexactly(5))
        await writer.drain()
        return False

    async def talk(between: Between) -> None:
        between.writer.write(b"GET /ws HTTP/1.1\r\nHost: p\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        await asyncio.wait_for(between.reader.readuntil(b"\r\n\r\n"), 10)
        between.writer.write(b"hello")
        await between.exactly(b"echo hello")

    run(speak, talk)


def test_other_requests_pass_and_count_nothing():
    async def talk(between: Between) -> None:
        between.writer.write(b"GET /api/tags HTTP/1.1\r\nHost: p\r\n\r\nHEAD / HTTP/1.1\r\nHost: p\r\n\r\n")
        await between.exactly(plain(b""))
        await between.exactly(plain(b""))

    between = run(saying(plain(b"")), talk)
    assert (output_of(between.counters), between.counters.without_usage) == (0.0, 0)


def test_the_counters_are_published_on_the_same_address():
    async def talk(between: Between) -> None:
        await between.ask()
        await between.exactly(plain(USED))
        between.writer.write(b"GET /tpw/metrics HTTP/1.1\r\nHost: p\r\n\r\n")
        head = await asyncio.wait_for(between.reader.readuntil(b"\r\n\r\n"), 10)
        assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4")
        await between.exactly(between.counters.page())

    between = run(saying(plain(USED)), talk)
    assert len(between.heads) == 1


def test_a_server_that_is_not_there_is_a_bad_gateway():
    async def talk() -> bytes:
        listener = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        listener.close()
        await listener.wait_closed()
        stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
        proxy = asyncio.create_task(
            serve_proxy(f"http://127.0.0.1:{port}", "127.0.0.1:0", ready=lambda _, at: ready.set_result(at), stop=stop)
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", await ready)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: p\r\nContent-Length: 0\r\n\r\n")
        said = await asyncio.wait_for(reader.read(-1), 10)
        writer.close()
        stop.set()
        await asyncio.wait_for(proxy, 10)
        return said

    said = asyncio.run(talk())
    assert said.startswith(b"HTTP/1.1 502 Bad Gateway")
    assert b"cannot be reached" in said


def test_an_answer_that_is_cut_off_is_told_and_the_client_is_let_go():
    cut = plain(USED)[:-5]

    async def talk(between: Between) -> None:
        await between.ask()
        assert await asyncio.wait_for(between.reader.read(-1), 10) == cut

    between = run(saying(cut, goes_on=False), talk)
    assert between.counters.running == 0


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01garbage\r\n\r\n", b"GET /\r\n\r\n", b"POST / HTTP/1.1\r\nno colon\r\n\r\n"]
)
def test_what_is_no_http_is_hung_up_on(garbage: bytes):
    async def talk(between: Between) -> None:
        between.writer.write(garbage)
        assert await asyncio.wait_for(between.reader.read(-1), 10) == b""

    run(saying(plain(USED)), talk)


@pytest.mark.parametrize("address", ["127.0.0.1:11434", "ftp://x", "http://x/path", "http://x?q=1"])
def test_an_upstream_that_is_no_base_address_is_refused(address: str):
    with pytest.raises(ValueError, match="not the base address"):
        asyncio.run(serve_proxy(address))


def test_an_address_that_cannot_be_listened_on_is_refused():
    with pytest.raises(ValueError, match="not an address to listen on"):
        asyncio.run(serve_proxy("http://127.0.0.1:1", "nowhere"))
