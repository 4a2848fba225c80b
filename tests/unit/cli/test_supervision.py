"""Messages to systemd, received on a socket of the test's."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tpw.cli.supervision import Supervisor


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(5)
        yield receiver


def test_the_messages_are_those_of_the_protocol(inbox: socket.socket) -> None:
    supervisor = Supervisor({"NOTIFY_SOCKET": inbox.getsockname()}, 7)
    supervisor.ready()
    supervisor.alive()
    supervisor.stopping()

    assert [inbox.recv(100) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"STOPPING=1"]


def test_an_abstract_socket_is_written_with_an_at_sign() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("")  # the kernel chooses an abstract name
        receiver.settimeout(5)
        name = receiver.getsockname().decode()
        Supervisor({"NOTIFY_SOCKET": f"@{name[1:]}"}, 7).ready()
        assert receiver.recv(100) == b"READY=1"


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 10.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 10.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_a_watchdog_gets_three_pings_in_its_period(environment: dict[str, str], seconds: float | None) -> None:
    assert Supervisor({"NOTIFY_SOCKET": "/x", **environment}, 7).ping_seconds == seconds


def test_a_supervisor_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    Supervisor({}, 7).ready()
    Supervisor({"NOTIFY_SOCKET": str(tmp_path / "gone")}, 7).ready()
    assert Supervisor({"WATCHDOG_USEC": "30000000"}, 7).ping_seconds is None
