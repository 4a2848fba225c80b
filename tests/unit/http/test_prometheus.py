"""Queries of Prometheus and their answers, as the PUE, the external meter and price feeds read them."""

from __future__ import annotations

import json
import math
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tpw.http.messages import Answer
from tpw.http.prometheus import Series, instant_query, range_query, series_of
from tpw.model import Reason, SourceError


def success(kind: str, result: Any) -> bytes:
    return json.dumps({"status": "success", "data": {"resultType": kind, "result": result}}).encode()


def failure_of(body: bytes, status: int = 200, *, is_range: bool = False) -> SourceError:
    with pytest.raises(SourceError) as caught:
        series_of(Answer(status, body), "http://p/api/v1/query", "power_query", is_range=is_range)
    return caught.value


def test_a_query_is_encoded_whole() -> None:
    query = 'sum(a{b="c"}) / sum(d) + 0'
    instant, over_range = urlsplit(instant_query(query)), urlsplit(range_query(query, 60.0, 120.5, 15.0))
    assert (instant.path, parse_qs(instant.query)) == ("/api/v1/query", {"query": [query]})
    assert over_range.path == "/api/v1/query_range"
    assert parse_qs(over_range.query) == {"query": [query], "start": ["60.000"], "end": ["120.500"], "step": ["15"]}


def test_every_series_of_a_vector_has_one_sample() -> None:
    body = success("vector", [{"metric": {"gpu": "a"}, "value": [1.5, "7"]}, {"metric": {}, "value": [2, "+Inf"]}])
    assert series_of(Answer(200, body), "", "q") == (
        Series({"gpu": "a"}, ((1.5, 7.0),)),
        Series({}, ((2.0, math.inf),)),
    )


def test_a_scalar_is_one_series_without_labels() -> None:
    assert series_of(Answer(200, success("scalar", [1.0, "7"])), "", "q") == (Series({}, ((1.0, 7.0),)),)


def test_every_series_of_a_matrix_has_its_samples_in_order() -> None:
    body = success("matrix", [{"metric": {"a": "b"}, "values": [[1, "7"], [2, "8"]]}, {"metric": {}, "values": []}])
    assert series_of(Answer(200, body), "", "q", is_range=True) == (
        Series({"a": "b"}, ((1.0, 7.0), (2.0, 8.0))),
        Series({}, ()),
    )


@pytest.mark.parametrize(
    ("kind", "is_range"), [("matrix", False), ("string", False), ("vector", True), ("scalar", True)]
)
def test_another_kind_of_result_is_malformed(kind: str, is_range: bool) -> None:
    failure = failure_of(success(kind, []), is_range=is_range)
    assert (failure.reason, failure.detail) == (Reason.MALFORMED, f"power_query gives a {kind}")


@pytest.mark.parametrize(
    ("status", "body", "reason", "words"),
    [
        (400, b'{"status": "error", "error": "parse\\nerror"}', Reason.MALFORMED, "power_query failed: parse error"),
        (422, b'{"status": "error", "error": "too many samples"}', Reason.MALFORMED, "too many samples"),
        (503, b'{"status": "error", "error": "query timed out"}', Reason.BROKEN, "query timed out"),
        (200, b'{"status": "error"}', Reason.MALFORMED, "power_query failed: HTTP 200"),
        (503, b"<html>no backend", Reason.LOADING, "HTTP 503: <html>no backend"),
        (401, b"", Reason.UNAUTHORIZED, "HTTP 401"),
        (500, b"{}", Reason.BROKEN, "HTTP 500"),
        (200, b"<html>", Reason.MALFORMED, "is not JSON"),
        (200, b"[" * 100_000, Reason.MALFORMED, "nested too deep"),
        (200, b"null", Reason.MALFORMED, "failed"),
        (200, b'{"status": "success"}', Reason.MALFORMED, "has no result"),
        (200, b'{"status": "success", "data": {"resultType": "vector"}}', Reason.MALFORMED, "has no result"),
    ],
)
def test_a_failed_query_has_its_reason_and_prometheus_own_words(
    status: int, body: bytes, reason: Reason, words: str
) -> None:
    failure = failure_of(body, status)
    assert (failure.reason, words in failure.detail) == (reason, True)


@pytest.mark.parametrize(
    "row",
    [
        {"metric": {"gpu": "a"}},
        {"metric": None, "value": [1, "1"]},
        {"metric": {}, "value": [1]},
        {"metric": {}, "value": [1, "watts"]},
        {"metric": {}, "value": [1, None]},
        {"metric": {}, "value": [10**400, "1"]},
        {"metric": {}, "histogram": [1, {}]},
        "a",
    ],
)
def test_a_row_that_is_not_a_series_of_numbers_is_malformed(row: Any) -> None:
    failure = failure_of(success("vector", [row]))
    assert (failure.reason, "power_query is not series of numbers" in failure.detail) == (Reason.MALFORMED, True)
