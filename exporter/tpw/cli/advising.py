"""Advice for the daemon's HTTP server, calculated by ``tpw-exporter advise`` in a process of its own.

The books of weeks take some tens of MB while they are read, and a second of processor time: in another process, at the
lowest priority, neither the memory nor the ticks of the daemon have a part in it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from tpw.exposition.advice import Calculated

LONGEST_SECONDS = 300.0
"""A calculation that takes longer is ended."""


def calculation(arguments: Sequence[str]) -> Callable[[], Calculated]:
    """Runs the command with these arguments."""

    def calculate() -> Calculated:
        import subprocess  # at the first request

        command = [sys.executable, "-m", "tpw", "advise", "--format=json", *arguments]
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except OSError as error:
            return Calculated(problem=f"no process could be started: {error.strerror or error}")
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, 19)
        try:
            out, problem = process.communicate(timeout=LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return Calculated(problem=f"the books were not read within {LONGEST_SECONDS:.0f} s")
        if process.returncode:
            lines = problem.decode("utf-8", "replace").strip().splitlines()
            last = lines[-1] if lines else f"exit status {process.returncode}"
            return Calculated(problem=last.removeprefix("tpw-exporter advise: "))
        try:
            return Calculated(json.loads(out))
        except ValueError as error:
            return Calculated(problem=f"what it wrote cannot be read: {error}")

    return calculate
