"""Every query of every board, and every rule, in a real Prometheus over made-up hours, compared with a hand calculation.

The hours are 11:45 to 17:45 of :mod:`support.fleetday`; the rules are evaluated over the last three of them.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grafana.board import CHOICES, FILTERS
from grafana.metrics import Vocabulary
from grafana.render import dashboards
from grafana.rules import vocabulary
from grafana.values import Values

from support.fleetday import HOST_SHARE, PUE, TOKENS_ON, Fleet
from support.realparts import prometheus_dir
from support.recorded import Prometheus, import_fleet, record, serving
from support.ruletests import written_groups

pytestmark = pytest.mark.e2e

END = 1767375900
"""2026-01-02 17:45 UTC."""
RANGE = 3 * 3600
WORDS: Vocabulary = vocabulary(Values())
BOARDS: dict[str, dict[str, Any]] = {uid: json.loads(text) for uid, text in dashboards(Values()).items()}
EMPTY = {
    ("tpw-models", "Joules per request", "B"): "no engine here counts work other than tokens",
    ("tpw-measuring", "GPUs against the node's own meter", "A"): "no node here has a meter of its own",
    ("tpw-overview", "Firing alerts", "A"): "alerts are evaluated elsewhere",
    ("tpw-measuring", "Energy readings not believed", "A"): "none in these hours",
}
"""Queries that must find nothing here, and why."""
BY_LOAD = "Tokens per joule by load"
"""Nobody ran at some loads in these hours."""


def _queries() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    for uid, board in BOARDS.items():
        for panel in board["panels"]:
            for inner in panel["panels"] if panel["type"] == "row" else (panel,):
                for target in inner.get("targets", ()):
                    yield uid, inner, target


QUERIES = tuple(_queries())


def filled(expr: str, values: dict[str, str] | None = None) -> str:
    """The expression with the first choice of every variable, as Grafana would fill it in."""
    chosen: dict[str, str] = {name: everything for name, (_, _, everything) in FILTERS.items()}
    texts: dict[str, str] = {}
    for name, (_, options) in CHOICES.items():
        texts[name], chosen[name] = options[0]
    chosen |= {"reference": "api-70b", "currency": "EUR", "__range": f"{RANGE}s", "__range_s": str(RANGE)}
    chosen |= {"__interval": "1h", "__rate_interval": "4m", **(values or {})}
    expr = re.sub(r"\$\{(\w+):text\}", lambda match: texts[match.group(1)], expr)
    return re.sub(r"\$\{?(\w+)\}?", lambda match: chosen[match.group(1)], expr)


def run(server: Prometheus, target: dict[str, Any], at: float, values: dict[str, str] | None = None) -> list[Any]:
    """What a panel's query brings at an instant, or over the last hour."""
    expr = filled(target["expr"], values)
    if target.get("instant"):
        return server.instant(expr, at)
    step = {"1h": 3600, "1d": 86400, "5m": 300}.get(target.get("interval", ""), 60)
    return server.between(expr, at - max(3600, step), at, step)


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet(END, 0.25, 60)


@pytest.fixture(scope="module")
def data(fleet: Fleet, tools3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fleet") / "data"
    folder.mkdir()
    import_fleet(tools3, fleet, folder)
    record(tools3, folder, END - RANGE, END)
    return folder


@pytest.fixture(scope="module")
def server(data: Path, tools3: Path) -> Iterator[Prometheus]:
    with serving(tools3, data) as running:
        yield running


@pytest.fixture(scope="module")
def unpriced(tools3: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """An hour without any tariff."""
    folder = tmp_path_factory.mktemp("unpriced") / "data"
    folder.mkdir()
    import_fleet(tools3, Fleet(END, 1 / 12, 60, priced=False), folder)
    record(tools3, folder, END - 1800, END)
    with serving(tools3, folder) as running:
        yield running


# ------------------------------------------------------------------------------------------------------ everything runs


def test_every_query_of_every_board_brings_something(server: Prometheus):
    silent = {
        (uid, panel["title"], target["refId"])
        for uid, panel, target in QUERIES
        if not run(server, target, END) and panel["title"] != BY_LOAD
    }
    assert silent == set(EMPTY)


def test_some_loads_were_run_at(server: Prometheus):
    found = [run(server, target, END) for _, panel, target in QUERIES if panel["title"] == BY_LOAD]
    assert sum(map(len, found)) >= 3


def test_every_query_runs_with_every_choice(server: Prometheus):
    for name, (_, options) in CHOICES.items():
        _, value = options[1]
        for _, _, target in QUERIES:
            if f"${name}" in target["expr"]:
                assert isinstance(run(server, target, END, {name: value}), list)


def test_every_query_runs_in_the_older_prometheus(data: Path, tmp_path: Path):
    blocks = shutil.copytree(
        data, tmp_path / "data", ignore=shutil.ignore_patterns("wal", "chunks_head", "lock", "*.active")
    )
    with serving(prometheus_dir("2"), blocks) as running:
        for uid, panel, target in QUERIES:
            key = (uid, panel["title"], target["refId"])
            assert run(running, target, END) or key in EMPTY or key[1] == BY_LOAD, f"{key} brings nothing"


def test_every_rule_runs(server: Prometheus):
    for group in written_groups():
        for rule in group["rules"]:
            assert isinstance(server.instant(rule["expr"], END), list)


def test_every_annotation_runs(server: Prometheus):
    for board in BOARDS.values():
        for annotation in board["annotations"]["list"]:
            assert isinstance(server.between(filled(annotation["expr"]), END - RANGE, END, 60), list)


def test_every_variable_finds_its_values(server: Prometheus):
    for board in BOARDS.values():
        for variable in board["templating"]["list"]:
            if variable["type"] != "query":
                continue
            query = variable["query"]
            selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", query).groups()  # type: ignore[union-attr]
            WORDS.check(selector)
            assert label in WORDS.series[WORDS.names(selector)[0]]
            found = {labels.get(label) for labels, _ in server.instant(f"group by ({label}) ({filled(selector)})", END)}
            assert found != {None} or label == "cluster"


# --------------------------------------------------------------------------------------------------- unknown is not zero


def test_without_a_tariff_money_is_empty_and_nothing_else_is(unpriced: Prometheus):
    for uid, panel, target in QUERIES:
        words = target["expr"]
        found = run(unpriced, target, END, {"__range": "1800s", "__range_s": "1800"})
        about_money = any(
            ("currency" in WORDS.series[name] and name != "ALERTS") or name.startswith("tpw_electricity")
            for name in WORDS.names(words)
        )
        key = (uid, panel["title"], target["refId"])
        if about_money:
            assert found == [], f"{key} shows money that nobody knows"
        elif key not in EMPTY and key[1] != BY_LOAD and "price" not in words and "failures" not in words:
            assert found != [], f"{key} is empty although it needs no price"


def test_when_nothing_is_collected_nothing_is_shown(server: Prometheus):
    """Hours after the last sample no query makes up a number, least of all a zero."""
    later = END + 3 * RANGE
    made_up = [
        (uid, panel["title"], target["refId"], found)
        for uid, panel, target in QUERIES
        if "7d]" not in target["expr"] and "1d]" not in target["expr"] and (found := run(server, target, later))
    ]
    assert made_up == []


# ------------------------------------------------------------------------------------------------------------- by hand


def of(prometheus: Prometheus, uid: str, title: str, ref: str = "A", /, **labels: str) -> float:
    """The one value of a panel's query at the end, of the series with these labels."""
    (target,) = [
        target for board, panel, target in QUERIES if (board, panel["title"], target["refId"]) == (uid, title, ref)
    ]
    rows = prometheus.instant(filled(target["expr"]), END)
    values = [value for have, value in rows if labels.items() <= have.items()]
    assert len(values) == 1, f"{len(values)} values for {title}"
    return values[0]


FIVE = 240
"""Seconds between the first and the last sample of five minutes: Prometheus 3 leaves the one at the edge out."""
HOUR = 3540
WHOLE = RANGE - 60
NEAR = 1e-6
RANGES = 0.01
"""Over a whole range, increase() extrapolates by up to one sample at each end, and not below zero."""


def grown(seconds: int, window: int) -> float:
    """What a rate over a window makes of the rise between its first and last sample."""
    return window / seconds


def test_tokens_per_joule(server: Prometheus, fleet: Fleet):
    tokens = fleet.rise("tpw_server_tokens_total", FIVE, kind="output")
    owned = fleet.rise("tpw_server_energy_joules_total", FIVE)
    every = fleet.rise("tpw_gpu_energy_joules_total", FIVE)
    assert of(server, "tpw-overview", "Tokens / joule", "A") == pytest.approx(tokens / owned, rel=NEAR)
    assert of(server, "tpw-overview", "Tokens / joule", "B") == pytest.approx(tokens / every, rel=NEAR)
    assert of(server, "tpw-fleet", "Tokens / joule") == pytest.approx(tokens / every, rel=NEAR)


def test_tokens_per_joule_of_a_server_over_two_nodes(server: Prometheus, fleet: Fleet):
    """Its tokens are counted on one node, its joules on both."""
    query = 'model:tpw_tokens_per_joule:ratio_rate5m{server="code", kind="output", boundary="BOUNDARY"}'
    tokens = fleet.rise("tpw_server_tokens_total", FIVE, server="code", kind="output")
    here = fleet.rise("tpw_server_energy_joules_total", FIVE, server="code", instance=TOKENS_ON)
    both = fleet.rise("tpw_server_energy_joules_total", FIVE, server="code")
    assert both > 1.5 * here
    assert server.value(query.replace("BOUNDARY", "gpu"), END) == pytest.approx(tokens / both, rel=NEAR)
    facility = tokens / both / ((1 + HOST_SHARE) * PUE)
    assert server.value(query.replace("BOUNDARY", "facility"), END) == pytest.approx(facility, rel=NEAR)


def test_live_ratio_and_rules_agree(server: Prometheus):
    """On a minute's window each; the load moves a little within five."""
    for labels, live in server.instant('tpw_tokens_per_watt{kind="output", boundary="gpu"} > 0', END):
        who = f'server="{labels["server"]}", model="{labels["model"]}"'
        rule = server.value(f'model:tpw_tokens_per_joule:ratio_rate5m{{{who}, kind="output", boundary="gpu"}}', END)
        assert rule == pytest.approx(live, rel=0.03)


def test_cost_per_million_tokens(server: Prometheus, fleet: Fleet):
    tokens = fleet.rise("tpw_server_tokens_total", HOUR, kind="output")
    servers = fleet.rise("tpw_server_cost_total", HOUR) - fleet.rise("tpw_server_credit_total", HOUR)
    every = fleet.rise("tpw_gpu_state_cost_total", HOUR) - fleet.rise("tpw_gpu_state_credit_total", HOUR)
    assert of(server, "tpw-overview", "$currency / M tokens", "A") == pytest.approx(1e6 * servers / tokens, rel=NEAR)
    assert of(server, "tpw-overview", "$currency / M tokens", "B") == pytest.approx(1e6 * every / tokens, rel=NEAR)


def test_money_of_the_range(server: Prometheus, fleet: Fleet):
    more = grown(WHOLE, RANGE)
    every = fleet.rise("tpw_gpu_state_cost_total", WHOLE) - fleet.rise("tpw_gpu_state_credit_total", WHOLE)
    assert of(server, "tpw-money", "$currency spent") == pytest.approx(every * more, rel=RANGES)
    waste = sum(fleet.rise("tpw_gpu_state_cost_total", WHOLE, state=state) for state in ("parked", "idle"))
    assert of(server, "tpw-money", "Wasted") == pytest.approx(waste * more, rel=RANGES)
    energy = fleet.rise("tpw_gpu_state_cost_total", WHOLE, component="energy")
    assert of(server, "tpw-money", "Electricity") == pytest.approx(energy * more, rel=RANGES)
    reference = fleet.rise("tpw_server_reference_cost_total", WHOLE, reference="api-70b")
    servers = fleet.rise("tpw_server_cost_total", WHOLE) - fleet.rise("tpw_server_credit_total", WHOLE)
    assert of(server, "tpw-money", "Saved") == pytest.approx((reference - servers) * more, rel=RANGES)


def test_paid_per_kwh(server: Prometheus, fleet: Fleet):
    paid = fleet.rise("tpw_server_cost_total", WHOLE, component="energy") - fleet.rise("tpw_server_credit_total", WHOLE)
    kwh = fleet.rise("tpw_server_facility_energy_joules_total", WHOLE) / 3.6e6
    assert of(server, "tpw-money", "$currency paid / kWh") == pytest.approx(paid / kwh, rel=RANGES)
    assert 0.24 < paid / kwh < 0.38


def test_table_of_models(server: Prometheus, fleet: Fleet):
    title = "Models in this range"
    tokens = fleet.rise("tpw_server_tokens_total", WHOLE, server="big", kind="output")
    joules = fleet.rise("tpw_server_energy_joules_total", WHOLE, server="big")
    parked = fleet.rise("tpw_server_energy_joules_total", WHOLE, server="big", state="parked")
    cost = fleet.rise("tpw_server_cost_total", WHOLE, server="big") - fleet.rise(
        "tpw_server_credit_total", WHOLE, server="big"
    )
    more = grown(WHOLE, RANGE)
    assert of(server, "tpw-overview", title, "A", server="big") == pytest.approx(tokens * more, rel=RANGES)
    assert of(server, "tpw-overview", title, "B", server="big") == pytest.approx(tokens / joules, rel=RANGES)
    assert of(server, "tpw-overview", title, "C", server="big") == pytest.approx(1e6 * cost / tokens, rel=RANGES)
    assert of(server, "tpw-overview", title, "D", server="big") == pytest.approx(cost * more, rel=RANGES)
    assert of(server, "tpw-overview", title, "E", server="big") == pytest.approx(parked / joules, rel=RANGES)


def test_waste_per_hour_and_its_share(server: Prometheus, fleet: Fleet):
    waste = sum(fleet.rise("tpw_gpu_state_cost_total", HOUR, state=state) for state in ("parked", "idle"))
    every = fleet.rise("tpw_gpu_state_cost_total", HOUR)
    title = "$currency wasted / hour"
    assert of(server, "tpw-overview", title, "A") == pytest.approx(waste * grown(HOUR, 3600), rel=NEAR)
    assert of(server, "tpw-overview", title, "B") == pytest.approx(waste / every, rel=NEAR)
    assert of(server, "tpw-fleet", title, "B") == pytest.approx(waste / every, rel=NEAR)


def test_nodes_share_the_tokens_by_their_joules(server: Prometheus, fleet: Fleet):
    found = server.instant('node:tpw_server_tokens:rate5m{kind="output"}', END)
    rows = {labels["instance"]: value for labels, value in found}
    assert sum(rows.values()) * 300 == pytest.approx(
        fleet.rise("tpw_server_tokens_total", FIVE, kind="output") * grown(FIVE, 300), rel=NEAR
    )
    for node, row in rows.items():
        tokens = 0.0
        for name in ("chat", "code", "big"):
            here = fleet.rise("tpw_server_energy_joules_total", FIVE, server=name, instance=node)
            everywhere = fleet.rise("tpw_server_energy_joules_total", FIVE, server=name)
            tokens += fleet.rise("tpw_server_tokens_total", FIVE, server=name, kind="output") * here / everywhere
        assert row * 300 == pytest.approx(tokens * grown(FIVE, 300), rel=NEAR)


def test_books_of_the_made_up_hours_balance(server: Prometheus):
    assert of(server, "tpw-measuring", "Books balance", "A") == pytest.approx(0, abs=1e-9)
    assert of(server, "tpw-measuring", "Books balance", "B") == pytest.approx(0, abs=1e-9)


def test_gpus_by_state_and_their_codes(server: Prometheus):
    counts = {ref: of(server, "tpw-gpus", "GPUs by state", ref) for ref in "ABCD"}
    assert counts == pytest.approx({"A": 8, "B": 6, "C": 2, "D": 0}, abs=0.01)
    (target,) = [t for uid, panel, t in QUERIES if (uid, panel["title"]) == ("tpw-gpus", "State of each GPU")]
    expr = filled(target["expr"])
    lost_at = END - 4 * 3600
    codes = [int(value) for _, value in server.instant(expr, END)]
    assert sorted(codes) == [0] * 2 + [1] * 6 + [2] * 8
    gone = [labels["gpu"] for labels, value in server.instant(expr, lost_at) if value == -1]
    assert gone == ["7"]
