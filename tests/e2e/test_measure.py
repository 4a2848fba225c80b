"""``measure`` on a real llama-server, with the energy of a simulated GPU that is known exactly."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fakenvml import FakeNvml
from support.measured import Measure, configuration, true_joules
from support.servers import Exporter, Llama, wait_until

REQUESTS = 3
TOKENS = 12
DRIVER = f"""
import json, sys, time, urllib.request
for number in range({REQUESTS}):
    body = {{"prompt": f"Number {{number}} is", "max_tokens": {TOKENS}, "ignore_eos": True}}
    request = urllib.request.Request(sys.argv[1] + "/v1/completions", json.dumps(body).encode(),
                                     {{"Content-Type": "application/json"}})
    print(json.dumps(json.load(urllib.request.urlopen(request))["usage"]), flush=True)
"""


@pytest.fixture
def nvml(tmp_path: Path) -> Iterator[FakeNvml]:
    with FakeNvml(tmp_path, 2, watts=350.0, refresh_seconds=0.02) as fake:
        fake.gpu(0).set_square(150.0, 600.0, 0.7, 0.4)
        yield fake


@pytest.fixture
def config(tmp_path: Path, llama: Llama) -> dict[str, Any]:
    return configuration(llama.url)


def test_a_command_has_the_tokens_of_its_usage_and_the_joules_of_its_gpus(
    llama: Llama, nvml: FakeNvml, config: dict[str, Any], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", DRIVER, llama.url]
    measured = Measure(tmp_path, nvml.env(), config, "--json", "--", *command)
    status, out, err = measured.finish()
    found = json.loads(out)
    usages = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    run = found["account"]
    model = run["servers"][0]["models"][0]

    assert (status, found["complete"], found["command"]["exit_status"]) == (0, True, 0)
    assert measured.document() == found
    assert len(usages) == REQUESTS
    assert model["tokens"]["output"] == REQUESTS * TOKENS
    prompts = sum(usage["prompt_tokens"] for usage in usages)
    assert model["tokens"]["input"] + model["tokens"]["cached_input"] == prompts
    for gpu in run["gpus"]:
        # The counter is up to one refresh old at either end.
        true = true_joules(nvml, gpu["index"], run["energy_begin"], run["energy_end"])
        assert gpu["total_joules"] == pytest.approx(true, abs=0.05 * 600.0)
    assert sum(model["joules"].values()) == pytest.approx(run["gpus"][0]["total_joules"])
    kwh = model["facility_joules"] / 3.6e6
    assert model["cost"]["energy"] == pytest.approx(0.31 * kwh)
    assert model["facility_joules"] == pytest.approx(1.2 * sum(model["joules"].values()))


def test_a_running_daemon_accounts_for_the_same(
    llama: Llama, nvml: FakeNvml, config: dict[str, Any], exporter: Callable[..., Exporter], tmp_path: Path
) -> None:
    daemon = exporter(config, environment=nvml.env())
    command = [sys.executable, "-c", DRIVER, llama.url]
    measured = Measure(tmp_path, {}, {}, f"--url={daemon.url}", "--server=chat", "--", *command)
    status, out, _ = measured.finish()
    run = measured.document()["account"]

    assert status == 0
    assert run["servers"][0]["models"][0]["tokens"]["output"] == REQUESTS * TOKENS
    assert [gpu["index"] for gpu in run["gpus"]] == [0]
    true = true_joules(nvml, 0, run["energy_begin"], run["energy_end"])
    assert run["gpus"][0]["total_joules"] == pytest.approx(true, abs=0.05 * 600.0)
    assert f"{run['gpus'][0]['name']}" in out


def test_a_command_that_fails_is_a_failure_with_its_account(
    llama: Llama, nvml: FakeNvml, config: dict[str, Any], tmp_path: Path
) -> None:
    measured = Measure(tmp_path, nvml.env(), config, "--", sys.executable, "-c", "raise SystemExit(2)")
    assert measured.finish()[0] == 1
    found = measured.document()
    assert found["command"]["exit_status"] == 2
    assert found["account"]["seconds"] > 0.0
    assert not found["complete"]


def sweep(llama: Llama, *options: str) -> list[str]:
    return ["--sweep", f"--target={llama.url}", "--input-tokens=16", "--output-tokens=8", "--repeat=500ms", *options]


def test_a_sweep_has_the_tokens_of_the_usage_at_every_concurrency(
    llama: Llama, nvml: FakeNvml, config: dict[str, Any], tmp_path: Path
) -> None:
    picture = tmp_path / "curve.svg"
    options = sweep(llama, "--concurrency=1,2", "--repeats=2,3", "--targets=ttft=60s,tpot=10s", f"--svg={picture}")
    measured = Measure(tmp_path, nvml.env(), config, *options)
    status, out, err = measured.finish()
    found = measured.document()

    assert (status, found["complete"]) == (0, True), err
    assert [point["concurrency"] for point in found["points"]] == [1, 2]
    for point in found["points"]:
        assert point["tokens"]["usage"] == point["tokens"]["counted"]
        assert point["tokens"]["usage"]["output"] == 8 * point["requests"] > 0
        assert point["failed"] == 0
        run = point["account"]
        true = true_joules(nvml, 0, run["energy_begin"], run["energy_end"])
        assert run["gpus"][0]["total_joules"] == pytest.approx(true, abs=0.05 * 600.0)
        for repeat in point["repeats"]:
            true = true_joules(nvml, 0, repeat["begin"], repeat["begin"] + repeat["seconds"])
            assert repeat["joules"] == pytest.approx(true, abs=0.05 * 600.0)
        assert set(point["cost_per_token"]) == {"energy", "full"}
    assert found["best"]["cost_at_targets"] in (1, 2)
    assert picture.read_text().startswith("<svg")
    assert out.count("\u2588") > 0


def repeats(measured: Measure) -> int:
    if not measured.output.exists():
        return 0
    return sum(len(point["repeats"]) for point in measured.document().get("points", ()))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_is_killed_leaves_what_it_has_and_marks_it(
    llama: Llama, nvml: FakeNvml, config: dict[str, Any], tmp_path: Path, number: signal.Signals
) -> None:
    measured = Measure(tmp_path, nvml.env(), config, *sweep(llama, "--concurrency=1", "--repeats=50,50"))
    wait_until(lambda: repeats(measured) >= 2, "two repeats", timeout=30)
    os.kill(measured.process.pid, number)
    status, out, _ = measured.finish(timeout=10)
    found = measured.document()

    assert not found["complete"]
    assert len(found["points"][0]["repeats"]) >= 2
    assert found["points"][0]["tokens_per_watt"]["output"] > 0.0
    if number is signal.SIGKILL:
        assert status == -number
    else:
        assert (status, found["ended_by"]) == (0, number.name)
        assert number.name in out


def test_sigterm_ends_the_command_too_and_keeps_its_account(
    llama: Llama, nvml: FakeNvml, config: dict[str, Any], tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    code = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    measured = Measure(tmp_path, nvml.env(), config, "--", sys.executable, "-c", code)
    pid = int(wait_until(lambda: pid_file.exists() and pid_file.read_text(), "the command", timeout=30))
    os.kill(measured.process.pid, signal.SIGTERM)
    assert measured.finish(timeout=15)[0] == 0
    found = measured.document()
    assert (found["complete"], found["ended_by"]) == (False, "SIGTERM")
    assert found["account"]["gpus"][0]["total_joules"] > 0.0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
