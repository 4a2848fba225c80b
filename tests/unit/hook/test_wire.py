"""Bodies on the wire pass unchanged in any pieces."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpw.hook.wire import Head, MalformedError, body

CHUNKED = Head((b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked"))
REST = b"HTTP/1.1 200 OK\r\n\r\n"


async def read(head: Head, cuts: list[bytes], *, ends: bool) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The pieces, and the unread bytes after the body."""
    reader = asyncio.StreamReader()

    async def arrive() -> None:
        for cut in cuts:
            reader.feed_data(cut)
            await asyncio.sleep(0)
        if ends:
            reader.feed_eof()

    arriving = asyncio.create_task(arrive())
    pieces = [piece async for piece in body(head, reader, is_answer=True)]
    await arriving
    reader.feed_eof()
    return pieces, await reader.read(-1)


def cut(text: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[start:end] for start, end in pairwise(edges)]


@given(
    contents=st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    places=st.lists(st.integers(0, 1000), max_size=12),
    extension=st.sampled_from([b"", b";a=b", b" "]),
    trailer=st.sampled_from([b"", b"X-T: 1\r\n"]),
)
def test_chunks_pass_unchanged(contents: list[bytes], places: list[int], extension: bytes, trailer: bytes) -> None:
    wire = b"".join(b"%X%b\r\n%b\r\n" % (len(content), extension, content) for content in contents)
    wire += b"0\r\n" + trailer + b"\r\n"
    pieces, rest = asyncio.run(read(CHUNKED, cut(wire + REST, places), ends=False))
    assert b"".join(raw for raw, _ in pieces) == wire
    assert b"".join(content for _, content in pieces) == b"".join(contents)
    assert rest == REST


def test_a_chunk_that_arrives_as_a_whole_is_one_piece():
    pieces, _ = asyncio.run(read(CHUNKED, [b"3\r\nabc\r\n0\r\n\r\n"], ends=False))
    assert pieces == [(b"3\r\nabc\r\n", b"abc"), (b"0\r\n\r\n", b"")]


@pytest.mark.parametrize(
    "wire",
    [
        *(b"\r\nabc", b"-1\r\n", b"0x3\r\nabc\r\n", b"3\r\nabcd\r\n", b"1_0\r\n", b"g\r\n"),
        # Line ends that another parser may not accept.
        *(b"3;x\nabc\r\n", b"3\nabc\r\n", b"3;x\ry\r\nabc\r\n", b"3\r\r\nabc\r\n", b"0\r\nA: b\n\r\n"),
        *(b"0\r\n \r\n\r\n", b"0\r\n\n"),
        b"0\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
    ],
    ids=lambda wire: repr(wire[:20]),
)
def test_invalid_chunks_are_refused(wire: bytes):
    with pytest.raises(MalformedError):
        asyncio.run(read(CHUNKED, [wire], ends=True))


@pytest.mark.parametrize("wire", [b"3\r\nab", b"3", b"0\r\n", b"3\r\nabc"])
def test_truncated_chunks_are_reported(wire: bytes):
    with pytest.raises(EOFError):
        asyncio.run(read(CHUNKED, [wire], ends=True))
