"""What the scan for servers costs, read from procfs itself and through psutil: the same fields of the same processes."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

from tpw.discovery.procfs import ProcFs

ROUNDS = 20


def _best(scan: Callable[[], object]) -> float:
    """Milliseconds of CPU: the best of all rounds but the first, which fills the caches."""
    scan()
    took = []
    for _ in range(ROUNDS):
        begun = time.process_time_ns()
        scan()
        took.append((time.process_time_ns() - begun) / 1e6)
    return min(took)


def table() -> None:
    """Processes with their parents, starts and command lines; listening sockets."""
    proc = ProcFs()

    def by_psutil() -> None:
        for process in psutil.process_iter(["pid", "ppid", "name", "cmdline", "create_time"]):
            _ = process.info

    rows = (
        ("processes", len(proc.processes()), _best(proc.processes), _best(by_psutil)),
        ("sockets", len(proc.listeners()), _best(proc.listeners), _best(lambda: psutil.net_connections("tcp"))),
    )
    print(f"{'scanning':<12}{'number':>12}{'procfs ms':>12}{'psutil ms':>12}   (psutil {psutil.__version__})")
    for name, number, ours, theirs in rows:
        print(f"{name:<12}{number:>12}{ours:>12.2f}{theirs:>12.2f}")
