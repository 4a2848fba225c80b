"""A sweep over an engine with known speed and known power: figures, repeats, best points."""

from __future__ import annotations

import copy
import json
import math
import random
import statistics
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from support.snapshots import rich_snapshot
from tpw.exposition.status import Status, status
from tpw.http.client import Client
from tpw.measuring.load import Load, Shape, served_model
from tpw.measuring.show import svg, sweep_lines
from tpw.measuring.sweep import Plan, Point, StoppedError, best, level, relative_bound

WATTS = 500.0
PLAN = Plan(window_seconds=0.2, fewest=3, most=4, tolerance=0.5, drain_seconds=10.0, settle_seconds=0.5)


class Engine:
    """Streams two tokens in each event, and counts them when a request ends, as llama.cpp does."""

    def __init__(self) -> None:
        self.output = self.input = self.refused = 0
        self.prompts: list[str] = []
        self.refuses = False
        self.began = time.time()
        engine, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(200, json.dumps({"data": [{"id": "tiny"}]}).encode())

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if engine.refuses:
                    self._answer(500, b"out of memory")
                    return
                prompt = len(body["prompt"].split())
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                for _ in range(body["max_tokens"] // 2):
                    time.sleep(0.004)
                    self._event({"choices": [{"text": "a b "}]})
                usage = {"prompt_tokens": prompt, "completion_tokens": body["max_tokens"]}
                with lock:
                    engine.prompts.append(body["prompt"])
                    engine.output += body["max_tokens"]
                    engine.input += prompt
                self._event({"choices": [], "usage": usage})
                self.wfile.write(b"data: [DONE]\n\n")

            def _event(self, event: Any) -> None:
                self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")

            def _answer(self, code: int, body: bytes) -> None:
                self.send_response(code)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.base: Any = copy.deepcopy(status(rich_snapshot()))

    def client(self) -> Client:
        return Client(f"http://127.0.0.1:{self.server.server_port}/v1", timeout_seconds=5.0)

    def read(self) -> Status:
        """The status now: all power of one GPU is the server's."""
        now = time.time()
        found = copy.deepcopy(self.base)
        found["at"] = now
        found["gpus"][0]["energy_at"] = now
        chat = next(server for server in found["servers"] if server["name"] == "chat")
        chat["gpus"] = [0]
        model = chat["models"][0]
        chat["models"] = [model]
        model["tokens"] = {"input": float(self.input), "cached_input": 0.0, "output": float(self.output)}
        for states in (model["states"], found["gpus"][0]["states"]):
            states["active"]["joules"] = WATTS * (now - self.began)
            states["active"]["cost"] = {"energy": 1e-4 * (now - self.began), "hardware": 4e-4 * (now - self.began)}
        return found


@pytest.fixture
def engine() -> Iterator[Engine]:
    found = Engine()
    yield found
    found.server.shutdown()
    found.server.server_close()


def load(engine: Engine, output: int = 10) -> Load:
    return Load(engine.client, Shape(30, output, "tiny", 5.0), seed=1)


def never(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def test_a_concurrency_has_the_ratios_of_its_repeats_and_the_tokens_of_the_usage(engine: Engine):
    reported: list[Point] = []
    found = level(load(engine), 3, engine.read, "chat", PLAN, never, reported.append)
    assert (
        found["tokens"]["usage"]
        == found["tokens"]["counted"]
        == {"input": float(engine.input), "output": float(engine.output)}
    )
    assert found["problems"] == []
    seconds = sum(one["seconds"] for one in found["repeats"])
    made = sum(one["output_tokens"] for one in found["repeats"])
    assert found["watts"] == pytest.approx(WATTS, rel=1e-3)
    assert found["tokens_per_second"]["output"] == pytest.approx(made / seconds)
    assert found["tokens_per_watt"]["output"] == pytest.approx(made / seconds / WATTS, rel=1e-3)
    assert found["cost_per_token"]["full"]["output"] == pytest.approx(5e-4 * seconds / made, rel=1e-3)
    assert found["requests"] * 10 == engine.output
    assert found["latency"]["tpot"]["p50"] >= 0.004 * 4 / 9
    assert found["latency"]["ttft"]["p50"] >= 0.004
    assert found["latency"]["e2e"]["p50"] >= 0.02
    assert PLAN.fewest <= len(found["repeats"]) <= PLAN.most
    assert [len(one["repeats"]) for one in reported[:3]] == [0, 1, 2]
    assert len(set(engine.prompts)) == len(engine.prompts)


def test_tokens_of_a_request_that_spans_two_repeats_are_in_both(engine: Engine):
    """A request of 0.8 s or longer, and repeats of 0.2 s: by the engine's counter most repeats would have none."""
    found = level(load(engine, output=400), 1, engine.read, "chat", PLAN, never, lambda _: None)
    assert min(one["output_tokens"] for one in found["repeats"]) > 0.0
    assert found["tokens"]["usage"] == found["tokens"]["counted"]


def test_a_server_that_refuses_ends_the_concurrency_with_its_errors(engine: Engine):
    engine.refuses = True
    found = level(load(engine), 2, engine.read, "chat", PLAN, never, lambda _: None)
    assert found["failed"] == found["requests"] > 2
    assert found["tokens"]["usage"] == {"input": 0.0, "output": 0.0}
    assert "500" in found["problems"][0]
    assert best([found], {}) == dict.fromkeys(
        ("tokens_per_watt", "cost", "tokens_per_watt_at_targets", "cost_at_targets")
    )


def test_a_stopped_sweep_has_reported_what_it_has(engine: Engine):
    reported: list[Point] = []
    with pytest.raises(StoppedError):
        level(
            load(engine), 2, engine.read, "chat", PLAN,
            lambda seconds: never(seconds) or len(reported) == 2, reported.append,
        )  # fmt: skip
    assert len(reported[-1]["repeats"]) == 1
    assert reported[-1]["tokens_per_watt"]["output"] > 0.0
    assert not reported[-1]["stands"]
    assert reported[-1]["tokens"]["counted"] == {}


def test_tokens_that_others_took_are_reported(engine: Engine):
    def report(_: Point) -> None:
        engine.output += 7

    found = level(load(engine), 1, engine.read, "chat", PLAN, never, report)
    assert found["tokens"]["counted"]["output"] > found["tokens"]["usage"]["output"]
    assert any("serve others" in problem for problem in found["problems"])


def test_the_served_model_is_the_first_of_the_list(engine: Engine):
    assert served_model(engine.client()) == "tiny"


def test_the_bound_holds_for_the_mean_of_19_of_20_samples():
    chosen = random.Random(3)
    inside = 0
    for _ in range(2000):
        values = [chosen.gauss(100.0, 4.0) for _ in range(5)]
        bound = relative_bound(values)
        assert bound is not None
        inside += abs(statistics.fmean(values) - 100.0) <= bound * statistics.fmean(values)
    assert inside / 2000 == pytest.approx(0.95, abs=3.0 * math.sqrt(0.95 * 0.05 / 2000))


def made(concurrency: int, per_watt: float, cost: float, ttft: float) -> Point:
    """A point with given figures."""
    quantiles = {"p50": ttft / 2, "p90": ttft, "p99": ttft}
    return {
        "concurrency": concurrency, "stands": concurrency != 2, "error_ratio": 0.01,
        "tokens_per_second": {"output": 100.0 * concurrency, "total": 300.0 * concurrency},
        "tokens_per_watt": {"output": per_watt, "total": 3 * per_watt},
        "cost_per_token": {"energy": {"output": cost / 10}, "full": {"output": cost}},
        "watts": 400.0, "latency": {"ttft": quantiles, "tpot": quantiles}, "requests": 9, "failed": 0,
        "tokens": {}, "client_cpu_ratio": 0.1, "repeats": [], "account": None, "problems": [],
    }  # fmt: skip


CURVE = [made(1, 0.5, 9e-6, 0.1), made(2, 0.9, 6e-6, 0.2), made(4, 1.4, 4e-6, 0.9), made(8, 1.2, 3e-6, 4.0)]


def test_the_best_points_are_of_all_and_of_those_within_the_targets():
    assert best(CURVE, {"ttft": 0.5}) == {
        "tokens_per_watt": 4, "cost": 8, "tokens_per_watt_at_targets": 2, "cost_at_targets": 2,
    }  # fmt: skip
    assert best(CURVE, {})["cost_at_targets"] is None
    assert best(CURVE, {"e2e": 99.0})["cost_at_targets"] is None  # a latency that was not measured meets nothing


def test_without_a_price_there_is_no_cheapest_point():
    free = [{**one, "cost_per_token": {}} for one in CURVE]
    assert best(free, {})["cost"] is None  # type: ignore[arg-type]
    assert best(free, {})["tokens_per_watt"] == 4  # type: ignore[arg-type]


def test_the_curve_is_drawn_with_a_line_of_text_for_each_point_and_as_svg():
    lines = list(sweep_lines(CURVE, best(CURVE, {}), "EUR", {}))
    bars = [line.count("\u2588") for line in lines[1:5]]
    assert bars == [9, 15, 24, 21]
    root = ET.fromstring(svg(CURVE, best(CURVE, {}), "a <model>", "EUR"))  # noqa: S314 - our own
    drawn = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert [len(line.attrib["points"].split()) for line in drawn] == [4] * 4
    assert root.findall("{http://www.w3.org/2000/svg}text")[0].text == "a <model>"
