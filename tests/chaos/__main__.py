"""``make chaos``: the real daemon under seeded faults; the laws from outside; a table.

    make chaos ARGS='--seed 7 --seconds 600 --write'

Ends with 1 where a counter fell, a law did not hold, the log has a traceback, the daemon ended by itself, or took more
than 5 s to tick on, without the time in which processes of this machine waited for a CPU. ``--write`` puts the table into
docs/reliability.md, ``--add FILE`` sums the runs in a file. A run with the same seed has the same faults in the same
order; their timing is real.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from random import Random

from chaos.faults import DESTROYS, FAULTS, NEEDS_DISK
from chaos.judge import Judge
from chaos.report import write
from chaos.world import GPUS, RECOVERY_SECONDS, TOKENS_PER_SECOND, Disk, World, in_own_namespace
from support.losses import aligned

SLOP_JOULES = 500.0
"""The undisturbed GPU uses at most 500 W; a page is at most one second old."""
SLOP_TOKENS = TOKENS_PER_SECOND
OLDEST_PAGE_SECONDS = 10.0
UNTOUCHED = GPUS - 1
HONEST = ("chat", "embed")


@dataclass
class Row:
    """What one kind of fault did."""

    times: int = 0
    survived: int = 0
    slowest_seconds: float = 0.0
    lost_joules: float = 0.0
    lost_tokens: float = 0.0
    fallen: int = 0


@dataclass
class Run:
    """One run."""

    seed: int
    judge: Judge = field(default_factory=Judge)
    rows: dict[str, Row] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    weight: str = ""
    """Of the daemon at the end."""


def deck(random: Random, names: Sequence[str]) -> Iterator[str]:
    """Every fault once in random order, again and again."""
    while True:
        yield from random.sample(names, len(names))


class Balance:
    """What is missing in the books of the GPU and the servers that no fault touches, as of their last readings."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._began = time.monotonic()
        self.reset()

    def reset(self) -> None:
        """From now on."""
        world = self._world
        self._began = self._read_at("nvml")
        self._joules = world.booked_joules(UNTOUCHED)
        self._tokens = {name: (self._true(name), self._booked(name)) for name in HONEST}

    def missing(self) -> tuple[float, float]:
        """Joules and tokens; negative where too many are booked."""
        world = self._world
        true_joules = world.true_joules(UNTOUCHED, self._began, self._read_at("nvml"))
        joules = true_joules - (world.booked_joules(UNTOUCHED) - self._joules)
        tokens = [
            self._true(name) - true - (self._booked(name) - booked) for name, (true, booked) in self._tokens.items()
        ]
        return joules, max(tokens, key=abs)

    def _read_at(self, source: str) -> float:
        """Monotonic instant of a source's last reading on the last page: on a slow machine that can be seconds ago."""
        values = self._world.page.values_of("tpw_source_last_success_timestamp_seconds", source=source)
        return time.monotonic() - min(OLDEST_PAGE_SECONDS, max(0.0, time.time() - values[0])) if values else self._began

    def _true(self, name: str) -> float:
        return self._world.servers[name].tokens(self._read_at(f"server:{name}"))

    def _booked(self, name: str) -> float:
        return self._world.page.sum("tpw_server_tokens_total", server=name)


def run(seed: int, seconds: float, only: Sequence[str], directory: Path) -> Run:
    """One run of so many seconds."""
    random = Random(seed)
    result = Run(seed)
    with World(directory, result.judge) as world:
        time.sleep(1.0)
        for count, name in enumerate(deck(random, only)):
            if time.monotonic() - world.began > seconds:
                break
            row = result.rows.setdefault(name, Row())
            row.times += 1
            world.judge.fault = f"#{count} {name}"
            balance, before = Balance(world), len(world.judge.lost)
            FAULTS[name](world, Random(random.random()))
            took = world.await_ticks(name)
            row.slowest_seconds = max(row.slowest_seconds, took)
            if took <= RECOVERY_SECONDS + world.stalled:
                row.survived += 1
            elif took == inf:
                world.kill()
                world.start()
                world.await_ticks(f"start after {name}")
            row.fallen += len(world.judge.lost) - before
            time.sleep(0.6)  # a tick and a scrape
            joules, tokens = balance.missing()
            if name in DESTROYS:
                continue  # what is missing then is what fell
            row.lost_joules += joules if joules > SLOP_JOULES else 0.0
            row.lost_tokens += tokens if tokens > SLOP_TOKENS else 0.0
            if joules < -SLOP_JOULES or tokens < -SLOP_TOKENS:
                result.problems.append(f"#{count} {name}: {-joules:.0f} J, {-tokens:.0f} tokens too many")
        result.problems += world.exits
        result.weight = world.weight()
        log = world.log.read_text(errors="replace")
    tracebacks = log.count("Traceback (most recent call last)")
    if tracebacks:
        result.problems.append(f"{tracebacks} tracebacks in the log")
    return result


@dataclass
class Summary:
    """What is kept of a run."""

    seed: int
    seconds: float
    pages: int
    problems: int
    weight: str
    rows: dict[str, Row]

    def __post_init__(self) -> None:
        self.rows = {name: row if isinstance(row, Row) else Row(**row) for name, row in self.rows.items()}


def summed(runs: Sequence[Summary]) -> dict[str, Row]:
    """The rows of all runs."""
    rows: dict[str, Row] = {}
    for one in runs:
        for name, row in one.rows.items():
            before = rows.get(name, Row())
            rows[name] = Row(
                before.times + row.times,
                before.survived + row.survived,
                max(before.slowest_seconds, row.slowest_seconds),
                before.lost_joules + row.lost_joules,
                before.lost_tokens + row.lost_tokens,
                before.fallen + row.fallen,
            )
    return rows


def table(rows: dict[str, Row]) -> list[str]:
    """The table of a run."""
    heads = ("fault", "times", "survived", "slowest recovery, s", "counters lowered", "joules lost", "tokens lost")
    cells = [
        (
            name,
            str(rows[name].times),
            str(rows[name].survived),
            f"{rows[name].slowest_seconds:.1f}",
            str(rows[name].fallen),
            f"{rows[name].lost_joules:.0f}",
            f"{rows[name].lost_tokens:.0f}",
        )
        for name in FAULTS
        if name in rows
    ]
    return aligned([heads, *cells])


def main() -> int:
    """The status of the process."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=None, help="of the order of the faults; random without it")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--only", action="append", choices=list(FAULTS), help="only this fault; can be repeated")
    parser.add_argument("--write", action="store_true", help="write the table into docs/reliability.md")
    parser.add_argument("--add", type=Path, default=None, help="add this run to those in a file; the table is of all")
    parser.add_argument("--keep", type=Path, default=None, help="a directory for the daemon's log and books")
    arguments = parser.parse_args()
    in_own_namespace([sys.executable, "-m", "chaos", *sys.argv[1:]])
    names = [name for name in arguments.only or FAULTS if Disk.is_available() or name not in NEEDS_DISK]
    seed = arguments.seed if arguments.seed is not None else Random().randrange(10**6)
    with tempfile.TemporaryDirectory() as temporary:
        directory = arguments.keep or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        result = run(seed, arguments.seconds, names, directory)
    problems = [*result.problems, *result.judge.problems]
    slow = [name for name, row in result.rows.items() if row.survived < row.times]
    problems += [
        f"{name}: {result.rows[name].times - result.rows[name].survived} recoveries above 5 s" for name in slow
    ]
    runs = [Summary(seed, arguments.seconds, result.judge.pages, len(problems), result.weight, result.rows)]
    if arguments.add is not None:
        before = json.loads(arguments.add.read_text()) if arguments.add.exists() else []
        runs = [*(Summary(**one) for one in before), *runs]
        arguments.add.write_text(json.dumps([asdict(one) for one in runs]))
    rows = summed(runs)
    times = sum(row.times for row in rows.values())
    summary = (
        f"{datetime.now(UTC):%Y-%m-%d}, seeds {', '.join(str(one.seed) for one in runs)}, "
        f"{sum(one.seconds for one in runs):.0f} s, Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}: {times} faults, {sum(one.pages for one in runs)} pages checked, "
        f"{sum(one.problems for one in runs)} problems. At the end {result.weight}."
    )
    lines = [summary, "", *table(rows)]
    print("\n".join(lines))
    for problem in itertools.islice(problems, 40):
        print("PROBLEM", problem)
    if arguments.write:
        write("chaos", lines)
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
