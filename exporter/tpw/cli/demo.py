"""``tpw-exporter demo``: the real pipeline over simulated GPUs and simulated servers."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

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
    chat = SimulatedServer("llama-3.3-70b", peak=2900.0, most=40, period_seconds=180.0, clock=clock, wall=now)
    code = SimulatedServer("qwen3-coder-30b", peak=4200.0, most=12, period_seconds=70.0, clock=clock, wall=now)
    config = load(_CONFIG.format(chat=chat.url, code=code.url), "<demo>", overrides=overrides)
    by_gpu = {0: chat, 1: chat, 2: code}

    def load_of(gpu: int, at_seconds: float) -> float:
        server = by_gpu.get(gpu)
        return 0.0 if server is None else server.load(at_seconds)

    note = "This is the demo: GPUs and servers are simulated, everything between them and this page is real."
    daemon = Daemon(
        config, clock=clock, wall=wall, accelerators=[SimulatedMeter(clock, load_of, loaded=by_gpu)], notes=[note]
    )
    return Scene(daemon, config, (chat, code))


def run(arguments: argparse.Namespace, setting: Setting) -> int:
    """Run until SIGTERM or SIGINT."""
    try:
        demo = scene(setting.overrides)
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
    try:
        return serve(lambda: demo.daemon, config.web, announce=announce)
    finally:
        for server in demo.servers:
            server.stop()
        sys.stdout.flush()
