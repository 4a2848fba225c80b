"""Fleet: many nodes and clusters. Sums and shares by node; no curve per GPU, which is unreadable beyond twenty."""

from __future__ import annotations

from grafana import palette, queries
from grafana.dashboard import Dashboard, Settings, link_to, trust
from grafana.metrics import Vocabulary
from grafana.panels import NO_PRICE, NO_TOKENS, Column, Query, Style, bars, curve, grid, history, judged, tile
from grafana.queries import BOUNDARY, KIND, MONEY

SETTINGS = Settings(
    uid="tpw-fleet",
    title="tpw / Fleet",
    description="Efficiency, spend and waste of all nodes.",
    filters=("cluster", "job", "instance"),
    choices=("kind", "scope", "boundary"),
    annotations=("alerts", "restarts"),
)
NODE = "cluster, instance"
NO_HOURS = "no whole hour yet"
NO_CARBON = "no carbon intensity, or no whole hour yet"


def dashboard(words: Vocabulary) -> Dashboard:
    """The dashboard."""
    page = Dashboard(SETTINGS, words)
    _answers(page)
    _nodes(page)
    page.row("Where")
    _where(page)
    page.row("What")
    _what(page)
    page.row("Carbon")
    _carbon(page)
    return page


def _answers(page: Dashboard) -> None:
    page.line(
        7,
        (
            tile(
                "Tokens per watt",
                "${kind:text} tokens per second for each watt of all GPUs, idle ones included, over five minutes: the "
                "same number as tokens per joule.",
                Query(
                    f"sum(node:tpw_server_tokens:rate5m{{{KIND}}})"
                    f" / (sum(node:tpw_gpu_state_energy_joules:rate5m{{{BOUNDARY}, {queries.OWN}}}) > 0)"
                ),
                unit="suffix: tok/s/W",
                no_value=NO_TOKENS,
            ),
            4,
        ),
        (
            tile(
                "$currency per M tokens",
                "Money per million ${kind:text} tokens over the last hour, ${scope:text} cost of all GPUs, idle ones "
                "included.",
                Query(f"1e6 * {queries.fleet_cost('1h', 'node')} / (sum(node:tpw_server_tokens:rate1h{{{KIND}}}) > 0)"),
                unit="none",
                no_value=NO_PRICE,
            ),
            4,
        ),
        (
            tile(
                "Waste per month",
                "Cost of parked and idle GPUs at the pace of the last hour, less credit, and its share of all cost. "
                "Orange from 20 %, red from 40 %. A month is 730 hours.",
                Query(f"730 * sum(node:tpw_waste_cost_per_hour:rate1h{{{MONEY}}})", "at this pace, $currency"),
                Query(
                    f'sum(node:tpw_gpu_state_net_cost:rate1h{{state=~"parked|idle", {MONEY}}})'
                    f" / (sum(node:tpw_gpu_state_net_cost:rate1h{{{MONEY}}}) > 0)",
                    "of all cost",
                ),
                unit="none",
                no_value=NO_PRICE,
                styles={"of all cost": Style(unit="percentunit", decimals=0, thresholds=judged(0.2, 0.4))},
            ),
            4,
        ),
        (
            tile(
                "Power",
                "Energy counters of all GPUs over five minutes, the share of their enforced limits, and the facility: "
                "GPUs and their share of the hosts, times PUE.",
                Query('sum(node:tpw_gpu_state_energy_joules:rate5m{boundary="gpu"})', "GPUs"),
                Query(
                    'sum(node:tpw_gpu_state_energy_joules:rate5m{boundary="gpu"}) / (sum(tpw_gpu_power_limit_watts) > 0)',
                    "of limits",
                ),
                Query('sum(node:tpw_gpu_state_energy_joules:rate5m{boundary="facility"})', "facility"),
                unit="watt",
                styles={"of limits": Style(unit="percentunit", decimals=0)},
            ),
            3,
        ),
        (
            tile(
                "GPUs",
                "Current number by state. lost: the driver no longer responds for the GPU.",
                *(
                    Query(f'sum(node:tpw_gpu_state_seconds:rate5m{{state="{state}"}})', state)
                    for state in palette.STATES
                ),
                Query(queries.LOST, "lost"),
                unit="none",
                decimals=0,
                styles={
                    **{state: Style(color=color) for state, color in palette.STATES.items()},
                    "lost": Style(thresholds=((None, palette.NEUTRAL), (1, palette.BAD))),
                },
            ),
            3,
        ),
        (
            tile(
                "Exporters",
                "Number of targets that respond to the scrape, and number of targets.",
                Query("sum(node:tpw_exporter_up:max)", "up"),
                Query("count(node:tpw_exporter_up:max)", "expected"),
                unit="none",
                decimals=0,
            ),
            3,
        ),
        (trust(), 3),
    )


def _nodes(page: Dashboard) -> None:
    page.line(
        7,
        (
            grid(
                "Nodes",
                "A row per exporter, five-minute means. Tokens of a server that spans nodes are split by its "
                "energy per node. A click on a node opens its GPUs.",
                Query(f"count by ({NODE}) (tpw_gpu_up)", table=True, instant=True),
                Query(
                    f'sum by ({NODE}) (node:tpw_gpu_state_energy_joules:rate5m{{boundary="gpu"}})',
                    table=True,
                    instant=True,
                ),
                Query(
                    f'max by ({NODE}) (node:tpw_gpu_state_share:ratio_rate5m{{state="active"}})',
                    table=True,
                    instant=True,
                ),
                Query(
                    f'max by ({NODE}) (node:tpw_gpu_state_share:ratio_rate5m{{state="parked"}})',
                    table=True,
                    instant=True,
                ),
                Query(
                    f'max by ({NODE}) (node:tpw_gpu_state_share:ratio_rate5m{{state="idle"}})', table=True, instant=True
                ),
                Query(
                    f"max by ({NODE}) (node:tpw_tokens_per_joule:ratio_rate5m{{{KIND}, {BOUNDARY}}})",
                    table=True,
                    instant=True,
                ),
                Query(
                    f"1e6 * {queries.fleet_cost('1h', 'node', NODE)}"
                    f" / (sum by ({NODE}) (node:tpw_server_tokens:rate1h{{{KIND}}}) > 0)",
                    table=True,
                    instant=True,
                ),
                Query(f"sum by ({NODE}) (node:tpw_waste_cost_per_hour:rate1h{{{MONEY}}})", table=True, instant=True),
                Query(f"time() - max by ({NODE}) (tpw_snapshot_timestamp_seconds)", table=True, instant=True),
                Query(f"max by ({NODE}, version) (tpw_build_info)", table=True, instant=True),
                columns=(
                    Column("cluster", "Cluster", Style(width=100)),
                    Column("instance", "Node"),
                    Column("Value #A", "GPUs", Style(unit="none", decimals=0, width=70)),
                    Column("Value #B", "Power", Style(unit="watt", width=85)),
                    Column("Value #C", "Active", Style(unit="percentunit", decimals=0, width=75)),
                    Column("Value #D", "Parked", Style(unit="percentunit", decimals=0, width=75)),
                    Column("Value #E", "Idle", Style(unit="percentunit", decimals=0, width=65)),
                    Column("Value #F", "Tokens per watt", Style(unit="suffix: tok/s/W", width=125)),
                    Column("Value #G", "$currency/M tokens", Style(unit="none", width=115)),
                    Column("Value #H", "Waste, $currency/h", Style(unit="none", decimals=2, width=110)),
                    Column("version", "Exporter", Style(width=100)),
                    Column(
                        "Value #I",
                        "Age",
                        Style(
                            unit="s",
                            decimals=0,
                            width=70,
                            thresholds=judged(180, 300),
                            properties={"custom.cellOptions": {"type": "color-text"}},
                        ),
                    ),
                ),
                drop=("Value #J",),
                links={"Node": link_to("tpw-gpus", "GPUs", instance="Node")},
                sort="Waste, $currency/h",
            ),
            24,
        ),
    )


def _where(page: Dashboard) -> None:
    seconds = "node:tpw_gpu_state_seconds:sum1h"
    waste = seconds + '{state=~"parked|idle"}'
    share = (
        f"sum by (instance) (last_over_time({waste}[1h])) / (sum by (instance) (last_over_time({seconds}[1h])) > 0)"
        f" and on (instance) topk(20, sum by (instance) (sum_over_time({waste}[$__range] @ end())))"
    )
    page.line(
        8,
        (
            history(
                "Wasted GPU time by node",
                "Share of GPU time of each whole hour that was parked or idle. Green below 20 %, orange below 40 %, "
                "red above. The twenty nodes with most of it in the time range.",
                Query(share, "{{instance}}"),
                unit="percentunit",
                thresholds=judged(0.2, 0.4),
                no_value=NO_HOURS,
            ),
            12,
        ),
        (
            curve(
                "Cost by node, $currency per hour",
                "All booked costs of the GPUs of each node, owned or not, as a mean over each hour; the twenty most "
                "expensive nodes.",
                Query(
                    f"topk(20, sum by (instance) (last_over_time(node:tpw_gpu_state_net_cost:sum1h{{{MONEY}}}[1h])))",
                    "{{instance}}",
                    step="1h",
                ),
                unit="none",
                stacked=True,
                bars=True,
                no_value=NO_HOURS,
            ),
            12,
        ),
    )


def _what(page: Dashboard) -> None:
    node = "cluster, job, instance"
    names = f"group by ({node}, name) (tpw_gpu_info)"
    name = f"({names} and on ({node}) (count by ({node}) ({names}) == 1))"
    page.line(
        8,
        (
            bars(
                "Tokens per joule by GPU model",
                "Output and input tokens over all joules of the nodes with that GPU, over the last hour; nodes with "
                "two models of GPU are left out. Compare GPUs only at similar work.",
                Query(
                    f"sum by (name) (sum by ({node}) (node:tpw_server_tokens:rate1h{{{KIND}}})"
                    f" * on ({node}) group_left (name) {name})"
                    f" / (sum by (name) (sum by ({node}) (node:tpw_gpu_state_energy_joules:rate1h{{{BOUNDARY}}})"
                    f" * on ({node}) group_left (name) {name}) > 0)",
                    "{{name}}",
                    instant=True,
                ),
                unit="suffix: tok/J",
                above=True,
                no_value=NO_TOKENS,
            ),
            6,
        ),
        (
            bars(
                "Worst idle GPUs, $currency/h",
                "The ten GPUs without an owner that cost most.",
                Query(
                    "topk(10, sum by (instance, gpu)"
                    f' (gpu:tpw_gpu_state_net_cost:rate5m{{state="idle", {MONEY}}}) * 3600 > 0)',
                    "{{instance}} GPU {{gpu}}",
                    instant=True,
                ),
                unit="none",
                color=palette.IDLE,
                above=True,
                no_value="no idle GPU, or no price configured",
            ),
            6,
        ),
        (
            grid(
                "Servers over nodes",
                "Number of nodes and GPUs of each server. Its tokens and joules are summed over all of them.",
                Query("count by (server) (count by (server, instance) (tpw_server_gpu))", table=True, instant=True),
                Query("count by (server) (tpw_server_gpu)", table=True, instant=True),
                columns=(
                    Column("server", "Server"),
                    Column("Value #A", "Nodes", Style(unit="none", decimals=0, width=65)),
                    Column("Value #B", "GPUs", Style(unit="none", decimals=0, width=50)),
                ),
                sort="Nodes",
                links={"Server": link_to("tpw-models", "Models", server="Server")},
            ),
            6,
        ),
        (
            curve(
                "Price by cluster, $currency/kWh",
                "One line per cluster.",
                Query(
                    f"max by (cluster) (cluster:tpw_electricity_price_per_kwh:max{{{MONEY}}})", "current {{cluster}}"
                ),
                unit="none",
                steps=True,
                no_value=NO_PRICE,
                styles={"/^current/": Style(color=palette.PRICE, properties={"custom.lineWidth": 2})},
            ),
            6,
        ),
    )


def _carbon(page: Dashboard) -> None:
    by = "server, model, basis"
    page.line(
        8,
        (
            tile(
                "CO2 equivalent",
                "Emissions of the facility energy of all GPUs in the whole hours of the time range, idle ones "
                "included, and the current intensity of the grid. By basis: average or marginal, direct or "
                "life-cycle; by the supplier's contract (market_based); of making the GPUs (embodied).",
                Query(
                    queries.hours("node:tpw_gpu_state_emissions_grams", by="basis"),
                    "{{basis}}",
                    instant=True,
                ),
                Query("max by (basis) (tpw_grid_carbon_grams_per_kwh)", "grid now, g/kWh"),
                unit="massg",
                styles={"grid now, g/kWh": Style(unit="none", decimals=0)},
                no_value=NO_CARBON,
            ),
            5,
        ),
        (
            curve(
                "CO2 equivalent per hour, by state",
                "Emissions of all GPUs by state, as a mean over each hour, without the market-based one, which is "
                "another measure of the same energy. Parked and idle GPUs generate no tokens.",
                Query(
                    "sum by (state, basis)"
                    ' (last_over_time(node:tpw_gpu_state_emissions_grams:sum1h{basis!="market_based"}[1h]))',
                    "{{state}}, {{basis}}",
                    step="1h",
                ),
                unit="massg",
                stacked=True,
                bars=True,
                no_value=NO_CARBON,
                legend=("mean",),
                styles={f"/^{state},/": Style(color=color) for state, color in palette.STATES.items()},
            ),
            11,
        ),
        (
            bars(
                "CO2 equivalent per million ${kind:text} tokens",
                "Per model in the time range, parked time included, the fifteen highest: facility energy of its "
                "servers times the intensity at the time of use, over its tokens.",
                Query(
                    f"topk(15, 1e6 * {queries.hours('model:tpw_server_emissions_grams', by=by)}"
                    f" / on (server, model) group_left () ({queries.tokens('server, model')} > 0))",
                    "{{server}} {{model}} {{basis}}",
                    instant=True,
                    unfiltered=("instance",),
                ),
                unit="massg",
                no_value=NO_CARBON,
                above=True,
                color=palette.CARBON,
            ),
            8,
        ),
    )
