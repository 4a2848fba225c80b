"""``tpw-exporter advise``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from support.fleets import Server, World, hour_of
from support.quarters import POLICY, START, write_books
from tpw.cli import main
from tpw.cli.advising import calculation
from tpw.model import PriceInterval

DAY_ONLY = Server("chat", lambda index: 0.5 + index % 5 / 10 if 6.0 <= hour_of(index) < 22.0 else 0.0)
BATCH = Server("embed", lambda index: 1.0 if 17.0 <= hour_of(index) < 20.0 else 0.0, model="bge", workload=True)
WORLD = World((DAY_ONLY, BATCH), spare_gpus=1, weeks=2)
TARIFF = "{currency: EUR, timezone: UTC, energy: {kind: flat, price_per_kwh: %s}%s}"


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("books")
    WORLD.write(directory)
    return directory


def configuration(directory: Path, name: str, price: float, more: str = "", advice: str = "{}") -> str:
    file = directory / name
    tariff = TARIFF % (price, more)
    file.write_text(f"tariff: {tariff}\nadvice: {advice}\n")
    return str(file)


def test_the_advice_of_books_of_two_weeks_as_json(
    books: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configuration(tmp_path, "cheap.yaml", 0.15)
    advice = "{contracts: [cheap.yaml], can_wait: {embed: 12h}}"
    file = configuration(tmp_path, "now.yaml", 0.20, ", demand: [{price_per_kw_month: 20}]", advice)
    status = main(["advise", f"--config.file={file}", f"--state.dir={books}", "--format=json"])
    found = json.loads(capsys.readouterr().out)
    assert status == 0
    assert (found["currency"], found["start"], found["end"]) == (
        "EUR",
        "2026-09-28T00:00:00+00:00",
        "2026-10-12T00:00:00+00:00",
    )
    by_kind = {one["kind"]: one for one in found["advice"]}
    assert by_kind.keys() == {"idle", "contract", "shift"}
    hours = 365 / 12 * 24
    assert by_kind["idle"]["saving_per_month"]["value"] == pytest.approx(hours * (0.90 + 0.060 * 1.25 * 0.20), rel=1e-6)
    assert by_kind["idle"]["paid_per_month"] == pytest.approx(hours * 0.060 * 1.25 * 0.20, rel=1e-6)
    assert by_kind["contract"]["subject"] == str(tmp_path / "cheap.yaml")
    assert [one["kind"] for one in found["missing"]] == ["schedule"], "no start of chat was measured"


def test_the_advice_as_a_table_with_what_can_wait_on_the_command_line(
    books: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = configuration(tmp_path, "now.yaml", 0.20, ", demand: [{price_per_kw_month: 20}]")
    status = main(["advise", f"--config.file={file}", f"--state.dir={books}", "--can-wait=embed=12h"])
    out = capsys.readouterr().out
    assert status == 0
    rows = [line.split() for line in out.splitlines()[2:5]]
    assert [row[-2:] for row in rows] == [["KIND", "SUBJECT"], ["GPU", "2"], ["shift", "embed"]]
    assert max(map(len, out.splitlines())) <= 100


def test_one_week_of_them(books: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = configuration(tmp_path, "now.yaml", 0.20)
    assert main(["advise", f"--config.file={file}", f"--state.dir={books}", "--weeks=1", "--format=json"]) == 0
    assert json.loads(capsys.readouterr().out)["start"] == "2026-10-05T00:00:00+00:00"


def test_books_of_less_than_a_week_have_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_books(tmp_path)
    assert main(["advise", f"--state.dir={tmp_path}"]) == 1
    assert "the books hold 0.5 days" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--weeks=0", "--weeks=0"),
        ("--can-wait=batch", "--can-wait=batch"),
        ("--can-wait=batch=soon", "soon"),
        ("--what-if=nowhere.yaml", "nowhere.yaml"),
    ],
)
def test_an_option_that_is_wrong(books: Path, capsys: pytest.CaptureFixture[str], option: str, message: str) -> None:
    assert main(["advise", f"--state.dir={books}", option]) == 2
    assert message in capsys.readouterr().err


def test_the_daemon_has_it_calculated_by_another_process(books: Path, tmp_path: Path) -> None:
    file = configuration(tmp_path, "now.yaml", 0.20)
    found = calculation((f"--config.file={file}", f"--state.dir={books}"))()
    assert found.document is not None
    assert [one["kind"] for one in found.document["advice"]] == ["idle"]
    assert found.document["answered"] == ["idle", "parked", "consolidate"]
    assert calculation((f"--state.dir={tmp_path}",))().problem.startswith("there are no books in")


class Flat:
    """A price of 0.20."""

    def pieces(self, start: float, end: float) -> Iterator[tuple[float, float, PriceInterval | None]]:
        yield start, end, PriceInterval(start, end, 0.20)


def test_books_that_the_ledger_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Eight days of :mod:`support.quarters`: chat always works, code did in the first hours, the third GPU never does."""
    write_books(tmp_path, replace(POLICY, curve=Flat(), references=()), START, START + 8 * 86400.0)
    assert main(["advise", f"--state.dir={tmp_path}", "--format=json"]) == 0
    found = json.loads(capsys.readouterr().out)
    saving = {(one["kind"], one["subject"]): one["saving_per_month"]["value"] for one in found["advice"]}
    hours, per_hour = 365 / 12 * 24, 0.9 + 0.3
    watts = {"idle": 70.0, "parked": 80.0 - 70.0}  # a GPU of the same name shows what one draws without a model
    assert saving == {
        (kind, subject): pytest.approx(hours * (per_hour + watts[kind] * 1.2 / 1e3 * 0.20), rel=1e-3)
        for kind, subject in (("idle", "GPU 2"), ("parked", "code"))
    }
