"""Prices from a series in a Prometheus: a stand-in that evaluates range queries as the real one does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from support.pageserver import Asked, PageServer, answer
from tpw.config import load
from tpw.http.fetch import fetch
from tpw.http.messages import Answer, Request
from tpw.model import PriceInterval, Reason, SourceError
from tpw.tariff.context import FeedContext
from tpw.tariff.prometheus import MAX_POINTS, FromPrometheus

NOON = 1781524800.0  # 2026-06-15T12:00Z
LOOKBACK = 300.0


def matrix(*series: list[tuple[float, str]]) -> bytes:
    result = [
        {"metric": {"i": str(i)}, "values": [list(sample) for sample in samples]} for i, samples in enumerate(series)
    ]
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}}).encode()


@dataclass
class Tsdb:
    """Samples, and a value at a moment: the newest not older than the lookback."""

    samples: list[tuple[float, str]]
    asked: list[dict[str, str]] = field(default_factory=list)

    def __call__(self, asked: Asked) -> bytes:
        parts = urlsplit(asked.path)
        if parts.path != "/prefix/api/v1/query_range":
            return answer("", status=404)
        asking = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.asked.append({**asking, "authorization": asked.headers.get("authorization", "")})
        start, end, step = (float(asking[key]) for key in ("start", "end", "step"))
        found: list[tuple[float, str]] = []
        at = start
        while at <= end:
            value = next((v for t, v in reversed(self.samples) if at - LOOKBACK < t <= at), None)
            if value is not None:
                found.append((at, value))
            at += step
        return answer(matrix(found) if found else matrix(), content_type="application/json")


def every_quarter_minute(start: float, end: float, value: Callable[[float], str]) -> list[tuple[float, str]]:
    """Scrapes, seven seconds after the quarter-minute."""
    return [(start + 7 + 15 * n, value(start + 7 + 15 * n)) for n in range(int((end - start) // 15))]


def test_a_value_is_in_force_until_the_next_and_time_without_a_sample_is_unknown() -> None:
    """The price changes at 12:00 and is scraped a minute later; an hour without scrapes has no price."""
    early = every_quarter_minute(NOON - 3600, NOON + 600, lambda at: "80.5" if at < NOON else "-12.25")
    late = every_quarter_minute(NOON + 4200, NOON + 4800, lambda at: "40")
    with PageServer(Tsdb(early + late)) as server:
        reader = FromPrometheus(f"{server.url}/prefix/", "price", fetch, factor=0.001)
        found = reader.read(NOON - 3600, NOON + 7200)
    assert found == (
        PriceInterval(NOON - 3540, NOON + 60, 0.0805),
        PriceInterval(NOON + 60, NOON + 900, -0.01225),
        PriceInterval(NOON + 4260, NOON + 5100, 0.04),
    )


def test_queries_are_evaluated_at_multiples_of_the_step() -> None:
    tsdb = Tsdb(every_quarter_minute(NOON - 600, NOON, lambda at: "1"))
    with PageServer(tsdb) as server:
        reader = FromPrometheus(f"{server.url}/prefix", "a / b", fetch, step_seconds=300)
        assert reader.read(NOON - 501.3, NOON + 1) == reader.read(NOON - 599, NOON + 2)
    assert tsdb.asked[0] == {
        "query": "a / b",
        "start": f"{NOON - 600:.3f}",
        "end": f"{NOON:.3f}",
        "step": "300",
        "authorization": "",
    }


def test_a_long_span_is_requested_in_parts() -> None:
    asked: list[tuple[float, float]] = []

    def fetch(request: Request) -> Answer:
        query = parse_qs(urlsplit(request.url).query)
        start, end = float(query["start"][0]), float(query["end"][0])
        asked.append((start, end))
        return Answer(200, matrix([(start + 60 * n, "1") for n in range(int((end - start) / 60) + 1)]))

    found = FromPrometheus("http://p", "price", fetch).read(NOON - 8 * 86400, NOON + 2.5 * 86400)
    assert found == (PriceInterval(NOON - 8 * 86400, NOON + 2.5 * 86400, 1.0),)
    assert [round((end - start) / 60) + 1 for start, end in asked] == [MAX_POINTS, 15120 - MAX_POINTS]
    assert asked[1][0] == asked[0][1] + 60


def test_a_value_that_is_not_finite_is_ignored() -> None:
    values = [(NOON, "0.1"), (NOON + 60, "NaN"), (NOON + 120, "+Inf"), (NOON + 180, "0.2")]
    found = FromPrometheus("http://p", "price", lambda request: Answer(200, matrix(values))).read(NOON, NOON + 240)
    assert found == (PriceInterval(NOON, NOON + 60, 0.1), PriceInterval(NOON + 180, NOON + 240, 0.2))


FAILED = b'{"status": "error", "errorType": "bad_data", "error": "parse error: unexpected end of input"}'


@pytest.mark.parametrize(
    ("response", "reason", "words"),
    [
        (Answer(200, matrix()), Reason.ABSENT, "returns no series"),
        (Answer(200, matrix([(NOON, "1")], [(NOON, "2")])), Reason.MALFORMED, "gives 2 series"),
        (Answer(200, matrix([(NOON + 60, "1"), (NOON, "2")])), Reason.MALFORMED, "out of order"),
        (Answer(200, FAILED), Reason.MALFORMED, "unexpected end of input"),
        (Answer(400, FAILED), Reason.MALFORMED, "unexpected end of input"),
        (Answer(503, b'{"status": "error", "error": "query timed out"}'), Reason.BROKEN, "query timed out"),
        (Answer(401, b"no"), Reason.UNAUTHORIZED, "HTTP 401"),
        (Answer(204, b""), Reason.NOT_YET, "HTTP 204"),
        (
            Answer(200, b'{"status": "success", "data": {"resultType": "vector", "result": []}}'),
            Reason.MALFORMED,
            "gives a vector",
        ),
        (
            Answer(
                200,
                b'{"status": "success", "data": {"resultType": "matrix", "result": [{"metric": {}, "histograms": []}]}}',
            ),
            Reason.MALFORMED,
            "not series of numbers",
        ),
        (Answer(200, matrix([(NOON, "cheap")])), Reason.MALFORMED, "cheap"),
        (Answer(200, b"<html>"), Reason.MALFORMED, "not JSON"),
        (Answer(200, b"null"), Reason.MALFORMED, "query failed"),
        (Answer(200, b"[" * 100_000), Reason.MALFORMED, "nested too deep"),
        (Answer(200, matrix([(NOON, "1")])[:-20]), Reason.MALFORMED, "not JSON"),
    ],
)
def test_an_answer_without_prices_is_an_error_with_a_reason(response: Answer, reason: Reason, words: str) -> None:
    with pytest.raises(SourceError) as raised:
        FromPrometheus("http://p", "price", lambda request: response).read(NOON, NOON + 60)
    assert raised.value.reason is reason
    assert words in raised.value.detail
    assert len(raised.value.detail) < 400


def test_settings_of_unit_vat_and_headers_apply(tmp_path: Path) -> None:
    (tmp_path / "headers").write_text("Authorization: Basic abc\n")
    tsdb = Tsdb(every_quarter_minute(NOON - 3600, NOON + 30, lambda at: "8000"))
    with PageServer(tsdb) as server:
        text = f"""
            tariff:
              currency: EUR
              vat: 0.19
              energy:
                kind: intervals
                format: prometheus
                url: {server.url}/prefix
                query: price_cents_per_mwh
                per: MWh
                minor_units: true
                headers_file: headers
        """
        clock = [NOON]
        context = FeedContext(lambda: clock[0], cache=tmp_path / "cache", jitter=0.0)
        source = load(text, str(tmp_path / "tpw.yaml")).tariff.prices(context)
        assert source is not None
        (now,) = source.intervals(NOON, NOON + 1)
        assert now.price_per_kwh == pytest.approx(0.08 * 1.19)
        assert tsdb.asked[0]["authorization"] == "Basic abc"

        clock[0] += 59
        source.intervals(NOON, NOON + 59)
        assert len(tsdb.asked) == 1
        clock[0] += 1
        source.intervals(NOON, NOON + 60)
        assert len(tsdb.asked) == 2, "asked every minute"
    assert not (tmp_path / "cache").exists(), "Prometheus keeps its own history"


def test_prices_that_stop_are_fetched_every_minute_and_are_an_error(tmp_path: Path) -> None:
    tsdb = Tsdb(every_quarter_minute(NOON - 3600, NOON, lambda at: "0.2"))
    with PageServer(tsdb) as server:
        text = f"{{kind: intervals, format: prometheus, url: '{server.url}/prefix', query: p}}"
        clock = [NOON]
        source = load(f"tariff: {{currency: EUR, energy: {text}}}").tariff.prices(FeedContext(lambda: clock[0]))
        assert source is not None
        assert source.intervals(NOON, NOON + 1)
        assert source.error is None
        clock[0] = NOON + 360
        with pytest.raises(SourceError, match="has no price for now"):
            source.intervals(NOON + 360, NOON + 361)
        tsdb.samples.extend(every_quarter_minute(NOON + 360, NOON + 480, lambda at: "0.3"))
        clock[0] = NOON + 440
        found = source.intervals(NOON, NOON + 441)
        assert [(price.start_seconds, price.end_seconds, price.price_per_kwh) for price in found] == [
            (NOON, NOON + 300, 0.2),
            (NOON + 420, NOON + 441, 0.3),
        ]
        assert source.error is None


def test_carbon_intensity_is_read_alike(tmp_path: Path) -> None:
    with PageServer(Tsdb(every_quarter_minute(NOON - 3600, NOON, lambda at: "0.38"))) as server:
        text = f"""
            carbon: {{kind: intervals, format: prometheus, url: '{server.url}/prefix', query: c, unit: kg/kWh,
                      basis: average_direct}}
        """
        carbon = load(text).carbon
        assert carbon is not None
        source = carbon.source(None, FeedContext(lambda: NOON, cache=tmp_path / "cache"))
        assert source is not None
        (found,) = source.intervals(NOON, NOON + 1)
    assert found.grams_per_kwh == pytest.approx(380)
    assert not (tmp_path / "cache").exists()
