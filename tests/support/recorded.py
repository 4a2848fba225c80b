"""A real Prometheus with a day of samples, and the project's rules evaluated over it as it would have done at the time.

Samples are written remotely, hour by hour, with the marks of series that have gone. The recording rules are asked as range
queries, one depth after the other (a rule that reads another rule's series must find it), and what they bring is written
back. Alerts are evaluated here, with their ``for``, into ``ALERTS``.

``python -m support.recorded`` serves the day of :mod:`support.fleetday` until it is interrupted: to view dashboards.
"""

from __future__ import annotations

import json
import math
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grafana.rules import HOUR_RECORDED

from support import remotewrite
from support.ruletests import written_groups
from support.samples import Labels, Samples

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
def serving(tools: Path, port: int = 0) -> Iterator[Prometheus]:
    """An empty Prometheus that takes samples of any time."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
        port = probe.getsockname()[1]
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        config = Path(folder) / "prometheus.yaml"
        config.write_text(
            "global: {scrape_interval: 1m}\nstorage: {tsdb: {out_of_order_time_window: 3650d}}\n", encoding="utf-8"
        )
        process = subprocess.Popen(
            [
                tools / "prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/data",
                "--storage.tsdb.retention.time=100y", "--web.enable-remote-write-receiver",
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


def fill(server: Prometheus, samples: Samples) -> None:
    """Everything that was scraped."""
    instants = [series.times[0] for metric in samples.metrics.values() for series in metric.values()]
    begin = min(instants)
    end = max(series.times[-1] for metric in samples.metrics.values() for series in metric.values())
    for hour in range(begin - begin % 3600, end + 1, 3600):
        remotewrite.write(server.url, _hour(samples, hour))


def _hour(samples: Samples, hour: int) -> Iterator[tuple[str, Labels, list[tuple[int, float | None]]]]:
    for metric, by_labels in samples.metrics.items():
        for who, series in by_labels.items():
            times, values = series.within(hour + 3599, 3600)
            marks: list[tuple[int, float | None]] = [(at, None) for at in series.gone if hour <= at < hour + 3600]
            marks.extend(zip(times, values, strict=True))
            if marks:
                yield metric, who, sorted(marks, key=lambda sample: sample[0])


def record(server: Prometheus, start: int, end: int, step: int = 60) -> None:
    """The recording rules, over a part of the time. Rules of hours are evaluated at full hours alone: what else keeps them
    from recording twice, the mark of the last one, is left out."""
    groups = [group for group in written_groups() if "record" in group["rules"][0]]
    for depth in depths(groups):
        for rule in depth:
            if rule["record"].endswith(":sum1h"):
                first = start + -start % 3600
                remotewrite.write(server.url, list(_rule_rows(server, rule, first, end, 3600)))
            elif rule["record"] != HOUR_RECORDED:
                remotewrite.write(server.url, list(_rule_rows(server, rule, start, end, step)))


def _rule_rows(
    server: Prometheus, rule: dict[str, Any], start: int, end: int, step: int
) -> Iterator[tuple[str, Labels, list[tuple[int, float | None]]]]:
    for labels, samples in server.between(rule["expr"], start, end, step):
        kept = {name: value for name, value in labels.items() if name != "__name__"} | rule.get("labels", {})
        who = tuple(sorted((name, str(value)) for name, value in kept.items()))
        yield rule["record"], who, _marked([(int(at), float(value)) for at, value in samples], end, step)


def _marked(samples: list[tuple[int, float]], end: int, step: int) -> list[tuple[int, float | None]]:
    """The samples of a rule, with the mark that Prometheus sets where its series is gone at the next evaluation."""
    marked: list[tuple[int, float | None]] = []
    for (at, value), (later, _) in zip(samples, [*samples[1:], (end + 2 * step, 0.0)], strict=True):
        marked.append((at, value))
        if later > at + step and at + step <= end:
            marked.append((at + step, None))
    return marked


def depths(groups: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The rules in layers: what a layer reads is in the layers before it. A rule that reads its own record (a total of the
    parts beside it) comes after the rules that record the parts."""
    rules = [rule for group in groups for rule in group["rules"]]
    names = {rule["record"] for rule in rules}
    reads = [{name for name in names if re.search(rf"(?<![\w:]){name}(?![\w:])", rule["expr"])} for rule in rules]
    waiting = list(range(len(rules)))
    layers: list[list[dict[str, Any]]] = []
    while waiting:
        missing = {rules[number]["record"] for number in waiting}
        parts = {rules[number]["record"] for number in waiting if rules[number]["record"] not in reads[number]}
        ready = [
            number
            for number in waiting
            if not (reads[number] - {rules[number]["record"]}) & missing
            and (rules[number]["record"] not in reads[number] or rules[number]["record"] not in parts)
        ]
        assert ready, f"rules read one another in a circle: {sorted(missing)}"
        layers.append([rules[number] for number in ready])
        waiting = [number for number in waiting if number not in ready]
    return layers


def alerts(server: Prometheus, start: int, end: int, step: int = 60) -> None:
    """``ALERTS`` of all alerting rules: pending, and firing once ``for`` is over."""
    for group in written_groups():
        for rule in group["rules"]:
            if "alert" in rule:
                remotewrite.write(server.url, list(_alert_rows(server, rule, start, end, step)))


def _alert_rows(
    server: Prometheus, rule: dict[str, Any], start: int, end: int, step: int
) -> Iterator[tuple[str, Labels, list[tuple[int, float | None]]]]:
    hold = rule.get("for", "0s")
    seconds = int(hold[:-1]) * UNITS[hold[-1]]
    for labels, samples in server.between(rule["expr"], start, end, step):
        kept = {name: value for name, value in labels.items() if name != "__name__"} | rule["labels"]
        phases: dict[str, list[tuple[int, float]]] = {"pending": [], "firing": []}
        since = before = -math.inf
        for instant in (int(at) for at, _ in samples):
            since = since if instant - before <= step else instant
            before = instant
            phases["firing" if instant - since >= seconds else "pending"].append((instant, 1.0))
        for state, of_state in phases.items():
            if of_state:
                who = {"alertname": rule["alert"], "alertstate": state, **kept}
                yield "ALERTS", tuple(sorted(who.items())), _marked(of_state, end, step)


def main() -> None:
    """Serve the day, its rules and alerts, on a port."""
    from support import fleetday, fleetrun
    from support.realparts import prometheus_dir

    port = int(sys.argv[1]) if len(sys.argv) > 1 else 9090
    with serving(prometheus_dir("3"), port) as server:
        fill(server, fleetrun.live())
        record(server, fleetday.START, fleetday.END)
        alerts(server, fleetday.START, fleetday.END)
        print(
            f"{server.url} has the day before {time.strftime('%Y-%m-%dT%H:%MZ', time.gmtime(fleetday.END))}", flush=True
        )
        time.sleep(86400)


if __name__ == "__main__":
    main()
