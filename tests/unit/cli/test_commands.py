"""The options of each command, and the errors for wrong ones."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from support.servers import clean_environment, exporter_command, free_port
from tpw.cli import COMMANDS, demo, main

README = (Path(__file__).resolve().parents[3] / "README.md").read_text()


def help_of(*command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]):
    text = help_of(capsys=capsys)
    assert {command.name for command in COMMANDS if f" {command.name} {command.summary}" in text} == {
        command.name for command in COMMANDS
    }


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_every_command_has_a_help_and_a_line_in_the_readme(name: str, capsys: pytest.CaptureFixture[str]):
    text = help_of(name, capsys=capsys)
    assert f"usage: tpw-exporter {name} " in text
    assert "--log.level VALUE" in text
    assert re.search(rf"^\| `tpw-exporter {name}\b[^|]*\| ", README, re.MULTILINE)


def test_proxy_accepts_only_its_own_settings_and_shows_its_own_defaults(capsys: pytest.CaptureFixture[str]):
    text = help_of("proxy", capsys=capsys)
    assert "--config.file" not in text
    assert "--state.dir" not in text
    assert "Address to listen on. Default: 127.0.0.1:11435." in text
    assert "Path of the metrics. Default: /tpw/metrics." in text
    assert "Lowest severity in the log. Default: info." in text


def test_help_begins_with_a_capital_and_keeps_the_spelling_of_names(capsys: pytest.CaptureFixture[str]):
    assert "Run on simulated GPUs and servers" in help_of("demo", capsys=capsys)


@pytest.mark.parametrize(
    ("program", "on_path", "expected"),
    [
        (".venv/bin/tpw-exporter", None, ".venv/bin/tpw-exporter"),
        ("/usr/bin/tpw-exporter", "/usr/bin/tpw-exporter", "tpw-exporter"),
        ("/somewhere/tpw/__main__.py", None, "tpw-exporter"),
    ],
)
def test_demo_prints_a_program_that_the_shell_finds(
    program: str, on_path: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(demo.sys, "argv", [program, "demo"])
    monkeypatch.setattr(demo.shutil, "which", lambda name: on_path)
    assert demo._program() == expected


def test_demo_accepts_no_file_since_it_has_its_own(capsys: pytest.CaptureFixture[str]):
    assert "--state.dir" not in help_of("demo", capsys=capsys)
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--config.file=mine.yaml"])
    assert ended.value.code == 2
    assert "demo does not accept `--config.file`; see tpw-exporter demo --help" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        ((), {}, "the server is missing: set --upstream=http://HOST:PORT, or TPW_UPSTREAM"),
        (("--upstream=here",), {}, "--upstream: not the base address of a server: 'here'"),
        (("--upstream=http://x:99999",), {}, "--upstream: "),
        ((), {"TPW_UPSTREAM": "http://x/v1"}, "--upstream: not the base address of a server: 'http://x/v1'"),
        (("--upstream=https://x", "--upstream.ca-file=/nowhere.pem"), {}, "--upstream.ca-file: /nowhere.pem: "),
        (("--upstream=http://x", "--web.listen-address=80"), {}, "should be host:port"),
        (("--upstream=http://x", "--web.telemetry-path=x"), {}, "a path that starts with /"),
        (("--upstream=http://x", "--log.level=loud"), {}, "--log.level"),
        (("--upstream=http://x", "--shutdown-grace=soon"), {}, "--shutdown-grace must be a number of seconds"),
        (
            ("--upstream=http://x",),
            {"TPW_INJECT_USAGE": "maybe"},
            "TPW_INJECT_USAGE must be true or false, not 'maybe'",
        ),
    ],
)
def test_proxy_rejects_invalid_options(
    arguments: tuple[str, ...],
    environment: dict[str, str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["proxy", *arguments]) == 2
    assert expected in capsys.readouterr().err


def test_proxy_ignores_the_variables_of_the_daemon(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("TPW_STATE_DIR", "relative and wrong")
    monkeypatch.setenv("TPW_CONFIG_FILE", "/nowhere.yaml")
    assert main(["proxy"]) == 2
    assert capsys.readouterr().err.startswith("tpw-exporter proxy: the server is missing")


def test_top_reads_from_the_listen_address_of_the_configuration(tmp_path: Path):
    port = free_port()
    file = tmp_path / "tpw.yaml"
    file.write_text(f"web: {{listen_address: ':{port}'}}\n")
    done = subprocess.run(
        exporter_command("top", "--once", f"--config.file={file}"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_environment(),
    )
    assert done.returncode == 1
    assert f"http://127.0.0.1:{port}/api/v1/status: connection refused" in done.stderr


def test_top_reports_a_configuration_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "tpw.yaml"
    file.write_text("webb: {}\n")
    assert main(["top", "--once", f"--config.file={file}"]) == 2
    assert f"{file}:1:1: webb" in capsys.readouterr().err
