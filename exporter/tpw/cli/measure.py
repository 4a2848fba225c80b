"""``tpw-exporter measure``: one account of a run, or of a server at rising concurrency.

It reads a running daemon (``--url``), or the machine itself with a daemon of its own that keeps no books.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from tpw import __version__, logs
from tpw.cli import Setting
from tpw.cli.configuration import configuration, print_problems
from tpw.cli.top import NoAnswerError, fetcher
from tpw.config.problems import ConfigError
from tpw.daemon.daemon import Daemon
from tpw.daemon.persistence import CurrencyError
from tpw.exposition.status import Status, status
from tpw.http.client import Client, Tls
from tpw.measuring.account import BackwardsError, account
from tpw.measuring.load import Load, Shape, served_model
from tpw.measuring.show import point_line, run_lines, svg, sweep_lines
from tpw.measuring.sweep import Plan, Point, StoppedError, best, level
from tpw.model import SourceError
from tpw.settings.times import duration_seconds

Read = Callable[[], Status]

_FIRST_SECONDS = 10.0
"""How long the meters, the servers and the first scan are waited for."""
_SKEW_SECONDS = 1.0
"""Largest difference between the clocks of the daemon and of this process, besides the polling interval."""
_WRITE_SECONDS = 5.0
"""Between two writes of the output file during a run."""
_END_SECONDS = 5.0
"""How long a command may take to end after a signal."""
_LONGEST_REQUEST_SECONDS = 600.0
_LATENCIES = ("ttft", "tpot", "e2e")


def options(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    group = parser.add_argument_group("measure")
    group.add_argument("--duration", metavar="TIME", help="Measure for so long, such as 60s.")
    group.add_argument(
        "--url", default="", help="Address of a running daemon. Default: read this machine, with this configuration."
    )
    group.add_argument("--server", default="", metavar="NAME", help="Account for this server only. Default: all.")
    group.add_argument("--json", action="store_true", help="Print JSON.")
    group.add_argument(
        "--output",
        metavar="FILE",
        help="Also write the JSON to this file, as it grows: a run that is killed leaves it.",
    )
    group.add_argument(
        "--headers-file",
        metavar="FILE",
        help="Headers for the daemon, one `Name: value` per line, such as Authorization.",
    )
    group.add_argument("--ca-file", metavar="FILE", help="CA certificates (PEM) for https, instead of the system's.")
    group.add_argument("words", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="Measure while this command runs.")
    sweep = parser.add_argument_group("measure --sweep", "Drives a server with an OpenAI-compatible API.")
    sweep.add_argument("--sweep", action="store_true", help="Measure the server at rising concurrency.")
    sweep.add_argument("--target", metavar="URL", help="Address of the server's API, such as http://127.0.0.1:8000.")
    sweep.add_argument("--target-headers-file", metavar="FILE", help="Headers for the server.")
    sweep.add_argument("--model", default="", help="Default: the first that the server lists.")
    sweep.add_argument("--concurrency", default="1,2,4,8,16,32,64", metavar="N,N,...", help="Requests in flight.")
    sweep.add_argument("--input-tokens", type=int, default=512, metavar="N", help="Per request, about. Default: 512.")
    sweep.add_argument("--output-tokens", type=int, default=256, metavar="N", help="Per request. Default: 256.")
    sweep.add_argument("--repeat", default="10s", metavar="TIME", help="Length of a repeat. Default: 10s.")
    sweep.add_argument("--repeats", default="3,20", metavar="N,N", help="Fewest and most repeats. Default: 3,20.")
    sweep.add_argument(
        "--tolerance", type=float, default=0.02, help="95 %% bound at which the figures stand. Default: 0.02."
    )
    sweep.add_argument(
        "--targets",
        default="",
        metavar="NAME=TIME,...",
        help="Service level: ttft=2s,tpot=50ms,e2e=30s (p99). Default: slo.",
    )
    sweep.add_argument("--seed", type=int, default=1, help="Of the prompts. Default: 1.")
    sweep.add_argument("--svg", metavar="FILE", help="Draw the curve.")


@dataclass(slots=True)
class _Outcome:
    """What is printed and written. It grows."""

    document: dict[str, Any]
    path: str | None
    lines: Callable[[], Iterable[str]] = field(default=lambda: ())

    def write(self) -> None:
        """Replace the file. Raises OSError."""
        if self.path:
            temporary = f"{self.path}.part"
            Path(temporary).write_text(json.dumps(self.document, indent=2) + "\n", encoding="utf-8")
            os.replace(temporary, self.path)  # noqa: PTH105 - atomic on purpose


class _Ending:
    """SIGINT and SIGTERM end the measurement, not the process."""

    def __init__(self, stack: ExitStack) -> None:
        self.by = ""
        self._event = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, number, signal.signal(number, self._on_signal))

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.by = signal.Signals(number).name
        self._event.set()

    def wait(self, seconds: float) -> bool:
        """Wait so long. Returns whether to end."""
        return self._event.wait(seconds)


class _UsageError(Exception):
    """The options do not fit together. The message names them."""


def run(arguments: argparse.Namespace, setting: Setting) -> int:
    """Exit status 0, also after SIGINT and SIGTERM; 1 if nothing could be measured or the command failed; 2 for options."""
    words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    outcome = _Outcome(
        {
            "version": __version__,
            "complete": False,
            "ended_by": None,
            "readings": arguments.url or "own",
            "problems": [],
        },
        arguments.output,
    )
    with ExitStack() as stack:
        ending = _Ending(stack)
        try:
            measured = _measurement(arguments, words)
            read = _reader(arguments, setting, stack)
            failed = measured(read, outcome, ending)
        except ConfigError as error:
            print_problems(error)
            return 2
        except (_UsageError, ValueError, CurrencyError) as error:
            print(f"tpw-exporter measure: {error}", file=sys.stderr)
            return 2
        except (NoAnswerError, BackwardsError, SourceError, OSError) as error:
            outcome.document["problems"].append(str(error))
            failed = True
        document = outcome.document
        document["ended_by"] = ending.by or None
        document["complete"] = not ending.by and not failed
        with suppress(OSError):
            outcome.write()
    if arguments.json:
        print(json.dumps(document, indent=2))
    else:
        for line in outcome.lines():
            print(line)
        if ending.by:
            print(f"ended by {ending.by}: incomplete")
    for problem in _all_problems(document):
        print(f"tpw-exporter measure: {problem}", file=sys.stderr)
    return 1 if failed else 0


def _all_problems(document: dict[str, Any]) -> list[str]:
    found = list(document["problems"])
    found += (document.get("account") or {}).get("problems", [])
    for one in document.get("points", ()):
        found += [f"concurrency {one['concurrency']}: {problem}" for problem in one["problems"]]
    return list(dict.fromkeys(found))


Measurement = Callable[[Read, _Outcome, _Ending], bool]
"""Measures, and returns whether it failed."""


def _measurement(arguments: argparse.Namespace, words: Sequence[str]) -> Measurement:
    """What the options ask for. Raises _UsageError, ValueError."""
    wanted = [name for name, given in (("--sweep", arguments.sweep), ("--duration", arguments.duration)) if given]
    wanted += ["a command after --"] if words else []
    if len(wanted) != 1:
        raise _UsageError("give one of --duration=TIME, --sweep, and a command after --")
    if words:
        return lambda read, outcome, ending: _command(read, outcome, ending, words, arguments)
    if arguments.sweep:
        return _sweep(arguments)
    seconds = _seconds("--duration", arguments.duration)
    return lambda read, outcome, ending: _duration(read, outcome, ending, seconds, arguments)


def _seconds(name: str, text: str) -> float:
    try:
        seconds = duration_seconds(text)
    except ValueError as error:
        raise _UsageError(f"{name}={text}: {error}") from None
    if seconds <= 0.0:
        raise _UsageError(f"{name}={text}: it must be longer")
    return seconds


# ------------------------------------------------------------------------------------------------------------- readings


def _reader(arguments: argparse.Namespace, setting: Setting, stack: ExitStack) -> Read:
    """A function that returns a status of the moment of its call or later. Raises as the daemon, ConfigError, ValueError,
    SourceError."""
    if arguments.url:
        return _newer(fetcher(arguments.url, headers_file=arguments.headers_file, ca_file=arguments.ca_file))
    config = configuration(setting)
    logs.configure("error", config.log.format)
    daemon = Daemon(config)
    stack.callback(daemon.stop)
    daemon.start()
    deadline = time.monotonic() + _FIRST_SECONDS
    while daemon.awaited() and time.monotonic() < deadline:
        time.sleep(0.02)

    def read() -> Status:
        daemon.tick()
        return status(daemon.snapshot)

    read()  # the servers of the scan are read for the first time
    return read


def _newer(fetch: Read) -> Read:
    def read() -> Status:
        """The first snapshot after the call. Raises NoAnswerError."""
        first = fetch()
        deadline = time.monotonic() + 3.0 * first["interval_seconds"] + 5.0
        while time.monotonic() < deadline:
            time.sleep(min(0.1, first["interval_seconds"] / 10.0))
            found = fetch()
            if found["at"] != first["at"]:
                late = time.time() - found["at"]
                if not -_SKEW_SECONDS < late < _SKEW_SECONDS + found["interval_seconds"]:
                    raise NoAnswerError(f"its clock differs by {late:.1f} s from this machine's: synchronise them")
                return found
        raise NoAnswerError("the daemon publishes no new snapshot; see its /-/healthy")

    return read


# ------------------------------------------------------------------------------------------------------------------ runs


def _account(read: Read, before: Status, outcome: _Outcome, server: str) -> None:
    """Put the account up to now into the outcome."""
    outcome.document["account"] = found = account(before, read(), server)
    outcome.lines = lambda: run_lines(found)
    outcome.write()


def _begin(read: Read, outcome: _Outcome, server: str) -> Status:
    before = read()
    names = [one["name"] for one in before["servers"]]
    if server and server not in names:
        raise _UsageError(f"--server={server}: the servers are {', '.join(names) or 'none'}")
    outcome.write()
    return before


def _duration(read: Read, outcome: _Outcome, ending: _Ending, seconds: float, arguments: argparse.Namespace) -> bool:
    before = _begin(read, outcome, arguments.server)
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0.0:
        if ending.wait(min(left, _WRITE_SECONDS)):
            break
        if left > _WRITE_SECONDS:
            _account(read, before, outcome, arguments.server)
            _progress(f"{seconds - left + _WRITE_SECONDS:.0f} of {seconds:.0f} s")
    _account(read, before, outcome, arguments.server)
    return False


def _command(
    read: Read, outcome: _Outcome, ending: _Ending, words: Sequence[str], arguments: argparse.Namespace
) -> bool:
    before = _begin(read, outcome, arguments.server)
    # The command's output must not be mixed with our JSON.
    process = subprocess.Popen(words, stdout=sys.stderr if arguments.json else None)
    record: dict[str, Any] = {"words": list(words), "exit_status": None}
    outcome.document["command"] = record
    written = time.monotonic()
    while process.poll() is None and not ending.wait(0.02):
        if time.monotonic() - written > _WRITE_SECONDS:
            _account(read, before, outcome, arguments.server)
            written = time.monotonic()
    if process.poll() is None:
        _stop(process, ending)
    record["exit_status"] = process.returncode
    _account(read, before, outcome, arguments.server)
    if process.returncode and not ending.by:
        outcome.document["problems"].append(f"the command ended with status {process.returncode}")
        return True
    return False


def _stop(process: subprocess.Popen[bytes], ending: _Ending) -> None:
    """Pass the signal on: Ctrl-C has reached the command, SIGTERM has not."""
    if ending.by != "SIGINT":
        process.terminate()
    for act in (process.terminate, process.kill):
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
            return
        act()
    process.wait()


def _progress(text: str) -> None:
    print(f"tpw-exporter measure: {text}", file=sys.stderr, flush=True)


# ---------------------------------------------------------------------------------------------------------------- sweeps


def _sweep(arguments: argparse.Namespace) -> Measurement:
    """Raises _UsageError, ValueError."""
    if not arguments.target:
        raise _UsageError("--sweep needs --target=URL, the address of the server's API")
    levels = _numbers("--concurrency", arguments.concurrency)
    repeats = _numbers("--repeats", arguments.repeats)
    if len(repeats) != 2 or not 2 <= repeats[0] <= repeats[1]:
        raise _UsageError(f"--repeats={arguments.repeats}: give the fewest, at least 2, and the most")
    if min(arguments.input_tokens, arguments.output_tokens) < 1 or arguments.tolerance <= 0.0:
        raise _UsageError("--input-tokens, --output-tokens and --tolerance must be positive")
    targets = _targets(arguments.targets)
    plan = Plan(
        _seconds("--repeat", arguments.repeat), repeats[0], repeats[1], arguments.tolerance, _LONGEST_REQUEST_SECONDS
    )
    tls = Tls(arguments.ca_file or "")

    def client() -> Client:
        return Client(arguments.target, timeout_seconds=30.0, headers_file=arguments.target_headers_file, tls=tls)

    client()  # the address is checked

    def measured(read: Read, outcome: _Outcome, ending: _Ending) -> bool:
        shape = Shape(
            arguments.input_tokens,
            arguments.output_tokens,
            arguments.model or served_model(client()),
            _LONGEST_REQUEST_SECONDS,
        )
        now = read()
        server = _server(now, arguments)
        load = Load(client, shape, arguments.seed)
        wanted = targets or _configured_targets(now, server)
        return _swept(read, outcome, ending, server, load, plan, levels, wanted, arguments)

    return measured


def _numbers(name: str, text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise _UsageError(f"{name}={text}: give whole numbers from 1, separated by commas")
    return numbers


def _targets(text: str) -> dict[str, float]:
    targets = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name not in _LATENCIES:
            raise _UsageError(f"--targets: {name!r} is none of {', '.join(_LATENCIES)}")
        targets[name] = _seconds(f"--targets: {name}", value)
    return targets


def _configured_targets(now: Status, server: str) -> dict[str, float]:
    """Those of the setting ``slo``, once the engine has shown a histogram for them."""
    models = [model for one in now["servers"] if one["name"] == server for model in one["models"]]
    return {
        slo: target
        for model in models
        for slo, latency in model["latency"].items()
        if (target := latency["target_seconds"]) is not None
    }


def _server(now: Status, arguments: argparse.Namespace) -> str:
    """The name of the server that is driven. Raises _UsageError."""
    names = [server["name"] for server in now["servers"]]
    if arguments.server in names:
        return str(arguments.server)
    if len(names) != 1 or arguments.server:
        raise _UsageError(f"name the server of --target with --server; the servers are {', '.join(names) or 'none'}")
    return names[0]


def _swept(
    read: Read,
    outcome: _Outcome,
    ending: _Ending,
    server: str,
    load: Load,
    plan: Plan,
    levels: Sequence[int],
    targets: dict[str, float],
    arguments: argparse.Namespace,
) -> bool:
    currency = read()["currency"] or ""
    points: dict[int, Point] = {}
    document = outcome.document
    document["sweep"] = {
        "target": load.where,
        "server": server,
        "model": load.shape.model,
        "input_tokens": load.shape.input_tokens,
        "output_tokens": load.shape.output_tokens,
        "repeat_seconds": plan.window_seconds,
        "tolerance": plan.tolerance,
        "targets": targets,
        "seed": arguments.seed,
    }

    def report(one: Point) -> None:
        points[one["concurrency"]] = one
        document["points"] = shown = list(points.values())
        document["best"] = chosen = best(shown, targets)
        outcome.lines = lambda: sweep_lines(shown, chosen, currency, targets)
        outcome.write()
        if one["account"] is None:
            _progress(point_line(one, currency))

    has_failed = False
    try:
        for concurrency in levels:
            found = level(load, concurrency, read, server, plan, ending.wait, report)
            if found["failed"] > found["requests"] / 2:
                has_failed = True
                break
    except StoppedError:
        pass
    if arguments.svg and points:
        title = f"{load.shape.model} on {server}, {load.shape.input_tokens} in, {load.shape.output_tokens} out"
        shown = list(points.values())
        Path(arguments.svg).write_text(svg(shown, best(shown, targets), title, currency), encoding="utf-8")
    return has_failed or not points
