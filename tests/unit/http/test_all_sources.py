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
from tpw.http.messages import Fetch
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

COMMENT = "# rotated 2026-11-01: by ops\n\n"

Read = Callable[[], Any]
"""One read of a source. Raises SourceError."""


@dataclass(frozen=True)
class Place:
    """Where a source reads, and with what."""

    url: str
    secret: str
    """Path of the file of secrets; "" for none."""
    monkeypatch: pytest.MonkeyPatch
    timeout_seconds: float = 10.0

    @property
    def fetch(self) -> Fetch:
        """What a feed fetches with."""
        return partial(fetch, timeout_seconds=self.timeout_seconds)


Build = Callable[[Place], Read]


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


def fixed(module: Any, build: Callable[[str, Fetch], Any], path: str = "") -> Build:
    """A feed of a service with a fixed address, which is replaced."""

    def build_there(place: Place) -> Read:
        place.monkeypatch.setattr(module, "API" if hasattr(module, "API") else "BASE", place.url + path)
        found = build(place.secret, place.fetch)
        return found if callable(found) else lambda: found.read(0.0, 3600.0)

    return build_there


def token_server(place: Place) -> Read:
    return ScrapeSource(
        "chat", place.url, timeout_seconds=place.timeout_seconds, headers_file=place.secret or None
    ).read


def dcgm(place: Place) -> Read:
    return DcgmMeter(url=f"{place.url}/metrics", timeout_seconds=place.timeout_seconds, headers_file=place.secret).sweep


def redfish(place: Place) -> Read:
    return RedfishMeter(url=place.url, timeout_seconds=place.timeout_seconds, credentials_file=place.secret).open


def external(place: Place) -> Read:
    return ExternalMeter(
        url=place.url, power_query="p", timeout_seconds=place.timeout_seconds, headers_file=place.secret
    ).sweep


def pue(place: Place) -> Read:
    return PueQuery(place.url, "p", timeout_seconds=place.timeout_seconds, headers_file=place.secret).read


def prometheus(place: Place) -> Read:
    return lambda: FromPrometheus(place.url, "p", place.fetch, headers_file=place.secret or None).read(0.0, 3600.0)


def intervals(place: Place) -> Read:
    layout = Layout(price="p", time="t", end="e")
    return lambda: FromAddress(f"{place.url}/prices", layout, place.fetch, headers_file=place.secret or None).read(
        0.0, 3600.0
    )


def intervals_with_token(place: Place) -> Read:
    layout = Layout(price="p", time="t", end="e")
    return lambda: FromAddress(f"{place.url}/prices", layout, place.fetch, token_file=place.secret or None).read(
        0.0, 3600.0
    )


def top_command(place: Place) -> Read:
    place.monkeypatch.setattr(top, "_TIMEOUT_SECONDS", place.timeout_seconds)

    def read() -> Any:
        try:
            return top.fetcher(place.url, headers_file=place.secret or None)()
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
    "octopus": Source(fixed(octopus, lambda secret, fetch: octopus.Octopus(OCTOPUS, fetch)), follows_elsewhere=True),
    "entsoe": Source(
        fixed(entsoe, lambda secret, fetch: entsoe.Entsoe("FR", secret, "EUR", fetch), "/api"),
        "s3cret\n",
        follows_elsewhere=True,
    ),
    "openei": Source(
        fixed(urdb, lambda secret, fetch: urdb.from_api("x", secret, fetch), "/rates"),
        "s3cret\n",
        follows_elsewhere=True,
    ),
    "carbon uk": Source(fixed(uk, lambda secret, fetch: uk.Uk(fetch)), follows_elsewhere=True),
    "electricity maps": Source(
        fixed(electricity_maps, lambda secret, fetch: electricity_maps.ElectricityMaps("FR", secret, fetch)),
        "s3cret\n",
        follows_elsewhere=True,
    ),
    "watttime": Source(
        fixed(watttime, lambda secret, fetch: watttime.WattTime("X", secret, fetch, time.time)),
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


Failure = Callable[..., SourceError]


@pytest.fixture
def failure_of(source: Source, secret_file: Path, monkeypatch: pytest.MonkeyPatch) -> Failure:
    """Reads the source at an address, with a file of secrets where it has one, and returns how it fails."""

    def read(url: str, timeout_seconds: float = 10.0) -> SourceError:
        found = source.build(Place(url, str(secret_file) if source.secret else "", monkeypatch, timeout_seconds))
        with pytest.raises(SourceError) as caught:
            found()
        if (owner := getattr(found, "__self__", None)) is not None:
            owner.close()
        return caught.value

    secret_file.write_text(source.secret)
    return read


def text_of(asked: Asked) -> str:
    return "\n".join([asked.path, *(f"{name}: {value}" for name, value in asked.headers.items())])


def no_sessions(asked: Asked) -> bytes | None:
    """What makes redfish send its credentials with each request: a controller without sessions."""
    return answer(status=404) if "SessionService" in asked.path else None


@WITH_SECRETS
def test_comments_in_a_file_of_secrets_are_never_sent(source: Source, secret_file: Path, failure_of: Failure) -> None:
    secret_file.write_text(COMMENT + source.secret)
    with PageServer(lambda asked: no_sessions(asked) or answer(status=418)) as server:
        failure_of(server.url)
    last = text_of(server.asked[-1])
    assert any(secret in last for secret in SECRETS)
    assert "rotated" not in "".join(text_of(asked) for asked in server.asked)
    assert source.secret != HEADERS or server.asked[-1].headers["x-scope-orgid"] == "team-a"


@WITH_HEADERS
def test_a_bare_token_in_a_headers_file_is_sent_as_a_bearer_token(
    source: Source, secret_file: Path, failure_of: Failure
) -> None:
    secret_file.write_text(f"{COMMENT}s3cret\n")
    with PageServer(lambda asked: answer(status=418)) as server:
        failure_of(server.url)
    assert {asked.headers["authorization"] for asked in server.asked} == {"Bearer s3cret"}


@WITH_SECRETS
@pytest.mark.parametrize("text", ["s3cret s3cret\ns3cret s3cret\n", None])
def test_a_file_of_secrets_that_cannot_be_used_is_named_and_never_quoted(
    source: Source, text: str | None, secret_file: Path, failure_of: Failure
) -> None:
    secret_file.unlink()
    if text is not None:
        secret_file.write_text(text)
    with PageServer(lambda asked: answer()) as server:
        failure = failure_of(server.url)
    assert (failure.reason, server.asked) == (Reason.PERMISSION, [])
    assert str(secret_file) in failure.detail
    assert "s3cret" not in failure.detail + failure.hint


@EACH
@pytest.mark.parametrize("drips_from", [b"", b"\r\n\r\n"], ids=["head", "body"])
def test_an_answer_that_is_dripped_is_cut_off_at_the_deadline(
    source: Source, drips_from: bytes, failure_of: Failure
) -> None:
    with PageServer(lambda asked: answer("x" * 1000), drips_from=drips_from) as server:
        began = time.monotonic()
        failure = failure_of(server.url, timeout_seconds=0.1)
        seconds = time.monotonic() - began
    assert failure.reason is Reason.TIMEOUT
    assert seconds < 10.0, "whole, it takes 20 s"


@EACH
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\nx", "larger than"),
        (answer(gzip.compress(bytes(17 << 20)), headers={"Content-Encoding": "gzip"}), "larger than"),
        (answer("x" * 100, headers={"Connection": "close"})[:-20], "cut off"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not an HTTP answer"),
    ],
    ids=["oversize", "gzip bomb", "cut off", "not HTTP"],
)
def test_an_answer_that_is_oversized_or_incomplete_is_malformed(
    source: Source, data: bytes, words: str, failure_of: Failure
) -> None:
    with PageServer(lambda asked: data) as server:
        failure = failure_of(server.url)
    assert (failure.reason, words in failure.detail) == (Reason.MALFORMED, True)


@EACH
def test_a_server_that_is_not_listening_is_unreachable(source: Source, failure_of: Failure) -> None:
    with PageServer(lambda asked: None) as server:
        url = server.url
    failure = failure_of(url)
    assert (failure.reason, "connection refused" in failure.detail) == (Reason.UNREACHABLE, True)


@EACH
def test_a_redirect_within_the_server_is_followed_with_secrets(
    source: Source, secret_file: Path, failure_of: Failure
) -> None:
    secret_file.write_text(source.secret)

    def script(asked: Asked) -> bytes:
        moved = answer(status=307, headers={"Location": f"/moved?{asked.path.partition('?')[2]}"})
        return no_sessions(asked) or (answer(status=418) if asked.path.startswith("/moved") else moved)

    with PageServer(script) as server:
        failure_of(server.url)
    moved = [asked for asked in server.asked if asked.path.startswith("/moved")]
    assert moved
    assert not source.secret or any(secret in text_of(moved[0]) for secret in SECRETS)


@EACH
def test_a_redirect_to_another_server_never_carries_secrets(source: Source, failure_of: Failure) -> None:
    with PageServer(lambda asked: answer(status=418)) as other:
        moved = answer(status=302, headers={"Location": f"{other.url}/other"})
        with PageServer(lambda asked: no_sessions(asked) or moved) as server:
            failure = failure_of(server.url)
    assert bool(other.asked) == source.follows_elsewhere
    assert not any(secret in text_of(asked) for asked in other.asked for secret in SECRETS)
    if not source.follows_elsewhere:
        assert (failure.reason, f"{other.url}/other" in failure.detail) == (Reason.BROKEN, True)


@EACH
def test_a_redirect_from_https_to_http_is_never_followed(
    source: Source, pki: Path, failure_of: Failure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(pki / "server.pem"))
    context: ssl.SSLContext = server_context(pki, "server")
    with PageServer(lambda asked: answer(status=418)) as plain:
        moved = answer(status=301, headers={"Location": f"{plain.url}/plain"})
        with PageServer(lambda asked: no_sessions(asked) or moved, tls=context) as server:
            failure = failure_of(server.url)
    assert (failure.reason, server.asked != [], plain.asked) == (Reason.BROKEN, True, [])
