"""Names of servers that are found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpw.discovery.servernames import server_name
from tpw.model import ServerWorkload, server_of_replica

POD = ServerWorkload("llama", "deployment", "chat", "llama-7d9f8c6b5-x2x7z", "engine")
UNIT = ServerWorkload("vllm.service", "systemd")
CONTAINER = ServerWorkload("3f2a3f2a3f2a", "container")
COMMAND = ServerWorkload("ada: vllm", "command")


@pytest.mark.parametrize(
    ("owner", "options", "name"),
    [
        (POD, {}, "chat/llama"),
        (POD, {"is_alone": False}, "chat/llama/engine"),
        (POD, {"model": "smol"}, "chat/llama/smol"),
        (ServerWorkload(kind="kubernetes"), {"shares_network": False}, "vllm-8000"),
        (ServerWorkload("4711", "slurm"), {}, "job-4711"),
        (UNIT, {}, "vllm.service"),
        (CONTAINER, {"shares_network": False}, "3f2a3f2a3f2a"),
        (CONTAINER, {}, "vllm-8000"),
        (COMMAND, {}, "vllm-8000"),
        (COMMAND, {"model": "smol"}, "vllm-smol"),
    ],
)
def test_a_server_is_named_after_its_workload(owner: ServerWorkload, options: dict[str, bool], name: str):
    assert server_name(owner, "vllm", 8000, (), **options) == name  # type: ignore[arg-type]


def test_replicas_have_the_lowest_free_number():
    assert server_name(POD, "vllm", 8000, {"chat/llama"}) == "chat/llama:replica-2"
    assert server_name(POD, "vllm", 8000, {"chat/llama", "chat/llama:replica-2"}) == "chat/llama:replica-3"
    assert server_name(POD, "vllm", 8000, {"chat/llama:replica-2"}) == "chat/llama"


def test_servers_without_a_workload_that_runs_replicas_are_servers_of_their_own():
    assert server_name(UNIT, "vllm", 8000, {"vllm.service"}) == "vllm.service:2"


@pytest.mark.parametrize(
    ("name", "server"),
    [
        ("chat/llama:replica-2", "chat/llama"),
        ("server:chat/llama:replica-12", "server:chat/llama"),
        ("chat/llama", "chat/llama"),
        ("vllm-8000:2", "vllm-8000:2"),
        (":replica-2", ":replica-2"),
        ("chat:replica-x", "chat:replica-x"),
    ],
)
def test_the_server_of_a_replica(name: str, server: str):
    assert server_of_replica(name) == server


@given(st.sampled_from([POD, UNIT, CONTAINER, COMMAND]), st.integers(1, 8))
def test_names_are_unique(owner: ServerWorkload, number: int):
    names: list[str] = []
    for _ in range(number):
        names.append(server_name(owner, "vllm", 8000, names))
    assert len(set(names)) == number
