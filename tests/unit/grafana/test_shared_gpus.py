"""Panels of GPUs that servers share, and of partitioned ones, over pages that the exporter makes of such GPUs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from grafana.render import dashboards
from grafana.values import Values

from support import fleetday, recorded
from support.recorded import Prometheus
from support.samples import Samples, labels
from support.snapshots import rich_snapshot, uuid
from tpw.exposition.families import families
from tpw.ledger.books import Division, PostingKey
from tpw.model import SplitMethod, State
from tpw.snapshot import Snapshot

TARGET = {"job": fleetday.JOB, "instance": "node-a:10101"}
STEP = 60
MINUTES = 20
WATTS = {SplitMethod.GPM: 40.0, SplitMethod.SLICES: 30.0}
"""Of the first instance, and of the second."""


def _snapshot(minute: int) -> Snapshot:
    """A partitioned GPU with the energy of its instances, and a GPU that two servers share."""
    snapshot = rich_snapshot(minute * STEP)
    accounts = dict(snapshot.books.gpus)
    drawn = {
        ("MIG-2a", "3g.40gb", SplitMethod.GPM): 1e5 + WATTS[SplitMethod.GPM] * minute * STEP,
        ("MIG-2b", "1g.10gb", SplitMethod.SLICES): 5e4 + WATTS[SplitMethod.SLICES] * minute * STEP,
    }
    accounts[uuid(2)] = replace(accounts[uuid(2)], instance_joules=drawn)
    shares = (
        (PostingKey(uuid(0), "chat", "acme/chat-70b", State.ACTIVE), 0.75),
        (PostingKey(uuid(0), "code", "m", State.ACTIVE), 0.25),
    )
    accounts[uuid(0)] = replace(accounts[uuid(0)], division=Division(shares, SplitMethod.SM))
    servers = dict(snapshot.books.servers)
    servers["code"] = replace(servers["code"], gpus=frozenset({uuid(0)}))
    return replace(snapshot, books=replace(snapshot.books, gpus=accounts, servers=servers))


def _scraped() -> Samples:
    samples = Samples()
    for minute in range(MINUTES):
        for metric, rows in families(_snapshot(minute)):
            for values, number in rows:
                who = {**dict(zip(metric.labels, values, strict=True)), **TARGET}
                samples.series(metric.name, labels(**who)).put(fleetday.START + minute * STEP, number)
    return samples


@pytest.fixture(scope="module")
def shared(tools: Path) -> Iterator[Prometheus]:
    with recorded.serving(tools) as running:
        recorded.fill(running, _scraped())
        yield running


def _ask(server: Prometheus, title: str, query: str = "A") -> dict[tuple[str, ...], float]:
    """The panel's numbers at the end, by the values of their labels in the order of the labels' names."""
    dashboard: dict[str, Any] = json.loads(dashboards(Values())["tpw-gpus"])
    panels = [inner for panel in dashboard["panels"] for inner in (panel, *panel.get("panels", ()))]
    (panel,) = (panel for panel in panels if panel["title"] == title)
    (target,) = (target for target in panel["targets"] if target["refId"] == query)
    expr = target["expr"].replace("$__rate_interval", "240s")
    expr = re.sub(r"\$[a-z]\w*", ".*", expr)
    found = server.instant(expr, fleetday.START + (MINUTES - 1) * STEP)
    return {tuple(value for _, value in sorted(who.items())): number for who, number in found}


@pytest.mark.e2e
def test_the_owners_of_a_shared_gpu_are_in_a_table(shared: Prometheus):
    node = TARGET["instance"]
    assert _ask(shared, "GPUs that servers share") == {
        ("0", node, "sm", "chat"): 0.75,
        ("0", node, "sm", "code"): 0.25,
        ("2", node, "gpm", "embed"): 0.375,
    }


@pytest.mark.e2e
def test_a_gpu_of_several_servers_is_one_row_of_the_table(shared: Prometheus):
    node = TARGET["instance"]
    assert _ask(shared, "GPUs", "I") == {
        ("0", node, "2 servers", uuid(0)): 1.0,
        ("1", node, "chat", uuid(1)): 1.0,
        ("2", node, "embed", uuid(2)): 1.0,
    }


@pytest.mark.e2e
def test_what_instances_draw_is_a_rate_of_their_estimates(shared: Prometheus):
    node = TARGET["instance"]
    assert _ask(shared, "Estimated power of instances (MIG)") == {
        ("2", "MIG-2a", node, "3g.40gb"): pytest.approx(WATTS[SplitMethod.GPM]),
        ("2", "MIG-2b", node, "1g.10gb"): pytest.approx(WATTS[SplitMethod.SLICES]),
    }
