"""How servers exchange computed prompts, from their command lines."""

from __future__ import annotations

import json

import pytest

from tpw.discovery.transfer import kv_transfer
from tpw.model import KvTransfer, Phase

STORE = KvTransfer(from_store=True)
PREFILL, DECODE = KvTransfer(Phase.PREFILL), KvTransfer(Phase.DECODE)


def vllm(connector: str, role: str, **extra: object) -> str:
    return json.dumps({"kv_connector": connector, "kv_role": role, **extra}).replace(" ", "")


MULTI = {"kv_connector_extra_config": {"connectors": [{"kv_connector": "NixlConnector"}, {"kv_connector": "LMCache"}]}}


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("vllm serve m", KvTransfer()),
        (f"vllm serve m --kv-transfer-config {vllm('LMCacheConnectorV1', 'kv_both')}", STORE),
        (f"vllm serve m --kv_transfer_config={vllm('OffloadingConnector', 'kv_both')}", STORE),
        (f"vllm serve m --kv-transfer-config={vllm('MooncakeStoreConnector', 'kv_both')}", STORE),
        ("vllm serve m --kv-offloading-size 4", STORE),
        (
            "vllm serve m --kv-transfer-config.kv_connector LMCacheMPConnector --kv-transfer-config.kv_role=kv_both",
            STORE,
        ),
        (f"vllm serve m --kv-transfer-config {vllm('NixlConnector', 'kv_producer')}", PREFILL),
        (f"vllm serve m --kv-transfer-config {vllm('LMCacheConnectorV1', 'kv_consumer')}", DECODE),
        # Both instances of a NIXL pair may be kv_both: the prompt may be counted by the other one.
        (f"vllm serve m --kv-transfer-config {vllm('NixlConnector', 'kv_both')}", KvTransfer()),
        (f"vllm serve m --kv-transfer-config {vllm('MultiConnector', 'kv_both', **MULTI)}", KvTransfer()),
        ("vllm serve m --kv-transfer-config {", KvTransfer()),
        ("vllm serve m --kv-transfer-config [1]", KvTransfer()),
        ("vllm serve m --kv-transfer-config", KvTransfer()),
        ("python -m sglang.launch_server --disaggregation-mode prefill", PREFILL),
        ("python -m dynamo.vllm --disaggregation-mode=decode", DECODE),
        ("python -m dynamo.vllm --is-prefill-worker --model m", PREFILL),
        ("python -m dynamo.vllm --model m --is-decode-worker", DECODE),
        ("trtllm-serve disaggregated_mpi_worker --server_role CONTEXT", PREFILL),
        ("trtllm-serve m --server_role=generation", DECODE),
    ],
)
def test_roles_and_stores_are_read_from_the_command_line(command: str, expected: KvTransfer) -> None:
    assert kv_transfer([command.split(" ")]) == expected


def test_the_first_process_with_a_setting_counts() -> None:
    """Children have a title, and the server its command line."""
    assert kv_transfer([("VLLM::APIServer_0",), ("vllm", "serve", "m", "--kv-offloading-size", "4")]) == STORE
