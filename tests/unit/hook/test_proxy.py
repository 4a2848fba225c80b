"""The counting reverse proxy, setup real sockets."""

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
from tpw.hook.body import TextBody
from tpw.hook.counting import AnswerWatch, Counters
from tpw.hook.proxy import Upstream, serve_proxy
from tpw.hook.tenants import TenantHeaders
from tpw.hook.usage import Tally
from tpw.model import Role
from tpw.tokens.engines import TPW_HOOK
from tpw.tokens.page import Page
from tpw.tokens.reading import DialectReader

Handler = Callable[[bytes, bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool]]
"""Answers one request: its head, its body (by length). Returns whether the connection stays open."""


def plain(body: bytes, *, content_type: str = "application/json", more: str = "") -> bytes:
    return (
        f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body
    )


USED = json.dumps({"model": "m", "usage": {"prompt_tokens": 5, "completion_tokens": 3}}).encode()


def output_of(counters: Counters) -> float:
    return totals_by_role(DialectReader(TPW_HOOK).read(Page(counters.page())).series).get(Role.OUTPUT, 0.0)


class Setup:
    """A server with a handler, the proxy in front of it, and a client's connection to the proxy."""

    def __init__(self, speak: Handler, **options: Any) -> None:
        self.speak = speak
        self.options = options
        self.heads: list[bytes] = []
        self.counters = Counters()
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.upstream = f"127.0.0.1:{port}"
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


def answering(answer: bytes, *, keeps_open: bool = True) -> Handler:
    async def speak(head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(answer)
        await writer.drain()
        return keeps_open

    return speak


def run(speak: Handler, talk: Callable[[Setup], Awaitable[None]], **options: Any) -> Setup:
    async def both() -> Setup:
        async with Setup(speak, **options) as setup:
            await talk(setup)
        return setup

    return asyncio.run(both())


def test_an_answer_passes_unchanged_and_is_counted_and_connections_stay_open():
    async def talk(setup: Setup) -> None:
        for _ in range(3):
            await setup.ask()
            await setup.exactly(plain(USED))

    setup = run(answering(plain(USED)), talk)
    assert (output_of(setup.counters), setup.connections) == (9.0, 1)


def test_answers_are_counted_by_the_tenant_that_a_header_names_and_no_header_is_removed():
    async def talk(setup: Setup) -> None:
        for more in ("X-Team: red\r\n", "x-team: red\r\n", "X-Other: blue\r\n"):
            await setup.ask(more=more)
            await setup.exactly(plain(USED))

    setup = run(answering(plain(USED)), talk, tenants=TenantHeaders(["x-team"]))
    assert b"X-Team: red\r\n" in setup.heads[0]
    page = setup.counters.page()
    assert b'tpw_hook_tenant_output_tokens_total{tenant="red",model="m"} 6\n' in page
    assert b"blue" not in page
    assert output_of(setup.counters) == 9.0


def test_the_server_receives_its_own_host_and_no_accepted_compression():
    async def talk(setup: Setup) -> None:
        await setup.ask(more="X-Own: 1\r\n")
        await setup.exactly(plain(USED))

    [head] = run(answering(plain(USED)), talk).heads
    assert b"Host: 127.0.0.1:" in head
    assert b"Host: proxy" not in head
    assert b"Accept-Encoding: identity" in head
    assert b"gzip" not in head
    assert b"X-Own: 1" in head


def test_a_stream_is_passed_on_piece_by_piece():
    """The server waits until the client has received each piece: a proxy that buffers would hang."""
    received = asyncio.Queue[None]()

    async def speak(head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
        for line in (b'{"model":"m","done":false}\n', b'{"done":true,"prompt_eval_count":4,"eval_count":7}\n'):
            writer.write(b"%x\r\n%s\r\n" % (len(line), line))
            await writer.drain()
            await asyncio.wait_for(received.get(), 10)
        writer.write(b"0\r\n\r\n")
        return True

    async def talk(setup: Setup) -> None:
        await setup.ask("/api/chat")
        await asyncio.wait_for(setup.reader.readuntil(b"\r\n\r\n"), 10)
        for end in (b"false}\n\r\n", b"7}\n\r\n"):
            await asyncio.wait_for(setup.reader.readuntil(end), 10)
            received.put_nowait(None)
        await setup.exactly(b"0\r\n\r\n")

    assert output_of(run(speak, talk).counters) == 7.0


def test_an_answer_that_ends_with_its_connection():
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n" + USED

    async def talk(setup: Setup) -> None:
        await setup.ask()
        assert await asyncio.wait_for(setup.reader.read(-1), 10) == answer

    assert output_of(run(answering(answer, keeps_open=False), talk).counters) == 3.0


def test_a_body_after_100_continue():
    async def speak(head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
        assert await reader.readexactly(4) == b"late"
        writer.write(plain(USED))
        return True

    async def talk(setup: Setup) -> None:
        setup.writer.write(
            b"POST /v1/completions HTTP/1.1\r\nHost: p\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        )
        await setup.exactly(b"HTTP/1.1 100 Continue\r\n\r\n")
        setup.writer.write(b"late")
        await setup.exactly(plain(USED))

    assert output_of(run(speak, talk).counters) == 3.0


def test_after_an_upgrade_bytes_pass_in_both_directions():
    async def speak(head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")
        writer.write(b"echo " + await reader.readexactly(5))
        await writer.drain()
        return False

    async def talk(setup: Setup) -> None:
        setup.writer.write(b"GET /ws HTTP/1.1\r\nHost: p\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        await asyncio.wait_for(setup.reader.readuntil(b"\r\n\r\n"), 10)
        setup.writer.write(b"hello")
        await setup.exactly(b"echo hello")

    run(speak, talk)


def test_other_requests_pass_and_count_nothing():
    async def talk(setup: Setup) -> None:
        setup.writer.write(b"GET /api/tags HTTP/1.1\r\nHost: p\r\n\r\nHEAD / HTTP/1.1\r\nHost: p\r\n\r\n")
        await setup.exactly(plain(b""))
        await setup.exactly(plain(b""))

    setup = run(answering(plain(b"")), talk)
    assert (output_of(setup.counters), setup.counters.without_usage) == (0.0, 0)


def test_the_counters_are_published_on_the_same_address():
    async def talk(setup: Setup) -> None:
        await setup.ask()
        await setup.exactly(plain(USED))
        setup.writer.write(b"GET /tpw/metrics HTTP/1.1\r\nHost: p\r\n\r\n")
        head = await asyncio.wait_for(setup.reader.readuntil(b"\r\n\r\n"), 10)
        assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4")
        await setup.exactly(setup.counters.page())

    setup = run(answering(plain(USED)), talk)
    assert len(setup.heads) == 1


def test_an_unreachable_server_is_a_bad_gateway_and_is_reported_once_and_when_it_recovers():
    """Also during a large upload: the error must not be lost with it."""
    port = free_port()
    reports: list[str] = []

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: p\r\nContent-Length: 16000000\r\n\r\n")
        writer.write(bytes(16_000_000))
        await writer.drain()
        writer.write_eof()
        received = await asyncio.wait_for(reader.read(-1), 10)
        writer.close()
        return received

    async def talk() -> None:
        stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
        proxy = asyncio.create_task(
            serve_proxy(
                f"http://127.0.0.1:{port}",
                "127.0.0.1:0",
                ready=lambda _, at: ready.set_result(at),
                reached=reports.append,
                stop=stop,
            )
        )
        for _ in range(2):
            received = await ask(*await asyncio.open_connection("127.0.0.1", await ready))
            head, _, text = received.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 502 Bad Gateway")
            error = json.loads(text)["error"]
            assert error["type"] == "bad_gateway"
            assert f"the server behind this proxy cannot be reached at 127.0.0.1:{port}: " in error["message"]
        assert len(reports) == 1

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
    assert reports[1:] == [""]


def test_a_server_that_closes_the_connection_on_a_first_request_is_a_bad_gateway():
    async def talk(setup: Setup) -> None:
        await setup.ask()
        received = await asyncio.wait_for(setup.reader.read(-1), 10)
        assert received.startswith(b"HTTP/1.1 502 Bad Gateway")
        assert b"closed the connection without an answer" in received

    assert run(answering(b"", keeps_open=False), talk).counters.without_usage == 1


def test_a_server_that_closes_the_connection_on_a_later_request_is_a_closed_connection():
    """As without the proxy, if an idle connection is closed while the client writes: clients retry."""
    answers = [plain(USED), b""]

    async def speak(head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        answer = answers.pop(0)
        writer.write(answer)
        await writer.drain()
        return bool(answer)

    async def talk(setup: Setup) -> None:
        await setup.ask()
        await setup.exactly(plain(USED))
        await setup.ask()
        assert await asyncio.wait_for(setup.reader.read(-1), 10) == b""

    run(speak, talk)


def test_an_idle_connection_is_closed_when_the_server_closes_it():
    async def talk(setup: Setup) -> None:
        await setup.ask()
        await setup.exactly(plain(USED))
        assert await asyncio.wait_for(setup.reader.read(-1), 10) == b""

    run(answering(plain(USED), keeps_open=False), talk)


def test_a_server_that_does_not_answer_http_is_a_bad_gateway():
    async def talk(setup: Setup) -> None:
        await setup.ask()
        received = await asyncio.wait_for(setup.reader.read(-1), 10)
        assert received.startswith(b"HTTP/1.1 502 Bad Gateway")
        assert b"not HTTP/1: 'SSH-2.0'" in received

    run(answering(b"SSH-2.0\r\n\r\n", keeps_open=False), talk)


def test_a_disconnect_before_the_answer_reaches_the_server():
    """So that it can stop generating."""
    noticed: list[bytes] = []

    async def speak(head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        asked.set()
        noticed.append(await asyncio.wait_for(reader.read(1), 10))
        left.set()
        return False

    asked, left = asyncio.Event(), asyncio.Event()

    async def talk(setup: Setup) -> None:
        await setup.ask()
        await asyncio.wait_for(asked.wait(), 10)
        setup.writer.close()
        await asyncio.wait_for(left.wait(), 10)

    setup = run(speak, talk)
    assert noticed == [b""]
    assert (setup.counters.running, setup.counters.without_usage) == (0, 1)


def test_a_disconnect_within_a_silent_stream_reaches_the_server():
    noticed: list[bytes] = []
    left = asyncio.Event()

    async def speak(head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {}\n\n")
        await writer.drain()
        noticed.append(await asyncio.wait_for(reader.read(1), 10))
        left.set()
        return False

    async def talk(setup: Setup) -> None:
        await setup.ask()
        await asyncio.wait_for(setup.reader.readuntil(b"\n\n"), 10)
        setup.writer.transport.abort()
        await asyncio.wait_for(left.wait(), 10)

    assert run(speak, talk).counters.without_usage == 1
    assert noticed == [b""]


def test_heads_pass_unchanged():
    answer = (
        b"HTTP/1.1 200  Fine by me\r\ncontent-LENGTH:2\r\nX-Odd:   spaced  \r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n{}"
    )

    async def talk(setup: Setup) -> None:
        await setup.ask(more="x-ODD:two   words \r\n")
        await setup.exactly(answer)

    [head] = run(answering(answer), talk).heads
    assert b"\r\nx-ODD:two   words \r\n" in head


def test_early_hints_head_and_no_content():
    async def talk(setup: Setup) -> None:
        for request in (b"HEAD /v1/models HTTP/1.1", b"DELETE /x HTTP/1.1"):
            setup.writer.write(request + b"\r\nHost: p\r\n\r\n")
            await setup.exactly(answers[request])

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


def test_a_chunked_request_passes_unchanged():
    body = b'4;ext=1\r\n{"a"\r\n3\r\n:1}\r\n0\r\nX-Trailer: t\r\n\r\n'
    got: list[bytes] = []

    async def speak(head: bytes, _: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        got.append(await reader.readexactly(len(body)))
        writer.write(plain(USED))
        return True

    async def talk(setup: Setup) -> None:
        for _ in range(2):
            setup.writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: p\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
            await setup.exactly(plain(USED))

    assert run(speak, talk).connections == 1
    assert got == [body, body]


def test_a_request_with_invalid_chunks_ends_the_connection():
    async def speak(head: bytes, _: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await reader.read(-1)
        return False

    async def talk(setup: Setup) -> None:
        setup.writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: p\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
        assert await asyncio.wait_for(setup.reader.read(-1), 10) == b""

    run(speak, talk)


def test_an_error_before_the_end_of_the_upload_reaches_the_client():
    refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig"

    async def speak(head: bytes, _: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(refusal)
        await writer.drain()
        while await reader.read(1 << 16):
            pass
        return False

    async def talk(setup: Setup) -> None:
        setup.writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: p\r\nTransfer-Encoding: chunked\r\n\r\n")
        setup.writer.write(b"10000\r\n" + bytes(65536) + b"\r\n")
        await setup.exactly(refusal)
        setup.writer.write(b"10000\r\n" + bytes(65536) + b"\r\n")
        assert await asyncio.wait_for(setup.reader.read(-1), 10) == b""

    run(speak, talk)


def test_large_bodies_are_not_buffered():
    """64 MiB in each direction."""
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

    async def talk(setup: Setup) -> None:
        tracemalloc.start()
        setup.writer.write(f"POST /v1/completions HTTP/1.1\r\nExpect: x\r\nContent-Length: {size}\r\n\r\n".encode())
        for _ in range(size // len(piece)):
            setup.writer.write(piece)
            await setup.writer.drain()
        head = await asyncio.wait_for(setup.reader.readuntil(b"\r\n\r\n"), 10)
        assert head.startswith(b"HTTP/1.1 200 OK")
        left = size
        while left:
            left -= len(await setup.reader.read(1 << 16))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    peaks: list[int] = []
    run(speak, talk)
    assert peaks[0] < 4 << 20


def test_a_client_that_does_not_read_slows_the_server_and_nothing_is_buffered():
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

    async def talk(setup: Setup) -> None:
        await setup.ask()
        before = -1
        while sent > before or not sent:  # until it is sent no more
            before = sent
            await asyncio.sleep(0.1)
        assert sent < size // 2
        # When it reads again, it receives everything.
        await asyncio.wait_for(setup.reader.readuntil(b"\r\n\r\n"), 10)
        left = size
        while left:
            left -= len(await asyncio.wait_for(setup.reader.read(1 << 16), 10))

    run(speak, talk)


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_connection_is_closed_if_either_side_asks_for_it(who: str):
    wish = "Connection: close\r\n"
    received = plain(USED, more=wish if who == "server" else "")

    async def talk(setup: Setup) -> None:
        await setup.ask(more=wish if who == "client" else "")
        assert await asyncio.wait_for(setup.reader.read(-1), 10) == received

    assert run(answering(received), talk).connections == 1


def test_a_connection_of_http_1_0_is_closed_after_the_answer_unless_keep_alive_is_requested():
    async def talk(setup: Setup) -> None:
        for more, ends in (("Connection: keep-alive\r\n", False), ("", True)):
            setup.writer.write(f"POST /v1/completions HTTP/1.0\r\nContent-Length: 0\r\n{more}\r\n".encode())
            await setup.exactly(plain(USED))
            if ends:
                assert await asyncio.wait_for(setup.reader.read(-1), 10) == b""

    setup = run(answering(plain(USED)), talk)
    assert (setup.connections, output_of(setup.counters)) == (1, 6.0)


def test_a_stream_truncated_within_a_chunk_is_truncated_for_the_client_too():
    """The client must not take it for complete: no last chunk is added, and it has no usage."""
    whole = chunked(STREAM[:1])
    cut = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + whole[:-9]

    async def talk(setup: Setup) -> None:
        await setup.ask()
        assert await asyncio.wait_for(setup.reader.read(-1), 10) == cut

    setup = run(answering(cut, keeps_open=False), talk)
    assert (output_of(setup.counters), setup.counters.without_usage) == (0.0, 1)


def test_at_shutdown_running_requests_finish_and_idle_connections_are_closed():
    async def speak(head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        asked.set()
        await keeps_open.wait()
        writer.write(plain(USED))
        return True

    asked, keeps_open = asyncio.Event(), asyncio.Event()

    async def talk(setup: Setup) -> None:
        idle, idle_writer = await asyncio.open_connection("127.0.0.1", setup.port)
        await setup.ask()
        await asyncio.wait_for(asked.wait(), 10)
        stopping = asyncio.create_task(setup.stop())
        assert await asyncio.wait_for(idle.read(-1), 10) == b""
        idle_writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", setup.port)
        assert not stopping.done()
        keeps_open.set()
        await setup.exactly(plain(USED))
        assert await asyncio.wait_for(setup.reader.read(-1), 10) == b""
        await stopping

    assert output_of(run(speak, talk, grace_seconds=10.0).counters) == 3.0


def test_at_shutdown_requests_beyond_the_grace_period_are_aborted():
    async def speak(head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        asked.set()
        await reader.read(-1)
        return False

    asked = asyncio.Event()

    async def talk(setup: Setup) -> None:
        await setup.ask()
        await asyncio.wait_for(asked.wait(), 10)
        await setup.stop()
        assert await asyncio.wait_for(setup.reader.read(-1), 10) == b""

    assert run(speak, talk, grace_seconds=0.05).counters.running == 0


@pytest.mark.parametrize("fault", ["_judge", "feed", "add", "end", "total"])
def test_an_error_in_the_counter_is_counted_and_changes_no_answer(fault: str, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    place = {"_judge": AnswerWatch, "add": Counters, "total": Tally}.get(fault, TextBody)
    monkeypatch.setattr(place, fault, broken)

    async def talk(setup: Setup) -> None:
        for _ in range(2):
            await setup.ask()
            await setup.exactly(plain(USED))

    setup = run(answering(plain(USED)), talk)
    assert (setup.connections, setup.counters.errors, setup.counters.running) == (1, 2, 0)


STREAM = (
    b'data: {"model":"m","choices":[{"delta":{"content":"a"}}]}\n\n',
    b'data: {"model":"m","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3}}\n\n',
    b"data: [DONE]\n\n",
)


def chunked(pieces: Iterable[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize("is_chunked", [True, False])
def test_usage_is_injected_and_the_client_receives_the_stream_it_requested(is_chunked: bool):
    coding = b"Transfer-Encoding: chunked\r\n" if is_chunked else b""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + coding + b"\r\n"
    bodies: list[bytes] = []

    async def speak(_: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        bodies.append(body)
        writer.write(head + (chunked(STREAM) if is_chunked else b"".join(STREAM)))
        await writer.drain()
        return is_chunked

    async def talk(setup: Setup) -> None:
        await setup.ask(body=b'{"stream":true,"n":1}')
        asked_for = (STREAM[0], STREAM[2])
        await setup.exactly(head + (chunked(asked_for) if is_chunked else b"".join(asked_for)))

    setup = run(speak, talk, ask_for_usage=True)
    assert bodies == [b'{"stream_options":{"include_usage":true},"stream":true,"n":1}']
    assert output_of(setup.counters) == 3.0


@pytest.mark.parametrize(
    "body",
    [
        b'{"stream":true,"stream_options":{"include_usage":true}}',
        b'{"stream":false}',
        b"no",
        pytest.param(b'{"stream":true}' + b" " * (8 << 20), id="above 8 MiB"),
    ],
)
def test_a_request_that_needs_no_injection_is_unchanged(body: bytes):
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(
        STREAM
    )
    bodies: list[bytes] = []

    async def speak(_: bytes, got: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        bodies.append(got)
        writer.write(answer)
        await writer.drain()
        return True

    async def talk(setup: Setup) -> None:
        for _ in range(2):
            await setup.ask(body=body)
            await setup.exactly(answer)

    run(speak, talk, ask_for_usage=True)
    assert bodies == [body, body]


def test_a_stream_with_a_length_keeps_its_usage():
    """Nothing can be removed from it: its client knows the length."""
    received = plain(b"".join(STREAM), content_type="text/event-stream")

    async def talk(setup: Setup) -> None:
        await setup.ask(body=b'{"stream":true}')
        await setup.exactly(received)

    assert output_of(run(answering(received), talk, ask_for_usage=True).counters) == 3.0


def test_usage_is_injected_into_a_body_after_100_continue():
    async def talk(setup: Setup) -> None:
        setup.writer.write(
            b"POST /v1/completions HTTP/1.1\r\nHost: p\r\nExpect: 100-continue\r\nContent-Length: 15\r\n\r\n"
        )
        await setup.exactly(b"HTTP/1.1 100 Continue\r\n\r\n")
        setup.writer.write(b'{"stream":true}')
        await setup.exactly(plain(USED))

    [head] = run(answering(plain(USED)), talk, ask_for_usage=True).heads
    assert b"Expect" not in head


def test_by_default_nothing_is_injected_and_answers_without_usage_are_counted():
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(
        STREAM[:1]
    )
    bodies: list[bytes] = []

    async def speak(_: bytes, got: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        bodies.append(got)
        writer.write(answer)
        await writer.drain()
        return True

    async def talk(setup: Setup) -> None:
        await setup.ask(body=b'{"stream":true}')
        await setup.exactly(answer)

    setup = run(speak, talk)
    assert bodies == [b'{"stream":true}']
    assert (output_of(setup.counters), setup.counters.without_usage) == (0.0, 1)


def test_a_truncated_answer_is_counted_without_usage_and_the_client_disconnected():
    cut = plain(USED)[:-5]

    async def talk(setup: Setup) -> None:
        await setup.ask()
        assert await asyncio.wait_for(setup.reader.read(-1), 10) == cut

    setup = run(answering(cut, keeps_open=False), talk)
    assert setup.counters.running == 0


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
        # Line ends that only some parsers accept: they would hide a header or a whole request.
        b"POST / HTTP/1.1\nTransfer-Encoding:chunked\r\nContent-Length: 4\r\n\r\n",
        b"POST / HTTP/1.1\rTransfer-Encoding:chunked\r\nContent-Length: 4\r\n\r\n",
        b"POST / HTTP/1.1\r\nX: 1\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n",
        b"POST / HTTP/1.1\r\nX: 1\rTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n",
        b"POST / HTTP/1.1\r\nX: \0\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-\tEncoding: chunked\r\n\r\n",
        # Codings that only some parsers treat as chunks.
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
def test_a_request_that_is_not_http_is_refused_and_reaches_no_server(garbage: bytes):
    async def talk(setup: Setup) -> None:
        setup.writer.write(garbage)
        setup.writer.write_eof()
        received = await asyncio.wait_for(setup.reader.read(-1), 10)
        assert received.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"this proxy was sent" in received

    assert run(answering(plain(USED)), talk).heads == []


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"CONNECT evil.example:443 HTTP/1.1", b"405 Method Not Allowed"),
        (b"GET http://evil.example/ HTTP/1.1", b"421 Misdirected Request"),
        (b"POST https://127.0.0.1:1/v1/chat/completions HTTP/1.1", b"421 Misdirected Request"),
        (b"GET http://127.0.0.1.evil.example/tpw/metrics HTTP/1.1", b"421 Misdirected Request"),
        (b"GET evil.example/ HTTP/1.1", b"421 Misdirected Request"),
    ],
)
def test_a_request_for_another_server_is_refused_and_reaches_no_server(line: bytes, status: bytes):
    async def talk(setup: Setup) -> None:
        setup.writer.write(line + b"\r\nHost: evil.example\r\n\r\n")
        received = await asyncio.wait_for(setup.reader.read(-1), 10)
        assert received.startswith(b"HTTP/1.1 " + status + b"\r\n")
        assert b"one server" in received

    assert run(answering(plain(USED)), talk).heads == []


def test_an_absolute_request_for_the_server_itself_is_answered_and_counted():
    async def talk(setup: Setup) -> None:
        authority = setup.upstream
        body = b"{}"
        setup.writer.write(
            f"POST http://{authority}/v1/chat/completions HTTP/1.1\r\nHost: {authority}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        await setup.exactly(plain(USED))

    setup = run(answering(plain(USED)), talk)
    assert setup.heads[0].startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert output_of(setup.counters) == 3.0


@pytest.mark.parametrize("address", ["127.0.0.1:11434", "ftp://x", "http://x/path", "http://x?q=1"])
def test_an_upstream_that_is_not_a_base_address_is_refused(address: str):
    with pytest.raises(ValueError, match="not the base address"):
        asyncio.run(serve_proxy(address))


def test_an_upstream_with_a_password_is_refused_and_not_quoted():
    with pytest.raises(ValueError, match="a user or a password") as caught:
        asyncio.run(serve_proxy("http://user:hunter2@127.0.0.1:1/path"))
    assert "hunter2" not in str(caught.value)


def test_an_address_that_cannot_be_bound_is_refused():
    with pytest.raises(ValueError, match="not an address to listen on"):
        asyncio.run(serve_proxy("http://127.0.0.1:1", "nowhere"))


def test_a_tls_server_is_reached_if_its_certificate_is_trusted(tmp_path: Path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=localhost"
    command = [
        *request.split(),
        "-addext",
        "subjectAltName=DNS:localhost",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
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
        received = await asyncio.wait_for(reader.read(-1), 10)
        writer.close()
        stop.set()
        await asyncio.wait_for(proxy, 10)
        server.close()
        return received

    counters = Counters()
    assert asyncio.run(through(str(certificate))) == plain(USED, more="Connection: close\r\n")
    assert output_of(counters) == 3.0
    refused = asyncio.run(through(None))
    assert refused.startswith(b"HTTP/1.1 502 Bad Gateway")
    assert b"certificate verify failed" in refused
