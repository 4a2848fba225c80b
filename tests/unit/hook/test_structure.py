"""Values are read by their position, in any pieces, whatever the strings and other objects hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.readings import totals_by_role
from tpw.hook.body import HELD_BYTES
from tpw.hook.counting import AnswerWatch, Counters
from tpw.hook.structure import Documents
from tpw.hook.usage import POSITIONS
from tpw.tokens.engines import TPW_HOOK
from tpw.tokens.page import Page
from tpw.tokens.reading import DialectReader

NAMES = (
    *("usage", "model", "timings", "prompt_eval_count", "eval_count", "usageMetadata", "modelVersion", "meta_info"),
    *("details", "meta", "results", "response", "message", "delta", "index", "tokens", "billed_units"),
    *("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "total_tokens", "prompt_n", "predicted_n"),
    *("cache_n", "generated_tokens", "input_length", "promptTokenCount", "candidatesTokenCount", "arguments"),
)
"""Names of fields in all protocols."""

WRONG = 7777777
"""The usage in the arguments of a tool call."""

arguments = st.recursive(
    st.sampled_from([WRONG, "wrong", '"usage":{"prompt_tokens":7777777}', None, "\\", '\\"', "}", "data: {\n\n"]),
    lambda inner: st.dictionaries(st.sampled_from(NAMES), inner, max_size=6) | st.lists(inner, max_size=3),
    max_leaves=20,
)

USED = {"prompt_tokens": 30, "completion_tokens": 12}
CALLS: dict[str, Any] = {
    "openai": lambda call: {
        "model": "m",
        "choices": [{"message": {"tool_calls": [{"function": {"arguments": json.dumps(call)}}], "parsed": call}}],
        "metadata": call,
        "usage": USED,
    },
    "anthropic": lambda call: {
        "model": "m",
        "content": [{"type": "tool_use", "input": call}],
        "usage": {"input_tokens": 30, "output_tokens": 12},
    },
    "responses": lambda call: {
        "type": "response.completed",
        "response": {
            "model": "m",
            "metadata": call,
            "output": [{"arguments": call}],
            "usage": {"input_tokens": 30, "output_tokens": 12},
        },
    },
    "ollama": lambda call: {
        "model": "m",
        "message": {"role": "assistant", "tool_calls": [{"function": {"arguments": call}}]},
        "prompt_eval_count": 30,
        "eval_count": 12,
    },
    "gemini": lambda call: {
        "modelVersion": "m",
        "candidates": [{"content": {"parts": [{"functionCall": {"args": call}}]}}],
        "usageMetadata": {"promptTokenCount": 30, "candidatesTokenCount": 10, "thoughtsTokenCount": 2},
    },
    "cohere": lambda call: {
        "model": "m",
        "delta": {
            "message": {"tool_calls": [call]},
            "usage": {"tokens": {"input_tokens": 30, "output_tokens": 12}, "billed_units": {"input_tokens": 1}},
        },
    },
    "llama.cpp": lambda call: {
        "model": "m",
        "generation_settings": {"grammar": call},
        "timings": {"prompt_n": 30, "cache_n": 0, "predicted_n": 12},
    },
    "sglang": lambda call: {
        "model": "m",
        "text": json.dumps(call),
        "output": call,
        "meta_info": {"prompt_tokens": 30, "completion_tokens": 12, "finish_reason": call},
    },
    "tgi": lambda call: {
        "model": "m",
        "generated_text": call,
        "details": {"tokens": [call], "generated_tokens": 12, "input_length": 30},
    },
    "koboldcpp": lambda call: {
        "model": "m",
        "results": [{"text": "x", "tool_calls": call, "prompt_tokens": 30, "completion_tokens": 12}],
    },
}
"""An answer of each protocol around the arguments of a tool call."""


def counted(body: bytes, content_type: str, pieces: int = 0) -> tuple[dict[str, float], set[str], Counters]:
    counters = Counters()
    watch = AnswerWatch(counters)
    watch.begin(200, content_type, "")
    step = pieces or len(body)
    for start in range(0, len(body), step):
        watch.feed(body[start : start + step])
        assert watch.held_bytes <= 64 << 10
    watch.end()
    found = DialectReader(TPW_HOOK).read(Page(counters.page())).series
    return {role.value: value for role, value in totals_by_role(found).items()}, {one.model for one in found}, counters


FORMS = {
    "application/json": lambda text: text,
    "application/x-ndjson": lambda text: b'{"model":"m","response":"x"}\n' + text + b"\n",
    "text/event-stream": lambda text: b'data: {"model":"m"}\r\n\r\nevent: x\ndata: ' + text + b"\n\ndata: [DONE]\n\n",
}


@given(
    protocol=st.sampled_from(sorted(CALLS)),
    call=st.dictionaries(st.sampled_from(NAMES), arguments, max_size=8),
    form=st.sampled_from(sorted(FORMS)),
    pieces=st.sampled_from([0, 1, 2, 3, 7, 64]),
    padding=st.sampled_from([0, 0, 0, HELD_BYTES]),
)
def test_a_tool_call_cannot_change_what_is_counted(
    protocol: str, call: dict[str, Any], form: str, pieces: int, padding: int
) -> None:
    """Each protocol, every name at every depth, cut at every byte, held as a whole or read as it arrives."""
    answer = CALLS[protocol]({**call, "padding": "x" * padding})
    body = FORMS[form](json.dumps(answer, ensure_ascii=False).encode())
    totals, models, counters = counted(body, form, pieces if padding == 0 or pieces in (0, 64) else 1000)
    assert {name: totals[name] for name in ("prompt", "output", "requests")} == {
        "prompt": 30.0,
        "output": 12.0,
        "requests": 1.0,
    }
    assert models == {"m"}
    assert (counters.without_usage, counters.errors) == (0, 0)


def pruned(document: Any, wanted: Any) -> Any:
    return {name: value for name, value in document.items() if name in wanted and not isinstance(value, dict | list)}


@given(document=st.dictionaries(st.sampled_from(NAMES), arguments, max_size=8), pieces=st.integers(1, 9))
def test_the_structural_reader_keeps_what_a_parser_finds_at_the_top(document: dict[str, Any], pieces: int) -> None:
    found: list[tuple[dict[str, Any], bool]] = []
    reader = Documents(POSITIONS, lambda kept, is_item: found.append((kept, is_item)))
    text = json.dumps([document, document], indent=1).encode() + b"\n" + json.dumps(document).encode()
    for start in range(0, len(text), pieces):
        reader.feed(text[start : start + pieces])
    top = {name for name in POSITIONS if name in ("model", "modelVersion", "index", "eval_count", "prompt_eval_count")}
    expected = pruned(document, top)
    assert [pruned(kept, top) for kept, _ in found] == [expected] * 3
    assert [is_item for _, is_item in found] == [True, True, False]


def test_a_list_of_answers_is_added_up():
    """llama.cpp's /completion with four prompts, and SGLang's /generate with two."""
    timings = {"prompt_n": 4, "cache_n": 1, "predicted_n": 25}
    answers = [{"index": n, "content": "x" * 20_000, "model": "m", "timings": timings} for n in range(4)]
    for pieces in (0, 1000):
        totals, _, _ = counted(json.dumps(answers).encode(), "application/json", pieces)
        assert (totals["output"], totals["prompt"], totals["requests"]) == (100.0, 20.0, 1.0)
    sglang = [{"text": "", "meta_info": {"prompt_tokens": 3, "completion_tokens": 5}}] * 2
    assert counted(json.dumps(sglang).encode(), "application/json")[0]["output"] == 10.0


def test_answers_of_one_stream_are_separated_by_their_index():
    events = [{"index": n % 4, "meta_info": {"prompt_tokens": 3, "completion_tokens": n // 4 + 1}} for n in range(40)]
    body = b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events)
    totals, _, _ = counted(body, "text/event-stream")
    assert (totals["prompt"], totals["output"]) == (12.0, 40.0)


def test_a_stream_of_llamacpp_with_two_prompts_ends_each_with_its_own_usage():
    """llama-server b11669, /v1/completions; the first event is null."""
    timings = {"cache_n": 0, "prompt_n": 1, "predicted_n": 3}
    ends = [{"model": "m", "choices": [{"index": n}], "usage": USED, "timings": timings} for n in range(2)]
    body = b"data: null\n\n" + b"".join(b"data: %b\n\n" % json.dumps(end).encode() for end in ends)
    totals, models, _ = counted(body, "text/event-stream")
    assert (totals["prompt"], totals["output"], models) == (60.0, 24.0, {"m"})


def test_a_stream_of_gemini_as_a_list_repeats_its_totals():
    parts = [{"modelVersion": "m", "usageMetadata": {"promptTokenCount": 4, "candidatesTokenCount": n}} for n in (1, 9)]
    totals, _, _ = counted(json.dumps(parts).encode(), "application/json")
    assert (totals["prompt"], totals["output"]) == (4.0, 9.0)


@pytest.mark.parametrize("pieces", [0, 1000])
def test_an_answer_nested_too_deep_for_a_parser_is_read(pieces: int):
    deep = b"[" * 20_000 + b"]" * 20_000
    body = b'{"model":"m","choices":%b,"usage":{"prompt_tokens":30,"completion_tokens":12}}' % deep
    assert counted(body, "application/json", pieces)[0]["output"] == 12.0
