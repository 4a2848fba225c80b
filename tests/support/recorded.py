"""A real Prometheus over made-up days, with the project's rules evaluated over them as it would have done at the time.

Blocks are written by promtool, first from the days' samples, then from the recording rules, one depth after the other: a
rule that reads another rule's series must find it. Alerts are evaluated here, with their ``for``, into ``ALERTS``.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.fleetday import Fleet
from support.ruletests import written_groups

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Prometheus:
    """A Prometheus that answers queries on a loopback port."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer. Raises AssertionError with Prometheus' own words."""
        body = urllib.parse.urlencode(parameters).encode()
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}", body, timeout=60) as answer:
                document = json.load(answer)
        except urllib.error.HTTPError as error:
            document = json.loads(error.read() or b"{}")
        assert document.get("status") == "success", f"{document.get('error')}, in: {parameters.get('query')}"
        return document["data"]

    def instant(self, query: str, at: float) -> list[tuple[dict[str, str], float]]:
        """(labels, value) of each series at an instant; a scalar is one without labels."""
        data = self.get("query", query=query, time=str(at))
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(row["metric"], float(row["value"][1])) for row in data["result"]]

    def value(self, query: str, at: float) -> float:
        """The value of the one series there is."""
        rows = self.instant(query, at)
        assert len(rows) == 1, f"{len(rows)} series instead of one: {query}"
        return rows[0][1]

    def between(
        self, query: str, start: float, end: float, step: int
    ) -> list[tuple[dict[str, str], list[tuple[float, str]]]]:
        """[(labels, samples)] of the series over a time."""
        data = self.get("query_range", query=query, start=str(start), end=str(end), step=str(step))
        return [(row["metric"], row["values"]) for row in data["result"]]


@contextmanager
def serving(tools: Path, data: Path) -> Iterator[Prometheus]:
    """Prometheus over the blocks of a directory."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = data.parent / "prometheus.yaml"
    config.write_text("global: {scrape_interval: 1m}\n")
    process = subprocess.Popen(
        [
            tools / "prometheus", f"--config.file={config}", f"--storage.tsdb.path={data}",
            "--storage.tsdb.retention.time=100y",
            "--storage.tsdb.min-block-duration=2h", "--storage.tsdb.max-block-duration=2h",
            f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        server = Prometheus(f"http://127.0.0.1:{port}")
        _wait(server, process)
        yield server
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _wait(server: Prometheus, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"Prometheus ended: {process.communicate()[1].decode()}")
        try:
            with urllib.request.urlopen(f"{server.url}/-/ready", timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError("Prometheus was not ready after a minute")


def import_fleet(tools: Path, fleet: Fleet, data: Path) -> None:
    """The days' samples as blocks."""
    text = data.parent / "fleet.om"
    with text.open("w", encoding="utf-8") as out:
        fleet.write(out)
    _promtool(tools, "create-blocks-from", "openmetrics", str(text), str(data))
    text.unlink()


def record(tools: Path, data: Path, start: int, end: int, step: int = 60) -> None:
    """The recording rules, over a part of the time.

    As ``promtool tsdb create-blocks-from rules`` does, by range queries; that writes a block per rule and two hours,
    thousands of which Prometheus is slow to open, so the samples of a layer are written together.
    """
    groups = [group for group in written_groups() if "record" in group["rules"][0]]
    for number, depth in enumerate(depths(groups)):
        text = data.parent / f"depth{number}.om"
        with serving(tools, data) as server, text.open("w", encoding="utf-8") as out:
            names = dict.fromkeys(rule["record"] for rule in depth)
            for name in names:
                out.write(f"# TYPE {name} gauge\n")
                for rule in depth:
                    if rule["record"] == name:
                        out.writelines(_rule_samples(server, rule, start, end, step))
            out.write("# EOF\n")
        _promtool(tools, "create-blocks-from", "openmetrics", str(text), str(data))
        text.unlink()


def _rule_samples(server: Prometheus, rule: dict[str, Any], start: int, end: int, step: int) -> Iterator[str]:
    for labels, samples in server.between(rule["expr"], start, end, step):
        kept = {key: value for key, value in labels.items() if key != "__name__"} | rule.get("labels", {})
        head = _series(rule["record"], kept)
        yield from (f"{head} {value} {int(at)}\n" for at, value in samples)


def _series(name: str, labels: dict[str, str]) -> str:
    inner = ",".join(f'{key}="{value}"' for key, value in labels.items() if value)
    return f"{name}{{{inner}}}"


def depths(groups: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The rules in layers: what a layer reads is in the layers before it."""
    rules = [rule for group in groups for rule in group["rules"]]
    reads = {rule["record"]: set() for rule in rules}
    for rule in rules:
        reads[rule["record"]] |= {name for name in reads if name in rule["expr"] and name != rule["record"]}
    layers: list[list[dict[str, Any]]] = []
    done: set[str] = set()
    while len(done) < len(reads):
        ready = {name for name, needs in reads.items() if name not in done and needs <= done}
        assert ready, f"rules read one another in a circle: {sorted(set(reads) - done)}"
        layers.append([rule for rule in rules if rule["record"] in ready])
        done |= ready
    return layers


def alerts(tools: Path, data: Path, start: int, end: int, step: int = 60) -> None:
    """``ALERTS`` of all alerting rules: pending, and firing once ``for`` is over."""
    lines = ["# TYPE ALERTS gauge"]
    with serving(tools, data) as server:
        for group in written_groups():
            for rule in group["rules"]:
                if "alert" in rule:
                    lines.extend(_alert_samples(server, rule, start, end, step))
    text = data.parent / "alerts.om"
    text.write_text("\n".join([*lines, "# EOF\n"]), encoding="utf-8")
    if len(lines) > 1:
        _promtool(tools, "create-blocks-from", "openmetrics", str(text), str(data))


def _alert_samples(server: Prometheus, rule: dict[str, Any], start: int, end: int, step: int) -> Iterator[str]:
    hold = rule.get("for", "0s")
    seconds = int(hold[:-1]) * UNITS[hold[-1]]
    for labels, samples in server.between(rule["expr"], start, end, step):
        kept = {key: value for key, value in labels.items() if key != "__name__"} | rule["labels"]
        since = before = 0.0
        for at, _ in samples:
            since = since if since and at - before <= 1.5 * step else at
            before = at
            state = "firing" if at - since >= seconds else "pending"
            yield _series("ALERTS", {"alertname": rule["alert"], "alertstate": state, **kept}) + f" 1 {int(at)}"


def _promtool(tools: Path, *arguments: str) -> None:
    done = subprocess.run([tools / "promtool", "tsdb", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
