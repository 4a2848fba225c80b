"""Shared defaults of panels: tiles, curves and tables as they appear on every dashboard.

A panel is drafted here. :class:`grafana.dashboard.Dashboard` adds the filters, the position and the number.
"""

# ruff: noqa: FBT003 - the SDK's setters take plain booleans

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    stat,
    statetimeline,
    statushistory,
    table,
    text,
    timeseries,
    xychart,
)
from grafana_foundation_sdk.models import common as c
from grafana_foundation_sdk.models import dashboard as d
from grafana_foundation_sdk.models import text as text_models
from grafana_foundation_sdk.models import xychart as xy_models

from grafana import palette

NO_TOKENS = "no tokens in this range"
NO_PRICE = "no price, or no recording rules"
EMPTY_CELL = "\u2013"
"""What a table shows for an unknown cell. A longer text would also fill an empty table."""
NO_DATA = "no data: see the Measuring dashboard"
HERE = "here"
"""A hidden column of tables with links: the cluster of the row, or all clusters where it has none."""

Thresholds = Sequence[tuple[float | None, str]]


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel. ``unfiltered`` names filters that must not be added although the series has the label."""

    expr: str
    legend: str = "__auto"
    instant: bool = False
    table: bool = False
    step: str | None = None
    unfiltered: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Draft:
    """A panel without its targets, place and number. ``builder`` is one of the SDK's panel builders."""

    title: str
    description: str
    queries: tuple[Query, ...]
    builder: Any


@dataclass(frozen=True, slots=True)
class Style:
    """The style of one series or column. Fields that are None keep the style of the panel."""

    color: str | None = None
    unit: str | None = None
    decimals: int | None = None
    thresholds: Thresholds | None = None
    name: str | None = None
    width: int | None = None
    properties: Mapping[str, Any] = field(default_factory=dict)

    def values(self) -> list[d.DynamicConfigValue]:
        """As field overrides of Grafana."""
        found: dict[str, Any] = {}
        if self.name is not None:
            found["displayName"] = self.name
        if self.unit is not None:
            found["unit"] = self.unit
        if self.decimals is not None:
            found["decimals"] = self.decimals
        if self.color is not None:
            found["color"] = {"mode": "fixed", "fixedColor": self.color}
        if self.thresholds is not None:
            steps = [{"value": value, "color": color} for value, color in self.thresholds]
            found["thresholds"] = {"mode": "absolute", "steps": steps}
            found["color"] = {"mode": "thresholds"}
        if self.width is not None:
            found["custom.width"] = self.width
        found.update(self.properties)
        return [d.DynamicConfigValue(id_val=key, value=value) for key, value in found.items()]


DASHED = {"custom.lineStyle": {"fill": "dash", "dash": [6, 6]}, "custom.fillOpacity": 0}
ALONE = {"custom.stacking": {"mode": "none", "group": "A"}}
"""Drawn over a stack, not in it."""
HIDDEN = {"custom.hidden": True, "custom.hideFrom": {"viz": True, "legend": True, "tooltip": True}}
"""A column for links alone, in the words of Grafana 11 and of 12."""
BELOW = {"custom.transform": "negative-Y"}


def judged(warn: float, bad: float) -> Thresholds:
    """Green, orange from ``warn``, red from ``bad``."""
    return ((None, palette.GOOD), (warn, palette.WARN), (bad, palette.BAD))


def judged_down(good: float, warn: float) -> Thresholds:
    """Red, orange from ``warn``, green from ``good``."""
    return ((None, palette.BAD), (warn, palette.WARN), (good, palette.GOOD))


def _thresholds(steps: Thresholds) -> dashboard.ThresholdsConfig:
    return (
        dashboard.ThresholdsConfig()
        .mode(d.ThresholdsMode.ABSOLUTE)
        .steps([d.Threshold(value=value, color=color) for value, color in steps])
    )


def _styled(builder: Any, styles: Mapping[str, Style]) -> Any:
    for name, style in styles.items():
        if name.startswith("/"):
            builder = builder.override_by_regexp(name, style.values())
        else:
            builder = builder.override_by_name(name, style.values())
    return builder


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False)


def _list_legend() -> common.VizLegendOptions:
    return (
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(c.LegendDisplayMode.LIST)
        .placement(c.LegendPlacement.BOTTOM)
    )


def _mapped(states: Mapping[int, tuple[str, str]]) -> list[d.ValueMapping]:
    options = {
        str(code): d.ValueMappingResult(text=name, color=color, index=index)
        for index, (code, (name, color)) in enumerate(states.items())
    }
    return [d.ValueMap(options=options)]


def tile(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    thresholds: Thresholds | None = None,
    styles: Mapping[str, Style] | None = None,
    no_value: str = NO_DATA,
    decimals: int | None = None,
    names: bool | None = None,
    links: Sequence[dashboard.DashboardLink] = (),
    beside: bool = False,
    words: Mapping[int, tuple[str, str]] | None = None,
) -> Draft:
    """One or a few numbers, below one another or ``beside``. Without thresholds they are not judged and have no colour.
    ``words`` are shown in place of some numbers, each in its colour."""
    named = len(queries) > 1 if names is None else names
    size = {1: 22 if named else 38, 2: 26, 3: 22}.get(len(queries), 15)
    builder = (
        stat.Panel()
        .unit(unit)
        .no_value(no_value)
        .reduce_options(_last())
        .graph_mode(c.BigValueGraphMode.NONE)
        .color_mode(c.BigValueColorMode.VALUE)
        .justify_mode(c.BigValueJustifyMode.AUTO)
        .orientation(c.VizOrientation.VERTICAL if beside else c.VizOrientation.HORIZONTAL)
        .text_mode(c.BigValueTextMode.VALUE_AND_NAME if named else c.BigValueTextMode.VALUE)
        .wide_layout(False)
        .text(common.VizTextDisplayOptions().title_size(13).value_size(size))
        .thresholds(_thresholds(thresholds or ((None, palette.NEUTRAL),)))
    )
    if decimals is not None:
        builder = builder.decimals(decimals)
    if links:
        builder = builder.links(list(links))
    if words:
        builder = builder.mappings(_mapped(words))
    # A number is of the end of the range: the range itself need not be read for it.
    queries = tuple(replace(query, instant=True) for query in queries)
    return Draft(title, description, queries, _styled(builder, styles or {}))


def curve(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    styles: Mapping[str, Style] | None = None,
    no_value: str = NO_DATA,
    stacked: bool = False,
    percent: bool = False,
    bars: bool = False,
    steps: bool = False,
    legend: Sequence[str] = ("lastNotNull",),
    legend_right: bool = False,
    logarithmic: bool = False,
    at_least: float | None = 0,
    at_most: float | None = None,
    label: str | None = None,
    fill: int | None = None,
    decimals: int | None = None,
) -> Draft:
    """Something over time. ``legend`` are the figures behind the names; at the right they stand in a table."""
    builder = (
        timeseries.Panel()
        .unit(unit)
        .no_value(no_value)
        .line_width(1)
        .fill_opacity(fill if fill is not None else 75 if bars else 55 if stacked else 0 if logarithmic else 8)
        .gradient_mode(c.GraphGradientMode.NONE)
        .show_points(c.VisibilityMode.NEVER)
        .line_interpolation(c.LineInterpolation.STEP_AFTER if steps else c.LineInterpolation.LINEAR)
        .draw_style(c.GraphDrawStyle.BARS if bars else c.GraphDrawStyle.LINE)
        .tooltip(common.VizTooltipOptions().mode(c.TooltipDisplayMode.MULTI).sort(c.SortOrder.DESCENDING))
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(c.LegendDisplayMode.TABLE if legend_right else c.LegendDisplayMode.LIST)
            .placement(c.LegendPlacement.RIGHT if legend_right else c.LegendPlacement.BOTTOM)
            .calcs(list(legend))
        )
        .color_scheme(dashboard.FieldColor().mode(d.FieldColorModeId.PALETTE_CLASSIC))
        .interval("1m")
    )
    if bars:
        builder = builder.bar_alignment(c.BarAlignment.AFTER).bar_width_factor(0.9)
    if stacked:
        mode = c.StackingMode.PERCENT if percent else c.StackingMode.NORMAL
        builder = builder.stacking(common.StackingConfig().mode(mode).group("A"))
    if logarithmic:
        builder = builder.scale_distribution(common.ScaleDistributionConfig().type(c.ScaleDistribution.LOG).log(10))
    elif at_least is not None:
        builder = builder.axis_soft_min(at_least)
    if at_most is not None:
        builder = builder.max(at_most)
    elif unit == "percentunit":
        # Of zeros alone, Grafana would draw an axis up to 100, which is 10000 %.
        builder = builder.axis_soft_max(0.1)
        if at_least is None:
            builder = builder.axis_soft_min(-0.1)
    if label is not None:
        builder = builder.axis_label(label)
    if decimals is not None:
        builder = builder.decimals(decimals)
    return Draft(title, description, queries, _styled(builder, styles or {}))


def bars(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    thresholds: Thresholds | None = None,
    styles: Mapping[str, Style] | None = None,
    no_value: str = NO_DATA,
    at_most: float | None = None,
    color: str = "#3274d9",
    decimals: int | None = None,
    rows: tuple[str, str] | None = None,
    vertical: bool = False,
    above: bool = False,
) -> Draft:
    """Numbers side by side as bars. ``rows`` are (name, value) columns of a table, sorted by name, instead of series.
    Names stand at the left, where long ones are cut off, or ``above``."""
    builder = (
        bargauge.Panel()
        .unit(unit)
        .no_value(no_value)
        .min(0)
        .orientation(c.VizOrientation.VERTICAL if vertical else c.VizOrientation.HORIZONTAL)
        .display_mode(c.BarGaugeDisplayMode.BASIC)
        .value_mode(c.BarGaugeValueMode.TEXT)
        .name_placement(
            c.BarGaugeNamePlacement.AUTO
            if vertical
            else c.BarGaugeNamePlacement.TOP
            if above
            else c.BarGaugeNamePlacement.LEFT
        )
        .sizing(c.BarGaugeSizing.MANUAL)
        .min_viz_height(16)
        .max_viz_height(40)
        .text(common.VizTextDisplayOptions().title_size(13).value_size(11 if vertical else 16))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(rows is not None))
        .thresholds(_thresholds(thresholds or ((None, color),)))
    )
    if at_most is not None:
        builder = builder.max(at_most)
    if decimals is not None:
        builder = builder.decimals(decimals)
    if len(queries) == 1 and rows is None and "{{" in queries[0].legend:
        # A single bar shows its name only where the panel itself gives one.
        builder = builder.display_name(re.sub(r"\{\{(\w+)\}\}", r"${__field.labels.\1}", queries[0].legend))
    if rows is not None:
        keep = d.DataTransformerConfig(id_val="filterFieldsByName", options={"include": {"names": list(rows)}})
        sort = d.DataTransformerConfig(
            id_val="sortBy", options={"fields": {}, "sort": [{"field": rows[0], "desc": False}]}
        )
        builder = builder.transformations([keep, sort])
    return Draft(title, description, queries, _styled(builder, styles or {}))


def timeline(
    title: str, description: str, *queries: Query, states: Mapping[int, tuple[str, str]], no_value: str = NO_DATA
) -> Draft:
    """States over time, one lane per series."""
    builder = (
        statetimeline.Panel()
        .no_value(no_value)
        .fill_opacity(85)
        .line_width(0)
        .row_height(0.85)
        .show_value(c.VisibilityMode.NEVER)
        .merge_values(True)
        .mappings(_mapped(states))
        .legend(_list_legend())
        .interval("1m")
        .unit("none")
    )
    return Draft(title, description, queries, builder)


def history(
    title: str, description: str, *queries: Query, unit: str, thresholds: Thresholds, no_value: str = NO_DATA
) -> Draft:
    """A judged number over time, one lane per series: a heat map with names."""
    builder = (
        statushistory.Panel()
        .unit(unit)
        .no_value(no_value)
        .fill_opacity(85)
        .row_height(0.9)
        .col_width(1.0)
        .show_value(c.VisibilityMode.NEVER)
        .thresholds(_thresholds(thresholds))
        .legend(common.VizLegendOptions().show_legend(False))
        .max_data_points(96)
        .interval("1m")
    )
    return Draft(title, description, queries, builder)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its source, its name and its style."""

    source: str
    name: str
    style: Style = field(default_factory=Style)


def grid(
    title: str,
    description: str,
    *queries: Query,
    columns: Sequence[Column],
    sort: str | None = None,
    descending: bool = True,
    unit: str = "short",
    links: Mapping[str, Mapping[str, Any]] | None = None,
    drop: Sequence[str] = (),
) -> Draft:
    """A table with a row per label set: all queries are instant tables and are merged on their common labels.

    Columns appear in the order given, then the cluster where there are several; ``drop`` names labels that are only there
    for the merge.
    """
    if all(column.source != "cluster" for column in columns):
        columns = (*columns, Column("cluster", "Cluster"))
    if links:
        queries = (_located(queries[0]), *queries[1:])
        columns = (*columns, Column(HERE, HERE, Style(properties=HIDDEN)))
    shown = [column.source for column in columns]
    organize = d.DataTransformerConfig(
        id_val="organize",
        options={
            "excludeByName": dict.fromkeys(("Time", *drop), True),
            "indexByName": {source: index for index, source in enumerate(shown)},
            "renameByName": {column.source: column.name for column in columns if "$" not in column.name},
        },
    )
    transformations = [d.DataTransformerConfig(id_val="merge", options={}), organize]
    sources = {column.name: column.source for column in columns}
    if sort is not None and "$" in sort:
        order = {"fields": {}, "sort": [{"field": sources[sort], "desc": descending}]}
        transformations.append(d.DataTransformerConfig(id_val="sortBy", options=order))
    builder = (
        table.Panel()
        .unit(unit)
        .no_value(EMPTY_CELL)
        .transformations(transformations)
        .cell_height(c.TableCellHeight.SM)
        .show_header(True)
        .footer(common.TableFooterOptions().show(False))
        .thresholds(_thresholds(((None, palette.NEUTRAL),)))
    )
    for column in columns:
        properties = column.style.values()
        if links and column.name in links:
            properties.append(d.DynamicConfigValue(id_val="links", value=[dict(links[column.name])]))
        # Grafana fills in variables in a display name, and not in the name that a style or an order is for.
        if "$" in column.name:
            properties.append(d.DynamicConfigValue(id_val="displayName", value=column.name))
        if properties:
            builder = builder.override_by_name(column.source if "$" in column.name else column.name, properties)
    if sort is not None and "$" not in sort:
        builder = builder.sort_by([common.TableSortByFieldState().display_name(sort).desc(descending)])
    return Draft(title, description, queries, builder)


def _located(query: Query) -> Query:
    """The query with the label that links of its rows set as their cluster."""
    everywhere = f'label_replace({query.expr}, "{HERE}", "$$__all", "", "")'
    return replace(query, expr=f'label_replace({everywhere}, "{HERE}", "$1", "cluster", "(.+)")')


def scatter(
    title: str,
    description: str,
    x: Query,
    y: Query,
    *,
    x_label: str,
    y_label: str,
    unit_x: str,
    unit_y: str,
    partition: Sequence[str],
    no_value: str = NO_TOKENS,
    name: str | None = None,
) -> Draft:
    """One range query against another: a point per step, a colour per label set.

    Both come as tables, are merged on time and labels, and split again by the labels.
    """
    series = (
        xychart.XYSeriesConfig()
        .x(xychart.XychartXYSeriesConfigX().matcher(xychart.MatcherConfig().id("byName").options("Value #A")))
        .y(xychart.XychartXYSeriesConfigY().matcher(xychart.MatcherConfig().id("byName").options("Value #B")))
    )
    transformations = [
        d.DataTransformerConfig(id_val="merge", options={}),
        d.DataTransformerConfig(
            id_val="partitionByValues",
            options={"fields": [*partition, "cluster"], "keepFields": False, "naming": {"asLabels": True}},
        ),
    ]
    from_zero = {"custom.axisSoftMin": 0}
    legend = name or " ".join("${__field.labels." + label + "}" for label in partition)
    builder = (
        xychart.Panel()
        .no_value(no_value)
        .show(xy_models.XYShowMode.POINTS)
        .point_size(xychart.XychartFieldConfigPointSize().fixed(4))
        .fill_opacity(45)
        .mapping(xy_models.SeriesMapping.MANUAL)
        .series([series])
        .transformations(transformations)
        .legend(_list_legend())
        .override_by_name(
            "Value #A", Style(unit=unit_x, properties={"custom.axisLabel": x_label, **from_zero}).values()
        )
        .override_by_name(
            "Value #B",
            Style(unit=unit_y, name=legend, properties={"custom.axisLabel": y_label, **from_zero}).values(),
        )
        .color_scheme(dashboard.FieldColor().mode(d.FieldColorModeId.PALETTE_CLASSIC))
        .interval("5m")
        .unit("none")
    )
    queries = tuple(
        Query(query.expr, query.legend, table=True, step="5m", unfiltered=query.unfiltered) for query in (x, y)
    )
    return Draft(title, description, queries, builder)


def note(title: str, description: str, content: str) -> Draft:
    """A text in Markdown."""
    builder = text.Panel().mode(text_models.TextMode.MARKDOWN).content(content)
    return Draft(title, description, (), builder)
