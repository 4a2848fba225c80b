"""Rules for all dashboards. Each rule prevents a mistake that is common in other dashboards."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from grafana.dashboard import CHOICES, FILTERS
from grafana.metrics import Vocabulary
from grafana.render import dashboards
from grafana.rules import recording_groups, vocabulary
from grafana.values import Values

from tpw.exposition.catalogue import METRICS, Kind

DASHBOARDS: dict[str, dict[str, Any]] = {uid: json.loads(text) for uid, text in dashboards(Values()).items()}
WORDS: Vocabulary = vocabulary(Values())
UIDS = {"tpw-overview", "tpw-models", "tpw-gpus", "tpw-money", "tpw-fleet", "tpw-measuring"}
DRAWN_WITHOUT_DATA = {"text"}
INSIDE = re.compile(r"(?:rate|increase|changes|avg_over_time|max_over_time|sum_over_time|delta)\s*\($")


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels", ())
        else:
            yield panel


each_dashboard = pytest.mark.parametrize("uid", DASHBOARDS)


def each_panel(check: Callable[[str, dict[str, Any]], None]) -> Any:
    """One test per dashboard that checks all its panels: a test per panel would be most tests of this suite."""

    def test(uid: str) -> None:
        for panel in panels(DASHBOARDS[uid]):
            with named(panel["title"]):
                check(uid, panel)

    test.__name__ = check.__name__
    return each_dashboard(test)


def each_target(check: Callable[[str, dict[str, Any], dict[str, Any]], None]) -> Any:
    """One test per dashboard that checks all queries of its panels."""

    def test(uid: str) -> None:
        for panel in panels(DASHBOARDS[uid]):
            for target in panel.get("targets", ()):
                with named(f"{panel['title']}, query {target['refId']}"):
                    check(uid, panel, target)

    test.__name__ = check.__name__
    return each_dashboard(test)


@contextmanager
def named(name: str) -> Iterator[None]:
    """Adds the name to an error."""
    try:
        yield
    except Exception as error:
        error.add_note(name)
        raise


def test_uids_of_dashboards_never_change():
    """A uid is in links, bookmarks and alerts: it never changes."""
    assert DASHBOARDS.keys() >= UIDS


@each_dashboard
def test_dashboard_has_10_to_20_panels(uid: str):
    assert 10 <= sum(1 for _ in panels(DASHBOARDS[uid])) <= 20


@each_dashboard
def test_dashboard_has_a_bounded_number_of_queries(uid: str):
    assert sum(len(panel.get("targets", ())) for panel in panels(DASHBOARDS[uid])) <= 40


@each_dashboard
def test_dashboard_has_the_common_settings(uid: str):
    dashboard = DASHBOARDS[uid]
    assert dashboard["schemaVersion"] == 41
    assert dashboard["tags"] == ["tpw"]
    assert dashboard["timezone"] == "browser"
    assert dashboard["editable"] is False
    assert dashboard["graphTooltip"] == 1, "one crosshair for all curves"
    assert dashboard["description"]
    assert dashboard["refresh"] in ("1m", "5m")
    (link,) = dashboard["links"]
    assert (link["type"], link["tags"], link["keepTime"], link["includeVars"]) == ("dashboards", ["tpw"], True, True)


@each_dashboard
def test_panels_have_unique_numbers_and_positions(uid: str):
    everything = [*DASHBOARDS[uid]["panels"], *panels(DASHBOARDS[uid])]
    ids = {id(panel): panel["id"] for panel in everything}
    assert len(set(ids.values())) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in {id(panel): panel for panel in everything}.values():
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies on another panel"
        taken |= cells


@each_dashboard
def test_trust_is_at_the_right_of_the_first_line_and_links_to_measuring(uid: str):
    first = [panel for panel in panels(DASHBOARDS[uid]) if panel["gridPos"]["y"] == 0]
    last = max(first, key=lambda panel: panel["gridPos"]["x"])
    assert last["title"] == "Measured"
    assert "/d/tpw-measuring" in last["links"][0]["url"]


@each_dashboard
def test_variables_come_in_one_order(uid: str):
    order = ["datasource", *FILTERS, *CHOICES, "reference", "currency", "filters"]
    names = [variable["name"] for variable in DASHBOARDS[uid]["templating"]["list"]]
    assert names == [name for name in order if name in names]
    assert names[0] == "datasource"
    assert names[-1] == "filters"


@each_dashboard
def test_a_variable_offers_what_the_ones_before_it_select(uid: str):
    queries = {v["name"]: v["query"] for v in DASHBOARDS[uid]["templating"]["list"] if v["name"] in FILTERS}
    for name, query in queries.items():
        wanted = {"cluster": (), "job": ("cluster",)}.get(name, ("cluster", "job"))
        assert all(f"${before}" in query for before in wanted), name


@each_dashboard
def test_every_variable_is_used(uid: str):
    dashboard = DASHBOARDS[uid]
    text = json.dumps([dashboard["panels"], dashboard["annotations"]])
    unused = [
        variable["name"]
        for variable in dashboard["templating"]["list"]
        if variable["type"] != "adhoc" and not re.search(rf"\$(?:{variable['name']}\b|{{{variable['name']}[:}}])", text)
    ]
    assert unused == []


@each_dashboard
def test_choices_come_with_their_values(uid: str):
    for variable in DASHBOARDS[uid]["templating"]["list"]:
        if variable["type"] != "custom":
            continue
        pairs = [tuple(pair.split(" : ")) for pair in variable["query"].split(", ")]
        assert pairs == list(CHOICES[variable["name"]][1])
        assert (variable["current"]["text"], variable["current"]["value"]) == pairs[0]


@each_panel
def test_panel_has_a_title_and_a_description(uid: str, panel: dict[str, Any]):
    assert panel["title"]
    assert len(panel["description"]) >= 15
    assert panel["description"].rstrip(")").endswith("."), "a description is made of sentences"


@each_panel
def test_panel_has_a_unit_and_a_text_for_no_data(uid: str, panel: dict[str, Any]):
    if panel["type"] in DRAWN_WITHOUT_DATA:
        return
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"]
    assert defaults["noValue"]
    assert defaults["noValue"] not in ("0", "0.00")


@each_panel
def test_money_is_not_in_a_fixed_currency(uid: str, panel: dict[str, Any]):
    assert not re.search(r"currency[A-Z]|USD|EUR|€", json.dumps(panel))


@each_panel
def test_a_share_of_nothing_has_no_axis_of_10000_per_cent(uid: str, panel: dict[str, Any]):
    defaults = panel.get("fieldConfig", {}).get("defaults", {})
    if panel["type"] == "timeseries" and defaults["unit"] == "percentunit":
        assert "max" in defaults or "axisSoftMax" in defaults["custom"]


@each_panel
def test_a_table_is_as_wide_as_its_panel_at_1180_pixels(uid: str, panel: dict[str, Any]):
    """Columns have the width that is given, or 150 at least."""
    if panel["type"] != "table":
        return
    widths, hidden = {}, set()
    for override in panel["fieldConfig"]["overrides"]:
        for one in override["properties"]:
            if one["id"] == "custom.width":
                widths[override["matcher"]["options"]] = one["value"]
            if one["id"] == "custom.hidden":
                hidden.add(override["matcher"]["options"])
    organize = next(t["options"] for t in panel["transformations"] if t["id"] == "organize")
    shown = [organize["renameByName"].get(source, source) for source in organize["indexByName"]]
    # The cluster is a column only where there are several.
    total = sum(widths.get(name, 150) for name in shown if name not in hidden | {"Cluster"})
    assert total <= 1180 * panel["gridPos"]["w"] / 24 - 30, total


@each_panel
def test_a_title_is_not_clipped_at_1180_pixels(uid: str, panel: dict[str, Any]):
    """At 7.5 pixels a character, beside 61 of margins and of the sign of the description."""
    title = re.sub(r"\$\{?\w+(?::text)?\}?", "EUR", panel["title"])
    assert len(title) * 7.5 + 61 <= 1180 * panel["gridPos"]["w"] / 24, title


@each_panel
def test_a_column_in_the_currency_is_named_where_grafana_fills_it_in(uid: str, panel: dict[str, Any]):
    for transformation in panel.get("transformations", ()):
        assert "$" not in json.dumps(transformation)
    for override in panel.get("fieldConfig", {}).get("overrides", ()):
        assert not re.search(r"\$\w", str(override["matcher"]["options"]))
    assert "$" not in json.dumps(panel.get("options", {}).get("sortBy", ""))


@each_panel
def test_only_what_is_judged_is_green_or_red(uid: str, panel: dict[str, Any]):
    """Grafana's own defaults paint 90 W red: no panel leaves them in."""
    defaults = panel.get("fieldConfig", {}).get("defaults", {})
    steps = defaults.get("thresholds", {}).get("steps", [])
    assert [step["value"] for step in steps] != [None, 80]
    if panel["type"] in ("stat", "bargauge", "table", "status-history"):
        assert steps, "a panel without thresholds gets Grafana's own"


@each_panel
def test_value_does_not_change_with_the_zoom(uid: str, panel: dict[str, Any]):
    for target in panel.get("targets", ()):
        expr = target["expr"]
        assert "$__interval_ms" not in expr
        if "$__interval" in expr:
            # A bar per step: its height is a rate over the bar, and a bar is an hour at least.
            assert target.get("interval") in ("1h", "1d")
            assert panel["fieldConfig"]["defaults"]["custom"]["drawStyle"] == "bars"
            # Grafana draws the bar to the right of its time, so the query reads the interval after it.
            assert re.search(r"(?:rate|avg_over_time)\([^[]*\[\$__interval\] offset -\$__interval", expr)
        for window in re.findall(r"\[\$__rate_interval\]", expr):
            assert window
            assert " / " not in expr, "$__rate_interval is for plain rates; ratios read recorded series or whole ranges"


@each_target
def test_every_word_is_in_the_catalogue_or_recorded(uid: str, panel: dict[str, Any], target: dict[str, Any]):
    WORDS.check(target["expr"])


@each_target
def test_no_counter_is_drawn_raw(uid: str, panel: dict[str, Any], target: dict[str, Any]):
    expr = target["expr"]
    for name, metric in METRICS.items():
        if metric.kind is not Kind.COUNTER:
            continue
        for match in re.finditer(rf"\b{name}\b", expr):
            before = expr[: match.start()]
            difference = f"[1h] offset $__range) or 0 * {name}" in expr
            assert INSIDE.search(before) or difference, f"{name} is read without a rate"


RATIO = re.compile(r"ratio|_per_(?!hour|month)")
"""Money per hour or month of several nodes adds up."""
ADDED = re.compile(r"\b(sum|avg)\b\s*(?:(by|without)\s*\(([^)]*)\)\s*)?\(")
WHOLE = {"tpw_gpu_state_share": {"instance"}}
"""Parts that add up, and the labels of the whole that they are parts of."""


def ratios_added(expr: str) -> Iterator[str]:
    """Sums and means over ratios, which mean nothing: of quotients, and of series that are quotients."""
    for found in ADDED.finditer(expr):
        depth, end = 1, found.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(expr[end], 0)
            end += 1
        inside = expr[found.end() : end - 1]
        by = set((found.group(3) or "").replace(" ", "").split(","))
        for selector in WORDS.selectors(inside):
            whole = next((labels for name, labels in WHOLE.items() if name in selector.name), None)
            if RATIO.search(selector.name) and not (whole and whole <= by):
                yield f"{found.group(1)} of {selector.name}"
        # A share of something, "tokens * joules here / joules everywhere", is a part of it again.
        if re.search(r"/ (?!\d)(?!.* \* )", re.sub(r"\"[^\"]*\"", "", inside), re.DOTALL):
            yield f"{found.group(1)} of a quotient: {inside}"


@each_target
def test_no_ratio_is_summed_or_averaged(uid: str, panel: dict[str, Any], target: dict[str, Any]):
    assert list(ratios_added(target["expr"])) == []


def test_no_rule_adds_ratios():
    for group in recording_groups(Values()):
        for rule in group.rules:
            if "tpw_trust" not in rule.record:  # the share of sources that are up is a mean of zeros and ones
                assert list(ratios_added(rule.expr)) == [], rule.record


def test_added_ratios_are_found():
    assert len(list(ratios_added("sum by (job) (model:tpw_tokens_per_joule:ratio_rate5m)"))) == 1
    assert len(list(ratios_added("avg(tpw_cost_per_token) or sum(rate(tpw_a[5m]) / rate(tpw_b[5m]))"))) == 2
    assert list(ratios_added("sum(rate(tpw_gpu_energy_joules_total[5m])) / 3.6e6")) == []


@each_target
def test_every_filter_applies_or_the_description_excludes_it(uid: str, panel: dict[str, Any], target: dict[str, Any]):
    for variable in DASHBOARDS[uid]["templating"]["list"]:
        name = variable["name"]
        if name not in FILTERS or f"${name}" in target["expr"]:
            continue
        tail = panel["description"].rsplit("(", 1)[-1].lower()
        assert FILTERS[name][0].lower() in tail, (
            f"{name} does not filter {panel['title']} and the description does not mention it"
        )
        assert "not filter" in tail


@each_target
def test_totals_and_kinds_are_not_added_up(uid: str, panel: dict[str, Any], target: dict[str, Any]):
    """Recorded tokens hold every kind and their total, recorded joules both boundaries, recorded cost both scopes."""
    needs = {
        r"\w+:tpw_server_tokens:": "kind",
        r"(?:model|server):tpw_server_energy_joules:": "boundary",
        r"(?:node|cluster):tpw_gpu_state_energy_joules:": "boundary",
        r"(?:node|cluster):tpw_tokens_per_joule:": "boundary",
        r"\w+:tpw_(?:server_)?cost:": "scope",
        r"\w+:tpw_tokens_per_joule:": "kind",
    }
    for selector in WORDS.selectors(target["expr"]):
        for pattern, label in needs.items():
            if re.match(pattern, selector.name):
                assert label in {found for found, _, _ in selector.matchers}, f"{selector.name} without {label}"


@each_target
def test_money_is_of_one_currency(uid: str, panel: dict[str, Any], target: dict[str, Any]):
    for selector in WORDS.selectors(target["expr"]):
        if "currency" in WORDS.series[selector.name] and selector.name != "ALERTS":
            assert ("currency", "=", '"$currency"') in selector.matchers, f"{selector.name} adds currencies"


@each_target
def test_datasource_is_the_variable(uid: str, panel: dict[str, Any], target: dict[str, Any]):
    assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@each_target
def test_query_is_bounded(uid: str, panel: dict[str, Any], target: dict[str, Any]):
    """A curve per GPU stands only where one node is chosen; elsewhere it is summed or the worst few."""
    if target.get("instant") or uid == "tpw-gpus":
        return
    expr = target["expr"]
    per_gpu = re.search(r"by \([^)]*\b(?:uuid|gpu)\b[^)]*\)", expr) or re.match(r"(?:gpu:)?tpw_gpu\w*\{", expr)
    outer = re.match(r"(?:max|min|sum|count|topk|quantile|3600|1e6|-3600|86400)\b", expr)
    assert not per_gpu or outer, f"{panel['title']} draws a line per GPU of the fleet"


@each_target
def test_legend_distinguishes_series(uid: str, panel: dict[str, Any], target: dict[str, Any]):
    """The index of a GPU alone is the same on every node."""
    legend = target.get("legendFormat", "")
    if "{{gpu}}" in legend:
        assert "{{instance}}" in legend or uid == "tpw-gpus"


@each_dashboard
def test_annotations_include_alerts_and_use_known_names(uid: str):
    annotations = DASHBOARDS[uid]["annotations"]["list"]
    assert {"Alert firing"} <= {annotation["name"] for annotation in annotations}
    for annotation in annotations:
        WORDS.check(annotation["expr"])
        assert annotation["datasource"]["uid"] == "${datasource}"


def test_links_lead_to_dashboards_and_variables_that_exist():
    for uid, dashboard in DASHBOARDS.items():
        for target, query in re.findall(r"/d/(tpw-\w+)\?([^\"\\]*)", json.dumps(dashboard)):
            assert target in DASHBOARDS, f"{uid} links to {target}"
            known = {variable["name"] for variable in DASHBOARDS[target]["templating"]["list"]}
            assert set(re.findall(r"var-(\w+)=", query)) <= known


@each_panel
def test_a_link_of_a_row_carries_the_cluster_of_the_row(uid: str, panel: dict[str, Any]):
    for url in re.findall(r'"url": "(/d/[^"]*__data[^"]*)"', json.dumps(panel)):
        assert "&var-cluster=${__data.fields.here}" in url
        assert "${cluster:queryparam}" not in url
        assert '"$$__all"' in panel["targets"][0]["expr"]
