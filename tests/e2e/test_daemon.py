"""The daemon over the stand-in NVML and a real llama-server: tokens, joules, money, kills and faults."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fakenvml import FakeNvml
from support.scraped import Page, parse
from support.servers import Exporter, Llama, wait_until

PRICE = 0.31
PUE = 1.2


@pytest.fixture
def nvml(tmp_path: Path) -> Iterator[FakeNvml]:
    with FakeNvml(tmp_path, 2, refresh_seconds=0.1) as fake:
        yield fake


def config(llama: Llama, **more: Any) -> dict[str, Any]:
    return {
        "host": {"meters": []},
        "discovery": {"processes": False},
        "servers": [{"name": "chat", "url": llama.url, "gpus": [0]}],
        "facility": {"pue": PUE},
        "tariff": {"currency": "EUR", "energy": {"kind": "flat", "price_per_kwh": PRICE}},
        **more,
    }


def scrape(exporter: Exporter) -> Page:
    return parse(exporter.metrics())


def output(page: Page) -> float:
    return page.value("tpw_server_tokens_total", server="chat", kind="output")


def laws(page: Page) -> None:
    """Laws 1, 2 and 3 on the live page."""
    for labels in {labels for name, labels in page if name == "tpw_gpu_energy_joules_total"}:
        gpu = dict(labels)
        total = page.value("tpw_gpu_energy_joules_total", **gpu)
        assert page.sum("tpw_gpu_state_energy_joules_total", **gpu) == pytest.approx(total, rel=1e-12)
    total_joules = page.sum("tpw_gpu_energy_joules_total")
    idle = page.sum("tpw_gpu_state_energy_joules_total", state="idle")
    assert page.sum("tpw_server_energy_joules_total") + idle == pytest.approx(total_joules, rel=1e-12)
    cost = page.sum("tpw_gpu_state_cost_total", component="energy")
    assert cost == pytest.approx(total_joules * PUE / 3.6e6 * PRICE, rel=1e-9)
    assert page.sum("tpw_server_cost_total", component="energy") == pytest.approx(
        page.sum("tpw_server_facility_energy_joules_total") / 3.6e6 * PRICE, rel=1e-9
    )


def never_below(before: Page, after: Page) -> None:
    """Law 5."""
    for key, value in before.counters().items():
        assert after.get(key, -1.0) >= value, key


def test_tokens_are_the_sum_of_usage_and_joules_the_exact_integral(
    exporter: Callable[..., Exporter], llama: Llama, nvml: FakeNvml
) -> None:
    nvml.gpu(0).set_square(100.0, 600.0, 7.0, 0.4)
    nvml.gpu(1).set_constant(90.0)
    llama.complete("Warm up.", 2)
    daemon = exporter(config(llama), environment=nvml.env())
    first = scrape(daemon)
    begun = time.monotonic()
    usages: list[dict[str, int]] = []
    streamed: list[int] = []

    def plain(number: int) -> None:
        usages.append(llama.complete(f"Number {number} is", 24))

    def stream(number: int) -> None:
        streamed.append(sum(1 for line in llama.stream(f"Once upon {number}", 16) if b'"text"' in line))

    threads = [threading.Thread(target=job, args=(n,)) for n in range(3) for job in (plain, stream)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = sum(usage["completion_tokens"] for usage in usages) + 3 * 16
    wait_until(lambda: output(scrape(daemon)) - output(first) >= expected, "all tokens")
    remaining = 60.0 - (time.monotonic() - begun)  # 0.5 % of it is more than the 0.1 s of a counter at both ends
    time.sleep(max(0.0, remaining))
    last = scrape(daemon)
    ended = time.monotonic()

    assert output(last) - output(first) == expected
    for i in range(2):
        uuid = nvml.uuid(i)
        rise = last.value("tpw_gpu_energy_joules_total", uuid=uuid) - first.value(
            "tpw_gpu_energy_joules_total", uuid=uuid
        )
        seconds = last.sum("tpw_gpu_state_seconds_total", uuid=uuid) - first.sum(
            "tpw_gpu_state_seconds_total", uuid=uuid
        )
        # The page is of the last tick: the integral is over the time that the page covers.
        end = ended - (time.time() - last.value("tpw_snapshot_timestamp_seconds")) + (time.monotonic() - ended)
        truth = nvml.true_joules(i, end - seconds, end)
        assert rise == pytest.approx(truth, rel=0.005)
    laws(first)
    laws(last)
    never_below(first, last)
    # Law 7: the live ratio is rise over rise; the window holds all of this time, so both are known.
    ratio = last.value("tpw_tokens_per_watt", server="chat", kind="output", boundary="gpu")
    assert ratio > 0.0
    assert last.value("tpw_server_requests_running", server="chat") == 0.0


def test_a_kill_loses_nothing_and_no_counter_falls(
    exporter: Callable[..., Exporter], llama: Llama, nvml: FakeNvml
) -> None:
    nvml.gpu(0).set_constant(400.0)
    daemon = exporter(config(llama), environment=nvml.env())
    llama.complete("Before", 8)
    time.sleep(2.5)
    before = scrape(daemon)
    daemon.child.kill()
    made = llama.complete("While the exporter is down", 20)["completion_tokens"]
    time.sleep(4.0)
    port = int(daemon.url.rpartition(":")[2])
    again = exporter(config(llama), environment=nvml.env(), state=daemon.state, port=port)
    after = scrape(again)

    never_below(before, after)
    laws(after)
    # What was being made when it was killed is in neither page; the answer made in between is.
    assert output(after) - output(before) == pytest.approx(made, abs=0)
    gained = after.value("tpw_gpu_energy_joules_total", gpu="0") - before.value("tpw_gpu_energy_joules_total", gpu="0")
    passed = after.value("tpw_snapshot_timestamp_seconds") - before.value("tpw_snapshot_timestamp_seconds")
    assert gained == pytest.approx(400.0 * passed, rel=0.03)


def test_a_lost_gpu_and_a_server_that_went_leave_the_rest_as_it_was(
    exporter: Callable[..., Exporter], start_llama: Callable[..., Llama], nvml: FakeNvml
) -> None:
    own = start_llama()
    daemon = exporter(config(own), environment=nvml.env())
    nvml.lose(1)
    own.child.stop()
    wait_until(
        lambda: (
            scrape(daemon).value("tpw_gpu_up", gpu="1") == 0.0
            and scrape(daemon).value("tpw_server_up", server="chat") == 0.0
        ),
        "both down",
    )
    one = scrape(daemon)
    time.sleep(2.5)
    two = scrape(daemon)

    assert two.value("tpw_gpu_energy_joules_total", gpu="0") > one.value("tpw_gpu_energy_joules_total", gpu="0")
    assert two.value("tpw_gpu_up", gpu="0") == 1.0
    assert two.values_of("tpw_gpu_power_watts", gpu="1") == []
    never_below(one, two)
    nvml.restore(1)
    wait_until(lambda: scrape(daemon).value("tpw_gpu_up", gpu="1") == 1.0, "gpu back")
    log = daemon.child.log.read_text()
    assert log.count("event=source_down source=server:chat") == 1
    assert log.count("event=gpu_down") == 1
    assert log.count("event=gpu_up") == 1


def test_a_real_prometheus_scrapes_it_and_takes_the_rules(
    exporter: Callable[..., Exporter], prometheus: Callable[..., Any], llama: Llama, nvml: FakeNvml
) -> None:
    daemon = exporter(config(llama), environment=nvml.env())
    root = Path(__file__).parents[2] / "deploy" / "prometheus"
    server = prometheus({"tpw-exporter": [daemon.url.removeprefix("http://")]}, rules=sorted(root.glob("*.rules.yaml")))
    llama.complete("Some work", 16)

    server.wait_for("tpw_gpu_energy_joules_total")
    # Two GPUs at 100 W: once the range is full, the rate of the counters is the power of the stand-in.
    watts = "sum(rate(tpw_gpu_energy_joules_total[10s]))"
    wait_until(lambda: any(abs(s.value - 200.0) < 20.0 for s in server.query(watts)), watts)
    assert server.value("sum(tpw_gpu_up)") == 2.0
