"""The shapes of requests, and the usage that a client reads from their answers."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass, field
from typing import Any

STORY = "A power plant in the hills sends its current down to the valley, where a small machine writes. " * 4
CHAT = [{"role": "user", "content": "Write a story of a mill."}]


@dataclass(frozen=True, slots=True)
class Shape:
    """One request. ``pieces``: the client disconnects after that many pieces of the answer."""

    name: str
    path: str
    body: dict[str, Any]
    pieces: int = 0


@dataclass
class Tokens:
    """Tokens by kind; the input excludes the cached ones."""

    input: float = 0.0
    cached: float = 0.0
    output: float = 0.0

    def __str__(self) -> str:
        return f"{self.input:.0f} / {self.cached:.0f} / {self.output:.0f}"

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.input + other.input, self.cached + other.cached, self.output + other.output)

    def __sub__(self, other: Tokens) -> Tokens:
        return Tokens(self.input - other.input, self.cached - other.cached, self.output - other.output)


@dataclass
class Answer:
    """The status of an answer and its documents."""

    status: int
    documents: list[Any] = field(default_factory=list)

    def usage(self) -> Tokens | None:
        """The usage at the places of the OpenAI, Responses and Anthropic protocols, or llama.cpp's timings."""
        last: dict[str, Any] = {}
        timings = []
        for document in self.documents:
            for one in document if isinstance(document, list) else [document]:
                if not isinstance(one, dict):
                    continue
                for place in (one, one.get("response"), one.get("message")):
                    if isinstance(place, dict) and isinstance(place.get("usage"), dict):
                        last.update({name: value for name, value in place["usage"].items() if value is not None})
                if isinstance(one.get("timings"), dict):
                    timings.append(one["timings"])
        if last:
            prompt = last.get("prompt_tokens", last.get("input_tokens", 0))
            details = last.get("prompt_tokens_details") or last.get("input_tokens_details") or {}
            cached = details.get("cached_tokens") or 0
            if "cache_read_input_tokens" in last:  # Anthropic's input excludes it
                cached = last["cache_read_input_tokens"]
                prompt += cached
            return Tokens(prompt - cached, cached, last.get("completion_tokens", last.get("output_tokens", 0)))
        if timings:
            return Tokens(*(sum(one[name] for one in timings) for name in ("prompt_n", "cache_n", "predicted_n")))
        return None


def send(port: int, shape: Shape) -> Answer:
    """The answer to a request, or its beginning."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", shape.path, json.dumps(shape.body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if shape.pieces:
            for _ in range(shape.pieces):
                response.readline()
            return Answer(response.status)
        text = response.read()
    finally:
        connection.close()
    lines = text.splitlines() if b"event-stream" in (response.getheader("Content-Type") or "").encode() else None
    if lines is None:
        return Answer(response.status, [json.loads(text)])
    events = [line[5:].strip() for line in lines if line.startswith(b"data:")]
    return Answer(response.status, [json.loads(event) for event in events if event != b"[DONE]"])


LONG = [
    Shape(name, "/v1/completions", {"model": "tiny", "max_tokens": 12, "ignore_eos": True, "prompt": prompt})
    for name, prompt in (
        ("completion", "One two three four"),
        ("312 prompt tokens", "x y z " * 52),
        ("the same 312 again", "x y z " * 52),
        ("long prompt", STORY),
        ("the same prompt again", STORY),
    )
]
"""A prompt twice each."""


def embeddings(model: str) -> list[Shape]:
    """Requests for embeddings."""
    one, two = "One two three four", ["aa bb", "A longer text of some words"]
    return [
        Shape("embedding", "/v1/embeddings", {"model": model, "input": one}),
        Shape("embeddings of 2 texts", "/v1/embeddings", {"model": model, "input": two}),
        Shape("pooling", "/pooling", {"model": model, "input": one}),
        Shape("rerank", "/v1/rerank", {"model": model, "query": one, "documents": two}),
        Shape(
            "Cohere embed", "/v2/embed", {"model": model, "texts": two, "input_type": "x", "embedding_types": ["float"]}
        ),
    ]


def shapes(model: str, **extra: Any) -> list[Shape]:
    """Requests of the OpenAI, Responses and Anthropic APIs."""
    base = {"model": model, "max_tokens": 12, "ignore_eos": True, **extra}
    text = {**base, "prompt": "One two three four"}
    chat = {**base, "messages": CHAT}
    with_usage = {"stream": True, "stream_options": {"include_usage": True}}
    return [
        Shape("completion", "/v1/completions", text),
        Shape("stream with usage", "/v1/completions", {**text, **with_usage}),
        Shape("stream without usage", "/v1/completions", {**text, "stream": True}),
        Shape("long prompt", "/v1/completions", {**base, "prompt": STORY}),
        Shape("the same prompt again (prefix cache)", "/v1/completions", {**base, "prompt": STORY}),
        Shape("`n` = 3", "/v1/completions", {**base, "prompt": "A b c d e f", "n": 3, "temperature": 1}),
        Shape("4 prompts", "/v1/completions", {**base, "prompt": ["aa", "bb", "cc", "dd"]}),
        Shape("client disconnects", "/v1/completions", {**text, "max_tokens": 200, "stream": True}, pieces=8),
        Shape("chat", "/v1/chat/completions", chat),
        Shape("chat stream", "/v1/chat/completions", {**chat, **with_usage}),
        Shape("responses", "/v1/responses", {"model": model, "input": "Write something nice", "max_output_tokens": 12}),
        Shape(
            "responses stream",
            "/v1/responses",
            {"model": model, "input": "Write something new", "max_output_tokens": 12, "stream": True},
        ),
        Shape("messages", "/v1/messages", {"model": model, "max_tokens": 12, "messages": CHAT}),
        Shape("messages stream", "/v1/messages", {"model": model, "max_tokens": 12, "messages": CHAT, "stream": True}),
    ]


def shapes_of_vllm() -> list[Shape]:
    """What vLLM has beside the common ones."""
    base = {"model": "tiny", "max_tokens": 12, "ignore_eos": True}
    beam = {**base, "prompt": "Beam me up", "n": 3, "use_beam_search": True, "temperature": 0}
    two = [CHAT, [{"role": "user", "content": "Another one"}]]
    return [
        *shapes("tiny"),
        Shape("beam search, 3 beams", "/v1/completions", beam),
        Shape("batch of 2 chats", "/v1/chat/completions/batch", {**base, "messages": two}),
        Shape("SageMaker", "/invocations", {**base, "messages": CHAT}),
        Shape("LoRA adapter", "/v1/completions", {**base, "model": "adapter", "prompt": "One two three four"}),
    ]


def shapes_of_llamacpp() -> list[Shape]:
    """What llama-server has beside the common ones."""
    four = {"prompt": ["One", "Two", "Three", "Four"], "n_predict": 12, "ignore_eos": True}
    return [
        *shapes("smollm"),
        Shape("/completion, 4 prompts", "/completion", four),
        Shape("/completion stream, 4 prompts", "/completion", {**four, "stream": True}),
        Shape("/infill", "/infill", {"input_prefix": "def f(", "input_suffix": "return", "n_predict": 12}),
    ]
