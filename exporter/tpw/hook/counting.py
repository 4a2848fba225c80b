"""Counts tokens from the usage in a server's answers.

Forms of usage: ``usage`` of the OpenAI, Responses and Anthropic APIs, in the answer or in the last events of a stream;
``prompt_eval_count`` and ``eval_count`` of Ollama's API; ``timings``, which llama.cpp adds to the end of every answer (used
if the usage was not requested). Only the start and the end of an answer are kept while it runs (some hundred kilobytes),
with the last usage in between; only the usage itself is parsed.

Tokens of an answer without usage are not estimated: it is counted in ``requests_without_usage``.

Standard library only, and nothing of this project outside this package: it runs inside other servers.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

COUNTED_PATHS = (
    *("/completions", "/responses", "/messages", "/embeddings", "/rerank", "/score", "/pooling", "/classify"),
    *("/completion", "/infill"),
    *("/audio/transcriptions", "/audio/translations", "/images/generations"),
    *("/api/generate", "/api/chat", "/api/embed", "/api/embeddings"),
)
"""Suffixes of the paths that generate tokens."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_ANSWERS = ("application/json", "text/event-stream", "application/x-ndjson", "application/jsonl")
_HEAD_BYTES = 16 << 10
_TAIL_BYTES = 64 << 10
_USAGE_BYTES = 4 << 10
_MODELS_KEPT = 100

# A quote inside a string of the answer is escaped: an unescaped one is JSON syntax.
_USAGE = re.compile(rb'(?<!\\)"usage"\s*:\s*(?=\{)')
_TIMINGS = re.compile(rb'(?<!\\)"timings"\s*:\s*(?=\{)')
_MODEL = re.compile(rb'(?<!\\)"model"\s*:\s*"((?:[^"\\]|\\.){1,200})"')
_CONTINUED = re.compile(rb"[\r\n]+data: ?")
"""The continuation line of an event. Strings in JSON contain no line breaks."""
_OLLAMA = re.compile(rb'(?<!\\)"(prompt_eval_count|eval_count)"\s*:\s*(\d{1,15})')


@dataclass
class _Totals:
    """Counters of one model."""

    output: float = 0.0
    prompt: float = 0.0
    cached: float = 0.0
    audio_seconds: float = 0.0
    requests: int = 0


@dataclass
class Counters:
    """All counters since construction. For one process and one event loop.

    ``wall_clock`` returns Unix seconds; the time of construction is published as the start of the counters.
    """

    wall_clock: Callable[[], float] = time.time
    running: int = 0
    without_usage: int = 0
    errors: int = 0
    _models: dict[str, _Totals] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.began_wall_seconds = self.wall_clock()

    def add(self, model: str, usage: Mapping[str, float]) -> None:
        """Count one answer. ``usage`` has output, prompt, cached and audio_seconds, if the answer has them."""
        if model not in self._models and len(self._models) >= _MODELS_KEPT:
            model = "other"
        totals = self._models.setdefault(model, _Totals())
        totals.requests += 1
        totals.output += usage.get("output", 0.0)
        totals.prompt += usage.get("prompt", 0.0)
        totals.cached += usage.get("cached", 0.0)
        totals.audio_seconds += usage.get("audio_seconds", 0.0)

    def page(self) -> bytes:
        """The counters in the Prometheus text format."""
        lines = []
        for field_name, name, text in (
            ("output", "output_tokens_total", "Tokens generated, from the usage of answers."),
            ("prompt", "prompt_tokens_total", "Prompt tokens, including cached ones, from the usage of answers."),
            ("cached", "cached_tokens_total", "Prompt tokens from the prefix cache, from the usage of answers."),
            ("audio_seconds", "audio_seconds_total", "Seconds of audio transcribed, from the usage of answers."),
            ("requests", "requests_total", "Answers with usage."),
        ):
            lines += [f"# HELP tpw_hook_{name} {text}", f"# TYPE tpw_hook_{name} counter"]
            for model, totals in self._models.items():
                value = getattr(totals, field_name)
                if value or field_name != "audio_seconds":  # only models that transcribe audio have this series
                    lines.append(f'tpw_hook_{name}{{model="{_escaped(model)}"}} {value:.15g}')
        without = "Answers without usage: streams without stream_options.include_usage, aborted requests."
        start = f"{self.began_wall_seconds:.3f}"
        for name, kind, text, now in (
            ("tpw_hook_requests_running", "gauge", "Requests being answered.", self.running),
            ("tpw_hook_requests_without_usage_total", "counter", without, self.without_usage),
            ("tpw_hook_errors_total", "counter", "Answers that caused an error in the counter.", self.errors),
            ("process_start_time_seconds", "gauge", "Start of these counters, Unix time in seconds.", start),
        ):
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", f"{name} {now}"]
        return ("\n".join(lines) + "\n").encode()


class AnswerWatch:
    """Counts one answer: ``begin`` with its head, ``feed`` with every piece, ``end`` once. None of them raises."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._watched = True  # an answer that never started has no usage
        self._readable = False
        self._head = b""
        self._between = b""
        self._tail = bytearray()
        self._ended = False

    def begin(self, status: int, content_type: str, content_encoding: str) -> None:
        """The head of the answer. Errors use no tokens; a compressed body cannot be read."""
        try:
            self._judge(status, content_type, content_encoding)
        except Exception:  # noqa: BLE001 - an error here must not reach the server
            self._counters.errors += 1

    def feed(self, piece: bytes) -> None:
        """A piece of the body that has been sent to the client."""
        try:
            self._keep(piece)
        except Exception:  # noqa: BLE001 - as above
            self._counters.errors += 1

    def end(self) -> None:
        """The answer has ended, complete or not."""
        if self._ended:
            return
        self._ended = True
        if not self._watched:
            return
        try:
            head, tail = self._head, bytes(self._tail)
            usage = used(head, tail, self._between) if self._readable else {}
            if usage:
                self._counters.add(model_of(head, tail), usage)
            else:
                self._counters.without_usage += 1
        except Exception:  # noqa: BLE001 - as above
            self._counters.errors += 1

    def _judge(self, status: int, content_type: str, content_encoding: str) -> None:
        self._watched = 200 <= status < 300
        kind = content_type.partition(";")[0].strip().lower()
        self._readable = kind in _ANSWERS and content_encoding.strip().lower() in ("", "identity")

    def _keep(self, piece: bytes) -> None:
        if not (self._watched and self._readable):
            return
        if len(self._head) < _HEAD_BYTES:
            self._head += piece[: _HEAD_BYTES - len(self._head)]
        for start in range(0, len(piece), _TAIL_BYTES):
            part = piece[start : start + _TAIL_BYTES]
            if len(self._tail) + len(part) > 2 * _TAIL_BYTES:
                self._trim()
            self._tail += part

    def _trim(self) -> None:
        """Drop all but the end and the last usage before it, which prompt_logprobs may follow."""
        dropped = len(self._tail) - _TAIL_BYTES
        at = dropped
        while (at := self._tail.rfind(b'"usage"', 0, at + 6)) >= 0:
            piece = bytes(self._tail[max(0, at - 1) : at + _USAGE_BYTES])
            if _USAGE.match(piece, min(at, 1)):
                self._between = piece
                break
        del self._tail[:dropped]


def is_counted(method: str, path: str, suffixes: tuple[str, ...] = COUNTED_PATHS) -> bool:
    """Whether a request generates tokens."""
    return method == "POST" and path.rstrip("/").endswith(suffixes)


def used(head: bytes, tail: bytes, between: bytes = b"") -> dict[str, float]:
    """The usage of an answer, from its start, its end and the last usage between them; empty if it has none.

    A stream may repeat it, each time with the totals so far: the last value of each part counts.
    """
    fields: dict[str, Any] = {}
    found: dict[str, float] = {}
    for text in (head, between, tail):
        for usage in _objects(_USAGE, text):
            fields.update({name: value for name, value in usage.items() if value is not None})
        for name, digits in _OLLAMA.findall(text):
            found["prompt" if name == b"prompt_eval_count" else "output"] = float(digits)
    return {**found, **_parts(fields)} or _from_timings(_objects(_TIMINGS, tail))


def model_of(head: bytes, tail: bytes) -> str:
    """The model of an answer; "" if it names none."""
    match = _MODEL.search(head)
    if match is None:
        match = next(iter(reversed(list(_MODEL.finditer(tail)))), None)
    if match is None:
        return ""
    try:
        # JSON allows half a surrogate pair, UTF-8 does not.
        return str(json.loads(b'"' + match[1] + b'"')).encode("utf-8", "replace").decode()
    except ValueError:
        return ""


def _objects(key: re.Pattern[bytes], text: bytes) -> list[dict[str, Any]]:
    """The JSON objects after a key; truncated ones are skipped."""
    found = []
    for match in key.finditer(text):
        piece = _CONTINUED.sub(b"\n", text[match.end() : match.end() + _USAGE_BYTES])
        with contextlib.suppress(ValueError):
            found.append(json.JSONDecoder().raw_decode(piece.decode("utf-8", "replace"))[0])
    return found


def _from_timings(timings: list[dict[str, Any]]) -> dict[str, float]:
    """llama.cpp's timings of a request (llama-server b11669): ``prompt_n`` was computed, ``cache_n`` was cached."""
    last = timings[-1] if timings else {}
    computed, cached, output = (_number(last.get(name)) for name in ("prompt_n", "cache_n", "predicted_n"))
    if computed is None or output is None:
        return {}
    return {"prompt": computed + (cached or 0.0), "cached": cached or 0.0, "output": output}


def _parts(usage: Mapping[str, Any]) -> dict[str, float]:
    """Normalised ``usage``. Anthropic's input excludes tokens read from or written to the cache."""
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    cached = _number(details.get("cached_tokens")) if isinstance(details, Mapping) else None
    prompt = _number(usage.get("prompt_tokens"))
    if prompt is None:
        prompt = _number(usage.get("input_tokens"))
        read = _number(usage.get("cache_read_input_tokens"))
        written = _number(usage.get("cache_creation_input_tokens"))
        if prompt is not None and (read is not None or written is not None):
            prompt += (read or 0.0) + (written or 0.0)
            cached = read
    output = _number(usage.get("completion_tokens"))
    if output is None:
        output = _number(usage.get("output_tokens"))
    if output is None and prompt is None:
        prompt = _number(usage.get("total_tokens"))
    audio = _number(usage.get("seconds")) if usage.get("type") == "duration" else None
    parts = {"prompt": prompt, "cached": cached, "output": output, "audio_seconds": audio}
    return {name: value for name, value in parts.items() if value is not None}


def _number(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e15
    return float(value) if usable else None


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
