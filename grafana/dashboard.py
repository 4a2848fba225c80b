"""What all dashboards share: the order of variables, a header of links, annotations, and the layout of panels."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from grafana_foundation_sdk.builders import dashboard, prometheus
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as d
from grafana_foundation_sdk.models import prometheus as p

from grafana import palette
from grafana.metrics import MATCHERS, Vocabulary, apart, owned
from grafana.panels import DASHED, HERE, NO_PRICE, Draft, Query, Style, curve, judged_down, tile
from grafana.queries import MONEY, TRUST

SOURCE = d.DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "tpw"
WIDTH = 24

_CLUSTER = 'cluster=~"$cluster"'
_JOB = f'{_CLUSTER}, job=~"$job"'
_NAMESPACE = f'{_JOB}, {MATCHERS["namespace"][0]}=~"{MATCHERS["namespace"][1]}"'
FILTERS: Mapping[str, tuple[str, str, str]] = {
    # variable: (label, query, regular expression for all)
    "cluster": ("Cluster", "label_values(tpw_build_info, cluster)", ".*"),
    "job": ("Job", f"label_values(tpw_build_info{{{_CLUSTER}}}, job)", ".+"),
    "instance": ("Node", f"label_values(tpw_build_info{{{_JOB}}}, instance)", ".+"),
    "gpu": ("GPU", f'label_values(tpw_gpu_info{{{_JOB}, instance=~"$instance"}}, gpu)', ".+"),
    "namespace": ("Namespace", f"label_values(tpw_server_tokens_total{{{_JOB}}}, server)", ".*"),
    "server": ("Server", f"label_values(tpw_server_tokens_total{{{_NAMESPACE}}}, server)", ".+"),
    "model": ("Model", f'label_values(tpw_server_tokens_total{{{_NAMESPACE}, server=~"$server"}}, model)', ".+"),
}
"""Filters in the order in which a dashboard shows them."""

FIRST_PART = "/^([^/]+)[/].+$/"
"""The namespace in the name of a server that was found in Kubernetes."""

CHOICES: Mapping[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "kind": ("Tokens", (("output", "output"), ("total", ".+"))),
    "scope": ("Costs", (("full", ".+"), ("energy", "energy"))),
    "boundary": (
        "Boundary",
        (("gpu", "tpw_server_energy_joules_total"), ("facility", "tpw_server_facility_energy_joules_total")),
    ),
}
"""Choices that change what a number means: (label, (text, value)...). See :mod:`grafana.queries`."""


@dataclass(frozen=True, slots=True)
class Settings:
    """A dashboard without its panels."""

    uid: str
    title: str
    description: str
    filters: tuple[str, ...]
    choices: tuple[str, ...] = ()
    reference: bool = False
    money: bool = True
    time: tuple[str, str] = ("now-6h", "now")
    refresh: str = "1m"
    timezone: str = "browser"
    single: tuple[str, ...] = ()
    """Filters without *All*, because every series is a line of its own."""
    owned: bool = False
    """Whether the namespace chooses GPUs, by their owners."""
    annotations: tuple[str, ...] = ("price", "alerts", "restarts", "versions")


@dataclass(slots=True)
class Dashboard:
    """A dashboard that is laid out line by line."""

    settings: Settings
    words: Vocabulary
    _panels: list[dict[str, Any]] = field(default_factory=list)
    _row: dict[str, Any] | None = None
    _y: int = 0
    _next_id: int = 1

    # ------------------------------------------------------------------------------------------------------ placing

    def row(self, title: str, *, collapsed: bool = False) -> None:
        """Starts a row with a heading. The panels after it belong to the row."""
        place = {"x": 0, "y": self._y, "w": WIDTH, "h": 1}
        row: dict[str, Any] = {
            "type": "row",
            "title": title,
            "collapsed": collapsed,
            "id": self._id(),
            "gridPos": place,
        }
        row["panels"] = []
        self._panels.append(row)
        self._row = row if collapsed else None
        self._y += 1

    def line(self, height: int, *drafts: tuple[Draft, int]) -> None:
        """Panels side by side with their widths. Raises ValueError where they do not fill the line."""
        if sum(width for _, width in drafts) != WIDTH:
            raise ValueError(f"{self.settings.uid}: a line is {sum(width for _, width in drafts)} wide")
        x = 0
        for draft, width in drafts:
            panel = self._finished(draft)
            panel["gridPos"] = {"x": x, "y": self._y, "w": width, "h": height}
            panel["id"] = self._id()
            (self._row["panels"] if self._row is not None else self._panels).append(panel)
            x += width
        self._y += height

    def _id(self) -> int:
        self._next_id += 1
        return self._next_id - 1

    # ----------------------------------------------------------------------------------------------------- finishing

    def _finished(self, draft: Draft) -> dict[str, Any]:
        builder = draft.builder.title(draft.title).datasource(SOURCE)
        expressions = []
        for index, query in enumerate(draft.queries):
            expr = self.expression(query)
            expressions.append(expr)
            builder = builder.with_target(_target(query, expr, chr(ord("A") + index)))
        builder = builder.description(self._description(draft, expressions))
        panel: dict[str, Any] = json.loads(_LINK.sub(self._carried, JSONEncoder().encode(builder.build())))
        _plain_steps(panel)
        return panel

    def _carried(self, link: re.Match[str]) -> str:
        """A link with the variables of this dashboard, less those that it sets itself."""
        settings = self.settings
        money = ("currency",) if settings.money else ()
        reference = ("reference",) if settings.reference else ()
        names = ("datasource", *settings.filters, *settings.choices, *reference, *money)
        kept = (name for name in names if f"var-{name}=" not in link["rest"])
        return "&".join(f"${{{name}:queryparam}}" for name in kept) + link["rest"]

    def expression(self, query: Query) -> str:
        """The query with the filters of the dashboard. Raises UnknownNameError."""
        text = apart(" ".join(query.expr.split()))
        self.words.check(text)
        if self.settings.owned and "namespace" not in query.unfiltered:
            text = owned(text, self.words)
        filters = [name for name in self.settings.filters if name not in query.unfiltered]
        return self.words.filtered(text, filters)

    def _description(self, draft: Draft, expressions: Sequence[str]) -> str:
        """The description, followed by the filters that do not apply to the panel."""
        if not expressions:
            return draft.description
        ignored = [
            FILTERS[name][0].lower()
            for name in self.settings.filters
            if not all(f"${name}" in expr for expr in expressions)
        ]
        if not ignored:
            return draft.description
        return (
            f"{draft.description} Not filtered{' throughout' if self._some(expressions) else ''} by {_listed(ignored)}."
        )

    def _some(self, expressions: Sequence[str]) -> bool:
        """Whether a filter applies to some of the queries and not to others."""
        return any(
            any(f"${name}" in expr for expr in expressions) and not all(f"${name}" in expr for expr in expressions)
            for name in self.settings.filters
        )

    # --------------------------------------------------------------------------------------------------------- whole

    def document(self) -> dict[str, Any]:
        """The dashboard as Grafana reads it."""
        settings = self.settings
        builder = (
            dashboard.Dashboard(settings.title)
            .uid(settings.uid)
            .description(settings.description)
            .tags([TAG])
            .timezone(settings.timezone)
            .time(*settings.time)
            .refresh(settings.refresh)
            .tooltip(d.DashboardCursorSync.CROSSHAIR)
            .readonly()
            .link(
                dashboard.DashboardLink("tpw dashboards")
                .type(d.DashboardLinkType.DASHBOARDS)
                .tags([TAG])
                .as_dropdown(True)  # noqa: FBT003
                .keep_time(True)  # noqa: FBT003
                .include_vars(True)  # noqa: FBT003
            )
        )
        for variable in self._variables():
            builder = builder.with_variable(variable)
        document: dict[str, Any] = json.loads(JSONEncoder().encode(builder.build()))
        document["panels"] = self._panels
        document["annotations"] = {"list": [self._annotation(name) for name in settings.annotations]}
        document["version"] = 1
        return document

    def _variables(self) -> list[Any]:
        settings = self.settings
        found: list[Any] = [dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")]
        for name in FILTERS:
            if name not in settings.filters:
                continue
            label, query, everything = FILTERS[name]
            variable = (
                dashboard.QueryVariable(name)
                .label(label)
                .datasource(SOURCE)
                .query(query)
                .refresh(d.VariableRefresh.ON_TIME_RANGE_CHANGED)
                .sort(d.VariableSort.NATURAL_ASC)
                .multi(True)  # noqa: FBT003
            )
            if name == "namespace":
                variable = variable.regex(FIRST_PART)
            if name not in settings.single:
                variable = (
                    variable.include_all(True)  # noqa: FBT003
                    .all_value(everything)
                    .current(d.VariableOption(selected=True, text="All", value="$__all"))
                )
            found.append(variable)
        for name in settings.choices:
            label, options = CHOICES[name]
            text, value = options[0]
            found.append(
                dashboard.CustomVariable(name)
                .label(label)
                .values(", ".join(f"{text} : {value}" for text, value in options))
                .current(d.VariableOption(selected=True, text=text, value=value))
            )
        if settings.reference:
            found.append(
                dashboard.QueryVariable("reference")
                .label("Reference")
                .datasource(SOURCE)
                .query("label_values(tpw_server_reference_cost_total, reference)")
                .refresh(d.VariableRefresh.ON_TIME_RANGE_CHANGED)
                .sort(d.VariableSort.ALPHABETICAL_ASC)
            )
        if settings.money:
            found.append(
                dashboard.QueryVariable("currency")
                .label("Currency")
                .datasource(SOURCE)
                .query("label_values(tpw_gpu_state_cost_total, currency)")
                .refresh(d.VariableRefresh.ON_TIME_RANGE_CHANGED)
                .sort(d.VariableSort.ALPHABETICAL_ASC)
            )
        found.append(dashboard.AdHocVariable("filters").label("Filters").datasource(SOURCE))
        return found

    def _annotation(self, name: str) -> dict[str, Any]:
        title, color, expr, text = ANNOTATIONS[name]
        step = "60s"
        return {
            "name": title,
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "enable": name != "versions",
            "hide": False,
            "iconColor": color,
            "expr": self.expression(Query(expr, unfiltered=tuple(FILTERS) if "ALERTS" in expr else ())),
            "step": step,
            "titleFormat": title,
            "textFormat": text,
            "tagKeys": "",
            "useValueForTime": False,
        }


_STEP = "$__rate_interval"
"""A window that is longer than a step of the curves, whatever the time range: an event between two steps is found too."""
_STARTED = "process_start_time_seconds"
_FIRING = 'ALERTS{alertname=~"Tpw.+", alertstate="firing"}'
ANNOTATIONS: Mapping[str, tuple[str, str, str, str]] = {
    "price": (
        "Price changed",
        palette.PRICE,
        f"max by (cluster, currency) (changes(cluster:tpw_electricity_price_per_kwh:max[{_STEP}]) > 0)",
        "The price of electricity changed.",
    ),
    "alerts": (
        "Alert firing",
        "red",
        (
            f"sum by (cluster, alertname, severity) (count_over_time({_FIRING}[{_STEP}]))"
            f" unless sum by (cluster, alertname, severity) (count_over_time({_FIRING}[{_STEP}] offset {_STEP}))"
        ),
        "{{alertname}} ({{severity}})",
    ),
    "restarts": (
        "Exporter started",
        "blue",
        (
            f"(changes({_STARTED}[{_STEP}]) > 0 or ({_STARTED} unless {_STARTED} offset {_STEP}))"
            " and on (cluster, job, instance) tpw_build_info"
        ),
        "{{instance}}",
    ),
    "versions": (
        "Server version changed",
        "purple",
        (
            f"group by (server, version) (last_over_time(tpw_server_info[{_STEP}]))"
            f" unless group by (server, version) (last_over_time(tpw_server_info[{_STEP}] offset {_STEP}))"
            f" and on (server) group by (server) (last_over_time(tpw_server_info[{_STEP}] offset {_STEP}))"
        ),
        "{{server}} {{version}}",
    ),
}
"""Events drawn into the curves: (title, colour, query, text)."""


_TRUST = (
    ("now", f"({TRUST} or 0 * count(tpw_build_info) - 1)"),
    ("lowest", "min(min_over_time(cluster:tpw_trust:ratio[$__range]))"),
    ("with data", "clamp_max(count_over_time(max(cluster:tpw_trust:ratio)[$__range:5m]) * 300 / $__range_s, 1)"),
)


def trust() -> Draft:
    """The tile at the end of the first line of every dashboard."""
    link = (
        dashboard.DashboardLink("Measuring")
        .type(d.DashboardLinkType.LINK)
        .url(f"/d/tpw-measuring?{CARRIED}&${{__url_time_range}}")
    )
    return tile(
        "Measured",
        "The lowest of four shares: exporters that respond, sources that are up, time with a valid energy reading, and "
        "prices that are not a fallback; now, and at its lowest in the time range. Below 99 %, a number on this dashboard "
        "may be wrong. with data: the part of the time range of which there is any; sums over the range miss the rest. The "
        "Measuring dashboard shows the cause.",
        Query(
            " or ".join(f'label_replace({expr}, "part", "{part}", "", "")' for part, expr in _TRUST),
            "{{part}}",
            instant=True,
        ),
        unit="percentunit",
        decimals=1,
        thresholds=judged_down(0.99, 0.95),
        no_value="no exporter is scraped",
        links=(link,),
        words={-1: ("recording rules are not loaded", "red")},
        names=True,
    )


def electricity_price() -> Draft:
    """The electricity price over time, the same on every dashboard."""
    return curve(
        "Electricity price, $currency per kWh",
        "The current price. Dashed: the next price, as known at that time.",
        Query(f"max by (cluster) (cluster:tpw_electricity_price_per_kwh:max{{{MONEY}}})", "current {{cluster}}"),
        Query(f"max by (cluster) (cluster:tpw_electricity_price_next_per_kwh:max{{{MONEY}}})", "next {{cluster}}"),
        unit="none",
        steps=True,
        at_least=None,
        no_value=NO_PRICE,
        legend=("min", "mean", "max"),
        styles={
            "/^current/": Style(color=palette.PRICE, properties={"custom.lineWidth": 2}),
            "/^next/": Style(color=palette.NEXT, properties=DASHED),
        },
    )


CARRIED = "${datasource:queryparam}"
"""In a link to a dashboard, where the variables of the one that it is on go."""
_LINK = re.compile(re.escape(CARRIED) + r'(?P<rest>[^"]*)')


def link_to(uid: str, title: str, **variables: str) -> dict[str, Any]:
    """A link from a table cell to another dashboard. ``variables`` maps its variables to columns of the row. The cluster is
    that of the row, too."""
    variables = {**variables, "cluster": HERE}
    chosen = "".join(f"&var-{quote(name)}=${{__data.fields.{column}}}" for name, column in variables.items())
    return {"title": title, "url": f"/d/{uid}?{CARRIED}&${{__url_time_range}}{chosen}"}


def _target(query: Query, expr: str, ref: str) -> prometheus.Dataquery:
    target = (
        prometheus.Dataquery()
        .expr(expr)
        .legend_format(_legend(query.legend))
        .ref_id(ref)
        .datasource(SOURCE)
        .format(p.PromQueryFormat.TABLE if query.table else p.PromQueryFormat.TIME_SERIES)
        .editor_mode(p.QueryEditorMode.CODE)
    )
    if query.step is not None:
        target = target.interval(query.step)
    return target.instant() if query.instant else target.range()


def _legend(text: str) -> str:
    """A legend that names a node or a server, with its cluster: nothing where there is only one."""
    local = "{{instance}}" in text or "{{server}}" in text
    return f"{text} {{{{cluster}}}}" if local and "{{cluster}}" not in text else text


def _plain_steps(panel: dict[str, Any]) -> None:
    """The first step of thresholds has no value: null in JSON."""
    steps = panel.get("fieldConfig", {}).get("defaults", {}).get("thresholds", {}).get("steps", [])
    for step in steps[:1]:
        step["value"] = None


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
