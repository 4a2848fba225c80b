"""Tokens of real llama-servers, compared with the usage in their responses: streams, dropped requests, caches."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fakenvml import FakeNvml
from support.scraped import Page, parse
from support.servers import Exporter, Llama, http_get, http_post_json, wait_until

STORY = "A power plant in the hills sends its current down to the valley, where a small machine writes. " * 8


@pytest.fixture
def nvml(tmp_path: Path) -> Iterator[FakeNvml]:
    with FakeNvml(tmp_path, 2, refresh_seconds=0.1) as fake:
        yield fake


def config(llama: Llama, **more: Any) -> dict[str, Any]:
    return {
        "host": {"meters": []},
        "discovery": {"processes": False},
        "servers": [{"name": "chat", "url": llama.url, "gpus": [0]}],
        **more,
    }


def page(exporter: Exporter) -> Page:
    return parse(exporter.metrics())


def tokens(metrics: Page, kind: str, server: str = "chat") -> float:
    return metrics.value("tpw_server_tokens_total", server=server, kind=kind)


def own_counters(llama: Llama) -> dict[str, float]:
    """By our kind of token, as the server itself counts."""
    names = {
        "llamacpp:tokens_predicted_total": "output",
        "llamacpp:prompt_tokens_total": "input",
        "llamacpp:prompt_tokens_cached_total": "cached_input",
    }
    lines = (line.split() for line in llama.metrics().splitlines() if line and not line.startswith("#"))
    return {names[name]: float(value) for name, value in lines if name in names}


def risen(after: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    return {kind: after[kind] - before[kind] for kind in after}


def settle(daemon: Exporter, kinds: dict[str, float], first: Page) -> dict[str, float]:
    """What the exporter's counters rose by, once they have risen by this much, and still two ticks later."""
    wait_until(
        lambda: all(tokens(page(daemon), kind) - tokens(first, kind) >= rise for kind, rise in kinds.items()),
        f"tokens {kinds}",
    )
    time.sleep(2.2)
    last = page(daemon)
    return {kind: tokens(last, kind) - tokens(first, kind) for kind in kinds}


def test_t01_tokens_move_every_second_of_a_long_generation_and_end_as_usage(
    exporter: Callable[..., Exporter], start_llama: Callable[..., Llama], nvml: FakeNvml
) -> None:
    own = start_llama()
    daemon = exporter(config(own), environment=nvml.env())
    first = page(daemon)
    usage: list[dict[str, int]] = []
    generation = threading.Thread(target=lambda: usage.append(own.complete("Once upon a time", 400)))
    generation.start()
    seen: list[tuple[float, float]] = []
    counter = []
    while generation.is_alive():
        now = page(daemon)
        counter.append(own_counters(own)["output"])
        seen.append((now.value("tpw_snapshot_timestamp_seconds"), tokens(now, "output") - tokens(first, "output")))
        time.sleep(0.25)
    generation.join()

    # The server's own counter does not rise until the end; it may have risen by the last scrape.
    assert set(counter[:-1]) == {0.0}
    by_tick = dict(seen)
    moving = [(made, later) for made, later in pairwise(by_tick.values()) if made > 0.0]
    assert len(moving) >= 3
    assert all(later > made for made, later in moving), seen
    assert settle(daemon, {"output": 400.0}, first) == {"output": usage[0]["completion_tokens"]}
    assert page(daemon).value("tpw_server_info", server="chat", cadence="step") == 1.0


def test_tokens_are_the_sum_of_usage_whatever_the_requests_are_like(
    exporter: Callable[..., Exporter], start_llama: Callable[..., Llama], nvml: FakeNvml
) -> None:
    own = start_llama()
    own.complete("Warm up.", 2)
    daemon = exporter(config(own), environment=nvml.env())
    first, before = page(daemon), own_counters(own)
    usages: list[dict[str, Any]] = []

    def ask(prompt: str, count: int) -> None:
        usages.append(own.complete(prompt, count))

    def stream(prompt: str, count: int) -> None:
        lines = list(own.stream(prompt, count, stream_options={"include_usage": True}))
        usages.append(next(event["usage"] for event in map(json.loads, lines[-2::-1]) if event.get("usage")))

    # At the same time, more of them than there are slots, plain and streamed.
    jobs = [threading.Thread(target=ask, args=(f"Number {n} is", 20 + n)) for n in range(4)]
    jobs += [threading.Thread(target=stream, args=(f"Once upon {n}", 15 + n)) for n in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    # A long prompt, and then with another end: its beginning is in the cache.
    ask(STORY + "One.", 4)
    ask(STORY + "Two.", 4)
    cached = sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in usages)
    usage_sum = {
        "output": sum(usage["completion_tokens"] for usage in usages),
        "input": sum(usage["prompt_tokens"] for usage in usages) - cached,
        "cached_input": cached,
    }
    assert (len(usages), cached > 100) == (10, True)
    assert settle(daemon, usage_sum, first) == usage_sum
    assert risen(own_counters(own), before) == usage_sum


def test_t16_two_answers_to_one_prompt_are_two_outputs_and_one_input(
    exporter: Callable[..., Exporter], start_llama: Callable[..., Llama], nvml: FakeNvml
) -> None:
    """llama-server's rule: the prompt is worked through once; ``usage`` speaks of the first answer alone."""
    own = start_llama()
    own.complete("Warm up.", 2)
    daemon = exporter(config(own), environment=nvml.env())
    first = page(daemon)
    body = {"prompt": "The second law states", "max_tokens": 20, "ignore_eos": True, "n": 2}
    answered = http_post_json(f"{own.url}/v1/completions", body)

    assert (len(answered["choices"]), answered["usage"]["completion_tokens"]) == (2, 20)
    expected = {"output": 40.0, "input": float(answered["usage"]["prompt_tokens"]), "cached_input": 0.0}
    assert settle(daemon, expected, first) == expected


def test_t17_what_was_made_for_a_client_that_went_away_is_counted(
    exporter: Callable[..., Exporter], start_llama: Callable[..., Llama], nvml: FakeNvml
) -> None:
    """llama-server's rule: it notices within a token or two, and counts what it has made."""
    own = start_llama()
    own.complete("Warm up.", 2)
    daemon = exporter(config(own), environment=nvml.env())
    first, before = page(daemon), own_counters(own)
    for wanted in (5, 60):
        lines = own.stream("Once upon a time", 900)
        for _ in range(wanted):
            next(lines)
        lines.close()
    wait_until(lambda: b'"is_processing":true' not in http_get(f"{own.url}/slots"), "both given up")
    rise = risen(own_counters(own), before)

    assert 65 <= rise["output"] < 900
    assert settle(daemon, rise, first) == rise


def test_t08_a_server_killed_in_the_middle_loses_and_invents_nothing(
    exporter: Callable[..., Exporter], start_llama: Callable[..., Llama], nvml: FakeNvml
) -> None:
    own = start_llama()
    port = int(own.url.rpartition(":")[2])
    daemon = exporter(config(own), environment=nvml.env())
    first = page(daemon)
    done = own.complete("Before", 30)["completion_tokens"]
    lines = own.stream("Once upon a time", 900)
    for _ in range(40):
        next(lines)
    wait_until(lambda: tokens(page(daemon), "output") - tokens(first, "output") > done, "some in flight")
    own.child.kill()
    lines.close()
    held = tokens(page(daemon), "output") - tokens(first, "output")
    again = start_llama(port=port)
    lost = held - done
    made = again.complete("After", int(lost) + 60)["completion_tokens"]

    # The request that died was never counted by anybody; what it had made is part of what came after.
    assert 0 < lost < 900
    assert settle(daemon, {"output": float(done + made)}, first) == {"output": float(done + made)}


def test_t08_a_server_restarted_while_the_exporter_was_down_is_counted_though_its_counter_is_higher(
    exporter: Callable[..., Exporter], start_llama: Callable[..., Llama], nvml: FakeNvml
) -> None:
    own = start_llama()
    port = int(own.url.rpartition(":")[2])
    daemon = exporter(config(own), environment=nvml.env())
    first = page(daemon)
    before = own.complete("Before", 20)
    usage_sum = {"output": float(before["completion_tokens"]), "input": float(before["prompt_tokens"])}
    assert settle(daemon, usage_sum, first) == usage_sum
    daemon.child.stop()
    own.child.kill()
    time.sleep(1.1)  # the kernel reports start times of processes in whole seconds
    again = start_llama(port=port)
    after = again.complete(STORY, 60)
    assert all(own_counters(again)[kind] > count for kind, count in usage_sum.items())
    daemon = exporter(config(again), environment=nvml.env(), state=daemon.state)

    usage_sum = {
        "output": usage_sum["output"] + after["completion_tokens"],
        "input": usage_sum["input"] + after["prompt_tokens"],
    }
    assert settle(daemon, usage_sum, first) == usage_sum


def test_t24_reading_slots_changes_nothing_that_others_read(start_llama: Callable[..., Llama]) -> None:
    """The page resets its gauges of throughput at every read, whoever reads; asking for slots does not."""
    own = start_llama()

    def throughput() -> float:
        return next(
            float(line.split()[1])
            for line in own.metrics().splitlines()
            if line.startswith("llamacpp:predicted_tokens_seconds ")
        )

    own.complete("Once upon a time", 30)
    for _ in range(3):
        http_get(f"{own.url}/slots")
    assert throughput() > 0.0
    assert throughput() == 0.0


def test_a_server_without_slots_is_counted_at_the_end_of_requests_and_that_is_logged_once(
    exporter: Callable[..., Exporter], start_llama: Callable[..., Llama], nvml: FakeNvml
) -> None:
    own = start_llama("--no-slots")
    daemon = exporter(config(own), environment=nvml.env())
    first = page(daemon)
    made = own.complete("Once upon a time", 200)["completion_tokens"]

    assert settle(daemon, {"output": float(made)}, first) == {"output": float(made)}
    assert page(daemon).value("tpw_server_info", server="chat", cadence="finish") == 1.0
    assert daemon.child.log.read_text().count("event=server_incomplete server=chat") == 1
    assert any("--slots" in note for note in daemon.status()["notes"])


def test_t28_a_server_is_found_with_no_configuration_and_owns_what_its_process_holds(
    exporter: Callable[..., Exporter], start_llama: Callable[..., Llama], nvml: FakeNvml
) -> None:
    own = start_llama()
    nvml.processes(1, [own.child.pid])
    name = f"llamacpp-{own.url.rpartition(':')[2]}"
    daemon = exporter(None, environment=nvml.env())
    wait_until(lambda: page(daemon).values_of("tpw_server_up", server=name) == [1.0], f"{name} up")
    found = page(daemon)

    owned = [
        dict(labels)["gpu"] for sample, labels in found if sample == "tpw_server_gpu" and ("server", name) in labels
    ]
    assert owned == ["1"]
    assert found.value("tpw_server_info", server=name, engine="llamacpp", attribution="processes") == 1.0
    made = own.complete("Found", 25)["completion_tokens"]
    wait_until(
        lambda: page(daemon).sum("tpw_server_tokens_total", server=name, kind="output") == made,
        "its tokens",
    )
    assert page(daemon).value("tpw_server_tokens_total", server=name, model="smollm", kind="output") == made


def test_a_server_s_gpus_are_known_by_its_environment_where_the_driver_lists_no_processes(
    exporter: Callable[..., Exporter],
    start_llama: Callable[..., Llama],
    nvml: FakeNvml,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for i in range(2):
        nvml.gpu(i).flag("no_processes")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", nvml.uuid(1))
    own = start_llama()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    watched = {"host": {"meters": []}, "discovery": {"processes": False}, "servers": [{"name": "chat", "url": own.url}]}
    daemon = exporter(watched, environment=nvml.env())
    wait_until(lambda: page(daemon).values_of("tpw_server_gpu", server="chat", gpu="1") == [1.0], "its GPU")
    found = page(daemon)

    assert found.values_of("tpw_server_gpu", server="chat", gpu="0") == []
    assert found.value("tpw_server_info", server="chat", attribution="environment") == 1.0
    own.child.stop()
    wait_until(lambda: page(daemon).values_of("tpw_server_gpu", server="chat") == [], "nobody's again")
