"""Messages to the supervisor: systemd's notification protocol (sd_notify(3)), over a datagram socket.

Without ``NOTIFY_SOCKET`` in the environment nothing is sent.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping

_PINGS_PER_PERIOD = 3.0
"""Pings per watchdog period: two may be late before the supervisor acts."""


class Supervisor:
    """The supervisor of this process.

    Args:
        environment: of the process: ``NOTIFY_SOCKET``, ``WATCHDOG_USEC``, ``WATCHDOG_PID``.
        pid: of this process.
    """

    def __init__(self, environment: Mapping[str, str], pid: int) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        period = environment.get("WATCHDOG_USEC", "")
        is_watched = bool(address) and environment.get("WATCHDOG_PID", str(pid)) == str(pid) and period.isdecimal()
        self.ping_seconds: float | None = int(period) / 1e6 / _PINGS_PER_PERIOD if is_watched and int(period) else None
        """How often to call :meth:`alive`. None where no watchdog waits for it."""

    def ready(self) -> None:
        """The start is complete."""
        self._send("READY=1")

    def alive(self) -> None:
        """The process works. Resets the watchdog."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(1.0)
                sender.sendto(message.encode(), self._address)
        except OSError:
            pass  # the supervisor restarts: it asks for nothing then
