"""Secrets, slow servers, redirects and oversized answers have the same outcome at every source that uses HTTP.

Every source is built by its own constructor and reads a server on loopback. Services with a fixed address are pointed at
that server.
"""

from __future__ import annotations

import gzip
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.certificates import certify, server_context
from support.pageserver import Asked, PageServer, answer
from tpw.carbon import electricity_maps, uk, watttime
from tpw.cli import top
from tpw.http.fetch import fetch
from tpw.model import Reason, SourceError
from tpw.power.dcgm import DcgmMeter
from tpw.power.external import ExternalMeter
from tpw.power.pue import PueQuery
from tpw.power.redfish import RedfishMeter
from tpw.tariff import entsoe, octopus, urdb
from tpw.tariff.intervals import FromAddress
from tpw.tariff.layout import Layout
from tpw.tariff.prometheus import FromPrometheus
from tpw.tokens.scrape import ScrapeSource

TIMEOUT_SECONDS = 0.3
COMMENT = "# rotated 2026-11-01: by ops\n\n"
feed = partial(fetch, timeout_seconds=TIMEOUT_SECONDS)

Read = Callable[[], Any]
Build = Callable[[str, str, pytest.MonkeyPatch], Read]
"""(address, file of secrets or "", monkeypatch) -> one read of the source."""


@dataclass(frozen=True)
class Source:
    """One kind of source.

    Args:
        build: makes one.
        secret: what its file of secrets holds; "" where it has none.
        follows_elsewhere: whether redirects to another server are followed, without secrets.
    """

    build: Build
    secret: str = ""
    follows_elsewhere: bool = False


def fixed(module: Any, build: Callable[[str], Any], path: str = "") -> Build:
    """A feed of a service with a fixed address, which is replaced."""

    def made(url: str, secret: str, monkeypatch: pytest.MonkeyPatch) -> Read:
        monkeypatch.setattr(module, "API" if hasattr(module, "API") else "BASE", url + path)
        found = build(secret)
        return found if callable(found) else lambda: found.read(0.0, 3600.0)

    return made


def token_server(url: str, secret: str, monkeypatch: pytest.MonkeyPatch) -> Read:
    return ScrapeSource("chat", url, timeout_seconds=TIMEOUT_SECONDS, headers_file=secret or None).read


def dcgm(url: str, secret: str, monkeypatch: pytest.MonkeyPatch) -> Read:
    return DcgmMeter(url=f"{url}/metrics", timeout_seconds=TIMEOUT_SECONDS, headers_file=secret).sweep


def redfish(url: str, secret: str, monkeypatch: pytest.MonkeyPatch) -> Read:
    return RedfishMeter(url=url, timeout_seconds=TIMEOUT_SECONDS, credentials_file=secret).open


def external(url: str, secret: str, monkeypatch: pytest.MonkeyPatch) -> Read:
    return ExternalMeter(url=url, power_query="p", timeout_seconds=TIMEOUT_SECONDS, headers_file=secret).sweep


def pue(url: str, secret: str, monkeypatch: pytest.MonkeyPatch) -> Read:
    return PueQuery(url, "p", timeout_seconds=TIMEOUT_SECONDS, headers_file=secret).read


def prometheus(url: str, secret: str, monkeypatch: pytest.MonkeyPatch) -> Read:
    return lambda: FromPrometheus(url, "p", feed, headers_file=secret or None).read(0.0, 3600.0)


def intervals(url: str, secret: str, monkeypatch: pytest.MonkeyPatch) -> Read:
    layout = Layout(price="p", time="t", end="e")
    return lambda: FromAddress(f"{url}/prices", layout, feed, headers_file=secret or None).read(0.0, 3600.0)


def intervals_with_token(url: str, secret: str, monkeypatch: pytest.MonkeyPatch) -> Read:
    layout = Layout(price="p", time="t", end="e")
    return lambda: FromAddress(f"{url}/prices", layout, feed, token_file=secret or None).read(0.0, 3600.0)


def top_command(url: str, secret: str, monkeypatch: pytest.MonkeyPatch) -> Read:
    monkeypatch.setattr(top, "_TIMEOUT_SECONDS", TIMEOUT_SECONDS)

    def read() -> Any:
        try:
            return top.fetcher(url, headers_file=secret or None)()
        except top.NoAnswerError as error:
            raise (error.__cause__ or error) from None

    return read


HEADERS = "Authorization: Bearer s3cret\nX-Scope-OrgID: team-a\n"
OCTOPUS = "E-1R-AGILE-24-10-01-C"

SOURCES = {
    "token server": Source(token_server, HEADERS),
    "dcgm": Source(dcgm, HEADERS),
    "redfish": Source(redfish, "admin:s3cret\n"),
    "external": Source(external, HEADERS),
    "pue": Source(pue, HEADERS),
    "top": Source(top_command, HEADERS),
    "prometheus tariff": Source(prometheus, HEADERS, follows_elsewhere=True),
    "intervals": Source(intervals, HEADERS, follows_elsewhere=True),
    "intervals with a token": Source(intervals_with_token, "s3cret\n", follows_elsewhere=True),
    "octopus": Source(fixed(octopus, lambda secret: octopus.Octopus(OCTOPUS, feed)), follows_elsewhere=True),
    "entsoe": Source(
        fixed(entsoe, lambda secret: entsoe.Entsoe("FR", secret, "EUR", feed), "/api"),
        "s3cret\n",
        follows_elsewhere=True,
    ),
    "openei": Source(
        fixed(urdb, lambda secret: urdb.from_api("x", secret, feed), "/rates"),
        "s3cret\n",
        follows_elsewhere=True,
    ),
    "carbon uk": Source(fixed(uk, lambda secret: uk.Uk(feed)), follows_elsewhere=True),
    "electricity maps": Source(
        fixed(electricity_maps, lambda secret: electricity_maps.ElectricityMaps("FR", secret, feed)),
        "s3cret\n",
        follows_elsewhere=True,
    ),
    "watttime": Source(
        fixed(watttime, lambda secret: watttime.WattTime("X", secret, feed, time.time)),
        "user:s3cret\n",
        follows_elsewhere=True,
    ),
}
SECRETS = ("s3cret", "YWRtaW46czNjcmV0", "dXNlcjpzM2NyZXQ=")
"""As it is, and within the basic authentication of redfish and of WattTime."""

EACH = pytest.mark.parametrize("source", [pytest.param(source, id=name) for name, source in SOURCES.items()])
WITH_SECRETS = pytest.mark.parametrize(
    "source", [pytest.param(source, id=name) for name, source in SOURCES.items() if source.secret]
)
WITH_HEADERS = pytest.mark.parametrize(
    "source", [pytest.param(source, id=name) for name, source in SOURCES.items() if source.secret == HEADERS]
)


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    certify(folder, "server", "IP:127.0.0.1")
    return folder


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    return tmp_path / "secret"


def failure_of(read: Read) -> SourceError:
    with pytest.raises(SourceError) as caught:
        read()
    owner = getattr(read, "__self__", None)
    if owner is not None:
        owner.close()
    return caught.value


def text_of(asked: Asked) -> str:
    return "\n".join([asked.path, *(f"{name}: {value}" for name, value in asked.headers.items())])


def no_sessions(asked: Asked) -> bytes | None:
    """What makes redfish send its credentials with each request: a controller without sessions."""
    return answer(status=404) if "SessionService" in asked.path else None


@WITH_SECRETS
def test_comments_in_a_file_of_secrets_are_never_sent(
    source: Source, secret_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret_file.write_text(COMMENT + source.secret)
    with PageServer(lambda asked: no_sessions(asked) or answer(status=418)) as server:
        failure_of(source.build(server.url, str(secret_file), monkeypatch))
    last = text_of(server.asked[-1])
    assert any(secret in last for secret in SECRETS)
    assert "rotated" not in "".join(text_of(asked) for asked in server.asked)
    assert source.secret != HEADERS or server.asked[-1].headers["x-scope-orgid"] == "team-a"


@WITH_HEADERS
def test_a_bare_token_in_a_headers_file_is_sent_as_a_bearer_token(
    source: Source, secret_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret_file.write_text(f"{COMMENT}s3cret\n")
    with PageServer(lambda asked: answer(status=418)) as server:
        failure_of(source.build(server.url, str(secret_file), monkeypatch))
    assert {asked.headers["authorization"] for asked in server.asked} == {"Bearer s3cret"}


@WITH_SECRETS
@pytest.mark.parametrize("text", ["s3cret s3cret\ns3cret s3cret\n", None])
def test_a_file_of_secrets_that_cannot_be_used_is_named_and_never_quoted(
    source: Source, text: str | None, secret_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        secret_file.write_text(text)
    with PageServer(lambda asked: answer()) as server:
        failure = failure_of(source.build(server.url, str(secret_file), monkeypatch))
    assert (failure.reason, server.asked) == (Reason.PERMISSION, [])
    assert str(secret_file) in failure.detail
    assert "s3cret" not in failure.detail + failure.hint


@EACH
@pytest.mark.parametrize("drips_from", [b"", b"\r\n\r\n"], ids=["head", "body"])
def test_an_answer_that_is_dripped_is_cut_off_at_the_deadline(
    source: Source, drips_from: bytes, secret_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret_file.write_text(source.secret)
    with PageServer(lambda asked: answer("x" * 1000), drips_from=drips_from) as server:
        began = time.monotonic()
        failure = failure_of(source.build(server.url, str(secret_file) if source.secret else "", monkeypatch))
        seconds = time.monotonic() - began
    assert failure.reason is Reason.TIMEOUT
    assert seconds < 3 * TIMEOUT_SECONDS


@EACH
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\nx", "larger than"),
        (answer(gzip.compress(bytes(20 << 20)), headers={"Content-Encoding": "gzip"}), "larger than"),
        (answer("x" * 100, headers={"Connection": "close"})[:-20], "cut off"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not an HTTP answer"),
    ],
    ids=["oversize", "gzip bomb", "cut off", "not HTTP"],
)
def test_an_answer_that_is_oversized_or_incomplete_is_malformed(
    source: Source, data: bytes, words: str, secret_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret_file.write_text(source.secret)
    with PageServer(lambda asked: data) as server:
        failure = failure_of(source.build(server.url, str(secret_file) if source.secret else "", monkeypatch))
    assert (failure.reason, words in failure.detail) == (Reason.MALFORMED, True)


@EACH
def test_a_server_that_is_not_listening_is_unreachable(
    source: Source, secret_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret_file.write_text(source.secret)
    with PageServer(lambda asked: None) as server:
        url = server.url
    failure = failure_of(source.build(url, str(secret_file) if source.secret else "", monkeypatch))
    assert (failure.reason, "connection refused" in failure.detail) == (Reason.UNREACHABLE, True)


@EACH
def test_a_redirect_within_the_server_is_followed_with_secrets(
    source: Source, secret_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret_file.write_text(source.secret)

    def script(asked: Asked) -> bytes:
        moved = answer(status=307, headers={"Location": f"/moved?{asked.path.partition('?')[2]}"})
        return no_sessions(asked) or (answer(status=418) if asked.path.startswith("/moved") else moved)

    with PageServer(script) as server:
        failure_of(source.build(server.url, str(secret_file) if source.secret else "", monkeypatch))
    moved = [asked for asked in server.asked if asked.path.startswith("/moved")]
    assert moved
    assert not source.secret or any(secret in text_of(moved[0]) for secret in SECRETS)


@EACH
def test_a_redirect_to_another_server_never_carries_secrets(
    source: Source, secret_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret_file.write_text(source.secret)
    with PageServer(lambda asked: answer(status=418)) as other:
        moved = answer(status=302, headers={"Location": f"{other.url}/other"})
        with PageServer(lambda asked: no_sessions(asked) or moved) as server:
            failure = failure_of(source.build(server.url, str(secret_file) if source.secret else "", monkeypatch))
    assert bool(other.asked) == source.follows_elsewhere
    assert not any(secret in text_of(asked) for asked in other.asked for secret in SECRETS)
    if not source.follows_elsewhere:
        assert (failure.reason, f"{other.url}/other" in failure.detail) == (Reason.BROKEN, True)


@EACH
def test_a_redirect_from_https_to_http_is_never_followed(
    source: Source, secret_file: Path, pki: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret_file.write_text(source.secret)
    monkeypatch.setenv("SSL_CERT_FILE", str(pki / "server.pem"))
    context: ssl.SSLContext = server_context(pki, "server")
    with PageServer(lambda asked: answer(status=418)) as plain:
        moved = answer(status=301, headers={"Location": f"{plain.url}/plain"})
        with PageServer(lambda asked: no_sessions(asked) or moved, tls=context) as server:
            failure = failure_of(source.build(server.url, str(secret_file) if source.secret else "", monkeypatch))
    assert (failure.reason, server.asked != [], plain.asked) == (Reason.BROKEN, True, [])
