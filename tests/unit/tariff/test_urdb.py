"""Rates of the Utility Rate Database: a recorded rate, and differences of others."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tpw.http.messages import Answer, Request
from tpw.model import PriceState, Reason, SourceError
from tpw.tariff.tiers import Tier
from tpw.tariff.urdb import FlatDemand, Urdb, UrdbReader, from_api, from_file, parse

CAPTURE = Path(__file__).parents[2] / "captures" / "tariff" / "urdb-smud-ci-tod4-2025.json"
ZONE = "America/Los_Angeles"
FROM_MAY_2025 = datetime(2025, 5, 1, tzinfo=UTC).timestamp()


def item() -> dict[str, object]:
    found: dict[str, object] = json.loads(CAPTURE.read_text())["items"][0]
    return found


def changed(**changes: object) -> str:
    return json.dumps({**item(), **changes})


def refusal(text: str, label: str = "") -> SourceError:
    with pytest.raises(SourceError) as raised:
        parse(text, label)
    return raised.value


def test_the_rate_of_smud_is_read() -> None:
    rate = parse(CAPTURE.read_bytes())
    assert rate.label == "68c0cb49d7afaa668b0dc6fc"
    assert rate.start_seconds == FROM_MAY_2025
    assert rate.end_seconds is None
    assert [tiers[0].price for tiers in rate.energy.periods] == pytest.approx([0.1445, 0.1189, 0.0768, 0.2370, 0.1154])
    assert rate.flat_demand == FlatDemand(((Tier(5.539),),), (0,) * 12)
    assert rate.demand is not None
    assert [tiers[0].price for tiers in rate.demand.periods] == [0.0, 11.609]
    assert (rate.demand_window_minutes, rate.demand_unit, rate.flat_demand_unit) == (15.0, "kW", "kW")
    assert (rate.fixed_charge, rate.fixed_charge_unit) == (3897.4, "$/month")
    assert rate.unsupported_demand == ""


@pytest.mark.parametrize(
    ("local", "price"),
    [
        ("2026-01-14T08:00", 0.1186),
        ("2026-01-14T09:00", 0.0765),
        ("2026-01-14T16:00", 0.1442),
        ("2026-01-14T21:00", 0.1186),
        ("2026-01-17T16:00", 0.1186),
        ("2026-07-14T17:00", 0.2367),
        ("2026-07-18T17:00", 0.1151),
    ],
)
def test_price_is_the_rate_plus_its_adjustment(local: str, price: float) -> None:
    moment = datetime.fromisoformat(local).replace(tzinfo=ZoneInfo(ZONE)).timestamp()
    [interval] = Urdb(parse(CAPTURE.read_text()), ZONE).intervals(moment, moment + 60)
    assert interval.price_per_kwh == pytest.approx(price + 0.0003)
    assert interval.state is PriceState.FINAL


def test_every_hour_of_a_year_has_the_price_of_its_local_hour() -> None:
    raw = item()
    source = Urdb(parse(CAPTURE.read_text()), ZONE)
    start = datetime(2026, 1, 1, 8, tzinfo=UTC).timestamp()
    intervals = source.intervals(start, start + 365 * 86400)
    position = 0
    for hour in range(365 * 24):
        at = start + hour * 3600 + 1800
        local = datetime.fromtimestamp(at, ZoneInfo(ZONE))
        which = "energyweekendschedule" if local.weekday() >= 5 else "energyweekdayschedule"
        period = raw[which][local.month - 1][local.hour]  # type: ignore[index]
        tier = raw["energyratestructure"][period][0]  # type: ignore[index]
        while intervals[position].end_seconds <= at:
            position += 1
        assert intervals[position].price_per_kwh == pytest.approx(tier["rate"] + tier["adj"])
    assert intervals[0].start_seconds == start
    assert intervals[-1].end_seconds == start + 365 * 86400


def test_holiday_counts_as_a_weekend() -> None:
    rate = parse(CAPTURE.read_text())
    christmas = date(2026, 12, 25)
    assert Urdb(rate, ZONE).price_at(christmas, 16) == pytest.approx(0.1445)
    assert Urdb(rate, ZONE, is_holiday={christmas}.__contains__).price_at(christmas, 16) == pytest.approx(0.1189)


def test_before_its_first_and_after_its_last_day_a_rate_is_a_fallback() -> None:
    source = Urdb(parse(changed(enddate=FROM_MAY_2025 + 86400)), ZONE)
    intervals = source.intervals(FROM_MAY_2025 - 3600, FROM_MAY_2025 + 86400 + 3600)
    assert (intervals[0].state, intervals[-1].state) == (PriceState.FALLBACK, PriceState.FALLBACK)
    final = [price for price in intervals if price.state is PriceState.FINAL]
    assert (final[0].start_seconds, final[-1].end_seconds) == (FROM_MAY_2025, FROM_MAY_2025 + 86400)


def test_fuel_adjustment_of_the_month_is_added() -> None:
    rate = parse(changed(fueladjustmentsmonthly=[0.01 * month for month in range(12)]))
    assert Urdb(rate, ZONE).price_at(date(2026, 1, 14), 9) == pytest.approx(0.0768)
    assert Urdb(rate, ZONE).price_at(date(2026, 4, 15), 9) == pytest.approx(0.0768 + 0.03)


def test_the_tier_follows_from_the_monthly_consumption() -> None:
    tiers = [{"rate": 0.30, "max": 1000}, {"rate": 0.20, "max": 5000, "adj": 0.01}, {"rate": 0.10, "max": 7}]
    rate = parse(changed(energyratestructure=[tiers] * 5))
    day = date(2026, 1, 14)
    prices = [Urdb(rate, ZONE, monthly_kwh=kwh).price_at(day, 9) for kwh in (0, 999, 1000, 4999, 5000, 1e9)]
    assert prices == pytest.approx([0.30, 0.30, 0.21, 0.21, 0.10, 0.10])


def test_without_the_monthly_consumption_a_price_has_steps() -> None:
    tiers = [{"rate": 0.30, "max": 1000}, {"rate": 0.20, "max": 5000, "adj": 0.01}, {"rate": 0.10}]
    source = Urdb(parse(changed(energyratestructure=[tiers] * 5)), ZONE)
    start = datetime(2026, 1, 14, tzinfo=UTC).timestamp()
    (interval,) = source.intervals(start, start + 60)
    assert interval.price_per_kwh == pytest.approx(0.30)
    assert interval.steps == ((1000, pytest.approx(-0.09)), (5000, pytest.approx(-0.11)))
    assert [interval.price_after(kwh) for kwh in (0, 999, 1000, 5000)] == pytest.approx([0.30, 0.30, 0.21, 0.10])


def test_bare_item_and_other_spellings_are_read() -> None:
    upper = json.dumps({key.upper() if key != "label" else key: value for key, value in item().items()})
    assert parse(upper) == parse(CAPTURE.read_text())
    assert parse(json.dumps([item()])) == parse(CAPTURE.read_text())


def test_rate_without_demand_is_read() -> None:
    raw = {key: value for key, value in item().items() if "demand" not in key.lower()}
    rate = parse(json.dumps(raw))
    assert (rate.demand, rate.flat_demand) == (None, None)


def test_rate_without_weekend_has_the_weekday_every_day() -> None:
    raw = {key: value for key, value in item().items() if key != "energyweekendschedule"}
    rate = parse(json.dumps(raw))
    assert rate.energy.weekend == rate.energy.weekday


def test_rate_is_chosen_by_its_label() -> None:
    other = {**item(), "label": "0" * 24, "name": "another"}
    both = json.dumps({"items": [item(), other]})
    assert parse(both, "0" * 24).label == "0" * 24
    assert "2 rates" in refusal(both).detail
    assert refusal(both, "1" * 24).reason is Reason.ABSENT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "null",
        "{}",
        '{"items": []}',
        "[" * 100_000,
        changed(energyratestructure=[]),
        changed(energyratestructure=[[]]),
        changed(energyratestructure="x"),
        changed(energyweekdayschedule=[[0] * 24] * 11),
        changed(energyweekdayschedule=[[0] * 23] * 12),
        changed(energyweekdayschedule=[[9] * 24] * 12),
        changed(energyweekdayschedule=[[-1] * 24] * 12),
        changed(energyweekdayschedule=None),
        changed(fueladjustmentsmonthly=[1, 2]),
        changed(energyratestructure=[[{"rate": 0.1}, {"rate": 0.2}]] * 5),
        changed(energyratestructure=[[{"rate": 0.1, "max": 9}, {"rate": 0.2, "max": 8}, {"rate": 1}]] * 5),
    ],
)
def test_other_documents_are_refused(text: str) -> None:
    assert refusal(text).reason in {Reason.MALFORMED, Reason.ABSENT}


def test_tiers_in_an_unsupported_unit_are_refused() -> None:
    tiers = [{"rate": 0.1, "max": 9, "unit": "kWh/kW"}, {"rate": 0.2, "unit": "kWh/kW"}]
    error = refusal(changed(energyratestructure=[tiers] * 5))
    assert (error.reason, "kWh/kW" in error.detail) == (Reason.UNSUPPORTED, True)


def test_the_reader_reads_a_replaced_file(tmp_path: Path) -> None:
    path = tmp_path / "rate.json"
    path.write_text(CAPTURE.read_text())
    reader = UrdbReader(from_file(str(path)), "x", ZONE)
    at = datetime(2026, 1, 14, 17, tzinfo=UTC).timestamp()
    assert reader.read(at, at + 60)[0].price_per_kwh == pytest.approx(0.0768)
    path.write_text(changed(fueladjustmentsmonthly=[0.5] * 12))
    assert reader.read(at, at + 60)[0].price_per_kwh == pytest.approx(0.5768)
    path.unlink()
    with pytest.raises(SourceError, match="cannot be read from"):
        reader.read(at, at + 60)


def test_rate_is_fetched_by_its_label_with_the_key_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k3y\n")
    asked: list[Request] = []

    def fetch(request: Request) -> Answer:
        asked.append(request)
        return Answer(200, CAPTURE.read_bytes())

    assert parse(from_api("68c0cb49d7afaa668b0dc6fc", str(tmp_path / "key"), fetch)()).fixed_charge == 3897.4
    assert asked[0].url.endswith("getpage=68c0cb49d7afaa668b0dc6fc&api_key=k3y")
    assert "k3y" not in asked[0].address
    assert "k3y" not in repr(asked[0].address)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (1746057600, 1746057600.0),
        ("1746057600", 1746057600.0),
        ("2025-05-01", 1746057600.0),
        ({"$date": "2025-05-01T00:00:00Z"}, 1746057600.0),
        ("NA", None),
        ("", None),
        (None, None),
    ],
)
def test_the_first_day_of_a_rate_in_each_form(text: object, expected: float | None) -> None:
    assert parse(changed(startdate=text)).start_seconds == expected


@pytest.mark.parametrize("text", ["soon", [1]])
def test_a_day_that_cannot_be_read_is_refused(text: object) -> None:
    assert refusal(changed(enddate=text)).reason is Reason.MALFORMED
