"""Samples as a remote-write request, the way into Prometheus that keeps everything a scrape leaves: gaps, and the marks of
series that have gone.

The message is that of prompb/remote.proto and prompb/types.proto of Prometheus (WriteRequest, TimeSeries, Label, Sample),
the mark is the quiet NaN of model/value/value.go. Snappy is asked for, and needs no compression: a literal is valid.
"""

from __future__ import annotations

import struct
import urllib.request
from collections.abc import Iterable, Sequence
from functools import cache

from support.samples import Labels

GONE: float = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]
_SAMPLE = struct.Struct("<3sd7s").pack
"""A sample with its length, 16 bytes: the value (field 1, eight bytes), and the time (field 2, six for this century)."""


def write(url: str, series: Iterable[tuple[str, Labels, Sequence[tuple[int, float | None]]]]) -> None:
    """Send (metric, labels, samples) of series; None in place of a value ends the series.

    Raises urllib.error.HTTPError where Prometheus refuses a sample.
    """
    message = b"".join(_field(1, _series(*one)) for one in series)
    request = urllib.request.Request(
        f"{url}/api/v1/write",
        _varint(len(message)) + _literal(message),
        {
            "Content-Type": "application/x-protobuf",
            "Content-Encoding": "snappy",
            "X-Prometheus-Remote-Write-Version": "0.1.0",
        },
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        answer.read()


def _series(metric: str, labels: Labels, samples: Sequence[tuple[int, float | None]]) -> bytes:
    pairs = sorted((("__name__", metric), *labels))
    parts = [_field(1, _field(1, name.encode()) + _field(2, value.encode())) for name, value in pairs]
    parts += [_SAMPLE(b"\x12\x10\x09", GONE if value is None else value, _stamp(at)) for at, value in samples]
    return b"".join(parts)


@cache
def _stamp(at: int) -> bytes:
    return b"\x10" + _varint(at * 1000)


def _field(number: int, content: bytes) -> bytes:
    return bytes((number << 3 | 2,)) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _literal(content: bytes) -> bytes:
    """One literal of snappy's block format, with its length in four bytes."""
    return bytes((63 << 2,)) + struct.pack("<I", len(content) - 1) + content if content else b""
