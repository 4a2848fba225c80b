"""Commands, flags and their errors."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tpw.cli import Setting, main
from tpw.config.load import load


@pytest.mark.parametrize(
    ("words", "command", "message"),
    [
        (
            ["--web.listen-adress=:1"],
            "run",
            "unknown argument `--web.listen-adress=:1`; did you mean `--web.listen-address`?",
        ),
        (["prbe"], "run", "unknown argument `prbe`; did you mean `probe`?"),
        (["check", "--nope"], "check", "unknown argument `--nope`"),
    ],
)
def test_the_error_for_an_unknown_argument_has_the_command_and_the_nearest_flag(
    words: list[str], command: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)

    assert ended.value.code == 2
    assert (
        capsys.readouterr().err.splitlines()[-1]
        == f"tpw-exporter: error: {command}: {message}; see tpw-exporter {command} --help"
    )


def test_the_daemon_does_not_load_what_only_other_commands_need() -> None:
    """It would cost memory on every node."""
    script = (
        "import sys, tpw.cli.run, tpw.cli.serving; print(*{'psutil', 'difflib', 'urllib.request'} & sys.modules.keys())"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout

    assert loaded.split() == []


@pytest.mark.parametrize(
    ("words", "path", "enabled"),
    [
        ([], "", False),
        (["--web.enable-lifecycle"], "", True),
        (["--web.enable-lifecycle=false"], "", False),
        (["--web.enable-lifecycle", "run"], "", True),
        (["--web.enable-lifecycle", "--config.file=x"], "x", True),
    ],
)
def test_a_switch_needs_no_value(words: list[str], path: str, enabled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Setting] = []
    monkeypatch.setattr("tpw.cli.run.run", lambda arguments, setting: given.append(setting) or 0)

    assert main(words) == 0
    assert (given[0].config_file or "") == path
    assert load("", overrides=given[0].overrides).web.enable_lifecycle is enabled
