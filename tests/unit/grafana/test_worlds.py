"""Every alert, every query of a dashboard and every query in the text of an alert, in worlds that are hard on them.

In a world in which all rates are those of a settled node, a number is that of the settled node, or a sum over the part of
the time range that has data, or absent. No third thing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from grafana.alerts import alert_groups
from grafana.values import Values

from support import recorded, worlds
from support.asked import QUERIES, RANGE, filled, rows_of, words_of
from support.hand import Rows
from support.recorded import Prometheus
from support.ruletests import written_groups
from support.worlds import HOUR, NOW

pytestmark = pytest.mark.e2e
ALERTS = {(alert.name, str(alert.severity)): alert for group in alert_groups(Values()) for alert in group.alerts}
STEP = 240
LAST = NOW - STEP
"""The last evaluation of the rules that has all scrapes."""
ABOUT_THE_RANGE = {"Measured", "Firing alerts"}
"""Panels about the world itself."""


@pytest.fixture(scope="module")
def server(tools3: object) -> Iterator[Prometheus]:
    """All worlds in one Prometheus, with their rules and alerts."""
    read = [target["expr"] for target in QUERIES.values()]
    read += [str(rule) for group in written_groups() for rule in group["rules"]]
    names = {name for text in read for name in re.findall(r"[a-z_]\w+", text)}
    with recorded.serving(tools3) as running:  # type: ignore[arg-type]
        for samples in worlds.filled(names):
            recorded.fill(running, samples)
        recorded.record(running, NOW - worlds.LONG, LAST, STEP)
        recorded.alerts(running, NOW - worlds.LONG, LAST, STEP)
        yield running


def asked(server: Prometheus, key: tuple[str, str, str], world: str, at: int, seconds: int = RANGE) -> Rows:
    """What a query of a dashboard finds in a world."""
    values = {"cluster": world, "__range": f"{seconds}s", "__range_s": str(seconds)}
    return of_any_world(server, filled(QUERIES[key]["expr"], values=values), at)


def of_any_world(server: Prometheus, query: str, at: int) -> Rows:
    """What a query finds, without the names of cluster and job."""
    rows = rows_of(server.instant(query, at))
    return {tuple(pair for pair in who if pair[0] not in ("cluster", "job")): value for who, value in rows.items()}


@pytest.mark.parametrize(
    ("world", "at", "known"),
    [
        *(("cold", NOW - HOUR + minutes * 60, minutes * 60) for minutes in (8, 20, 32, 56)),
        *((world, LAST, 3 * HOUR - STEP) for world in ("scrape-15", "scrape-30", "job")),
        ("down", NOW - 2 * HOUR + 20 * 60, 20 * 60),
    ],
)
def test_a_number_is_that_of_a_settled_node_or_of_the_part_with_data_or_absent(
    server: Prometheus, world: str, at: int, known: int
):
    wrong = []
    near = 60 / known  # An interval of scrapes: what comes before the first one is not known.
    for key, target in QUERIES.items():
        if key[1] in ABOUT_THE_RANGE or "offset -" in target["expr"]:
            continue
        whole, part = (asked(server, key, "settled", at, seconds) for seconds in (RANGE, known))
        for who, value in asked(server, key, world, at).items():
            right = [rows[who] for rows in (whole, part) if who in rows]
            if not any(value == pytest.approx(one, rel=near, abs=1e-9) for one in right):
                wrong.append(f"{key} {words_of(who)} is {value}, not one of {right}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("world", "known"), [("cold", HOUR), ("scrape-15", 3 * HOUR), ("job", 3 * HOUR)])
def test_an_amount_in_the_text_of_an_alert_is_that_of_a_settled_node(server: Prometheus, world: str, known: int):
    """Of every alert that fires or is about to: its text asks what it asks of a settled node, or nothing. What a node
    cost in 24 hours is what it cost so far."""
    at, so_far = LAST, (known - STEP) / worlds.DAY
    alerts = server.instant(f'ALERTS{{cluster="{world}"}}', at)
    wrong, compared = [], 0
    for labels, _ in alerts:
        for query in _asked_by(labels):
            settled = query.replace(f'"{world}"', '"settled"').replace('"gpu-metrics"', '"tpw-exporter"')
            wanted, found = (of_any_world(server, text, at) for text in (settled, query))
            compared += len(found)
            wrong += [
                f"{labels['alertname']}: {query} is {value}, settled {wanted.get(who)}"
                for who, value in found.items()
                if value != pytest.approx(wanted.get(who, 0.0) * (so_far if "node:" in query else 1.0), rel=0.02)
            ]
    assert not wrong, "\n".join(wrong)
    assert compared >= 2


def _asked_by(labels: dict[str, str]) -> Iterator[str]:
    """The queries in the description of a firing alert, as Prometheus fills them in."""
    text = ALERTS[labels["alertname"], labels["severity"]].description
    for query, arguments in re.findall(r'printf "((?:[^"\\]|\\.)*)"((?: \$labels\.\w+)*) \| query', text):
        values = iter(re.findall(r"\$labels\.(\w+)", arguments))
        yield re.sub("%q", lambda _, left=values: json.dumps(labels.get(next(left), "")), query.replace('\\"', '"'))


WASTED = {"TpwGpuIdle info", "TpwGpuParked info"}
EXPENSIVE = {"TpwGpuIdle warning", "TpwGpuParked warning", "TpwWasteHigh warning", "TpwCostAboveReference info"}
FIRING: dict[str, set[str]] = {
    "settled": WASTED | EXPENSIVE,
    "cold": set(),
    "scrape-15": WASTED,
    "scrape-30": WASTED,
    "job": WASTED,
    "currencies": WASTED,
    "down": {*WASTED, *EXPENSIVE, "TpwExporterDown warning"},
    "training": {"TpwCostAboveReference info"},
    "night": {"TpwGpuIdle info", "TpwGpuIdle warning", "TpwWasteHigh warning", "TpwCostAboveReference info"},
    "planned": {"TpwCostAboveReference info"},
}
"""Alerts that fire at some time: one of a name for a node, and no ticket in a night that is planned."""


@pytest.mark.parametrize("world", FIRING)
def test_in_a_world_these_alerts_fire_and_no_others(server: Prometheus, world: str):
    curves = server.between(f'ALERTS{{alertstate="firing", cluster="{world}"}}', NOW - worlds.LONG, LAST, STEP)
    assert {f"{labels['alertname']} {labels['severity']}" for labels, _ in curves} == FIRING[world]
    nodes = [(one["alertname"], one["severity"], one["instance"]) for one, _ in curves if "instance" in one]
    assert len(nodes) == len(set(nodes))
