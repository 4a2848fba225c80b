"""The description of a process that holds a GPU."""

from __future__ import annotations

import getpass
import subprocess
import sys
import time

from tpw.cli.holders import Holder, holders


def test_a_process_is_described_by_its_program_and_never_by_its_arguments() -> None:
    begun = time.time()
    setup = "import time; key = 'secret'; print('here', flush=True)"
    command = [sys.executable, "-m", "timeit", "-n", "1", "-s", setup, "time.sleep(60)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"here\n"
            [holder] = holders([child.pid])
        finally:
            child.kill()

    assert holder.runs is not None
    assert holder.runs.split()[1:] == ["timeit"]
    assert holder.user == getpass.getuser()
    assert holder.started_wall_seconds is not None
    assert abs(holder.started_wall_seconds - begun) < 5.0
    assert "secret" not in str(holder)
    assert str(holder).startswith(f"pid {child.pid}: {holder.runs}, user {holder.user}, since ")


def test_a_process_that_is_not_visible_is_described_as_such() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()

    assert holders([child.pid]) == [Holder(child.pid)]
    assert str(Holder(7)) == "pid 7 (not visible from here)"
