"""The cost of a fleet in Prometheus: recording rules and the dashboards' queries over many nodes.

Pages of 8 GPUs and 4 servers, as the exporter renders them, are multiplied to so many nodes and written remotely into a
real Prometheus: an hour (or more) and some minutes of the past at once, then live for some minutes, with the project's
rules loaded, so that they are evaluated. Printed: seconds per rule group beside its interval, the slowest queries of the
dashboards Overview and Fleet, and Prometheus' own memory. No two nodes share a server, which is the worst
case of series. Windows of a day and a week cover only what was written: ``--hours 24`` fills those of a day.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support import remotewrite
from support.realparts import prometheus_dir
from support.recorded import Prometheus
from support.samples import Labels
from support.snapshots import EPOCH, fleet_snapshot
from tpw.exposition.catalogue import Kind
from tpw.exposition.families import families

ROOT = Path(__file__).resolve().parents[2]
BEFORE_SECONDS = 300
"""Of history besides the hours asked for."""
LIVE_SECONDS = 200
NODES_PER_REQUEST = 20
DASHBOARDS = ("overview", "fleet")
RANGE = 3600
JOB = "tpw-exporter"


def _templates() -> list[tuple[str, Labels, float, float]]:
    """(metric, labels, value, gain per second) of every series of one node."""
    first, later = (
        {
            (family.metric, labels): value
            for family in families(fleet_snapshot(8, 4, tick))
            for labels, value in family.samples
        }
        for tick in (100, 200)
    )
    rows: list[tuple[str, Labels, float, float]] = [("up", (), 1.0, 0.0)]
    for (metric, values), value in first.items():
        gain = (later.get((metric, values), value) - value) / 100 if metric.kind is Kind.COUNTER else 0.0
        rows.append((metric.name, tuple(zip(metric.labels, values, strict=True)), value, gain))
    return rows


class Fleet:
    """The series of all nodes. Values are the same on each: what they are does not matter to the cost."""

    def __init__(self, nodes: int, interval: int, hours: float) -> None:
        self.nodes, self.interval = nodes, interval
        self.history = int(hours * 3600) + BEFORE_SECONDS
        self.written = 0
        """Up to when."""
        self._rows = _templates()
        self._began = int(time.time()) - self.history

    @property
    def series(self) -> int:
        """How many there are."""
        return self.nodes * len(self._rows)

    def write(self, url: str, begin: int, end: int) -> int:
        """Send the samples of [begin, end). Returns how many."""
        times = range(begin - begin % self.interval + self.interval, end, self.interval)
        samples = [[(at, self._value(name, value, gain, at)) for at in times] for name, _, value, gain in self._rows]
        for first in range(0, self.nodes, NODES_PER_REQUEST):
            remotewrite.write(url, self._nodes(range(first, min(first + NODES_PER_REQUEST, self.nodes)), samples))
        return self.series * len(times)

    def _value(self, name: str, value: float, gain: float, at: int) -> float:
        if name.endswith("timestamp_seconds"):
            return value - EPOCH - 3700 + at
        return value + gain * (at - self._began)

    def _nodes(
        self, nodes: range, samples: list[list[tuple[int, float]]]
    ) -> Iterator[tuple[str, Labels, list[tuple[int, float | None]]]]:
        for node in nodes:
            for (name, labels, _, _), of_row in zip(self._rows, samples, strict=True):
                own = tuple(
                    (label, f"{value}-{node}" if label in ("uuid", "server") else value) for label, value in labels
                )
                who = (*own, ("job", JOB), ("instance", f"node-{node:04d}:10101"))
                yield name, tuple(pair for pair in who if pair[1]), list(of_row)


def measure(nodes: int, interval: int, hours: float) -> None:
    """Measure one size of fleet with so many hours of history, and print it."""
    fleet = Fleet(nodes, interval, hours)
    tools = prometheus_dir("3")
    with tempfile.TemporaryDirectory() as folder:
        config: dict[str, Any] = {
            "global": {"evaluation_interval": "1m"},
            "storage": {"tsdb": {"out_of_order_time_window": "1h"}},
        }
        path = Path(folder) / "prometheus.yaml"
        path.write_text(json.dumps(config), encoding="utf-8")
        port = free_port()
        process = subprocess.Popen(
            [
                tools / "prometheus", f"--config.file={path}", f"--storage.tsdb.path={folder}/data",
                "--web.enable-remote-write-receiver", f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
                "--query.timeout=10m",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            server = Prometheus(f"http://127.0.0.1:{port}")
            await_ready(server)
            _past(fleet, server)
            # Only now: what a rule records is of now, and the past could not be written any more.
            config["rule_files"] = [str(ROOT / "deploy/prometheus/tpw-*.rules.yaml")]
            path.write_text(json.dumps(config), encoding="utf-8")
            process.send_signal(signal.SIGHUP)
            _run(fleet, server)
        finally:
            process.terminate()
            process.wait(60)


def _past(fleet: Fleet, server: Prometheus) -> None:
    begun = time.monotonic()
    upto = int(time.time())
    count = 0
    for at in range(upto - fleet.history, upto, 600):
        count += fleet.write(server.url, at, min(at + 600, upto))
    took = time.monotonic() - begun
    print(
        f"{fleet.nodes} nodes, {fleet.series} series, a sample every {fleet.interval} s, {fleet.history / 3600:.1f} h: "
        f"{count / 1e6:.1f} million samples written in {took:.0f} s"
    )
    fleet.written = upto


def _run(fleet: Fleet, server: Prometheus) -> None:
    upto = fleet.written
    until = time.monotonic() + LIVE_SECONDS
    most: dict[str, float] = {}
    while time.monotonic() < until:
        now = int(time.time())
        fleet.write(server.url, upto, now)
        upto = now
        for group, seconds in _groups(server).items():
            most[group] = max(most.get(group, 0.0), seconds)
        time.sleep(max(0.0, fleet.interval - (time.time() - now)))
    own = _own(server)
    intervals = own["prometheus_rule_group_interval_seconds"]
    print(f"{'rule group':<16}{'seconds':>9}{'interval':>10}")
    for group, seconds in most.items():
        print(f"{group:<16}{seconds:>9.2f}{intervals[group]:>10.0f}")
    missed = sum(own["prometheus_rule_group_iterations_missed_total"].values())
    memory = own["process_resident_memory_bytes"][""]
    print(f"evaluations missed: {missed:.0f}; resident memory of Prometheus: {memory / 2**30:.1f} GiB")
    for dashboard in DASHBOARDS:
        times = sorted(_queries(server, dashboard, upto), reverse=True)
        print(
            f"{dashboard}: {len(times)} queries of the last hour in {sum(seconds for seconds, _ in times):.1f} s; slowest: "
            + "; ".join(f"{title} {seconds:.2f} s" for seconds, title in times[:4])
        )


def _groups(server: Prometheus) -> dict[str, float]:
    return {name: value for name, value in _own(server)["prometheus_rule_group_last_duration_seconds"].items() if value}


def _own(server: Prometheus) -> dict[str, dict[str, float]]:
    """Prometheus' own numbers by metric and rule group."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=60) as answer:
        page = answer.read().decode()
    found: dict[str, dict[str, float]] = {}
    for name, labels, value in re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", page, re.MULTILINE):
        group = re.search(r'rule_group="[^"]*;([^"]+)"', labels)
        found.setdefault(name, {})[group.group(1) if group else ""] = float(value)
    return found


def _queries(server: Prometheus, dashboard: str, now: int) -> Iterator[tuple[float, str]]:
    """Seconds and title of every query of a dashboard, as Grafana would ask it for the last hour."""
    document = json.loads(
        (ROOT / "deploy" / "grafana" / "dashboards" / f"{dashboard}.json").read_text(encoding="utf-8")
    )
    for panel in document["panels"]:
        for target in panel.get("targets", ()):
            expr = _filled(target["expr"])
            begun = time.perf_counter()
            if target.get("instant"):
                server.instant(expr, now)
            else:
                server.between(expr, now - RANGE, now, 60)
            yield time.perf_counter() - begun, panel["title"]


def _filled(expr: str) -> str:
    values: dict[str, Any] = {
        "kind": ".+", "scope": ".+", "boundary": "tpw_server_energy_joules_total", "currency": "EUR",
        "reference": "api-70b", "__range": f"{RANGE}s", "__range_s": str(RANGE), "__interval": "1h",
        "__rate_interval": "4m",
    }  # fmt: skip
    expr = re.sub(r"\$\{(\w+):text\}", lambda m: {"kind": "output", "scope": "full", "boundary": "gpu"}[m[1]], expr)
    return re.sub(r"\$\{?(\w+)\}?", lambda m: values.get(m[1], ".*"), expr)


def await_ready(server: Prometheus) -> None:
    """Wait for its start."""
    while True:
        try:
            with urllib.request.urlopen(f"{server.url}/-/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.2)


def free_port() -> int:
    """A port that nothing listens on."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
