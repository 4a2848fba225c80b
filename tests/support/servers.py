"""Real servers as child processes: on a loopback port of their own, ready when they answer, gone when the test is.

What a server prints goes to a file under ``build/e2e-logs`` that stays there until the next run; the end of it is part
of the message when the server does not come up.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

LOGS = Path(__file__).resolve().parents[2] / "build" / "e2e-logs"
STOP_SECONDS = 5.0
T = TypeVar("T")


def free_port() -> int:
    """A loopback port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class HttpStatusError(OSError):
    """An answer of 400 or above."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.body = body


def http_request(
    url: str,
    body: bytes | None = None,
    *,
    method: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 10.0,
) -> bytes:
    """The body of the answer. Raises HttpStatusError, or another OSError where there is no answer."""
    request = urllib.request.Request(url, body, dict(headers or {}), method=method)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            raise HttpStatusError(error.code, error.read().decode(errors="replace")) from None


def http_get(url: str, *, timeout: float = 10.0, headers: Mapping[str, str] | None = None) -> bytes:
    """The body. Raises HttpStatusError for 4xx and 5xx."""
    return http_request(url, timeout=timeout, headers=headers)


def http_post_json(url: str, body: object, *, timeout: float = 120.0, headers: Mapping[str, str] | None = None) -> Any:
    """The JSON that answers the JSON. Raises HttpStatusError for 4xx and 5xx."""
    headers = {"Content-Type": "application/json", **(headers or {})}
    return json.loads(http_request(url, json.dumps(body).encode(), headers=headers, timeout=timeout))


PATIENCE = 60.0
"""Seconds until what a test waits for counts as missing: patience for a busy machine, no promise of the product."""


def wait_until(read: Callable[[], T], what: str, *, timeout: float = PATIENCE, every: float = 0.1) -> T:
    """The first true value of ``read``; AssertionError with ``what`` and the last value when there is none in time.

    OSError (refused, 503, ...) counts as "not yet".
    """
    deadline = time.monotonic() + timeout
    last: object = None
    while time.monotonic() < deadline:
        try:
            value = read()
        except OSError as error:
            last = error
        else:
            if value:
                return value
            last = value
        time.sleep(every)
    raise AssertionError(f"{what}: not within {timeout:g} s; last seen: {last!r}")


class Child:
    """One process of ours: started by a command, ended by its pid."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        directory: Path | None = None,
    ) -> None:
        LOGS.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.log = LOGS / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', name)}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=directory,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def tail(self, lines: int = 30) -> str:
        """The end of what it printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def wait_ready(self, url: str, *, timeout: float = PATIENCE) -> None:
        """Until ``url`` answers 2xx. AssertionError with the log when it ends before or takes too long."""

        def answers() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"{self.name} ended with {self.process.returncode}:\n{self.tail()}")
            http_get(url, timeout=2.0)
            return True

        try:
            wait_until(answers, f"{self.name} at {url}", timeout=timeout)
        except AssertionError as error:
            self.stop()
            raise AssertionError(f"{error}\n{self.tail()}") from None

    def stop(self, *, timeout: float = STOP_SECONDS) -> int:
        """TERM, and KILL where that does not do. Returns its exit code; harmless when it has ended."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.wait()

    def kill(self) -> None:
        """Send SIGKILL: the process cannot clean up."""
        self.process.kill()
        self.process.wait()


@dataclass(frozen=True, slots=True)
class Llama:
    """A running llama-server."""

    child: Child
    url: str
    model: str = "smollm"

    def complete(self, prompt: str, tokens: int, **options: object) -> dict[str, int]:
        """Generate exactly ``tokens`` tokens (end of text is ignored) and return the answer's ``usage``."""
        body = {"prompt": prompt, "max_tokens": tokens, "ignore_eos": True, **options}
        return dict(http_post_json(f"{self.url}/v1/completions", body)["usage"])

    def stream(self, prompt: str, tokens: int, **options: object) -> Iterator[bytes]:
        """The lines of a streamed completion as they come. Closing the iterator drops the connection."""
        body = {"prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "stream": True, **options}
        request = urllib.request.Request(
            f"{self.url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            for line in answer:
                if line.startswith(b"data: "):
                    yield line[6:].strip()

    def metrics(self) -> str:
        """Its page."""
        return http_get(f"{self.url}/metrics").decode()


@dataclass(frozen=True, slots=True)
class Sample:
    """One series of an answer: an instant value, or (time, value) pairs of a range."""

    labels: Mapping[str, str]
    value: float
    values: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running Prometheus."""

    child: Child
    url: str
    directory: Path

    def query(self, expr: str) -> list[Sample]:
        """Instant query. Raises HttpStatusError for what Prometheus does not accept."""
        return [
            Sample(series["metric"], float(series["value"][1]))
            for series in self._ask("query", {"query": expr})["result"]
        ]

    def at(self, expr: str, instant: float) -> list[Sample]:
        """Instant query of another moment than now."""
        answer = self._ask("query", {"query": expr, "time": instant})["result"]
        return [Sample(series["metric"], float(series["value"][1])) for series in answer]

    def value(self, expr: str) -> float:
        """The one value of an expression; AssertionError when there is none or more than one."""
        samples = self.query(expr)
        assert len(samples) == 1, f"{expr}: {samples}"
        return samples[0].value

    def query_range(self, expr: str, start: float, end: float, step: float = 1.0) -> list[Sample]:
        """Range query, Unix seconds."""
        answer = self._ask("query_range", {"query": expr, "start": start, "end": end, "step": step})
        ranges = [
            (series["metric"], tuple((float(at), float(value)) for at, value in series["values"]))
            for series in answer["result"]
        ]
        return [Sample(labels, values[-1][1], values) for labels, values in ranges]

    def points(self, selector: str, at: float) -> list[Sample]:
        """The samples as they were scraped or recorded, of a selector with a range (``name[5m]``) that ends at ``at``."""
        series = self._ask("query", {"query": selector, "time": at})["result"]
        return [
            Sample(one["metric"], float(one["values"][-1][1]), tuple((float(t), float(v)) for t, v in one["values"]))
            for one in series
        ]

    def wait_for(self, expr: str, *, timeout: float = 30.0) -> list[Sample]:
        """The first non-empty answer."""
        return wait_until(lambda: self.query(expr), expr, timeout=timeout, every=0.25)

    def alerts(self) -> list[dict[str, Any]]:
        """Pending and firing alerts."""
        return list(self._ask("alerts", {})["alerts"])

    def reload(self) -> None:
        """Read configuration and rules again."""
        http_request(f"{self.url}/-/reload", method="POST")

    def _ask(self, what: str, parameters: Mapping[str, object]) -> dict[str, Any]:
        query = urllib.parse.urlencode(parameters)
        answer = json.loads(http_get(f"{self.url}/api/v1/{what}?{query}"))
        return dict(answer["data"])


@dataclass(frozen=True, slots=True)
class Exporter:
    """A running tpw-exporter."""

    child: Child
    url: str
    state: Path

    def metrics(self) -> str:
        """Its page."""
        return http_get(f"{self.url}/metrics").decode()

    def status(self) -> dict[str, Any]:
        """Its snapshot."""
        return dict(json.loads(http_get(f"{self.url}/api/v1/status")))


def exporter_command(*arguments: str) -> list[str]:
    """The installed command of this environment; it imports what the tests import (the wheel under ``make test``)."""
    return [str(Path(sys.executable).with_name("tpw-exporter")), *arguments]


def clean_environment(**variables: str) -> dict[str, str]:
    """The environment without settings of ours that a developer may have exported, plus the given ones."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TPW_", "FAKENVML_"))}
    return {**kept, **variables}
