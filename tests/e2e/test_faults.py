"""Law 8: servers that answer rubbish, hang, or are something else leave everybody else as they were."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fakenvml import FakeNvml
from support.pageserver import NOT_FOUND, Asked, PageServer, answer
from support.scraped import Page, parse
from support.servers import Exporter, Llama, wait_until

GARBAGE = answer(bytes(range(1, 256)) * 40)
HTML = answer("<!doctype html><title>Sign in</title><p>5 6</p>", content_type="text/html; charset=utf-8")


class Scripted:
    """A vLLM-like server that can be made to answer something else, or nothing at all."""

    def __init__(self) -> None:
        self.tokens = 1000
        self.answers: bytes | None = None
        self.goes_on = threading.Event()
        self.goes_on.set()

    def __call__(self, asked: Asked) -> bytes:
        self.goes_on.wait(60)
        if asked.path != "/metrics":
            return NOT_FOUND
        return self.answers or answer(
            "process_start_time_seconds 1795486027.04\n"
            'vllm:num_requests_running{engine="0",model_name="m"} 1\n'
            f'vllm:generation_tokens_total{{engine="0",model_name="m"}} {self.tokens}\n'
        )


@pytest.fixture
def nvml(tmp_path: Path) -> Iterator[FakeNvml]:
    with FakeNvml(tmp_path, 3, refresh_seconds=0.1) as fake:
        yield fake


@pytest.fixture
def turning() -> Iterator[tuple[Scripted, PageServer]]:
    script = Scripted()
    with PageServer(script) as server:
        yield script, server


@pytest.fixture
def hanging() -> Iterator[tuple[Scripted, PageServer]]:
    script = Scripted()
    with ExitStack() as stack:
        server = stack.enter_context(PageServer(script))
        stack.callback(script.goes_on.set)
        yield script, server


@pytest.fixture
def website() -> Iterator[PageServer]:
    with PageServer(lambda asked: HTML) as server:
        yield server


def page(exporter: Exporter) -> Page:
    return parse(exporter.metrics())


def up(metrics: Page) -> dict[str, tuple[float, float]]:
    """Of every server: tpw_server_up and tpw_source_up."""
    return {
        name: (metrics.value("tpw_server_up", server=name), metrics.value("tpw_source_up", source=f"server:{name}"))
        for name in ("chat", "turning", "hanging", "website")
    }


def tokens(metrics: Page, server: str) -> float:
    return metrics.value("tpw_server_tokens_total", server=server, kind="output")


def fallen(before: Page, after: Page) -> list[object]:
    """Counters that fell or are gone (law 5)."""
    return [(key, value, after.get(key)) for key, value in before.counters().items() if after.get(key, -1.0) < value]


def reasons(metrics: Page, server: str) -> set[str]:
    return {
        dict(labels)["reason"]
        for name, labels in metrics
        if name == "tpw_source_read_failures_total" and dict(labels)["source"] == f"server:{server}"
    }


def test_servers_that_answer_garbage_hang_or_are_something_else_affect_no_other(
    exporter: Callable[..., Exporter],
    llama: Llama,
    nvml: FakeNvml,
    turning: tuple[Scripted, PageServer],
    hanging: tuple[Scripted, PageServer],
    website: PageServer,
) -> None:
    nvml.gpu(0).set_constant(300.0)
    daemon = exporter(
        {
            "host": {"meters": []},
            "discovery": {"processes": False},
            "servers": [
                {"name": "chat", "url": llama.url, "gpus": [0]},
                {"name": "turning", "url": turning[1].url, "gpus": [1]},
                {"name": "hanging", "url": hanging[1].url, "gpus": [2], "timeout": "1s"},
                {"name": "website", "url": website.url, "gpus": "none"},
            ],
        },
        environment=nvml.env(),
    )
    good, bad = (1.0, 1.0), (0.0, 0.0)
    fine = {"chat": good, "turning": good, "hanging": good, "website": bad}
    wait_until(lambda: up(page(daemon)) == fine, "all but the website up")
    energy = "tpw_server_energy_joules_total"
    wait_until(
        lambda: all(page(daemon).sum(energy, server=name) > 0.0 for name in ("turning", "hanging")),
        "joules",
    )
    first = page(daemon)

    turning[0].answers = GARBAGE
    hanging[0].goes_on.clear()
    down = {"chat": good, "turning": bad, "hanging": bad, "website": bad}
    wait_until(lambda: up(page(daemon)) == down, "two more down")
    one = page(daemon)
    assert {name: reasons(one, name) for name in up(one)} == {
        "chat": set(),
        "turning": {"malformed"},
        "hanging": {"timeout"},
        "website": {"malformed"},
    }

    # Nobody else notices: every token and every joule of the others, at every tick.
    made = llama.complete("Go on as before", 20)["completion_tokens"]
    turning[0].tokens += 500
    hanging[0].tokens += 70
    # A tick that asks the one that hangs is stamped half a second after its joules were read: long enough to be little of.
    time.sleep(8.0)
    two = page(daemon)
    passed = two.value("tpw_snapshot_timestamp_seconds") - one.value("tpw_snapshot_timestamp_seconds")
    assert up(two) == down
    assert tokens(two, "chat") - tokens(one, "chat") == made
    for gpu, watts in (("0", 300.0), ("1", 100.0), ("2", 100.0)):
        metric = "tpw_gpu_energy_joules_total"
        assert two.value(metric, gpu=gpu) - one.value(metric, gpu=gpu) == pytest.approx(watts * passed, rel=0.1)
    for source in ("nvml", "server:chat"):
        reads = "tpw_source_reads_total"
        assert two.value(reads, source=source) - one.value(reads, source=source) >= 0.75 * passed
    # They keep their counters, and their work is not guessed.
    for name in ("turning", "hanging"):
        assert tokens(two, name) == tokens(one, name) == tokens(first, name)
        assert two.values_of("tpw_server_requests_running", server=name) == []
    assert fallen(first, two) == []

    turning[0].answers = None
    hanging[0].goes_on.set()
    wait_until(lambda: up(page(daemon)) == fine, "both back")
    last = page(daemon)
    assert tokens(last, "turning") - tokens(two, "turning") == 500
    assert tokens(last, "hanging") - tokens(two, "hanging") == 70
    assert fallen(two, last) == []
    log = daemon.child.log.read_text()
    logged = {
        name: [log.count(f"event=source_{way} source=server:{name}") for way in ("down", "up")] for name in up(last)
    }
    # Up at the start counts as one.
    assert logged == {"chat": [0, 1], "turning": [1, 2], "hanging": [1, 2], "website": [1, 0]}
    assert "traceback" not in log.lower()
