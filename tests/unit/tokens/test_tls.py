"""Reading a server over TLS: whom it believes, and how it shows who it is."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from pathlib import Path

import pytest

from support.certificates import certify, server_context
from support.pageserver import PageServer, answer, pages
from tpw.config.schema import Server
from tpw.config.schema import Tls as Words
from tpw.daemon.sources import token_source
from tpw.model import Reason, Role, ServerReading, SourceError
from tpw.tokens.engines import DIALECTS
from tpw.tokens.reading import summary

PAGE = answer('vllm:generation_tokens_total{model_name="m"} 7\n')


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    certify(folder, "server", "IP:127.0.0.1")
    certify(folder, "named", "DNS:chat.example")
    certify(folder, "exporter", "DNS:exporter.example")
    return folder


def serving(pki: Path, name: str = "server", *, wants: str = "") -> PageServer:
    context = server_context(pki, name)
    if wants:
        context.load_verify_locations(pki / f"{wants}.pem")
        context.verify_mode = ssl.CERT_REQUIRED
    return PageServer(pages({"/metrics": PAGE}), tls=context)


def read(url: str, tls: Words | None) -> ServerReading:
    server = Server(name="chat", url=url, engine="vllm", tls=tls)
    source = token_source(server, DIALECTS, lambda: 0.0, lambda: None)
    try:
        return source.read()
    finally:
        source.close()


def failure_of(url: str, tls: Words | None) -> SourceError:
    with pytest.raises(SourceError) as caught:
        read(url, tls)
    return caught.value


def test_a_server_is_read_where_its_authority_is_given(pki: Path):
    with serving(pki) as server:
        reading = read(server.url, Words(ca_file=str(pki / "server.pem")))
    assert summary(reading.series) == {Role.OUTPUT: 7.0}


@pytest.mark.parametrize("tls", [None, Words()])
def test_a_server_whose_authority_is_not_known_is_not_believed(pki: Path, tls: Words | None):
    with serving(pki) as server:
        failure = failure_of(server.url, tls)
    assert (failure.reason, "certificate is not trusted" in failure.detail) == (Reason.UNREACHABLE, True)
    assert "ca_file" in failure.hint


def test_a_certificate_of_another_name_is_believed_only_where_that_name_is_expected(pki: Path):
    with serving(pki, "named") as server:
        failure = failure_of(server.url, Words(ca_file=str(pki / "named.pem")))
        reading = read(server.url, Words(ca_file=str(pki / "named.pem"), server_name="chat.example"))
    assert "certificate is not trusted" in failure.detail
    assert summary(reading.series) == {Role.OUTPUT: 7.0}


def test_nothing_is_checked_where_that_is_asked_for(pki: Path):
    with serving(pki, "named") as server:
        reading = read(server.url, Words(insecure_skip_verify=True))
    assert summary(reading.series) == {Role.OUTPUT: 7.0}


def test_a_server_that_wants_a_certificate_of_its_reader_is_shown_one(pki: Path):
    trusting = {"ca_file": str(pki / "server.pem")}
    shown = {"cert_file": str(pki / "exporter.pem"), "key_file": str(pki / "exporter.key")}
    with serving(pki, wants="exporter") as server:
        reading = read(server.url, Words(**trusting, **shown))
        failure = failure_of(server.url, Words(**trusting))
    assert summary(reading.series) == {Role.OUTPUT: 7.0}
    assert failure.reason is Reason.UNREACHABLE


def test_files_that_cannot_be_used_say_so(tmp_path: Path):
    (tmp_path / "empty.pem").write_text("")
    for tls in (Words(ca_file=str(tmp_path / "none.pem")), Words(ca_file=str(tmp_path / "empty.pem"))):
        failure = failure_of("https://127.0.0.1:9", tls)
        assert (failure.reason, "TLS files cannot be used" in failure.detail) == (Reason.PERMISSION, True)


def test_http_where_https_is_expected_is_told_apart():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(1)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                while connection.recv(4096):
                    pass

        server = threading.Thread(target=refuse)
        server.start()
        failure = failure_of(f"https://127.0.0.1:{listener.getsockname()[1]}", None)
        server.join(10)
    assert (failure.reason, failure.hint) == (Reason.UNREACHABLE, "Is it http, not https?")
