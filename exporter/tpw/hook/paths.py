"""Which requests are read, and by which name their path is counted. Standard library only."""

from __future__ import annotations

import re

GENERATING_PATHS = (
    *("/completions", "/completions/batch", "/responses", "/messages", "/embeddings", "/rerank", "/score", "/pooling"),
    *("/classify", "/completion", "/infill", "/embedding", "/invocations", "/generate", "/generate_stream", "/encode"),
    *("/audio/transcriptions", "/audio/translations", "/audio/speech"),
    *("/images/generations", "/images/edits", "/images/variations", "/videos"),
    *("/api/generate", "/api/chat", "/api/embed", "/api/embeddings", "/v1/chat", "/v2/chat", "/v1/embed", "/v2/embed"),
    *(":generateContent", ":streamGenerateContent", ":embedContent", ":batchEmbedContents", ":predict"),
)
"""Suffixes of the paths that use tokens, whatever the type of their answer."""

_ADMINISTRATION = frozenset(
    (
        *("tokenize", "detokenize", "count_tokens", "tokencount", "render", "derender", "apply-template"),
        *("load_lora_adapter", "unload_lora_adapter", "lora-adapters", "load", "unload", "slots", "props", "health"),
        *("reset_prefix_cache", "reset_mm_cache", "reset_encoder_cache", "flush_cache", "release_kv_cache_memory"),
        *(
            "sleep",
            "wake_up",
            "pause",
            "resume",
            "abort",
            "abort_request",
            "abort_requests",
            "cancel",
            "collective_rpc",
        ),
        *("start_profile", "stop_profile", "scale_elastic_ep", "is_scaling_elastic_ep", "check", "apply"),
        *("release_memory_occupation", "resume_memory_occupation", "init_weight_transfer_engine"),
        *("show", "pull", "push", "create", "copy", "delete", "files", "batches", "upload", "metrics"),
    )
)
"""Last parts of paths that use no tokens."""

_NAMED_AFTER = frozenset(("models", "model", "deployments", "engines", "endpoints", "endpoint", "projects"))
_PLAIN = re.compile(r"(?![0-9]+\Z)(?![0-9a-fA-F-]{16,}\Z)[A-Za-z0-9_.:~-]{1,40}\Z")
_PARTS = 8


def is_generating(path: str) -> bool:
    """Whether a path is known to use tokens."""
    return path.rstrip("/").endswith(GENERATING_PATHS)


def is_read(method: str, path: str) -> bool:
    """Whether the answer to a request is read: POST, except for administration."""
    if method != "POST":
        return False
    last = path.rstrip("/").rpartition("/")[2]
    return not (last in _ADMINISTRATION or "weight" in last or last.endswith(":countTokens"))


def name_of(path: str) -> str:
    """The path as a label: names of models, numbers and identifiers are ``*``."""
    parts: list[str] = []
    before = ""
    for part in [one for one in path.split("/") if one][:_PARTS]:
        _, colon, verb = part.rpartition(":")
        if before in _NAMED_AFTER and part not in _NAMED_AFTER:
            parts.append("*" + colon + verb if colon and _PLAIN.match(verb) else "*")
        else:
            parts.append(part if _PLAIN.match(part) else "*")
        before = part
    return "/" + "/".join(parts)
