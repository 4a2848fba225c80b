"""Requests usage and removes the event that the client did not request."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpw.hook.inject import UsageEvents, with_usage_requested

USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3}}\n\n'


def test_the_rest_of_a_request_is_unchanged():
    assert (
        with_usage_requested(b' {"big": 12345678901234567890,\n"stream": true, "x": {}}')
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
    requested = with_usage_requested(
        json.dumps({"prompt": "\u00fc", "stream": True, "stream_options": options}).encode()
    )
    assert requested is not None
    assert json.loads(requested) == {"prompt": "\u00fc", "stream": True, "stream_options": expected}


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
def test_a_request_that_has_it_or_is_no_stream_or_invalid_is_unchanged(body: bytes):
    assert with_usage_requested(body) is None


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
def test_only_events_with_usage_alone_are_removed_in_any_pieces(events: list[bytes], places: list[int]) -> None:
    text = b"".join(events)
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    remover = UsageEvents()
    out = [remover.feed(text[start:end]) for start, end in pairwise(edges)]
    assert b"".join([*out, remover.end()]) == b"".join(event for event in events if event != USAGE)


def test_an_event_is_passed_on_as_soon_as_it_is_complete():
    remover = UsageEvents()
    assert remover.feed(b"data: 1\n\ndata: ") == b"data: 1\n\n"
    assert remover.feed(b"2\n\n") == b"data: 2\n\n"


def test_an_endless_event_is_not_buffered():
    remover = UsageEvents()
    assert len(remover.feed(bytes(1 << 20))) == 1 << 20
