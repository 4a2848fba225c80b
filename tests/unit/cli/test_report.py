"""The command ``tpw-exporter report``."""

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
from tpw.store.files import FILE_NAME

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


def output(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> tuple[str, str]:
    assert main(["report", *words]) == status
    captured = capsys.readouterr()
    return captured.out, captured.err


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_by_default_the_last_seven_days_by_day_server_model_and_state(
    state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: END + 6 * 86400.0)
    text, _ = output(capsys, f"--state.dir={state}")
    assert text.startswith("From 2026-10-25 00:00 to 2026-11-01 00:00, UTC\n")
    assert "SERVER MODEL           STATE" in text
    monkeypatch.setattr("time.time", lambda: END + 7 * 86400.0)
    assert output(capsys, f"--state.dir={state}")[0].startswith("Nothing is booked from 2026-10-26 00:00 to")


def test_the_environment_names_the_state_directory(
    state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TPW_STATE_DIR", str(state))
    assert "chat" in output(capsys, *RANGE)[0]


def test_days_follow_the_time_zone_of_the_tariff_or_of_the_flag(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (f"--config.file={config}", *RANGE, "--by=day", "--format=csv")
    hours = [float(row["gpu_seconds"]) / 3600.0 / 3.0 for row in rows(output(capsys, *words)[0])]
    assert hours == pytest.approx([0.25, 11.75])
    hours = [float(row["gpu_seconds"]) / 3600.0 / 3.0 for row in rows(output(capsys, *words, "--timezone=UTC")[0])]
    assert hours == pytest.approx([6.0, 6.0])


def test_without_a_start_the_range_begins_with_the_books(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, _ = output(capsys, f"--state.dir={state}", "--to=2026-10-25")
    assert text.startswith("From 2026-10-24 00:00 to 2026-10-26 00:00, UTC")


def test_a_file_has_the_same_content_as_the_terminal(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for form in ("table", "csv", "json", "focus"):
        words = (f"--config.file={config}", *RANGE, f"--format={form}")
        printed, _ = output(capsys, *words)
        assert output(capsys, *words, f"--output={tmp_path / form}")[0] == ""
        assert (tmp_path / form).read_text(encoding="utf-8") == printed


def test_a_file_that_cannot_be_written_is_named(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, error = output(capsys, f"--config.file={config}", *RANGE, "--output=/nonexistent/report.csv", status=1)
    assert error == "tpw-exporter report: cannot write /nonexistent/report.csv: No such file or directory\n"


def test_focus_has_the_billing_months_of_the_tariff_and_the_parties_of_the_command_line(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (f"--config.file={config}", *RANGE, "--format=focus", "--by=month")
    text, error = output(capsys, *words, "--provider=Example GmbH", "--billing-account=team-a")
    found = rows(text)
    assert {row["BillingPeriodStart"] for row in found} == {"2026-09-24T18:15:00Z", "2026-10-24T18:15:00Z"}
    assert {(row["ProviderName"], row["BillingAccountId"]) for row in found} == {("Example GmbH", "team-a")}
    assert error == "tpw-exporter report: 0.692 kWh have no price yet and are not charged in this data set\n"


def test_json_is_one_document(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(output(capsys, f"--config.file={config}", *RANGE, "--format=json", "--by=gpu")[0])
    assert (document["from"], document["to"]) == ("2026-10-24T00:00+05:45", "2026-10-26T00:00+05:45")
    assert [row["gpu"] for row in document["rows"]] == [0, 1, 2, None]
    assert document["totals"]["gpu_seconds"] == 3 * (END - START)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--last=soon",), "--last=soon is no length of time"),
        (("--by=planet",), "--by=planet: `planet` is none of hour, day"),
        (("--timezone=Mars/Olympus",), "--timezone=Mars/Olympus is not a time zone"),
        (("--format=focus", "--by=server"), "the format focus has rows by GPU, server, model, state and component"),
        (("--state.dir=",), "state.dir"),
    ],
)
def test_an_invalid_option_is_an_error(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in output(capsys, *words, status=2)[1]


def test_a_directory_without_books_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, error = output(capsys, f"--state.dir={tmp_path}", status=1)
    assert out == ""
    assert error.startswith(f"tpw-exporter report: there are no books in {tmp_path}: books.sqlite is not there.")


def test_check_exits_with_1_if_rows_and_counters_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_books(tmp_path)
    words = (f"--state.dir={tmp_path}", "--check")
    assert "The rows sum to the counters within 1e-09" in output(capsys, *words)[0]
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection, connection:
        connection.execute("DELETE FROM interval WHERE state = 'idle' AND start = ?", (START,))
    connection.close()
    assert (
        "differs: cost energy of GPU-00000002-0000-4000-8000-000000000000, (none), (none), idle"
        in (output(capsys, *words, status=1)[0])
    )


def test_truncated_books_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_books(tmp_path)
    file = tmp_path / FILE_NAME
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2 // 4096 * 4096])
    _, error = output(capsys, f"--state.dir={tmp_path}", *RANGE, status=1)
    assert "malformed" in error


def test_a_closed_pipe_is_no_error(state: Path) -> None:
    """As with ``| head``: no traceback, exit status 0."""
    command = [*exporter_command(), "report", f"--state.dir={state}", *RANGE, "--format=csv", "--by=hour,gpu,component"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_environment()
    )
    assert process.stdout is not None
    process.stdout.close()
    _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (0, "")
