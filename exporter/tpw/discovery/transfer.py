"""How a server exchanges computed prompts with others, from the command lines of its processes. Pure functions.

Facts (read 2026-11-24):

- vLLM: ``--kv-transfer-config`` is JSON, or ``--kv-transfer-config.kv_role`` and so on; ``kv_role`` is ``kv_producer``,
  ``kv_consumer`` or ``kv_both``, ``kv_connector`` a name of vllm/distributed/kv_transfer/kv_connector/factory.py. Both
  instances of a pair may be ``kv_both`` (NIXL): their roles are unknown then. ``--kv-offloading-size`` adds a store.
- SGLang and Dynamo: ``--disaggregation-mode prefill|decode``; older Dynamo: ``--is-prefill-worker`` and
  ``--is-decode-worker``.
- TensorRT-LLM: ``trtllm-serve --server_role context|generation``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from tpw.model import KvTransfer, Phase

_STORES = ("lmcache", "offloading", "mooncakestore", "flexkv", "hf3fs", "simplecpuoffload", "example")
"""Beginnings of the names of connectors with a store behind them."""
_PHASES = {
    ("--kv-transfer-config.kv_role", "kv_producer"): Phase.PREFILL,
    ("--kv-transfer-config.kv_role", "kv_consumer"): Phase.DECODE,
    ("--disaggregation-mode", "prefill"): Phase.PREFILL,
    ("--disaggregation-mode", "decode"): Phase.DECODE,
    ("--server-role", "context"): Phase.PREFILL,
    ("--server-role", "generation"): Phase.DECODE,
    ("--is-prefill-worker", ""): Phase.PREFILL,
    ("--is-decode-worker", ""): Phase.DECODE,
}
_NONE = KvTransfer()


def kv_transfer(command_lines: Iterable[Sequence[str]]) -> KvTransfer:
    """Of the first of these processes that has a setting for it."""
    return next((found for argv in command_lines if (found := _from_flags(list(_flags(argv)))) != _NONE), _NONE)


def _from_flags(flags: Sequence[tuple[str, str]]) -> KvTransfer:
    phase = next((_PHASES[flag] for flag in flags if flag in _PHASES), None)
    named = dict(flags)
    is_both = named.get("--kv-transfer-config.kv_role", "kv_both") == "kv_both"
    connectors = [value.lower() for name, value in flags if name == "--kv-transfer-config.kv_connector"]
    has_store = "--kv-offloading-size" in named or bool(connectors)
    return KvTransfer(phase, has_store and is_both and all(name.startswith(_STORES) for name in connectors))


def _flags(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options with their values; those inside JSON with dots."""
    for place, word in enumerate(argv):
        if not word.startswith("--"):
            continue
        name, equals, value = word.partition("=")
        name = name if name.startswith("--kv-transfer-config.") else name.replace("_", "-").lower()
        following = argv[place + 1] if place + 1 < len(argv) else ""
        value = value if equals else "" if following.startswith("--") else following
        if name == "--kv-transfer-config":
            yield from _in_json(value)
        else:
            yield name, "" if name.startswith("--is-") else value.lower()


def _in_json(text: str) -> Iterator[tuple[str, str]]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return
    if not isinstance(value, dict):
        return
    extra = value.get("kv_connector_extra_config")
    inner = extra.get("connectors") if isinstance(extra, dict) else None
    if isinstance(value.get("kv_role"), str):
        yield "--kv-transfer-config.kv_role", value["kv_role"]
    for one in inner if isinstance(inner, list) and inner else (value,):
        if isinstance(one, dict) and isinstance(one.get("kv_connector"), str):
            yield "--kv-transfer-config.kv_connector", one["kv_connector"]
