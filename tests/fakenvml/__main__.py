"""Runs a command on fake GPUs: ``PYTHONPATH=tests python -m fakenvml --gpus 8 -- tpw-exporter run``.

Every GPU draws a different square wave. Exits with the status of the command.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from fakenvml import FakeNvml


def main() -> int:
    parser = argparse.ArgumentParser(prog="fakenvml", description=__doc__)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--low", type=float, default=80.0, help="watts between the pulses")
    parser.add_argument("--high", type=float, default=620.0, help="watts of the pulses")
    parser.add_argument("--period", type=float, default=20.0, help="seconds")
    parser.add_argument("--busy-us", type=int, default=50, help="processor time of one driver call, microseconds")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, FakeNvml(Path(directory), count=options.gpus) as nvml:
        nvml.busy_us = options.busy_us
        for i in range(options.gpus):
            nvml.gpu(i).set_square(options.low, options.high, options.period, phase=i * options.period / options.gpus)
            nvml.utilization(i, 90)
        return subprocess.run(options.command, env={**os.environ, **nvml.env()}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
