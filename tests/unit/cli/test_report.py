"""``tpw-exporter report`` as it is called."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from support.quarters import END, START, write_books
from support.servers import clean_environment, exporter_command
from tpw.cli import main
from tpw.store.sqlite import FILE_NAME

RANGE = ("--from=2026-10-24", "--to=2026-10-25")


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("state")
    write_books(directory)
    return directory


@pytest.fixture
def config(tmp_path: Path, state: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(f"state: {{dir: {state}}}\ntariff: {{currency: EUR, timezone: Asia/Kathmandu, billing_day: 25}}\n")
    return path


def told(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> tuple[str, str]:
    assert main(["report", *words]) == status
    said = capsys.readouterr()
    return said.out, said.err


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_by_default_the_last_seven_days_by_day_server_model_and_state(
    state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: END + 6 * 86400.0)
    text, _ = told(capsys, f"--state.dir={state}")
    assert text.startswith("From 2026-10-25 00:00 to 2026-11-01 00:00, UTC\n")
    assert "SERVER MODEL           STATE" in text
    monkeypatch.setattr("time.time", lambda: END + 7 * 86400.0)
    assert told(capsys, f"--state.dir={state}")[0].startswith("Nothing is booked from 2026-10-26 00:00 to")


def test_the_environment_names_the_state_directory(
    state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TPW_STATE_DIR", str(state))
    assert "chat" in told(capsys, *RANGE)[0]


def test_days_are_those_of_the_tariff_unless_another_zone_is_asked_for(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (f"--config.file={config}", *RANGE, "--by=day", "--format=csv")
    hours = [float(row["gpu_seconds"]) / 3600.0 / 3.0 for row in rows(told(capsys, *words)[0])]
    assert hours == pytest.approx([0.25, 11.75])
    hours = [float(row["gpu_seconds"]) / 3600.0 / 3.0 for row in rows(told(capsys, *words, "--timezone=UTC")[0])]
    assert hours == pytest.approx([6.0, 6.0])


def test_only_an_end_begins_with_the_books(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, _ = told(capsys, f"--state.dir={state}", "--to=2026-10-25")
    assert text.startswith("From 2026-10-24 00:00 to 2026-10-26 00:00, UTC")


def test_a_file_gets_what_the_terminal_would(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for form in ("table", "csv", "json", "focus"):
        words = (f"--config.file={config}", *RANGE, f"--format={form}")
        printed, _ = told(capsys, *words)
        assert told(capsys, *words, f"--output={tmp_path / form}")[0] == ""
        assert (tmp_path / form).read_text(encoding="utf-8") == printed


def test_a_file_that_cannot_be_written_is_named(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, said = told(capsys, f"--config.file={config}", *RANGE, "--output=/nonexistent/report.csv", status=1)
    assert said == "tpw-exporter report: cannot write /nonexistent/report.csv: No such file or directory\n"


def test_focus_takes_its_billing_months_from_the_tariff_and_its_parties_from_the_command_line(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (f"--config.file={config}", *RANGE, "--format=focus", "--by=month")
    text, said = told(capsys, *words, "--provider=Example GmbH", "--billing-account=team-a")
    found = rows(text)
    assert {row["BillingPeriodStart"] for row in found} == {"2026-09-24T18:15:00Z", "2026-10-24T18:15:00Z"}
    assert {(row["ProviderName"], row["BillingAccountId"]) for row in found} == {("Example GmbH", "team-a")}
    assert said == "tpw-exporter report: 0.692 kWh have no price yet: they are no charge in this data set\n"


def test_json_is_one_document(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(told(capsys, f"--config.file={config}", *RANGE, "--format=json", "--by=gpu")[0])
    assert (document["from"], document["to"]) == ("2026-10-24T00:00+05:45", "2026-10-26T00:00+05:45")
    assert [row["gpu"] for row in document["rows"]] == [0, 1, 2, None]
    assert document["totals"]["gpu_seconds"] == 3 * (END - START)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--last=soon",), "--last=soon is no length of time"),
        (("--by=planet",), "--by=planet: `planet` is none of hour, day"),
        (("--timezone=Mars/Olympus",), "--timezone=Mars/Olympus is no time zone"),
        (("--format=focus", "--by=server"), "the format focus is by GPU, server, model, state and component"),
        (("--state.dir=",), "state.dir"),
    ],
)
def test_a_mistake_in_what_is_asked_is_said(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in told(capsys, *words, status=2)[1]


def test_where_there_are_no_books_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, said = told(capsys, f"--state.dir={tmp_path}", status=1)
    assert out == ""
    assert said.startswith(f"tpw-exporter report: there are no books in {tmp_path}: books.sqlite is not there.")


def test_check_ends_with_1_where_rows_and_counters_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_books(tmp_path)
    words = (f"--state.dir={tmp_path}", "--check")
    assert "The rows sum to the counters within 1e-09" in told(capsys, *words)[0]
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection, connection:
        connection.execute("DELETE FROM interval WHERE state = 'idle' AND start = ?", (START,))
    connection.close()
    assert (
        "differs: cost energy of GPU-00000002-0000-4000-8000-000000000000, (nobody), (nobody), idle"
        in (told(capsys, *words, status=1)[0])
    )


def test_books_that_break_off_are_said_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_books(tmp_path)
    file = tmp_path / FILE_NAME
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2 // 4096 * 4096])
    _, said = told(capsys, f"--state.dir={tmp_path}", *RANGE, status=1)
    assert "malformed" in said


def test_whoever_has_read_enough_may_hang_up(state: Path) -> None:
    """As ``| head`` does: no traceback, no status of failure."""
    command = [*exporter_command(), "report", f"--state.dir={state}", *RANGE, "--format=csv", "--by=hour,gpu,component"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_environment()
    )
    assert process.stdout is not None
    process.stdout.close()
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, "")
