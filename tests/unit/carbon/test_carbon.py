"""Carbon intensity: bodies, requests and conversion of each source."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tpw.carbon import Basis, Intensity
from tpw.carbon.curve import IntensityCurve
from tpw.carbon.electricity_maps import ElectricityMaps
from tpw.carbon.electricity_maps import parse as parse_electricity_maps
from tpw.carbon.feed import FromFeed, refuse_implausible
from tpw.carbon.intervals import GRAMS
from tpw.carbon.static import Static
from tpw.carbon.uk import Uk
from tpw.carbon.uk import parse as parse_uk
from tpw.carbon.watttime import WattTime
from tpw.carbon.watttime import parse as parse_watttime
from tpw.config import load
from tpw.http.messages import Answer, Request
from tpw.model import PriceInterval, PriceState, Reason, SourceError
from tpw.tariff.context import FeedContext
from tpw.tariff.curve import PriceCurve
from tpw.tariff.feed import Feed
from tpw.tariff.schedule import Schedule

CAPTURES = Path(__file__).parents[2] / "captures" / "carbon"
MIDNIGHT = datetime(2026, 6, 14, tzinfo=UTC).timestamp()
HOUR = 3600.0


def watttime_past(body: bytes) -> Sequence[PriceInterval]:
    return parse_watttime(body, PriceState.FINAL)


def watttime_ahead(body: bytes) -> Sequence[PriceInterval]:
    return parse_watttime(body, PriceState.FORECAST)


CASES: dict[str, Callable[[bytes], Sequence[PriceInterval]]] = {
    "uk-national.json": parse_uk,
    "uk-regional.json": parse_uk,
    "uk-nothing.json": parse_uk,
    "electricity-maps-history.json": parse_electricity_maps,
    "electricity-maps-latest.json": parse_electricity_maps,
    "watttime-historical.json": watttime_past,
    "watttime-forecast.json": watttime_ahead,
    "bad/watttime-other-units.json": watttime_past,
    "bad/watttime-error.json": watttime_past,
    "bad/uk-error.json": parse_uk,
    "bad/uk-no-zone.json": parse_uk,
    "bad/electricity-maps-text.json": parse_electricity_maps,
    "bad/electricity-maps-step.json": parse_electricity_maps,
}


def shown(intervals: Sequence[PriceInterval]) -> str:
    return "".join(
        f"{datetime.fromtimestamp(item.start_seconds, UTC):%Y-%m-%dT%H:%MZ}"
        f" {datetime.fromtimestamp(item.end_seconds, UTC):%Y-%m-%dT%H:%MZ} {item.price_per_kwh:.3f} {item.state}\n"
        for item in intervals
    )


@pytest.mark.parametrize("name", CASES)
def test_a_body_is_read_to_its_golden(name: str) -> None:
    try:
        intervals = CASES[name]((CAPTURES / name).read_bytes())
        PriceCurve.from_intervals(intervals)
        actual = shown(intervals)
    except SourceError as error:
        actual = f"{error.reason}: {error.detail}\n"
    golden = CAPTURES / f"{name}.golden"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        golden.write_text(actual)
    assert actual == golden.read_text()


def test_every_capture_has_a_case() -> None:
    assert {str(path.relative_to(CAPTURES)) for path in CAPTURES.rglob("*.json")} == set(CASES)


@pytest.mark.parametrize("read", [parse_uk, parse_electricity_maps, watttime_past])
@pytest.mark.parametrize("garbage", [b"", b"null", b"[1]", b'"a"', b"[" * 100_000, b"\xff" * 100, b'{"data": 1}'])
def test_garbage_is_refused(read: Callable[[bytes], Sequence[PriceInterval]], garbage: bytes) -> None:
    with pytest.raises(SourceError) as raised:
        read(garbage)
    assert raised.value.reason is Reason.MALFORMED


def test_region_in_a_list_is_read_too() -> None:
    body = json.loads((CAPTURES / "uk-regional.json").read_bytes())
    assert parse_uk(json.dumps({"data": [body["data"]]}).encode()) == parse_uk(json.dumps(body).encode())


def test_pounds_per_mwh_are_converted() -> None:
    [first, *_] = watttime_past((CAPTURES / "watttime-historical.json").read_bytes())
    assert first.price_per_kwh == pytest.approx(800 * 453.59237 / 1000)


class Recorder:
    """Answers by a part of the address."""

    def __init__(self, **answers: str) -> None:
        self.answers = answers
        self.requests: list[Request] = []

    def __call__(self, request: Request) -> Answer:
        self.requests.append(request)
        for part, answer in self.answers.items():
            if part in request.url:
                path = CAPTURES / answer
                return Answer(200, path.read_bytes() if path.exists() else answer.encode())
        return Answer(404, b"")


def test_uk_requests_the_nation_or_a_region() -> None:
    fetch = Recorder(regional="uk-regional.json", intensity="uk-national.json")
    Uk(fetch).read(MIDNIGHT, MIDNIGHT + 24 * HOUR)
    Uk(fetch, "RG10").read(MIDNIGHT - 100 * 24 * HOUR, MIDNIGHT)
    assert [request.url for request in fetch.requests] == [
        "https://api.carbonintensity.org.uk/intensity/2026-06-14T00:00Z/2026-06-15T00:00Z",
        "https://api.carbonintensity.org.uk/regional/intensity/2026-06-01T00:00Z/2026-06-14T00:00Z/postcode/RG10",
    ]


def test_electricity_maps_extends_the_newest_hour_by_one(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t0ken")
    fetch = Recorder(history="electricity-maps-history.json", latest="electricity-maps-latest.json")
    found = ElectricityMaps("DE", str(tmp_path / "token"), fetch).read(MIDNIGHT, MIDNIGHT + 24 * HOUR)
    assert found[0].start_seconds == MIDNIGHT
    assert found[-1].end_seconds == MIDNIGHT + 12 * HOUR
    assert found[-1].state is PriceState.PRELIMINARY
    assert fetch.requests[0].headers == {"auth-token": "t0ken"}
    assert fetch.requests[1].url == (
        "https://api.electricitymaps.com/v3/carbon-intensity/latest?zone=DE&emissionFactorType=lifecycle"
    )


def test_watttime_logs_in_and_prefers_historical_values_to_forecasts(tmp_path: Path) -> None:
    (tmp_path / "account").write_text("me:pass:word\n")
    fetch = Recorder(
        login='{"token": "t0ken"}', historical="watttime-historical.json", forecast="watttime-forecast.json"
    )
    found = WattTime("CAISO_NORTH", str(tmp_path / "account"), fetch, lambda: MIDNIGHT + 1800).read(
        MIDNIGHT, MIDNIGHT + HOUR
    )
    assert [item.state for item in found] == [PriceState.FINAL] * 6 + [PriceState.FORECAST] * 6
    login, historical, _ = fetch.requests
    assert base64.b64decode(login.headers["Authorization"].removeprefix("Basic ")) == b"me:pass:word"
    assert historical.headers == {"Authorization": "Bearer t0ken"}
    assert historical.url.endswith(
        "historical?region=CAISO_NORTH&signal_type=co2_moer&start=2026-06-14T00:00:00Z&end=2026-06-14T00:30:00Z"
    )


@pytest.mark.parametrize(("account", "answer"), [("nocolon", "{}"), ("a:b", "{}"), ("a:b", "[]"), ("a:b", "<html>")])
def test_a_failed_login_to_watttime_is_reported(tmp_path: Path, account: str, answer: str) -> None:
    (tmp_path / "account").write_text(account)
    with pytest.raises(SourceError) as raised:
        WattTime("X", str(tmp_path / "account"), Recorder(login=answer), lambda: 0.0).read(0, 1)
    assert raised.value.reason is (Reason.MALFORMED if ":" in account else Reason.PERMISSION)
    assert account not in raised.value.detail


class Given:
    name = "given"
    identity = "given"

    def __init__(self, *intervals: PriceInterval) -> None:
        self.known = intervals

    def read(self, start_seconds: float, end_seconds: float) -> Sequence[PriceInterval]:
        return self.known


def test_static_is_one_interval() -> None:
    source = Static(380.0, Basis.AVERAGE_LIFECYCLE)
    assert source.intervals(1, 5) == (Intensity(1, 5, 380.0),)
    assert source.intervals(5, 5) == ()


def test_feed_of_grams_becomes_intensities() -> None:
    reader = Given(PriceInterval(0, HOUR, 100.0), PriceInterval(HOUR, 2 * HOUR, 120.0, PriceState.FORECAST))
    feed = Feed(reader, clock=lambda: 10.0, unit="g", schedule=Schedule(), check=refuse_implausible)
    source = FromFeed(feed, Basis.AVERAGE_DIRECT)
    assert source.intervals(1800, 2 * HOUR) == (
        Intensity(1800, HOUR, 100.0),
        Intensity(HOUR, 2 * HOUR, 120.0, PriceState.FORECAST),
    )
    assert (source.name, source.basis, source.error) == ("given", Basis.AVERAGE_DIRECT, None)


@pytest.mark.parametrize("grams", [-400.0, 3001.0, 400_000.0, float("nan"), float("inf")])
def test_implausible_grams_per_kwh_are_refused(grams: float) -> None:
    feed = Feed(
        Given(PriceInterval(0, HOUR, grams)), clock=lambda: 1.0, unit="g", schedule=Schedule(), check=refuse_implausible
    )
    with pytest.raises(SourceError, match="is implausible"):
        feed.intervals(0, HOUR)


def test_lists_in_other_units_are_converted_to_grams(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text('[{"t": "1970-01-01T00:00Z", "e": "1970-01-02T00:00Z", "v": 2}]')
    grams = {}
    for unit in GRAMS:
        settings = f"kind: intervals, file: list.json, time: t, end: e, value: v, unit: {unit}, basis: average_direct"
        carbon = load(f"carbon: {{{settings}}}", str(tmp_path / "tpw.yaml")).carbon
        assert carbon is not None
        [found] = carbon.source(None, FeedContext(lambda: 1.0)).intervals(0, 1)
        grams[unit] = found.grams_per_kwh
    assert grams == {"g/kWh": 2.0, "kg/MWh": 2.0, "lb/MWh": 0.90718474, "kg/kWh": 2000.0}


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        ("{kind: uk}", 1800),
        ("{kind: electricity_maps, zone: DE, token_file: t}", 1800),
        ("{kind: watttime, region: CAISO_NORTH, account_file: a}", 1800),
        ("{kind: intervals, url: 'https://l.example', time: t, value: v, basis: average_direct}", 6 * 3600),
        ("{kind: intervals, file: l.json, time: t, value: v, basis: average_direct}", 60),
    ],
)
def test_interval_between_two_requests(settings: str, seconds: float) -> None:
    carbon = load(f"carbon: {settings}").carbon
    assert carbon is not None
    source: Any = carbon.source(None, FeedContext())
    assert source._feed._schedule.refresh_seconds == seconds


def test_a_curve_of_intensities_is_cut_like_one_of_prices() -> None:
    first, second = Intensity(0, 10, 100.0), Intensity(20, 30, 200.0)
    curve = IntensityCurve.from_intervals([first, second])
    assert list(curve.pieces(5, 25)) == [(5, 10, first), (10, 20, None), (20, 25, second)]
    assert (curve.at(9.9), curve.at(10), curve.at(29)) == (first, None, second)
    with pytest.raises(ValueError, match="out of order"):
        IntensityCurve.from_intervals([second, first])
