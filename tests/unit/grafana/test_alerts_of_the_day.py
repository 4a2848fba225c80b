"""Alerts over a day of real daemons: which fire, when, and with which sum of money."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana.alerts import alert_groups, annotations_of
from grafana.values import Values

from support import expected_alerts, fleetday
from support.expected_alerts import Firing, clock
from support.hand import WASTE, Hand, over
from support.recorded import Prometheus
from support.ruletests import closure, written_groups
from support.samples import Samples

VALUES = Values()
ALERTS = {(alert.name, str(alert.severity)): alert for group in alert_groups(VALUES) for alert in group.alerts}
IDLE = next(gpu for gpu in fleetday.GPUS if gpu.node is fleetday.B and gpu.index == 6)
SHOWN = {"instance", "gpu", "server", "model", "reason"}
MINUTE = 60


@pytest.mark.e2e
def test_alerts_fire_when_they_should_and_no_other_does(server: Prometheus):
    found = set()
    curves = server.between('ALERTS{alertstate="firing"}', fleetday.START, fleetday.END, MINUTE)
    for labels, samples in curves:
        who = tuple(sorted((name, value) for name, value in labels.items() if name in SHOWN))
        begin = before = int(samples[0][0])
        for at in [*(int(at) for at, _ in samples[1:]), fleetday.END + 2 * MINUTE]:
            if at > before + MINUTE:
                found.add(Firing(labels["alertname"], labels["severity"], who, begin, before))
                begin = at
            before = at
    assert found == set(expected_alerts.expected())


# ------------------------------------------------------------------------------------- conditions that are sums of a day


def _waste(hand: Hand) -> bool:
    waste, cost = (hand.all_cost(86400, (), "full", **which) for which in ({"state": WASTE}, {}))
    return over(waste, cost)[()] > VALUES.waste_share and waste[()] > VALUES.waste_floor_per_day


def _above_reference(server: str) -> Any:
    def condition(hand: Hand) -> bool:
        cost = sum(hand.cost(86400, (), "full", server=server).values())
        there = hand.gained("tpw_server_reference_cost_total", 86400, (), server=server, reference="api-70b")
        return cost > VALUES.above_reference_ratio * sum(there.values())

    return condition


def _money_of(node: fleetday.Node, state: str) -> Any:
    def condition(hand: Hand) -> bool:
        return hand.all_cost(86400, (), "full", state=state, instance=node.instance)[()] > VALUES.idle_warning_money

    return condition


def _throttled(hand: Hand) -> bool:
    held = hand.rate("tpw_gpu_throttle_seconds_total", 900, (), uuid=fleetday.WILD.uuid, reason="hw_thermal")
    return held[()] > VALUES.throttled_share


@pytest.mark.parametrize(
    ("condition", "begins", "holds_for", "ends"),
    [
        (_waste, "07:59", VALUES.waste_for, "24:00"),
        (_above_reference("big"), "13:39", VALUES.above_reference_for, "24:00"),
        (_above_reference("chat"), "06:02", VALUES.above_reference_for, "07:31"),
        (_money_of(fleetday.B, "idle"), "02:28", VALUES.idle_for, "24:00"),
        (_money_of(fleetday.A, "parked"), "05:32", VALUES.parked_for, "24:00"),
        (_money_of(fleetday.B, "parked"), "09:25", VALUES.parked_for, "24:00"),
        (_throttled, "14:23", VALUES.throttled_for, "14:25"),
    ],
)
@pytest.mark.e2e
def test_sums_cross_their_thresholds_when_the_hand_books_do(
    books: Samples, condition: Any, begins: str, holds_for: str, ends: str
):
    """The threshold is crossed so long before the alert fires, and falls again in the minute after it."""
    seconds = int(holds_for[:-1]) * {"m": 60, "h": 3600}[holds_for[-1]]
    since = clock(begins) - seconds
    assert condition(Hand(books, since))
    assert condition(Hand(books, clock(ends)))
    before = Hand(books, since - MINUTE)
    assert since < fleetday.START + 5 * MINUTE or not condition(before)
    assert ends == "24:00" or not condition(Hand(books, clock(ends) + MINUTE))


# --------------------------------------------------------------------------------------------------- money in the words


def _scraped(samples: Samples, metric: str, begin: int, end: int, **who: str) -> list[dict[str, str]]:
    """Input series of a rule test: what was scraped, minute by minute."""
    rows = []
    for labels, series in samples.select(metric, who):
        inner = ",".join(f'{name}="{value}"' for name, value in labels)
        values = [series.at(at) for at in range(begin, end + 1, MINUTE)]
        shown = " ".join("_" if value is None else repr(value) for value in values)
        rows.append({"series": f"{metric}{{{inner}}}", "values": shown})
    assert rows, f"nothing of {metric} was scraped"
    return rows


def _money_a_day(samples: Samples, at: int, state: str, uuid: str) -> str:
    net = Hand(samples, at).all_cost(300, (), "full", state=state, uuid=uuid)
    return f"{net[()] / 300 * 86400:.2f} EUR a day."


def _known(samples: Samples, begin: int, end: int, state: str, uuid: str) -> float:
    """What a GPU cost in a state, as far as a Prometheus knows that began to scrape minutely at ``begin``."""
    known = Samples()
    for metric in ("cost", "credit"):
        for who, series in samples.select(f"tpw_gpu_state_{metric}_total", {"uuid": uuid, "state": state}):
            for at in range(begin, end + 1, MINUTE):
                value = series.at(at)
                if value is not None:
                    known.series(f"tpw_gpu_state_{metric}_total", who).put(at, value)
    return Hand(known, end).all_cost(86400, (), "full")[()]


@pytest.mark.parametrize(
    ("name", "state", "gpu", "words", "advice"),
    [
        (
            "TpwGpuIdle",
            "idle",
            IDLE,
            f"GPUs of {IDLE.node.instance} that nobody uses: 1 (index 6).",
            "No server owned them in the last 24 hours. Use them, release them, or plan the pause (planned_off).",
        ),
        (
            "TpwGpuParked",
            "parked",
            fleetday.FleetGpu(fleetday.A, 6),
            f"big holds GPUs of {fleetday.A.instance} and gets no requests: 1 (index 6).",
            "It made no tokens in the last 24 hours. "  # noqa: ISC004
            "Use fewer replicas, scale to zero or let the engine sleep, or plan the pause (planned_off).",
        ),
    ],
)
@pytest.mark.e2e
def test_the_description_has_the_amount_of_the_hand_books(
    pages: Samples,
    books: Samples,
    tools: Path,
    tmp_path: Path,
    name: str,
    state: str,
    gpu: Any,
    words: str,
    advice: str,
):
    """The scraped samples of an idle and of a parked GPU at a negative price, through Prometheus' own templates."""
    begin, end = clock("13:45") - 4 * 3600, clock("13:45")
    who = {"uuid": gpu.uuid}
    inputs = [
        row
        for metric in ("seconds", "cost", "credit")
        for row in _scraped(pages, f"tpw_gpu_state_{metric}_total", begin, end, **who)
    ] + _scraped(pages, "tpw_gpu_up", begin, end, **who)
    if state == "parked":
        inputs += _scraped(pages, "tpw_server_gpu", begin, end, **who)
    where = {"job": fleetday.JOB, "instance": gpu.node.instance} | ({"server": "big"} if state == "parked" else {})
    money = (
        f"They cost {_money_a_day(books, end, state, gpu.uuid)}"
        f" In the last 24 hours {state} time of this node cost {_known(books, begin, end, state, gpu.uuid):.2f} EUR."
    )
    description = f"{words} {money} {advice}"
    notes = annotations_of(ALERTS[name, "info"], VALUES) | {"runbook_url": f"deploy/runbooks/{name}.md"}
    escaped = where["instance"].replace(":", "%3A")
    notes = {key: text.replace("{{ $labels.instance | urlquery }}", escaped) for key, text in notes.items()}
    notes["dashboard_url"] = notes["dashboard_url"].partition("{{ if $labels.cluster }}")[0]
    case = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "group_eval_order": [group["name"] for group in closure(written_groups(), {name})],
        "tests": [
            {
                "interval": "1m",
                "input_series": inputs,
                "alert_rule_test": [
                    {
                        "alertname": name,
                        "eval_time": f"{(end - begin) // 60}m",
                        "exp_alerts": [
                            {
                                "exp_labels": {**where, "severity": "info"},
                                "exp_annotations": {**notes, "description": description},
                            }
                        ],
                    }
                ],
            }
        ],
    }
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": closure(written_groups(), {name})}))
    (tmp_path / "case.yaml").write_text(yaml.safe_dump(case, width=10**9))
    done = subprocess.run(
        [tools / "promtool", "test", "rules", "case.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.e2e
def test_credit_is_in_the_money_of_an_idle_gpu(books: Samples):
    """At the negative price an idle GPU costs less than its hardware and hosting: the description above contains that."""
    hourly = fleetday.B.hardware + fleetday.HOSTING
    net = Hand(books, clock("13:45")).all_cost(300, (), "full", state="idle", uuid=IDLE.uuid)[()] * 12
    watts = fleetday.watts(IDLE, clock("13:45"))
    assert net == pytest.approx(hourly - 0.03 * watts * fleetday.PUE / 1000, rel=1e-3)
    assert net < hourly
