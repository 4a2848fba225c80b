"""The daemon as a process over the stand-in NVML: what it does when the driver under it is wanted or replaced."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fakenvml import FakeNvml
from support.scraped import Page, parse
from support.servers import Exporter, HttpStatusError, http_request, wait_until

CONFIG = {"host": {"meters": []}, "discovery": {"processes": False}}


@pytest.fixture
def nvml(tmp_path: Path) -> Iterator[FakeNvml]:
    with FakeNvml(tmp_path, 2) as fake:
        yield fake


def page(exporter: Exporter) -> Page:
    return parse(exporter.metrics())


def clients(nvml: FakeNvml) -> int:
    """Initialisations of the library that were not shut down."""
    calls = nvml.calls()
    return calls.get("nvmlInitWithFlags", 0) - calls.get("nvmlShutdown", 0)


def test_the_driver_is_let_go_of_over_http_so_that_a_gpu_can_be_reset(
    exporter: Callable[..., Exporter], nvml: FakeNvml
) -> None:
    daemon = exporter(CONFIG, "--web.enable-lifecycle", environment=nvml.env())
    before = page(daemon)

    released = http_request(f"{daemon.url}/-/release", method="POST")
    without = clients(nvml)
    calls = sum(nvml.calls().values())
    wait_until(lambda: page(daemon).sum("tpw_gpu_up") == 0.0, "both down")
    meanwhile = page(daemon)
    healthy = http_request(f"{daemon.url}/-/healthy")
    quiet = sum(nvml.calls().values()) - calls
    nvml.reset_counter(0)  # somebody resets the first one
    resumed = http_request(f"{daemon.url}/-/resume", method="POST")
    wait_until(lambda: page(daemon).sum("tpw_gpu_up") == 2.0, "both up")
    after = page(daemon)

    assert (released, healthy, resumed) == (b"released\n", b"healthy\n", b"resumed\n")
    assert (without, quiet, clients(nvml)) == (0, 0, 1)
    assert meanwhile.value("tpw_source_up", source="nvml") == 0.0
    for earlier, later in ((before, meanwhile), (meanwhile, after)):
        for key, value in earlier.counters().items():
            assert later.get(key, -1.0) >= value, key
    assert after.value("tpw_gpu_energy_anomalies_total", gpu="0", reason="reset") == 1.0
    assert after.value("tpw_gpu_unmetered_seconds_total", gpu="0") > 0.0
    assert after.value("tpw_gpu_unmetered_seconds_total", gpu="1") == 0.0
    with pytest.raises(HttpStatusError) as caught:
        http_request(f"{daemon.url}/-/release")
    assert caught.value.status == 405


def test_the_driver_is_let_go_of_by_signal(exporter: Callable[..., Exporter], nvml: FakeNvml) -> None:
    daemon = exporter(CONFIG, environment=nvml.env())

    daemon.child.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: clients(nvml) == 0, "let go of")
    daemon.child.process.send_signal(signal.SIGUSR2)
    wait_until(lambda: page(daemon).sum("tpw_gpu_up") == 2.0, "both up")

    assert clients(nvml) == 1


def test_a_driver_that_was_replaced_under_it_ends_the_process_for_the_supervisor_to_start_anew(
    exporter: Callable[..., Exporter], nvml: FakeNvml
) -> None:
    daemon = exporter(CONFIG, environment=nvml.env())
    nvml.unload_driver()
    nvml.init_error("lib_rm_version_mismatch")

    assert daemon.child.process.wait(timeout=20) == 1
    log = daemon.child.log.read_text()
    assert "event=driver_lost" in log
    assert "restart the exporter" in log
