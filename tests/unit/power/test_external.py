from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from support.pageserver import Asked, PageServer, answer
from tpw.model import EnergyMethod, Reason, SourceError
from tpw.power.external import ExternalMeter

WALL = 1_800_000_000.0


class Prometheus:
    """Answers instant queries with what tests put in."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.status = 200
        self.queries: list[str] = []
        self.server = PageServer(self._answer)
        self.server.__enter__()

    def _answer(self, asked: Asked) -> bytes:
        assert urlsplit(asked.path).path == "/api/v1/query"
        (query,) = parse_qs(urlsplit(asked.path).query)["query"]
        self.queries.append(query)
        return answer(json.dumps(self.answers[query]), status=self.status, content_type="application/json")

    def vector(self, query: str, *rows: tuple[dict[str, str], float], at: float = WALL) -> None:
        result = [{"metric": metric, "value": [at, str(value)]} for metric, value in rows]
        self.answers[query] = {"status": "success", "data": {"resultType": "vector", "result": result}}

    def close(self) -> None:
        self.server.__exit__(None, None, None)


@pytest.fixture
def prometheus() -> Any:
    prometheus = Prometheus()
    yield prometheus
    prometheus.close()


def meter(prometheus: Prometheus, clock: Any, **options: Any) -> ExternalMeter:
    return ExternalMeter(clock, url=prometheus.server.url, wall=lambda: WALL + clock() - 1000.0, **options)


def test_fixed_watts_are_a_configured_gpu(clock: Any) -> None:
    meter = ExternalMeter(clock, watts={"lpu-0": 215, "lpu-1": 215}, vendor="groq", model="GroqCard")
    meter.open()
    meter.sweep()

    first = meter.gpus()[0]

    assert [gpu.uuid for gpu in meter.gpus()] == ["EXT-lpu-0", "EXT-lpu-1"]
    assert (first.vendor, first.name, first.energy_method) == ("groq", "GroqCard", EnergyMethod.CONFIGURED)
    assert (meter.read("EXT-lpu-0").power_watts, meter.read("EXT-lpu-0").energy_joules) == (215.0, None)


def test_every_series_of_the_power_query_is_a_gpu(prometheus: Prometheus, clock: Any) -> None:
    query = 'sum by (outlet) (pdu_watts{rack="7"})'
    prometheus.vector(query, ({"outlet": "a"}, 310.5), ({"outlet": "b"}, 12))
    external = meter(prometheus, clock, power_query=query, label="outlet")
    external.open()
    external.sweep()

    assert [(gpu.uuid, gpu.energy_method) for gpu in external.gpus()] == [
        ("EXT-a", EnergyMethod.EXTERNAL),
        ("EXT-b", EnergyMethod.EXTERNAL),
    ]
    assert external.read("EXT-a").power_watts == 310.5
    assert external.read("EXT-a").at_seconds == clock()
    assert prometheus.queries == [query]
    external.close()


def test_queries_are_sent_at_their_interval_and_the_value_holds_in_between(prometheus: Prometheus, clock: Any) -> None:
    prometheus.vector("p", ({"gpu": "a"}, 100))
    external = meter(prometheus, clock, power_query="p", every_seconds=15)
    readings = []
    for _ in range(31):
        external.sweep()
        readings.append(external.read("EXT-a").power_watts)
        clock.advance(1.0)
        prometheus.vector("p", ({"gpu": "a"}, 100 + clock() - 1000), at=WALL + clock() - 1000)

    assert len(prometheus.queries) == 3
    assert (readings[0], readings[14], readings[15], readings[30]) == (100.0, 100.0, 115.0, 130.0)
    external.close()


def test_a_counter_goes_on_only_when_it_has_moved(prometheus: Prometheus, clock: Any) -> None:
    prometheus.vector("e", ({"gpu": "a"}, 5000))
    external = meter(prometheus, clock, energy_query="e", every_seconds=2)
    energies = []
    for second in range(5):
        external.sweep()
        energies.append(external.read("EXT-a").energy_joules)
        clock.advance(1.0)
        if second == 2:
            prometheus.vector("e", ({"gpu": "a"}, 5400))

    assert energies == [5000.0, None, None, None, 5400.0]
    external.close()


def test_a_counter_that_is_gone_is_not_replaced_by_power(prometheus: Prometheus, clock: Any) -> None:
    prometheus.vector("e", ({"gpu": "a"}, 5000))
    prometheus.vector("p", ({"gpu": "a"}, 300), ({"gpu": "b"}, 200))
    external = meter(prometheus, clock, energy_query="e", power_query="p")
    external.sweep()
    first = external.read("EXT-a")
    prometheus.vector("e")
    clock.advance(15.0)
    external.sweep()
    with pytest.raises(SourceError) as caught:
        external.read("EXT-a")

    assert (first.energy_joules, first.power_watts) == (5000.0, 300.0)
    assert (caught.value.reason, "energy_query gives no series" in caught.value.detail) == (Reason.LOST, True)
    assert external.read("EXT-b").power_watts == 200.0
    external.close()


def test_a_counter_that_has_stopped_for_hours_is_an_error(prometheus: Prometheus, clock: Any) -> None:
    external = meter(prometheus, clock, energy_query="e")
    for _ in range(360):
        prometheus.vector("e", ({"gpu": "a"}, 5000), at=WALL + clock() - 1000)
        external.sweep()
        external.read("EXT-a")
        clock.advance(60.0)
    clock.advance(1.0)
    prometheus.vector("e", ({"gpu": "a"}, 5000), at=WALL + clock() - 1000)
    external.sweep()
    with pytest.raises(SourceError) as caught:
        external.read("EXT-a")
    prometheus.vector("e", ({"gpu": "a"}, 9000), at=WALL + clock() - 1000)
    clock.advance(15.0)
    external.sweep()

    assert (caught.value.reason, "been at 5000 J for 6 hours" in caught.value.detail) == (Reason.BROKEN, True)
    assert external.read("EXT-a").energy_joules == 9000.0
    external.close()


@pytest.mark.parametrize(
    "row",
    [
        {"metric": {"gpu": "a"}},
        {"metric": None, "value": [WALL, "1"]},
        {"metric": {"gpu": "a"}, "value": [WALL]},
        {"metric": {"gpu": "a"}, "value": [WALL, "watts"]},
        {"metric": {"gpu": "a"}, "value": [WALL, None]},
        "a",
    ],
)
def test_an_answer_that_is_not_prometheus_is_malformed_and_no_bug_of_ours(
    prometheus: Prometheus, clock: Any, row: Any
) -> None:
    prometheus.answers["p"] = {"status": "success", "data": {"resultType": "vector", "result": [row]}}
    external = meter(prometheus, clock, power_query="p")
    with pytest.raises(SourceError) as caught:
        external.sweep()

    assert caught.value.reason is Reason.MALFORMED
    external.close()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -3.0])
def test_what_is_no_power_is_no_series(prometheus: Prometheus, clock: Any, value: float) -> None:
    prometheus.vector("p", ({"gpu": "a"}, value), ({"gpu": "b"}, 12))
    external = meter(prometheus, clock, power_query="p")
    external.sweep()

    assert [gpu.uuid for gpu in external.gpus()] == ["EXT-b"]
    external.close()


def test_a_series_without_the_label_is_one_gpu(prometheus: Prometheus, clock: Any) -> None:
    prometheus.answers["p"] = {"status": "success", "data": {"resultType": "scalar", "result": [WALL, "42"]}}
    external = meter(prometheus, clock, power_query="p")
    external.sweep()

    assert external.read("EXT-external").power_watts == 42.0
    external.close()


def test_an_old_value_is_not_shown(prometheus: Prometheus, clock: Any) -> None:
    prometheus.vector("p", ({"gpu": "a"}, 100), at=WALL - 200)
    external = meter(prometheus, clock, power_query="p")
    external.sweep()

    with pytest.raises(SourceError) as caught:
        external.read("EXT-a")

    assert caught.value.reason is Reason.TIMEOUT
    external.close()


def test_a_series_that_ends_is_a_lost_gpu(prometheus: Prometheus, clock: Any) -> None:
    prometheus.vector("p", ({"gpu": "a"}, 100), ({"gpu": "b"}, 100))
    external = meter(prometheus, clock, power_query="p", every_seconds=1)
    external.sweep()
    prometheus.vector("p", ({"gpu": "a"}, 100))
    clock.advance(1.0)
    external.sweep()

    with pytest.raises(SourceError) as caught:
        external.read("EXT-b")

    assert caught.value.reason is Reason.LOST
    assert len(external.gpus()) == 2
    external.close()


def test_a_failed_query_affects_its_own_gpus_and_not_the_fixed_ones(prometheus: Prometheus, clock: Any) -> None:
    prometheus.vector("p", ({"gpu": "a"}, 100))
    external = meter(prometheus, clock, power_query="p", watts={"fixed": 50}, every_seconds=1)
    external.sweep()
    prometheus.answers["p"] = {"status": "error", "errorType": "bad_data", "error": "parse error: unexpected end"}
    prometheus.status = 400
    clock.advance(1.0)
    external.sweep()

    with pytest.raises(SourceError, match="parse error") as caught:
        external.read("EXT-a")

    assert caught.value.reason is Reason.MALFORMED
    assert external.read("EXT-fixed").power_watts == 50.0
    external.close()


def test_while_no_gpu_is_known_a_failure_is_the_meters(prometheus: Prometheus, clock: Any) -> None:
    external = meter(prometheus, clock, power_query="p")
    prometheus.close()

    with pytest.raises(SourceError) as caught:
        external.sweep()

    assert caught.value.reason is Reason.UNREACHABLE
    prometheus.server.__enter__()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"resultType": "matrix", "result": []}, "power_query gives a matrix"),
        (
            {
                "resultType": "vector",
                "result": [{"metric": {"gpu": "a"}, "value": [1, "1"]}, {"metric": {"gpu": "a"}, "value": [1, "2"]}],
            },
            "several series with gpu='a'",
        ),
    ],
)
def test_an_answer_without_gpus_is_an_error(
    prometheus: Prometheus, clock: Any, data: dict[str, Any], message: str
) -> None:
    prometheus.answers["p"] = {"status": "success", "data": data}
    external = meter(prometheus, clock, power_query="p")

    with pytest.raises(SourceError, match=message):
        external.sweep()
    external.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs either"),
        ({"url": "http://127.0.0.1:1"}, "url needs"),
        ({"power_query": "p"}, "they need url"),
        ({"watts": {"a": -5}}, "above 0"),
        ({"url": "ftp://x", "power_query": "p"}, "not an http or https address"),
    ],
)
def test_options_that_make_no_sense_are_refused(clock: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExternalMeter(clock, **options)
