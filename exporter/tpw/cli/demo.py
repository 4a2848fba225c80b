"""``tpw-exporter demo``: the real pipeline over simulated GPUs and simulated servers.

A chat server is busy by day and little at night, a code server has office hours and holds its GPU without work for the
rest, one GPU is used by nobody. The books begin a day before the start, so that a night, prices and sums are there at once.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

from tpw import logs
from tpw.cli import Setting
from tpw.cli.configuration import print_problems
from tpw.cli.serving import serve
from tpw.config.flags import Override
from tpw.config.load import load
from tpw.config.problems import ConfigError
from tpw.config.schema import Config
from tpw.daemon.daemon import Daemon
from tpw.power.simulated import SimulatedMeter
from tpw.simulation import SimulatedServer

FLAGS = {
    "web.listen-address": "",
    "web.telemetry-path": "",
    "web.config.file": "",
    "log.level": "warning",
    "log.format": "",
}
"""The demo has a configuration of its own and keeps nothing: no file, no state directory."""

_CONFIG = """
accelerators: [simulated]
host: {{meters: []}}
discovery: {{processes: false}}
servers:
  - {{name: chat, url: "{chat}", gpus: [0, 1]}}
  - {{name: code, url: "{code}", gpus: [2]}}
facility: {{pue: 1.25}}
tariff:
  currency: EUR
  timezone: Europe/Berlin
  energy:
    kind: time_of_use
    price_per_kwh: 0.24
    zones:
      - {{price_per_kwh: 0.16, hours: "22:00-06:00"}}
      - {{price_per_kwh: 0.34, hours: "17:00-20:00", days: [mon-fri]}}
  demand: {{price_per_kw_month: 11.50}}
  fixed: {{per_month: 60}}
carbon: {{kind: static, grams_per_kwh: 332, basis: average_direct}}
costs:
  hardware: {{price_per_gpu: 30000, years: 4, interest: 0.10, residual: 0.20}}
references:
  - {{name: rented-h100, price_per_gpu_hour: 2.69}}
  - {{name: api-70b, price_per_million: {{input: 0.59, cached_input: 0.30, output: 0.79}}}}
"""


_BEFORE_SECONDS = 26 * 3600.0
"""A forecast needs a day of books."""
_STEP_SECONDS = 240.0
"""Between readings of the time before the start: 390 of them take 1.2 s of processor time."""
_LAST_SECONDS, _SHORT_STEP_SECONDS = 120.0, 5.0
"""The live window begins in shorter steps."""
_ZONE = ZoneInfo("Europe/Berlin")
_CHAT = ((0, 0.15), (5, 0.06), (8, 0.5), (11, 1.0), (13, 0.8), (15, 1.0), (19, 0.9), (22, 0.5), (24, 0.15))
_CODE = ((0, 0.0), (8, 0.0), (9, 0.9), (12, 0.9), (13, 0.4), (14, 1.0), (17, 0.8), (18, 0.0), (24, 0.0))


def _share_by(hours: Sequence[tuple[float, float]], *, at_weekends: bool = True) -> Callable[[float], float]:
    """Unix time -> share of the most requests, from shares at hours of the day, in steps of ten minutes."""

    @lru_cache(maxsize=4)
    def share(step: int) -> float:
        at = datetime.fromtimestamp(step * 600.0, _ZONE)
        if not at_weekends and at.weekday() >= 5:
            return 0.0
        hour = at.hour + at.minute / 60.0
        return next(
            was + (will - was) * (hour - begin) / (end - begin)
            for (begin, was), (end, will) in pairwise(hours)
            if begin <= hour < end
        )

    return lambda wall: share(int(wall // 600.0))


class Behind:
    """Clocks that are behind by some time, until it has been played."""

    def __init__(self) -> None:
        self._seconds = _BEFORE_SECONDS

    def monotonic(self) -> float:
        """Monotonic seconds."""
        return time.monotonic() - self._seconds

    def wall(self) -> float:
        """Unix time."""
        return time.time() - self._seconds

    def play(self, daemon: Daemon) -> None:
        """Read sources in long steps until the clocks are right."""
        daemon.poll_all()
        while self._seconds > 0.0:
            step = _STEP_SECONDS if self._seconds > _LAST_SECONDS else _SHORT_STEP_SECONDS
            self._seconds = max(0.0, self._seconds - step)
            daemon.tick()


def _program() -> str:
    """What to type for this program: its path where a shell would not find its name."""
    name = "tpw-exporter"
    return sys.argv[0] if Path(sys.argv[0]).name == name and shutil.which(name) is None else name


@dataclass(frozen=True, slots=True)
class Scene:
    """The daemon of the demo and the servers it reads. The caller starts and stops the servers."""

    daemon: Daemon
    config: Config
    servers: tuple[SimulatedServer, ...]


def scene(
    overrides: Sequence[Override] = (),
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
) -> Scene:
    """Simulated GPUs and servers, and the daemon that reads them.

    Raises:
        ConfigError: a setting of ``overrides`` is not valid.
    """
    now = wall()
    chat = SimulatedServer(
        "llama-3.3-70b",
        peak=2900.0,
        most=40,
        period_seconds=180.0,
        clock=clock,
        wall=now,
        share=_share_by(_CHAT),
    )
    code = SimulatedServer(
        "qwen3-coder-30b",
        peak=4200.0,
        most=12,
        period_seconds=70.0,
        clock=clock,
        wall=now,
        share=_share_by(_CODE, at_weekends=False),
    )
    config = load(_CONFIG.format(chat=chat.url, code=code.url), "<demo>", overrides=overrides)
    by_gpu = {0: chat, 1: chat, 2: code}

    def load_of(gpu: int, at_seconds: float) -> float:
        server = by_gpu.get(gpu)
        return 0.0 if server is None else server.load(at_seconds)

    note = "This is the demo: GPUs and servers are simulated, everything between them and this page is real."
    daemon = Daemon(
        config,
        clock=clock,
        wall=wall,
        accelerators=[SimulatedMeter(clock, load_of, loaded=by_gpu, max_cells=60)],
        notes=[note],
    )
    return Scene(daemon, config, (chat, code))


def run(arguments: argparse.Namespace, setting: Setting) -> int:
    """Run until SIGTERM or SIGINT."""
    try:
        clocks = Behind()
        demo = scene(setting.overrides, clocks.monotonic, clocks.wall)
    except ConfigError as error:
        print_problems(error)
        return 2
    config = demo.config
    level_given = any(override.path == "log.level" for override in setting.overrides)
    logs.configure(config.log.level if level_given else "warning", config.log.format)

    def announce(port: int) -> None:
        print(
            f"tpw-exporter demo: 4 simulated GPUs, 2 simulated servers.\n"
            f"  status page       http://127.0.0.1:{port}/\n"
            f"  metrics           http://127.0.0.1:{port}{config.web.telemetry_path}\n"
            f"  in a terminal     {_program()} top --url=http://127.0.0.1:{port}\n"
            "Stop it with Ctrl-C.",
            flush=True,
        )

    for server in demo.servers:
        server.start()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until the server has its own handlers
    try:
        clocks.play(demo.daemon)
        return serve(lambda: demo.daemon, config.web, announce=announce)
    except KeyboardInterrupt:  # while the day is played
        return 0
    finally:
        for server in demo.servers:
            server.stop()
        sys.stdout.flush()
