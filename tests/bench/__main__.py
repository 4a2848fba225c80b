"""``make bench``: the cost of the real daemon on the stand-in NVML at an interval of 1 s.

Two scenes: 8 GPUs alone, and 8 GPUs with 8 servers that have vLLM's pages (50 KB). Printed for each, beside its goal: CPU
seconds per 100 s (of the process, all threads, no scrapes in that time), resident memory at the end, NVML calls per
second, scrape latency of 200 requests over one connection (median, p99), poll lag, and the time from start to ready.

``--scene fleet`` measures the cost of recording rules and dashboards in a real Prometheus (:mod:`bench.fleet`),
and ``--scene weeks`` that of the dashboards over weeks of a fleet (:mod:`bench.weeks`).

Before them, what counting costs: microseconds that the proxy and the middleware add to every piece of a stream, and the CPU
time of reading one of vLLM's pages (:mod:`bench.counting`); and the scan for servers (:mod:`bench.scanning`). On demand
(``--scene books``): what the books weigh on disk (:mod:`bench.keeping`), and (``--scene report``) what reports of a year of
books cost (:mod:`bench.reporting`), and (``--scene start``) a start with and without them (:mod:`bench.starting`).

The figures are of this machine and this moment; nothing fails here when a goal is missed.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench import counting, keeping, reporting, scanning, starting, weighing
from bench.weighing import get
from fakenvml import FakeNvml

GOALS = {
    "alone": {"cpu": 0.7, "rss": 42.0, "calls": 40.0, "p99": 1.5, "start": 1.0},
    "servers": {"cpu": 1.5, "rss": 48.0, "calls": 40.0, "p99": 2.0, "start": 1.0},
}


@dataclass
class Figures:
    """One scene's figures."""

    cpu: float
    rss: float
    calls: float
    median: float
    p99: float
    lag: float
    start: float
    series: int
    size: int


def cpu_seconds(process: psutil.Process) -> float:
    """User and system time of the process, all threads."""
    times = process.cpu_times()
    return times.user + times.system


def lag_seconds(page: bytes) -> float:
    """tpw_poll_lag_seconds of a page."""
    for line in page.splitlines():
        if line.startswith(b"tpw_poll_lag_seconds "):
            return float(line.split()[1])
    return float("nan")


def scene(name: str, gpus: int, ports: list[int], seconds: float) -> Figures:
    """Run the daemon for a while and weigh it."""
    with tempfile.TemporaryDirectory() as directory, FakeNvml(Path(directory), gpus, refresh_seconds=0.1) as nvml:
        for i in range(gpus):
            nvml.gpu(i).set_square(150.0, 600.0, 7.0, 0.5)
            nvml.utilization(i, 80)
        config = Path(directory) / "tpw.yaml"
        config.write_text(
            "tariff: {currency: EUR, timezone: Europe/Berlin, energy: {kind: time_of_use, price_per_kwh: 0.2,"
            ' zones: [{price_per_kwh: 0.1, hours: "22:00-06:00"}]}}\n'
            + (
                "servers:\n"
                + "".join(
                    f"- {{name: s{i}, url: 'http://127.0.0.1:{port}', gpus: [{i % gpus}]}}\n"
                    for i, port in enumerate(ports)
                )
                if ports
                else ""
            )
        )
        port = free_port()
        begun = time.monotonic()
        daemon = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tpw",
                "run",
                f"--config.file={config}",
                f"--state.dir={directory}/state",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=warning",
            ],
            env={**os.environ, **nvml.env()},
        )
        try:
            while get(port, "/-/ready")[0] != 200:
                if daemon.poll() is not None:
                    raise SystemExit(f"the daemon ended with {daemon.returncode}")
                if time.monotonic() - begun > 30:
                    raise SystemExit("the daemon does not get ready")
                time.sleep(0.01)
            start = time.monotonic() - begun
            process = psutil.Process(daemon.pid)
            time.sleep(5)
            lags = [lag_seconds(get(port, "/metrics")[1])]
            calls, cpu, at = sum(nvml.calls().values()), cpu_seconds(process), time.monotonic()
            time.sleep(seconds)
            took = time.monotonic() - at
            calls_rate = (sum(nvml.calls().values()) - calls) / took
            cpu_rate = (cpu_seconds(process) - cpu) / took * 100.0
            times, body = scrape(port, 200, lags)
            return Figures(
                cpu=cpu_rate,
                rss=process.memory_info().rss / 2**20,
                calls=calls_rate,
                median=statistics.median(times) * 1e3,
                p99=sorted(times)[int(0.99 * len(times)) - 1] * 1e3,
                lag=max(lags) * 1e3,
                start=start,
                series=sum(1 for line in body.splitlines() if line and not line.startswith(b"#")),
                size=len(body),
            )
        finally:
            daemon.terminate()
            daemon.wait(10)


def scrape(port: int, number: int, lags: list[float]) -> tuple[list[float], bytes]:
    """Latency of scrapes over one connection, spread over some 20 s so that fresh and kept renderings both occur."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    times, body = [], b""
    for _ in range(number):
        begun = time.perf_counter()
        connection.request("GET", "/metrics")
        body = connection.getresponse().read()
        times.append(time.perf_counter() - begun)
        lags.append(lag_seconds(body))
        time.sleep(0.1)
    connection.close()
    return times, body


def free_port() -> int:
    """A port nobody listens on."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _weigh(arguments: argparse.Namespace) -> None:
    """The scenes of :mod:`bench.weighing`."""
    command = "make bench ARGS='" + " ".join(sys.argv[1:]) + "'"
    figures = []
    for scene in weighing.SCENES:
        figures.append(weighing.ours(scene, arguments.seconds))
        print("\n".join(weighing.table(figures[-1:])), flush=True)
    if arguments.against:
        figures += weighing.peers(arguments.seconds)
    print("\n".join(["", weighing.summary(command), "", *weighing.table(figures)]))
    if arguments.json:
        arguments.json.write_text(json.dumps(weighing.document(figures, command), indent=1))
    if arguments.write:
        weighing.write(figures, command)


def main() -> None:
    """All scenes."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=100.0, help="how long CPU is measured")
    parser.add_argument(
        "--scene",
        choices=[*GOALS, "counting", "scan", "books", "report", "start", "fleet", "weeks", "all"],
        default="all",
    )
    parser.add_argument("--nodes", type=int, default=1000, help="of the scenes fleet and weeks, which are not in all")
    parser.add_argument("--interval", type=int, default=30, help="of the scene fleet: seconds between scrapes")
    parser.add_argument("--hours", type=float, default=1.0, help="of the scene fleet: of history")
    parser.add_argument("--all", action="store_true", help="every size of node, as in docs/performance.md")
    parser.add_argument("--against", action="store_true", help="with --all: also other exporters (bench.weighing)")
    parser.add_argument("--json", type=Path, help="with --all: write the figures to this file")
    parser.add_argument("--write", action="store_true", help="with --all: write the table into docs/performance.md")
    parser.add_argument("--days", type=float, default=30.0, help="of the scene weeks: of history")
    arguments = parser.parse_args()
    if arguments.all:
        _weigh(arguments)
        return
    if arguments.scene == "books":
        keeping.table()
        return
    if arguments.scene == "report":
        reporting.table()
        return
    if arguments.scene == "start":
        starting.table()
        return
    if arguments.scene == "weeks":
        from bench import weeks

        weeks.measure(arguments.nodes, arguments.days)
        return
    if arguments.scene == "fleet":
        from bench import fleet

        fleet.measure(arguments.nodes, arguments.interval, arguments.hours)
        return
    if arguments.scene in ("counting", "all"):
        counting.table()
    if arguments.scene in ("scan", "all"):
        scanning.table()
    if arguments.scene in ("counting", "scan"):
        return
    heads = ["CPU s/100 s", "RSS MiB", "NVML calls/s", "median ms", "p99 ms", "lag ms", "start s", "series", "bytes"]
    print(f"{'scene':<10}" + "".join(f"{head:>15}" for head in heads))
    for name, goal in GOALS.items():
        if arguments.scene not in (name, "all"):
            continue
        servers = None
        ports: list[int] = []
        if name == "servers":
            servers = subprocess.Popen([sys.executable, "-m", "bench.servers", "8"], stdout=subprocess.PIPE, text=True)
            assert servers.stdout is not None
            ports = [int(word) for word in servers.stdout.readline().split()]
        try:
            got = scene(name, 8, ports, arguments.seconds)
        finally:
            if servers is not None:
                servers.terminate()
                servers.wait()
        cells = [
            f"{got.cpu:.2f} (<={goal['cpu']})",
            f"{got.rss:.1f} (<={goal['rss']:.0f})",
            f"{got.calls:.0f} (<={goal['calls']:.0f})",
            f"{got.median:.2f}",
            f"{got.p99:.2f} (<={goal['p99']})",
            f"{got.lag:.1f}",
            f"{got.start:.2f} (<={goal['start']})",
            str(got.series),
            str(got.size),
        ]
        print(f"{name:<10}" + "".join(f"{cell:>15}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
