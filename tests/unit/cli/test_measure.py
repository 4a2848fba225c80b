"""What the options of ``measure`` ask for."""

from __future__ import annotations

import pytest

from tpw.cli import main


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--duration=5"],
        ["--duration=0s"],
        ["--duration=1s", "--sweep"],
        ["--duration=1s", "--", "true"],
        ["--duration=1s", "--url=ftp://x"],
        ["--sweep"],
        ["--sweep", "--target=ftp://x"],
        ["--sweep", "--target=http://x", "--concurrency=1,0"],
        ["--sweep", "--target=http://x", "--repeats=1,5"],
        ["--sweep", "--target=http://x", "--repeats=5"],
        ["--sweep", "--target=http://x", "--targets=itl=5ms"],
        ["--sweep", "--target=http://x", "--targets=ttft"],
        ["--sweep", "--target=http://x", "--output-tokens=0"],
    ],
)
def test_options_that_do_not_fit_together_are_a_usage_error(options: list[str]):
    assert main(["measure", *options]) == 2


def test_a_daemon_that_does_not_answer_is_a_failure(capsys: pytest.CaptureFixture[str]):
    assert main(["measure", "--duration=1s", "--url=http://127.0.0.1:9"]) == 1
    assert "127.0.0.1:9" in capsys.readouterr().err
