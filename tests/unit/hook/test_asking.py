"""Asking for usage, and taking out again what the client did not ask for."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpw.hook.asking import UsageEvents, with_usage_asked

USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3}}\n\n'


def test_the_rest_of_a_request_stays_as_it_was_written():
    assert (
        with_usage_asked(b' {"big": 12345678901234567890,\n"stream": true, "x": {}}')
        == b' {"stream_options":{"include_usage":true},"big": 12345678901234567890,\n"stream": true, "x": {}}'
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"include_usage": False}, {"include_usage": True}),
        ({"continuous_usage_stats": True}, {"continuous_usage_stats": True, "include_usage": True}),
        (None, {"include_usage": True}),
    ],
)
def test_options_of_the_client_are_kept(options: object, expected: object):
    asked = with_usage_asked(json.dumps({"prompt": "\u00fc", "stream": True, "stream_options": options}).encode())
    assert asked is not None
    assert json.loads(asked) == {"prompt": "\u00fc", "stream": True, "stream_options": expected}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"stream":false}',
        b'{"stream":"yes"}',
        b'{"stream":true,"stream_options":{"include_usage":true}}',
        b'{"stream":true,"stream_options":7}',
        b"[" * 100_000,
        '{"stream":true}'.encode("utf-16"),
        '{"stream":true}'.encode("utf-32-le"),
        b'{"stream":true,"x":"\xff"}',
    ],
    ids=lambda body: repr(body[:30]),
)
def test_what_asks_already_streams_nothing_or_is_not_understood_is_left_alone(body: bytes):
    assert with_usage_asked(body) is None


@given(
    events=st.lists(
        st.sampled_from(
            [
                USAGE,
                b'data: {"choices":[{"delta":{"content":"\\"usage\\""}}]}\n\n',
                b'data: {"choices":[{"text":"","finish_reason":"stop"}],"usage":{"completion_tokens":3}}\n\n',
                b'data: {"choices":[],"usage":null}\r\n\r\n',
                b": keep-alive\n\n",
                b'event: x\ndata: {"usage":{}}\n\n',
                b"data: [DONE]\n\n",
            ]
        )
    ),
    places=st.lists(st.integers(0, 2000), max_size=12),
)
def test_only_events_of_usage_alone_are_taken_out_however_they_arrive(events: list[bytes], places: list[int]) -> None:
    text = b"".join(events)
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    remover = UsageEvents()
    out = [remover.feed(text[start:end]) for start, end in pairwise(edges)]
    assert b"".join([*out, remover.end()]) == b"".join(event for event in events if event != USAGE)


def test_an_event_goes_on_as_soon_as_it_is_whole():
    remover = UsageEvents()
    assert remover.feed(b"data: 1\n\ndata: ") == b"data: 1\n\n"
    assert remover.feed(b"2\n\n") == b"data: 2\n\n"


def test_an_endless_event_is_not_gathered():
    remover = UsageEvents()
    assert len(remover.feed(bytes(1 << 20))) == 1 << 20
