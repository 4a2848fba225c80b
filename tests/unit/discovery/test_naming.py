"""Engines by the names of their processes."""

from __future__ import annotations

import pytest

from tpw.discovery.naming import computes_as, heads, is_starter, listens_as, ports_named
from tpw.discovery.procfs import Process
from tpw.tokens.engines import DIALECTS


def called(argv: str, comm: str = "") -> Process:
    words = tuple(argv.split())
    return Process(100, 1, 100, 1, comm or (words[0].rpartition("/")[2][:15] if words else ""), words)


@pytest.mark.parametrize(
    ("argv", "engine"),
    [
        ("/opt/venv/bin/python3.12 /opt/venv/bin/vllm serve meta-llama/Llama-3.1-8B", "vllm"),
        ("python3 -m vllm.entrypoints.openai.api_server --model m", "vllm"),
        ("python -u -X dev -m vllm.entrypoints.openai.api_server", "vllm"),
        ("VLLM::APIServer_DP0", "vllm"),
        ("vllm-rs --port 8000", "vllm"),
        ("uv run vllm serve m", "vllm"),
        ("python3 -m sglang.launch_server --model-path m", "sglang"),
        ("python3 /usr/local/bin/sglang serve m", "sglang"),
        ("/usr/bin/llama-server -m x.gguf", "llamacpp"),
        ("/x/ld-linux-x86-64.so.2 --library-path /x/lib:/y /x/bin/llama-server -m x.gguf", "llamacpp"),
        ("text-generation-router --port 80", "tgi"),
        ("python3 /usr/local/bin/trtllm-serve m", "trtllm_serve"),
        ("text-embeddings-router --model-id m", "tei"),
        ("python -m mlc_llm.cli.serve m", "mlc_llm"),
        ("python -m lightllm.server.api_server --port 8000", "lightllm"),
        ("local-ai run", "localai"),
        ("python3 -m dynamo.vllm --model m", "dynamo_worker"),
    ],
)
def test_a_listener_is_recognised_by_its_command_line(argv: str, engine: str):
    assert [dialect.name for dialect in listens_as(called(argv), DIALECTS)][:1] == [engine]


def test_tritonserver_has_two_dialects():
    names = {dialect.name for dialect in listens_as(called("tritonserver --model-repository=/m"), DIALECTS)}
    assert names == {"triton_trtllm", "triton_vllm"}


@pytest.mark.parametrize(
    "argv",
    [
        "vim vllm",
        "grep vllm /var/log/syslog",
        "python3 train.py --model vllm",
        "python3 -c 'import vllm'",
        "tail -f llama-server.log",
        "nginx: master process",
        "python3 -m http.server",
        "vllm-benchmark",
    ],
)
def test_a_command_line_that_only_mentions_an_engine_is_not_one(argv: str):
    assert listens_as(called(argv), DIALECTS) == ()


def test_a_process_without_a_command_line_is_recognised_by_its_comm():
    assert [one.name for one in listens_as(called("", "text-generation"), DIALECTS)] == ["tgi"]


def test_a_title_truncated_to_fifteen_characters_is_recognised():
    assert computes_as(called("", "VLLM::EngineCor"), DIALECTS)


@pytest.mark.parametrize("title", ["VLLM::EngineCore_DP0", "VLLM::Worker_TP3_EP3", "sglang::scheduler_TP0", "ray::x"])
def test_gpu_processes_are_not_listeners(title: str):
    process = called(title)
    assert (computes_as(process, DIALECTS), listens_as(process, DIALECTS)) == (True, ())


def test_llama_server_is_both_and_is_treated_as_a_listener():
    assert not computes_as(called("llama-server"), DIALECTS)


@pytest.mark.parametrize(
    ("argv", "ports"),
    [
        ("vllm serve m --port 8001", {8001}),
        ("vllm serve m --port=8001 --max-model-len 8192", {8001}),
        ("llama-server --host 127.0.0.1 --port 34567", {34567}),
        ("tritonserver --http-port 8000 --metrics-port=8002 --grpc-port 8001", {8000, 8002}),
        ("app --listen 0.0.0.0:9000", {9000}),
        ("gunicorn -b :5000", {5000}),
        ("torchrun --master-port 29500 --nnodes 2 train.py", set()),
        ("torchrun --rdzv-endpoint=node0:29400 train.py", set()),
        ("vllm serve m --data-parallel-rpc-port 13345 --data-parallel-address 10.0.0.1", set()),
        ("sglang --dist-init-addr 10.0.0.1:5000 --nccl-port 5001", set()),
        ("app --port 70000 --port x", set()),
        ("python app.py 8000", set()),
    ],
)
def test_ports_are_those_of_listening_options(argv: str, ports: set[int]):
    assert ports_named(argv.split()) == frozenset(ports)


def test_heads_include_what_interpreters_and_uv_run():
    assert heads(["/bin/uv", "run", "python3", "-O", "/a/b.py", "c"]) == ("uv", "python3", "b.py")


@pytest.mark.parametrize("comm", ["systemd", "containerd-shim", "bash", "tmux: server", "slurmstepd", "supervisord"])
def test_starters(comm: str):
    assert is_starter(Process(50, 1, 50, 1, comm, (comm,)))


def test_pid_1_is_a_starter_with_any_name():
    assert is_starter(Process(1, 0, 1, 1, "vllm", ("vllm",)))
