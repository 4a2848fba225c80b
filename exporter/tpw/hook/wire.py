"""HTTP/1 as the proxy needs it: where a message's head ends, where its body ends, and nothing else.

What is read is kept as it stood on the wire, so that it can be handed on byte for byte. What could be read in two ways (a
length given twice, blanks in a header's name, folded lines) is refused: proxy and server must not disagree about where a
message ends. Standard library only.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

HEAD_BYTES = 64 << 10
"""Longest head, and half of what is read ahead of what is handed on."""

PIECE_BYTES = 64 << 10

_NO_BODY = (204, 304)
_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(;[^\r\n]*)?\r\n\Z")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n\0]*\r\n\Z")
_AMBIGUOUS = re.compile(rb"[\r\n\0]")


class MalformedError(Exception):
    """What came is not HTTP/1; the message says what it is."""


@dataclass(frozen=True, slots=True)
class Head:
    """The first line of a message and its headers, as they stood."""

    lines: tuple[bytes, ...]

    @property
    def first(self) -> str:
        """The first line."""
        return self.lines[0].decode("latin-1")

    def value(self, name: str) -> str:
        """All values of a header, joined; "" where it is absent. ``name`` in small letters."""
        wanted = name.encode()
        parts = (line.partition(b":") for line in self.lines[1:])
        return ",".join(value.strip().decode("latin-1") for each, _, value in parts if each.lower() == wanted)

    def has(self, name: str) -> bool:
        """Whether a header is there, though perhaps empty."""
        wanted = name.encode()
        return any(line.partition(b":")[0].lower() == wanted for line in self.lines[1:])

    def replaced(self, *names: str, more: tuple[str, ...] = ()) -> Head:
        """Without these headers, and with more lines at the end."""
        unwanted = {name.encode() for name in names}
        kept = [line for line in self.lines[1:] if line.partition(b":")[0].lower() not in unwanted]
        return Head((self.lines[0], *kept, *(line.encode("latin-1") for line in more)))

    def encoded(self) -> bytes:
        """As it goes over the wire."""
        return b"\r\n".join(self.lines) + b"\r\n\r\n"

    @property
    def is_chunked(self) -> bool:
        """Whether the body comes in chunks."""
        return self.value("transfer-encoding").lower().rpartition(",")[2].strip() == "chunked"

    @property
    def length(self) -> int | None:
        """How long the body is; None where that is not said. Raises MalformedError."""
        if not self.has("content-length"):
            return None
        text = self.value("content-length")
        if not (text.isascii() and text.isdecimal()):
            raise MalformedError(f"Content-Length: {text[:40]}")
        return int(text)

    @property
    def is_kept(self) -> bool:
        """Whether the message lets its connection live."""
        wish = self.value("connection").lower()
        return "close" not in wish and (b"HTTP/1.0" not in self.lines[0] or "keep-alive" in wish)


class Reader(asyncio.StreamReader):
    """A reader that tells at once when the other side hangs up, though nobody may be reading."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=HEAD_BYTES, loop=loop)
        self.is_gone = False
        self.on_hang_up: Callable[[], object] | None = None

    def feed_eof(self) -> None:
        """The other side sends no more."""
        super().feed_eof()
        self._tell()

    def set_exception(self, exc: Exception) -> None:
        """The connection broke."""
        super().set_exception(exc)
        self._tell()

    def _tell(self) -> None:
        self.is_gone = True
        if self.on_hang_up is not None:
            self.on_hang_up()


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """The next message's head; None at the end of the connection. Raises MalformedError, EOFError, OSError."""
    raw = b""
    while not raw:
        try:
            raw = (await reader.readuntil(b"\r\n\r\n")).lstrip(b"\r\n")[:-4]
        except asyncio.LimitOverrunError:
            raise MalformedError(f"a head of more than {HEAD_BYTES >> 10} KiB") from None
        except asyncio.IncompleteReadError as error:
            if error.partial.strip():
                raise
            return None
    head = Head(tuple(raw.split(b"\r\n")))
    if _AMBIGUOUS.search(head.lines[0]):
        raise MalformedError(f"a first line that is none: {head.lines[0][:40]!r}")
    for line in head.lines[1:]:
        name, colon, _ = line.partition(b":")
        if not colon or name.split() != [name] or _AMBIGUOUS.search(line):
            raise MalformedError(f"a header that is none: {line[:40]!r}")
    return head


def request_line(head: Head) -> tuple[str, str]:
    """Method and target. Raises MalformedError, also where the length of the body is said in two ways."""
    words = head.first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise MalformedError(f"a request that is not HTTP/1: {head.first[:40]!r}")
    if head.has("transfer-encoding") and (
        head.value("transfer-encoding").lower() != "chunked"
        or head.has("content-length")
        or not words[2].startswith("HTTP/1.1")
    ):
        raise MalformedError("a body whose length is not clear")
    _ = head.length
    return words[0], words[1]


def status_of(head: Head) -> int:
    """The status of an answer. Raises MalformedError."""
    words = head.first.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not (words[1].isascii() and words[1].isdecimal()):
        raise MalformedError(f"an answer that is not HTTP/1: {head.first[:40]!r}")
    return int(words[1])


def has_body(head: Head, method: str, status: int) -> bool:
    """Whether an answer to this method has a body."""
    return method != "HEAD" and status not in _NO_BODY


def is_framed(head: Head, method: str, status: int) -> bool:
    """Whether the end of an answer is known without the end of the connection."""
    return head.is_chunked or head.length is not None or not has_body(head, method, status)


async def body(head: Head, reader: asyncio.StreamReader, *, is_answer: bool) -> AsyncIterator[tuple[bytes, bytes]]:
    """The pieces of a message's body as they come: as they stand on the wire, and their content.

    An answer that does not say how long it is ends with its connection; such a request has no body.

    Raises:
        EOFError: it is cut off.
        MalformedError: its chunks are none.
        OSError: the connection broke.
    """
    if head.is_chunked:
        async for part in _chunks(reader):
            yield part
        return
    left = head.length
    if left is None and not is_answer:
        return
    while left is None or left > 0:
        piece = await reader.read(PIECE_BYTES if left is None else min(left, PIECE_BYTES))
        if not piece:
            if left is None:
                return
            raise EOFError
        if left is not None:
            left -= len(piece)
        yield piece, piece


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[tuple[bytes, bytes]]:
    """A chunk that came in one piece is one piece: its size, its content and its end are one write to the client."""
    while True:
        line = await _line(reader)
        size = _SIZE.match(line)
        if size is None:
            raise MalformedError(f"a chunk without its size: {line[:40]!r}")
        left = int(size[1], 16)
        if left == 0:
            break
        raw = line
        end = b""
        while len(end) < 2:
            piece = await reader.read(min(left + 2 - len(end), PIECE_BYTES))
            if not piece:
                raise EOFError
            content, more = piece[:left], piece[left:]
            left -= len(content)
            end += more
            if end != b"\r\n"[: len(end)]:
                raise MalformedError("a chunk that is longer than its size")
            yield raw + piece, content
            raw = b""
    raw = line
    while (line := await _line(reader)) != b"\r\n":
        raw += line
        if not _TRAILER.match(line) or len(raw) > HEAD_BYTES:
            raise MalformedError(f"a trailer that is none: {line[:40]!r}")
    yield raw + line, b""


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError:
        raise MalformedError("a line without an end") from None
