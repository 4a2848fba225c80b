"""Steps of the wall clock, of any size and in either direction, cost at most one tick and no memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fakenvml import FakeNvml
from support.pageserver import NOT_FOUND, Asked, PageServer, answer
from support.scraped import Page, parse
from support.servers import Exporter, wait_until
from wallclock import WallClock

DAY = 86400.0
ENERGY = "tpw_gpu_energy_joules_total"
LARGEST_RISE_BYTES = 4 << 20


@pytest.fixture
def nvml(tmp_path: Path) -> Iterator[FakeNvml]:
    with FakeNvml(tmp_path, 1) as fake:
        yield fake


@pytest.fixture
def server() -> Iterator[PageServer]:
    began = time.monotonic()

    def respond(asked: Asked) -> bytes:
        tokens = 100.0 * (time.monotonic() - began)
        body = (
            f'vllm:generation_tokens_total{{model_name="m"}} {tokens}\nvllm:num_requests_running{{model_name="m"}} 1\n'
        )
        return answer(body) if asked.path == "/metrics" else NOT_FOUND

    with PageServer(respond) as page_server:
        yield page_server


def config(server: PageServer) -> dict[str, object]:
    return {
        "host": {"meters": []},
        "discovery": {"processes": False},
        "servers": [{"name": "chat", "url": server.url, "gpus": [0]}],
        "carbon": {"kind": "static", "grams_per_kwh": 300, "basis": "average_direct"},
        "costs": {"hardware": {"price_per_gpu": 30000, "years": 4}},
        "tariff": {
            "currency": "EUR",
            "timezone": "Europe/Berlin",
            "energy": {
                "kind": "time_of_use",
                "price_per_kwh": 0.20,
                "zones": [{"price_per_kwh": 0.10, "hours": "22:00-06:00"}],
            },
            "demand": {"price_per_kw_month": 10.0},
            "fixed": {"per_month": 60},
        },
    }


def page(daemon: Exporter) -> Page:
    return parse(daemon.metrics())


def memory(daemon: Exporter) -> float:
    return page(daemon).value("process_resident_memory_bytes")


@pytest.mark.parametrize(
    ("start", "steps"),
    [
        (1000.0, [1_795_000_000.0, 30 * DAY, -30 * DAY, 400 * DAY, -400 * DAY]),
        (None, [20.0, -20.0, 3600.0, -7200.0, -56 * 365 * DAY]),
    ],
    ids=["from 1970", "to 1970"],
)
def test_a_step_costs_at_most_one_tick_and_no_memory(
    exporter: Callable[..., Exporter],
    nvml: FakeNvml,
    server: PageServer,
    tmp_path: Path,
    start: float | None,
    steps: list[float],
) -> None:
    clock = WallClock(tmp_path, start)
    daemon = exporter(config(server), environment={**nvml.env(), **clock.env()})
    wait_until(lambda: page(daemon).value("tpw_polls_total") >= 4, "ticks")
    resident, first = memory(daemon), page(daemon)
    began = time.monotonic()

    for step in steps:
        before, since = page(daemon), time.monotonic()
        clock.step(step)
        wait_until(
            lambda: abs(page(daemon).value("tpw_snapshot_timestamp_seconds") - clock.now()) < 1.5,
            "a tick at the new time",
            timeout=3.5,
            every=0.02,
        )
        time.sleep(1.5)
        after, passed = page(daemon), time.monotonic() - since
        made = after.value("tpw_polls_total") - before.value("tpw_polls_total")
        assert made >= passed - 2.0
        assert after.value(ENERGY, gpu="0") - before.value(ENERGY, gpu="0") <= 100.0 * (passed + 1.5)
        assert after.sum("tpw_gpu_state_seconds_total") - before.sum("tpw_gpu_state_seconds_total") <= passed + 1.5

    last, passed = page(daemon), time.monotonic() - began
    fallen = [key for key, value in first.counters().items() if last.get(key, -1.0) < value]
    assert fallen == []
    assert last.value(ENERGY, gpu="0") - first.value(ENERGY, gpu="0") >= 100.0 * (passed - 2.0)
    assert last.value("tpw_server_tokens_total", server="chat", kind="output") > first.value(
        "tpw_server_tokens_total", server="chat", kind="output"
    )
    assert memory(daemon) - resident < LARGEST_RISE_BYTES
    log = daemon.child.log.read_text()
    assert log.count("event=wall_clock_stepped") == len(steps)
    assert "traceback" not in log.lower()
    began = time.monotonic()
    daemon.child.process.terminate()
    assert daemon.child.process.wait(60) == 0
    assert time.monotonic() - began < 3.0
