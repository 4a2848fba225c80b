"""The counting reverse proxy, between real sockets."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import tracemalloc
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Self

import pytest

from support.readings import totals_by_role
from support.servers import free_port
from tpw.hook import counting
from tpw.hook.counting import Counters
from tpw.hook.proxy import Upstream, serve_proxy
from tpw.model import Role
from tpw.tokens.engines import TPW_HOOK
from tpw.tokens.page import Page
from tpw.tokens.reading import DialectReader

Speak = Callable[[bytes, bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool]]
"""Answers one request: its head, its body (by length). Returns whether the connection goes on."""


def plain(body: bytes, *, content_type: str = "application/json", more: str = "") -> bytes:
    return (
        f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body
    )


USED = json.dumps({"model": "m", "usage": {"prompt_tokens": 5, "completion_tokens": 3}}).encode()


def output_of(counters: Counters) -> float:
    return totals_by_role(DialectReader(TPW_HOOK).read(Page(counters.page())).series).get(Role.OUTPUT, 0.0)


class Between:
    """A server that speaks as told, the proxy before it, and a connection of a client to the proxy."""

    def __init__(self, speak: Speak, **options: Any) -> None:
        self.speak = speak
        self.options = options
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
                **self.options,
            )
        )
        self.port = await ready
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        await self.stop()
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

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.wait_for(self._proxy, 10)

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


def run(speak: Speak, talk: Callable[[Between], Awaitable[None]], **options: Any) -> Between:
    async def both() -> Between:
        async with Between(speak, **options) as between:
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


def test_a_server_that_is_not_there_is_a_bad_gateway_told_once_and_told_when_it_is_back():
    """Also while a large body is on its way up: the refusal must not be lost with it."""
    port = free_port()
    told: list[str] = []

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: p\r\nContent-Length: 16000000\r\n\r\n")
        writer.write(bytes(16_000_000))
        await writer.drain()
        writer.write_eof()
        said = await asyncio.wait_for(reader.read(-1), 10)
        writer.close()
        return said

    async def talk() -> None:
        stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
        proxy = asyncio.create_task(
            serve_proxy(
                f"http://127.0.0.1:{port}",
                "127.0.0.1:0",
                ready=lambda _, at: ready.set_result(at),
                reached=told.append,
                stop=stop,
            )
        )
        for _ in range(2):
            said = await ask(*await asyncio.open_connection("127.0.0.1", await ready))
            head, _, text = said.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 502 Bad Gateway")
            error = json.loads(text)["error"]
            assert error["type"] == "bad_gateway"
            assert f"the server behind this proxy cannot be reached at 127.0.0.1:{port}: " in error["message"]
        assert len(told) == 1

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(plain(b"", more="Connection: close\r\n"))
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", port)
        reader, writer = await asyncio.open_connection("127.0.0.1", await ready)
        writer.write(b"GET / HTTP/1.1\r\nHost: p\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(-1), 10)).startswith(b"HTTP/1.1 200 OK")
        writer.close()
        stop.set()
        await asyncio.wait_for(proxy, 10)
        server.close()

    asyncio.run(talk())
    assert told[1:] == [""]


def test_a_server_that_hangs_up_on_a_first_request_is_a_bad_gateway():
    async def talk(between: Between) -> None:
        await between.ask()
        said = await asyncio.wait_for(between.reader.read(-1), 10)
        assert said.startswith(b"HTTP/1.1 502 Bad Gateway")
        assert b"hung up without an answer" in said

    assert run(saying(b"", goes_on=False), talk).counters.without_usage == 1


def test_a_server_that_hangs_up_on_a_later_request_is_no_error_but_a_closed_connection():
    """That is what clients of the server itself see when its idle connection ends as they write; they ask anew."""
    answers = [plain(USED), b""]

    async def speak(head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        answer = answers.pop(0)
        writer.write(answer)
        await writer.drain()
        return bool(answer)

    async def talk(between: Between) -> None:
        await between.ask()
        await between.exactly(plain(USED))
        await between.ask()
        assert await asyncio.wait_for(between.reader.read(-1), 10) == b""

    run(speak, talk)


def test_an_idle_connection_ends_when_the_server_ends_it():
    async def talk(between: Between) -> None:
        await between.ask()
        await between.exactly(plain(USED))
        assert await asyncio.wait_for(between.reader.read(-1), 10) == b""

    run(saying(plain(USED), goes_on=False), talk)


def test_a_server_that_speaks_something_else_is_a_bad_gateway():
    async def talk(between: Between) -> None:
        await between.ask()
        said = await asyncio.wait_for(between.reader.read(-1), 10)
        assert said.startswith(b"HTTP/1.1 502 Bad Gateway")
        assert b"not HTTP/1: 'SSH-2.0'" in said

    run(saying(b"SSH-2.0\r\n\r\n", goes_on=False), talk)


def test_a_client_that_leaves_before_the_answer_is_noticed_by_the_server():
    """It may stop then: energy for an answer that nobody waits for is wasted."""
    noticed: list[bytes] = []

    async def speak(head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        asked.set()
        noticed.append(await asyncio.wait_for(reader.read(1), 10))
        left.set()
        return False

    asked, left = asyncio.Event(), asyncio.Event()

    async def talk(between: Between) -> None:
        await between.ask()
        await asyncio.wait_for(asked.wait(), 10)
        between.writer.close()
        await asyncio.wait_for(left.wait(), 10)

    between = run(speak, talk)
    assert noticed == [b""]
    assert (between.counters.running, between.counters.without_usage) == (0, 1)


def test_a_client_that_leaves_within_a_stream_is_noticed_by_the_server_though_that_is_silent():
    noticed: list[bytes] = []
    left = asyncio.Event()

    async def speak(head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {}\n\n")
        await writer.drain()
        noticed.append(await asyncio.wait_for(reader.read(1), 10))
        left.set()
        return False

    async def talk(between: Between) -> None:
        await between.ask()
        await asyncio.wait_for(between.reader.readuntil(b"\n\n"), 10)
        between.writer.transport.abort()
        await asyncio.wait_for(left.wait(), 10)

    assert run(speak, talk).counters.without_usage == 1
    assert noticed == [b""]


def test_heads_pass_as_they_stand():
    answer = (
        b"HTTP/1.1 200  Fine by me\r\ncontent-LENGTH:2\r\nX-Odd:   spaced  \r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n{}"
    )

    async def talk(between: Between) -> None:
        await between.ask(more="x-ODD:two   words \r\n")
        await between.exactly(answer)

    [head] = run(saying(answer), talk).heads
    assert b"\r\nx-ODD:two   words \r\n" in head


def test_early_hints_head_and_no_content():
    async def talk(between: Between) -> None:
        for request in (b"HEAD /v1/models HTTP/1.1", b"DELETE /x HTTP/1.1"):
            between.writer.write(request + b"\r\nHost: p\r\n\r\n")
            await between.exactly(answers[request])

    answers = {
        b"HEAD /v1/models HTTP/1.1": b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n",
        b"DELETE /x HTTP/1.1": b"HTTP/1.1 204 No Content\r\n\r\n",
    }

    async def speak(head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(answers[head.partition(b"\r\n")[0]])
        await writer.drain()
        return True

    assert run(speak, talk).connections == 1


def test_a_chunked_body_goes_up_as_it_stands():
    body = b'4;ext=1\r\n{"a"\r\n3\r\n:1}\r\n0\r\nX-Trailer: t\r\n\r\n'
    got: list[bytes] = []

    async def speak(head: bytes, _: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        got.append(await reader.readexactly(len(body)))
        writer.write(plain(USED))
        return True

    async def talk(between: Between) -> None:
        for _ in range(2):
            between.writer.write(
                b"POST /v1/completions HTTP/1.1\r\nHost: p\r\nTransfer-Encoding: chunked\r\n\r\n" + body
            )
            await between.exactly(plain(USED))

    assert run(speak, talk).connections == 1
    assert got == [body, body]


def test_a_body_whose_chunks_are_none_ends_the_connection():
    async def speak(head: bytes, _: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await reader.read(-1)
        return False

    async def talk(between: Between) -> None:
        between.writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: p\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
        assert await asyncio.wait_for(between.reader.read(-1), 10) == b""

    run(speak, talk)


def test_a_refusal_before_the_body_is_up_reaches_the_client():
    refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig"

    async def speak(head: bytes, _: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(refusal)
        await writer.drain()
        while await reader.read(1 << 16):
            pass
        return False

    async def talk(between: Between) -> None:
        between.writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: p\r\nTransfer-Encoding: chunked\r\n\r\n")
        between.writer.write(b"10000\r\n" + bytes(65536) + b"\r\n")
        await between.exactly(refusal)
        between.writer.write(b"10000\r\n" + bytes(65536) + b"\r\n")
        assert await asyncio.wait_for(between.reader.read(-1), 10) == b""

    run(speak, talk)


def test_large_bodies_are_not_gathered():
    """64 MiB up, and 64 MiB down."""
    size, piece = 64 << 20, bytes(1 << 16)

    async def speak(head: bytes, _: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        left = size
        while left:
            left -= len(await reader.read(1 << 16))
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n".encode())
        for _ in range(size // len(piece)):
            writer.write(piece)
            await writer.drain()
        return True

    async def talk(between: Between) -> None:
        tracemalloc.start()
        between.writer.write(f"POST /v1/completions HTTP/1.1\r\nExpect: x\r\nContent-Length: {size}\r\n\r\n".encode())
        for _ in range(size // len(piece)):
            between.writer.write(piece)
            await between.writer.drain()
        head = await asyncio.wait_for(between.reader.readuntil(b"\r\n\r\n"), 10)
        assert head.startswith(b"HTTP/1.1 200 OK")
        left = size
        while left:
            left -= len(await between.reader.read(1 << 16))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    peaks: list[int] = []
    run(speak, talk)
    assert peaks[0] < 4 << 20


def test_a_client_that_does_not_read_holds_the_server_back_and_gathers_nothing():
    size, piece = 128 << 20, bytes(1 << 16)
    sent = 0

    async def speak(head: bytes, _: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        nonlocal sent
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n".encode())
        while sent < size:
            writer.write(piece)
            await writer.drain()
            sent += len(piece)
        return True

    async def talk(between: Between) -> None:
        await between.ask()
        before = -1
        while sent > before or not sent:  # until it is sent no more
            before = sent
            await asyncio.sleep(0.1)
        assert sent < size // 2
        # Who reads again gets everything.
        await asyncio.wait_for(between.reader.readuntil(b"\r\n\r\n"), 10)
        left = size
        while left:
            left -= len(await asyncio.wait_for(between.reader.read(1 << 16), 10))

    run(speak, talk)


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_connection_that_either_side_wants_to_end_is_ended_though_the_other_keeps_it(who: str):
    wish = "Connection: close\r\n"
    said = plain(USED, more=wish if who == "server" else "")

    async def talk(between: Between) -> None:
        await between.ask(more=wish if who == "client" else "")
        assert await asyncio.wait_for(between.reader.read(-1), 10) == said

    assert run(saying(said), talk).connections == 1


def test_a_client_of_http_1_0_is_let_go_after_its_answer_unless_it_asks_to_be_kept():
    async def talk(between: Between) -> None:
        for more, ends in (("Connection: keep-alive\r\n", False), ("", True)):
            between.writer.write(f"POST /v1/completions HTTP/1.0\r\nContent-Length: 0\r\n{more}\r\n".encode())
            await between.exactly(plain(USED))
            if ends:
                assert await asyncio.wait_for(between.reader.read(-1), 10) == b""

    between = run(saying(plain(USED)), talk)
    assert (between.connections, output_of(between.counters)) == (1, 6.0)


def test_a_stream_that_dies_within_a_chunk_is_cut_off_for_the_client_too():
    """A client must not take it for whole: no last chunk is made up for it, and what it used nobody knows."""
    whole = chunked(STREAM[:1])
    cut = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + whole[:-9]

    async def talk(between: Between) -> None:
        await between.ask()
        assert await asyncio.wait_for(between.reader.read(-1), 10) == cut

    between = run(saying(cut, goes_on=False), talk)
    assert (output_of(between.counters), between.counters.without_usage) == (0.0, 1)


def test_what_is_being_answered_may_end_and_what_is_idle_ends_at_once():
    async def speak(head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        asked.set()
        await goes_on.wait()
        writer.write(plain(USED))
        return True

    asked, goes_on = asyncio.Event(), asyncio.Event()

    async def talk(between: Between) -> None:
        idle, idle_writer = await asyncio.open_connection("127.0.0.1", between.port)
        await between.ask()
        await asyncio.wait_for(asked.wait(), 10)
        stopping = asyncio.create_task(between.stop())
        assert await asyncio.wait_for(idle.read(-1), 10) == b""
        idle_writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", between.port)
        assert not stopping.done()
        goes_on.set()
        await between.exactly(plain(USED))
        assert await asyncio.wait_for(between.reader.read(-1), 10) == b""
        await stopping

    assert output_of(run(speak, talk, grace_seconds=10.0).counters) == 3.0


def test_what_does_not_end_within_its_grace_is_ended():
    async def speak(head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        asked.set()
        await reader.read(-1)
        return False

    asked = asyncio.Event()

    async def talk(between: Between) -> None:
        await between.ask()
        await asyncio.wait_for(asked.wait(), 10)
        await between.stop()
        assert await asyncio.wait_for(between.reader.read(-1), 10) == b""

    assert run(speak, talk, grace_seconds=0.05).counters.running == 0


@pytest.mark.parametrize("fault", ["_judge", "_keep", "add", "used", "model_of"])
def test_a_fault_in_counting_is_counted_and_harms_no_answer(fault: str, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    place = {"add": Counters, "used": counting, "model_of": counting}.get(fault, counting.AnswerWatch)
    monkeypatch.setattr(place, fault, broken)

    async def talk(between: Between) -> None:
        for _ in range(2):
            await between.ask()
            await between.exactly(plain(USED))

    between = run(saying(plain(USED)), talk)
    assert (between.connections, between.counters.errors, between.counters.running) == (1, 2, 0)


STREAM = (
    b'data: {"model":"m","choices":[{"delta":{"content":"a"}}]}\n\n',
    b'data: {"model":"m","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3}}\n\n',
    b"data: [DONE]\n\n",
)


def chunked(pieces: Iterable[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize("is_chunked", [True, False])
def test_usage_is_asked_for_where_told_so_and_the_client_sees_the_stream_it_asked_for(is_chunked: bool):
    coding = b"Transfer-Encoding: chunked\r\n" if is_chunked else b""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + coding + b"\r\n"
    bodies: list[bytes] = []

    async def speak(_: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        bodies.append(body)
        writer.write(head + (chunked(STREAM) if is_chunked else b"".join(STREAM)))
        await writer.drain()
        return is_chunked

    async def talk(between: Between) -> None:
        await between.ask(body=b'{"stream":true,"n":1}')
        asked_for = (STREAM[0], STREAM[2])
        await between.exactly(head + (chunked(asked_for) if is_chunked else b"".join(asked_for)))

    between = run(speak, talk, ask_for_usage=True)
    assert bodies == [b'{"stream_options":{"include_usage":true},"stream":true,"n":1}']
    assert output_of(between.counters) == 3.0


@pytest.mark.parametrize(
    "body", [b'{"stream":true,"stream_options":{"include_usage":true}}', b'{"stream":false}', b"no"]
)
def test_where_nothing_had_to_be_asked_nothing_is_changed(body: bytes):
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(
        STREAM
    )
    bodies: list[bytes] = []

    async def speak(_: bytes, got: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        bodies.append(got)
        writer.write(answer)
        await writer.drain()
        return True

    async def talk(between: Between) -> None:
        for _ in range(2):
            await between.ask(body=body)
            await between.exactly(answer)

    run(speak, talk, ask_for_usage=True)
    assert bodies == [body, body]


def test_a_stream_that_says_its_length_keeps_its_usage():
    """Nothing can be taken out of it: its client was told how long it is."""
    said = plain(b"".join(STREAM), content_type="text/event-stream")

    async def talk(between: Between) -> None:
        await between.ask(body=b'{"stream":true}')
        await between.exactly(said)

    assert output_of(run(saying(said), talk, ask_for_usage=True).counters) == 3.0


def test_a_body_that_waits_for_permission_is_read_for_asking_too():
    async def talk(between: Between) -> None:
        between.writer.write(
            b"POST /v1/completions HTTP/1.1\r\nHost: p\r\nExpect: 100-continue\r\nContent-Length: 15\r\n\r\n"
        )
        await between.exactly(b"HTTP/1.1 100 Continue\r\n\r\n")
        between.writer.write(b'{"stream":true}')
        await between.exactly(plain(USED))

    [head] = run(saying(plain(USED)), talk, ask_for_usage=True).heads
    assert b"Expect" not in head


def test_by_default_nothing_is_asked_and_what_does_not_say_is_told():
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(
        STREAM[:1]
    )
    bodies: list[bytes] = []

    async def speak(_: bytes, got: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        bodies.append(got)
        writer.write(answer)
        await writer.drain()
        return True

    async def talk(between: Between) -> None:
        await between.ask(body=b'{"stream":true}')
        await between.exactly(answer)

    between = run(speak, talk)
    assert bodies == [b'{"stream":true}']
    assert (output_of(between.counters), between.counters.without_usage) == (0.0, 1)


def test_an_answer_that_is_cut_off_is_told_and_the_client_is_let_go():
    cut = plain(USED)[:-5]

    async def talk(between: Between) -> None:
        await between.ask()
        assert await asyncio.wait_for(between.reader.read(-1), 10) == cut

    between = run(saying(cut, goes_on=False), talk)
    assert between.counters.running == 0


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01garbage\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
        b"GET /\r\n\r\n",
        b"POST / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length : 4\r\n\r\n",
        b"POST / HTTP/1.1\r\nX: 1\r\n folded: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
        # What one reader takes for the end of a line and another does not: a header, or a whole request, would be hidden.
        b"POST / HTTP/1.1\nTransfer-Encoding:chunked\r\nContent-Length: 4\r\n\r\n",
        b"POST / HTTP/1.1\rTransfer-Encoding:chunked\r\nContent-Length: 4\r\n\r\n",
        b"POST / HTTP/1.1\r\nX: 1\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n",
        b"POST / HTTP/1.1\r\nX: 1\rTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n",
        b"POST / HTTP/1.1\r\nX: \0\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-\tEncoding: chunked\r\n\r\n",
        # Codings that not everybody takes for chunks.
        b"POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: identity, chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding:\r\nContent-Length: 4\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: +4\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 0x4\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length:\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
    ],
    ids=lambda garbage: repr(garbage[:60]),
)
def test_what_is_no_http_is_told_so_and_reaches_no_server(garbage: bytes):
    async def talk(between: Between) -> None:
        between.writer.write(garbage)
        between.writer.write_eof()
        said = await asyncio.wait_for(between.reader.read(-1), 10)
        assert said.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"this proxy was sent" in said

    assert run(saying(plain(USED)), talk).heads == []


@pytest.mark.parametrize("address", ["127.0.0.1:11434", "ftp://x", "http://x/path", "http://x?q=1"])
def test_an_upstream_that_is_no_base_address_is_refused(address: str):
    with pytest.raises(ValueError, match="not the base address"):
        asyncio.run(serve_proxy(address))


def test_an_address_that_cannot_be_listened_on_is_refused():
    with pytest.raises(ValueError, match="not an address to listen on"):
        asyncio.run(serve_proxy("http://127.0.0.1:1", "nowhere"))


def test_a_server_behind_tls_is_reached_where_its_certificate_is_trusted(tmp_path: Path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=localhost"
    command = [*made.split(), "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(plain(USED, more="Connection: close\r\n"))
        await writer.drain()
        writer.close()

    async def through(ca_file: str | None) -> bytes:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
        address = f"https://localhost:{server.sockets[0].getsockname()[1]}"
        stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
        proxy = asyncio.create_task(
            serve_proxy(
                Upstream.at(address, ca_file=ca_file),
                "127.0.0.1:0",
                ready=lambda _, at: ready.set_result(at),
                stop=stop,
                counters=counters,
            )
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", await ready)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: p\r\nContent-Length: 0\r\n\r\n")
        said = await asyncio.wait_for(reader.read(-1), 10)
        writer.close()
        stop.set()
        await asyncio.wait_for(proxy, 10)
        server.close()
        return said

    counters = Counters()
    assert asyncio.run(through(str(certificate))) == plain(USED, more="Connection: close\r\n")
    assert output_of(counters) == 3.0
    refused = asyncio.run(through(None))
    assert refused.startswith(b"HTTP/1.1 502 Bad Gateway")
    assert b"certificate verify failed" in refused
