"""The process under a supervisor: its messages to systemd, and what a suspension of the process costs."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fakenvml import FakeNvml
from support.scraped import Page, parse
from support.servers import Exporter, http_get, wait_until

CONFIG = {"host": {"meters": []}, "discovery": {"processes": False}}


@pytest.fixture
def nvml(tmp_path: Path) -> Iterator[FakeNvml]:
    with FakeNvml(tmp_path, 1) as fake:
        yield fake


def page(daemon: Exporter) -> Page:
    return parse(daemon.metrics())


def test_systemd_is_informed_about_start_ticks_and_end(
    exporter: Callable[..., Exporter], nvml: FakeNvml, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inbox:
        inbox.bind(str(tmp_path / "notify"))
        inbox.settimeout(10)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000"}
        daemon = exporter(CONFIG, environment={**nvml.env(), **environment})
        first = [inbox.recv(100) for _ in range(6)]
        daemon.child.process.send_signal(signal.SIGTERM)
        assert daemon.child.process.wait(60) == 0
        inbox.settimeout(0.0)
        last = b""
        while last != b"STOPPING=1":
            last = inbox.recv(100)

    assert first.count(b"READY=1") == 1
    assert first.count(b"WATCHDOG=1") == 5


def test_a_suspension_is_counted_in_skipped_ticks_and_is_no_failure(
    exporter: Callable[..., Exporter], nvml: FakeNvml
) -> None:
    daemon = exporter(CONFIG, environment=nvml.env())
    before = page(daemon)
    energy = "tpw_gpu_energy_joules_total"
    wait_until(lambda: page(daemon).value(energy, gpu="0") > before.value(energy, gpu="0"), "joules")
    before = page(daemon)

    began = time.monotonic()
    daemon.child.process.send_signal(signal.SIGSTOP)
    time.sleep(4.0)
    daemon.child.process.send_signal(signal.SIGCONT)
    stopped = time.monotonic() - began
    healthy = http_get(f"{daemon.url}/-/healthy", timeout=30.0)
    moment = "tpw_snapshot_timestamp_seconds"
    wait_until(lambda: page(daemon).value(moment) > before.value(moment) + stopped, "a tick")
    after = page(daemon)

    assert healthy == b"healthy\n"
    passed = after.value(moment) - before.value(moment)
    made = after.value("tpw_polls_total") - before.value("tpw_polls_total")
    skipped = after.value("tpw_polls_skipped_total") - before.value("tpw_polls_skipped_total")
    assert made + skipped == pytest.approx(passed, abs=1.0)
    assert skipped >= stopped - 2.0
    assert after.value(energy, gpu="0") - before.value(energy, gpu="0") == pytest.approx(100.0 * passed, rel=0.05)
