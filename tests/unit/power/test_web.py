from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.pageserver import PageServer, answer
from tpw.model import Reason, SourceError
from tpw.power import web
from tpw.power.web import Site, read_credentials, read_headers

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"


def test_one_connection_serves_many_requests() -> None:
    with PageServer(lambda asked: answer(asked.path)) as server:
        site = Site(f"{server.url}/base")
        bodies = [site.get(path).body for path in ("/a", "/b", "/c")]
        site.close()

        assert bodies == [b"/base/a", b"/base/b", b"/base/c"]
        assert server.connections == 1


def test_a_page_with_a_query_is_asked_for_as_it_stands() -> None:
    with PageServer(lambda asked: answer(asked.path)) as server:
        site = Site(f"{server.url}/metrics?name=x")
        body = site.get().body
        site.close()

    assert body == b"/metrics?name=x"


def test_chunked_answers_keep_the_connection() -> None:
    with PageServer(lambda asked: CHUNKED) as server:
        site = Site(server.url)
        bodies = [site.get("/").body, site.get("/").body]
        site.close()

        assert bodies == [b"hello world", b"hello world"]
        assert server.connections == 1


def test_a_connection_that_the_server_dropped_is_opened_again() -> None:
    dropped: list[int] = []

    def script(asked: Any) -> bytes | None:
        if asked.connection == 1 and asked.path == "/second":
            dropped.append(1)
            return None
        return answer("fine")

    with PageServer(script) as server:
        site = Site(server.url)
        bodies = [site.get("/first").body, site.get("/second").body]
        site.close()

    assert (bodies, dropped) == ([b"fine", b"fine"], [1])


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, Reason.UNAUTHORIZED),
        (403, Reason.UNAUTHORIZED),
        (404, Reason.ABSENT),
        (501, Reason.DISABLED),
        (503, Reason.LOADING),
        (500, Reason.BROKEN),
    ],
)
def test_a_refusal_has_its_reason(status: int, reason: Reason) -> None:
    with PageServer(lambda asked: answer("no", status=status)) as server:
        site = Site(server.url)
        with pytest.raises(SourceError) as caught:
            site.get("/x")
        site.close()

    assert caught.value.reason is reason
    assert caught.value.detail.endswith(f"/x: HTTP {status}")


def test_a_server_that_says_nothing_runs_into_the_timeout() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        site = Site(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_seconds=0.05)
        with pytest.raises(SourceError) as caught:
            site.get("/")
        site.close()

    assert caught.value.reason is Reason.TIMEOUT


def test_an_answer_that_trickles_in_is_not_waited_for_beyond_the_timeout() -> None:
    """Each piece comes in time; all of them do not."""
    seconds = iter(range(100))
    with PageServer(lambda asked: CHUNKED) as server:
        site = Site(server.url, timeout_seconds=1.5, clock=lambda: float(next(seconds)))
        with pytest.raises(SourceError) as caught:
            site.get("/")
        site.close()

    assert caught.value.reason is Reason.TIMEOUT


def test_an_endless_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MOST_BYTES", 1000)
    with PageServer(lambda asked: answer("x" * 5000)) as server:
        site = Site(server.url)
        with pytest.raises(SourceError) as caught:
            site.get("/")
        site.close()

    assert caught.value.reason is Reason.MALFORMED


def test_what_is_not_http_is_malformed() -> None:
    with PageServer(lambda asked: b"SSH-2.0-OpenSSH_9.2\r\n\r\nConnection: close\r\n") as server:
        site = Site(server.url)
        with pytest.raises(SourceError) as caught:
            site.get("/")
        site.close()

    assert caught.value.reason is Reason.MALFORMED


def test_headers_of_a_file_go_with_every_request(tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text("X-Scope-OrgID: team-a\nAuthorization: Bearer t0ken\n")
    with PageServer(lambda asked: answer("ok")) as server:
        site = Site(server.url, headers_file=str(file))
        site.get("/")
        site.close()
        (asked,) = server.asked

    headers = {name.lower(): value for name, value in asked.headers.items()}
    assert (headers["x-scope-orgid"], headers["authorization"]) == ("team-a", "Bearer t0ken")


def test_secrets_by_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("t0ken\n")
    assert read_headers(str(file)) == {"Authorization": "Bearer t0ken"}
    file.write_text("user:pass:word\n")
    assert read_credentials(str(file)) == ("user", "pass:word")
    file.write_text("nothing")
    with pytest.raises(SourceError, match="not of the form user:password") as caught:
        read_credentials(str(file))
    assert "nothing" not in caught.value.detail
