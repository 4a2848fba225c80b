"""What a start costs: from the command to readiness, without books and with those of a year."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from bench.reporting import DAYS, write_year
from bench.weighing import cpu_seconds, get, node, running
from fakenvml import FakeNvml
from support.servers import free_port

GPUS, RUNS = 8, 7


def start(directory: Path, nvml: FakeNvml) -> tuple[float, float, float]:
    """(seconds until it is ready, CPU seconds until then, seconds until the periods are on the page)."""
    port = free_port()
    command = [
        sys.executable, "-m", "tpw", "run", f"--state.dir={directory}", f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ]  # fmt: skip
    began = time.monotonic()
    with running(command, nvml.env()) as child:
        while get(port, "/-/ready")[0] != 200:
            if child.poll() is not None or time.monotonic() - began > 30.0:
                raise SystemExit(f"it does not get ready (status {child.poll()})")
            time.sleep(0.005)
        ready, cpu = time.monotonic() - began, cpu_seconds(child.pid)
        while b"\ntpw_period_energy_joules{" not in get(port, "/metrics")[1]:
            if time.monotonic() - began > 30.0:
                raise SystemExit("it does not show the periods")
            time.sleep(0.05)
        return ready, cpu, time.monotonic() - began


def table() -> None:
    """The median of some starts."""
    print(f"{'books':<10}" + "".join(f"{head:>15}" for head in ("ready s", "CPU s", "periods s")))
    with tempfile.TemporaryDirectory() as folder, node(GPUS, Path(folder)) as nvml:
        for name, days in (("none", 0), ("a year", DAYS)):
            directory = Path(folder) / name
            directory.mkdir()
            if days:
                write_year(directory, days, int(time.time() // 86400 - days) * 86400)
            found = [start(directory, nvml) for _ in range(RUNS)]
            cells = [f"{median(column):.2f}" for column in zip(*found, strict=True)]
            print(f"{name:<10}" + "".join(f"{cell:>15}" for cell in cells), flush=True)
