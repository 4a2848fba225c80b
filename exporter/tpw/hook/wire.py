"""HTTP/1 framing for the proxy: where a message's head and its body end.

Messages are kept unchanged, so that they are passed on byte for byte. Ambiguous ones (two lengths, blanks in a header's
name, folded lines) are refused: proxy and server must agree where a message ends. Standard library only.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

HEAD_BYTES = 64 << 10
"""Maximum size of a head, and half of the read-ahead buffer."""

PIECE_BYTES = 64 << 10

_NO_BODY = (204, 304)
_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(;[^\r\n]*)?\r\n\Z")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n\0]*\r\n\Z")
_AMBIGUOUS = re.compile(rb"[\r\n\0]")


class MalformedError(Exception):
    """The message is not valid HTTP/1."""


@dataclass(frozen=True, slots=True)
class Head:
    """The first line of a message and its headers, unchanged."""

    lines: tuple[bytes, ...]

    @property
    def first(self) -> str:
        """The first line."""
        return self.lines[0].decode("latin-1")

    def value(self, name: str) -> str:
        """All values of a header, joined by commas; "" if it is absent. ``name`` in lower case."""
        wanted = name.encode()
        parts = (line.partition(b":") for line in self.lines[1:])
        return ",".join(value.strip().decode("latin-1") for key, _, value in parts if key.lower() == wanted)

    def has(self, name: str) -> bool:
        """Whether a header is present, even if empty."""
        wanted = name.encode()
        return any(line.partition(b":")[0].lower() == wanted for line in self.lines[1:])

    def replaced(self, *names: str, more: tuple[str, ...] = ()) -> Head:
        """A head without these headers and with more lines at the end."""
        unwanted = {name.encode() for name in names}
        kept = [line for line in self.lines[1:] if line.partition(b":")[0].lower() not in unwanted]
        return Head((self.lines[0], *kept, *(line.encode("latin-1") for line in more)))

    def encoded(self) -> bytes:
        """The bytes to send."""
        return b"\r\n".join(self.lines) + b"\r\n\r\n"

    @property
    def is_chunked(self) -> bool:
        """Whether the body is chunked."""
        return self.value("transfer-encoding").lower().rpartition(",")[2].strip() == "chunked"

    @property
    def length(self) -> int | None:
        """Content-Length; None if it is absent. Raises MalformedError."""
        if not self.has("content-length"):
            return None
        text = self.value("content-length")
        if not (text.isascii() and text.isdecimal()):
            raise MalformedError(f"Content-Length: {text[:40]}")
        return int(text)

    @property
    def is_kept_alive(self) -> bool:
        """Whether the connection stays open after the message."""
        options = self.value("connection").lower()
        return "close" not in options and (b"HTTP/1.0" not in self.lines[0] or "keep-alive" in options)


class Reader(asyncio.StreamReader):
    """A reader that reports at once when the peer closes the connection, even without a pending read."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=HEAD_BYTES, loop=loop)
        self.is_closed = False
        self.on_close: Callable[[], object] | None = None

    def feed_eof(self) -> None:
        """The peer sends no more."""
        super().feed_eof()
        self._report_close()

    def set_exception(self, exc: Exception) -> None:
        """The connection failed."""
        super().set_exception(exc)
        self._report_close()

    def _report_close(self) -> None:
        self.is_closed = True
        if self.on_close is not None:
            self.on_close()


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """The head of the next message; None at the end of the connection. Raises MalformedError, EOFError, OSError."""
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
        raise MalformedError(f"an invalid first line: {head.lines[0][:40]!r}")
    for line in head.lines[1:]:
        name, colon, _ = line.partition(b":")
        if not colon or name.split() != [name] or _AMBIGUOUS.search(line):
            raise MalformedError(f"an invalid header: {line[:40]!r}")
    return head


def request_line(head: Head) -> tuple[str, str]:
    """Method and target. Raises MalformedError, also for an ambiguous length of the body."""
    words = head.first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise MalformedError(f"a request that is not HTTP/1: {head.first[:40]!r}")
    if head.has("transfer-encoding") and (
        head.value("transfer-encoding").lower() != "chunked"
        or head.has("content-length")
        or not words[2].startswith("HTTP/1.1")
    ):
        raise MalformedError("a body of ambiguous length")
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
    """Whether an answer ends before its connection."""
    return head.is_chunked or head.length is not None or not has_body(head, method, status)


async def body(head: Head, reader: asyncio.StreamReader, *, is_answer: bool) -> AsyncIterator[tuple[bytes, bytes]]:
    """The pieces of a message's body as they arrive: (bytes on the wire, content).

    An answer without a length ends with its connection; a request without one has no body.

    Raises:
        EOFError: the body is truncated.
        MalformedError: a chunk is invalid.
        OSError: the connection failed.
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
    """A chunk that arrives as a whole is one piece, and so one write to the client."""
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
            raise MalformedError(f"an invalid trailer: {line[:40]!r}")
    yield raw + line, b""


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError:
        raise MalformedError("a line without an end") from None
