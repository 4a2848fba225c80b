"""The command line as such."""

from __future__ import annotations

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
