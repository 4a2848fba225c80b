"""Real servers that can be driven here, each with its pages."""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from conformance.shapes import (
    LONG,
    Answer,
    Shape,
    embeddings,
    send,
    shapes,
    shapes_of_llamacpp,
    shapes_of_vllm,
)
from support import realparts
from support.servers import Child, free_port, http_get
from tpw import hook
from tpw.discovery.transfer import kv_transfer
from tpw.model import KvTransfer
from tpw.tokens.dialects import Dialect
from tpw.tokens.engines import DYNAMO_FRONTEND, LITELLM, LLAMACPP, VLLM


@dataclass(frozen=True, slots=True)
class Server:
    """A running server, or a pair of them."""

    title: str
    row: Dialect
    pages: Mapping[str, KvTransfer]
    """Its metrics pages, and how each instance exchanges prompts, by its command line."""
    send: Callable[[Shape], Answer]
    shapes: Sequence[Shape]
    hook_page: str = ""
    """The page of the counter around it; "" where there is none."""
    names: Sequence[str] = field(default=())
    """What each page is named by, if there are several."""


class _Processes(ExitStack):
    """Child processes, ended in reverse order."""

    def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], ready: str, timeout: float = 300.0
    ) -> None:
        child = Child(f"conformance-{name}", command, environment)
        self.callback(lambda: child.stop(timeout=30))
        if ready:
            child.wait_ready(ready, timeout=timeout)

    def proxy(self, behind: int) -> int:
        """The counting proxy in front of a port; its own port."""
        port = free_port()
        flags = (f"--upstream=http://127.0.0.1:{behind}", f"--web.listen-address=127.0.0.1:{port}")
        command = [sys.executable, "-m", "tpw", "proxy", *flags]
        self.start(f"proxy-{behind}", command, os.environ, f"http://127.0.0.1:{port}/tpw/metrics", 30)
        return port

    def folder(self) -> Path:
        return Path(self.enter_context(tempfile.TemporaryDirectory()))

    def vllm(self, name: str, *flags: str, **environment: str) -> tuple[str, KvTransfer]:
        """A vLLM: ``127.0.0.1:port``, and how it exchanges prompts."""
        port, part = free_port(), realparts.vllm()
        command = part.command(port, "--enable-prompt-tokens-details", *flags)
        self.start(f"vllm-{name}", command, {**part.environment(), **environment}, f"http://127.0.0.1:{port}/health")
        return f"127.0.0.1:{port}", kv_transfer([command])


def _vllm_version(at: str) -> str:
    return "vLLM " + str(json.loads(http_get(f"http://{at}/version"))["version"])


def _to(at: str) -> Callable[[Shape], Answer]:
    return lambda shape: send(int(at.rpartition(":")[2]), shape)


@contextmanager
def vllm() -> Iterator[Server]:
    """vLLM with the middleware in it, and a LoRA adapter."""
    with _Processes() as stack:
        folder = stack.folder()
        package = folder / "tpw"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "hook").symlink_to(Path(hook.__file__).parent)
        write_adapter(realparts.vllm().root / "model", folder / "adapter")
        lora = ("--enable-lora", "--lora-modules", f"adapter={folder / 'adapter'}")
        at, transfer = stack.vllm("plain", "--middleware", "tpw.hook.TokenCounter", *lora, PYTHONPATH=str(folder))
        title = f"{_vllm_version(at)}, middleware in it"
        page = f"http://{at}"
        yield Server(title, VLLM, {f"{page}/metrics": transfer}, _to(at), shapes_of_vllm(), f"{page}/tpw/metrics")


def _connector(folder: Path, role: str) -> tuple[str, ...]:
    """vLLM's connector that runs without a GPU: prompts in a shared folder, which it calls no tier."""
    settings = {
        "kv_connector": "ExampleConnector",
        "kv_role": role,
        "kv_connector_extra_config": {"shared_storage_path": str(folder)},
    }
    return ("--no-enable-prefix-caching", "--kv-transfer-config", json.dumps(settings))


@contextmanager
def vllm_store() -> Iterator[Server]:
    """vLLM without a cache on the device, and a store behind its connector."""
    with _Processes() as stack:
        at, transfer = stack.vllm("store", *_connector(stack.folder(), "kv_both"))
        title = f"{_vllm_version(at)}, a store behind its KV connector (kv_both)"
        yield Server(title, VLLM, {f"http://{at}/metrics": transfer}, _to(at), LONG)


@contextmanager
def vllm_pair() -> Iterator[Server]:
    """A prefill and a decode instance: each request goes to the first for one token, then to the second."""
    with _Processes() as stack:
        folder = stack.folder()
        first, prefill = stack.vllm("prefill", *_connector(folder, "kv_producer"))
        second, decode = stack.vllm("decode", *_connector(folder, "kv_consumer"))

        def through_both(shape: Shape) -> Answer:
            _to(first)(replace(shape, body={**shape.body, "max_tokens": 1}))
            return _to(second)(shape)

        title = f"{_vllm_version(first)}, a prefill and a decode instance"
        pages = {f"http://{first}/metrics": prefill, f"http://{second}/metrics": decode}
        yield Server(title, VLLM, pages, through_both, LONG, names=("prefill", "decode"))


@contextmanager
def vllm_embeddings() -> Iterator[Server]:
    """vLLM that embeds."""
    with _Processes() as stack:
        at, transfer = stack.vllm("embeddings", "--runner", "pooling", "--convert", "embed")
        proxy = stack.proxy(int(at.rpartition(":")[2]))
        title = f"{_vllm_version(at)}, embeddings, behind the proxy"
        page = f"http://127.0.0.1:{proxy}"
        yield Server(
            title, VLLM, {f"http://{at}/metrics": transfer}, _to(page), embeddings("tiny"), f"{page}/tpw/metrics"
        )


def _llama(stack: _Processes, *flags: str) -> tuple[int, str]:
    port, part = free_port(), realparts.llama_server()
    stack.start("llama", part.command(port, *flags), part.environment(), f"http://127.0.0.1:{port}/health", 120)
    build = re.search(r'"build_info":\s*"([^"]+)', http_get(f"http://127.0.0.1:{port}/props").decode())
    return port, f"llama-server {build[1] if build else ''}"


@contextmanager
def llamacpp() -> Iterator[Server]:
    """llama-server behind the proxy."""
    with _Processes() as stack:
        behind, version = _llama(stack)
        page = f"http://127.0.0.1:{stack.proxy(behind)}"
        pages = {f"http://127.0.0.1:{behind}/metrics": KvTransfer()}
        title = f"{version}, behind the proxy"
        yield Server(title, LLAMACPP, pages, _to(page), shapes_of_llamacpp(), f"{page}/tpw/metrics")


@contextmanager
def llamacpp_embeddings() -> Iterator[Server]:
    """llama-server that embeds, behind the proxy."""
    with _Processes() as stack:
        behind, version = _llama(stack, "--embeddings", "--pooling", "mean")
        page = f"http://127.0.0.1:{stack.proxy(behind)}"
        pages = {f"http://127.0.0.1:{behind}/metrics": KvTransfer()}
        title = f"{version}, embeddings, behind the proxy"
        yield Server(title, LLAMACPP, pages, _to(page), embeddings("smollm"), f"{page}/tpw/metrics")


def _dynamo(modes: Sequence[str], what: str) -> Iterator[Server]:
    part = realparts.dynamo()
    with _Processes() as stack:
        environment = part.environment(stack.folder())
        port = free_port()
        stack.start("dynamo-frontend", part.frontend(port), environment, f"http://127.0.0.1:{port}/health")
        for number, mode in enumerate(modes):
            system = _low_port()
            worker = part.worker(mode)  # type: ignore[arg-type]
            page = f"http://127.0.0.1:{system}/metrics"
            stack.start(f"dynamo-{number}", worker, {**environment, "DYN_SYSTEM_PORT": str(system)}, page)
        _wait_for_model(port)
        page = f"http://127.0.0.1:{stack.proxy(port)}"
        version = _installed(part.root / "venv", "ai_dynamo")
        title = f"Dynamo {version}, {what}, behind the proxy"
        pages = {f"http://127.0.0.1:{port}/metrics": KvTransfer()}
        yield Server(title, DYNAMO_FRONTEND, pages, _to(page), shapes("tiny"), f"{page}/tpw/metrics")


def _installed(environment: Path, package: str) -> str:
    """The version of a package."""
    return next(environment.glob(f"lib/python*/site-packages/{package}-*.dist-info")).stem.partition("-")[2]


def _low_port() -> int:
    """A free port below 32768: DYN_SYSTEM_PORT is a number of 15 bits."""
    for port in range(21000, 32000):
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


def _wait_for_model(port: int) -> None:
    from support.servers import wait_until

    address = f"http://127.0.0.1:{port}/v1/models"
    wait_until(lambda: bool(json.loads(http_get(address))["data"]), "the model at the frontend")


@contextmanager
def dynamo() -> Iterator[Server]:
    """Dynamo's frontend and two simulated engines, behind the proxy."""
    yield from _dynamo(("agg", "agg"), "frontend and two simulated workers")


@contextmanager
def dynamo_pair() -> Iterator[Server]:
    """Dynamo's frontend, a simulated prefill and a simulated decode engine."""
    yield from _dynamo(("prefill", "decode"), "frontend, a simulated prefill and decode worker")


@contextmanager
def litellm() -> Iterator[Server]:
    """LiteLLM's proxy in front of llama-server, behind the counting proxy."""
    program = realparts.litellm()
    with _Processes() as stack:
        behind, _ = _llama(stack)
        port, settings = free_port(), stack.folder() / "litellm.yaml"
        target = {"model": "openai/smollm", "api_base": f"http://127.0.0.1:{behind}/v1", "api_key": "none"}
        settings.write_text(
            json.dumps(
                {
                    "model_list": [{"model_name": "smollm", "litellm_params": target}],
                    "litellm_settings": {"callbacks": ["prometheus"], "require_auth_for_metrics_endpoint": False},
                }
            )
        )
        command = [str(program), "--config", str(settings), "--host", "127.0.0.1", "--port", str(port)]
        environment = {
            **os.environ,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        }
        stack.start("litellm", command, environment, f"http://127.0.0.1:{port}/health/liveliness")
        page = f"http://127.0.0.1:{stack.proxy(port)}"
        version = _installed(program.parents[1], "litellm")
        title = f"LiteLLM {version} in front of llama-server, behind the proxy"
        pages = {f"http://127.0.0.1:{port}/metrics/": KvTransfer()}
        yield Server(title, LITELLM, pages, _to(page), shapes("smollm"), f"{page}/tpw/metrics")


SERVERS = {
    one.__name__.replace("_", "-"): one
    for one in (
        llamacpp,
        llamacpp_embeddings,
        vllm,
        vllm_store,
        vllm_pair,
        vllm_embeddings,
        dynamo,
        dynamo_pair,
        litellm,
    )
}


def write_adapter(model: Path, adapter: Path) -> None:
    """A LoRA adapter of rank 8 for a model, all zeros: safetensors has a length, a JSON head and the numbers."""
    config = json.loads((model / "config.json").read_text())
    rank, width = 8, config["hidden_size"]
    head: dict[str, object] = {}
    at = 0
    for layer in range(config["num_hidden_layers"]):
        heads = {"q_proj": config["num_attention_heads"], "v_proj": config["num_key_value_heads"]}
        for name, number in heads.items():
            for part, shape in (("A", [rank, width]), ("B", [number * config["head_dim"], rank])):
                size = shape[0] * shape[1] * 4
                key = f"base_model.model.model.layers.{layer}.self_attn.{name}.lora_{part}.weight"
                head[key] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
                at += size
    text = json.dumps(head).encode()
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(at))
    settings = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
    }
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
