"""Searches a metrics page, as bytes, for the samples of a few metrics.

An engine's page has 50 KB of which one per cent is needed, and it is read every second: the page is searched for the names
and only the lines found are split. An invalid line is skipped. The Prometheus text format 0.0.4, OpenMetrics and plain
``name value`` lines (also tab separated) are read by the same rules:

- a sample is a line that starts with its name, followed by ``{``, a blank or a tab: ``_created`` and ``_bucket`` samples of
  a metric have other names;
- names outside the classic alphabet are quoted inside the braces: ``{"gen_ai.client.token.usage_sum",...}``;
- the labels are followed by the value, an optional timestamp and an optional exemplar after ``#``: only the value is used;
- a value that is negative, not finite or above :data:`HIGHEST` is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache

HIGHEST = 2.0**63
"""No counter of tokens, requests, nanoseconds or bytes is higher: a value above is an error, and sums of many must stay
finite."""

_CLASSIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
_QUOTED = r'"((?:[^"\\]|\\.)*)"'
_LABEL = re.compile(rf"\s*(?:([a-zA-Z_][a-zA-Z0-9_]*)|{_QUOTED})\s*(?:=\s*{_QUOTED}\s*)?(?:,|\Z)", re.DOTALL)
_SAMPLE = re.compile(
    rb"(?:[a-zA-Z_:][a-zA-Z0-9_:./-]*)?(?:\s*\{.*\})?[ \t]+(?:NaN|[-+]?(?:Inf|[0-9.][-+0-9.eE]*))(?:\s|\Z)"
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)

_BRACE, _BLANK, _TAB, _COMMA, _CLOSE, _BACKSLASH, _QUOTE = b'{ \t,}\\"'


class Page:
    """One page. Holds a copy of the body."""

    __slots__ = ("_found", "_refused", "_text")

    def __init__(self, body: bytes) -> None:
        self._text = b"\n" + body
        self._found: dict[str, list[tuple[bytes, float]]] = {}
        self._refused: dict[str, list[bytes]] = {}

    def lines(self, name: str) -> list[tuple[bytes, float]]:
        """The samples of exactly this name: (name and labels as on the page, value). Searched once."""
        if name in self._found:
            return self._found[name]
        text = self._text
        needle = needle_of(name)
        length = len(needle) - 1
        found = []
        at = text.find(needle)
        while at >= 0:
            start = at + 1
            end = text.find(b"\n", start)
            line = text[start:] if end < 0 else text[start:end]
            sample = split(line, length)
            if sample is not None:
                if 0.0 <= sample[1] < HIGHEST:
                    found.append(sample)
                else:
                    self._refused.setdefault(name, []).append(sample[0])
            if end < 0:
                break
            at = text.find(needle, end)
        self._found[name] = found
        return found

    def refused(self, name: str) -> list[bytes]:
        """Names and labels of the samples that :meth:`lines` has found with a value that no counter has."""
        return self._refused.get(name, [])

    def samples(self, name: str) -> bool:
        """Whether the page has a sample of exactly this name, valid or not."""
        text = self._text
        needle = needle_of(name)
        at = text.find(needle)
        while at >= 0:
            after = text[at + len(needle) : at + len(needle) + 1]
            if after in (b"{", b" ", b"\t", b",", b"}"):
                return True
            at = text.find(needle, at + 1)
        return False

    def declared(self, family: str) -> str | None:
        """The type of a family in its ``# TYPE`` line; "" if it has only a ``# HELP`` line; None without either."""
        spelling = family if _CLASSIC.match(family) else f'"{family}"'
        mark = b"\n# TYPE " + spelling.encode() + b" "
        at = self._text.find(mark)
        if at >= 0:
            end = self._text.find(b"\n", at + 1)
            return self._text[at + len(mark) : None if end < 0 else end].strip().decode("ascii", "replace")
        return "" if self._text.find(b"\n# HELP " + spelling.encode() + b" ") >= 0 else None

    def prefixed(self, prefix: str) -> bool:
        """Whether any sample or family has a name with this prefix."""
        raw = prefix.encode()
        return any(self._text.find(mark + raw) >= 0 for mark in (b"\n", b"\n# TYPE ", b'\n{"', b'\n# TYPE "'))

    def is_empty(self) -> bool:
        """Whether the page has no samples."""
        return not any(line and not line.startswith(b"#") for line in self._text.split(b"\n"))

    def has_samples(self) -> bool:
        """Whether at least one line is a valid sample. Slow: reads every line."""
        return any(_is_sample(line) for line in self._text.split(b"\n") if line and not line.startswith(b"#"))

    def is_complete(self) -> bool:
        """Whether an OpenMetrics page has its end mark: without it, the page was truncated."""
        return self._text.rstrip().endswith(b"\n# EOF")


@lru_cache(maxsize=1024)
def needle_of(name: str) -> bytes:
    """The first bytes of a sample of this name, including the line break before it."""
    return b"\n" + name.encode() if _CLASSIC.match(name) else b'\n{"' + name.encode() + b'"'


def split(line: bytes, length: int) -> tuple[bytes, float] | None:
    """Split a line that starts with a name (or ``{"name"``) of ``length`` bytes: (name and labels, value).

    None if the name is longer (another metric), or the line is no sample.
    """
    if length >= len(line):
        return None
    after = line[length]
    if after == _BRACE or (after in (_COMMA, _CLOSE) and line[0] == _BRACE):
        # Without an exemplar the last brace closes the labels.
        end = _closing(line) if b" # " in line else line.rfind(b"}")
        if end < 0:
            return None
        head, rest = line[: end + 1], line[end + 1 :]
    elif after in (_BLANK, _TAB):
        head, rest = line[:length], line[length:]
        if rest.lstrip().startswith(b"{"):
            return _spaced(line, length)
    else:
        return None
    fields = rest.split(None, 1)
    if not fields or b"_" in fields[0]:
        return None
    try:
        return head, float(fields[0])
    except ValueError:
        return None


def _spaced(line: bytes, length: int) -> tuple[bytes, float] | None:
    """``name {labels} value``: the format allows this blank."""
    joined = line[:length] + line[length:].lstrip()
    return split(joined, length)


def _closing(line: bytes) -> int:
    """Position of the brace that closes the labels; -1 if there is none."""
    quoted = escaped = False
    for position, byte in enumerate(line):
        if escaped:
            escaped = False
        elif quoted:
            if byte == _BACKSLASH:
                escaped = True
            elif byte == _QUOTE:
                quoted = False
        elif byte == _QUOTE:
            quoted = True
        elif byte == _CLOSE:
            return position
    return -1


def _is_sample(line: bytes) -> bool:
    """Whether a line has the form of a sample, with any name and value."""
    match = _SAMPLE.match(line)
    return match is not None and line[:1] not in b" \t"


def labels_of(head: bytes) -> dict[str, str]:
    """The labels of a sample, unescaped, without the quoted name of a UTF-8 metric.

    Raises:
        ValueError: they are invalid.
    """
    text = head.decode("utf-8", "replace")
    opening = text.find("{")
    if opening < 0:
        return {}
    if not text.endswith("}"):
        raise ValueError("labels without a closing brace")
    return dict(_pairs(text[opening + 1 : -1]))


def head_of(name: str, labels: Mapping[str, str]) -> str:
    """A sample's name and labels in the text format, with sorted labels: the same text for the same series."""
    pairs = [f'{_quoted(label)}="{_escaped(value)}"' for label, value in sorted(labels.items())]
    if _CLASSIC.match(name):
        return f"{name}{{{','.join(pairs)}}}" if pairs else name
    return f"{{{','.join((_quoted(name), *pairs))}}}"


def _quoted(name: str) -> str:
    return name if _CLASSIC.match(name) else f'"{name}"'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(text):
        match = _LABEL.match(text, at)
        if match is None or match.end() == at:
            raise ValueError(f"not a label: {text[at:]!r}")
        plain, quoted, value = match.groups()
        if value is not None:
            yield (plain if plain is not None else unescaped(quoted)), unescaped(value)
        elif quoted is None:
            raise ValueError(f"a label without a value: {text[at:]!r}")
        at = match.end()


def unescaped(text: str) -> str:
    """The value of a label as it was before it was written."""
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda match: "\n" if match[1] == "n" else match[1], text)
