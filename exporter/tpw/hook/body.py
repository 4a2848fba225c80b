"""The documents in the body of an answer: one JSON text, lines of JSON, or server-sent events.

A text of up to ``HELD_BYTES`` is held until it is complete and parsed as a whole; a longer one is read as it arrives. Parts
of a stream without usage are dropped unparsed. Standard library only.
"""

from __future__ import annotations

import json
from enum import Enum

from tpw.hook.structure import Documents
from tpw.hook.usage import POSITIONS, Tally, may_have_usage

HELD_BYTES = 52 << 10
"""With a key or value of the structural reader, and what is held of events that repeat the usage, below 64 KiB."""

_REPEATED_BYTES, _REPEATED_FORMS = 1 << 10, 4
"""Longest event, and most forms of events, that wait for a later one."""
_USAGE = b'"usage":{'
_INDEX = b'"index":'
_DIGITS = b"0123456789"

_FIRST_EVENTS = 3
"""Events at the start of a stream that are parsed for the model; llama.cpp begins with ``null``."""


class Form(Enum):
    """How a body consists of documents."""

    TEXT = "text"
    LINES = "lines"
    EVENTS = "events"


_FORMS = {
    "application/json": Form.TEXT,
    "text/event-stream": Form.EVENTS,
    **dict.fromkeys(
        ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"), Form.LINES
    ),
    "application/stream+json": Form.LINES,
}


def form_of(content_type: str) -> Form | None:
    """The form of a content type; None if its text is not read."""
    kind = content_type.partition(";")[0].strip().lower()
    return _FORMS.get(kind) or (Form.TEXT if kind.endswith("+json") else None)


class TextBody:
    """A body that is one JSON text."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._held = bytearray()
        self._long: Documents | None = None

    def feed(self, piece: bytes) -> None:
        """The next bytes."""
        if self._long is not None:
            self._long.feed(piece)
        elif len(self._held) + len(piece) <= HELD_BYTES:
            self._held += piece
        else:
            self._long = Documents(POSITIONS, self._tally.add)
            self._long.feed(bytes(self._held))
            self._held.clear()
            self._long.feed(piece)

    def end(self) -> None:
        """The body has ended."""
        if self._held:
            read(bytes(self._held), self._tally)

    @property
    def held_bytes(self) -> int:
        """What is held of the body."""
        return len(self._held) + (self._long.held_bytes if self._long else 0)


class StreamBody:
    """A body of lines of JSON or of events."""

    def __init__(self, tally: Tally, *, is_events: bool) -> None:
        self._tally = tally
        self._is_events = is_events
        self._end = b"\n\n" if is_events else b"\n"
        self._line = bytearray()  # an incomplete line
        self._data = bytearray()  # complete lines of an incomplete event
        self._long: Documents | None = None  # the event that is too long to be held
        self._skips = False  # the rest of a long line that is no data
        self._in_long_line = False
        self._after_return = False
        self._first = _FIRST_EVENTS
        self._is_within = True  # within a line or an event, or before the first one, which names the model
        self._repeated: dict[tuple[bytes, bytes], bytes] = {}  # the last event of each form, unparsed

    def feed(self, piece: bytes) -> None:
        """The next bytes."""
        if self._is_within or not piece.endswith(self._end):
            self._read(piece)
        else:
            at = piece.find(_USAGE)
            if (at > 0 and self._waits(piece, at)) or not may_have_usage(piece):
                return
            self._read(piece)
        self._is_within = bool(
            self._first or self._line or self._data or self._long or self._in_long_line or self._after_return
        )

    def _waits(self, piece: bytes, at: int) -> bool:
        """Whether a piece is one event with the usage so far, which a later event of the same form replaces (vLLM with
        continuous_usage_stats): only the last one needs to be parsed.

        The form is the end of the event from its usage on, without numbers, and the index of the choice. That usage is a
        field of the document itself: its end and that of the document are all that is closed. Then nothing else of the
        document counts, but ``timings`` decide which choice it belongs to.
        """
        if (
            len(piece) > _REPEATED_BYTES
            or not piece.startswith(b"data: {")
            or piece[at - 1] not in b",{"
            or piece.find(b"\n", 0, at) >= 0
            or piece.find(b'"timings"', 0, at) >= 0
        ):
            return False
        index = piece.find(_INDEX, 0, at)
        if index >= 0 and piece.find(_INDEX, index + 8, at) >= 0:
            return False
        form = piece[at:].translate(None, _DIGITS), piece[index : index + 12] if index >= 0 else b""
        if self._repeated.pop(form, None) is None and not (
            self._is_events and len(self._repeated) < _REPEATED_FORMS and _is_end_with_usage(piece[at:])
        ):
            return False
        self._repeated[form] = piece
        return True

    def end(self) -> None:
        """The body has ended, perhaps without the end of its last line."""
        self._read(b"\n\n")

    @property
    def held_bytes(self) -> int:
        """What is held of the body."""
        repeated = sum(map(len, self._repeated.values()))
        return len(self._line) + len(self._data) + repeated + (self._long.held_bytes if self._long else 0)

    def _read(self, piece: bytes) -> None:
        for event in self._repeated.values():
            read(event[5:], self._tally)
        self._repeated.clear()
        if self._after_return and piece:
            self._after_return = False
            if piece[:1] == b"\n":
                piece = piece[1:]
        if b"\r" in piece:  # JSON has none inside a string
            self._after_return = piece.endswith(b"\r")
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        start = 0
        while (end := piece.find(b"\n", start)) >= 0:
            self._part(piece[start:end])
            self._end_line()
            start = end + 1
        if start < len(piece):
            self._part(piece[start:])

    def _part(self, part: bytes) -> None:
        """A part of a line."""
        if self._in_long_line:
            if self._long is not None and not self._skips:
                self._long.feed(part)
        elif len(self._line) + len(self._data) + len(part) <= HELD_BYTES:
            self._line += part
        else:
            self._begin_long_line(bytes(self._line[:6]) + part[:6])
            line, self._line = bytes(self._line), bytearray()
            if not self._skips:
                # The name of the field is no JSON that is wanted.
                assert self._long is not None  # noqa: S101 - set by _begin_long_line
                skipped = 5 if self._is_events else 0
                self._long.feed(line[skipped:])
                self._long.feed(part[max(0, skipped - len(line)) :])

    def _begin_long_line(self, begin: bytes) -> None:
        self._in_long_line = True
        self._skips = self._is_events and not begin.startswith(b"data:")
        if not self._skips and self._long is None:
            self._long = Documents(POSITIONS, self._tally.add)
            self._long.feed(bytes(self._data))
            self._data.clear()

    def _end_line(self) -> None:
        if self._in_long_line:
            self._in_long_line = False
            if not self._is_events:
                self._end_event()
            return
        line = bytes(self._line)
        self._line.clear()
        if not self._is_events:
            self._data += line
            self._end_event()
        elif not line:
            self._end_event()
        elif line.startswith(b"data:"):
            if self._long is not None:
                self._long.feed(line[5:])
            else:
                self._data += line[5:]

    def _end_event(self) -> None:
        data, self._long = bytes(self._data), None
        self._data.clear()
        if data and (self._first or may_have_usage(data)):
            self._first = 0 if self._tally.model else max(0, self._first - 1)
            read(data, self._tally)


def _is_end_with_usage(end: bytes) -> bool:
    """Whether the end of an event closes an object, begun before it, of which the first field here is a known usage."""
    if end.count(b"\n") != 2:
        return False
    try:
        fields = json.loads(b"{" + end)
    except (ValueError, RecursionError):
        return False
    alone = Tally()
    alone.add({"usage": fields["usage"]})
    return bool(alone.total()) and "timings" not in fields


def body_of(form: Form, tally: Tally) -> TextBody | StreamBody:
    """The reader of a form."""
    return TextBody(tally) if form is Form.TEXT else StreamBody(tally, is_events=form is Form.EVENTS)


def read(text: bytes, tally: Tally) -> None:
    """Add the documents of a text: one, or a list of them. Several texts, or half a one, are read as far as they go."""
    try:
        document = json.loads(text.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        Documents(POSITIONS, tally.add).feed(text)
        return
    if isinstance(document, dict):
        tally.add(document)
    elif isinstance(document, list):
        for item in document:
            if isinstance(item, dict):
                tally.add(item, True)  # noqa: FBT003 - as the structural reader calls it
