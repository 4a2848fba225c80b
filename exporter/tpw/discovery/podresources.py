"""Which devices the kubelet assigned to which container, from its service ``v1.PodResourcesLister``.

It is gRPC on a unix socket: one HTTP/2 request (RFC 9113) with one message. The client here makes exactly this call and
needs no package: grpcio would add 25 MiB of memory to a node, h2 5 MiB. It does not read the headers of the answer, so a
refusal is reported without its text.

Facts (kubernetes/kubelet, pkg/apis/podresources/v1/api.proto, numbers of fields): ``ListPodResourcesResponse``
pod_resources 1; ``PodResources`` name 1, namespace 2, containers 3; ``ContainerResources`` name 1, devices 2,
dynamic_resources 5; ``ContainerDevices`` resource_name 1, device_ids 2; ``DynamicResource`` claim_resources 4;
``ClaimResource`` driver_name 2, device_name 4. Devices of NVIDIA's DRA driver are named ``gpu-<minor>`` and
``gpu-<minor>-mig-...``. Device ids are those of the device plugin, as in :mod:`tpw.discovery.kubelet`.
"""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping

from tpw.discovery.kubelet import GPU_RESOURCE

Devices = Mapping[tuple[str, str, str], frozenset[str]]
"""GPU identifiers by (namespace, pod, container)."""

TIMEOUT_SECONDS = 2.0
_MOST_BYTES = 16 << 20
"""The largest that a client of gRPC accepts for this service (kubelet's own limit of messages)."""
_METHOD = "/v1.PodResourcesLister/List"
_DRA_DRIVERS = ("gpu.nvidia.com",)
_DRA_DEVICE = re.compile(r"gpu-(\d+)(-mig-|\Z)")

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM = _ACK = 0x1
_END_HEADERS, _PADDED = 0x4, 0x8
_INDEXED_POST_HTTP = b"\x83\x86"
"""``:method: POST`` and ``:scheme: http`` of the static table of HPACK."""


class RefusedError(Exception):
    """The kubelet did not answer with a message."""


def devices(path: str, clock: Callable[[], float] = time.monotonic) -> Devices:
    """The devices of all containers of this node.

    Raises:
        FileNotFoundError: there is no socket: this is not a node of a cluster, or it is not mounted.
        PermissionError: this user may not use it.
        OSError, RefusedError: no answer.
    """
    return assigned(_call(path, clock))


def assigned(answer: bytes) -> Devices:
    """The devices in an answer. Raises RefusedError for other bytes."""
    found: dict[tuple[str, str, str], frozenset[str]] = {}
    try:
        for pod in _messages(answer, 1):
            namespace, name = _text(pod, 2), _text(pod, 1)
            for container in _messages(pod, 3):
                held = frozenset((*_of_plugins(container), *_of_claims(container)))
                if held:
                    found[namespace, name, _text(container, 1)] = held
    except (ValueError, IndexError):  # the first includes bytes that are not text
        raise RefusedError("not an answer of this service") from None
    return found


def _of_plugins(container: bytes) -> Iterator[str]:
    for device in _messages(container, 2):
        if GPU_RESOURCE.match(_text(device, 1)):
            yield from (identifier.decode() for identifier in _messages(device, 2))


def _of_claims(container: bytes) -> Iterator[str]:
    """Devices of claims, in the form of GKE's plugin: by the number of the device file."""
    for resource in _messages(container, 5):
        for claim in _messages(resource, 4):
            device = _DRA_DEVICE.match(_text(claim, 4))
            if device and _text(claim, 2) in _DRA_DRIVERS:
                yield f"nvidia{device[1]}"


# ---------------------------------------------------------------------------------------------------------- the exchange


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(name: str, value: str) -> bytes:
    """A header without compression (RFC 7541, 6.2.2)."""
    return b"\0" + b"".join(bytes((len(text),)) + text.encode() for text in (name, value))


def _request() -> bytes:
    headers = _INDEXED_POST_HTTP + b"".join(
        _literal(name, value)
        for name, value in (
            (":path", _METHOD),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        )
    )
    window = struct.pack(">I", _MOST_BYTES)
    return b"".join(
        (
            _PREFACE,
            _frame(_SETTINGS, 0, 0, struct.pack(">HIHI", 2, 0, 4, _MOST_BYTES)),  # no push; window of each stream
            _frame(_WINDOW_UPDATE, 0, 0, window),
            _frame(_HEADERS, _END_HEADERS, 1, headers),
            _frame(_DATA, _END_STREAM, 1, b"\0\0\0\0\0"),  # an empty message, not compressed
        )
    )


def _call(path: str, clock: Callable[[], float]) -> bytes:
    """The message of the answer. Raises OSError, RefusedError."""
    deadline = clock() + TIMEOUT_SECONDS
    body = b""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(path)
        connection.sendall(_request())
        with connection.makefile("rb") as stream:
            while clock() < deadline:
                head = stream.read(9)
                if len(head) < 9:
                    raise RefusedError("the connection ended early")
                length = int.from_bytes(head[:3], "big")
                kind, flags = head[3], head[4]
                if len(body) + length > _MOST_BYTES:
                    raise RefusedError("the answer is too large")
                payload = stream.read(length)
                if kind == _DATA:
                    body += payload[1 : length - payload[0]] if flags & _PADDED else payload
                if kind in (_DATA, _HEADERS) and flags & _END_STREAM:
                    return _message(body)
                if kind in (_RST_STREAM, _GOAWAY):
                    raise RefusedError("the call was refused")
                if kind in (_SETTINGS, _PING) and not flags & _ACK:
                    connection.sendall(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
    raise RefusedError("no answer in time")


def _message(body: bytes) -> bytes:
    if len(body) < 5 or body[0] or len(body) != 5 + int.from_bytes(body[1:5], "big"):
        raise RefusedError("the call has failed")
    return body[5:]


# ---------------------------------------------------------------------------------------------------------- the messages


def _text(message: bytes, number: int) -> str:
    return next((value.decode() for value in _messages(message, number)), "")


def _messages(message: bytes, number: int) -> Iterator[bytes]:
    """The values of one field that have a length: strings and messages. Raises ValueError, IndexError."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            _, at = _varint(message, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        elif kind == 2:
            length, at = _varint(message, at)
            if at + length > len(message):
                raise ValueError("cut off")
            if tag >> 3 == number:
                yield message[at : at + length]
            at += length
        else:
            raise ValueError("not a message")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("not a number")
