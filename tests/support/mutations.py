"""Inputs that were valid once: captured bodies with parts cut, repeated, overwritten, and numbers made absurd."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hypothesis import strategies as st

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
ABSURD = (
    *(b"1e999", b"-1e308", b"1.7e308", b"NaN", b"Infinity", b"-1", b"", b"9" * 5000, b"0x10", b"1_000"),
    *(b"null", b"true", b'"5"', b"[", b"{", b"[[[[" * 5000, b"<a>" * 500, b"\x00", b"\xff\xfe", b"\\u0000"),
    *("\u0665".encode(), "\ud800".encode("utf-8", "surrogatepass")),
)


@st.composite
def mutated(draw: st.DrawFn, bodies: Sequence[bytes]) -> bytes:
    """One of the bodies with up to four changes."""
    body = draw(st.sampled_from(bodies))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body)))
        length = draw(st.integers(0, max(1, len(body) // 4)))
        change = draw(st.sampled_from(["number", "number", "cut", "end", "repeat", "bytes", "word"]))
        if change == "number":
            found = _NUMBER.search(body, at)
            if found:
                body = body[: found.start()] + draw(st.sampled_from(ABSURD)) + body[found.end() :]
        elif change == "cut":
            body = body[:at] + body[at + length :]
        elif change == "end":
            body = body[:at]
        elif change == "repeat":
            body = body[: at + length] + body[at:]
        elif change == "bytes":
            body = body[:at] + draw(st.binary(max_size=20)) + body[at:]
        else:
            body = body[:at] + draw(st.sampled_from(ABSURD)) + body[at:]
    return body[: 1 << 20]
