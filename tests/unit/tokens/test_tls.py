"""Reading a server over TLS: its certificate and the client's."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from pathlib import Path

import pytest

from support.certificates import certify, server_context
from support.pageserver import PageServer, answer, pages
from support.readings import totals_by_role
from tpw.config.schema import Server
from tpw.config.schema import Tls as Words
from tpw.daemon.sources import token_source
from tpw.model import Reason, Role, ServerReading, SourceError
from tpw.tokens.engines import DIALECTS

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


def test_a_server_is_read_with_its_certificate_authority(pki: Path):
    with serving(pki) as server:
        reading = read(server.url, Words(ca_file=str(pki / "server.pem")))
    assert totals_by_role(reading.series) == {Role.OUTPUT: 7.0}


@pytest.mark.parametrize("tls", [None, Words()])
def test_a_server_with_an_unknown_certificate_authority_is_refused(pki: Path, tls: Words | None):
    with serving(pki) as server:
        failure = failure_of(server.url, tls)
    assert (failure.reason, "certificate is not trusted" in failure.detail) == (Reason.UNREACHABLE, True)
    assert "ca_file" in failure.hint


def test_a_certificate_of_another_name_needs_server_name(pki: Path):
    with serving(pki, "named") as server:
        failure = failure_of(server.url, Words(ca_file=str(pki / "named.pem")))
        reading = read(server.url, Words(ca_file=str(pki / "named.pem"), server_name="chat.example"))
    assert "certificate is not trusted" in failure.detail
    assert totals_by_role(reading.series) == {Role.OUTPUT: 7.0}


def test_skip_verify_accepts_any_certificate(pki: Path):
    with serving(pki, "named") as server:
        reading = read(server.url, Words(insecure_skip_verify=True))
    assert totals_by_role(reading.series) == {Role.OUTPUT: 7.0}


def test_a_client_certificate_is_sent(pki: Path):
    trusting = {"ca_file": str(pki / "server.pem")}
    shown = {"cert_file": str(pki / "exporter.pem"), "key_file": str(pki / "exporter.key")}
    with serving(pki, wants="exporter") as server:
        reading = read(server.url, Words(**trusting, **shown))
        failure = failure_of(server.url, Words(**trusting))
    assert totals_by_role(reading.series) == {Role.OUTPUT: 7.0}
    assert failure.reason is Reason.UNREACHABLE


def test_invalid_files_are_reported(tmp_path: Path):
    (tmp_path / "empty.pem").write_text("")
    for tls in (Words(ca_file=str(tmp_path / "none.pem")), Words(ca_file=str(tmp_path / "empty.pem"))):
        failure = failure_of("https://127.0.0.1:9", tls)
        assert (failure.reason, "TLS files cannot be used" in failure.detail) == (Reason.PERMISSION, True)


def test_http_on_an_https_url_is_reported():
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
