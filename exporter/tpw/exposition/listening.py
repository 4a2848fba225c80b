"""Listening sockets: addresses in the form of Prometheus exporters, and errors with a hint."""

from __future__ import annotations

import errno
import socket

_BACKLOG = 1024
"""Connections that wait to be accepted. Tuning: above it the kernel ignores a client for a second, as long as a probe
waits."""


class ListenError(OSError):
    """An address cannot be listened on. The message has the address, the cause and a hint."""


def parse_address(text: str) -> tuple[str, int]:
    """Parse ``HOST:PORT``, ``:PORT`` (all addresses) or ``[IPV6]:PORT``. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is not an address to listen on: write HOST:PORT, :PORT or [IPV6]:PORT")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r} is not an address to listen on: put the IPv6 address in brackets, [{host}]:{port}")
    return host, int(port)


def listen(text: str) -> socket.socket:
    """A listening socket for one address, not blocking. Raises ListenError, ValueError."""
    host, port = parse_address(text)
    try:
        return _listen_on(host, port) if host else _listen_everywhere(port)
    except OSError as error:
        hint = {
            "EADDRINUSE": "another process uses it; choose another with --web.listen-address",
            "EACCES": "ports below 1024 need a privilege; choose another with --web.listen-address",
            "EADDRNOTAVAIL": "this host does not have this address",
        }.get(_errno_name(error), "see --web.listen-address")
        raise ListenError(f"cannot listen on {text}: {error.strerror or error} ({hint})") from error


def _listen_on(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # A name with addresses of both families (localhost) means IPv4, as in exporters written in Go.
    family, _, _, _, address = next((entry for entry in found if entry[0] == socket.AF_INET), found[0])
    return _bound(family, address)


def _listen_everywhere(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return _bound(socket.AF_INET6, ("::", port), dual=True)
        except OSError as error:
            # IPv6 can be compiled in but disabled in the kernel: then IPv4 covers all addresses.
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
    return _bound(socket.AF_INET, ("", port))


def _errno_name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "")


def _bound(family: int, address: tuple[object, ...], *, dual: bool = False) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual else 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.settimeout(0.0)
    except OSError:
        listener.close()
        raise
    return listener
