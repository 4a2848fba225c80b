"""A day of real daemons in a real Prometheus: every rule and every query of every dashboard against a hand calculation.

The day is that of :mod:`support.fleetday`. Its pages are compared with the hand books first; then the recorded series
and the results of all dashboard queries are compared with calculations over the hand books (:mod:`support.expected_rules`,
``expected_panels``), at moments that differ in load, price, credit, waste, a lost GPU and a rejected reading.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from grafana.metrics import Vocabulary
from grafana.panels import HERE
from grafana.rules import HOUR_RECORDED, recording_groups, vocabulary
from grafana.rules import recorded as records_of
from grafana.values import Values

from support import expected_panels, expected_rules, fleetday, fleetrun, recorded
from support.asked import DASHBOARDS, QUERIES, RANGE, differences, filled, rows_of, words_of
from support.hand import Choice, Hand, Rows
from support.recorded import Prometheus
from support.ruletests import written_groups
from support.samples import LOOKBACK, Samples
from tpw.model import State

WORDS: Vocabulary = vocabulary(Values())
RULES = expected_rules.expected()
PANELS = expected_panels.expected()


def clock(hour: int, minute: int) -> int:
    """A moment of the day."""
    return fleetday.START + hour * 3600 + minute * 60


MOMENTS = {
    "an hour after a restart, and after a number that was rejected": clock(11, 30),
    "at a negative price, with a GPU lost": clock(13, 45),
    "in the expensive evening, after a server was down": clock(17, 45),
    "at night, cheap, one server at work": clock(22, 30),
}
CHOSEN = (Choice(), Choice(kind="total", scope="energy", boundary="facility"))
EMPTY = {
    ("tpw-money", "This month, $currency", "A"): "the books are not a day old",
    ("tpw-overview", "Spent, $currency", "C"): "the books are not a day old",
    HOUR_RECORDED: "the mark of what is recorded once an hour; tests/rules/recording-hours.yaml has it",
    ("tpw-gpus", "Energy today, by state", "B"): "no other program used a GPU on this day",
    ("tpw-gpus", "Energy today, by state", "C"): "no server was seen to start on this day",
    ("tpw-gpus", "Energy today, by state", "F"): "no planned pauses are configured; test_worlds.py has one",
    ("tpw-gpus", "GPUs by state", "F"): "the same",
    ("tpw-fleet", "GPUs", "F"): "the same",
    ("tpw-overview", "Power by state", "F"): "the same",
    ("tpw-money", "What advice would save, $currency per month", "A"): "`advice.metrics` is not set here",
    ("tpw-models", "Joules per request", "B"): "no engine here counts work other than tokens",
    ("tpw-models", "Requests without usage", "A"): "every request here is counted by its engine, none by a gateway",
    ("tpw-measuring", "GPUs against the node's own meter", "A"): "no node here has a meter of its own",
    ("tpw-gpus", "GPUs that servers share", "A"): "every GPU is one server's here; test_shared_gpus.py has others",
    ("tpw-gpus", "Estimated power of instances (MIG)", "A"): "no GPU is partitioned here; test_shared_gpus.py has one",
    **dict.fromkeys(
        [name for name in RULES if "_slo_" in name or "_good_" in name]
        + [("tpw-models", "Latency by load", letter) for letter in "ABCDE"],
        "no server here has targets; tests/rules/recording.yaml and test_service_levels.py have one",
    ),
    **dict.fromkeys(
        (name for name in RULES if "deployment" in name),
        "no server's process is seen; tests/rules/recording.yaml has two",
    ),
}
"""Queries that find nothing in this day, and why."""


# ---------------------------------------------------------------------------------------------------------- the two days


@pytest.fixture(scope="module")
def hands(books: Samples, edition: str) -> dict[tuple[str, Choice], Hand]:
    """The moments, with each choice of a dashboard's variables."""
    return {
        (name, choice): Hand(books, at, RANGE, choice, older=edition == "2")
        for name, at in MOMENTS.items()
        for choice in CHOSEN
    }


@pytest.mark.e2e
def test_every_page_of_the_day_matches_the_hand_books(pages: Samples, books: Samples):
    """Every sample of every metric that a rule or a dashboard reads, and of every other one that the hand books have."""
    wrong: list[str] = []
    for metric in sorted(pages.metrics.keys() & _read() | books.metrics.keys()):
        found, wanted = pages.metrics.get(metric, {}), books.metrics.get(metric, {})
        wrong += [f"{metric}{words_of(who)} is in one of them only" for who in found.keys() ^ wanted.keys()]
        for who in found.keys() & wanted.keys():
            mine, theirs = found[who], wanted[who]
            if mine.times != theirs.times or mine.gone != theirs.gone:
                wrong.append(f"{metric}{words_of(who)} is there at other times")
                continue
            apart = [
                at
                for at, one, other in zip(mine.times, mine.values, theirs.values, strict=True)
                if abs(one - other) > 1e-9 * max(abs(one), abs(other), 1e-6)
            ]
            if apart:
                at = apart[0]
                hour = (at - fleetday.START) / 3600
                wrong.append(f"{metric}{words_of(who)} is {mine.at(at)} at {hour:.3f} h, by hand {theirs.at(at)}")
    assert wrong == []


def _read() -> set[str]:
    """The names in all queries and rules. A metric that none of them reads needs no hand calculation here."""
    exprs = [target["expr"] for target in QUERIES.values()]
    exprs += [rule["expr"] for group in written_groups() for rule in group["rules"]]
    return {name for expr in exprs for name in WORDS.names(expr)}


# ----------------------------------------------------------------------------------------------------- nothing forgotten


def test_every_recording_rule_has_an_expectation():
    assert RULES.keys() == records_of(recording_groups(Values()), Values()).keys()


def test_every_query_has_an_expectation():
    assert PANELS.keys() == QUERIES.keys()


@pytest.mark.e2e
def test_every_expectation_finds_something_at_some_moment(hands: dict[tuple[str, Choice], Hand]):
    """An expectation that is always empty would be met by a query that is always empty."""
    for name, function in {**RULES, **PANELS}.items():
        if name not in EMPTY:
            assert any(function(hand) for hand in hands.values()), f"{name} is never there"


# ------------------------------------------------------------------------------------------------------------ the values


def _lately(name: str) -> str:
    """What is recorded once an hour is of the last one."""
    return f"last_over_time({name}[1h])" if name.endswith(":sum1h") else name


@pytest.mark.e2e
@pytest.mark.parametrize("moment", MOMENTS)
def test_rules_record_the_hand_calculation(server: Prometheus, hands: dict[tuple[str, Choice], Hand], moment: str):
    hand = hands[moment, CHOSEN[0]]
    wrong = {
        name: words
        for name, function in RULES.items()
        if (words := differences(rows_of(server.instant(_lately(name), hand.at)), function(hand)))
    }
    assert wrong == {}


@pytest.mark.e2e
@pytest.mark.parametrize("choice", CHOSEN, ids=lambda choice: f"{choice.kind}-{choice.scope}-{choice.boundary}")
@pytest.mark.parametrize("moment", MOMENTS)
def test_dashboards_show_the_hand_calculation(
    server: Prometheus, hands: dict[tuple[str, Choice], Hand], moment: str, choice: Choice
):
    hand = hands[moment, choice]
    wrong = {}
    for key, target in QUERIES.items():
        values = {"__interval": target["interval"]} if target.get("interval") in ("1h", "1d") else {}
        got = rows_of(server.instant(filled(target["expr"], choice, values), hand.at))
        words = differences(got, PANELS[key](hand))
        if words:
            wrong[key] = words
    assert wrong == {}


@pytest.mark.e2e
def test_curves_have_the_same_values(server: Prometheus, hands: dict[tuple[str, Choice], Hand]):
    """A range query is an instant query at every step."""
    hand = hands["in the expensive evening, after a server was down", CHOSEN[0]]
    for key, target in QUERIES.items():
        if target.get("instant") or target.get("interval") == "1d":
            continue
        expr = filled(target["expr"])
        curves = server.between(expr, hand.at - 600, hand.at, 300)
        last = [(labels, float(samples[-1][1])) for labels, samples in curves if samples[-1][0] == hand.at]
        assert differences(rows_of(last), PANELS[key](hand)) == [], key


# ------------------------------------------------------------------------------------------------ unknown is not zero


@pytest.fixture(scope="module")
def unpriced(tools3: Path) -> Iterator[Prometheus]:
    """Hours without any tariff."""
    end = fleetday.START + 2 * 3600
    with recorded.serving(tools3) as running:
        recorded.fill(running, fleetrun.live(fleetday.START, end, priced=False))
        recorded.record(running, fleetday.START, end)
        yield running


@pytest.mark.e2e
def test_without_a_tariff_money_is_empty_and_nothing_else_is(unpriced: Prometheus, books: Samples):
    end = fleetday.START + 2 * 3600
    hand = Hand(books, end, 3600)
    for key, target in QUERIES.items():
        found = rows_of(unpriced.instant(filled(target["expr"], values={"__range": "1h", "__range_s": "3600"}), end))
        about_money = any(
            ("currency" in WORDS.series[name] and name != "ALERTS") or name.startswith("tpw_electricity")
            for name in WORDS.names(target["expr"])
        )
        if about_money:
            assert found == {}, f"{key} shows unknown money"
        elif not re.search("price|demand|ALERTS|offset -", target["expr"]):
            wanted = {who for who in PANELS[key](hand) if ("source", "tariff") not in who}
            assert found.keys() == wanted, f"{key} differs although it needs no price"


@pytest.mark.e2e
def test_when_nothing_is_collected_nothing_is_shown(server: Prometheus):
    """Hours after the last sample no query makes up a number, least of all a zero."""
    later = fleetday.END + 2 * RANGE + LOOKBACK
    made_up = [
        key
        for key, target in QUERIES.items()
        if "7d]" not in target["expr"] and "1d]" not in target["expr"] and server.instant(filled(target["expr"]), later)
    ]
    assert made_up == []


@pytest.mark.e2e
def test_the_part_of_the_range_without_data_is_shown(server: Prometheus):
    """An hour after the first sample a range of three hours has data for one, and its sums are sums of that one."""
    answer = server.instant(filled(QUERIES["tpw-overview", "Measured", "A"]["expr"]), clock(1, 0))
    assert {labels["part"]: value for labels, value in answer}["with data"] == pytest.approx(1 / 3, abs=0.03)


@pytest.mark.e2e
def test_missing_recording_rules_are_not_a_missing_exporter(tools3: Path):
    with recorded.serving(tools3) as bare:
        expr = filled(QUERIES["tpw-overview", "Measured", "A"]["expr"])
        assert bare.instant(expr, clock(12, 0)) == []
        samples = Samples()
        samples.series("tpw_build_info", (("instance", "a:10101"), ("job", "tpw-exporter"))).put(clock(12, 0), 1.0)
        recorded.fill(bare, samples)
        assert bare.instant(expr, clock(12, 0)) == [({"part": "now"}, -1.0)]


@pytest.mark.e2e
def test_a_busy_gpu_is_not_drawn_idle_after_a_start(tools3: Path):
    """A minute after a start a fifth of the window is known: the state is absent. In 0.1.0 it was idle."""
    expr = filled(QUERIES["tpw-gpus", "GPUs", "B"]["expr"])
    who = {"instance": "a:10101", "job": "tpw-exporter", "gpu": "0", "uuid": "GPU-a0"}
    samples = Samples()
    shares_of = dict.fromkeys(map(str, State), (0.0, 0.0)) | {"active": (0.2, 0.98), "idle": (0.0, 0.02)}
    for state, shares in shares_of.items():
        series = samples.series("gpu:tpw_gpu_state_seconds:rate5m", tuple(sorted({**who, "state": state}.items())))
        for minute, share in enumerate(shares):
            series.put(clock(12, 5 * minute), share)
    with recorded.serving(tools3) as bare:
        recorded.fill(bare, samples)
        assert bare.instant(expr, clock(12, 1)) == []
        assert bare.value(expr, clock(12, 6)) == 2.0


# ---------------------------------------------------------------------------------------------------------- two clusters


@pytest.fixture(scope="module")
def clusters(pages: Samples, tools3: Path) -> Iterator[Prometheus]:
    """Two clusters with equal names of nodes, servers and GPUs: one day twice in one Prometheus."""
    with recorded.serving(tools3) as running:
        for cluster in ("eu", "us"):
            recorded.fill(running, pages.labelled(cluster=cluster))
        recorded.record(running, clock(12, 0), clock(18, 0))
        yield running


@pytest.fixture(scope="module")
def alone(pages: Samples, tools3: Path) -> Iterator[Prometheus]:
    """One of them, without a name."""
    with recorded.serving(tools3) as running:
        recorded.fill(running, pages)
        recorded.record(running, clock(12, 0), clock(18, 0))
        yield running


@pytest.mark.e2e
def test_clusters_with_equal_names_are_never_put_together(clusters: Prometheus, alone: Prometheus):
    """A chosen cluster shows what it would show alone. Of all, a row that names a node, server or GPU is of one cluster."""
    at = clock(17, 45)
    wrong = {}
    for key, target in QUERIES.items():
        values = {"__interval": target["interval"]} if target.get("interval") in ("1h", "1d") else {}
        wanted = rows_of(alone.instant(filled(target["expr"], values=values), at))
        chosen = rows_of(clusters.instant(filled(target["expr"], values={**values, "cluster": "eu"}), at))
        every = rows_of(clusters.instant(filled(target["expr"], values=values), at))
        local = {who: value for who, value in every.items() if {"instance", "server", "gpu"} & dict(who).keys()}
        mixed = [who for who in local if "cluster" not in dict(who)]
        of_eu = differences(_without_cluster({who: v for who, v in local.items() if ("cluster", "eu") in who}), wanted)
        words = differences(_without_cluster(chosen), wanted) + [f"{words_of(who)} is of both" for who in mixed]
        words += of_eu if local and not mixed and not re.search(r"topk|on \(\)", target["expr"]) else []
        if words:
            wrong[key] = words
    assert not wrong, "\n".join(f"{key}: {words[:3]}" for key, words in wrong.items())


@pytest.mark.e2e
def test_a_row_links_to_its_own_cluster(clusters: Prometheus, alone: Prometheus):
    """In 0.1.0 a link kept the chosen clusters, all of them: a server of one name in both was shown as one."""
    expr = filled(QUERIES["tpw-overview", "Models: now, and in the last 24 hours", "A"]["expr"])
    found = {(row["cluster"], row[HERE]) for row, _ in clusters.instant(expr, clock(17, 45))}
    assert found == {("eu", "eu"), ("us", "us")}
    assert {row[HERE] for row, _ in alone.instant(expr, clock(17, 45))} == {"$__all"}


@pytest.mark.e2e
def test_a_namespace_chooses_the_gpus_of_its_servers(server: Prometheus):
    """All namespaces are all GPUs; one is those of its servers. Names without a namespace are like one."""
    at = clock(17, 45)
    target = QUERIES["tpw-gpus", "GPUs", "C"]["expr"]
    owners = rows_of(server.instant("max by (uuid, server) (tpw_server_gpu)", at))
    chat = {dict(who)["uuid"] for who in owners if dict(who)["server"] == "chat"}
    found = {who["uuid"] for who, _ in server.instant(filled(target, values={"namespace": "chat"}), at)}
    assert found == chat
    assert found < {who["uuid"] for who, _ in server.instant(filled(target), at)}


def _without_cluster(rows: Rows) -> Rows:
    return {tuple(pair for pair in who if pair[0] != "cluster"): value for who, value in rows.items()}


# ------------------------------------------------------------------------------------------------------------- the rest


@pytest.mark.e2e
@pytest.mark.parametrize("step", [60, 300, 1800, 7200])
@pytest.mark.parametrize(
    ("name", "metric"),
    [("Price changed", "tpw_electricity_price_per_kwh"), ("Exporter started", "process_start_time_seconds")],
)
def test_an_event_is_found_at_every_step(server: Prometheus, pages: Samples, name: str, metric: str, step: int):
    """From a window of an hour to one of months: every event, within one window of its time, and nothing else."""
    window = max(step + 60, 240)
    (annotation,) = (entry for entry in DASHBOARDS["tpw-overview"]["annotations"]["list"] if entry["name"] == name)
    expr = filled(annotation["expr"], values={"__rate_interval": f"{window}s"})
    shown = [float(at) for _, hits in server.between(expr, fleetday.START, fleetday.END, step) for at, _ in hits]
    events = [
        at
        for series in pages.metrics[metric].values()
        for (_, before), (at, after) in pairwise(zip(series.times, series.values, strict=True))
        if after != before
    ]
    assert len(events) >= 2
    late = fleetday.END - window
    assert [at for at in events if at <= late and not any(at <= hit <= at + window for hit in shown)] == []
    events += [series.times[0] for series in pages.metrics[metric].values() if name == "Exporter started"]
    assert [hit for hit in shown if not any(hit - window <= at <= hit for at in events)] == []


@pytest.mark.e2e
def test_every_annotation_and_alert_runs(server: Prometheus):
    for dashboard in DASHBOARDS.values():
        for annotation in dashboard["annotations"]["list"]:
            assert isinstance(server.between(filled(annotation["expr"]), clock(9, 0), clock(15, 0), 60), list)
    for group in written_groups():
        for rule in group["rules"]:
            assert isinstance(server.instant(rule["expr"], clock(13, 45)), list)


@pytest.mark.e2e
def test_every_variable_finds_its_values(server: Prometheus):
    for dashboard in DASHBOARDS.values():
        for variable in dashboard["templating"]["list"]:
            if variable["type"] != "query":
                continue
            query = variable["query"]
            selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", query).groups()  # type: ignore[union-attr]
            WORDS.check(selector)
            assert label in WORDS.series[WORDS.names(selector)[0]]
            answer = server.instant(f"group by ({label}) ({filled(selector)})", clock(13, 45))
            found = {labels.get(label) for labels, _ in answer}
            assert found != {None} or label == "cluster"
