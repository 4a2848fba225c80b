"""TLS with client certificates, scraped by a real Prometheus while the certificate is renewed."""

from __future__ import annotations

import shutil
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from support.certificates import make_pki
from support.servers import Child, Prometheus, clean_environment, exporter_command, free_port, wait_until

WEB = """
tls_server_config:
  cert_file: tls.pem
  key_file: tls.key
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: ca.pem
  client_allowed_sans: [prometheus.example]
"""


def context_of(folder: Path, client: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    if client:
        context.load_cert_chain(folder / f"{client}.pem", folder / f"{client}.key")
    return context


def get(port: int, path: str, context: ssl.SSLContext) -> bytes:
    """The response of one request on a connection of its own. Raises OSError where the client is not allowed."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        secured.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        received = secured.recv(65536)
        if not received:
            raise ConnectionResetError
        return received


def serve_certificate(folder: Path, name: str) -> None:
    """Put a certificate in place as a renewal does: key and certificate, each at once."""
    for kind in ("key", "pem"):
        shutil.copy(folder / f"{name}.{kind}", folder / f"tls.{kind}.new")
        (folder / f"tls.{kind}.new").replace(folder / f"tls.{kind}")


def test_prometheus_scrapes_with_its_certificate_while_that_of_the_exporter_is_renewed(
    prometheus: Callable[..., Prometheus], tmp_path: Path
) -> None:
    make_pki(tmp_path)
    serve_certificate(tmp_path, "server")
    (tmp_path / "web.yaml").write_text(WEB)
    (tmp_path / "tpw.yaml").write_text(
        yaml.safe_dump({"accelerators": ["simulated"], "host": {"meters": []}, "discovery": {"processes": False}})
    )
    port = free_port()
    child = Child(
        f"tls-exporter-{port}",
        exporter_command(
            "run",
            f"--config.file={tmp_path / 'tpw.yaml'}",
            f"--web.config.file={tmp_path / 'web.yaml'}",
            f"--web.listen-address=127.0.0.1:{port}",
            f"--state.dir={tmp_path / 'state'}",
        ),
        clean_environment(),
    )
    try:
        known = context_of(tmp_path, "prometheus")
        wait_until(lambda: b" 200 OK" in get(port, "/-/ready", known), "ready")
        for client in ("", "stranger", "forged"):
            with pytest.raises(OSError):  # noqa: PT011 - TLS alerts and resets
                get(port, "/-/healthy", context_of(tmp_path, client))

        pem = {name: str(tmp_path / name) for name in ("ca.pem", "prometheus.pem", "prometheus.key")}
        tls = {"ca_file": pem["ca.pem"], "cert_file": pem["prometheus.pem"], "key_file": pem["prometheus.key"]}
        job = {
            "job_name": "tpw",
            "scheme": "https",
            "tls_config": tls,
            "static_configs": [{"targets": [f"127.0.0.1:{port}"]}],
        }
        server = prometheus(config={"scrape_configs": [job]})
        server.wait_for('up{job="tpw"} == 1')

        serve_certificate(tmp_path, "renewed")
        wait_until(lambda: "renewed.example" in names_served(port, tmp_path), "the renewed certificate")
        server.wait_for('sum_over_time(up{job="tpw"}[60s]) >= 5')
        (lowest,) = server.query('min_over_time(up{job="tpw"}[60s])')
        assert lowest.value == 1.0
    finally:
        child.stop()
    assert "traceback" not in child.log.read_text().lower()


def names_served(port: int, folder: Path) -> str:
    """Subject alternative names of the certificate that a new connection gets."""
    context = context_of(folder, "prometheus")
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        certificate = secured.getpeercert() or {}
    return str(certificate.get("subjectAltName"))
