"""``tpw-exporter bill``."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from support.quarters import write_books
from tpw.billing.bill import bill
from tpw.billing.curve import Load, from_csv
from tpw.cli import main
from tpw.config import load
from tpw.ledger.booking import price
from tpw.model import SourceError
from tpw.tariff.context import FeedContext
from tpw.tariff.curve import PriceCurve
from tpw.tariff.demand import Demand, close_windows, kw_months, record

CAPTURE = Path(__file__).parents[2] / "captures" / "tariff" / "urdb-smud-ci-tod4-2025.json"


def curve(
    path: Path, start: str, end: str, kw: Callable[[datetime], float], minutes: int = 15, unit: str = "kW"
) -> str:
    at, lines = datetime.fromisoformat(start), [f"time,{unit}"]
    while at < datetime.fromisoformat(end):
        lines.append(f"{at.isoformat()},{kw(at) * (minutes / 60 if unit == 'kWh' else 1)}")
        at += timedelta(minutes=minutes)
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def smud_kw(at: datetime) -> float:
    if (at.day, at.hour) == (8, 11) and at.minute < 30:
        return 1500.0
    return 1200.0 if (at.day, at.hour) == (14, 17) else 800.0


@pytest.fixture
def smud(tmp_path: Path) -> str:
    (tmp_path / "rate.json").write_bytes(CAPTURE.read_bytes())
    file = tmp_path / "smud.yaml"
    file.write_text(
        "tariff: {currency: USD, timezone: America/Los_Angeles,"
        " energy: {kind: urdb, file: rate.json, holidays: [2026-07-03], charges: [demand, fixed]}}"
    )
    return str(file)


def amounts(text: str) -> dict[str, str]:
    """First words of a line -> its last column."""
    return {line[:30].strip(): line.split()[-1] for line in text.splitlines() if "  " in line}


@pytest.mark.parametrize("unit", ["kW", "kWh"])
def test_a_bill_line_by_line(smud: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], unit: str) -> None:
    """The worked bill of docs/tariffs.md."""
    load_file = curve(tmp_path / "load.csv", "2026-07-01", "2026-08-01", smud_kw, unit=unit)
    assert main(["bill", f"--config.file={smud}", f"--load={load_file}", "--month=2026-07"]) == 0
    text = capsys.readouterr().out
    ends = [
        line.split()[-1] for line in text.splitlines() if "kWh " in line or "kW-months" in line or "months " in line
    ]
    assert ends == ["58,571.27", "20,950.80", "8,308.50", "13,930.80", "3,897.40", "105,658.77"]
    assert "1,500.000 kW billed, peak 2026-07-08 11:00" in text
    read, described = (
        text.partition(f"tariff.energy, {title}: ")[2].partition("tariff.energy")[0]
        for title in ("fields that are read", "not read, they describe the rate")
    )
    assert "energyratestructure" in read
    assert "demandratestructure" in read
    assert "sourcereference" in described


def test_the_saving_under_another_contract(smud: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_file = curve(tmp_path / "load.csv", "2026-07-01", "2026-08-01", smud_kw)
    (tmp_path / "flat.yaml").write_text("tariff: {currency: USD, vat: 0.1, energy: {price_per_kwh: 0.1}}")
    arguments = [f"--config.file={smud}", f"--load={load_file}", f"--what-if={tmp_path / 'flat.yaml'}"]
    assert main(["bill", *arguments]) == 0
    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert lines["energy"] == ["79,522.07", "59,595.00"]
    assert lines["VAT"] == ["0.00", "5,959.50"]
    assert lines["total"] == ["105,658.77", "65,554.50"]
    assert lines["saving"] == ["40,104.27"]

    assert main(["bill", *arguments, "--format=json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["total"], second["total"]) == (pytest.approx(105_658.77), pytest.approx(65_554.5))
    assert {line["section"] for line in first["lines"]} == {"energy", "demand", "fixed"}


def test_energy_without_a_price_is_named_and_the_saving_is_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_file = curve(tmp_path / "load.csv", "2026-07-01", "2026-08-01", lambda at: 10.0)
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("tariff: {currency: EUR, timezone: UTC, energy: {price_per_kwh: 0.1}}")
    second.write_text("tariff: {currency: EUR, timezone: UTC, energy: {price_per_kwh: 0.1, valid_to: 2026-07-30}}")
    assert main(["bill", f"--config.file={second}", f"--load={load_file}"]) == 1
    text = capsys.readouterr().out
    assert "not in the bill: 240.000 kWh" in text
    assert main(["bill", f"--config.file={first}", f"--load={load_file}", f"--what-if={second}"]) == 1
    assert "saving" in (text := capsys.readouterr().out)
    assert "unknown" in text


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--month=2026-13"], 2, "write --month"),
        (["--year=26"], 2, "write --month"),
        (["--month=2026-07", "--year=2026"], 2, "exclude each other"),
        (["--month=2026-09"], 1, "no load in this time"),
        (["--load=/nonexistent.csv"], 1, "cannot be read"),
    ],
)
def test_what_cannot_be_billed(
    options: list[str], status: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_file = curve(tmp_path / "load.csv", "2026-07-01", "2026-07-03", lambda at: 10.0)
    (tmp_path / "a.yaml").write_text("tariff: {currency: EUR, timezone: UTC, energy: {price_per_kwh: 0.1}}")
    given = options if options[0].startswith("--load") else [f"--load={load_file}", *options]
    assert main(["bill", f"--config.file={tmp_path / 'a.yaml'}", *given]) == status
    assert words in capsys.readouterr().err


def test_a_configuration_without_a_tariff_has_no_bill(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text("")
    assert main(["bill", f"--config.file={tmp_path / 'a.yaml'}"]) == 2
    assert "has no tariff" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"), [("when,kW\n", "has the columns"), ("time,kW\n2026-07-01,-1\n2026-07-02,2\n", "negative")]
)
def test_a_load_that_cannot_be_read(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "load.csv").write_text(text)
    with pytest.raises(SourceError, match=words):
        from_csv(str(tmp_path / "load.csv"), "UTC")


def billed(text: str, loads: list[Load], start: str, end: str) -> dict[str, float]:
    tariff = load(f"tariff: {{currency: EUR, timezone: UTC, {text}}}").tariff
    found = bill(tariff, loads, at(start), at(end), FeedContext())
    return {section: found.of(section) for section in dict.fromkeys(line.section for line in found.lines)}


def at(text: str) -> float:
    return datetime.fromisoformat(f"{text}+00:00").timestamp()


def quarter(moment: str, kw: float, kva: float | None = None) -> Load:
    return Load(at(moment), at(moment) + 900, kw * 900_000.0, kva)


def test_a_peak_before_the_billed_month_counts_for_its_ratchet() -> None:
    loads = [quarter("2026-06-10T09:00", 100.0), quarter("2026-07-01T00:00", 10.0), quarter("2026-07-10T09:00", 40.0)]
    text = "energy: {price_per_kwh: 0}, demand: {price_per_kw_month: 10, ratchet: 0.8}"
    assert billed(text, loads, "2026-07-01T00:00", "2026-08-01T00:00")["demand"] == pytest.approx(800)
    assert billed(text, loads[1:], "2026-07-01T00:00", "2026-08-01T00:00")["demand"] == pytest.approx(400)


def test_metered_kva_are_billed_in_place_of_the_power_factor() -> None:
    loads = [quarter("2026-07-01T00:00", 10.0, 10.0), quarter("2026-07-10T09:00", 80.0, 125.0)]
    text = "energy: {price_per_kwh: 0}, demand: {price_per_kw_month: 10, unit: kVA, power_factor: 0.9}"
    assert billed(text, loads, "2026-07-01T00:00", "2026-08-01T00:00")["demand"] == pytest.approx(1250)
    without = [Load(one.start_seconds, one.end_seconds, one.joules) for one in loads]
    assert billed(text, without, "2026-07-01T00:00", "2026-08-01T00:00")["demand"] == pytest.approx(800 / 0.9)


@pytest.mark.parametrize("committed", ["", "committed_kw: 100, excess_price_per_kw_month: 25,"])
def test_a_power_factor_that_is_metered_elsewhere(tmp_path: Path, committed: str) -> None:
    """80 kW at 0.64 are 125 kVA, more than 100 kW at 0.9, which are 111. While none is known, 0.8 applies."""
    table = "{file: pf.csv, format: csv, time: time, end: end, value: pf, fallback: 0.8}"
    (tmp_path / "pf.csv").write_text(
        "time,end,pf\n2026-07-01T00:00Z,2026-07-10T09:00Z,0.9\n2026-07-10T09:00Z,2026-07-10T09:15Z,0.64\n"
        "2026-07-10T09:15Z,2026-07-20T00:00Z,0.9\n"
    )
    tariff = load(
        "tariff: {currency: EUR, timezone: UTC, energy: {price_per_kwh: 0}, demand: {price_per_kw_month: 10,"
        f" {committed} unit: kVA, power_factor: {table}}}}}",
        str(tmp_path / "tpw.yaml"),
    ).tariff
    start, end = at("2026-07-01T00:00"), at("2026-08-01T00:00")
    loads = [quarter("2026-07-01T00:00", 100.0), quarter("2026-07-10T09:00", 80.0), quarter("2026-07-25T00:00", 60.0)]
    expected = 1000 + 25 * 25 if committed else 1250
    assert bill(tariff, loads, start, end, FeedContext()).total == pytest.approx(expected)
    late = bill(tariff, [loads[0], quarter("2026-07-25T00:00", 100.0)], start, end, FeedContext())
    assert late.total == pytest.approx(expected)

    source = tariff.prices(FeedContext(clock=lambda: at("2026-07-10T12:00")))
    assert source is not None
    assert tariff.demand_rules() == ()
    source.intervals(at("2026-07-09T00:00"), at("2026-07-11T00:00"))
    total = 0.0
    for rules in source.contract.demand:
        state = record(Demand(), rules, start, start + 1, 0.0)
        state = record(state, rules, at("2026-07-10T09:00"), at("2026-07-10T09:15"), 80_000.0 * 900)
        total += kw_months(close_windows(state, rules, end), rules, end) * rules.price_per_kw_month
    assert total == pytest.approx(expected)


@pytest.mark.parametrize(("minutes", "noted"), [(60, True), (15, False)])
def test_a_load_that_is_too_coarse_for_the_peaks_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], minutes: int, noted: bool
) -> None:
    load_file = curve(tmp_path / "load.csv", "2026-07-01", "2026-07-03", lambda at: 10.0, minutes)
    (tmp_path / "a.yaml").write_text(
        "tariff: {currency: EUR, timezone: UTC, energy: {price_per_kwh: 1}, demand: {price_per_kw_month: 10}}"
    )
    assert main(["bill", f"--config.file={tmp_path / 'a.yaml'}", f"--load={load_file}"]) == 0
    assert ("means of 60 minutes" in capsys.readouterr().out) is noted


def test_blocks_restart_with_the_month() -> None:
    loads = [Load(at("2026-07-31T00:00"), at("2026-08-02T00:00"), 48 * 3.6e6)]
    text = "energy: {price_per_kwh: 1, blocks: [{above_kwh: 20, price_per_kwh: 0.5}]}"
    assert billed(text, loads, "2026-07-31T00:00", "2026-08-02T00:00") == {"energy": pytest.approx(2 * (20 + 2))}


def test_a_tier_counts_the_kwh_of_every_hour_of_the_month(tmp_path: Path) -> None:
    """120 kWh by night, at a price without tiers, then 120 by day: all of these are beyond the first 100 of the month."""
    rate = {
        "label": "r",
        "energyratestructure": [[{"rate": 0.1, "max": 100}, {"rate": 0.2}], [{"rate": 0.05}]],
        "energyweekdayschedule": [[1] * 12 + [0] * 12] * 12,
    }
    (tmp_path / "rate.json").write_text(json.dumps(rate))
    config = load(
        "{facility: {host_share: false}, tariff: {currency: USD, timezone: UTC, energy: {kind: urdb, file: rate.json}}}",
        str(tmp_path / "tpw.yaml"),
    )
    start, end = at("2026-07-01T00:00"), at("2026-07-02T00:00")
    found = bill(config.tariff, [Load(start, end, 240 * 3.6e6)], start, end, FeedContext())
    assert found.total == pytest.approx(120 * 0.05 + 120 * 0.2)

    source = config.tariff.prices(FeedContext(clock=lambda: start))
    assert source is not None
    curve = PriceCurve.from_intervals(source.intervals(start, end))
    months: dict[float, float] = {}
    by_night = price(start, start + 43_200, 120 * 3.6e6, curve, months)
    by_day = price(start + 43_200, end, 120 * 3.6e6, curve, months)
    assert (by_night[0], by_day[0]) == (pytest.approx(120 * 0.05), pytest.approx(120 * 0.2))


def test_blocks_of_a_share_count_the_kwh_of_the_share() -> None:
    """Of 100 kWh, 40 are of the layer with blocks: 30 at its first price, 10 at its second."""
    loads = [Load(at("2026-07-01T00:00"), at("2026-07-02T00:00"), 100 * 3.6e6)]
    blocks = "blocks: [{above_kwh: 30, price_per_kwh: 0.5}]"
    text = f"energy: [{{price_per_kwh: 1, share: 0.4, {blocks}}}, {{price_per_kwh: 0.1, share: rest}}]"
    assert billed(text, loads, "2026-07-01T00:00", "2026-07-02T00:00") == {"energy": pytest.approx(30 + 5 + 6)}


def test_vat_is_on_what_does_not_contain_it() -> None:
    loads = [Load(at("2026-07-01T00:00"), at("2026-07-02T00:00"), 100 * 3.6e6)]
    text = (
        "vat: 0.2, taxes: {rate: 0.1, charges: [grid]}, energy: {price_per_kwh: 1, includes_vat: true},"
        " grid: {price_per_kwh: 0.5}"
    )
    assert billed(text, loads, "2026-07-01T00:00", "2026-07-02T00:00") == pytest.approx(
        {"energy": 100, "grid": 50, "taxes": 5, "vat": 11}
    )


def test_a_minimum_bill_of_a_rate_is_a_line(tmp_path: Path) -> None:
    rate = json.loads(CAPTURE.read_text())["items"][0]
    (tmp_path / "rate.json").write_text(json.dumps({**rate, "mincharge": 100, "minchargeunits": "$/month"}))
    tariff = load(
        "tariff: {currency: USD, timezone: UTC, energy: {kind: urdb, file: rate.json}}", str(tmp_path / "tpw.yaml")
    ).tariff
    found = bill(
        tariff, [quarter("2026-07-01T00:00", 4.0)], at("2026-07-01T00:00"), at("2026-08-01T00:00"), FeedContext()
    )
    assert found.total == pytest.approx(100)
    assert found.of("minimum") == pytest.approx(100 - 0.1154)


def test_a_year_is_twelve_billing_months(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_file = curve(
        tmp_path / "load.csv", "2026-01-01", "2027-01-02", lambda at: 150.0 if at.month == 12 else 60.0, 60
    )
    (tmp_path / "a.yaml").write_text(
        "tariff: {currency: EUR, timezone: UTC, energy: {price_per_kwh: 0.1}, fixed: {per_month: 10},"
        " demand: {price_per_kw_year: 180, basis: year}}"
    )
    assert (
        main(["bill", f"--config.file={tmp_path / 'a.yaml'}", f"--load={load_file}", "--year=2026", "--format=json"])
        == 0
    )
    (found,) = json.loads(capsys.readouterr().out)
    by_section = {line["section"]: line["amount"] for line in found["lines"]}
    assert by_section["demand"] == pytest.approx(27_000)
    assert by_section["fixed"] == pytest.approx(120)
    assert by_section["energy"] == pytest.approx(0.1 * 24 * (60 * 334 + 150 * 31))


def test_the_books_are_a_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_books(tmp_path)
    (tmp_path / "a.yaml").write_text("tariff: {currency: EUR, timezone: UTC, energy: {price_per_kwh: 1}}")
    assert main(["bill", f"--config.file={tmp_path / 'a.yaml'}", f"--state.dir={tmp_path}", "--month=2026-10"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    total = next(line for line in captured.out.splitlines() if line.startswith("total"))
    assert float(total.split()[1].replace(",", "")) == pytest.approx(
        float(total.split()[-1].replace(",", "")), abs=0.006
    )


def test_the_books_of_a_node_of_a_site_are_not_the_load_of_the_site(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_books(tmp_path)
    (tmp_path / "a.yaml").write_text(
        "site: {name: hall, total: 80}\n"
        "tariff: {currency: EUR, timezone: UTC, energy: {price_per_kwh: 1}, fixed: {per_month: 9}}"
    )
    assert main(["bill", f"--config.file={tmp_path / 'a.yaml'}", f"--state.dir={tmp_path}", "--month=2026-10"]) == 0
    assert "charges are those of the whole site" in capsys.readouterr().err
