"""The command line as such."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tpw.cli import main


@pytest.mark.parametrize(
    ("words", "command", "said"),
    [
        (
            ["--web.listen-adress=:1"],
            "run",
            "`--web.listen-adress=:1` is not understood; did you mean `--web.listen-address`?",
        ),
        (["prbe"], "run", "`prbe` is not understood; did you mean `probe`?"),
        (["check", "--nope"], "check", "`--nope` is not understood"),
    ],
)
def test_a_flag_that_is_not_known_names_the_command_and_the_nearest_flag(
    words: list[str], command: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)

    assert ended.value.code == 2
    assert (
        capsys.readouterr().err.splitlines()[-1]
        == f"tpw-exporter: error: {command}: {said}; see tpw-exporter {command} --help"
    )


def test_the_daemon_does_not_load_what_only_other_commands_need() -> None:
    """Memory on every node of a fleet."""
    look = (
        "import sys, tpw.cli.run, tpw.cli.serving; print(*{'psutil', 'difflib', 'urllib.request'} & sys.modules.keys())"
    )
    loaded = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True).stdout

    assert loaded.split() == []
