"""What a report costs: time and memory of the command over a year of books.

8 GPUs with three servers; each GPU that a server owns works and waits within every quarter-hour. The rows are written as
the daemon writes them, with invented amounts.
"""

from __future__ import annotations

import os
import random
import sqlite3
import sys
import tempfile
from pathlib import Path

from support.quarters import write_books
from tpw.ledger.amounts import Amounts, Served
from tpw.ledger.books import ROW_SECONDS, PostingKey
from tpw.model import State, TokenKind
from tpw.store import codec
from tpw.store.files import FILE_NAME

START = 1_764_547_200
"""2025-12-01, UTC."""
DAYS, GPUS = 365, 8
SERVERS = ("chat", "code", "embed", "")
YEAR = ("--from=2025-12-01", "--to=2026-11-30")
CASES = (
    (*YEAR,),
    (*YEAR, "--by=hour"),
    (*YEAR, "--by=hour", "--format=csv"),
    ("--month=2026-05", "--by=hour,server,model,state", "--format=csv"),
    (*YEAR, "--format=focus"),
    (*YEAR, "--by=server,hour,gpu", "--format=json"),
    (*YEAR, "--by=hour,gpu,server,model,state", "--format=csv"),
)


def write_year(directory: Path, days: int = DAYS, start: int = START) -> None:
    """Books with so many days of rows, from ``start`` on."""
    write_books(directory)
    numbers = random.Random(1)
    connection = sqlite3.connect(directory / FILE_NAME, isolation_level=None)
    connection.executescript("BEGIN; DELETE FROM interval; DELETE FROM served")
    for quarter in range(days * 96):
        at = start + quarter * int(ROW_SECONDS)
        for gpu in range(GPUS):
            server = SERVERS[gpu * len(SERVERS) // GPUS]
            for state in (State.ACTIVE, State.PARKED) if server else (State.IDLE,):
                key = PostingKey(f"GPU-{gpu:08x}-0000-4000-8000-000000000000", server, f"model-{server}", state)
                part = numbers.random()
                amounts = Amounts(
                    450 * part,
                    3e5 * part,
                    4e5 * part,
                    cost=dict.fromkeys(("energy", "hardware", "hosting", "fixed"), part),
                    credit=part / 100,
                    emissions_grams={"average_direct": 50 * part},
                )
                row = (at, *codec.dump_key(key), 0, codec.dump_quantity(amounts))
                connection.execute("INSERT INTO interval VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        for server in filter(None, SERVERS):
            for model in (f"model-{server}", "other"):
                work = Served(dict.fromkeys(TokenKind, 1e4 * numbers.random()), 10.0, {}, {"rented": 1.5})
                row = (at, server, model, codec.dump_quantity(work))
                connection.execute("INSERT INTO served VALUES (?, ?, ?, ?)", row)
    until = str(float(start + days * 86400))
    connection.execute("UPDATE meta SET value = ? WHERE key = 'at_wall_seconds'", (until,))
    connection.execute("COMMIT")
    connection.close()


def cost_of(directory: Path, options: tuple[str, ...]) -> tuple[float, float]:
    """(CPU seconds, peak resident MiB) of one report. Raises OSError where it fails."""
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.execv(  # noqa: S606 - no shell is meant
            sys.executable, [sys.executable, "-m", "tpw", "report", f"--state.dir={directory}", *options]
        )
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise OSError(f"{' '.join(options)} ends with {status}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def table() -> None:
    """CPU seconds and MiB of each case."""
    with tempfile.TemporaryDirectory() as directory:
        write_year(Path(directory))
        print(f"{'report':<90}{'CPU s':>8}{'MiB':>8}")
        for options in CASES:
            seconds, mib = cost_of(Path(directory), options)
            print(f"{' '.join(options):<90}{seconds:>8.1f}{mib:>8.0f}", flush=True)
