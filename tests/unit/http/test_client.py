"""The connection to one server: kept, bounded in time and in bytes, and careful with secrets."""

from __future__ import annotations

import gzip
import socket
import time
import tracemalloc
from pathlib import Path

import pytest

from support.pageserver import Asked, PageServer, answer, pages
from tpw.http.client import USER_AGENT, Client, open_tcp
from tpw.http.messages import StatusError, status_error
from tpw.model import Reason, SourceError

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"


def failure_of(client: Client, target: str = "", **options: float) -> SourceError:
    with pytest.raises(SourceError) as caught:
        client.request(target, **options)  # type: ignore[arg-type]
    client.close()
    return caught.value


def test_one_connection_serves_many_requests() -> None:
    with PageServer(lambda asked: answer(asked.path)) as server:
        client = Client(f"{server.url}/base/?name=x")
        bodies = [client.request(target).body for target in ("", "/a", client.prefix + "/b?c=d e")]
        client.close()

        assert bodies == [b"/base/?name=x", b"/a", b"/base/b?c=d%20e"]
        assert (server.connections, client.connects) == (1, 1)


def test_what_is_sent_by_default_and_what_goes_before_it(tmp_path: Path) -> None:
    secrets = tmp_path / "headers"
    secrets.write_text("accept: text/csv\nX-Key: file\n")
    with PageServer(lambda asked: answer()) as server:
        for client, headers in (
            (Client(server.url), {}),
            (Client(server.url, headers_file=secrets), {"x-key": "call"}),
        ):
            client.request(headers=headers)
            client.close()
        plain, overridden = (asked.headers for asked in server.asked)
    assert plain == {
        "host": f"127.0.0.1:{server.port}",
        "accept": "*/*",
        "accept-encoding": "identity",
        "user-agent": USER_AGENT,
    }
    assert (overridden["accept"], overridden["x-key"]) == ("text/csv", "file")


def test_chunked_answers_keep_the_connection() -> None:
    with PageServer(lambda asked: CHUNKED) as server:
        client = Client(server.url)
        answers = [client.request(), client.request()]
        client.close()

        assert [(found.body, found.is_framed) for found in answers] == [(b"hello world", True)] * 2
        assert server.connections == 1


def test_an_answer_that_ends_with_its_connection_is_marked() -> None:
    with PageServer(lambda asked: b"HTTP/1.0 200 OK\r\nContent-Type: Text/Plain; a=b\r\n\r\nhello") as server:
        client = Client(server.url)
        found = client.request()
        client.request()
        client.close()

        assert (found.body, found.is_framed, found.content_type) == (b"hello", False, "text/plain")
        assert server.connections == 2


def test_a_connection_that_the_server_dropped_is_opened_again_once() -> None:
    dropped: list[int] = []

    def script(asked: Asked) -> bytes | None:
        if asked.path == "/second" and asked.connection == 1:
            dropped.append(asked.connection)
            return None
        return None if asked.path == "/third" else answer("fine")

    with PageServer(script) as server:
        client = Client(server.url)
        bodies = [client.request(target).body for target in ("/first", "/second")]
        failure = failure_of(client, "/third")

    assert (bodies, dropped) == ([b"fine", b"fine"], [1])
    assert failure.reason is Reason.UNREACHABLE
    assert server.paths() == ["/first", "/second", "/second", "/third", "/third"]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, Reason.UNAUTHORIZED),
        (403, Reason.UNAUTHORIZED),
        (404, Reason.ABSENT),
        (501, Reason.DISABLED),
        (503, Reason.LOADING),
        (500, Reason.BROKEN),
        (302, Reason.BROKEN),
    ],
)
def test_every_status_has_its_reason(status: int, reason: Reason) -> None:
    with PageServer(lambda asked: answer("no", status=status)) as server:
        client = Client(server.url)
        error = status_error(client.where("/x?key=s3cret"), client.request("/x?key=s3cret"))
        client.close()

    assert (error.reason, error.detail) == (reason, f"{server.url}/x: HTTP {status}: no")


def test_secrets_are_read_again_after_a_refusal(tmp_path: Path) -> None:
    secrets = tmp_path / "headers"
    secrets.write_text("X-Key: old\n")
    with PageServer(lambda asked: answer(status=200 if asked.headers["x-key"] == "new" else 403)) as server:
        client = Client(server.url, headers_file=secrets)
        first = client.request().status
        secrets.write_text("X-Key: new\n")
        rest = [client.request().status, client.request().status]
        client.close()

        assert (first, rest, server.connections) == (403, [200, 200], 2)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\n" + b"X-Long: " + b"x" * 1000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 100,
        b"x" * 1000,
    ],
)
def test_a_head_that_is_dripped_is_cut_off_at_the_deadline(data: bytes) -> None:
    with PageServer(lambda asked: data, drips_from=b"") as server:
        began = time.monotonic()
        failure = failure_of(Client(server.url, timeout_seconds=0.2))
        seconds = time.monotonic() - began
    assert failure.reason is Reason.TIMEOUT
    assert seconds < 10.0, "whole, it takes longer"


def test_every_read_is_given_only_what_is_left_of_the_deadline() -> None:
    """Each piece arrives in time; all of them do not."""
    seconds = iter(range(100))
    with PageServer(lambda asked: CHUNKED) as server:
        client = Client(server.url, timeout_seconds=4.5, clock=lambda: float(next(seconds)))
        failure = failure_of(client)
    assert (failure.reason, "within 4.5 s" in failure.detail) == (Reason.TIMEOUT, True)


def test_a_server_that_accepts_and_stays_silent_runs_into_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert failure_of(Client(url, timeout_seconds=0.05)).reason is Reason.TIMEOUT
        assert failure_of(Client(url), timeout_seconds=0.05).reason is Reason.TIMEOUT


def test_tls_that_is_never_negotiated_runs_into_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        assert failure_of(Client(url, timeout_seconds=0.2)).reason is Reason.TIMEOUT


@pytest.mark.parametrize(
    "data",
    [
        answer("x" * 5000),
        b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\nx",
        b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 5000,
        answer(gzip.compress(b"x" * 5000), headers={"Content-Encoding": "gzip"}),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n" + b"x" * 5000,
    ],
)
def test_a_body_over_the_limit_is_refused(data: bytes) -> None:
    with PageServer(lambda asked: data) as server:
        failure = failure_of(Client(server.url, max_bytes=4096))
    assert (failure.reason, "larger than 4 KiB" in failure.detail) == (Reason.MALFORMED, True)


def test_a_gzip_bomb_is_never_unpacked_whole() -> None:
    bomb = answer(gzip.compress(bytes(32 << 20)), headers={"Content-Encoding": "gzip"})
    with PageServer(lambda asked: bomb) as server:
        tracemalloc.start()
        try:
            failure = failure_of(Client(server.url, max_bytes=1 << 20))
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert failure.reason is Reason.MALFORMED
    assert peak_bytes < 4 << 20


def test_gzip_is_decompressed_though_it_is_not_requested() -> None:
    with PageServer(lambda asked: answer(gzip.compress(b"hello"), headers={"Content-Encoding": "GZIP"})) as server:
        client = Client(server.url)
        assert client.request().body == b"hello"
        client.close()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\nConnection: close\r\n", "not an HTTP answer"),
        (answer("x" * 100, headers={"Connection": "close"})[:-20], "cut off"),
        (answer(gzip.compress(b"hello")[:-4], headers={"Content-Encoding": "gzip"}), "cut off"),
        (answer(b"hello", headers={"Content-Encoding": "gzip"}), "damaged gzip"),
    ],
)
def test_what_is_not_a_complete_http_answer_is_malformed(data: bytes, words: str) -> None:
    with PageServer(lambda asked: data) as server:
        failure = failure_of(Client(server.url))
    assert (failure.reason, words in failure.detail) == (Reason.MALFORMED, True)


def test_nothing_that_listens_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    failure = failure_of(Client(f"http://127.0.0.1:{port}/a?key=s3cret"))
    assert (failure.reason, failure.detail) == (Reason.UNREACHABLE, f"http://127.0.0.1:{port}/a: connection refused")


def test_every_address_of_a_host_is_tried_within_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    with PageServer(lambda asked: answer("fine")) as server:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            refused = closed.getsockname()
        addresses = [refused, ("127.0.0.1", server.port)]
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        assert body_of(Client("http://two.example")) == b"fine"

        given: list[float] = []

        def left() -> float:
            given.append(1.0)
            if len(given) > 1:
                raise TimeoutError
            return given[-1]

        with pytest.raises(TimeoutError):
            open_tcp("two.example", 80, left)
    assert len(given) == 2


def body_of(client: Client) -> bytes:
    try:
        return client.request().body
    finally:
        client.close()


def test_another_socket_can_be_put_below_the_client() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(answer("by socket pair", headers={"Connection": "close"}))
        client = Client("http://anything.example", open_socket=lambda host, port, left: ours)
        assert body_of(client) == b"by socket pair"
        assert theirs.recv(65536).startswith(b"GET / HTTP/1.1\r\nHost: anything.example\r\n")


@pytest.mark.parametrize(
    "location", ["https://user:hunter2@sso.example/login?token=hunter2#hunter2", "//u:hunter2@[bad/login?x=hunter2"]
)
def test_the_message_of_a_refused_redirect_has_its_address_without_secrets(location: str) -> None:
    with PageServer(lambda asked: answer(status=307, headers={"Location": location})) as server:
        detail = failure_of(Client(f"{server.url}/metrics")).detail
    assert "/login" in detail
    assert "hunter2" not in detail


@pytest.mark.parametrize(
    ("origin", "location", "target"),
    [
        ("http://Tgi:80", "http://tgi/metrics/", "/metrics/"),
        ("http://tgi", "http://tgi:80/metrics/?a=b", "/metrics/?a=b"),
        ("http://[::1]:8000", "http://[::1]:8000/m", "/m"),
        ("http://tgi:8000", "/m", "/m"),
        ("http://tgi:8000", "/m\u00e9?a b=%20", "/m%C3%A9?a%20b=%20"),
        ("http://tgi:8000", "http://tgi/m", None),
        ("http://tgi", "https://tgi/m", None),
        ("http://tgi", "http://tgi.example/m", None),
        ("http://tgi", "http://tgi@evil.example/m", None),
        ("http://tgi", "//evil.example/m", None),
        ("http://tgi", "http://tgi:999999/m", None),
        ("http://tgi", "http://[bad/m", None),
        ("http://tgi", "file:///etc/passwd", None),
    ],
)
def test_a_redirect_stays_with_its_server_however_that_is_spelled(
    origin: str, location: str, target: str | None
) -> None:
    script = pages({"/metrics": answer(status=307, headers={"Location": location})})
    with PageServer(lambda asked: answer("there") if asked.path != "/metrics" else script(asked)) as server:
        client = Client(
            f"{origin}/metrics", open_socket=lambda host, port, left: open_tcp("127.0.0.1", server.port, left)
        )
        if target is None:
            assert failure_of(client).reason is Reason.BROKEN
            assert server.paths() == ["/metrics"]
        else:
            found = client.request()
            client.close()
            assert (found.body, found.target) == (b"there", target)
            assert server.paths() == ["/metrics", target]


def test_redirects_in_a_circle_end() -> None:
    with PageServer(lambda asked: answer(status=302, headers={"Location": "/a"})) as server:
        failure = failure_of(Client(server.url))
    assert (failure.reason, "circle" in failure.detail) == (Reason.BROKEN, True)
    assert server.paths() == ["/", "/a", "/a", "/a"]


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
def test_a_header_from_elsewhere_cannot_add_a_line(end: str) -> None:
    with PageServer(lambda asked: answer()) as server:
        client = Client(server.url)
        with pytest.raises(SourceError, match="line break") as caught:
            client.request(headers={"X-Auth-Token": f"a{end}X-Evil: b"})
        client.close()
        assert (caught.value.reason, server.asked) == (Reason.MALFORMED, [])


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://a.example", "http://", "http://a:b", "http://a:99999"])
def test_what_is_not_an_address_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match=r"not an http or https address|[Pp]ort"):
        Client(url)


def test_the_lines_of_an_answer_that_goes_on_come_one_by_one_until_the_server_ends_it(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("abc\n")
    body = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\none\ntw\r\n2\r\no\n\r\n0\r\n\r\n"
    with PageServer(lambda asked: body) as server:
        client = Client(server.url, headers_file=token)
        lines = list(client.lines("/watch?a=b", timeout_seconds=5.0, headers={"Accept": "application/json"}))

        assert lines == [b"one\n", b"two\n"]
        [asked] = server.asked
        assert (asked.path, asked.headers["authorization"]) == ("/watch?a=b", "Bearer abc")


def test_lines_end_with_the_status_the_limit_or_the_deadline() -> None:
    endless = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n"

    def failure(script: bytes, **options: int) -> SourceError:
        with PageServer(lambda asked: script) as server, pytest.raises(SourceError) as caught:
            list(Client(server.url, **options).lines("/", timeout_seconds=0.2))  # type: ignore[arg-type]
        return caught.value

    refused = failure(answer("no", status=410))
    assert isinstance(refused, StatusError)
    assert refused.status == 410
    assert failure(CHUNKED, max_bytes=8).reason is Reason.MALFORMED
    assert failure(endless).reason is Reason.TIMEOUT
