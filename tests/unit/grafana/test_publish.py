"""What grafana.com asks of a dashboard, and the rules of Grafana's dashboard-linter."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from grafana import publish
from grafana.metrics import Vocabulary
from grafana.render import dashboards
from grafana.rules import vocabulary
from grafana.values import Values

TEXTS = dashboards(Values())
DASHBOARDS: dict[str, dict[str, Any]] = {uid: json.loads(text) for uid, text in TEXTS.items()}
WORDS: Vocabulary = vocabulary(Values())
each_dashboard = pytest.mark.parametrize("uid", TEXTS)


@each_dashboard
def test_a_published_dashboard_asks_for_its_data_source(uid: str):
    found = publish.published(TEXTS[uid])
    (asked,) = found["__inputs"]
    assert (asked["type"], asked["pluginId"]) == ("datasource", "prometheus")
    sources = re.findall(r'"datasource": \{[^}]*"uid": "([^"]*)"', json.dumps(found))
    assert len(sources) > 20
    assert set(sources) == {"${" + asked["name"] + "}"}
    assert "datasource:queryparam" not in json.dumps(found)
    assert "datasource" not in {variable["name"] for variable in found["templating"]["list"]}


@each_dashboard
def test_a_published_dashboard_lists_what_it_needs(uid: str):
    found = publish.published(TEXTS[uid])
    needed = {(one["type"], one["id"]) for one in found["__requires"]}
    kinds = {inner["type"] for panel in found["panels"] for inner in (panel, *panel.get("panels", ()))} - {"row"}
    assert needed == {("grafana", "grafana"), ("datasource", "prometheus"), *(("panel", kind) for kind in kinds)}
    assert found["description"]
    assert found["id"] is None
    assert found["uid"] == uid


def test_they_are_written_where_they_are_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["publish", str(tmp_path / "written")])
    assert publish.main() == 0
    assert {path.stem for path in (tmp_path / "written").iterdir()} == set(TEXTS)
    monkeypatch.setattr(sys, "argv", ["publish"])
    assert publish.main() == 2


# ------------------------------------------------------------------------------------------- the rules of dashboard-linter


def template_datasource(dashboard: dict[str, Any]) -> Iterator[str]:
    sources = [v for v in dashboard["templating"]["list"] if v["type"] == "datasource"]
    if [(v["name"], v["label"].lower(), v["query"]) for v in sources] != [("datasource", "data source", "prometheus")]:
        yield "not one variable datasource"


def template_job(dashboard: dict[str, Any]) -> Iterator[str]:
    yield from _variable(dashboard, "job", "Job")


def template_instance(dashboard: dict[str, Any]) -> Iterator[str]:
    yield from _variable(dashboard, "instance", "Instance")


def _variable(dashboard: dict[str, Any], name: str, label: str) -> Iterator[str]:
    found = [v for v in dashboard["templating"]["list"] if v["name"] == name]
    if not found:
        yield f"no variable {name}"
    for v in found:
        if (v["type"], v["datasource"]["uid"]) != ("query", "${datasource}"):
            yield f"{name} is not a query of the data source"
        if v["label"] != label:
            yield f"{name} is labelled {v['label']}"
        if not v["multi"] or v.get("allValue") != ".+":
            yield f"{name} has no All, or not .+"


def template_label_promql(dashboard: dict[str, Any]) -> Iterator[str]:
    for v in dashboard["templating"]["list"]:
        if v["type"] == "query" and not re.fullmatch(r"label_values\([a-z_]+(\{.*\})?, \w+\)", v["query"]):
            yield f"{v['name']}: {v['query']}"


def template_on_time_change_reload(dashboard: dict[str, Any]) -> Iterator[str]:
    yield from (v["name"] for v in dashboard["templating"]["list"] if v["type"] == "query" and v["refresh"] != 2)


def uneditable(dashboard: dict[str, Any]) -> Iterator[str]:
    if dashboard["editable"]:
        yield "editable"


def panel_datasource(dashboard: dict[str, Any]) -> Iterator[str]:
    yield from (p["title"] for p in _panels(dashboard) if p["datasource"]["uid"] != "${datasource}")


def panel_title_description(dashboard: dict[str, Any]) -> Iterator[str]:
    yield from (p["title"] for p in _panels(dashboard) if not (p["title"] and p["description"]))


def panel_units(dashboard: dict[str, Any]) -> Iterator[str]:
    yield from (
        p["title"] for p in _panels(dashboard) if p["type"] != "text" and not p["fieldConfig"]["defaults"]["unit"]
    )


def panel_no_targets(dashboard: dict[str, Any]) -> Iterator[str]:
    yield from (p["title"] for p in _panels(dashboard) if p["type"] != "text" and not p["targets"])


def target_job(dashboard: dict[str, Any]) -> Iterator[str]:
    yield from _matched(dashboard, "job")


def target_instance(dashboard: dict[str, Any]) -> Iterator[str]:
    yield from _matched(dashboard, "instance")


def _matched(dashboard: dict[str, Any], label: str) -> Iterator[str]:
    for title, expr in _exprs(dashboard):
        for selector in WORDS.selectors(expr):
            if label in WORDS.series[selector.name] and (label, "=~", f'"${label}"') not in selector.matchers:
                yield f"{title}: {selector.name}"


def target_rate_interval(dashboard: dict[str, Any]) -> Iterator[str]:
    yield from (title for title, expr in _exprs(dashboard) if re.search(r"\brate\([^[]*\[\d+[smhd]\]", expr))


def _panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [p for panel in dashboard["panels"] for p in (panel, *panel.get("panels", ())) if p["type"] != "row"]


def _exprs(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for panel in _panels(dashboard):
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


RULES: dict[Callable[[dict[str, Any]], Iterator[str]], str] = {
    template_datasource: "",
    template_job: "",
    template_instance: "a person knows nodes, not instances, and dashboards of servers sum over the nodes they span",
    template_label_promql: "",
    template_on_time_change_reload: "",
    uneditable: "",
    panel_datasource: "",
    panel_title_description: "",
    panel_units: "",
    panel_no_targets: "",
    target_job: "Firing alerts and the lists of an operator's parameters have the labels of their own rules",
    target_instance: "as the variable",
    target_rate_interval: "windows are those of the recording rules: a number does not change with the zoom",
}
"""Rules, and why one is not kept. Those about PromQL's syntax and raw counters are in test_queries and test_dashboards."""


@each_dashboard
@pytest.mark.parametrize("rule", [rule for rule, why in RULES.items() if not why], ids=lambda rule: rule.__name__)
def test_dashboard_keeps_the_rules_of_the_linter(uid: str, rule: Callable[[dict[str, Any]], Iterator[str]]):
    assert list(rule(DASHBOARDS[uid])) == []


@pytest.mark.parametrize("rule", [rule for rule, why in RULES.items() if why], ids=lambda rule: rule.__name__)
def test_a_rule_that_is_not_kept_is_broken_somewhere(rule: Callable[[dict[str, Any]], Iterator[str]]):
    """An exception that nothing needs any more is taken back."""
    assert any(list(rule(dashboard)) for dashboard in DASHBOARDS.values())


@each_dashboard
def test_what_has_no_job_is_an_alert_or_a_parameter(uid: str):
    for title, expr in _exprs(DASHBOARDS[uid]):
        for selector in WORDS.selectors(expr):
            kept = selector.name == "ALERTS" or selector.name.startswith("tpw:")
            assert kept or "job" in {label for label, _, _ in selector.matchers}, f"{title}: {selector.name}"
