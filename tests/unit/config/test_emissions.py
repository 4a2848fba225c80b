"""Sources of carbon intensity from the configuration."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tpw.carbon import Basis, Intensity, IntensitySource
from tpw.config import Config, load
from tpw.http.messages import Answer, Request
from tpw.model import PriceState, Reason, SourceError
from tpw.tariff.context import FeedContext

CAPTURES = Path(__file__).parents[2] / "captures" / "carbon"
NOW = datetime(2026, 6, 14, 0, 20, tzinfo=UTC).timestamp()


def fetch(request: Request) -> Answer:
    answers = {
        "carbonintensity": "uk-national.json",
        "history": "electricity-maps-history.json",
        "latest": "electricity-maps-latest.json",
        "historical": "watttime-historical.json",
        "forecast": "watttime-forecast.json",
    }
    if request.url.endswith("login"):
        return Answer(200, b'{"token": "t"}')
    for part, name in sorted(answers.items(), key=lambda answer: -len(answer[0])):
        if part in request.url:
            return Answer(200, (CAPTURES / name).read_bytes())
    raise SourceError(Reason.UNREACHABLE, f"no server at {request.address}")


def source_of(config: Config, context: FeedContext) -> IntensitySource:
    assert config.carbon is not None
    return config.carbon.source(config.tariff.timezone, context)


def test_no_carbon_is_no_source() -> None:
    assert Config().carbon is None


def test_static() -> None:
    source = source_of(load("carbon: {kind: static, grams_per_kwh: 380, basis: average_lifecycle}"), FeedContext())
    assert source.basis is Basis.AVERAGE_LIFECYCLE
    assert source.intervals(0, 10) == (Intensity(0, 10, 380.0),)


@pytest.mark.parametrize(
    ("carbon", "basis", "grams"),
    [
        ("{kind: uk}", Basis.AVERAGE_DIRECT, 205.0),
        ("{kind: electricity_maps, zone: DE, token_file: secret}", Basis.AVERAGE_LIFECYCLE, 400.0),
        ("{kind: electricity_maps, zone: DE, token_file: secret, factors: direct}", Basis.AVERAGE_DIRECT, 400.0),
        ("{kind: watttime, region: CAISO_NORTH, account_file: secret}", Basis.MARGINAL_DIRECT, 840 * 0.45359237),
    ],
)
def test_a_source_of_each_kind_is_made_fetched_and_cached(
    tmp_path: Path, carbon: str, basis: Basis, grams: float
) -> None:
    (tmp_path / "secret").write_text("me:password")
    config = load(f"carbon: {carbon}", str(tmp_path / "tpw.yaml"))
    source = source_of(config, FeedContext(lambda: NOW, fetch, tmp_path / "carbon", 0.0))
    [found] = source.intervals(NOW, NOW + 60)
    assert (source.basis, found.grams_per_kwh, found.state) == (basis, pytest.approx(grams), PriceState.FINAL)
    assert len(list((tmp_path / "carbon").iterdir())) == 1


def test_a_list_of_intensities(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("t,e,lb\n2026-06-14T00:00Z,2026-06-14T01:00Z,1000\n")
    config = load(
        "carbon: {kind: intervals, file: a.csv, format: csv, time: t, end: e, value: lb, unit: lb/MWh,"
        " basis: marginal_direct, fallback_grams_per_kwh: 400}",
        str(tmp_path / "tpw.yaml"),
    )
    source = source_of(config, FeedContext(lambda: NOW, fetch, tmp_path / "carbon", 0.0))
    first, second = source.intervals(NOW, NOW + 3600)
    assert first.grams_per_kwh == pytest.approx(453.59237)
    assert (second.grams_per_kwh, second.state) == (400.0, PriceState.FALLBACK)
