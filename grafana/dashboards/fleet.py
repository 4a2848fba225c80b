"""Fleet: many nodes and clusters. Sums and shares by node; no curve per GPU, which is unreadable beyond twenty."""

from __future__ import annotations

from grafana import palette, queries
from grafana.dashboard import Dashboard, Settings, link_to, trust
from grafana.metrics import Vocabulary
from grafana.panels import NO_PRICE, NO_TOKENS, Column, Query, Style, bars, curve, grid, history, judged, tile
from grafana.queries import BOUNDARY, KIND, MONEY, SCOPE

SETTINGS = Settings(
    uid="tpw-fleet",
    title="tpw / Fleet",
    description="Efficiency, spend and waste of all nodes.",
    filters=("cluster", "job", "instance"),
    choices=("kind", "scope", "boundary"),
    annotations=("alerts", "restarts"),
)
NODE = "cluster, instance"
NO_CARBON = "no carbon intensity configured"


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
        5,
        (
            tile(
                "Tokens / joule",
                "${kind:text} tokens over all joules of all GPUs, idle ones included, over five minutes.",
                Query(
                    f"sum(node:tpw_server_tokens:rate5m{{{KIND}}})"
                    f" / (sum(node:tpw_gpu_state_energy_joules:rate5m{{{BOUNDARY}}}) > 0)"
                ),
                unit="none",
                spark=True,
                no_value=NO_TOKENS,
            ),
            3,
        ),
        (
            tile(
                "$currency / M tokens",
                "Money per million ${kind:text} tokens over the last hour, ${scope:text} cost of all GPUs, idle ones "
                "included.",
                Query(
                    f"1e6 * sum(node:tpw_cost:rate1h{{{SCOPE}, {MONEY}}})"
                    f" / (sum(node:tpw_server_tokens:rate1h{{{KIND}}}) > 0)"
                ),
                unit="none",
                spark=True,
                no_value=NO_PRICE,
            ),
            3,
        ),
        (
            tile(
                "Power",
                "Energy counters of all GPUs over five minutes, the share of their enforced limits, and the facility: GPUs "
                "and their share of the hosts, times PUE.",
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
                beside=True,
            ),
            5,
        ),
        (
            tile(
                "$currency wasted / hour",
                "Cost of parked and idle GPUs over the last hour, less credit, and its share of all cost. Orange "
                "from 20 %, red from 40 %.",
                Query(f"sum(node:tpw_waste_cost_per_hour:rate1h{{{MONEY}}})", "last hour"),
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
                    f'sum by ({NODE}) (node:tpw_gpu_state_share:ratio_rate5m{{state="active"}})',
                    table=True,
                    instant=True,
                ),
                Query(
                    f'sum by ({NODE}) (node:tpw_gpu_state_share:ratio_rate5m{{state="parked"}})',
                    table=True,
                    instant=True,
                ),
                Query(
                    f'sum by ({NODE}) (node:tpw_gpu_state_share:ratio_rate5m{{state="idle"}})', table=True, instant=True
                ),
                Query(
                    f"sum by ({NODE}) (node:tpw_tokens_per_joule:ratio_rate5m{{{KIND}, {BOUNDARY}}})",
                    table=True,
                    instant=True,
                ),
                Query(
                    f"sum by ({NODE}) (node:tpw_cost_per_million_tokens:ratio_rate1h{{{KIND}, {SCOPE}, {MONEY}}})",
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
                    Column("Value #B", "Power", Style(unit="watt")),
                    Column("Value #C", "Active", Style(unit="percentunit", decimals=0)),
                    Column("Value #D", "Parked", Style(unit="percentunit", decimals=0)),
                    Column("Value #E", "Idle", Style(unit="percentunit", decimals=0)),
                    Column("Value #F", "Tokens per joule", Style(unit="suffix: tok/J")),
                    Column("Value #G", "Cost per million", Style(unit="none")),
                    Column("Value #H", "Wasted per hour", Style(unit="none", decimals=2)),
                    Column("version", "Exporter", Style(width=100)),
                    Column(
                        "Value #I",
                        "Age of readings",
                        Style(
                            unit="s",
                            decimals=0,
                            thresholds=judged(180, 300),
                            properties={"custom.cellOptions": {"type": "color-text"}},
                        ),
                    ),
                ),
                drop=("Value #J",),
                links={"Node": link_to("tpw-gpus", "GPUs", instance="Node")},
                sort="Wasted per hour",
            ),
            24,
        ),
    )


def _where(page: Dashboard) -> None:
    page.line(
        8,
        (
            history(
                "Wasted GPU time by node",
                "Share of GPU time that was parked or idle. Green below 20 %, orange below 40 %, red above.",
                Query(
                    'sum by (instance) (node:tpw_gpu_state_share:ratio_rate5m{state=~"parked|idle"})', "{{instance}}"
                ),
                unit="percentunit",
                thresholds=judged(0.2, 0.4),
            ),
            12,
        ),
        (
            curve(
                "$currency per hour by node",
                "${scope:text} cost of the GPUs of each node, owned or not; the twenty most expensive nodes.",
                Query(f"topk(20, 3600 * sum by (instance) (node:tpw_cost:rate5m{{{SCOPE}, {MONEY}}}))", "{{instance}}"),
                unit="none",
                stacked=True,
                no_value=NO_PRICE,
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
                "Most expensive idle GPUs",
                "The ten GPUs without an owner that cost most, $currency per hour.",
                Query(
                    "topk(10, sum by (instance, gpu)"
                    f' (gpu:tpw_gpu_state_net_cost:rate5m{{state="idle", {MONEY}}}) * 3600 > 0)',
                    "{{instance}} GPU {{gpu}}",
                    instant=True,
                ),
                unit="none",
                color=palette.IDLE,
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
                    Column("Value #A", "Nodes", Style(unit="none", decimals=0, width=80)),
                    Column("Value #B", "GPUs", Style(unit="none", decimals=0, width=80)),
                ),
                sort="Nodes",
                links={"Server": link_to("tpw-models", "Models", server="Server")},
            ),
            6,
        ),
        (
            curve(
                "Electricity price by cluster, $currency per kWh",
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
                "Emissions of the facility energy of all GPUs in the time range, idle ones included, and the current "
                "intensity of the grid. By basis: average or marginal, direct or life-cycle; by the supplier's contract "
                "(market_based); of making the GPUs (embodied).",
                Query(
                    "sum by (basis) (increase(tpw_gpu_state_emissions_grams_total[$__range]))",
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
                "Emission rate of all GPUs by state over the last five minutes, without the market-based one, which is "
                "another measure of the same energy. Parked and idle GPUs generate no tokens.",
                Query(
                    '3600 * sum by (state, basis) (node:tpw_gpu_state_emissions_grams:rate5m{basis!="market_based"})',
                    "{{state}}, {{basis}}",
                ),
                unit="massg",
                stacked=True,
                no_value=NO_CARBON,
                legend=("mean",),
                styles={f"/^{state},/": Style(color=color) for state, color in palette.STATES.items()},
            ),
            11,
        ),
        (
            bars(
                "CO2 equivalent per million ${kind:text} tokens",
                "Per model in the time range, parked time included: facility energy of its servers times the intensity "
                "at the time of use, over its tokens.",
                Query(
                    f"1e6 * sum by ({by}) (increase(tpw_server_emissions_grams_total[$__range]))"
                    f" / on (server, model) group_left () ({queries.tokens_in('$__range', 'server, model')} > 0)",
                    "{{server}} {{model}} {{basis}}",
                    instant=True,
                    unfiltered=("instance",),
                ),
                unit="massg",
                no_value=NO_CARBON,
                color=palette.CARBON,
            ),
            8,
        ),
    )
