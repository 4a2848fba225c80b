"""A real LiteLLM bills with the price file, as docs/prices.md has it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from support import realparts
from support.pageserver import PageServer, answer, pages
from support.quarters import UNPRICED_FROM, write_books
from support.servers import free_port
from tpw.cli import main

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(300)]

TEXT = (
    (Path(__file__).resolve().parents[2] / "docs" / "prices.md").read_text().split("\n## LiteLLM")[1].split("\n## ")[0]
)
INPUT, CACHED, OUTPUT = 1000, 300, 200


def reply() -> bytes:
    return json.dumps(
        {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "llama-3.3-70b",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello."}}],
            "usage": {
                "prompt_tokens": INPUT,
                "completion_tokens": OUTPUT,
                "total_tokens": INPUT + OUTPUT,
                "prompt_tokens_details": {"cached_tokens": CACHED},
            },
        }
    ).encode()


def price_file(folder: Path, rate: float) -> dict[str, float]:
    """The entry of the model in a new file."""
    words = ("--format=litellm", f"--exchange-rate={rate}", "--from=2026-10-24", "--to=2026-10-25T05:00")
    path = folder / "litellm.json"
    assert main(["report", f"--state.dir={folder}", *words, f"--output={path}"]) == 0
    found: dict[str, float] = json.loads(path.read_text())["hosted_vllm/llama-3.3-70b"]
    return found


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[str]:
    """The address of LiteLLM's proxy, in front of a server with a known use."""
    program = realparts.litellm()
    write_books(tmp_path)
    price_file(tmp_path, 1.0)
    [callback] = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    settings = yaml.safe_load(re.findall(r"^```yaml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)[-1])
    (tmp_path / "tpw_prices.py").write_text(callback.replace("/var/lib/tpw-exporter", str(tmp_path)))
    port = free_port()
    # It reads no bodies, so each connection has one request.
    answered = answer(reply(), content_type="application/json", headers={"Connection": "close"})
    with PageServer(pages({"/v1/chat/completions": answered})) as server:
        settings["model_list"][0]["litellm_params"]["api_base"] = f"{server.url}/v1"
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
        environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith("PYTHON")},
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        }
        # By its interpreter: the first line of the program names the one of the folder it was installed in.
        command = [
            program.parent / "python",
            program,
            "--config",
            tmp_path / "config.yaml",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ]
        with (tmp_path / "litellm.log").open("wb") as log:
            process = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log)
        try:
            wait_for(f"http://127.0.0.1:{port}/health/liveliness", process, tmp_path / "litellm.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 150.0
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(log.read_text()[-3000:])


def billed(url: str) -> float:
    body = json.dumps({"model": "chat", "messages": [{"role": "user", "content": "Hello"}]}).encode()
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", body, {"Content-Type": "application/json", "Authorization": "Bearer none"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as found:
            return float(found.headers["x-litellm-response-cost"])
    except urllib.error.HTTPError as error:
        pytest.fail(f"{error.code} {error.read().decode()}")


def due(price: dict[str, float]) -> float:
    uncached = (INPUT - CACHED) * price["input_cost_per_token"] + CACHED * price["cache_read_input_token_cost"]
    return uncached + OUTPUT * price["output_cost_per_token"]


def test_it_bills_the_measured_cost_and_follows_the_file(asked: str, tmp_path: Path):
    assert UNPRICED_FROM == 1792904400.0  # --to
    first = price_file(tmp_path, 1.0)
    assert due(first) > 0.0
    assert billed(asked) == pytest.approx(due(first), rel=1e-9)
    time.sleep(0.01)
    second = price_file(tmp_path, 1.25)
    assert due(second) == pytest.approx(1.25 * due(first))
    assert billed(asked) == pytest.approx(due(second), rel=1e-9)
