"""Prompts that come from outside an instance: from its own store, or from the other instance of a pair."""

from __future__ import annotations

import pytest

from support.pageserver import PageServer, answer, pages
from support.readings import totals_by_role
from tpw.ledger.books import ServerAccount
from tpw.ledger.counting import count
from tpw.model import KvTransfer, OsProcess, Phase, Role, ServerReading, Tier, TokenKind
from tpw.tokens.engines import ENGINES, VLLM
from tpw.tokens.page import Page
from tpw.tokens.reading import DialectReader
from tpw.tokens.scrape import ScrapeSource

ALONE, STORE = KvTransfer(), KvTransfer(from_store=True)


def page_of(computed: int, output: int, local: int = 0, **sources: int) -> bytes:
    """vLLM's page. ``sources``: prompt tokens from outside, by where they were."""
    rows = [
        "# TYPE vllm:prompt_tokens_by_source_total counter",
        f'vllm:prompt_tokens_by_source_total{{model_name="m",source="local_compute"}} {computed}',
        f'vllm:prompt_tokens_by_source_total{{model_name="m",source="local_cache_hit"}} {local}',
        f'vllm:prompt_tokens_by_source_total{{model_name="m",source="external_kv_transfer"}} {sum(sources.values())}',
        "# TYPE vllm:prompt_tokens_cached_by_source_total counter",
        f'vllm:prompt_tokens_cached_by_source_total{{model_name="m",source="device"}} {local}',
        *(
            f'vllm:prompt_tokens_cached_by_source_total{{model_name="m",source="{name}"}} {sources.get(name, 0)}'
            for name in ("host", "disk", "p2p", "external_unspecified")
        ),
        f'vllm:generation_tokens_total{{model_name="m"}} {output}',
    ]
    return "\n".join([*rows, ""]).encode()


def reading(body: bytes, transfer: KvTransfer = ALONE, phase: Phase | None = None) -> ServerReading:
    process = OsProcess(7, 100.0, transfer=transfer)
    with PageServer(pages({"/metrics": answer(body)})) as server:
        source = ScrapeSource("s", server.url, VLLM, process=lambda: process, phase=phase)
        try:
            return source.read()
        finally:
            source.close()


def risen(first: bytes, second: bytes, transfer: KvTransfer = ALONE, phase: Phase | None = None) -> ServerAccount:
    account = count(ServerAccount("s"), reading(first, transfer, phase)).account
    return count(account, reading(second, transfer, phase)).account


def tokens(account: ServerAccount) -> dict[str, float]:
    return {str(kind): value for (_, kind), value in account.tokens.items() if value}


def test_cached_tokens_are_split_by_tier() -> None:
    account = risen(page_of(0, 0), page_of(56, 12, local=64, host=128, disk=32, p2p=16), STORE)
    assert tokens(account) == {"input": 56.0, "cached_input": 240.0, "output": 12.0}
    assert account.tiers == {
        ("m", Tier.DEVICE): 64.0,
        ("m", Tier.HOST): 128.0,
        ("m", Tier.DISK): 32.0,
        ("m", Tier.REMOTE): 16.0,
    }


def test_what_a_store_does_not_explain_is_cached_input_of_no_tier() -> None:
    """LMCache behind vLLM: 256 of a prompt of 312 tokens are its own, wherever it keeps them."""
    account = risen(page_of(0, 0), page_of(56, 12, external_unspecified=256), STORE)
    assert tokens(account) == {"input": 56.0, "cached_input": 256.0, "output": 12.0}
    assert sum(account.tiers.values()) == 0.0


def test_without_a_known_store_what_comes_from_outside_is_the_other_instances() -> None:
    account = risen(page_of(0, 0), page_of(1, 12, external_unspecified=255))
    assert tokens(account) == {"input": 1.0, "output": 12.0}


@pytest.mark.parametrize("configured", [False, True])
def test_a_pair_counts_a_request_of_256_and_12_tokens_once(configured: bool) -> None:
    """The prefill instance computes the prompt and one token; the decode instance gets all but one token of the prompt."""

    def counted(phase: Phase, body: bytes) -> dict[str, float]:
        if configured:
            return tokens(risen(page_of(0, 0), body, phase=phase))
        return tokens(risen(page_of(0, 0), body, KvTransfer(phase)))

    assert counted(Phase.PREFILL, page_of(192, 1, local=64)) == {"input": 192.0, "cached_input": 64.0}
    stored = page_of(64, 1, local=64, external_unspecified=128)
    assert counted(Phase.PREFILL, stored) == {"input": 64.0, "cached_input": 192.0}
    assert counted(Phase.DECODE, page_of(1, 12, external_unspecified=255)) == {"output": 12.0}


def test_a_decode_instance_that_computes_prompts_itself_is_configured_as_both() -> None:
    account = risen(page_of(0, 0), page_of(40, 12, local=8), KvTransfer(Phase.DECODE), phase=Phase.BOTH)
    assert tokens(account) == {"input": 40.0, "cached_input": 8.0, "output": 12.0}


def test_a_role_that_is_known_later_books_nothing_of_the_past() -> None:
    account = count(ServerAccount("s"), reading(page_of(0, 0))).account
    account = count(account, reading(page_of(10, 5, external_unspecified=100))).account
    assert tokens(account) == {"input": 10.0, "output": 5.0}
    account = count(account, reading(page_of(11, 6, external_unspecified=103), STORE)).account
    assert tokens(account) == {"input": 11.0, "cached_input": 3.0, "output": 6.0}
    assert count(account, reading(page_of(11, 7), phase=Phase.DECODE)).moved


def test_a_reading_has_the_phase() -> None:
    assert reading(page_of(1, 1), KvTransfer(Phase.PREFILL)).phase is Phase.PREFILL
    assert reading(page_of(1, 1), KvTransfer(Phase.PREFILL), Phase.DECODE).phase is Phase.DECODE


def test_a_dynamo_worker_has_the_stores_of_its_engine() -> None:
    found = DialectReader(ENGINES["dynamo_worker"]).read(Page(page_of(10, 5, host=7, external_unspecified=9)), STORE)
    assert totals_by_role(found.series)[Role.CACHED_INPUT] == 16.0


def test_tiers_of_sglang_are_a_part_of_its_cached_tokens() -> None:
    body = "".join(
        f'sglang:prefill_effective_tokens_total{{model_name="m",mode="{mode}"}} {value}\n'
        for mode, value in (("input", 5), ("device_hit", 10), ("host_hit", 20), ("storage_hit", 40))
    )
    found = DialectReader(ENGINES["sglang"]).read(Page(body.encode()))
    assert totals_by_role(found.series)[Role.CACHED_INPUT] == 70.0
    assert {one.tier: one.value for one in found.series if one.tier} == {Tier.DEVICE: 10.0, Tier.HOST: 20.0}


def test_tiers_never_exceed_cached_input() -> None:
    account = ServerAccount("s")
    for computed, local, host in ((0, 0, 0), (10, 5, 3), (2, 1, 0), (30, 90, 7)):
        account = count(account, reading(page_of(computed, 0, local=local, host=host), STORE)).account
        assert sum(account.tiers.values()) <= account.tokens.get(("m", TokenKind.CACHED_INPUT), 0.0)
    assert account.tiers["m", Tier.DEVICE] == 5.0 + 1.0 + 89.0
    assert account.tiers["m", Tier.HOST] == 3.0 + 0.0 + 7.0
