"""Layers with terms, and demand charges by season, year and event: compared with the words of a contract."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.examples import examples
from tpw.config import load
from tpw.config.problems import ConfigError
from tpw.model import SourceError
from tpw.tariff.context import FeedContext
from tpw.tariff.demand import Demand, close_windows, kw_months, record
from tpw.tariff.settings import Tariff

ZONE = ZoneInfo("Europe/Berlin")


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZONE).timestamp()


def tariff(text: str, path: str = "<text>") -> Tariff:
    return load(f"tariff: {{currency: EUR, timezone: Europe/Berlin, {text}}}", path).tariff


def prices(text: str, *moments: str, path: str = "<text>") -> list[float | None]:
    source = tariff(text, path).prices(FeedContext(clock=lambda: at(moments[0])))
    assert source is not None
    found = [source.intervals(at(moment), at(moment) + 1) for moment in moments]
    return [one[0].price_per_kwh if one else None for one in found]


def test_layers_of_a_slot_are_added() -> None:
    text = "energy: [{price_per_kwh: 0.1}, {price_per_kwh: 0.02}], grid: {price_per_kwh: 0.05}"
    assert prices(text, "2026-07-01T12:00") == [pytest.approx(0.17)]


def test_factor_floor_and_cap_then_share() -> None:
    base = "energy: [{price_per_kwh: 0.1, factor: 1.5, %s share: 0.4}, {price_per_kwh: 1, share: rest}]"
    assert prices(base % "", "2026-07-01") == [pytest.approx(0.06 + 0.6)]
    assert prices(base % "cap: 0.12,", "2026-07-01") == [pytest.approx(0.048 + 0.6)]
    assert prices(base % "floor: 0.2,", "2026-07-01") == [pytest.approx(0.08 + 0.6)]


def test_a_layer_applies_at_its_times_only() -> None:
    text = "energy: {price_per_kwh: 0.2}, grid: {price_per_kwh: 0.1, hours: '08:00-20:00', days: [mon-fri], months: [11-3]}"
    moments = ("2026-11-24T08:00", "2026-11-24T07:59", "2026-11-28T12:00", "2026-07-01T12:00")
    assert prices(text, *moments) == [pytest.approx(0.3), 0.2, 0.2, 0.2]


def test_contracts_in_succession_and_no_price_where_no_energy_applies() -> None:
    text = (
        "energy: [{price_per_kwh: 0.2, valid_to: 2026-12-31}, {price_per_kwh: 0.3, valid_from: 2027-01-02}],"
        " grid: {price_per_kwh: 0.1}"
    )
    moments = ("2026-12-31T23:59", "2027-01-01T12:00", "2027-01-02T00:00")
    assert prices(text, *moments) == [pytest.approx(0.3), None, pytest.approx(0.4)]


def test_holidays_of_a_layer_are_sundays() -> None:
    text = "energy: {price_per_kwh: 0.2}, levies: {price_per_kwh: 0.1, days: [sun], holidays: [2026-12-25]}"
    assert prices(text, "2026-12-25T12:00", "2026-12-24T12:00") == [pytest.approx(0.3), 0.2]


def test_shares_by_interval_and_the_rest(tmp_path: Path) -> None:
    (tmp_path / "solar.csv").write_text(
        "time,percent\n2026-07-01T10:00+02:00,25\n2026-07-01T11:00+02:00,100\n2026-07-01T12:00+02:00,0\n"
        "2026-07-01T13:00+02:00,50\n"
    )
    text = (
        "energy: [{price_per_kwh: 0.08, share: {file: solar.csv, format: csv, time: time, value: percent, percent: true}},"
        " {price_per_kwh: 0.30, share: rest}], grid: {price_per_kwh: 0.10, share: rest}"
    )
    moments = ("2026-07-01T10:30", "2026-07-01T11:30", "2026-07-01T12:30", "2026-07-01T15:00")
    found = prices(text, *moments, path=str(tmp_path / "tpw.yaml"))
    assert found == [pytest.approx(0.25 * 0.08 + 0.75 * 0.40), pytest.approx(0.08), pytest.approx(0.40), None]


def test_a_margin_on_every_kwh_leaves_the_rest_as_it_is() -> None:
    text = "energy: [{price_per_kwh: 0.062, share: 0.7}, {price_per_kwh: 0.1, share: rest}, {price_per_kwh: 0.002}]"
    assert prices(text, "2026-07-01T12:00") == [pytest.approx(0.7 * 0.062 + 0.3 * 0.1 + 0.002)]


@pytest.mark.parametrize("second", ["share: {file: b.csv, format: csv, time: time, value: s}", "share: 0.5"])
def test_shares_that_do_not_add_up_are_no_price(tmp_path: Path, second: str) -> None:
    for name, share in (("a", (0.5, 0.6, 0.4)), ("b", (0.5, 0.5, 0.5))):
        rows = "".join(f"2026-07-01T{10 + number}:00+02:00,{value}\n" for number, value in enumerate(share))
        (tmp_path / f"{name}.csv").write_text("time,s\n" + rows)
    table = "share: {file: a.csv, format: csv, time: time, value: s}"
    moments = ("2026-07-01T10:30", "2026-07-01T11:30", "2026-07-01T12:30")
    text = f"energy: [{{price_per_kwh: 1, {table}}}, {{price_per_kwh: 2, {second}}}, {{price_per_kwh: 0.1}}]"
    assert prices(text, *moments, path=str(tmp_path / "tpw.yaml")) == [pytest.approx(1.6), None, None]
    with_rest = text.replace("{price_per_kwh: 0.1}", "{price_per_kwh: 3, share: rest}")
    found = prices(with_rest, *moments, path=str(tmp_path / "tpw.yaml"))
    assert found == [pytest.approx(1.5), None, pytest.approx(0.4 + 1.0 + 0.3)]


def test_a_share_above_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("time,s\n2026-07-01T10:00+02:00,25\n2026-07-01T11:00+02:00,30\n")
    share = "{file: s.csv, format: csv, time: time, value: s}"
    text = f"energy: [{{price_per_kwh: 1, share: {share}}}, {{price_per_kwh: 1, share: rest}}]"
    with pytest.raises(SourceError, match="is not from 0 to 1"):
        prices(text, "2026-07-01T10:30", path=str(tmp_path / "tpw.yaml"))


def test_taxes_in_per_cent_are_on_what_they_name_and_vat_on_all() -> None:
    text = (
        "vat: 0.2, taxes: [{rate: 0.05, charges: [energy]}, {rate: 0.01}], energy: {price_per_kwh: 0.1},"
        " grid: {price_per_kwh: 0.1}, demand: {price_per_kw_month: 10}, fixed: {per_month: 100},"
        " capacity: {kw: 1, price_per_kw_month: 5}"
    )
    found = tariff(text)
    assert prices(text, "2026-07-01") == [pytest.approx(1.2 * (0.1 * 1.06 + 0.1 * 1.01))]
    assert found.demand_rules()[0].price_per_kw_month == pytest.approx(10 * 1.01 * 1.2)
    assert {charge.component: charge.per_month for charge in found.standing_charges()} == pytest.approx(
        {"fixed": 121.2, "capacity": 6.06}
    )


TEMPO = (
    "energy: {kind: time_of_use, price_per_kwh: 9, zones: ["
    "{price_per_kwh: 0.13, dates_file: tempo.csv, dates_value: blue, day_starts: '06:00'},"
    "{price_per_kwh: 0.70, dates_file: tempo.csv, dates_value: RED, day_starts: '06:00'},"
    "{price_per_kwh: 0.15, dates_file: tempo.csv, dates_value: RED, day_starts: '06:00', hours: '22:00-06:00'}]}"
)


def test_days_of_a_calendar_file_with_a_day_that_starts_at_six(tmp_path: Path) -> None:
    file = tmp_path / "tempo.csv"
    file.write_text("date,colour\n2026-01-14,BLUE\n2026-01-15,RED\n")
    path = str(tmp_path / "tpw.yaml")
    moments = ("2026-01-15T05:00", "2026-01-15T06:00", "2026-01-15T23:00", "2026-01-16T05:59")
    assert prices(TEMPO, *moments, path=path) == [0.13, 0.70, 0.15, 0.15]
    assert prices(TEMPO, "2026-01-16T06:00", path=path) == [None]
    source = tariff(TEMPO, path).prices(FeedContext())
    assert source is not None
    assert source.intervals(at("2026-01-16T06:00"), at("2026-01-16T07:00")) == ()
    file.write_text("date,colour\n2026-01-14,BLUE\n2026-01-15,RED\n2026-01-16,blue\n")
    assert source.intervals(at("2026-01-16T06:00"), at("2026-01-16T07:00"))[0].price_per_kwh == 0.13


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("2026-01-14\nsoon\n", "not a date"),
        ("2026-01-14;f\xe9ri\xe9", "no text in UTF-8"),
        ("2026-01-14,RED\n2026-01-14,BLUE\n", "two values"),
    ],
)
def test_a_calendar_that_cannot_be_read_is_no_price(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "tempo.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(SourceError, match=words):
        prices(TEMPO, "2026-01-14T12:00", path=str(tmp_path / "tpw.yaml"))


def test_listed_days_alone() -> None:
    listed = "{price_per_kwh: 1.0, dates: [2026-01-14], hours: '07:00-01:00', day_starts: '07:00'}"
    text = f"energy: [{{price_per_kwh: 0.2}}, {listed}]"
    moments = ("2026-01-14T06:59", "2026-01-14T07:00", "2026-01-15T00:59", "2026-01-15T01:00", "2026-01-15T07:00")
    assert prices(text, *moments) == [0.2, pytest.approx(1.2), pytest.approx(1.2), 0.2, 0.2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("energy: {price_per_kwh: 0.1, share: 0.7}", "add up to 0.7"),
        ("energy: {price_per_kwh: 0.1, share: rest}", "is what other layers leave"),
        ("energy: {price_per_kwh: 0.1, floor: 0.2, cap: 0.1}", "above cap"),
        ("energy: {price_per_kwh: 0.1, dates_value: RED}", "needs `dates_file`"),
        ("energy: {price_per_kwh: 0.1, cap: 1, blocks: [{above_kwh: 1, price_per_kwh: 1}]}", "floor or cap"),
        ("energy: {price_per_kwh: 1, hours: '08:00-20:00', blocks: [{above_kwh: 1, price_per_kwh: 1}]}", "all hours"),
        ("energy: {price_per_kwh: 1}, demand: {name: a}", "give one of"),
        ("energy: {price_per_kwh: 1}, demand: {price_per_kw_month: 1, price_per_kw_year: 1}", "give one of"),
        ("energy: {price_per_kwh: 1}, demand: {price_per_kw_month: 1, basis: season}", "season needs `months`"),
        ("energy: {price_per_kwh: 1}, demand: {price_per_kw_month: 1, basis: year, ratchet: 0.8}", "has no effect"),
        ("energy: {price_per_kwh: 1}, demand: {price_per_kw_month: 1, committed_kw: 1, minimum_kw: 2}", "is above"),
        ("energy: {price_per_kwh: 1}, demand: {price_per_kw_month: 1, unit: kVA}", "needs `power_factor`"),
        ("energy: {price_per_kwh: 1}, demand: {price_per_kw_month: 1, excess_price_per_kw_month: 1}", "committed_kw"),
        (
            "energy: {price_per_kwh: 1}, demand: {price_per_kw_month: 1, coincident: {events: ['2026-07-20T16:50']}}",
            "start of a window",
        ),
        (
            "energy: {price_per_kwh: 1}, demand: [{name: a, price_per_kw_month: 1}, {name: a, price_per_kw_month: 1}]",
            "same",
        ),
    ],
)
def test_contradictions_are_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tariff(text)


# ----------------------------------------------------------------------------------------------------------------- demand


def bill(text: str, begin: str, end: str, *loads: tuple[str, float]) -> float:
    """The demand charges of a time with windows of so many kW."""
    total = 0.0
    for rules in tariff(f"energy: {{price_per_kwh: 0}}, demand: {text}").demand_rules():
        state = record(Demand(), rules, at(begin), at(begin) + 1, 0.0)
        for moment, kw in sorted(loads):
            state = close_windows(state, rules, at(moment))
            state = record(
                state, rules, at(moment), at(moment) + rules.window_seconds, kw * 1000 * rules.window_seconds
            )
        state = close_windows(state, rules, at(end))
        total += kw_months(state, rules, at(end)) * rules.price_per_kw_month
    return total


def test_an_annual_peak_costs_its_price_whenever_it_was() -> None:
    loads = [("2026-01-10T09:00", 60.0), ("2026-12-15T09:00", 150.0)]
    text = "{price_per_kw_year: 180, basis: year}"
    assert bill(text, "2026-01-01", "2027-01-01", *loads) == pytest.approx(150 * 180)
    again = bill(text, "2026-01-01", "2028-01-01", *loads, ("2027-03-01T09:00", 100.0))
    assert again == pytest.approx(150 * 180 + 100 * 180)
    assert bill("{price_per_kw_month: 15, basis: year}", "2026-01-01", "2027-01-01", *loads) == pytest.approx(27_000)


def test_a_basis_that_changes_within_a_month_applies_from_the_next() -> None:
    """November is billed by the month, though the year is the basis from the 15th; December by the rest of the year."""
    by_month, by_year = (
        tariff(f"energy: {{price_per_kwh: 0}}, demand: {{price_per_kw_month: 10, basis: {basis}}}").demand_rules()[0]
        for basis in ("month", "year")
    )
    state = record(Demand(), by_month, at("2026-11-01"), at("2026-11-01T00:15"), 100_000.0 * 900)
    state = close_windows(state, by_year, at("2026-11-15"))
    assert kw_months(state, by_year, at("2026-12-01")) == pytest.approx(100)
    state = close_windows(state, by_year, at("2026-12-02"))
    state = record(state, by_year, at("2026-12-02"), at("2026-12-02T00:15"), 60_000.0 * 900)
    end = kw_months(close_windows(state, by_year, at("2027-01-01")), by_year, at("2027-01-01"))
    assert end == pytest.approx(100 + 60 * 12 * 31 / 365)


def test_a_year_that_becomes_months_ends_with_the_change() -> None:
    by_month, by_year = (
        tariff(f"energy: {{price_per_kwh: 0}}, demand: {{price_per_kw_month: 10, basis: {basis}}}").demand_rules()[0]
        for basis in ("month", "year")
    )
    state = record(Demand(), by_year, at("2026-01-01"), at("2026-01-01T00:15"), 100_000.0 * 900)
    state = close_windows(state, by_year, at("2026-07-01"))
    until_july = 12 * 100 * 181 / 365
    assert kw_months(state, by_year, at("2026-07-01")) == pytest.approx(until_july, rel=1e-3)
    state = close_windows(state, by_month, at("2026-07-01"))
    state = record(state, by_month, at("2026-07-01"), at("2026-07-01T00:15"), 60_000.0 * 900)
    state = close_windows(state, by_month, at("2026-08-02"))
    assert kw_months(state, by_month, at("2026-08-01")) == pytest.approx(until_july + 60, rel=1e-3)


def test_a_year_from_april() -> None:
    loads = [("2026-03-31T09:00", 90.0), ("2026-04-01T09:00", 150.0), ("2027-03-31T09:00", 160.0)]
    text = "{price_per_kw_year: 120, basis: year, year_begins: 4}"
    assert bill(text, "2025-04-01", "2027-04-01", *loads) == pytest.approx(90 * 120 + 160 * 120)


def test_the_peak_of_a_season_is_billed_for_its_months() -> None:
    loads = [
        ("2026-05-31T12:00", 900.0),
        ("2026-06-10T12:00", 100.0),
        ("2026-09-30T12:00", 140.0),
        ("2026-10-01T12:00", 500.0),
    ]
    text = "{price_per_kw_month: 10, basis: season, months: [6-9]}"
    assert bill(text, "2026-01-01", "2027-01-01", *loads) == pytest.approx(140 * 10 * 4)
    winter = "{price_per_kw_month: 10, basis: season, months: [11-2]}"
    assert bill(winter, "2026-11-01", "2027-03-01", ("2027-02-27T12:00", 70.0)) == pytest.approx(70 * 10 * 4)


def test_a_rolling_year_bills_the_highest_of_twelve_months() -> None:
    loads = [("2026-01-10T09:00", 150.0), ("2026-06-10T09:00", 60.0), ("2027-01-10T09:00", 80.0)]
    text = "{price_per_kw_month: 10, basis: rolling, window: 30m}"
    assert bill(text, "2026-01-01", "2027-02-01", *loads) == pytest.approx(10 * (12 * 150 + 80))


def test_only_the_peaks_of_summer_count_for_a_ratchet() -> None:
    loads = [("2026-01-10T09:00", 500.0), ("2026-07-10T09:00", 200.0), ("2026-11-10T09:00", 90.0)]
    text = "{price_per_kw_month: 10, ratchet: 0.8, ratchet_peaks: [6-9]}"
    assert bill(text, "2026-01-01", "2026-12-01", *loads) == pytest.approx(10 * (500 + 0 * 5 + 200 + 160 * 4))


def test_committed_power_is_billed_at_least_and_the_excess_at_its_price() -> None:
    text = "{price_per_kw_month: 10, committed_kw: 100, excess_price_per_kw_month: 25}"
    assert bill(text, "2026-01-01", "2026-02-01", ("2026-01-10T09:00", 60.0)) == pytest.approx(1000)
    assert bill(text, "2026-01-01", "2026-02-01", ("2026-01-10T09:00", 130.0)) == pytest.approx(1000 + 30 * 25)
    least = text.replace("committed_kw: 100", "committed_kw: 100, minimum_kw: 80")
    assert bill(least, "2026-01-01", "2026-02-01", ("2026-01-10T09:00", 60.0)) == pytest.approx(800)


def test_a_minimum_of_some_months_is_billed_in_them_alone() -> None:
    text = "{price_per_kw_month: 10, minimum_kw: 50, months: [6-9]}"
    assert bill(text, "2026-01-01", "2027-01-01") == pytest.approx(10 * 50 * 4)


def test_demand_in_kva_at_a_power_factor() -> None:
    text = (
        "{price_per_kw_month: 400, unit: kVA, power_factor: 0.8, committed_kw: 100, minimum_kw: 75,"
        " excess_price_per_kw_month: 800}"
    )
    assert bill(text, "2026-01-01", "2026-02-01", ("2026-01-10T09:00", 40.0)) == pytest.approx(75 * 400)
    assert bill(text, "2026-01-01", "2026-02-01", ("2026-01-10T09:00", 96.0)) == pytest.approx(100 * 400 + 20 * 800)


def test_a_power_factor_at_an_address_is_not_local() -> None:
    table = "{url: 'http://127.0.0.1:1', format: prometheus, query: pf, fallback: 0.9}"
    charge = "demand: {price_per_kw_month: 1, unit: kVA, power_factor: %s}"
    assert not tariff(f"energy: {{price_per_kwh: 1}}, {charge % table}").is_local
    assert tariff(f"energy: {{price_per_kwh: 1}}, {charge % '0.9'}").is_local


def test_hours_of_a_demand_charge_and_several_charges() -> None:
    text = (
        "[{price_per_kw_month: 10}, {price_per_kw_month: 5, hours: '16:00-21:00', days: [mon-fri], months: [6-9],"
        " holidays: [2026-07-14]}]"
    )
    loads = [("2026-07-08T11:00", 150.0), ("2026-07-14T17:00", 120.0), ("2026-07-15T17:00", 80.0)]
    assert bill(text, "2026-07-01", "2026-08-01", *loads) == pytest.approx(150 * 10 + 80 * 5)
    january = [(moment.replace("07-", "01-"), kw) for moment, kw in loads]
    assert bill(text, "2026-01-01", "2026-02-01", *january) == pytest.approx(150 * 10)


def test_the_mean_of_coincident_events_is_billed_and_rises_event_by_event() -> None:
    text = (
        "{price_per_kw_year: 60, basis: year, coincident: {count: 4,"
        " events: ['2026-06-20T16:45', '2026-07-20T16:45', '2026-08-20T17:00']}}"
    )
    loads = [
        ("2026-06-20T16:45", 100.0),
        ("2026-07-20T16:30", 900.0),
        ("2026-07-20T16:45", 80.0),
        ("2026-08-20T17:00", 60.0),
    ]
    assert bill(text, "2026-01-01", "2027-01-01", *loads) == pytest.approx(60 * (100 + 80 + 60) / 4)
    assert bill(text, "2026-01-01", "2027-01-01", *loads[:1]) == pytest.approx(60 * 25)


@settings(max_examples=examples(30), deadline=None)
@given(
    st.sampled_from(["month", "year", "season", "rolling"]),
    st.lists(st.tuples(st.integers(0, 364), st.integers(0, 95), st.floats(1, 500)), min_size=1, max_size=15),
)
def test_law_what_has_accrued_never_falls_and_a_year_is_the_bill(
    basis: str, loads: list[tuple[int, int, float]]
) -> None:
    months = ", months: [6-9]" if basis == "season" else ""
    (rules,) = tariff(
        f"energy: {{price_per_kwh: 0}}, demand: {{price_per_kw_month: 1, basis: {basis}{months}}}"
    ).demand_rules()
    start, end = at("2026-01-01"), at("2027-01-01")
    state, before = record(Demand(), rules, start, start + 1, 0.0), 0.0
    by_month: dict[int, float] = {}
    for day, quarter, kw in sorted({(day, quarter): (day, quarter, kw) for day, quarter, kw in loads}.values()):
        begin = start + day * 86400 + quarter * 900
        state = close_windows(record(state, rules, begin, begin + 900, kw * 1000 * 900), rules, begin + 900)
        accrued = kw_months(state, rules, begin + 900)
        assert accrued >= before - 1e-9
        before = accrued
        month = datetime.fromtimestamp(begin, UTC).astimezone(ZONE).month
        by_month[month] = max(by_month.get(month, 0.0), kw)
    found = kw_months(close_windows(state, rules, end), rules, end)
    summer = [by_month.get(month, 0.0) for month in range(6, 10)]
    expected = {
        "month": sum(by_month.values()),
        "year": 12 * max(by_month.values()),
        "season": 4 * max(summer),
        "rolling": sum(max(by_month.get(earlier, 0.0) for earlier in range(1, month + 1)) for month in range(1, 13)),
    }
    assert found == pytest.approx(expected[basis], rel=1e-9, abs=1e-9)


def test_names_of_charges_are_stable_and_distinct() -> None:
    found = tariff(
        "energy: {price_per_kwh: 0}, demand: [{price_per_kw_month: 1}, {price_per_kw_month: 2, name: peak},"
        " {price_per_kw_month: 3}]"
    ).demand_rules()
    assert [rules.name for rules in found] == ["demand", "peak", "demand 3"]
