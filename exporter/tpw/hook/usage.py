"""Where each protocol has the usage and the model of an answer.

An answer is one document, a list of documents (several answers), or a stream of them; each form is described at
its function. Only these positions are read: text, tool calls and metadata of a user may hold the same names.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tpw.hook.structure import Items, Keep, Wanted

_VALUE = Keep.WHOLE
_ANSWERS = 1000
"""Answers in one stream that are kept apart by their index."""


def _values(*names: str) -> dict[str, Wanted]:
    return dict.fromkeys(names, _VALUE)


_TOKENS = _values("input_tokens", "output_tokens")
_USAGE: Mapping[str, Wanted] = {
    **_values("prompt_tokens", "completion_tokens", "total_tokens", "type", "seconds", "cached_tokens"),
    **_values("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
    "prompt_tokens_details": _values("cached_tokens"),
    "input_tokens_details": _values("cached_tokens"),
    "tokens": _TOKENS,
    "billed_units": _TOKENS,
}
_GEMINI = ("promptTokenCount", "cachedContentTokenCount", "candidatesTokenCount", "thoughtsTokenCount")
_TOOL_PROMPT = "toolUsePromptTokenCount"

POSITIONS: Mapping[str, Wanted] = {
    **_values("model", "modelVersion", "index", "prompt_eval_count", "eval_count"),
    "usage": _USAGE,
    "response": {"model": _VALUE, "usage": _USAGE},
    "message": {"model": _VALUE, "usage": _USAGE},
    "delta": {"usage": _USAGE},
    "usageMetadata": _values(*_GEMINI, _TOOL_PROMPT),
    "meta_info": _values("prompt_tokens", "completion_tokens", "cached_tokens"),
    "details": _values("generated_tokens", "input_length"),
    "meta": {"tokens": _TOKENS, "billed_units": _TOKENS},
    "results": Items(_values("prompt_tokens", "completion_tokens")),
    "timings": _values("prompt_n", "cache_n", "predicted_n"),
    "choices": Items(_values("index")),
}
"""All positions that are read, from the top of a document."""


def may_have_usage(text: bytes) -> bool:
    """Whether a part of a stream can hold usage. Most parts cannot, and are not parsed."""
    if b"usage" in text and text.count(b"usage") != text.count(b'"usage":null'):
        return True
    return b"_tokens" in text or b"eval_count" in text or b'"timings"' in text


class Tally:
    """The model and the usage of one answer, document by document."""

    def __init__(self) -> None:
        self.model = ""
        self._usage: dict[int, dict[str, Any]] = {}
        self._parts: dict[int, dict[str, float]] = {}
        self._items: dict[str, float] = {}

    def add(self, document: Mapping[str, Any], is_item: bool = False) -> None:  # noqa: FBT001, FBT002 - a callback's
        """A document, or an item of a list: its answers are added up, while a stream repeats the totals so far."""
        if not self.model:
            self.model = _model(document)
        usage = _usage(document)
        if is_item and "usageMetadata" not in document:
            for name, value in (_from_usage(usage) or _from_others(document)).items():
                self._items[name] = self._items.get(name, 0.0) + value
            return
        index = _index(document)
        place = index if isinstance(index, int) and 0 <= index < _ANSWERS else 0
        if usage:
            known = self._usage.setdefault(place, {})
            for name, value in usage.items():
                if value is not None and name in _USAGE:
                    known[name] = value
            if known:
                return
        if parts := _from_others(document):
            self._parts.setdefault(place, {}).update(parts)

    def total(self) -> dict[str, float]:
        """Output, prompt, cached and audio_seconds, as far as they are known; empty without usage."""
        answers = [parts for usage in self._usage.values() if (parts := _from_usage(usage))]
        total = dict(self._items)
        for parts in answers or self._parts.values():
            for name, value in parts.items():
                total[name] = total.get(name, 0.0) + value
        return total


def _object(container: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = container.get(name)
    return value if isinstance(value, Mapping) else {}


def _index(document: Mapping[str, Any]) -> Any:
    """Which answer of a stream it belongs to. llama.cpp ends each choice with its own usage; others repeat that of all."""
    choices = document.get("choices")
    if "timings" in document and isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
        return choices[0].get("index")
    return document.get("index")


def _model(document: Mapping[str, Any]) -> str:
    for name in (
        document.get("model"),
        _object(document, "response").get("model"),
        _object(document, "message").get("model"),
        document.get("modelVersion"),
    ):
        if isinstance(name, str) and 0 < len(name) <= 200:
            return name.encode("utf-8", "replace").decode()  # JSON allows half a surrogate pair, UTF-8 does not
    return ""


def _usage(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """OpenAI: at the top; Responses: in ``response``; Anthropic: in ``message``, then at the top; Cohere: in ``delta``."""
    usage = document.get("usage")
    if usage and isinstance(usage, dict):
        return usage
    for name in ("response", "message", "delta"):
        if usage := _object(_object(document, name), "usage"):
            return usage
    return {}


def _from_usage(usage: Mapping[str, Any]) -> dict[str, float]:
    """``usage``. Anthropic's input excludes tokens read from or written to the cache; Cohere has objects of its own."""
    own = _object(usage, "tokens") or _object(usage, "billed_units")
    if own:
        return _known(
            prompt=own.get("input_tokens"), output=own.get("output_tokens"), cached=usage.get("cached_tokens")
        )
    details = _object(usage, "prompt_tokens_details") or _object(usage, "input_tokens_details")
    cached = _number(details.get("cached_tokens"))
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
    audio = usage.get("seconds") if usage.get("type") == "duration" else None
    return _known(prompt=prompt, cached=cached, output=output, audio_seconds=audio)


def _from_others(document: Mapping[str, Any]) -> dict[str, float]:
    """The forms that are not called ``usage``; the first that a document has."""
    return (
        _known(prompt=document.get("prompt_eval_count"), output=document.get("eval_count"))
        or _from_gemini(_object(document, "usageMetadata"))
        or _from_sglang(_object(document, "meta_info"))
        or _from_tgi(_object(document, "details"))
        or _from_cohere(_object(document, "meta"))
        or _from_koboldcpp(document.get("results"))
        or _from_timings(_object(document, "timings"))
    )


def _from_gemini(usage: Mapping[str, Any]) -> dict[str, float]:
    """generateContent: thoughts are apart from the candidates, cached content is part of the prompt."""
    prompt, cached, output, thoughts = (_number(usage.get(name)) for name in _GEMINI)
    if prompt is not None:
        prompt += _number(usage.get(_TOOL_PROMPT)) or 0.0
    if output is not None or thoughts is not None:
        output = (output or 0.0) + (thoughts or 0.0)
    return _known(prompt=prompt, cached=cached, output=output)


def _from_sglang(meta: Mapping[str, Any]) -> dict[str, float]:
    """/generate of SGLang; an embedding has the prompt alone."""
    return _known(
        prompt=meta.get("prompt_tokens"), cached=meta.get("cached_tokens"), output=meta.get("completion_tokens")
    )


def _from_tgi(details: Mapping[str, Any]) -> dict[str, float]:
    """/generate and /generate_stream of TGI; only its streams have the length of the prompt."""
    return _known(prompt=details.get("input_length"), output=details.get("generated_tokens"))


def _from_cohere(meta: Mapping[str, Any]) -> dict[str, float]:
    """Version 1 of Cohere's API, and its embeddings."""
    own = _object(meta, "tokens") or _object(meta, "billed_units")
    return _known(prompt=own.get("input_tokens"), output=own.get("output_tokens"))


def _from_koboldcpp(results: Any) -> dict[str, float]:
    """/api/v1/generate of KoboldCpp: each result has its own numbers."""
    total: dict[str, float] = {}
    for result in results if isinstance(results, list) else ():
        if isinstance(result, Mapping):
            parts = _known(prompt=result.get("prompt_tokens"), output=result.get("completion_tokens"))
            for name, value in parts.items():
                total[name] = total.get(name, 0.0) + value
    return total


def _from_timings(timings: Mapping[str, Any]) -> dict[str, float]:
    """llama.cpp's timings of a request (llama-server b11669): ``prompt_n`` was computed, ``cache_n`` was cached."""
    computed, cached, output = (_number(timings.get(name)) for name in ("prompt_n", "cache_n", "predicted_n"))
    if computed is None or output is None:
        return {}
    return {"prompt": computed + (cached or 0.0), "cached": cached or 0.0, "output": output}


def _known(**parts: Any) -> dict[str, float]:
    return {name: number for name, value in parts.items() if (number := _number(value)) is not None}


def _number(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e15
    return float(value) if usable else None
