"""A real vLLM on the CPU. Needs a download of 2.3 GB: ``make test-heavy``."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import tpw
from fakenvml import FakeNvml
from support import realparts
from support.measured import Measure, configuration, true_joules
from support.scraped import Page, parse
from support.servers import Child, Exporter, Llama, free_port, http_get, http_post_json, wait_until

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1800)]

STORY = "A power plant in the hills sends its current down to the valley, where a small machine writes. " * 4


Usage = dict[str, Any]


@dataclass
class Vllm:
    """vLLM on one port, which may be started again."""

    port: int
    packages: Path
    child: Child

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def complete(self, prompt: str, tokens: int, **options: object) -> Usage:
        body = {"model": "tiny", "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, **options}
        return dict(http_post_json(f"{self.url}/v1/completions", body)["usage"])

    def stream(self, prompt: str, tokens: int, **options: bool) -> Iterator[bytes]:
        """Lines of a streamed completion, its usage in the last but one."""
        body = {"model": "tiny", "stream_options": {"include_usage": True, **options}}
        return Llama(self.child, self.url).stream(prompt, tokens, **body)

    def hook(self) -> dict[str, float]:
        """What the middleware has counted."""
        text = http_get(f"{self.url}/tpw/metrics").decode()
        names = ("output_tokens_total", "prompt_tokens_total", "cached_tokens_total", "requests_without_usage_total")
        return {name: total(text, f"tpw_hook_{name}") for name in names}

    def counters(self) -> dict[str, float]:
        """By our kind of token, as vLLM itself counts."""
        text = http_get(f"{self.url}/metrics").decode()
        source = "vllm:prompt_tokens_by_source_total{"
        return {
            "output": total(text, "vllm:generation_tokens_total{"),
            "input": total(text, source, 'source="local_compute"'),
            "cached_input": total(text, source, 'source="local_cache_hit"'),
        }


def total(text: str, beginning: str, part: str = "") -> float:
    lines = [line for line in text.splitlines() if line.startswith(beginning) and part in line]
    return sum(float(line.split()[-1]) for line in lines)


def start(port: int, packages: Path) -> Child:
    """With our middleware in it; of ours it is given that package and nothing else."""
    parts = realparts.vllm()
    flags = ("--enable-prompt-tokens-details", "--middleware", "tpw.hook.TokenCounter")
    environment = {**parts.environment(), "PYTHONPATH": str(packages)}
    child = Child(f"vllm-{port}", parts.command(port, *flags), environment)
    child.wait_ready(f"http://127.0.0.1:{port}/health", timeout=240)
    return child


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllm]:
    port = free_port()
    packages = tmp_path_factory.mktemp("packages")
    (packages / "tpw").symlink_to(Path(tpw.__file__).parent)
    with ExitStack() as stack:
        server = Vllm(port, packages, start(port, packages))
        stack.callback(lambda: server.child.stop(timeout=30))
        server.complete("Warm up.", 2)
        yield server


@pytest.fixture
def nvml(tmp_path: Path) -> Iterator[FakeNvml]:
    with FakeNvml(tmp_path, 2, refresh_seconds=0.1) as fake:
        yield fake


@pytest.fixture
def daemon(exporter: Callable[..., Exporter], vllm: Vllm, nvml: FakeNvml) -> Exporter:
    configuration = {
        "host": {"meters": []},
        "discovery": {"processes": False},
        "servers": [{"name": "chat", "url": vllm.url, "gpus": [0]}],
    }
    return exporter(configuration, environment=nvml.env())


def page(exporter: Exporter) -> Page:
    return parse(exporter.metrics())


def tokens(metrics: Page, kind: str) -> float:
    return metrics.value("tpw_server_tokens_total", server="chat", kind=kind)


def settle(daemon: Exporter, kinds: dict[str, float], first: Page) -> dict[str, float]:
    """What the exporter's counters rose by, once they have risen by this much, and still two ticks later."""
    wait_until(
        lambda: all(tokens(page(daemon), kind) - tokens(first, kind) >= rise for kind, rise in kinds.items()),
        f"tokens {kinds}",
    )
    time.sleep(2.2)
    last = page(daemon)
    return {kind: tokens(last, kind) - tokens(first, kind) for kind in kinds}


def risen(after: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    return {kind: after[kind] - before[kind] for kind in after}


def summed(usages: list[Usage]) -> dict[str, float]:
    cached = sum((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0 for usage in usages)
    prompts = sum(usage["prompt_tokens"] for usage in usages)
    output = sum(usage["completion_tokens"] for usage in usages)
    return {"output": output, "input": prompts - cached, "cached_input": cached}


def usage_of(lines: list[bytes]) -> Usage:
    return next(event["usage"] for event in map(json.loads, lines[-2::-1]) if event.get("usage"))


def test_tokens_are_the_sum_of_usage_streamed_at_once_and_from_the_cache(vllm: Vllm, daemon: Exporter) -> None:
    first, before = page(daemon), vllm.counters()
    usages: list[Usage] = []
    jobs = [
        threading.Thread(target=lambda n=n: usages.append(vllm.complete(f"Number {n} is", 20 + n))) for n in range(4)
    ]
    jobs += [
        threading.Thread(target=lambda n=n: usages.append(usage_of(list(vllm.stream(f"Once upon {n}", 15 + n)))))
        for n in range(4)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    usages += [vllm.complete(STORY + end, 4) for end in ("One.", "Two.")]
    usage_sum = summed(usages)

    assert (len(usages), usage_sum["cached_input"] > 100) == (10, True)
    assert settle(daemon, usage_sum, first) == usage_sum
    assert risen(vllm.counters(), before) == usage_sum
    assert page(daemon).value("tpw_server_info", server="chat", engine="vllm", cadence="step") == 1.0


def test_t01_tokens_move_while_a_request_runs(vllm: Vllm, daemon: Exporter) -> None:
    first = page(daemon)
    usages: list[Usage] = []
    # One after the other, so that they take several ticks on a fast machine too.
    generation = threading.Thread(
        target=lambda: usages.extend(vllm.complete(f"Once upon a time {n}", 900) for n in range(4))
    )
    generation.start()
    seen: dict[float, float] = {}
    while generation.is_alive():
        now = page(daemon)
        seen[now.value("tpw_snapshot_timestamp_seconds")] = tokens(now, "output") - tokens(first, "output")
        time.sleep(0.25)
    generation.join()
    within = {made for made in seen.values() if made % 900.0}

    assert len(within) >= 2, seen
    assert settle(daemon, {"output": 3600.0}, first) == {"output": summed(usages)["output"]}


def test_t16_a_prompt_with_two_answers_is_counted_twice_by_vllm_itself(vllm: Vllm, daemon: Exporter) -> None:
    """vLLM's rule: ``usage`` has the prompt once, its counters once for each answer. Both are exposed unchanged."""
    first = page(daemon)
    usage = vllm.complete("The second law states", 20, n=2)
    rise = {"output": 40.0, "input": 2.0 * usage["prompt_tokens"]}

    assert usage["completion_tokens"] == 40
    last = settle(daemon, {"output": 40.0}, first)
    assert last == {"output": 40.0}
    both = page(daemon)
    prompts = sum(tokens(both, kind) - tokens(first, kind) for kind in ("input", "cached_input"))
    assert prompts == rise["input"]


def test_t17_what_was_made_for_a_client_that_went_away_is_counted(vllm: Vllm, daemon: Exporter) -> None:
    """vLLM's rule: the tokens of a request that is given up are in the counters, the request is not."""
    first, before = page(daemon), vllm.counters()
    finished = first.sum("tpw_server_requests_total", server="chat")
    lines = vllm.stream("Once upon a time", 900)
    for _ in range(20):
        next(lines)
    lines.close()  # type: ignore[attr-defined]
    wait_until(
        lambda: total(http_get(f"{vllm.url}/metrics").decode(), "vllm:num_requests_running{") == 0.0,
        "given up",
    )
    rise = risen(vllm.counters(), before)

    assert 20 <= rise["output"] < 900
    assert settle(daemon, rise, first) == rise
    assert page(daemon).sum("tpw_server_requests_total", server="chat") == finished


def test_the_middleware_within_it_counts_the_usage_in_its_responses(vllm: Vllm) -> None:
    """``--middleware tpw.hook.TokenCounter``."""
    before, own = vllm.hook(), vllm.counters()
    usages = [vllm.complete(STORY + "Three.", 7), vllm.complete(STORY + "Four.", 5)]
    usages += [usage_of(list(vllm.stream("Once upon a time", 30)))]
    usages += [usage_of(list(vllm.stream("Once upon a day", 30, continuous_usage_stats=True)))]
    usages += [vllm.complete("A long answer", 3, prompt_logprobs=20, echo=True)]
    unasked = list(vllm.stream("Nobody asked", 20, include_usage=False))
    usage_sum = summed(usages)

    assert risen(vllm.hook(), before) == {
        "output_tokens_total": usage_sum["output"],
        "prompt_tokens_total": usage_sum["input"] + usage_sum["cached_input"],
        "cached_tokens_total": usage_sum["cached_input"],
        "requests_without_usage_total": 1.0,
    }
    assert (len(unasked) > 2, any(b'"usage":{' in line for line in unasked)) == (True, False)
    assert usage_sum["cached_input"] > 100
    assert risen(vllm.counters(), own)["output"] == usage_sum["output"] + 20.0


def test_t28_it_is_found_with_no_configuration_and_owns_what_its_engine_holds(
    vllm: Vllm, exporter: Callable[..., Exporter], nvml: FakeNvml
) -> None:
    """The engine is another process than the one that listens."""
    children = Path(f"/proc/{vllm.child.pid}/task/{vllm.child.pid}/children").read_text().split()
    engines = [int(pid) for pid in children if "EngineCore" in Path(f"/proc/{pid}/cmdline").read_text()]
    nvml.processes(1, engines)
    found = exporter(None, environment=nvml.env())
    name = f"vllm-{vllm.port}"
    wait_until(lambda: page(found).values_of("tpw_server_up", server=name) == [1.0], f"{name} up")
    last = page(found)

    assert len(engines) == 1
    assert last.value("tpw_server_gpu", server=name, gpu="1") == 1.0
    assert last.values_of("tpw_server_gpu", server=name, gpu="0") == []
    assert last.value("tpw_server_info", server=name, engine="vllm", attribution="processes") == 1.0
    assert last.value("tpw_server_tokens_total", server=name, kind="output", model="tiny") >= 0.0


def test_t08_a_restart_in_the_middle_loses_and_invents_nothing(vllm: Vllm, daemon: Exporter) -> None:
    """The last test: the server of this module is another process after it."""
    first, before = page(daemon), vllm.counters()
    done = [vllm.complete("Before", 30)]
    lines = vllm.stream("Once upon a time", 900)
    for _ in range(40):
        next(lines)
    wait_until(lambda: tokens(page(daemon), "output") - tokens(first, "output") > 30, "some of it seen")
    counted = risen(vllm.counters(), before)
    time.sleep(1.5)  # what was counted by then has been read
    vllm.child.stop(timeout=30)
    lines.close()  # type: ignore[attr-defined]
    wait_until(lambda: page(daemon).value("tpw_server_up", server="chat") == 0.0, "down")
    down = page(daemon)
    vllm.child = start(vllm.port, vllm.packages)
    done.append(vllm.complete("After", 50))

    # Counted when it went: at least what was counted a moment before, at most all that was wanted of it.
    gone = tokens(down, "output") - tokens(first, "output")
    assert max(counted["output"], 30 + 40 - 1) <= gone <= 30 + 900
    assert settle(daemon, {"output": gone + 50.0}, first) == {"output": gone + 50.0}
    assert vllm.counters()["output"] == 50.0


def test_requests_within_targets_are_those_of_vllm_s_own_histograms(
    exporter: Callable[..., Exporter], vllm: Vllm, nvml: FakeNvml
) -> None:
    """At bounds of its buckets exact, between them unknown; all targets together at least as Fréchet's bounds have it."""
    names = {"ttft": "time_to_first_token", "tpot": "request_time_per_output_token", "e2e": "e2e_request_latency"}
    configuration = {
        "host": {"meters": []},
        "discovery": {"processes": False},
        "slo": {"ttft": "100ms", "tpot": "30ms", "e2e": "1s"},
        "servers": [{"name": "chat", "url": vllm.url, "gpus": [0]}],
    }
    daemon = exporter(configuration, environment=nvml.env())
    first = page(daemon)

    def within(slo: str, bound: str) -> float:
        text = http_get(f"{vllm.url}/metrics").decode()
        return total(text, f"vllm:{names[slo]}_seconds_bucket{{", f'le="{bound}"')

    bounds = {"ttft": ("0.1", "0.1"), "tpot": ("0.025", "0.05"), "e2e": ("1.0", "1.0")}
    before = {slo: [within(slo, bound) for bound in (*pair, "+Inf")] for slo, pair in bounds.items()}
    jobs = [threading.Thread(target=vllm.complete, args=(f"Number {n} is", 4 + 30 * n)) for n in range(8)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    after = {slo: [within(slo, bound) for bound in (*pair, "+Inf")] for slo, pair in bounds.items()}

    def requests(slo: str, met: str) -> float:
        name = "tpw_server_slo_requests_total"
        return page(daemon).value(name, slo=slo, met=met) - first.value(name, slo=slo, met=met)

    wait_until(lambda: sum(requests("all", met) for met in ("yes", "no", "unknown")) == 8.0, "eight requests")
    missed = []
    for slo in bounds:
        low, high, count = (now - then for now, then in zip(after[slo], before[slo], strict=True))
        assert [requests(slo, met) for met in ("yes", "no", "unknown")] == [low, count - high, high - low]
        missed.append((count - low, count - high))
    assert requests("all", "yes") >= 8.0 - sum(at_most for at_most, _ in missed)
    assert requests("all", "no") >= max(at_least for _, at_least in missed)


def test_a_measured_sweep_has_the_tokens_of_the_usage_and_repeats_that_agree(
    vllm: Vllm, nvml: FakeNvml, tmp_path: Path
) -> None:
    """Figures stand if the 95 % bound of their mean is within 2 %: joules always do, tokens where nothing else takes the
    CPU that this vLLM computes on."""
    is_quiet = os.getloadavg()[0] < 1.5
    options = ["--sweep", f"--target={vllm.url}", "--concurrency=1,4", "--input-tokens=32", "--output-tokens=64"]
    measured = Measure(tmp_path, nvml.env(), configuration(vllm.url), *options, "--repeat=6s", "--repeats=4,12")
    status, out, err = measured.finish(timeout=900)
    found = measured.document()

    assert (status, found["complete"]) == (0, True), err
    print(out)
    for point in found["points"]:
        assert point["tokens"]["usage"] == point["tokens"]["counted"]
        assert point["tokens"]["usage"]["output"] == 64 * point["requests"]
        assert point["failed"] == 0
        run = point["account"]
        true = true_joules(nvml, 0, run["energy_begin"], run["energy_end"])
        assert run["gpus"][0]["total_joules"] == pytest.approx(true, rel=0.005)
        for repeat in point["repeats"]:
            # The counter is up to 0.1 s old at either end.
            assert repeat["joules"] == pytest.approx(100.0 * repeat["seconds"], abs=15.0)
        assert point["watts"] == pytest.approx(100.0, rel=0.02)
        assert point["stands"] == (point["error_ratio"] <= 0.02)
        assert point["stands"] or not is_quiet, (point["concurrency"], point["error_ratio"], len(point["repeats"]))
    assert found["best"]["cost"] == found["best"]["tokens_per_watt"] == 4
