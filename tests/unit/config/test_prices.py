"""From the file to prices, rates and references."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from tpw.config import Config, load, load_file
from tpw.config.prices import cost_rates, price_source, references

CONTRACT = Path(__file__).parents[2] / "captures" / "config" / "good" / "contract.yaml"


def price_at(text: str, moment: str) -> float:
    source = price_source(load(text))
    assert source is not None
    at = datetime.fromisoformat(moment).timestamp()
    [interval] = source.intervals(at, at + 1)
    return interval.price_per_kwh


def test_no_tariff_is_no_source() -> None:
    assert price_source(Config()) is None
    assert price_source(load("tariff: {currency: EUR}")) is None


@pytest.mark.parametrize(
    ("moment", "price"),
    [
        ("2026-11-24T12:00+01:00", 0.20),
        ("2026-11-24T17:00+01:00", 0.30),
        ("2026-11-24T20:00+01:00", 0.20),
        ("2026-11-28T17:00+01:00", 0.20),
        ("2026-07-01T17:00+02:00", 0.20),
        ("2026-07-01T22:00+02:00", 0.10),
        ("2026-07-02T05:59+02:00", 0.10),
    ],
)
def test_example_of_the_contract(moment: str, price: float) -> None:
    assert price_at(CONTRACT.read_text(), moment) == price


def test_layers_and_vat() -> None:
    text = """
    tariff:
      currency: EUR
      vat: 0.19
      energy: {price_per_kwh: 0.10}
      grid: {kind: flat, price_per_kwh: 0.06}
      levies: {price_per_kwh: 0.02, includes_vat: true}
    """
    assert price_at(text, "2026-01-01T00:00+00:00") == pytest.approx(0.16 * 1.19 + 0.02)


def test_holidays_listed() -> None:
    text = """
    tariff:
      currency: EUR
      timezone: Europe/Berlin
      energy:
        kind: time_of_use
        price_per_kwh: 0.1
        zones: [{price_per_kwh: 0.3, days: mon-fri}]
        holidays: [2026-12-25]
    """
    assert price_at(text, "2026-12-24T12:00+01:00") == 0.3
    assert price_at(text, "2026-12-25T12:00+01:00") == 0.1


def test_rates_by_component() -> None:
    config = load(
        """
        tariff: {currency: EUR}
        costs:
          hardware: {price_per_gpu: 35040, years: 4}
          gpu_hour: {price: 3.6}
          hosting: {price_per_kw_month: 730, kw_per_gpu: 1}
          operations: {price_per_gpu_month: 73}
        """
    )
    per_hour = {rate.component: rate.per_gpu_second * 3600 for rate in cost_rates(config)}
    assert per_hour == pytest.approx({"hardware": 1.0, "gpu_hour": 3.6, "hosting": 1.0, "operations": 0.1})
    assert cost_rates(Config()) == ()


def test_references_of_the_contract() -> None:
    rented, api = references(load_file(CONTRACT))
    assert (rented.name, rented.price_per_gpu_second) == ("rented-h100", pytest.approx(2.69 / 3600))
    assert (api.name, sorted(api.price_per_token)) == ("api-70b", ["cached_input", "input", "output"])
