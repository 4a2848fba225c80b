"""``tpw-exporter check``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tpw.cli import main

BAD = Path(__file__).parents[2] / "captures" / "config" / "bad"


def test_a_directory_is_told_file_by_file_and_summed_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text("accelerators: [{nvml: {index: 1}}]\ndialects: [{name: mine}]\n")
    (tmp_path / "b.yml").write_text("")
    (tmp_path / "c.yaml").write_text("poling: {}\n")
    status = main(["check", str(tmp_path)])

    told = capsys.readouterr()
    assert status == 2
    assert told.out == f"{tmp_path}/b.yml: valid\n"
    lines = told.err.splitlines()
    assert lines[0] == f"{tmp_path}/a.yaml:1:24: accelerators[0].nvml.index: unknown option: this meter has none"
    assert lines[1].startswith(f"{tmp_path}/a.yaml:2:12: dialects[0].output: ")
    assert lines[2] == f"{tmp_path}/c.yaml:1:1: poling: unknown key; did you mean `polling`?"
    assert lines[3:] == ["3 files: 2 not valid, with 3 problems"]


def test_one_file_is_not_summed_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text("poling: {}\n")
    status = main(["check", f"--config.file={tmp_path / 'a.yaml'}"])

    assert (status, len(capsys.readouterr().err.splitlines())) == (2, 1)


def test_every_recorded_bad_file_is_told_without_a_word_of_ours_about_the_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No traceback, no name of a Python object, and one line per problem, each beginning with its file."""
    assert main(["check", str(BAD)]) == 2

    *lines, tally = capsys.readouterr().err.splitlines()
    count = len(list(BAD.glob("*.yaml")))
    assert tally.startswith(f"{count} files: {count} not valid, ")
    assert [line for line in lines if not line.startswith(str(BAD))] == []
    assert [line for line in lines if "object" in line or "argument" in line or "Error" in line] == []
