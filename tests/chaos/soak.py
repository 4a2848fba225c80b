"""``make soak``: a simulated year of the daemon on an accelerated clock; what grows, by month.

    make soak ARGS='--days 365 --step 600 --write'

The daemon runs in this process with its real store, real HTTP reads of 8 servers, and meters of exactly known power. Only
the clock is not real: it is advanced by ``--step`` seconds for each tick. Every day one server restarts with another model
(of five), and one is down for the day. Memory includes this process' own servers. The start is that of the store and the
daemon on a copy of the books.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import psutil
import yaml

from chaos.report import write
from support.clockwork import Clock
from support.losses import aligned
from support.pageserver import NOT_FOUND, Asked, PageServer, answer
from tpw import logs
from tpw.config.load import load_file
from tpw.config.schema import Config
from tpw.daemon.daemon import Daemon
from tpw.exposition.families import families
from tpw.model import EnergyMethod, Gpu, GpuSample, Sharing
from tpw.store.sqlite import FILE_NAME, BooksFile

GPUS = SERVERS = 8
DAY = 86400.0
START = 1_767_225_600.0  # 2026-01-01


class Meter:
    """GPUs of constant power."""

    name = "soak"

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._gpus = tuple(
            Gpu(f"GPU-{index:08x}", index, energy_method=EnergyMethod.COUNTER, max_power_watts=700.0)
            for index in range(GPUS)
        )

    def open(self) -> None:
        pass

    def sweep(self) -> None:
        pass

    def gpus(self) -> tuple[Gpu, ...]:
        return self._gpus

    def read(self, uuid: str) -> GpuSample:
        watts = 300.0 + 10.0 * int(uuid[4:], 16)
        at = self._clock.monotonic()
        return GpuSample(uuid, at, energy_joules=watts * at, power_watts=watts, utilization_ratio=0.8)

    def sharing(self, uuid: str) -> Sharing:
        return Sharing(frozenset())

    def close(self) -> None:
        pass


class ChurningServer:
    """A server with another model each day, or a restart, or none of it: see the module."""

    def __init__(self, index: int, clock: Clock) -> None:
        self._index, self._clock = index, clock

    def __call__(self, asked: Asked) -> bytes:
        day = int(self._clock.elapsed_seconds // DAY)
        if asked.path != "/metrics" or day % SERVERS == (self._index + 2) % SERVERS:
            return NOT_FOUND if asked.path != "/metrics" else answer("down", status=503)
        restarts = (day + self._index) // SERVERS
        model = f"model-{(day + self._index) // SERVERS % 5}"
        began = max(0.0, (restarts * SERVERS - self._index) * DAY)
        tokens = 500.0 * (self._clock.elapsed_seconds - began)
        return answer(
            f"process_start_time_seconds {self._clock.start_wall_seconds + began!r}\n"
            f'vllm:num_requests_running{{model_name="{model}"}} 3\n'
            f'vllm:prompt_tokens_total{{model_name="{model}"}} {2 * tokens!r}\n'
            f'vllm:generation_tokens_total{{model_name="{model}"}} {tokens!r}\n'
        )


def start_seconds(config: Config, folder: Path, clock: Clock) -> float:
    """How long the store and the daemon take to start on a copy of the books."""
    with tempfile.TemporaryDirectory() as copy:
        for path in folder.glob(f"{FILE_NAME}*"):
            shutil.copy(path, copy)
        began = time.perf_counter()
        books = BooksFile(Path(copy), clock.wall)
        Daemon(config, books, clock=clock.monotonic, wall=clock.wall, accelerators=[Meter(clock)])
        took = time.perf_counter() - began
        books.close()
    return took


def main() -> None:
    """Run it, and print the table."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--step", type=float, default=600.0, help="seconds between two ticks")
    parser.add_argument("--write", action="store_true", help="write the table into docs/reliability.md")
    arguments = parser.parse_args()
    logs.configure("error")
    clock = Clock(START)
    process = psutil.Process()
    rows = [
        ("day", "ticks", "RSS, MiB", "threads", "descriptors", "books, MiB", "series", "start, s", "CPU ms per tick")
    ]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        hosts = [stack.enter_context(PageServer(ChurningServer(index, clock))) for index in range(SERVERS)]
        servers = [
            {"name": f"s{index}", "url": host.url, "engine": "vllm", "gpus": [index]}
            for index, host in enumerate(hosts)
        ]
        file = folder / "tpw.yaml"
        tariff = {"currency": "EUR", "energy": {"kind": "flat", "price_per_kwh": 0.25}}
        file.write_text(yaml.safe_dump({"host": {"meters": []}, "tariff": tariff, "servers": servers}))
        config = load_file(file)
        books = BooksFile(folder, clock.wall)
        daemon = Daemon(config, books, clock=clock.monotonic, wall=clock.wall, accelerators=[Meter(clock)])
        daemon.poll_all()
        ticks, cpu = 0, sum(process.cpu_times()[:2])
        for day in range(1, arguments.days + 1):
            while clock.elapsed_seconds < day * DAY:
                clock.elapsed_seconds += arguments.step
                daemon.tick()
                ticks += 1
            for host in hosts:  # the stand-ins' own records must not grow
                host.asked.clear()
                del host._threads[1:-4]
            if day in (1, 7, arguments.days) or day % 30 == 0:
                size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) / 2**20
                now = sum(process.cpu_times()[:2])
                figures = (
                    day, ticks, f"{process.memory_info().rss / 2**20:.1f}", process.num_threads(), process.num_fds(),
                    f"{size:.1f}", sum(len(family.samples) for family in families(daemon.snapshot)),
                    f"{start_seconds(config, folder, clock):.2f}", f"{1000 * (now - cpu) / ticks:.1f}",
                )  # fmt: skip
                rows.append(tuple(map(str, figures)))
                print(*figures, flush=True)
        daemon.stop()
        books.close()
    date = f"{datetime.now(UTC):%Y-%m-%d}"
    command = f"make soak ARGS='--days {arguments.days} --step {arguments.step:.0f}'"
    system = f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    lines = [f"{date}, `{command}`, {system}.", "", *aligned(rows)]
    print("\n".join(lines))
    if arguments.write:
        write("soak", lines)


if __name__ == "__main__":
    main()
