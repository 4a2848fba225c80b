"""Requests to an OpenAI-compatible server, a given number at a time, and when each of their tokens came.

One thread for each request in flight, with our client on a connection of its own: a stream is one blocking loop. An asyncio
version would need an HTTP parser of its own, and reading a token costs the same in both.
"""

from __future__ import annotations

import json
import random
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tpw.http.client import Client
from tpw.http.messages import json_of, status_error
from tpw.model import Reason, SourceError

_WORDS = (
    "river", "stone", "window", "letter", "garden", "winter", "market", "bridge", "candle", "harbour", "mountain",
    "silver", "paper", "engine", "morning", "forest", "island", "music", "orange", "village", "summer", "kitchen",
)  # fmt: skip
_WORDS_PER_TOKEN = 0.75
"""First estimate, corrected by the usage of the first answers."""


@dataclass(slots=True)
class Request:
    """One request. Times are Unix times."""

    began: float
    chunks: list[float] = field(default_factory=list)
    """When each piece of text came."""
    ended: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int | None = None
    """Of the input, from the prefix cache; None where the server does not report it."""
    error: str = ""

    @property
    def is_counted(self) -> bool:
        """Whether the server has reported its usage."""
        return self.ended is not None and not self.error and self.output_tokens > 0

    @property
    def first_token_seconds(self) -> float | None:
        """Time to the first token (TTFT)."""
        return self.chunks[0] - self.began if self.chunks else None

    @property
    def per_token_seconds(self) -> float | None:
        """Time per output token after the first (TPOT)."""
        if self.output_tokens < 2 or len(self.chunks) < 2:
            return None
        return (self.chunks[-1] - self.chunks[0]) / (self.output_tokens - 1)

    def output_between(self, begin: float, end: float, per_chunk: float) -> float:
        """Output tokens that came in a span, the same number with each piece of text; ``per_chunk`` is that number for a
        request that has not ended."""
        count = bisect_left(self.chunks, end) - bisect_left(self.chunks, begin)
        ratio = self.output_tokens / len(self.chunks) if self.is_counted and self.chunks else per_chunk
        return count * ratio


@dataclass(frozen=True, slots=True)
class Shape:
    """What is requested each time."""

    input_tokens: int
    output_tokens: int
    model: str
    timeout_seconds: float


class Load:
    """Keeps a number of requests in flight until it is ended.

    Args:
        new_client: makes a client for the server, one for each thread.
        shape: of each request.
        seed: of the prompts. No prompt is sent twice, so that no prefix cache answers.
    """

    def __init__(self, new_client: Callable[[], Client], shape: Shape, seed: int) -> None:
        self.shape = shape
        self._new_client, self._seed = new_client, seed
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []
        self._words = max(1, round(shape.input_tokens * _WORDS_PER_TOKEN))
        self._lock = threading.Lock()
        self._sent = 0
        self.requests: list[Request] = []
        """All since the last :meth:`start`, in the order of their beginning."""

    @property
    def where(self) -> str:
        """The address that requests are sent to."""
        client = self._new_client()
        return client.where(_completions(client))

    def start(self, concurrency: int) -> None:
        """Begin, with this many requests in flight."""
        self.requests = []
        self._ending.clear()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(concurrency)]
        for thread in self._threads:
            thread.start()

    def end(self, within_seconds: float) -> bool:
        """Send no more. Returns whether every request has ended within this time."""
        self._ending.set()
        deadline = time.monotonic() + within_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def failures(self) -> list[str]:
        """The errors of failed requests."""
        return [request.error for request in list(self.requests) if request.error]

    def per_chunk(self) -> float:
        """Output tokens in a piece of text, of the requests that have ended."""
        ended = [request for request in list(self.requests) if request.is_counted and request.chunks]
        chunks = sum(len(request.chunks) for request in ended)
        return sum(request.output_tokens for request in ended) / chunks if chunks else 1.0

    def output_between(self, begin: float, end: float) -> float:
        """Output tokens that came in a span."""
        per_chunk = self.per_chunk()
        return sum(request.output_between(begin, end, per_chunk) for request in list(self.requests))

    def input_between(self, begin: float, end: float) -> float:
        """Input tokens, cached ones too, of the requests with their first token in a span."""
        return sum(
            request.input_tokens
            for request in list(self.requests)
            if request.is_counted and request.chunks and begin <= request.chunks[0] < end
        )

    def _work(self) -> None:
        client = self._new_client()
        while not self._ending.is_set():
            with self._lock:
                self._sent += 1
                prompt = self._prompt(self._sent)
                request = Request(time.time())
                self.requests.append(request)
            try:
                send(client, self.shape, prompt, request)
                self._learn(request)
            except SourceError as error:
                request.error = str(error)
                self._ending.wait(1.0)  # a server that refuses is not to be flooded
            request.ended = time.time()

    def _prompt(self, number: int) -> str:
        # The number first: a common beginning would be cached.
        chosen = random.Random(f"{self._seed} {number}")  # noqa: S311 - not for secrets
        words = " ".join(chosen.choice(_WORDS) for _ in range(max(1, self._words)))
        return f"{chosen.getrandbits(32):x} {words}"

    def _learn(self, request: Request) -> None:
        """Correct the number of words by what the server counted."""
        if request.input_tokens > 0:
            ratio = min(4.0, max(0.25, self.shape.input_tokens / request.input_tokens))
            with self._lock:
                if abs(ratio - 1.0) > 0.05:
                    self._words = max(1, round(self._words * ratio**0.5))


def send(client: Client, shape: Shape, prompt: str, request: Request) -> None:
    """Send one request and record when its tokens come. Raises SourceError."""
    body: dict[str, Any] = {
        "model": shape.model,
        "prompt": prompt,
        "max_tokens": shape.output_tokens,
        "ignore_eos": True,  # of vLLM, SGLang and llama.cpp: every answer has the same length
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    usage: dict[str, Any] = {}
    target = _completions(client)
    for line in client.lines(
        target,
        timeout_seconds=shape.timeout_seconds,
        headers={"Content-Type": "application/json"},
        body=json.dumps(body).encode(),
    ):
        if not line.startswith(b"data:") or line.startswith(b"data: [DONE]"):
            continue
        at = time.time()
        try:
            event = json.loads(line[5:])
            choices = event.get("choices") or ()
            usage = event.get("usage") or usage
            failure = event.get("error")
        except (ValueError, AttributeError) as error:
            raise SourceError(Reason.MALFORMED, f"{client.where(target)}: an event is not JSON: {error}") from error
        if failure:
            raise SourceError(Reason.BROKEN, f"{client.where(target)}: {failure}")
        if any(choice.get("text") for choice in choices):
            request.chunks.append(at)
    if not isinstance(usage.get("completion_tokens"), int):
        hint = "The server must support stream_options.include_usage of the OpenAI API."
        raise SourceError(Reason.UNSUPPORTED, f"{client.where(target)}: the answer has no usage", hint)
    request.input_tokens = int(usage.get("prompt_tokens") or 0)
    request.output_tokens = int(usage["completion_tokens"])
    details = usage.get("prompt_tokens_details")
    if isinstance(details, dict) and isinstance(details.get("cached_tokens"), int):
        request.cached_tokens = details["cached_tokens"]


def _completions(client: Client) -> str:
    return client.prefix.removesuffix("/v1") + "/v1/completions"


def served_model(client: Client) -> str:
    """The first model that the server lists. Raises SourceError."""
    target = client.prefix.removesuffix("/v1") + "/v1/models"
    answer = client.request(target)
    if answer.status != 200:
        raise status_error(client.where(target), answer)
    found = json_of(answer.body, client.where(target))
    models: Sequence[Any] = found.get("data") or () if isinstance(found, dict) else ()
    for model in models:
        if isinstance(model, dict) and isinstance(model.get("id"), str):
            return str(model["id"])
    raise SourceError(Reason.MALFORMED, f"{client.where(target)}: it lists no model", "Name one with --model.")
