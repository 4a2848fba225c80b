"""Worlds that are hard on rules, alerts and dashboards: a node that just began, scrape intervals, another job, training
beside serving, nights without servers, other currencies, an exporter that was down.

Each world is a cluster of one Prometheus. A node is a list of *scenes*: what its GPUs do for a while, at constant rates, so
that what is right is known. The pages are the exporter's own (:func:`tpw.exposition.families.families`) over the amounts of
one second: counters grow by them, gauges stand still.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from support import snapshots
from support.samples import Labels, Samples
from tpw.exposition.families import families
from tpw.ledger.amounts import Amounts
from tpw.ledger.books import Books, GpuAccount, PostingKey, ServerAccount
from tpw.model import (
    Attribution,
    Cadence,
    Instant,
    Load,
    Reference,
    SourceStatus,
    State,
    TokenKind,
    Workload,
    WorkloadKind,
)
from tpw.snapshot import Carbon, Snapshot, StoreStatus

NOW = int(snapshots.EPOCH) + 19 * 86400 + 6 * 3600
"""06:00 UTC, in the middle of a month."""
HOUR = 3600
DAY = 86400
LONG = 25 * HOUR + 720
"""Longer than the longest window of a rule that is not a week's."""

WATTS = {State.ACTIVE: 620.0, State.PARKED: 120.0, State.IDLE: 70.0, State.OTHER: 680.0, State.STARTING: 100.0}
WATTS[State.PLANNED_OFF] = WATTS[State.IDLE]
TOKENS = {TokenKind.OUTPUT: 400.0, TokenKind.INPUT: 150.0, TokenKind.CACHED_INPUT: 50.0}
"""Per second of a server that works."""
PRICE, HARDWARE_PER_HOUR = 0.25, 1.8
_TRAINING = Workload(WorkloadKind.SLURM, "4711")
_RUNNING = 12.0


@dataclass(frozen=True)
class Use:
    """What one GPU does: its state, and the server that owns it."""

    state: State
    server: str = ""


@dataclass(frozen=True)
class Scene:
    """What the node does from ``begin`` to ``end``. ``up`` is False while the exporter does not respond: it catches up."""

    begin: int
    end: int
    gpus: tuple[Use, ...]
    up: bool = True


@dataclass(frozen=True)
class Node:
    """One exporter: its scenes, and how it is scraped."""

    scenes: tuple[Scene, ...]
    instance: str = "node-a:10101"
    job: str = "tpw-exporter"
    interval: int = 60
    currency: str = "EUR"


CHAT, CODE, IDLE = Use(State.ACTIVE, "chat"), Use(State.PARKED, "code"), Use(State.IDLE)
TRAINING = Use(State.OTHER)
SERVING = (CHAT, CHAT, CODE, IDLE)
"""Two GPUs at work, one holds a model without requests, one is free."""


def always(gpus: tuple[Use, ...], since: int = LONG) -> tuple[Scene, ...]:
    """One scene until now."""
    return (Scene(NOW - since, NOW, gpus),)


WORLDS: Mapping[str, tuple[Node, ...]] = {
    "settled": (Node(always(SERVING)),),
    "cold": (Node(always(SERVING, HOUR)),),
    "scrape-15": (Node(always(SERVING, 3 * HOUR), interval=15),),
    "scrape-30": (Node(always(SERVING, 3 * HOUR), interval=30),),
    "job": (Node(always(SERVING, 3 * HOUR), job="gpu-metrics"),),
    "training": (Node(always((CHAT, CHAT, TRAINING, TRAINING))),),
    "night": (
        Node(
            (
                Scene(NOW - LONG, NOW - 12 * HOUR, (CHAT, CHAT, Use(State.ACTIVE, "code"), Use(State.ACTIVE, "code"))),
                Scene(NOW - 12 * HOUR, NOW, (IDLE,) * 4),
            )
        ),
    ),
    "planned": (
        Node(
            (
                Scene(NOW - LONG, NOW - 12 * HOUR, SERVING[:2] + (Use(State.ACTIVE, "code"),) * 2),
                Scene(
                    NOW - 12 * HOUR,
                    NOW,
                    (Use(State.PLANNED_OFF), Use(State.PLANNED_OFF), *(Use(State.PLANNED_OFF, "code"),) * 2),
                ),
            )
        ),
    ),
    "dollars": (Node(always(SERVING), currency="USD"),),
    "currencies": (
        Node(always(SERVING, 3 * HOUR)),
        Node(always(SERVING, 3 * HOUR), instance="node-b:10101", currency="USD"),
    ),
    "down": (
        Node(
            (
                Scene(NOW - LONG, NOW - 8 * HOUR, SERVING),
                Scene(NOW - 8 * HOUR, NOW - 2 * HOUR, SERVING, up=False),
                Scene(NOW - 2 * HOUR, NOW, SERVING),
            )
        ),
    ),
}


def second(gpus: Sequence[Use], currency: str) -> Snapshot:
    """The page after one second: every counter is what a second adds to it."""
    accounts, postings, servers = {}, {}, {}
    for index, use in enumerate(gpus):
        uuid, watts = snapshots.uuid(index), WATTS[use.state]
        accounts[uuid] = GpuAccount(
            snapshots.gpu(index),
            up=True,
            sample=snapshots.sample_of(index, watts),
            throttle_seconds={"hw_thermal": 0.0},
        )
        facility = watts * snapshots.PUE
        cost = {"energy": facility / 3.6e6 * PRICE, "hardware": HARDWARE_PER_HOUR / 3600}
        grams = {"location": facility / 3.6e6 * 388.0}
        key = PostingKey(uuid, use.server, _model(use.server), use.state, *([_TRAINING] if use == TRAINING else []))
        postings[key] = Amounts(1.0, watts, facility, 0.0, cost, 0.0, grams)
    for name in sorted({use.server for use in gpus} - {""}):
        servers[name] = _server(name, [(index, use) for index, use in enumerate(gpus) if use.server == name])
    at = Instant(snapshots.BOOT + 3600, float(NOW))
    return Snapshot(
        at=at,
        books=Books(at=at, currency=currency, gpus=accounts, postings=postings, servers=servers, polls=1),
        components=("hardware",),
        sources=tuple(
            SourceStatus(name, up=True, read_duration_seconds=0.002, last_success_wall_seconds=float(NOW), reads=1)
            for name in ("nvml", "tariff", *(f"server:{name}" for name in servers))
        ),
        prices=replace(snapshots.fleet_snapshot(0).prices, currency=currency),
        carbon=Carbon("location", 388.0),
        pue=snapshots.PUE,
        references=(Reference("api-70b", price_per_token={TokenKind.INPUT: 0.59e-6, TokenKind.OUTPUT: 0.79e-6}),),
        store=StoreStatus(float(NOW), ""),
    )


def _model(server: str) -> str:
    return f"acme/{server}-70b" if server else ""


def _server(name: str, uses: list[tuple[int, Use]]) -> ServerAccount:
    model, active = _model(name), any(use.state is State.ACTIVE for _, use in uses)
    return ServerAccount(
        name,
        up=True,
        active=active,
        engine="vllm",
        cadence=Cadence.STEP,
        version="0.11.0",
        attribution=Attribution.PROCESSES,
        gpus=frozenset(snapshots.uuid(index) for index, _ in uses),
        tokens={(model, kind): rate * active for kind, rate in TOKENS.items()},
        requests={model: 0.5 * active},
        loads=(Load(model, _RUNNING * active, 0.0),),
        models=(model,),
        reference_cost={(model, "api-70b"): 0.0004 * active},
        window=snapshots.window(model, sum(WATTS[use.state] for _, use in uses), snapshots.BOOT + 3600, busy=active),
        window_seconds=60.0,
    )


def scraped(node: Node, names: Collection[str]) -> Samples:
    """The series of a node that have one of these names, as scrapes leave them. Counters of a server that is gone stay."""
    samples = Samples()
    target = (("instance", node.instance), ("job", node.job))
    totals: dict[tuple[str, Labels], float] = {}
    for scene in node.scenes:
        times = range(scene.begin, scene.end, node.interval)
        up = samples.series("up", target)
        for at in times:
            up.put(at, float(scene.up))
        rows = {(name, who): rate for name, who, rate in _rows(scene.gpus, node.currency, names, target)}
        for one, number in rows.items():
            series = samples.series(*one) if scene.up else None
            if one[0].endswith("_total"):
                begun = totals.get(one, 0.0)
                totals[one] = begun + number * (scene.end - scene.begin)
                values = (begun + number * (at - scene.begin) for at in times)
            else:
                values = (_gauge(one[0], at, number, node) for at in times)
            for at, value in zip(times, values, strict=True) if series is not None else ():
                series.put(at, value)
        for name, by_labels in samples.metrics.items():
            for who, series in by_labels.items():
                if name == "up" or ((name, who) in rows and scene.up):
                    continue
                if name.endswith("_total") and scene.up:
                    for at in times:
                        series.put(at, totals[name, who])
                else:
                    series.gone.append(scene.begin)
    return samples


def _gauge(name: str, at: int, value: float, node: Node) -> float:
    """The value of a gauge: a time of its page, or what it is all along."""
    if name == "process_start_time_seconds":
        return float(max(scene.begin for scene in node.scenes if scene.up and scene.begin <= at))
    if name == "tpw_electricity_price_next_change_timestamp_seconds":
        return float(at - at % HOUR + HOUR)
    return float(at) if name.endswith("_timestamp_seconds") else value


def _rows(
    gpus: Sequence[Use], currency: str, names: Collection[str], target: Labels
) -> Iterator[tuple[str, Labels, float]]:
    """(metric, labels, value, or gain per second) of every series of a scene."""
    for metric, rows in families(second(gpus, currency)):
        if metric.name in names:
            for labels, value in rows:
                who = tuple(sorted((*zip(metric.labels, labels, strict=True), *target)))
                yield metric.name, who, value
    for name, value in {
        "scrape_duration_seconds": 0.01,
        "scrape_samples_scraped": 300.0,
        "process_start_time_seconds": 0.0,
        "process_resident_memory_bytes": 6e7,
        "process_cpu_seconds_total": 0.002,
    }.items():
        if name in names:
            yield name, target, value


def filled(names: Collection[str]) -> Iterator[Samples]:
    """The samples of every world, each a cluster."""
    for world, nodes in WORLDS.items():
        for node in nodes:
            yield scraped(node, names).labelled(cluster=world)
