"""Reads JSON as it arrives and keeps only the values at wanted positions.

A text of any length is read in pieces of any size; what is held is one wanted value at most, and the objects made of them.
Strings are never searched: a key counts by its position, so the text that a model wrote, and the arguments of its tool
calls, cannot be mistaken for a field of the protocol. Texts are not validated. Standard library only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

VALUE_BYTES = 4 << 10
"""Maximum length of a kept value; longer ones are left out. The longest usage has some hundred bytes."""

KEY_BYTES = 64
LIST_ITEMS = 1000
"""Kept items of a wanted list inside a document."""

_TEXT = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_INSIDE = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
"""Everything up to the next bracket, or to a string that does not end in this piece."""
_SPACE = re.compile(rb"[\s,]*+")
_SCALAR = re.compile(rb'[^\s"{}\[\],:]*+')
_QUOTE, _ESCAPE, _COLON = b'"\\:'
_OPEN, _CLOSE = b"{[", b"}]"


class Keep(Enum):
    """How a value at a wanted position is kept, besides a mapping of the wanted keys of an object."""

    WHOLE = "whole"


@dataclass(frozen=True, slots=True)
class Items:
    """A list of objects with these wanted keys."""

    wanted: Mapping[str, Wanted]


Wanted: TypeAlias = "Mapping[str, Wanted] | Items | Keep"


@dataclass(slots=True)
class _Open:
    """An open container with wanted contents. ``kept`` is None for the list that a text consists of."""

    kept: dict[str, Any] | list[Any] | None
    wanted: Wanted
    key: str = ""
    expects_key: bool = False


class Documents:
    """Reads texts of JSON one after the other.

    Args:
        wanted: the wanted keys of an object.
        found: called with what is kept of every object at the top: of the text itself, or of each item of a list; the
            second argument is True for an item.
    """

    def __init__(self, wanted: Mapping[str, Wanted], found: Callable[[dict[str, Any], bool], None]) -> None:
        self._wanted = wanted
        self._found = found
        self._open: list[_Open] = []
        self._nested = 0  # open containers inside a value that is left out or kept as a whole
        self._in_text = False
        self._in_scalar = False
        self._escaped = False
        self._is_key = False
        self._value: bytearray | None = None  # the wanted value, or the key, that is being read
        self._most = VALUE_BYTES

    def feed(self, piece: bytes) -> None:
        """The next bytes."""
        at, end = 0, len(piece)
        while at < end:
            if self._in_text:
                at = self._text(piece, at)
            elif self._nested:
                at = self._inside(piece, at)
            elif self._in_scalar:
                at = self._scalar(piece, at)
            else:
                at = self._next(piece, at)

    @property
    def held_bytes(self) -> int:
        """Length of the value that is being read."""
        return len(self._value or b"")

    def _take(self, part: bytes) -> None:
        if self._value is not None:
            self._value += part
            if len(self._value) > self._most:
                self._value = None

    def _text(self, piece: bytes, at: int) -> int:
        start = at
        if self._escaped:
            self._escaped = False
            at += 1
        match = _TEXT.match(piece, at)
        at = match.end() if match else at
        if at < len(piece):
            self._escaped = piece[at] == _ESCAPE  # the last byte of the piece
            self._in_text = self._escaped
            at += 1
        self._take(piece[start:at])
        if not self._in_text and not self._nested:
            self._end_value()
        return at

    def _inside(self, piece: bytes, at: int) -> int:
        match = _INSIDE.match(piece, at)
        end = match.end() if match else at
        if end < len(piece):
            mark = piece[end]
            end += 1
            if mark == _QUOTE:
                self._in_text = True
            else:
                self._nested += 1 if mark in _OPEN else -1
        self._take(piece[at:end])
        if not self._nested:
            self._end_value()
        return end

    def _scalar(self, piece: bytes, at: int) -> int:
        match = _SCALAR.match(piece, at)
        end = match.end() if match else at
        self._take(piece[at:end])
        if end < len(piece):
            self._in_scalar = False
            self._end_value()
        return end

    def _next(self, piece: bytes, at: int) -> int:
        match = _SPACE.match(piece, at)
        if match and match.end() > at:
            if self._open and b"," in piece[at : match.end()]:
                self._open[-1].expects_key = isinstance(self._open[-1].kept, dict)
            return match.end()
        mark = piece[at]
        if mark in _CLOSE:
            if self._open:
                self._close()
            return at + 1
        if mark == _COLON:
            return at + 1
        if self._open and self._open[-1].expects_key:
            if mark != _QUOTE:
                scalar = _SCALAR.match(piece, at)
                return max(at + 1, scalar.end() if scalar else 0)
            self._is_key, self._in_text = True, True
            self._value, self._most = bytearray(b'"'), KEY_BYTES
            return at + 1
        return self._begin(piece, at, mark)

    def _begin(self, piece: bytes, at: int, mark: int) -> int:
        """A value begins."""
        wanted = self._wanted_here()
        if mark in _OPEN and self._descend(wanted, is_object=mark == _OPEN[0]):
            return at + 1
        is_kept = wanted is Keep.WHOLE
        self._value, self._most = bytearray() if is_kept else None, VALUE_BYTES
        if mark in _OPEN:
            self._nested = 1
        elif mark == _QUOTE:
            self._in_text = True
        else:
            self._in_scalar = True
            return at
        self._take(piece[at : at + 1])
        return at + 1

    def _wanted_here(self) -> Wanted | None:
        if not self._open:
            return self._wanted
        top = self._open[-1]
        if isinstance(top.wanted, Items):
            return top.wanted.wanted
        return top.wanted.get(top.key) if isinstance(top.wanted, Mapping) else None

    def _descend(self, wanted: Wanted | None, *, is_object: bool) -> bool:
        if is_object and isinstance(wanted, Mapping):
            self._open.append(_Open({}, wanted, expects_key=True))
        elif not is_object and isinstance(wanted, Items):
            self._open.append(_Open([], wanted))
        elif not is_object and not self._open:
            self._open.append(_Open(None, Items(self._wanted)))
        else:
            return False
        return True

    def _close(self) -> None:
        closed = self._open.pop()
        if closed.kept is None:
            return
        above = self._open[-1] if self._open else None
        if above is None or above.kept is None:
            if isinstance(closed.kept, dict):
                self._found(closed.kept, above is not None)
        else:
            self._put(above, closed.kept)

    def _end_value(self) -> None:
        raw, self._value = self._value, None
        if self._is_key:
            self._is_key = False
            self._open[-1].expects_key = False
            self._open[-1].key = str(_decoded(raw) or "")
        elif raw is not None and self._open:
            self._put(self._open[-1], _decoded(raw))

    def _put(self, container: _Open, value: Any) -> None:
        if isinstance(container.kept, dict):
            container.kept[container.key] = value
        elif isinstance(container.kept, list) and value and len(container.kept) < LIST_ITEMS:
            container.kept.append(value)


def _decoded(raw: bytearray | None) -> Any:
    try:
        return json.loads(raw.decode("utf-8", "replace")) if raw else None
    except (ValueError, RecursionError):
        return None
