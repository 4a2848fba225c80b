"""What the daemon costs at several sizes of node, and other exporters on the same stand-in library in the same run."""

from __future__ import annotations

import http.client
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from fakenvml import FakeNvml
from support.losses import aligned
from support.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "performance.md"
PEERS = ROOT / ".cache" / "peers" / "bin"
"""Made by hand: a virtual environment with nvitop-exporter, landauer-gap, aluminatiai and prometheus_client."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A node, and the goals for it."""

    name: str
    gpus: int
    servers: int
    cpu: float
    """Percent of one core."""
    rss: float
    """MiB."""
    p99: float
    """Milliseconds of a scrape."""


SCENES = (
    Scene("1 x 1", 1, 1, 0.2, 38.0, 1.2),
    Scene("8 x 0", 8, 0, 0.2, 38.0, 1.2),
    Scene("8 x 8", 8, 8, 0.7, 41.0, 1.5),
    Scene("72 x 32", 72, 32, 2.5, 52.0, 5.0),
    Scene("8 x 200", 8, 200, 8.0, 72.0, 5.0),
)


@dataclass(slots=True)
class Figures:
    """Of one process at one scene."""

    scene: str
    process: str
    cpu_percent: float
    rss_mib: float
    calls_per_second: float
    median_ms: float
    p99_ms: float
    start_seconds: float
    series: int
    page_bytes: int
    skipped: float
    """Ticks; NaN where the process has no such counter."""
    load: float
    """Of the machine during the run: above the number of cores latencies are those of the queue."""


def cpu_seconds(pid: int) -> float:
    """Of all threads so far, also those that have ended: the CPU-time clock of the process (clock_getcpuclockid(3))."""
    return time.clock_gettime(~pid << 3 | 2)


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended by its pid."""
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def get(port: int, path: str) -> tuple[int, bytes]:
    """One GET; status 0 without an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()


def weigh(name: str, process: str, command: Sequence[str], port: int, nvml: FakeNvml, seconds: float) -> Figures:
    """Run a process for a while and measure it."""
    began = time.monotonic()
    with running(command, nvml.env()) as child:
        ready = "/-/ready" if process == "tpw-exporter" else "/metrics"
        while get(port, ready)[0] != 200:
            if child.poll() is not None or time.monotonic() - began > 30:
                raise SystemExit(f"{process} does not get ready (status {child.poll()})")
            time.sleep(0.01)
        start = time.monotonic() - began
        time.sleep(5)
        calls, cpu, at = sum(nvml.calls().values()), cpu_seconds(child.pid), time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - at
        cpu, calls = cpu_seconds(child.pid) - cpu, sum(nvml.calls().values()) - calls
        times, body = scrapes(port, 200)
        skipped = re.search(rb"^tpw_polls_skipped_total (\S+)", body, re.MULTILINE)
        return Figures(
            name, process, cpu / took * 100.0, psutil.Process(child.pid).memory_info().rss / 2**20, calls / took,
            statistics.median(times) * 1e3, sorted(times)[int(0.99 * len(times)) - 1] * 1e3, start,
            sum(1 for line in body.splitlines() if line and not line.startswith(b"#")), len(body),
            float(skipped[1]) if skipped else float("nan"), os.getloadavg()[0],
        )  # fmt: skip


def scrapes(port: int, number: int) -> tuple[list[float], bytes]:
    """Seconds of scrapes over one connection, spread over 20 s so that fresh and kept renderings occur; the last page."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    times, body = [], b""
    for _ in range(number):
        began = time.perf_counter()
        connection.request("GET", "/metrics")
        body = connection.getresponse().read()
        times.append(time.perf_counter() - began)
        time.sleep(0.1)
    connection.close()
    return times, body


@contextmanager
def node(gpus: int, directory: Path) -> Iterator[FakeNvml]:
    """GPUs under load."""
    with FakeNvml(directory, gpus, refresh_seconds=0.1) as nvml:
        for index in range(gpus):
            nvml.gpu(index).set_square(150.0, 600.0, 7.0, 0.5)
            nvml.utilization(index, 80)
        yield nvml


def ours(scene: Scene, seconds: float) -> Figures:
    """The daemon at one scene."""
    with (
        tempfile.TemporaryDirectory() as folder,
        node(scene.gpus, Path(folder)) as nvml,
        serving(scene.servers) as ports,
    ):
        tariff = (
            "tariff: {currency: EUR, timezone: Europe/Berlin, energy: {kind: time_of_use, price_per_kwh: 0.2,"
            ' zones: [{price_per_kwh: 0.1, hours: "22:00-06:00"}]}}\n'
        )
        servers = [
            f"- {{name: s{index}, url: 'http://127.0.0.1:{port}', gpus: [{index % scene.gpus}]}}\n"
            for index, port in enumerate(ports)
        ]
        config = Path(folder) / "tpw.yaml"
        config.write_text(tariff + ("servers:\n" + "".join(servers) if servers else ""))
        port = free_port()
        command = [
            sys.executable, "-m", "tpw", "run", f"--config.file={config}", f"--state.dir={folder}/state",
            f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
        ]  # fmt: skip
        return weigh(scene.name, "tpw-exporter", command, port, nvml, seconds)


@contextmanager
def serving(number: int) -> Iterator[list[int]]:
    """Servers in a process of their own; their ports."""
    if not number:
        yield []
        return
    command = [sys.executable, "-m", "bench.servers", str(number)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        yield [int(word) for word in child.stdout.readline().split()]
    finally:
        child.terminate()
        child.wait()


def peers(seconds: float) -> list[Figures]:
    """Other exporters on 8 GPUs, with a reading per second."""
    found = []
    for name, arguments in (
        ("nvitop-exporter", ["--bind-address=127.0.0.1", "--interval=1", "--port={port}"]),
        ("landauer-gap", ["agent", "--no-cpu", "--quiet", "--interval=1", "--port={port}"]),
        ("aluminatiai", ["--prometheus-only", "--quiet", "--interval=1"]),
    ):
        if not (PEERS / name).exists():
            print(f"{name} is not installed in {PEERS.parent}")
            continue
        port = free_port()
        with tempfile.TemporaryDirectory() as folder, node(8, Path(folder)) as nvml:
            command = [str(PEERS / name), *(argument.format(port=port) for argument in arguments)]
            os.environ.update(METRICS_PORT=str(port), DATA_DIR=folder, SAMPLE_INTERVAL="1")
            try:
                found.append(weigh("8 x 0", name, command, port, nvml, seconds))
            except SystemExit as error:
                print(error)
    return found


def table(figures: Sequence[Figures]) -> list[str]:
    """The figures, with the goals of ours in brackets."""
    goals = {scene.name: scene for scene in SCENES}
    heads = (
        *("GPUs x servers", "exporter", "CPU, %", "RSS, MiB", "NVML calls/s", "median, ms", "p99, ms", "start, s"),
        *("series", "page, kB", "ticks skipped", "load"),
    )
    rows = [heads]
    for one in figures:
        goal = goals.get(one.scene) if one.process == "tpw-exporter" else None
        limits = [
            f" (<= {limit:g})" if goal else "" for limit in ((goal.cpu, goal.rss, goal.p99) if goal else (0, 0, 0))
        ]
        rows.append((
            one.scene, one.process, f"{one.cpu_percent:.2f}{limits[0]}", f"{one.rss_mib:.1f}{limits[1]}",
            f"{one.calls_per_second:.0f}", f"{one.median_ms:.2f}", f"{one.p99_ms:.2f}{limits[2]}",
            f"{one.start_seconds:.2f}", str(one.series), f"{one.page_bytes / 1000:.0f}",
            "" if one.skipped != one.skipped else f"{one.skipped:.0f}",
            f"{one.load:.1f}",
        ))  # fmt: skip
    return aligned(rows)


def summary(command: str) -> str:
    """Date, machine and command."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "",
    )
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, `{command}`: {os.cpu_count()} cores ({model}), Python"
        f" {platform.python_version()}. Goals in brackets. With a load above the number of cores, other processes were"
        " running: latencies are then those of the queue."
    )


def document(figures: Sequence[Figures], command: str) -> dict[str, Any]:
    """For ``--json``."""
    return {"summary": summary(command), "figures": [asdict(one) for one in figures]}


def write(figures: Sequence[Figures], command: str) -> None:
    """Put the table into docs/performance.md."""
    text = DOCS.read_text(encoding="utf-8")
    begin, end = "<!-- bench: begin -->", "<!-- bench: end -->"
    start, until = text.index(begin) + len(begin), text.index(end)
    lines = "\n".join([summary(command), "", *table(figures)])
    DOCS.write_text(f"{text[:start]}\n{lines}\n{text[until:]}", encoding="utf-8")
