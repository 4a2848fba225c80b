"""A server booked on one of its eight GPUs, and one that is a fifth worse than published: which is impossible?"""

from __future__ import annotations

import pytest

from fakenvml import FakeNvml
from support.pageserver import Asked, PageServer, answer
from support.scraped import Page as Scraped
from support.scraped import parse
from tpw.config.load import load
from tpw.daemon.daemon import Daemon
from tpw.exposition.render import Format, Page
from tpw.power.nvml import NvmlMeter

WATTS = 500.0
PUBLISHED = 1.0 / 0.07019
"""Output tokens per joule of Llama 3.1 8B on an H100 at 511 requests in flight (ML.ENERGY v3)."""
TEXT = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{model_name="meta-llama/Llama-3.1-8B-Instruct"}} 500
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{model_name="meta-llama/Llama-3.1-8B-Instruct"}} 0
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{{model_name="meta-llama/Llama-3.1-8B-Instruct"}} 10
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{{model_name="meta-llama/Llama-3.1-8B-Instruct"}} {output:.0f}
"""


def after_a_minute(nvml: FakeNvml, tokens_per_joule: float) -> Scraped:
    """What a scrape shows of a server on GPU 0 with so many output tokens per joule of it."""
    begin = nvml.now()

    def script(_: Asked) -> bytes:
        output = 1000.0 + tokens_per_joule * WATTS * (nvml.now() - begin)
        return answer(TEXT.format(output=output).encode())

    nvml.gpu(0).set_constant(WATTS)
    with PageServer(script) as server:
        config = load(
            f"""
            host: {{meters: []}}
            discovery: {{processes: false}}
            servers: [{{name: chat, url: "{server.url}", gpus: [{nvml.uuid(0)}]}}]
            """
        )
        daemon = Daemon(config, clock=nvml.now, wall=nvml.now, accelerators=[NvmlMeter(nvml.now)])
        try:
            daemon.poll_all()
            for _ in range(60):
                nvml.set_now(nvml.now() + 1.0)
                daemon.tick()
            return parse(Page().body(daemon.snapshot, Format.TEXT, None, compressed=False).decode())
        finally:
            daemon.stop()


@pytest.mark.parametrize(("times", "is_impossible"), [(8.0, True), (1.0, False), (0.8, False)])
def test_only_what_no_server_can_do_is_above_what_is_plausible(nvml: FakeNvml, times: float, is_impossible: bool):
    page = after_a_minute(nvml, times * PUBLISHED)
    ratio = page.value("tpw_tokens_per_watt", server="chat", kind="output", boundary="gpu")
    highest = page.value("tpw_server_highest_plausible_tokens_per_watt", server="chat")
    assert ratio == pytest.approx(times * PUBLISHED, rel=0.02)
    assert (ratio > highest) == is_impossible
    assert page.value("tpw_server_published_tokens_per_watt", server="chat") == pytest.approx(PUBLISHED)
