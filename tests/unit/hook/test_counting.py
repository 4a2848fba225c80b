"""The usage in an answer, in all its forms."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.readings import totals_by_role
from tpw.hook import body
from tpw.hook.body import read
from tpw.hook.counting import AnswerWatch, Counters
from tpw.hook.paths import is_generating, is_read, name_of
from tpw.model import Role
from tpw.tokens.engines import DIALECTS, TPW_HOOK
from tpw.tokens.page import Page
from tpw.tokens.reading import DialectReader, recognise


def sse(*events: dict[str, Any] | str) -> bytes:
    return b"".join(
        b"data: " + (event if isinstance(event, str) else json.dumps(event)).encode() + b"\n\n" for event in events
    )


def totals(counters: Counters) -> dict[str, float]:
    """The counters as the exporter reads them, by role, without zeros."""
    page = Page(counters.page())
    assert recognise(page, DIALECTS) is TPW_HOOK
    found = DialectReader(TPW_HOOK).read(page)
    numbers: dict[str, float] = {role.value: value for role, value in totals_by_role(found.series).items()}
    numbers |= {work.unit: work.value for work in found.work}
    return {name: value for name, value in numbers.items() if value}


def watch(body: bytes, *, content_type: str = "application/json", status: int = 200, pieces: int = 0) -> Counters:
    counters = Counters(wall_clock=lambda: 1700000000.5)
    one = AnswerWatch(counters)
    one.begin(status, content_type, "")
    step = pieces or len(body) or 1
    for start in range(0, len(body), step):
        one.feed(body[start : start + step])
    one.end()
    return counters


OPENAI = {
    "id": "x",
    "model": "m",
    "choices": [{"message": {"content": 'write "usage": {"prompt_tokens": 999}'}}],
    "usage": {"prompt_tokens": 30, "completion_tokens": 12, "prompt_tokens_details": {"cached_tokens": 16}},
}


@pytest.mark.parametrize("pieces", [0, 1, 7])
def test_an_openai_answer(pieces: int):
    counters = watch(json.dumps(OPENAI).encode(), pieces=pieces)
    assert totals(counters) == {"prompt": 30.0, "output": 12.0, "cached_input": 16.0, "requests": 1.0}


@pytest.mark.parametrize("pieces", [0, 1, 7])
def test_the_last_usage_of_an_openai_stream_counts(pieces: int):
    body = sse(
        {"model": "m", "choices": [{"delta": {"content": "a"}}], "usage": {"prompt_tokens": 5, "completion_tokens": 1}},
        {"model": "m", "choices": [{"delta": {"content": "b"}}], "usage": None},
        {"model": "m", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}},
        "[DONE]",
    )
    assert totals(watch(body, content_type="text/event-stream; charset=utf-8", pieces=pieces)) == {
        "prompt": 5.0,
        "output": 3.0,
        "requests": 1.0,
    }


def test_a_responses_stream():
    usage = {"input_tokens": 9, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 8}}
    body = sse({"type": "response.created", "response": {"model": "m"}}, {"response": {"model": "m", "usage": usage}})
    assert totals(watch(body, content_type="text/event-stream")) == {
        "prompt": 9.0,
        "cached_input": 8.0,
        "output": 4.0,
        "requests": 1.0,
    }


@pytest.mark.parametrize("pieces", [0, 100, 20_000])
def test_an_anthropic_stream_has_input_first_output_last_and_the_cache_apart_from_the_input(pieces: int):
    first = {"input_tokens": 10, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 5, "output_tokens": 1}
    filler = [{"type": "content_block_delta", "delta": {"text": "x" * 1000}} for _ in range(300)]
    body = sse(
        {"type": "message_start", "message": {"model": "m", "usage": first}},
        *filler,
        {"type": "message_delta", "usage": {"input_tokens": None, "output_tokens": 40}},
    )
    body = body.replace(b"message_start", b"message_start" + b" " * 300)
    counters = watch(body, content_type="text/event-stream", pieces=pieces)
    assert totals(counters) == {"prompt": 115.0, "cached_input": 100.0, "output": 40.0, "requests": 1.0}
    assert b'{model="m"}' in counters.page()


def test_embeddings_have_only_input_in_a_large_answer():
    body = json.dumps(
        {"data": [{"embedding": [0.5] * 100_000}], "model": "e", "usage": {"prompt_tokens": 7, "total_tokens": 7}}
    )
    counters = watch(body.encode(), pieces=65536)
    assert totals(counters) == {"prompt": 7.0, "requests": 1.0}
    assert b'model="e"' in counters.page()


@pytest.mark.parametrize("pieces", [0, 1000, 65536])
@pytest.mark.parametrize("after", [0, 30_000, 70_000, 300_000])
@pytest.mark.parametrize("before", [10, 20_000, 100_000])
def test_usage_may_be_anywhere_in_a_long_answer(before: int, after: int, pieces: int):
    """vLLM writes prompt_logprobs and its messages after the usage; the choices before it."""
    quoted = json.dumps({"usage": {"prompt_tokens": 999, "completion_tokens": 999}})
    answer = {
        "model": "m",
        "choices": [{"message": {"content": quoted + "x" * before}}],
        "usage": {"prompt_tokens": 30, "completion_tokens": 12},
        "prompt_logprobs": ["usage", "x" * after, quoted],
    }
    assert totals(watch(json.dumps(answer).encode(), pieces=pieces)) == {
        "prompt": 30.0,
        "output": 12.0,
        "requests": 1.0,
    }


def test_the_last_usage_of_a_stream_with_continuous_usage_counts():
    """continuous_usage_stats: every event has the totals so far."""
    events = [
        {"model": "m", "choices": [{"text": "x" * 50}], "usage": {"prompt_tokens": 5, "completion_tokens": n}}
        for n in range(1, 3001)
    ]
    body = sse(*events, "[DONE]")
    assert totals(watch(body, content_type="text/event-stream", pieces=1111)) == {
        "prompt": 5.0,
        "output": 3000.0,
        "requests": 1.0,
    }


ANSWERS = {
    "plain": ("application/json", json.dumps(OPENAI).encode()),
    "indented": ("application/json; charset=utf-8", json.dumps(OPENAI, indent=2).encode()),
    "stream": (
        "text/event-stream",
        sse(
            {"model": "m", "choices": [{"delta": {"content": 'a "usage": {'}}], "usage": None},
            {"model": "m", "choices": [], "usage": OPENAI["usage"]},
            "[DONE]",
        ),
    ),
    "crlf": (
        "text/event-stream",
        sse({"model": "m"}, {"choices": [], "usage": OPENAI["usage"]}, "[DONE]").replace(b"\n", b"\r\n"),
    ),
    "many lines": (
        "text/event-stream",
        b"event: x\nid: 7\n"
        + b"".join(b"data: " + line + b"\n" for line in json.dumps(OPENAI, indent=1).encode().splitlines())
        + b"\n: comment\n\n",
    ),
}


@given(form=st.sampled_from(sorted(ANSWERS)), places=st.lists(st.integers(0, 2000), max_size=12))
def test_the_count_does_not_depend_on_the_pieces(form: str, places: list[int]) -> None:
    content_type, body = ANSWERS[form]
    counters = Counters()
    one = AnswerWatch(counters)
    one.begin(200, content_type, "")
    edges = sorted({0, len(body), *(place % (len(body) + 1) for place in places)})
    for start, end in pairwise(edges):
        one.feed(body[start:end])
    one.end()
    assert totals(counters) == {"prompt": 30.0, "output": 12.0, "cached_input": 16.0, "requests": 1.0}
    assert (counters.without_usage, counters.errors) == (0, 0)


SHARDS_OF_ANSWERS = (
    *(
        b'"usage"',
        b":",
        b"{",
        b"}",
        b"[",
        b'"',
        b"\\",
        b",",
        b"\n",
        b"\r\n",
        b"data: ",
        b" ",
        b"null",
        b"\xff",
        b"x" * 70_000,
    ),
    *(b'"prompt_tokens":5', b'"completion_tokens":1e400', b'"output_tokens":NaN', b'"prompt_tokens_details":', b"-1"),
    *(b'"eval_count":', b"123456789012345678", b'"timings"', b'"predicted_n":', b'"prompt_n":2', b'"model":"\\uD800"'),
)


@given(st.lists(st.sampled_from(SHARDS_OF_ANSWERS) | st.binary(max_size=8), max_size=30))
def test_every_answer_is_counted_with_or_without_usage(pieces: list[bytes]) -> None:
    counters = Counters()
    one = AnswerWatch(counters)
    one.begin(200, "text/event-stream", "")
    for piece in pieces:
        one.feed(piece)
    one.end()
    requests = totals_by_role(DialectReader(TPW_HOOK).read(Page(counters.page())).series).get(Role.REQUESTS, 0.0)
    assert (requests + counters.without_usage, counters.errors) == (1.0, 0)


def test_transcriptions_are_seconds_of_audio():
    counters = watch(json.dumps({"text": "hello", "usage": {"type": "duration", "seconds": 12}}).encode())
    assert totals(counters) == {"audio_seconds": 12.0, "requests": 1.0}


def test_the_last_line_of_ollama_has_the_usage():
    lines = [
        {"model": "m", "message": {"content": "a"}, "done": False},
        {"model": "m", "done": True, "prompt_eval_count": 26, "eval_count": 298, "eval_duration": 4},
    ]
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    assert totals(watch(body, content_type="application/x-ndjson")) == {
        "prompt": 26.0,
        "output": 298.0,
        "requests": 1.0,
    }


def test_usage_has_priority_over_ollama_s_own_numbers():
    answer = {
        "model": "m",
        "prompt_eval_count": 1,
        "eval_count": 2,
        "usage": {"prompt_tokens": 26, "completion_tokens": 9},
    }
    assert totals(watch(json.dumps(answer).encode())) == {"prompt": 26.0, "output": 9.0, "requests": 1.0}


def test_an_answer_without_usage_is_counted_as_such():
    counters = watch(sse({"choices": [{"delta": {"content": "a"}}]}, "[DONE]"), content_type="text/event-stream")
    assert (totals(counters), counters.without_usage) == ({}, 1)


def test_usage_of_zeros_is_none():
    """LiteLLM sends it for a stream of a server that sent no usage."""
    zeros = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    counters = watch(json.dumps({"model": "m", "usage": zeros}).encode())
    assert (totals(counters), counters.without_usage) == ({}, 1)


_SO_FAR = {"prompt_tokens": 5, "completion_tokens": 1}
_EVENTS = (
    {"model": "m", "choices": [{"index": 0, "text": "a"}], "usage": _SO_FAR},
    {"model": "m", "choices": [{"index": 0, "text": "b"}], "usage": {"prompt_tokens": 5, "completion_tokens": 7}},
    {"model": "m", "choices": [{"index": 1, "text": "c"}], "usage": {"prompt_tokens": 5, "completion_tokens": 4}},
    {"model": "m", "choices": [{"index": 1, "text": "c"}], "timings": {"x": 1}, "usage": _SO_FAR},
    {"model": "m", "choices": [{"index": 1}], "usage": {"prompt_tokens": 6, "completion_tokens": 2}, "timings": {}},
    {"index": 1, "usage": {"prompt_tokens": 3, "completion_tokens": 3}},
    {"choices": [{"index": 0, "delta": {"tool_calls": [{"usage": {"prompt_tokens": 99, "completion_tokens": 99}}]}}]},
    {"tool": {"usage": {"prompt_tokens": 99, "completion_tokens": 99}}},
    {"message": {"usage": {"input_tokens": 4, "output_tokens": 1}}},
    {"type": "message_delta", "usage": {"output_tokens": 9}},
    {"text": '"usage":{"prompt_tokens":99,"completion_tokens":99}}', "usage": None},
    {'a"usage': {"prompt_tokens": 99, "completion_tokens": 99}},
    {"usage": {"other": 1}, "prompt_eval_count": 7, "eval_count": 8},
    {"usage": {}},
)


@given(st.lists(st.sampled_from(_EVENTS), min_size=1, max_size=12), st.booleans())
def test_events_that_repeat_the_usage_are_counted_as_if_each_were_read(events: list[Any], compact: bool) -> None:
    separators = (",", ":") if compact else None
    pieces = [b"data: " + json.dumps(one, separators=separators).encode() + b"\n\n" for one in events]
    found = []
    for parts in (pieces, [bytes([byte]) for byte in b"".join(pieces)]):
        counters = Counters()
        one = AnswerWatch(counters)
        one.begin(200, "text/event-stream", "")
        for part in parts:
            one.feed(part)
        one.end()
        found.append((totals(counters), counters.without_usage))
    assert found[0] == found[1]


def test_of_events_that_repeat_the_usage_only_the_last_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    monkeypatch.setattr(body, "read", lambda text, tally: parsed.append(text) or read(text, tally))
    counters = Counters()
    one = AnswerWatch(counters)
    one.begin(200, "text/event-stream", "")
    for n in range(1000):
        usage = {"prompt_tokens": 5, "completion_tokens": n}
        event = {"model": "m", "choices": [{"index": 0, "text": "a"}], "usage": usage}
        one.feed(b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n")
    one.end()
    assert totals(counters) == {"prompt": 5.0, "output": 999.0, "requests": 1.0}
    assert len(parsed) <= 4


@pytest.mark.parametrize("status", [400, 401, 500, 302])
def test_errors_count_nothing(status: int):
    counters = watch(json.dumps(OPENAI).encode(), status=status)
    assert (totals(counters), counters.without_usage) == ({}, 0)


def test_a_compressed_answer_is_counted_as_one_without_usage():
    counters = Counters()
    one = AnswerWatch(counters)
    one.begin(200, "application/json", "gzip")
    one.feed(b"\x1f\x8b...")
    one.end()
    assert counters.without_usage == 1


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -1},
        {"prompt_tokens": "12"},
        {"prompt_tokens": True},
        {"prompt_tokens": 1e99},
        {"prompt_tokens_details": 5},
        {},
    ],
)
def test_an_invalid_number_of_tokens_is_not_counted(usage: dict[str, Any]):
    counters = watch(json.dumps({"model": "m", "usage": usage}).encode())
    assert (totals(counters), counters.errors) == ({}, 0)


def test_an_answer_is_counted_once():
    counters = Counters()
    one = AnswerWatch(counters)
    one.begin(200, "application/json", "")
    one.feed(json.dumps(OPENAI).encode())
    one.end()
    one.end()
    assert totals(counters)["requests"] == 1.0


def test_models_are_separate_escaped_and_bounded():
    counters = Counters()
    for number in range(150):
        counters.add(f'a "{number}"\\', {"output": 1.0})
    found = DialectReader(TPW_HOOK).read(Page(counters.page()))
    models = {one.model for one in found.series}
    assert (len(models), 'a "7"\\' in models, "other" in models) == (101, True, True)
    assert totals_by_role(found.series)[Role.OUTPUT] == 150.0


def test_a_model_name_that_is_not_valid_utf8_does_not_break_the_page():
    """Servers answer with the name that the client requested."""
    counters = watch(b'{"model":"a\\ud800b","usage":{"prompt_tokens":5,"completion_tokens":3}}')
    assert totals(counters) == {"prompt": 5.0, "output": 3.0, "requests": 1.0}
    assert b'{model="a?b"}' in counters.page()


def test_memory_of_a_long_answer_is_bounded():
    for content_type in ("text/event-stream", "application/json", "application/x-ndjson"):
        for begin in (b"", b"data: ", b'data: {"model":"', b'{"usage":{"prompt_tokens":', b'[{"meta":{"tokens":['):
            one = AnswerWatch(Counters())
            one.begin(200, content_type, "")
            one.feed(begin)
            for size in (1, 1000, 65536) * 20:
                one.feed(b"x" * size)
                assert one.held_bytes <= 64 << 10


def test_the_page_has_the_start_of_its_counters():
    found = DialectReader(TPW_HOOK).read(Page(watch(b"{}").page()))
    assert found.started_wall_seconds == 1700000000.5


@pytest.mark.parametrize(
    ("method", "path", "read"),
    [
        ("POST", "/v1/chat/completions", True),
        ("POST", "/some/new/path", True),
        ("POST", "/v1/messages/count_tokens", False),
        ("POST", "/v1beta/models/m:countTokens", False),
        ("GET", "/v1/chat/completions", False),
        ("POST", "/tokenize", False),
        ("POST", "/update_weights_from_disk", False),
        ("POST", "/api/show", False),
        ("GET", "/v1/models", False),
    ],
)
def test_the_answer_to_every_post_but_administration_is_read(method: str, path: str, read: bool):
    assert is_read(method, path) is read


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/chat/completions", "/v1/completions/", "/v1/chat/completions/batch", "/v1/responses", "/v1/messages"),
        *("/invocations", "/generate", "/generate_stream", "/v2/embed", "/cohere/v2/chat", "/api/v1/generate"),
        *("/v1beta/models/m:generateContent", "/v1/images/edits", "/v1/audio/speech", "/v1/audio/transcriptions"),
        *("/v2/models/m/generate", "/inference/v1/generate", "/api/generate", "/v1/embeddings", "/v1/score"),
    ],
)
def test_paths_that_use_tokens_count_with_any_answer(path: str):
    counters = Counters()
    one = AnswerWatch(counters, path)
    one.begin(200, "audio/mpeg", "")
    one.feed(b"\xff\xf3")
    one.end()
    assert is_generating(path)
    assert counters.without_usage_by_path == {name_of(path): 1}


def test_an_unknown_path_counts_only_if_its_answer_can_be_read():
    counters = Counters()
    for content_type in ("text/html", "application/json"):
        one = AnswerWatch(counters, "/unknown")
        one.begin(200, content_type, "")
        one.feed(b"{}")
        one.end()
    assert counters.without_usage_by_path == {"/unknown": 1}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/v1beta/models/gemini-2:generateContent", "/v1beta/models/*:generateContent"),
        ("/openai/deployments/mine/chat/completions", "/openai/deployments/*/chat/completions"),
        ("/v2/models/llama/generate", "/v2/models/*/generate"),
        ("/jobs/17/0f1e2d3c4b5a69788796a5b4c3d2e1f0", "/jobs/*/*"),
        ("/a b/\udcff/" + "x" * 99, "/*/*/*"),
        ("/a" * 20, "/a" * 8),
    ],
)
def test_a_path_is_counted_without_names_and_numbers(path: str, name: str):
    assert name_of(path) == name


def test_the_number_of_paths_is_bounded():
    counters = Counters()
    for number in range(100):
        counters.add_without_usage(f"/p{number}x")
    assert (len(counters.without_usage_by_path), counters.without_usage_by_path["other"]) == (31, 70)
    assert b'tpw_hook_requests_without_usage_total{path="/p0x"} 1\n' in counters.page()


def test_llamacpp_timings_are_used_if_usage_was_not_requested():
    """The end of a stream of llama-server b11669 without stream_options."""
    timings = {"cache_n": 30, "prompt_n": 1, "prompt_ms": 252.7, "predicted_n": 3, "predicted_ms": 25.5}
    body = sse({"model": "m", "choices": [{"delta": {}}], "timings": timings}, "[DONE]")
    assert totals(watch(body, content_type="text/event-stream")) == {
        "prompt": 31.0,
        "cached_input": 30.0,
        "output": 3.0,
        "requests": 1.0,
    }


def test_usage_has_priority_over_timings():
    answer = {**OPENAI, "timings": {"cache_n": 1, "prompt_n": 1, "predicted_n": 999}}
    assert totals(watch(json.dumps(answer).encode()))["output"] == 12.0


def test_an_answer_that_never_started_has_no_usage():
    counters = Counters()
    AnswerWatch(counters).end()
    assert counters.without_usage == 1
