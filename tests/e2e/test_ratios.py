"""Law 7 on a running exporter: the live gauges are rises over rises, and the recording rules agree with them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from fakenvml import FakeNvml
from support.scraped import Page, parse
from support.servers import Exporter, Llama, Prometheus, Sample, wait_until

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "tpw-recording.rules.yaml"
WINDOW_SECONDS = 15


@pytest.fixture
def nvml(tmp_path: Path) -> Iterator[FakeNvml]:
    with FakeNvml(tmp_path, 2, watts=350.0, refresh_seconds=0.1) as fake:
        yield fake


def config(llama: Llama) -> dict[str, Any]:
    return {
        "polling": {"window": f"{WINDOW_SECONDS}s"},
        "host": {"meters": []},
        "discovery": {"processes": False},
        "servers": [{"name": "chat", "url": llama.url, "gpus": [0]}],
        "facility": {"pue": 1.2},
        "tariff": {"currency": "EUR", "energy": {"kind": "flat", "price_per_kwh": 0.31}},
        "costs": {"hardware": {"price_per_gpu": 30000, "years": 4}},
    }


class SteadyLoad:
    """Four tokens every half second from entering to leaving the ``with`` block, whatever the machine's speed: it keeps to
    its timetable, and catches up where it fell behind."""

    def __init__(self, llama: Llama) -> None:
        self._llama = llama
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *what: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            self._llama.complete("One, two, three,", 4)
            due += 0.5


def tokens(page: Page, kind: str) -> float:
    wanted = {} if kind == "total" else {"kind": kind}
    return page.sum("tpw_server_tokens_total", server="chat", model="smollm", **wanted)


def joules(page: Page, boundary: str) -> float:
    name = "tpw_server_energy_joules_total" if boundary == "gpu" else "tpw_server_facility_energy_joules_total"
    return page.sum(name, server="chat", model="smollm")


def cost(page: Page, scope: str) -> float:
    wanted = {"component": "energy"} if scope == "energy" else {}
    return page.sum("tpw_server_cost_total", server="chat", model="smollm", **wanted)


def test_every_live_ratio_is_a_rise_over_a_rise_in_the_stated_window(
    exporter: Callable[..., Exporter], llama: Llama, nvml: FakeNvml
) -> None:
    nvml.gpu(0).set_square(150.0, 600.0, 4.0, 0.5)
    daemon = exporter(config(llama), environment=nvml.env())
    pages: dict[float, Page] = {}
    with SteadyLoad(llama):
        until = time.monotonic() + WINDOW_SECONDS + 10.0
        while time.monotonic() < until:  # several scrapes per tick, so that no tick is missed
            page = parse(daemon.metrics())
            pages[page.value("tpw_snapshot_timestamp_seconds")] = page
            time.sleep(0.2)
    checked = 0
    for at, page in pages.items():
        for window in page.values_of("tpw_window_seconds", server="chat"):
            base = min(pages, key=lambda earlier: abs(earlier - (at - window)))
            if abs(base - (at - window)) > 0.01:  # the wall clock against the monotonic one
                continue
            before = pages[base]
            for kind in ("output", "total"):
                made = tokens(page, kind) - tokens(before, kind)
                assert page.value("tpw_tokens_per_second", server="chat", kind=kind) == pytest.approx(made / window)
                for boundary in ("gpu", "facility"):
                    used = joules(page, boundary) - joules(before, boundary)
                    ratio = page.value("tpw_tokens_per_watt", server="chat", kind=kind, boundary=boundary)
                    assert ratio == pytest.approx(made / used, rel=1e-6)
                for scope in ("energy", "full"):
                    spent = cost(page, scope) - cost(before, scope)
                    labels = {"server": "chat", "kind": kind, "scope": scope}
                    if made > 0.0:
                        assert page.value("tpw_cost_per_token", **labels) == pytest.approx(spent / made, rel=1e-6)
                    else:
                        assert page.values_of("tpw_cost_per_token", **labels) == []
            checked += made > 0.0
    assert checked >= 10
    full = [page for page in pages.values() if page.sum("tpw_window_seconds") >= WINDOW_SECONDS - 0.5]
    assert full, "the window never filled"
    assert all(page.sum("tpw_window_seconds") == pytest.approx(WINDOW_SECONDS, abs=0.6) for page in full)


def test_the_recording_rules_in_a_real_prometheus_agree_with_the_live_gauges(
    exporter: Callable[..., Exporter], prometheus: Callable[..., Prometheus], llama: Llama, nvml: FakeNvml
) -> None:
    """In the oldest version that is supported and in the newest."""
    daemon = exporter(config(llama), environment=nvml.env())
    with SteadyLoad(llama):
        # So far on that rate() need not suppose a counter that began at 0 within its range.
        wait_until(lambda: tokens(parse(daemon.metrics()), "output") >= 40.0, "under way")
        target = daemon.url.removeprefix("http://")
        servers = [prometheus({"tpw-exporter": [target]}, rules=[RULES], version=version) for version in ("2", "3")]
        time.sleep(WINDOW_SECONDS + 5.0)
        for server in servers:
            ratios_agree(server)


def ratios_agree(server: Prometheus) -> None:
    """Every rule of a ratio, with the counters that it used and with the gauge of the exporter.

    The latter but for the seconds by which the two windows differ.
    """
    for kind in ("output", "total"):
        made = 'tpw_server_tokens_total{kind="output"}' if kind == "output" else "tpw_server_tokens_total"
        for boundary, energy in (("gpu", "energy"), ("facility", "facility_energy")):
            labels = f'{{kind="{kind}", boundary="{boundary}"}}'
            for level in ("model", "server"):
                record = f"{level}:tpw_tokens_per_joule:ratio_rate5m{labels}"
                assert agrees(server, record, made, f"tpw_server_{energy}_joules_total"), record
                assert server.value(record) == pytest.approx(server.value(f"tpw_tokens_per_watt{labels}"), rel=0.1)
        for scope in ("energy", "full"):
            labels = f'{{kind="{kind}", scope="{scope}"}}'
            per_million = server.value(f"model:tpw_cost_per_million_tokens:ratio_rate5m{labels}")
            assert per_million == pytest.approx(1e6 * server.value(f"tpw_cost_per_token{labels}"), rel=0.1)


def agrees(server: Prometheus, record: str, numerator: str, denominator: str) -> bool:
    """Whether the newest value of a ratio is the rise of one counter over that of the other, summed over their series.

    A scrape has the time of its beginning: one that was under way when the rule was evaluated may not be in it.
    """
    at = server.value(f"timestamp({record})")
    [recorded] = server.points(f"{record}[1s]", at)
    over, under = (server.points(f"{selector}[5m]", at) for selector in (numerator, denominator))
    *_, before, last = (time for time, _ in over[0].values)
    ends = [last, before] if at - last < 0.5 else [last]
    expected = [rise(over, end) / rise(under, end) for end in ends]
    return any(recorded.value == pytest.approx(value, rel=1e-9) for value in expected)


def rise(series: list[Sample], end: float) -> float:
    """From the first sample to the one at ``end``, all series together."""
    return sum(dict(sample.values)[end] - sample.values[0][1] for sample in series)
