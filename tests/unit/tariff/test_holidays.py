"""Public holidays of a region, by the optional package."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path

import pytest

from tpw.config import ConfigError, load
from tpw.tariff.context import FeedContext
from tpw.tariff.holidays import public_holidays

pytest.importorskip("holidays", reason="the optional package holidays is not installed")


@pytest.mark.parametrize(
    ("region", "day", "expected"),
    [
        ("DE", date(2026, 12, 25), True),
        ("DE", date(2026, 12, 24), False),
        ("DE", date(2026, 1, 6), False),
        ("DE-BY", date(2026, 1, 6), True),
        ("US-CA", date(2030, 7, 4), True),
    ],
)
def test_holiday_of_a_country_or_subdivision(region: str, day: date, expected: bool) -> None:
    assert public_holidays(region)(day) is expected


@pytest.mark.parametrize("region", ["ZZ", "DE-ZZ"])
def test_unknown_region_is_refused(region: str) -> None:
    with pytest.raises(ValueError, match="does not know the region"):
        public_holidays(region)


def price_at(text: str, moment: str, directory: Path) -> float:
    at = datetime.fromisoformat(moment).timestamp()
    source = load(text, str(directory / "tpw.yaml")).tariff.prices(FeedContext(lambda: at))
    assert source is not None
    (interval,) = source.intervals(at, at + 60)
    return interval.price_per_kwh


@pytest.mark.parametrize(
    ("region", "moment", "price"),
    [
        ("DE-BY", "2026-01-06T12:00+01:00", 0.1),  # Epiphany, a Tuesday: a holiday in Bavaria
        ("DE-BE", "2026-01-06T12:00+01:00", 0.3),  # and none in Berlin
        ("DE-BE", "2026-03-09T12:00+01:00", 0.3),
        ("DE-BE", "2026-05-01T12:00+02:00", 0.1),
        ("DE", "2026-12-25T23:59:00+01:00", 0.1),
        ("DE", "2026-12-28T00:00:00+01:00", 0.3),
        ("DE", "2026-08-17T12:00+02:00", 0.1),  # listed in the file beside those of the region
    ],
)
def test_tariff_with_the_holidays_of_a_region(region: str, moment: str, price: float, tmp_path: Path) -> None:
    text = f"""
        tariff:
          currency: EUR
          timezone: Europe/Berlin
          energy:
            kind: time_of_use
            price_per_kwh: 0.1
            zones: [{{price_per_kwh: 0.3, days: mon-fri}}]
            holidays_region: {region}
            holidays: [2026-08-17]
    """
    assert price_at(text, moment, tmp_path) == price


def test_rate_with_the_holidays_of_a_state(tmp_path: Path) -> None:
    """Cesar Chavez day, 31 March, is a holiday in California alone: the peak price of the afternoon is not charged."""
    capture = Path(__file__).parents[2] / "captures" / "tariff" / "urdb-smud-ci-tod4-2025.json"
    (tmp_path / "rate.json").write_bytes(capture.read_bytes())
    text = """
        tariff: {{currency: USD, timezone: America/Los_Angeles, energy: {{kind: urdb, file: rate.json{}}}}}
    """
    moment = "2026-03-31T17:00-07:00"
    assert price_at(text.format(""), moment, tmp_path) == pytest.approx(0.1445)
    assert price_at(text.format(", holidays_region: US"), moment, tmp_path) == pytest.approx(0.1445)
    assert price_at(text.format(", holidays_region: US-CA"), moment, tmp_path) == pytest.approx(0.1189)


@pytest.mark.parametrize("region", ["ZZ", "DE-ZZ"])
def test_check_refuses_an_unknown_region(region: str) -> None:
    text = f"""
        tariff: {{currency: EUR, timezone: Europe/Berlin, energy: {{kind: time_of_use, price_per_kwh: 0.1,
                 holidays_region: {region}}}}}
    """
    with pytest.raises(ConfigError, match=f"does not know the region {region}"):
        load(text)


def test_check_reports_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> None:
        return None

    monkeypatch.setattr("tpw.tariff.holidays.find_spec", nothing)
    with pytest.raises(ConfigError, match="needs the Python package `holidays`: install it, or list the dates"):
        load("""
            tariff: {currency: EUR, timezone: Europe/Berlin, energy: {kind: time_of_use, price_per_kwh: 0.1,
                     holidays_region: DE}}
        """)
