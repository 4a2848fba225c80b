"""Several servers that make one service, on one node and over two: hand calculation = page = rules."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support.pageserver import PageServer, answer, pages
from support.ruletests import closure, promtool, written_groups
from support.scraped import Page as Scraped
from support.scraped import parse
from tpw.config.load import load
from tpw.daemon.daemon import Daemon
from tpw.exposition.render import Format, Page
from tpw.power.simulated import SimulatedMeter

MINUTES = 12
PRICE_PER_KWH = 0.36
HARDWARE_PER_GPU_SECOND = 2.0 / 3600.0
"""70,080 for four years of 8760 hours."""


class Steady(SimulatedMeter):
    """GPUs that draw the same power all the time."""

    watts: Sequence[float] = ()

    def _watts(self, index: int, cell: int) -> float:
        return self.watts[index]


@dataclass
class Instance:
    """One server with GPUs of its own. Rates are per second."""

    name: str
    watts: tuple[float, ...]
    prompt: float
    output: float
    role: str = ""
    gpus: tuple[int, ...] = ()
    page: dict[str, bytes] = field(default_factory=dict)

    def at(self, seconds: float) -> None:
        """Its page, as vLLM counts: an instance of a pair also counts what the other one makes."""
        counts = {
            'prompt_tokens_by_source_total{model_name="m",source="local_compute"}': self.prompt,
            'prompt_tokens_by_source_total{model_name="m",source="external_kv_transfer"}': 100.0
            * (self.role == "decode"),
            'generation_tokens_total{model_name="m"}': 1.0 if self.role == "prefill" else self.output,
        }
        lines = [f"vllm:{name} {1000.0 + rate * seconds!r}" for name, rate in counts.items()]
        self.page["/metrics"] = answer("\n".join([*lines, 'vllm:num_requests_running{model_name="m"} 3', ""]))

    def entry(self, url: str) -> str:
        role = f", role: {self.role}" if self.role else ""
        return f"{{name: {self.name}, url: '{url}', engine: vllm, gpus: {list(self.gpus)}, deployment: chat{role}}}"


class Node:
    """A daemon over some instances, on a clock that the test moves."""

    def __init__(self, name: str, instances: Sequence[Instance], stack: ExitStack) -> None:
        self.name, self.instances, self.seconds = name, instances, 0.0
        watts = [watts for instance in instances for watts in instance.watts]
        free = iter(range(len(watts)))
        for instance in instances:
            instance.gpus = tuple(next(free) for _ in instance.watts)
            instance.at(0.0)
        urls = [stack.enter_context(PageServer(pages(instance.page))).url for instance in instances]
        entries = [instance.entry(url) for instance, url in zip(instances, urls, strict=True)]
        config = load(
            f"""
            polling: {{interval: 60s, window: 5m}}
            host: {{meters: []}}
            discovery: {{processes: false}}
            servers: [{", ".join(entries)}]
            tariff: {{currency: EUR, energy: {{kind: flat, price_per_kwh: {PRICE_PER_KWH}}}}}
            costs: {{hardware: {{price_per_gpu: 70080, years: 4}}}}
            """
        )
        meter = Steady(self.clock, gpus=len(watts))
        meter.watts = watts
        self.daemon = Daemon(config, clock=self.clock, wall=lambda: 1.79e9 + self.seconds, accelerators=[meter])
        stack.callback(self.daemon.stop)
        self.daemon.poll_all()
        self.scrapes: list[Scraped] = []

    def clock(self) -> float:
        return 1000.0 + self.seconds

    def minute(self) -> None:
        self.seconds += 60.0
        for instance in self.instances:
            instance.at(self.seconds)
        self.daemon.tick()
        body = Page().body(self.daemon.snapshot, Format.TEXT, None, compressed=False)
        self.scrapes.append(parse(body.decode()))


@dataclass(frozen=True)
class Hand:
    """What the instances of a deployment come to, calculated by hand."""

    instances: Sequence[Instance]

    @property
    def watts(self) -> float:
        return sum(sum(one.watts) for one in self.instances)

    @property
    def gpus(self) -> int:
        return sum(len(one.watts) for one in self.instances)

    @property
    def tokens(self) -> dict[str, float]:
        """Per second, each once: prompts where they are computed, output where it is generated."""
        output = sum(one.output for one in self.instances if one.role != "prefill")
        return {"output": output, "total": output + sum(one.prompt for one in self.instances if one.role != "decode")}

    @property
    def cost(self) -> dict[str, float]:
        """Per second."""
        energy = self.watts / 3.6e6 * PRICE_PER_KWH
        return {"energy": energy, "full": energy + self.gpus * HARDWARE_PER_GPU_SECOND}

    @property
    def shares(self) -> dict[str, float]:
        by_role: dict[str, float] = {}
        for one in self.instances:
            by_role[one.role or "both"] = by_role.get(one.role or "both", 0.0) + sum(one.watts)
        return {role: watts / self.watts for role, watts in by_role.items()}


def pair() -> list[Instance]:
    return [
        Instance("front", (300.0,), prompt=100.0, output=0.0, role="prefill"),
        Instance("back", (200.0, 100.0), prompt=0.0, output=20.0, role="decode"),
    ]


def replicas() -> list[Instance]:
    return [Instance(f"r{n}", (100.0 * n,), prompt=30.0 + 10.0 * n, output=10.0 * n) for n in (1, 2, 3)]


def _live(page: Scraped) -> dict[str, dict[tuple[str, ...], float]]:
    """The gauges of the deployment, by name and values of the further labels in the order of their names."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for (name, labels), value in page.items():
        if name.startswith("tpw_deployment_"):
            rest = tuple(value for label, value in sorted(labels) if label not in ("deployment", "currency"))
            found.setdefault(name.removeprefix("tpw_deployment_"), {})[rest] = value
    return found


def _expected_live(hand: Hand) -> dict[str, dict[tuple[str, ...], float]]:
    watt = {(edge, kind): rate / hand.watts for edge in ("facility", "gpu") for kind, rate in hand.tokens.items()}
    cost = {(kind, scope): per / rate for kind, rate in hand.tokens.items() for scope, per in hand.cost.items()}
    return {
        "tokens_per_second": {(kind,): rate for kind, rate in hand.tokens.items()},
        "tokens_per_watt": watt,
        "cost_per_token": cost,
        "energy_share_ratio": {(role,): share for role, share in hand.shares.items()},
        "window_seconds": {(): 300.0},
    }


def _assert_near(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name] == pytest.approx(expected[name], rel=1e-9), name


def _rules(nodes: Sequence[Node], hand: Hand, tools: Path, folder: Path) -> None:
    """What the recording rules make of the scrapes of all nodes, compared by promtool."""
    values: dict[str, list[str]] = {}
    for node in nodes:
        for at, page in enumerate(node.scrapes):
            for (name, labels), value in page.items():
                if name.startswith("tpw_"):
                    own = {"job": "tpw-exporter", "instance": node.name, **dict(labels)}
                    series = f"{name}{{{','.join(f'{label}={json.dumps(text)}' for label, text in own.items())}}}"
                    values.setdefault(series, ["_"] * MINUTES)[at] = repr(value)
    tests = []

    def expect(record: str, value: float, **labels: str) -> None:
        wanted = {"job": "tpw-exporter", "deployment": "chat", **labels}
        chosen = ",".join(f"{label}={json.dumps(text)}" for label, text in labels.items())
        sample = {"labels": f"{{{','.join(f'{k}={json.dumps(v)}' for k, v in wanted.items())}}}", "value": 1.0}
        query = f"round({record}{{{chosen}}} / {value!r}, 1e-6)"
        tests.append({"expr": query, "eval_time": f"{MINUTES - 1}m", "exp_samples": [sample]})

    for kind, rate in hand.tokens.items():
        expect("deployment:tpw_server_tokens:rate5m", rate, kind=kind)
        expect("deployment:tpw_tokens_per_second_per_gpu:rate5m", rate / hand.gpus, kind=kind)
        for boundary in ("gpu", "facility"):
            expect("deployment:tpw_tokens_per_joule:ratio_rate5m", rate / hand.watts, kind=kind, boundary=boundary)
        for scope, cost in hand.cost.items():
            names = {"scope": scope, "kind": kind, "currency": "EUR"}
            expect("deployment:tpw_cost_per_million_tokens:ratio_rate5m", 1e6 * cost / rate, **names)
    for role, share in hand.shares.items():
        expect("deployment:tpw_energy_share:ratio_rate5m", share, role=role)
    groups = closure(written_groups(), {name for test in tests for name in [test["expr"][6:].partition("{")[0]]})
    case = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "group_eval_order": [group["name"] for group in groups],
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": " ".join(row)} for name, row in values.items()],
                "promql_expr_test": tests,
            }
        ],
    }
    for name, content in (("rules", {"groups": groups}), ("case", case)):
        (folder / f"{name}.yaml").write_text(json.dumps(content))
    done = promtool(tools, "test", "rules", "case.yaml", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as one:
        yield one


@pytest.mark.parametrize("instances", [pair(), replicas()], ids=["pair", "replicas"])
def test_on_one_node_the_page_and_the_rules_are_the_hand_calculation(
    instances: list[Instance], tools: Path, tmp_path: Path, stack: ExitStack
) -> None:
    node, hand = Node("a", instances, stack), Hand(instances)
    for _ in range(MINUTES):
        node.minute()
    _assert_near(_live(node.scrapes[-1]), _expected_live(hand))
    _rules([node], hand, tools, tmp_path)


@pytest.mark.parametrize("instances", [pair(), replicas()], ids=["pair", "replicas"])
def test_over_two_nodes_the_rules_are_the_hand_calculation_and_a_page_has_its_own_part_or_none(
    instances: list[Instance], tools: Path, tmp_path: Path, stack: ExitStack
) -> None:
    parts = [instances[:1], instances[1:]]
    nodes = [Node(name, part, stack) for name, part in zip("ab", parts, strict=True)]
    for _ in range(MINUTES):
        for node in nodes:
            node.minute()
    for node, part in zip(nodes, parts, strict=True):
        _assert_near(_live(node.scrapes[-1]), _expected_live(Hand(part)) if len(part) > 1 else {})
    _rules(nodes, Hand(instances), tools, tmp_path)
