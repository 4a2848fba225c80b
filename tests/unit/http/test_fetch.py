"""One request to any address, as price feeds send it, and what the status of its answer means."""

from __future__ import annotations

import socket

import pytest

from support.pageserver import Asked, PageServer, answer
from tpw.http.client import USER_AGENT
from tpw.http.fetch import body_of, fetch
from tpw.http.messages import Answer, Request
from tpw.model import Reason, SourceError

SECRETS = {"Authorization": "Bearer s3cret", "auth-token": "s3cret"}


def failure_of(request: Request, **options: float) -> SourceError:
    with pytest.raises(SourceError) as caught:
        body_of(request, fetch(request, **options))  # type: ignore[arg-type]
    return caught.value


def test_the_headers_of_a_request_are_sent() -> None:
    with PageServer(lambda asked: answer("fine")) as server:
        request = Request(f"{server.url}/a?b=c", {"X-Key": "1"})

        assert body_of(request, fetch(request)) == b"fine"
        [asked] = server.asked
    assert (asked.path, asked.headers["x-key"], asked.headers["user-agent"]) == ("/a?b=c", "1", USER_AGENT)


def test_a_request_with_a_body_is_a_post() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        with pytest.raises(SourceError):
            fetch(Request(f"http://127.0.0.1:{listener.getsockname()[1]}/a", {}, b'{"a": 1}'), timeout_seconds=0.2)
        connection, _ = listener.accept()
        with connection:
            received = connection.recv(65536)
    assert received.startswith(b"POST /a HTTP/1.1\r\n")
    assert b"\r\nContent-Length: 8\r\n" in received
    assert received.endswith(b'\r\n\r\n{"a": 1}')


def test_secrets_go_to_their_own_server_and_to_no_other() -> None:
    with PageServer(lambda asked: answer("elsewhere")) as other:

        def script(asked: Asked) -> bytes:
            if asked.path == "/there":
                return answer("here")
            return answer(status=302, headers={"Location": "/there" if asked.path == "/a" else f"{other.url}/x"})

        with PageServer(script) as server:
            assert fetch(Request(f"{server.url}/a", SECRETS)).body == b"here"
            assert fetch(Request(f"{server.url}/b", SECRETS)).body == b"elsewhere"
    assert [asked.headers["auth-token"] for asked in server.asked] == ["s3cret"] * 3
    assert other.asked[0].headers.keys() & {"authorization", "auth-token"} == set()
    assert other.asked[0].headers["user-agent"] == USER_AGENT


def test_redirects_between_two_servers_end() -> None:
    urls: list[str] = []

    def script(asked: Asked) -> bytes:
        index = int(asked.path[1:])
        return answer(status=302, headers={"Location": f"{urls[(index + 1) % 2]}/{index + 1}"})

    with PageServer(script) as one, PageServer(script) as two:
        urls += [one.url, two.url]
        failure = failure_of(Request(f"{one.url}/0"))
    assert (one.paths(), two.paths()) == (["/0", "/2"], ["/1", "/3"])
    assert failure.reason is Reason.BROKEN


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (204, Reason.NOT_YET),
        (401, Reason.UNAUTHORIZED),
        (403, Reason.UNAUTHORIZED),
        (404, Reason.ABSENT),
        (410, Reason.ABSENT),
        (400, Reason.MALFORMED),
        (304, Reason.MALFORMED),
        (429, Reason.BROKEN),
        (500, Reason.BROKEN),
        (501, Reason.BROKEN),
        (503, Reason.BROKEN),
    ],
)
def test_every_status_has_its_reason(status: int, reason: Reason) -> None:
    with PageServer(lambda asked: answer(status=status)) as server:
        failure = failure_of(Request(f"{server.url}/a?securityToken=s3cret"))
    assert (failure.reason, failure.detail) == (reason, f"{server.url}/a: HTTP {status}")


def test_an_error_page_is_quoted_on_one_line() -> None:
    with PageServer(lambda asked: answer("no\n\n such\x1b[2J area" + "x" * 1000, status=400)) as server:
        failure = failure_of(Request(server.url))
    assert failure.detail.startswith(f"{server.url}: HTTP 400: no such?[2J area")
    assert len(failure.detail) < 250


@pytest.mark.parametrize("url", ["file:///etc/passwd", "http://127.0.0.1:99999/", "ftp://a.example/x?key=s3cret"])
def test_an_address_that_cannot_be_requested_is_unreachable(url: str) -> None:
    failure = failure_of(Request(url))
    assert failure.reason is Reason.UNREACHABLE
    assert "s3cret" not in failure.detail


class TestProxy:
    """The proxies of the environment are used, as most tools use them."""

    @pytest.fixture(autouse=True)
    def _no_other_proxies(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)

    def test_a_request_goes_to_the_proxy_with_its_full_address(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with PageServer(lambda asked: answer("by proxy")) as proxy:
            monkeypatch.setenv("http_proxy", f"http://user:p%40ss@127.0.0.1:{proxy.port}")
            found = fetch(Request("http://prices.example/a?b=c", {"X-Key": "1"}))
        [asked] = proxy.asked
        assert (found.body, asked.path) == (b"by proxy", "http://prices.example/a?b=c")
        assert (asked.headers["host"], asked.headers["x-key"]) == ("prices.example", "1")
        assert asked.headers["proxy-authorization"] == "Basic dXNlcjpwQHNz"

    def test_hosts_of_no_proxy_are_connected_to_directly(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with PageServer(lambda asked: answer("directly")) as server:
            assert fetch(Request(server.url)).body == b"directly"

    def test_https_goes_through_a_tunnel(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The proxy of this test refuses to open it: what matters is that neither headers nor path reach the proxy."""
        with PageServer(lambda asked: answer(status=407)) as proxy:
            monkeypatch.setenv("https_proxy", f"127.0.0.1:{proxy.port}")
            failure = failure_of(Request("https://prices.example/secret-path", SECRETS))
        [asked] = proxy.asked
        assert (asked.path, "auth-token" in asked.headers) == ("prices.example:443", False)
        assert (failure.reason, "HTTP 407" in failure.detail) == (Reason.UNREACHABLE, True)


NOON = "Mon, 15 Jun 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "120"}, 120.0),
        ({"retry-after": "Mon, 15 Jun 2026 12:05:00 GMT", "date": NOON}, 300.0),
        ({"retry-after": "Mon, 15 Jun 2026 11:05:00 GMT", "date": NOON}, 0.0),
        ({"retry-after": "Mon, 15 Jun 2026 12:05:00 GMT"}, 0.0),
        ({"retry-after": "9" * 400}, 86400.0),
        ({"retry-after": "soon"}, 0.0),
        ({"retry-after": "-5"}, 0.0),
        ({}, 0.0),
    ],
)
def test_the_wait_that_a_service_asks_for_is_known(headers: dict[str, str], seconds: float) -> None:
    with pytest.raises(SourceError) as caught:
        body_of(Request("https://a.example/"), Answer(429, b"", headers))
    assert caught.value.retry_after_seconds == seconds
