"""``tpw-exporter check``."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tpw.cli import main
from tpw.config import load
from tpw.model import SourceError
from tpw.tariff.context import FeedContext

CAPTURES = Path(__file__).parents[2] / "captures"
BAD = CAPTURES / "config" / "bad"
NOW = datetime(2026, 7, 14, 12, tzinfo=UTC).timestamp()


def test_a_directory_is_reported_by_file_with_a_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text("accelerators: [{nvml: {index: 1}}]\ndialects: [{name: mine}]\n")
    (tmp_path / "b.yml").write_text("")
    (tmp_path / "c.yaml").write_text("poling: {}\n")
    status = main(["check", str(tmp_path)])

    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == f"{tmp_path}/b.yml: valid\n"
    lines = captured.err.splitlines()
    assert lines[0] == f"{tmp_path}/a.yaml:1:24: accelerators[0].nvml.index: unknown option: this meter has none"
    assert lines[1].startswith(f"{tmp_path}/a.yaml:2:12: dialects[0].output: ")
    assert lines[2] == f"{tmp_path}/c.yaml:1:1: poling: unknown key; did you mean `polling`?"
    assert lines[3:] == ["3 files: 2 not valid, with 3 problems"]


def test_one_file_has_no_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text("poling: {}\n")
    status = main(["check", f"--config.file={tmp_path / 'a.yaml'}"])

    assert (status, len(capsys.readouterr().err.splitlines())) == (2, 1)


def test_the_errors_of_every_recorded_invalid_file_name_no_python_object(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No traceback, no name of a Python object, and one line per problem, each beginning with its file."""
    assert main(["check", str(BAD)]) == 2

    *lines, tally = capsys.readouterr().err.splitlines()
    count = len(list(BAD.glob("*.yaml")))
    assert tally.startswith(f"{count} files: {count} not valid, ")
    assert [line for line in lines if not line.startswith(str(BAD))] == []
    assert [line for line in lines if "object" in line or "argument" in line or "Error" in line] == []


def test_charges_of_a_rate_that_are_not_counted_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rate = json.loads((CAPTURES / "tariff" / "urdb-smud-ci-tod4-2025.json").read_text())["items"][0]
    (tmp_path / "rate.json").write_text(json.dumps({**rate, "mincharge": 250, "minchargeunits": "$/month"}))
    (tmp_path / "kva.json").write_text(json.dumps({**rate, "flatdemandunit": "kVA"}))
    tariff = (
        "tariff: {{currency: USD, timezone: America/Los_Angeles, energy: {{kind: urdb, file: {}, charges: [demand]}}}}"
    )
    for name in ("rate", "kva"):
        (tmp_path / f"{name}.yaml").write_text(tariff.format(f"{name}.json"))

    assert main(["check", str(tmp_path / "rate.yaml"), str(tmp_path / "kva.yaml")]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if ": note: " not in line] == [
        f"{tmp_path}/{n}.yaml: valid" for n in ("rate", "kva")
    ]
    first, second = (line.partition(": note: tariff.energy: ")[2] for line in lines if "tariff.energy: " in line)
    assert first.startswith("the rate has a minimum bill (mincharge: 250 $/month), which no cost here includes")
    assert "(flatdemandstructure)" in second
    assert "5,539.00 a month for 1000 kW" in second


def test_a_tariff_without_a_feed_is_tried_with_a_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tpw.yaml"
    file.write_text("tariff: {currency: EUR, energy: {price_per_kwh: 0.2}, fixed: {per_month: 50}, vat: 0.1}")
    assert main(["check", str(file)]) == 0
    words = capsys.readouterr().out
    days = [f"{1.1 * (24_000 * count * 0.2 + 50):,.2f} EUR" for count in (28, 29, 30, 31)]
    assert any(f"1000 kW for this billing month cost {text}" in words for text in days)


def test_a_contract_that_has_ended_is_no_price(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tpw.yaml"
    energy = "[{price_per_kwh: 0.2, valid_to: 2020-12-31}]"
    file.write_text(f"tariff: {{currency: EUR, timezone: UTC, energy: {energy}, grid: {{price_per_kwh: 0.1}}}}")
    assert main(["check", str(file)]) == 2
    assert "no layer applies now" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"demandreactivepowercharge": 0.52}, 0, "demandreactivepowercharge: 0.52 per kVAr"),
        ({"demandReactPwrCharge": 0.25}, 0, "121.08 for 1000 kW at a power factor of 0.9"),
        ({"energyattrs": [{"Fuel rider": "$0.0123/kWh"}]}, 0, "`Fuel rider` (energyattrs: $0.0123/kWh)"),
        ({"energyAttrs": [{"key": "Fuel rider", "val": "$0.01 per kWh"}]}, 0, "7,300.00 for 730000 kWh"),
        ({"demandattrs": [{"Transformation charge": "$0.50/kW"}]}, 0, "500.00 for 1000 kW"),
        ({"fixedattrs": [{"Franchise fee": "3 %"}]}, 0, "`Franchise fee` (fixedattrs: 3 %)"),
        ({"fixedchargeeaaddl": 12.5}, 0, "fixedchargeeaaddl: 12.5"),
        ({"standbycharge": 8}, 0, "`standbycharge` (8)"),
        ({"servicetype": "Delivery"}, 0, "the energy itself"),
        ({"demandratestructure": [[{}], [{"rate": 3.0}]]}, 0, ""),
        ({"demandweekdayschedule": None}, 0, ""),
        ({"energyratestructure": [[{"unit": "kWh"}]] * 5}, 2, "period 0 has no rate in tier 0"),
        ({"energyratestructure": [[{"rate": 0.1, "max": 9}, {"adj": 0.01}]] * 5}, 2, "period 0 has no rate in tier 1"),
        ({"energyratestructure": [[{"rate": 0.1, "max": 9, "unit": "kWh daily"}, {"rate": 1}]] * 5}, 2, "kWh daily"),
        ({"energyratestructure": [[{"rate": 0.1}]] * 5 + [[{}]]}, 0, ""),
    ],
)
@pytest.mark.parametrize("charges", ["[]", "[demand, fixed]"])
def test_exit_2_where_the_daemon_would_have_no_price_and_what_is_not_included_is_named(
    changes: dict[str, object],
    status: int,
    words: str,
    charges: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rate = json.loads((CAPTURES / "tariff" / "urdb-smud-ci-tod4-2025.json").read_text())["items"][0]
    (tmp_path / "rate.json").write_text(json.dumps({**rate, **changes}))
    file = tmp_path / "tpw.yaml"
    energy = f"{{kind: urdb, file: rate.json, charges: {charges}}}"
    file.write_text(f"tariff: {{currency: USD, timezone: America/Los_Angeles, energy: {energy}}}")

    assert main(["check", str(file)]) == status

    captured = capsys.readouterr()
    assert words in captured.out + captured.err
    source = load(file.read_text(), str(file)).tariff.prices(FeedContext(clock=lambda: NOW))
    assert source is not None
    if status == 0:
        assert [price.state for price in source.intervals(NOW, NOW + 3600)] == ["final"]
    else:
        with pytest.raises(SourceError):
            source.intervals(NOW, NOW + 3600)


def test_a_file_of_prices_that_is_not_there_is_no_price(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tpw.yaml"
    energy = "{kind: urdb, file: gone.json}"
    file.write_text(f"tariff: {{currency: USD, timezone: America/Los_Angeles, energy: {energy}}}")
    assert main(["check", str(file)]) == 2
    assert f"the rate cannot be read from {tmp_path / 'gone.json'}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tariff", "expected"),
    [
        ("demand: {price_per_kw_month: 10}, energy: {price_per_kwh: 0.2}", 1),
        ("fixed: {per_month: 10}, energy: {price_per_kwh: 0.2}", 1),
        ("capacity: {kw: 40, price_per_kw_month: 10}, energy: {price_per_kwh: 0.2}", 1),
        ("energy: {price_per_kwh: 0.2, blocks: [{above_kwh: 100, price_per_kwh: 0.1}]}", 1),
        ("timezone: UTC, demand: {price_per_kw_month: 10}, energy: {price_per_kwh: 0.2}", 0),
        ("energy: {price_per_kwh: 0.2}", 0),
    ],
)
def test_without_a_time_zone_a_note_states_that_months_begin_at_midnight_utc(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tariff: str, expected: int
) -> None:
    (tmp_path / "a.yaml").write_text(f"tariff: {{currency: EUR, {tariff}}}")
    assert main(["check", str(tmp_path / "a.yaml")]) == 0
    assert capsys.readouterr().out.count("billing months begin at midnight UTC") == expected


ELECTRICITY = "tariff: {currency: EUR, energy: {kind: flat, price_per_kwh: 0.2}}\n"


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (ELECTRICITY, ""),
        (ELECTRICITY + "costs: {operations: {price_per_gpu_month: 9}}", "without `hardware` or `gpu_hour` no cost per"),
        (
            ELECTRICITY + "references: [{name: r, price_per_gpu_hour: 2}]",
            "no cost per token is full and none is compared with the references",
        ),
        ("tariff: {currency: EUR}\ncosts: {hardware: {price_per_gpu: 9, years: 3}}", "set tariff.energy"),
        ("tariff: {currency: EUR}\ncosts: {gpu_hour: {price: 2}}", ""),
        (ELECTRICITY + "costs: {hardware: {price_per_gpu: 9, years: 3}}", ""),
    ],
)
def test_why_no_cost_is_full_is_noted(text: str, note: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert main(["check", str(tmp_path / "c.yaml")]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if "note: costs" in line]
    assert len(notes) == (1 if note else 0)
    assert note in "".join(notes)


def test_charges_of_a_site_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(ELECTRICITY.replace("}}", "}, fixed: {per_month: 3897.40}}"))
    assert main(["check", str(path)]) == 0
    assert "tariff: fixed: every exporter with this file books all of it" in capsys.readouterr().out
    path.write_text(path.read_text() + "site: {name: berlin, total: 640}")
    assert main(["check", str(path)]) == 0
    assert "site berlin: each node books its part of the site's charges: the GPUs of the node / 640" in (
        capsys.readouterr().out
    )
