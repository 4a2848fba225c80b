"""The HTTP server on a loopback port, spoken to in bytes where bytes matter."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.examples import examples
from tpw.exposition.admission import Limits, Phase
from tpw.exposition.http1 import MalformedError, Request, Response, parse_head
from tpw.exposition.serving import ListenError, Server, parse_address


def echo(request: Request) -> Response:
    return Response(f"{request.method} {request.path} {dict(request.query)}\n".encode())


@contextmanager
def serving(handler: Callable[[Request], Response] = echo, **settings: object) -> Iterator[Server]:
    server = Server(["127.0.0.1:0"], handler, **settings)  # type: ignore[arg-type]
    server.start()
    try:
        yield server
    finally:
        server.stop()


def connect(server: Server) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.ports[0]), timeout=10)
    client.settimeout(10)
    return client


def read_answer(client: socket.socket) -> tuple[bytes, bytes]:
    """(head, body) of one response, by its Content-Length."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(65536)
        assert more, data
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    parts = [body]
    missing = length - len(body)
    while missing > 0:
        parts.append(client.recv(1 << 20))
        assert parts[-1], f"{missing} bytes are missing"
        missing -= len(parts[-1])
    assert missing == 0
    return head, b"".join(parts)


def ask(client: socket.socket, request: bytes) -> tuple[int, bytes]:
    client.sendall(request)
    head, body = read_answer(client)
    return int(head.split(b" ")[1]), body


def closed(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


# --------------------------------------------------------------------------------------------------------- the protocol


def test_a_connection_stays_open_for_many_requests():
    with serving() as server, connect(server) as client:
        for turn in range(20):
            request = f"GET /{turn} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
            assert ask(client, request) == (200, f"GET /{turn} {{}}\n".encode())


def test_requests_in_one_packet_are_answered_in_order():
    with serving() as server, connect(server) as client:
        client.sendall(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        data = b""
        while more := client.recv(65536):
            data += more
        assert data.index(b"GET /a {}") < data.index(b"GET /b {}")


def test_a_request_can_arrive_byte_by_byte():
    with serving() as server, connect(server) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n":
            client.sendall(bytes([byte]))
        assert read_answer(client)[1] == b"GET /slow {}\n"


def test_the_standard_librarys_client_works():
    with serving() as server:
        client = http.client.HTTPConnection("127.0.0.1", server.ports[0], timeout=10)
        for _ in range(3):
            client.request("GET", "/a%20b?name[]=x&name[]=y&z=")
            answer = client.getresponse()
            assert answer.status == 200
            assert answer.read() == b"GET /a b {'name[]': ['x', 'y'], 'z': ['']}\n"
            assert answer.getheader("Date", "").endswith(" GMT")
        client.close()


def test_head_has_the_length_and_no_body():
    with serving() as server, connect(server) as client:
        client.sendall(b"HEAD /x HTTP/1.1\r\nHost: x\r\n\r\nGET /y HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        data = b""
        while more := client.recv(65536):
            data += more
        assert f"Content-Length: {len('HEAD /x {}') + 1}\r\n".encode() in data
        assert b"HEAD /x" not in data
        assert b"GET /y {}" in data


def test_http_1_0_closes_unless_asked_not_to():
    with serving() as server:
        with connect(server) as client:
            assert ask(client, b"GET / HTTP/1.0\r\n\r\n")[0] == 200
            assert closed(client)
        with connect(server) as client:
            assert ask(client, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")[0] == 200
            assert ask(client, b"GET / HTTP/1.0\r\n\r\n")[0] == 200


def test_connection_close_is_honoured():
    with serving() as server, connect(server) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"Connection: close" in read_answer(client)[0]
        assert closed(client)


def test_a_body_is_skipped_and_the_connection_goes_on():
    with serving() as server, connect(server) as client:
        client.sendall(b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhel")
        assert ask(client, b"lo") == (200, b"POST /p {}\n")
        assert ask(client, b"GET /q HTTP/1.1\r\nHost: x\r\n\r\n") == (200, b"GET /q {}\n")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"GET / gopher\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nbroken\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ],
)
def test_an_invalid_request_is_answered_and_the_connection_closed(request_bytes: bytes, status: int):
    with serving() as server, connect(server) as client:
        assert ask(client, request_bytes)[0] == status
        assert closed(client)


@given(st.binary(max_size=300))
@settings(max_examples=examples(300))
def test_an_invalid_head_raises_only_malformed_error(head: bytes):
    with suppress(MalformedError):
        assert parse_head(head)[0].path is not None


def test_an_absolute_target_is_reduced_to_its_path():
    request, _ = parse_head(b"GET http://host:1/metrics?a=b HTTP/1.1\r\nHost: host")
    assert (request.path, request.query) == ("/metrics", {"a": ["b"]})


# ------------------------------------------------------------------------------------------------------------- timeouts


def test_a_silent_client_is_disconnected():
    with serving(idle_seconds=0.05) as server, connect(server) as client:
        assert closed(client)


def test_a_client_that_never_completes_its_request_is_disconnected():
    with serving(head_seconds=0.05) as server, connect(server) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost:")
        assert closed(client)


def test_a_client_that_drips_bytes_is_disconnected():
    with serving(head_seconds=0.2) as server, connect(server) as client:
        began = time.monotonic()
        try:
            while time.monotonic() - began < 5.0:
                client.sendall(b"a")
                time.sleep(0.02)
        except OSError:
            pass
        assert time.monotonic() - began < 5.0


def test_a_client_that_never_reads_is_disconnected_and_does_not_affect_others():
    large = b"x" * 50_000_000

    def handler(request: Request) -> Response:
        return Response(large if request.path == "/large" else b"small\n")

    with serving(handler, request_seconds=0.1) as server, connect(server) as deaf:
        deaf.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        with connect(server) as client:
            assert ask(client, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") == (200, b"small\n")
        for thread in threading.enumerate():
            if thread.name == "http-connection":
                thread.join(10)
        received = 0
        while more := deaf.recv(1 << 20):
            received += len(more)
        assert received < len(large)


def test_a_slow_response_does_not_delay_others():
    release = threading.Event()

    def handler(request: Request) -> Response:
        if request.path == "/slow":
            release.wait(60)
        return Response(b"done\n")

    with serving(handler) as server, connect(server) as slow, connect(server) as quick:
        slow.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        assert ask(quick, b"GET /quick HTTP/1.1\r\nHost: x\r\n\r\n") == (200, b"done\n")
        release.set()
        assert read_answer(slow)[1] == b"done\n"


def test_the_longest_idle_connection_is_closed_for_a_new_one():
    with serving(limits=Limits(3, 3, 0)) as server:
        clients = []
        for _ in range(3):
            client = connect(server)
            assert ask(client, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 200
            clients.append(client)
        with connect(server) as fourth:
            assert ask(fourth, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 200
            assert closed(clients[0])
            assert ask(clients[1], b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 200
        for client in clients:
            client.close()


def test_when_all_connections_are_busy_a_new_one_is_refused():
    release = threading.Event()
    entered = threading.Event()

    def handler(request: Request) -> Response:
        entered.set()
        release.wait(60)
        return Response(b"done\n")

    with serving(handler, limits=Limits(1, 1, 0)) as server, connect(server) as busy:
        busy.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert entered.wait(60)
        with connect(server) as late:
            assert read_answer(late)[0].startswith(b"HTTP/1.1 503")
        release.set()
        assert read_answer(busy)[1] == b"done\n"


def test_the_slowest_incomplete_request_makes_way():
    with (
        serving(limits=Limits(2, 2, 0), head_seconds=60.0) as server,
        connect(server) as first,
        connect(server) as second,
    ):
        for slow in (first, second):
            slow.sendall(b"GET / HTTP/1.1\r\n")
        wait_for_phases(server, Phase.RECEIVING, 2)
        with connect(server) as client:
            assert ask(client, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 200
            assert closed(first)
            assert ask(second, b"Host: x\r\n\r\n")[0] == 200


def test_when_all_connections_are_busy_only_probes_are_answered():
    release = threading.Event()

    def handler(request: Request) -> Response:
        if request.path == "/slow":
            release.wait(60)
        return Response(b"done\n")

    with serving(handler, limits=Limits(1, 1, 1)) as server, connect(server) as busy:
        busy.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for_phases(server, Phase.HANDLING, 1)
        with connect(server) as client:
            assert ask(client, b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n") == (200, b"done\n")
            assert ask(client, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 503
        release.set()
        assert read_answer(busy)[1] == b"done\n"


def wait_for_phases(server: Server, phase: Phase, count: int) -> None:
    deadline = time.monotonic() + 60
    while sum(seat.phase is phase for seat in list(server.connections)) != count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_threads_end_with_their_connections():
    before = threading.active_count()
    with serving() as server:
        for _ in range(10):
            with connect(server) as client:
                ask(client, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        with connect(server) as client:
            ask(client, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    for thread in threading.enumerate():
        if thread.name.startswith("http"):
            thread.join(10)
    assert threading.active_count() == before


def test_stop_waits_for_a_response_in_progress():
    entered = threading.Event()
    release = threading.Event()

    def handler(request: Request) -> Response:
        entered.set()
        release.wait(60)
        return Response(b"done\n")

    server = Server(["127.0.0.1:0"], handler)
    server.start()
    with connect(server) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert entered.wait(60)
        threading.Timer(0.05, release.set).start()
        server.stop(grace_seconds=10.0)
        assert read_answer(client)[1] == b"done\n"


# ------------------------------------------------------------------------------------------------------------ addresses


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (":10101", ("", 10101)),
        ("127.0.0.1:9", ("127.0.0.1", 9)),
        ("[::1]:10101", ("::1", 10101)),
        ("node.example:80", ("node.example", 80)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
    ],
)
def test_addresses(text: str, expected: tuple[str, int]):
    assert parse_address(text) == expected


@pytest.mark.parametrize("text", ["10101", "", "host:", "host:port", ":65536", "::1:10101", ":-1", ":\uff11\uff12"])
def test_an_invalid_address_is_an_error(text: str):
    with pytest.raises(ValueError, match="address to listen on"):
        parse_address(text)


def test_a_bare_port_listens_on_ipv4_and_ipv6():
    server = Server([":0"], echo)
    server.start()
    try:
        reached = []
        for host in ("127.0.0.1", "::1"):
            if host == "::1" and not socket.has_dualstack_ipv6():
                continue
            with socket.create_connection((host, server.ports[0]), timeout=10) as client:
                reached.append(ask(client, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")[0])
        assert set(reached) == {200}
    finally:
        server.stop()


def test_several_addresses_are_listened_on():
    server = Server(["127.0.0.1:0", "localhost:0"], echo)
    server.start()
    try:
        assert len(set(server.ports)) == 2
        for port in server.ports:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                assert ask(client, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 200
    finally:
        server.stop()


def test_a_port_in_use_is_an_error_and_no_listener_stays_open():
    with serving() as first:
        second = Server(["127.0.0.1:0", f"127.0.0.1:{first.ports[0]}"], echo)
        with pytest.raises(
            ListenError, match=rf"cannot listen on 127\.0\.0\.1:{first.ports[0]}: .*another process uses it"
        ):
            second.start()
        assert second.ports == ()


def test_an_address_of_another_host_is_an_error():
    server = Server(["192.0.2.1:0"], echo)
    with pytest.raises(ListenError, match="this host does not have this address"):
        server.start()
