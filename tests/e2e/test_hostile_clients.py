"""The port under clients that drip, guess, ask for everything and read nothing: probes and scrapes go on."""

from __future__ import annotations

import base64
import signal
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fakenvml import FakeNvml
from support.attackers import Probed, attacked, drip_handshake, drip_head, guess_passwords, post, probe, read_nothing
from support.certificates import certify
from support.scraped import parse
from support.servers import (
    Child,
    Exporter,
    HttpStatusError,
    clean_environment,
    exporter_command,
    free_port,
    http_request,
    wait_until,
)

CONFIG = {"host": {"meters": []}, "discovery": {"processes": False}}
TIMES = 30


@pytest.fixture
def nvml(tmp_path: Path) -> Iterator[FakeNvml]:
    with FakeNvml(tmp_path, 1) as fake:
        yield fake


@pytest.fixture
def start(exporter: Callable[..., Exporter], nvml: FakeNvml) -> Callable[..., Exporter]:
    return lambda *arguments: exporter(CONFIG, *arguments, environment=nvml.env())


def port_of(daemon: Exporter) -> int:
    return int(daemon.url.rpartition(":")[2])


def failures(results: list[Probed]) -> dict[str, list[str]]:
    for result in results:
        print(result)
    return {result.path: result.failures for result in results if result.failures}


@pytest.mark.parametrize(("count", "attack"), [(64, drip_head), (100, read_nothing)])
def test_slow_clients_keep_nobody_out(
    start: Callable[..., Exporter], count: int, attack: Callable[..., object]
) -> None:
    port = port_of(start())
    with attacked(count, attack(port)):  # type: ignore[arg-type]
        results = probe(port, {"/-/healthy": {}, "/-/ready": {}, "/metrics": {}}, TIMES)

    assert failures(results) == {}


def test_slow_handshakes_keep_nobody_out(tmp_path: Path) -> None:
    certify(tmp_path, "server", "IP:127.0.0.1")
    web = tmp_path / "web.yaml"
    web.write_text("tls_server_config: {cert_file: server.pem, key_file: server.key, client_auth_type: NoClientCert}\n")
    context = ssl.create_default_context(cafile=str(tmp_path / "server.pem"))
    port = free_port()
    flags = [f"--web.config.file={web}", f"--web.listen-address=127.0.0.1:{port}", f"--state.dir={tmp_path / 'state'}"]
    child = Child(f"slow-handshakes-{port}", exporter_command("run", *flags), clean_environment())
    try:
        wait_until(lambda: not failures(probe(port, {"/metrics": {}}, 1, context=context)), "the first tick")
        with attacked(64, drip_handshake(port)):
            results = probe(port, {"/-/healthy": {}, "/metrics": {}}, TIMES, context=context)
    finally:
        child.stop()

    assert failures(results) == {}


def test_wrong_passwords_keep_nobody_out(start: Callable[..., Exporter], tmp_path: Path) -> None:
    bcrypt = pytest.importorskip("bcrypt", reason="the package of the extra [auth] is not installed")
    web = tmp_path / "web.yaml"
    web.write_text(f"basic_auth_users: {{prometheus: '{bcrypt.hashpw(b's3cret', bcrypt.gensalt(10)).decode()}'}}\n")
    port = port_of(start(f"--web.config.file={web}"))
    scraper = {"Authorization": "Basic " + base64.b64encode(b"prometheus:s3cret").decode()}
    probe(port, {"/metrics": scraper}, 1)  # it scrapes already

    with attacked(100, guess_passwords(port, "prometheus")):
        results = probe(port, {"/-/healthy": {}, "/-/ready": {}, "/metrics": scraper}, TIMES)

    assert failures(results) == {}


def test_reloads_keep_nobody_out(start: Callable[..., Exporter]) -> None:
    daemon = start("--web.enable-lifecycle")
    port = port_of(daemon)
    with attacked(70, post(port, "/-/reload")):
        for _ in range(20):
            daemon.child.process.send_signal(signal.SIGHUP)
        results = probe(port, {"/-/healthy": {}, "/-/ready": {}, "/metrics": {}}, TIMES)

    assert failures(results) == {}
    assert "traceback" not in daemon.child.log.read_text().lower()


def test_metering_stops_for_no_form_of_another_site(start: Callable[..., Exporter]) -> None:
    """What a browser sends over plain http to an address that is not loopback: no Sec-Fetch-Site."""
    closed = start()
    opened = start("--web.enable-lifecycle")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    foreign = [
        {**form, "Origin": "http://evil.example", "Referer": "http://evil.example/"},
        {**form, "Origin": "null"},
        {**form, "Referer": "http://evil.example/"},
        {**form, "Host": "evil.example:10101", "Origin": "http://evil.example:10101"},
    ]
    for daemon, headers in [(closed, form), *((opened, headers) for headers in foreign)]:
        with pytest.raises(HttpStatusError) as caught:
            http_request(f"{daemon.url}/-/release", b"x=1", method="POST", headers=headers)
        assert caught.value.status == 403, headers
    time.sleep(1.5)
    for daemon in (closed, opened):
        assert parse(daemon.metrics()).sum("tpw_gpu_up") == 1.0

    assert http_request(f"{opened.url}/-/release", method="POST") == b"released\n"
    assert http_request(f"{opened.url}/-/resume", b"", headers={"Origin": opened.url}) == b"resumed\n"
