"""The facility's PUE, queried from Prometheus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from support.pageserver import Asked, PageServer, answer
from tpw.model import Reason, SourceError
from tpw.power.pue import PueQuery


def result_of(kind: str, result: Any) -> str:
    return json.dumps({"status": "success", "data": {"resultType": kind, "result": result}})


def vector(*values: str) -> str:
    return result_of("vector", [{"metric": {"site": str(n)}, "value": [1.0, value]} for n, value in enumerate(values)])


def read(body: str | bytes, status: int = 200) -> float:
    with PageServer(lambda asked: answer(body, status=status, content_type="application/json")) as server:
        query = PueQuery(server.url, "pue")
        try:
            return query.read()
        finally:
            query.close()


@pytest.mark.parametrize(
    ("body", "pue"), [(vector("1.31"), 1.31), (result_of("scalar", [1.0, "1.2"]), 1.2), (vector("1"), 1.0)]
)
def test_one_number_is_the_pue(body: str, pue: float) -> None:
    assert read(body) == pue


@pytest.mark.parametrize(
    ("body", "reason", "words"),
    [
        (vector("NaN"), Reason.ABSENT, "gives nan"),
        (result_of("scalar", [1.0, "+Inf"]), Reason.ABSENT, "gives inf"),
        (vector(), Reason.ABSENT, "no series"),
        (vector("1.2", "1.3"), Reason.MALFORMED, "gives 2 series"),
        (vector("0.82"), Reason.MALFORMED, "0.82, which is not a PUE"),
        (vector("131"), Reason.MALFORMED, "131, which is not a PUE"),
        (vector("-1.3"), Reason.MALFORMED, "-1.3, which is not a PUE"),
        (result_of("matrix", [{"values": [[1.0, "1.3"]]}]), Reason.MALFORMED, "gives a matrix"),
        (result_of("string", [1.0, "cool"]), Reason.MALFORMED, "gives a string"),
        (result_of("scalar", [1.0]), Reason.MALFORMED, "not series of numbers"),
        (result_of("vector", {"value": 1.3}), Reason.MALFORMED, "has no result"),
        ('{"status": "success", "data": [1.3]}', Reason.MALFORMED, "has no result"),
        ('{"status": "success"}', Reason.MALFORMED, "has no result"),
        ('{"status": "error", "error": "parse error"}', Reason.MALFORMED, "parse error"),
        ("[1.3]", Reason.MALFORMED, "failed"),
        ("<html>", Reason.MALFORMED, "not JSON"),
        ("", Reason.MALFORMED, "not JSON"),
    ],
)
def test_a_result_that_is_not_a_pue_is_an_error_with_its_cause(body: str, reason: Reason, words: str) -> None:
    with pytest.raises(SourceError) as raised:
        read(body)
    assert raised.value.reason is reason
    assert words in raised.value.detail


@pytest.mark.parametrize(
    ("status", "body", "reason", "words"),
    [
        (400, '{"status": "error", "error": "unexpected end of input"}', Reason.MALFORMED, "unexpected end of input"),
        (422, '{"status": "error", "error": "too many samples"}', Reason.MALFORMED, "too many samples"),
        (503, '{"status": "error", "error": "query timed out"}', Reason.BROKEN, "query timed out"),
        (401, "no", Reason.UNAUTHORIZED, "HTTP 401"),
        (404, "no", Reason.ABSENT, "HTTP 404"),
        (500, "no", Reason.BROKEN, "HTTP 500"),
    ],
)
def test_every_status_has_its_error(status: int, body: str, reason: Reason, words: str) -> None:
    with pytest.raises(SourceError) as raised:
        read(body, status)
    assert raised.value.reason is reason
    assert words in raised.value.detail


def test_the_query_is_sent_whole_with_the_headers_of_the_file_under_the_path_of_the_url(tmp_path: Path) -> None:
    (tmp_path / "headers").write_text("X-Scope-OrgID: site\n")
    with PageServer(lambda asked: answer(vector("1.3"))) as server:
        query = PueQuery(f"{server.url}/prefix/", 'sum(a{b="c"}) / sum(d) + 0', headers_file=str(tmp_path / "headers"))
        assert query.read() == 1.3
        query.close()
    (asked,) = server.asked
    parts = urlsplit(asked.path)
    assert parts.path == "/prefix/api/v1/query"
    assert parse_qs(parts.query) == {"query": ['sum(a{b="c"}) / sum(d) + 0']}
    assert asked.headers["x-scope-orgid"] == "site"


def test_nobody_there_and_too_much() -> None:
    with PageServer(lambda asked: None) as server:
        url = server.url
    with pytest.raises(SourceError) as raised:
        PueQuery(url, "pue").read()
    assert raised.value.reason is Reason.UNREACHABLE
    with pytest.raises(SourceError, match="larger than 8192 KiB"):
        read(b" " * (9 << 20))


def test_a_server_that_was_restarted_between_two_questions_costs_no_reading() -> None:
    """The connection is kept, and closed by the server meanwhile."""

    def page(asked: Asked) -> bytes:
        return answer(vector("1.25"))

    with PageServer(page) as server:
        query = PueQuery(server.url, "pue")
        assert query.read() == 1.25
        server.hang_up()
        assert query.read() == 1.25
        assert server.connections == 2
        query.close()
