"""Prompts from outside of a real vLLM on the CPU. Needs a download of 2.3 GB: ``make test-heavy``."""

from __future__ import annotations

import pytest

from conformance.__main__ import settled
from conformance.servers import vllm_pair, vllm_store
from conformance.shapes import LONG, Tokens

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1800)]


def test_a_prompt_that_comes_from_a_store_is_counted_as_usage_has_it() -> None:
    """312 tokens twice: the second time usage has 256 cached ones."""
    with vllm_store() as server:
        found = []
        for shape in LONG:
            [before] = settled(server)
            usage = server.send(shape).usage()
            [after] = settled(server)
            assert after - before == usage, shape.name
            found.append(usage)
    assert found[1:3] == [Tokens(312, 0, 12), Tokens(56, 256, 12)]


def test_a_pair_of_instances_counts_every_token_once() -> None:
    with vllm_pair() as server:
        for shape in LONG:
            before = settled(server)
            usage = server.send(shape).usage()
            prefill, decode = (now - then for now, then in zip(settled(server), before, strict=True))
            assert usage is not None
            assert (prefill.input + prefill.cached, prefill.output) == (usage.input + usage.cached, 0)
            assert decode == Tokens(0, 0, usage.output)
