"""Measuring: are the numbers complete and correct? For operators of the exporter.

Every description states the healthy values and the action for others.
"""

from __future__ import annotations

from grafana import palette, queries
from grafana.dashboard import Dashboard, Settings, trust
from grafana.metrics import Vocabulary
from grafana.panels import DASHED, Column, Query, Style, bars, curve, grid, judged, tile, timeline

SETTINGS = Settings(
    uid="tpw-measuring",
    title="tpw / Measuring",
    description="Whether the books balance, all sources are read, and no data is missing.",
    filters=("cluster", "job", "instance"),
    money=False,
    annotations=("alerts", "restarts", "versions"),
)
PRICE_STATES = {
    "final": (4, "green"),
    "preliminary": (3, "#8ab8ff"),
    "forecast": (2, "#3274d9"),
    "fallback": (1, "orange"),
    "missing": (0, "red"),
}


def dashboard(words: Vocabulary) -> Dashboard:
    """The dashboard."""
    page = Dashboard(SETTINGS, words)
    _answers(page)
    _sources(page)
    page.row("Energy")
    _energy(page)
    page.row("Tokens and money")
    _tokens(page)
    page.row("The exporter itself")
    _exporter(page)
    return page


def _answers(page: Dashboard) -> None:
    unmetered = "sum(increase(tpw_gpu_unmetered_seconds_total[$__range])) / (count(tpw_gpu_up) * $__range_s)"
    page.line(
        5,
        (
            tile(
                "Books balance",
                "Difference of two sums over the same joules in the last hour. GPUs: states against the total of the "
                "GPU. nodes: servers and idle GPUs against all GPUs. Healthy: 0 %. From 0.1 % it is a bug: save the "
                "metrics pages and report it.",
                Query("max(gpu:tpw_books_imbalance:ratio_increase1h)", "GPUs"),
                Query("max(node:tpw_books_imbalance:ratio_increase1h)", "nodes"),
                unit="percentunit",
                decimals=2,
                thresholds=((None, palette.GOOD), (0.001, palette.BAD)),
                no_value="an hour of data is needed",
            ),
            5,
        ),
        (
            tile(
                "Unmetered time",
                "Share of GPU time in the time range without a valid energy reading. Healthy: below 1 %. Otherwise "
                "check the table of sources and the rejected readings.",
                Query(unmetered, instant=True),
                unit="percentunit",
                decimals=2,
                thresholds=judged(0.01, 0.05),
            ),
            4,
        ),
        (
            tile(
                "Unpriced energy",
                "Facility energy in the time range without a price (energy that was priced late is not included), and "
                "without a carbon intensity. It is not in any cost or in any grams. Healthy: zero. Otherwise "
                "configure a fallback or repair the feed.",
                Query(f"{queries.unpriced()} / 3.6e6", "without a price", instant=True),
                Query(
                    "sum(increase(tpw_emissions_unknown_joules_total[$__range])) / 3.6e6",
                    "without an intensity",
                    instant=True,
                ),
                unit="kwatth",
                decimals=2,
                thresholds=((None, palette.GOOD), (0.01, palette.WARN)),
                no_value="no tariff configured",
            ),
            4,
        ),
        (
            tile(
                "What is missing",
                "The four parts of measuring, each as the share that works. Healthy: all 100 %.",
                *(
                    Query(f'min(cluster:tpw_trust:ratio{{aspect="{aspect}"}})', aspect)
                    for aspect in ("exporters", "sources", "energy", "price")
                ),
                unit="percentunit",
                decimals=0,
                thresholds=((None, palette.BAD), (0.95, palette.WARN), (0.99, palette.GOOD)),
                beside=True,
            ),
            8,
        ),
        (trust(), 3),
    )


def _sources(page: Dashboard) -> None:
    by = "instance, source"
    page.line(
        8,
        (
            grid(
                "Sources",
                "All sources of the exporters. Healthy: up, an age of seconds (prices: hours), no failures. The log of "
                "the exporter has one line with the reason for a source that is down. tpw-exporter probe lists what is "
                "missing and how to get it.",
                Query(f"min by ({by}) (tpw_source_up)", table=True, instant=True),
                Query(f"time() - max by ({by}) (tpw_source_last_success_timestamp_seconds)", table=True, instant=True),
                Query(f"sum by ({by}) (rate(tpw_source_reads_total[5m]))", table=True, instant=True),
                Query(queries.gained("tpw_source_read_failures_total", by), table=True, instant=True),
                Query(f"max by ({by}) (tpw_source_read_duration_seconds)", table=True, instant=True),
                columns=(
                    Column("instance", "Node"),
                    Column("source", "Source"),
                    Column(
                        "Value #A",
                        "Up",
                        Style(
                            width=70,
                            properties={
                                "custom.cellOptions": {"type": "color-text"},
                                "mappings": [
                                    {
                                        "type": "value",
                                        "options": {
                                            "1": {"text": "up", "color": "green", "index": 0},
                                            "0": {"text": "down", "color": "red", "index": 1},
                                        },
                                    }
                                ],
                            },
                        ),
                    ),
                    Column("Value #B", "Last success", Style(unit="s", decimals=0, width=110)),
                    Column("Value #C", "Reads", Style(unit="reqps", width=100)),
                    Column("Value #D", "Failures", Style(unit="none", decimals=0, width=90)),
                    Column("Value #E", "Last read", Style(unit="s", width=85)),
                ),
                sort="Failures",
            ),
            16,
        ),
        (
            bars(
                "Failed reads by reason",
                "In the time range. Healthy: none, or a few timeouts while a server restarts.",
                Query(
                    queries.gained("tpw_source_read_failures_total", "source, reason"),
                    "{{source}} {{reason}}",
                    instant=True,
                ),
                unit="none",
                decimals=0,
                color=palette.WARN,
                no_value="no read failed",
            ),
            8,
        ),
    )


def _energy(page: Dashboard) -> None:
    page.line(
        8,
        (
            curve(
                "Sampled power against the energy counter",
                "Mean of the power sensor over mean power by the energy counter, less one, over an hour; highest and "
                "lowest of each node. Healthy: constant, within a few per cent of zero. A GPU that deviates has a "
                "faulty sensor or counter.",
                Query(f"max by (instance) ({queries.sensor_error()})", "{{instance}}, highest"),
                Query(f"min by (instance) ({queries.sensor_error()})", "{{instance}}, lowest"),
                unit="percentunit",
                at_least=None,
                legend=(),
                fill=0,
            ),
            8,
        ),
        (
            curve(
                "Power by energy method",
                "Source of the joules. Healthy: counter. average_power and instant_power are integrated from samples "
                "and miss changes between them.",
                Query(
                    "sum by (energy_method) (sum by (cluster, job, instance, gpu, uuid) "
                    "(rate(tpw_gpu_energy_joules_total[5m])) * on (cluster, job, instance, gpu, uuid) group_left "
                    "(energy_method) tpw_gpu_info)",
                    "{{energy_method}}",
                ),
                unit="watt",
                stacked=True,
            ),
            8,
        ),
        (
            bars(
                "Rejected energy readings",
                "In the time range, by reason. Healthy: none, or resets after a driver reload. Otherwise compare the "
                "GPU with the panel on the left.",
                Query(
                    queries.gained("tpw_gpu_energy_anomalies_total", "instance, gpu, reason"),
                    "{{instance}} GPU {{gpu}} {{reason}}",
                    instant=True,
                ),
                unit="none",
                decimals=0,
                color=palette.WARN,
                above=True,
                no_value="no reading was rejected",
            ),
            8,
        ),
    )
    page.line(
        8,
        (
            curve(
                "Power by source of ownership",
                "Power of servers by how the exporter found their GPUs, and of GPUs without an owner. Healthy: no "
                "none. For none, list the GPUs in the configuration.",
                Query(
                    "sum by (attribution) (sum by (cluster, job, instance, server) "
                    "(rate(tpw_server_energy_joules_total[5m])) * on (cluster, job, instance, server) group_left "
                    "(attribution) tpw_server_info)",
                    "{{attribution}}",
                ),
                Query('sum(rate(tpw_gpu_state_energy_joules_total{state=~"idle|other"}[5m]))', "no server"),
                unit="watt",
                stacked=True,
                styles={"no owner": Style(color=palette.IDLE)},
            ),
            8,
        ),
        (
            curve(
                "GPUs against the node's own meter",
                "Power of all GPUs of a node over the power of the node's own meter (a BMC, a PDU). Healthy: below "
                "100 %, constant at the same load. Above 100 %, one of the two is wrong.",
                Query(
                    "sum by (cluster, job, instance) (tpw_gpu_power_watts)"
                    " / on (cluster, job, instance)"
                    ' (sum by (cluster, job, instance) (tpw_host_power_watts{component="node"}) > 0)',
                    "{{instance}}",
                ),
                unit="percentunit",
                no_value="no meter of a whole node is configured",
            ),
            8,
        ),
        (
            curve(
                "Unmetered time by node",
                "Share of GPU time without a valid energy reading. Healthy: zero.",
                Query(
                    "sum by (instance) (rate(tpw_gpu_unmetered_seconds_total[5m]))"
                    " / (count by (instance) (tpw_gpu_up) > 0)",
                    "{{instance}}",
                ),
                unit="percentunit",
            ),
            8,
        ),
    )


def _tokens(page: Dashboard) -> None:
    page.line(
        8,
        (
            curve(
                "Energy without tokens, tokens without energy",
                "Power of active models without tokens, and tokens per second of models without energy. Healthy: both "
                "zero. Otherwise a counter was renamed, or the owner of a GPU is unknown.",
                Query(
                    'sum(model:tpw_server_energy_joules:rate5m{boundary="gpu", state="active"}'
                    ' unless on (cluster, job, server, model) model:tpw_server_tokens:rate5m{kind="total"} > 0)'
                    ' or 0 * sum(model:tpw_server_energy_joules:rate5m{boundary="gpu", state="active"})',
                    "watts without tokens",
                ),
                Query(
                    'sum(model:tpw_server_tokens:rate5m{kind="total"} unless on (cluster, job, server, model)'
                    ' sum by (cluster, job, server, model) (model:tpw_server_energy_joules:rate5m{boundary="gpu"}) > 0)'
                    ' or 0 * sum(model:tpw_server_tokens:rate5m{kind="total"})',
                    "tokens/s without joules",
                ),
                unit="short",
            ),
            8,
        ),
        (
            curve(
                "Live ratio against the rules",
                "Output tokens per joule: the gauge of the exporter (dashed) and the recording rule over its "
                "counters. Healthy: the same, except while the load changes. A server that spans nodes has no gauge "
                "here, because each of its exporters reads a part of it.",
                Query(
                    'max by (server, model) (model:tpw_tokens_per_joule:ratio_rate5m{kind="output", boundary="gpu"})',
                    "{{server}} {{model}}",
                ),
                Query(
                    'max by (server, model) (avg_over_time(tpw_tokens_per_watt{kind="output", boundary="gpu"}[5m])'
                    " and on (server)"
                    " (count by (server) (count by (server, instance) (last_over_time(tpw_server_gpu[1h]))) == 1))",
                    "{{server}} {{model}}, live",
                ),
                unit="suffix: tok/J",
                fill=0,
                legend=(),
                styles={"/, live$/": Style(properties=DASHED)},
            ),
            8,
        ),
        (
            timeline(
                "State of the price",
                "Healthy: final, or forecast on tariffs with later settlement. fallback: the feed is down and cost is "
                "approximate. missing: no cost is booked.",
                Query(
                    " or ".join(
                        f'(max by (instance) (tpw_electricity_price_state{{state="{state}"}}) * {code})'
                        for state, (code, _) in PRICE_STATES.items()
                    ),
                    "{{instance}}",
                ),
                states={code: (state, color) for state, (code, color) in PRICE_STATES.items()},
                no_value="no tariff configured",
            ),
            8,
        ),
    )


def _exporter(page: Dashboard) -> None:
    page.line(
        7,
        (
            curve(
                "CPU and memory of the exporter",
                "Maximum of all exporters. Healthy: below 2 % of a core and below 60 MB, constant over weeks.",
                Query(
                    "max(rate(process_cpu_seconds_total[5m]) and on (cluster, job, instance) tpw_build_info)",
                    "CPU, cores",
                ),
                Query("max(process_resident_memory_bytes and on (cluster, job, instance) tpw_build_info)", "memory"),
                unit="percentunit",
                styles={"memory": Style(unit="bytes", properties={"custom.axisPlacement": "right"})},
            ),
            6,
        ),
        (
            curve(
                "Late polls, duration of scrapes",
                "Maximum of all exporters. Healthy: milliseconds. Growing lateness means a node without CPU to spare.",
                Query("max(tpw_poll_lag_seconds)", "poll lateness"),
                Query("max(scrape_duration_seconds and on (cluster, job, instance) tpw_build_info)", "scrape"),
                unit="s",
            ),
            6,
        ),
        (
            curve(
                "Skipped polls, dropped samples",
                "Per second, all exporters. Healthy: zero. Skipped: a read takes longer than the interval. Dropped: a "
                "bug; report it.",
                Query("sum(rate(tpw_polls_skipped_total[$__rate_interval]))", "skipped polls"),
                Query("sum(rate(tpw_exposition_dropped_samples_total[$__rate_interval]))", "dropped samples"),
                unit="cps",
            ),
            6,
        ),
        (
            curve(
                "Age of the books, and restarts",
                "The oldest save of any exporter, and how often exporters started in an hour. Healthy: seconds, and "
                "zero.",
                Query("max(time() - tpw_store_last_write_timestamp_seconds)", "age of the books"),
                Query(
                    "sum(changes(process_start_time_seconds[1h]) and on (cluster, job, instance) tpw_build_info)",
                    "restarts per hour",
                ),
                unit="s",
                styles={
                    "restarts per hour": Style(unit="none", decimals=0, properties={"custom.axisPlacement": "right"})
                },
            ),
            6,
        ),
    )
