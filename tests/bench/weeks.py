"""Every dashboard over weeks of a fleet, in a real Prometheus: ``make bench ARGS='--scene weeks --nodes 1000 --days 30'``.

Two nodes of 8 GPUs and 4 servers are run through the project's rules; every series that comes out, of the exporter and of
the rules, is then multiplied to so many nodes and written for so many days, as often as it is recorded. The series that no
dashboard reads over its range are written for the last hour only; queries that read one of them over more are listed, and
their seconds do not count as measured. Printed: seconds of all queries of each dashboard, one after the other, as Grafana
asks them (all variables *All*; dashboards of one node or server at a time have one, and so has Measuring).
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.fleet import ROOT, Fleet, await_ready, free_port
from support import recorded, remotewrite
from support.realparts import prometheus_dir
from support.recorded import Prometheus
from support.samples import Labels

STEP, LATELY = 60, 3900
"""Seconds between scrapes and evaluations, and how much of the series is written that no dashboard reads over its range."""
BATCH = 4000
"""Series a request."""
SLICE = 8 * 3600
"""Seconds that are written at a time: Prometheus takes samples that are older than its newest by less than half a block."""
ONE_NODE = ("tpw-measuring",)
"""Dashboards that read the counters: over weeks of a fleet, a node has to be chosen."""
POINTS = 900
"""Points of a curve: the pixels of a panel."""
LOCAL = ("instance", "server", "uuid")
Template = tuple[str, dict[str, str], float]


def templates() -> list[Template]:
    """(metric, labels, value) of every series of two nodes, exposed or recorded."""
    fleet = Fleet(2, STEP, 1.2)
    with recorded.serving(prometheus_dir("3")) as server:
        end = int(time.time()) // 3600 * 3600
        fleet.write(server.url, end - 4500, end + STEP)
        recorded.record(server, end - 600, end)
        found = server.get("query", query='last_over_time({__name__=~".+"}[5m])', time=str(end))["result"]
        return [(row["metric"].pop("__name__"), row["metric"], float(row["value"][1])) for row in found]


def wide(name: str) -> bool:
    """Whether a series is written for all of the time on all nodes."""
    return name.startswith("cluster:") or name.endswith(":sum1h")


def measure(nodes: int, days: float) -> None:
    """Load one size of fleet and print what each dashboard takes."""
    known = templates()
    end = int(time.time()) // 3600 * 3600
    with tempfile.TemporaryDirectory() as folder, _prometheus(Path(folder)) as server:
        begun = time.monotonic()
        count = _load(server, known, nodes, end, int(days * 86400))
        print(f"{nodes} nodes, {days:g} days: {count / 1e6:.1f} million samples in {time.monotonic() - begun:.0f} s")
        _settle(server)
        for path in sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json")):
            _dashboard(server, json.loads(path.read_text(encoding="utf-8")), end, int(days * 86400))


def _load(server: Prometheus, known: list[Template], nodes: int, end: int, seconds: int) -> int:
    first = {labels["instance"] for _, labels, _ in known if "instance" in labels}
    one = min(first)
    mine = [row for row in known if row[1].get("instance", one) == one and row[1].get("server", "-0").endswith("-0")]
    count = 0
    for at in range(end - seconds, end - LATELY, SLICE):
        until = min(at + SLICE, end - LATELY)
        count += _write(server, _rows(mine, [0], at, until, lambda name: not name.endswith(":sum1h")))
        count += _write(server, _rows(mine, range(nodes), at, until, lambda name: name.endswith(":sum1h")))
    return count + _write(server, _rows(mine, range(nodes), end - LATELY, end + 1, lambda name: True))


def _rows(
    known: list[Template], nodes: Any, begin: int, end: int, chosen: Any
) -> Iterator[tuple[str, Labels, list[tuple[int, float | None]]]]:
    for name, labels, value in known:
        if not chosen(name):
            continue
        step = 3600 if name.endswith(":sum1h") else STEP
        times = range(begin + -begin % step, end, step)
        gain = 1.0 if name.endswith("_total") else 0.0
        samples: list[tuple[int, float | None]] = [(at, value + gain * (at % 10**8)) for at in times]
        for node in nodes if labels.keys() & set(LOCAL) else nodes[:1]:
            who = {
                key: re.sub(r"-\d+(?=$|:)", f"-{node:04d}" if key == "instance" else f"-{node}", text)
                if key in LOCAL
                else text
                for key, text in labels.items()
            }
            if samples:
                yield name, tuple(sorted(who.items())), samples


def _write(server: Prometheus, rows: Iterator[tuple[str, Labels, list[tuple[int, float | None]]]]) -> int:
    batch: list[Any] = []
    count = 0
    for row in rows:
        batch.append(row)
        count += len(row[2])
        if sum(len(one[2]) for one in batch[:1]) * len(batch) > 400_000 or len(batch) >= BATCH:
            remotewrite.write(server.url, batch)
            batch = []
    if batch:
        remotewrite.write(server.url, batch)
    return count


def _settle(server: Prometheus) -> None:
    """Wait until what was written is in blocks, as it is after weeks."""
    before = -1.0
    while True:
        done = _number(server, "prometheus_tsdb_compactions_total")
        if done == before:
            return
        before = done
        time.sleep(75)


def _dashboard(server: Prometheus, document: dict[str, Any], end: int, seconds: int) -> None:
    taken: list[tuple[float, str]] = []
    before = _number(server, "process_cpu_seconds_total")
    unloaded: list[str] = []
    empty = 0
    for panel in document["panels"]:
        for target in panel.get("targets", ()):
            single = [
                v["name"] for v in document["templating"]["list"] if v["type"] == "query" and not v.get("includeAll")
            ]
            single += ["instance"] if document["uid"] in ONE_NODE else []
            expr = _filled(target["expr"], target.get("interval"), seconds, single)
            window = rf"(?:\[{seconds}s|\[7d|\[30d)" if target.get("instant") else ""
            names = re.findall(rf"(?<![\w:])(\w+:tpw_[\w:]+|tpw_\w+)(?:\{{[^}}]*\}})?{window}", expr)
            if not all(map(wide, names)) and not {"instance", "server"} & set(single):
                unloaded.append(panel["title"])
                continue
            begun = time.perf_counter()
            if target.get("instant"):
                found: list[Any] = server.instant(expr, end)
            else:
                step = max(_seconds(target.get("interval")), 60, seconds // POINTS // 60 * 60)
                found = server.between(expr, end - seconds, end, step)
            taken.append((time.perf_counter() - begun, f"{panel['title']} {target['refId']}"))
            empty += not found
    taken.sort(reverse=True)
    slowest = "; ".join(f"{title} {one:.2f} s" for one, title in taken[:4])
    total = sum(one for one, _ in taken)
    spent = _number(server, "process_cpu_seconds_total") - before
    print(
        f"{document['title']}: {len(taken)} queries ({empty} without data) in {total:.1f} s, {spent:.1f} s of CPU; "
        f"slowest: {slowest}"
    )
    if unloaded:
        print(f"    not measured, they read what is not loaded: {', '.join(sorted(set(unloaded)))}")


def _number(server: Prometheus, metric: str) -> float:
    """One of Prometheus' own numbers."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=60) as answer:
        page = answer.read().decode()
    return float(re.findall(rf"^{metric} (\S+)", page, re.MULTILINE)[0])


def _seconds(step: str | None) -> int:
    return int(step[:-1]) * recorded.UNITS[step[-1]] if step else 60


def _filled(expr: str, step: str | None, seconds: int, single: list[str]) -> str:
    interval = max(_seconds(step), seconds // POINTS // 60 * 60, 60)
    values: dict[str, Any] = {
        "kind": "output", "scope": "full", "boundary": "tpw_server_energy_joules_total", "currency": "EUR",
        "reference": "api-70b", "__range": f"{seconds}s", "__range_s": str(seconds), "__interval": f"{interval}s",
        "__rate_interval": f"{max(240, interval + 60)}s", "__all": "$__all",
    }  # fmt: skip
    values |= {"instance": "node-0000:.+"} if "instance" in single else {}
    values |= {"server": ".+-0"} if "server" in single else {}
    expr = re.sub(r"\$\{(\w+):text\}", lambda m: {"kind": "output", "scope": "full", "boundary": "gpu"}[m[1]], expr)
    return re.sub(r"\$\{?(\w+)\}?", lambda m: values.get(m[1], ".*"), expr)


@contextmanager
def _prometheus(folder: Path) -> Iterator[Prometheus]:
    """One with blocks of a day."""
    config = folder / "prometheus.yaml"
    config.write_text("global: {scrape_interval: 1m}\n", encoding="utf-8")
    port = free_port()
    process = subprocess.Popen(
        [
            prometheus_dir("3") / "prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/data",
            "--storage.tsdb.retention.time=10y", "--web.enable-remote-write-receiver", "--query.timeout=10m",
            "--storage.tsdb.min-block-duration=1d", "--storage.tsdb.max-block-duration=8d",
            f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        server = Prometheus(f"http://127.0.0.1:{port}")
        await_ready(server)
        yield server
    finally:
        process.terminate()
        process.wait(60)
