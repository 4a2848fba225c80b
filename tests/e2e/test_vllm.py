"""A real vLLM on the CPU. Needs a download of 2.3 GB: ``make test-heavy``."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from support import realparts
from support.servers import Child, free_port, http_get, http_post_json

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def vllm():
    parts = realparts.vllm()
    port = free_port()
    with ExitStack() as stack:
        child = Child(f"vllm-{port}", parts.command(port), parts.environment())
        stack.callback(child.stop, timeout=30)
        child.wait_ready(f"http://127.0.0.1:{port}/health", timeout=240)
        yield f"http://127.0.0.1:{port}"


def total(page: str, name: str) -> float:
    lines = [line for line in page.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
    return sum(float(line.split()[-1]) for line in lines)


def test_vllm_counts_exactly_what_it_says_it_processed(vllm):
    before = http_get(f"{vllm}/metrics").decode()
    body = {"model": "tiny", "prompt": "a watt for a second", "max_tokens": 24, "ignore_eos": True}
    usage = http_post_json(f"{vllm}/v1/completions", body)["usage"]
    after = http_get(f"{vllm}/metrics").decode()

    assert usage["completion_tokens"] == 24
    for name, field in [
        ("vllm:generation_tokens_total", "completion_tokens"),
        ("vllm:prompt_tokens_total", "prompt_tokens"),
    ]:
        assert total(after, name) - total(before, name) == usage[field]
