"""What the options of ``measure`` ask for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from support.snapshots import rich_snapshot
from tpw.cli import main
from tpw.cli.measure import _configured_targets
from tpw.exposition.status import status


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


def test_the_daemon_loads_neither_measuring_nor_without_servers_the_published_figures():
    code = (
        "import sys, tpw.cli.run, tpw.cli.serving, tpw.daemon.daemon, tpw.exposition.web\n"
        "from support.snapshots import empty_snapshot\n"
        "from tpw.exposition.families import families\n"
        "from tpw.exposition.status import status\n"
        "families(empty_snapshot()), status(empty_snapshot())\n"
        "print(*(name for name in sys.modules if name.startswith(('tpw.measuring', 'tpw.published'))))"
    )
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=path, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_the_targets_of_a_sweep_are_by_default_those_of_the_server():
    assert _configured_targets(status(rich_snapshot()), "chat") == {"ttft": 2.0, "e2e": 30.0}
    assert _configured_targets(status(rich_snapshot()), "code") == {}
