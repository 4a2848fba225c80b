"""Overview: is it cheap, is it wasting, can I trust it? For operators of the servers."""

from __future__ import annotations

from grafana import palette, queries
from grafana.dashboard import Dashboard, Settings, electricity_price, link_to, trust
from grafana.metrics import Vocabulary
from grafana.panels import ALONE, DASHED, NO_PRICE, NO_TOKENS, Column, Query, Style, curve, grid, judged, tile
from grafana.queries import BOUNDARY, KIND, MONEY, SCOPE

SETTINGS = Settings(
    uid="tpw-overview",
    title="tpw / Overview",
    description="Tokens per joule, cost per million tokens, waste, and whether the numbers are complete.",
    filters=("cluster", "job", "namespace", "server", "model"),
    choices=("kind", "scope", "boundary"),
    reference=True,
)


def dashboard(words: Vocabulary) -> Dashboard:
    """The dashboard."""
    page = Dashboard(SETTINGS, words)
    _now(page)
    _table(page)
    _over_time(page)
    return page


def _now(page: Dashboard) -> None:
    efficiency = tile(
        "Tokens / joule",
        "${kind:text} tokens per second per watt over the last five minutes. servers: all energy of the GPUs they own, "
        "parked time included. fleet: idle GPUs as well.",
        Query(
            f"sum(model:tpw_server_tokens:rate5m{{{KIND}}})"
            f" / (sum(model:tpw_server_energy_joules:rate5m{{{BOUNDARY}}}) > 0)",
            "servers",
        ),
        Query(
            f"sum(cluster:tpw_server_tokens:rate5m{{{KIND}}})"
            f" / (sum(cluster:tpw_gpu_state_energy_joules:rate5m{{{BOUNDARY}}}) > 0)",
            "fleet",
        ),
        unit="suffix: tok/J",
        no_value=NO_TOKENS,
    )
    cost = tile(
        "$currency / M tokens",
        "Money per million ${kind:text} tokens over the last hour, ${scope:text} cost. servers: what the servers cost. "
        "fleet: idle GPUs as well.",
        Query(
            f"1e6 * sum(model:tpw_server_cost:rate1h{{{SCOPE}, {MONEY}}})"
            f" / (sum(model:tpw_server_tokens:rate1h{{{KIND}}}) > 0)",
            "servers",
        ),
        Query(
            f"1e6 * sum(cluster:tpw_cost:rate1h{{{SCOPE}, {MONEY}}})"
            f" / (sum(cluster:tpw_server_tokens:rate1h{{{KIND}}}) > 0)",
            "fleet",
        ),
        unit="none",
        no_value=NO_PRICE,
    )
    spend = tile(
        "$currency / hour",
        "${scope:text} cost of all GPUs, owned or not: the rate over the last five minutes, and the sum of the day so "
        "far, in the time zone of the tariff, from the exporters' books.",
        Query(f"3600 * sum(cluster:tpw_cost:rate5m{{{SCOPE}, {MONEY}}})", "now"),
        Query(queries.period_cost("day"), "today", instant=True),
        unit="none",
        no_value=NO_PRICE,
    )
    wasted = tile(
        "$currency wasted / hour",
        "Cost of GPUs that are parked or idle over the last hour, less credit, and its share of the cost of all GPUs. "
        "Orange from 20 %, red from 40 %.",
        Query(f"sum(cluster:tpw_waste_cost_per_hour:rate1h{{{MONEY}}})", "now"),
        Query(
            f'sum(cluster:tpw_gpu_state_net_cost:rate1h{{state=~"parked|idle", {MONEY}}})'
            f" / (sum(cluster:tpw_gpu_state_net_cost:rate1h{{{MONEY}}}) > 0)",
            "of all cost",
        ),
        unit="none",
        no_value=NO_PRICE,
        styles={"of all cost": Style(unit="percentunit", decimals=0, thresholds=judged(0.2, 0.4))},
    )
    speed = tile(
        "Tokens / second",
        "Output tokens, and prompt tokens that had to be computed, over the last five minutes.",
        Query('sum(model:tpw_server_tokens:rate5m{kind="output"})', "output"),
        Query('sum(model:tpw_server_tokens:rate5m{kind="input"})', "input"),
        unit="short",
        no_value=NO_TOKENS,
    )
    power = tile(
        "Power",
        "Facility power, mean of the last five minutes: GPUs and their share of the host, times PUE. idle: GPUs without "
        "an owner. limit: sum of the enforced limits of all GPUs, without host and PUE.",
        Query('sum(model:tpw_server_energy_joules:rate5m{boundary="facility"})', "servers"),
        Query('sum(cluster:tpw_gpu_state_energy_joules:rate5m{boundary="facility", state="idle"})', "idle"),
        Query("sum(tpw_gpu_power_limit_watts)", "limit"),
        unit="watt",
    )
    price = tile(
        "$currency / kWh",
        "Current all-in electricity price and its state, the next price, and when it begins.",
        Query(
            f"max by (state) (tpw_electricity_price_per_kwh{{{MONEY}}}"
            " * on (cluster, job, instance) group_left (state) tpw_electricity_price_state)",
            "now ({{state}})",
        ),
        Query(f"max(tpw_electricity_price_next_per_kwh{{{MONEY}}})", "next"),
        Query("min(tpw_electricity_price_next_change_timestamp_seconds) - time()", "begins in"),
        unit="none",
        no_value=NO_PRICE,
        styles={"begins in": Style(unit="s", decimals=0)},
    )
    page.line(5, (efficiency, 3), (cost, 3), (spend, 3), (wasted, 3), (speed, 3), (power, 3), (price, 3), (trust(), 3))


def _table(page: Dashboard) -> None:
    by = "server, model"
    tokens = queries.tokens_in("$__range", by)
    cost = queries.server_cost_in("$__range", by)
    reference = (
        f'sum by ({by}) (increase(tpw_server_reference_cost_total{{reference="$reference", {MONEY}}}[$__range]))'
    )
    page.line(
        6,
        (
            grid(
                "Models in this range",
                "Sums over the time range, then divided. Parked: share of the energy that was used without requests. "
                "Against $reference: cost here over the cost of the same work there; below 100 % is cheaper here. A "
                "click on a model opens it on the Models dashboard.",
                Query(queries.tokens_in("$__range", by, 'kind="output"'), table=True, instant=True),
                Query(f"{tokens} / ({queries.joules_in('$__range', by)} > 0)", table=True, instant=True),
                Query(f"1e6 * {cost} / ({tokens} > 0)", table=True, instant=True),
                Query(cost, table=True, instant=True),
                Query(
                    f"{queries.joules_in('$__range', by, 'parked')} / ({queries.joules_in('$__range', by)} > 0)",
                    table=True,
                    instant=True,
                ),
                Query(
                    f"sum by ({by}) (avg_over_time(tpw_server_requests_running[$__range]))", table=True, instant=True
                ),
                Query(f"{queries.server_cost_in('$__range', by, '')} / ({reference} > 0)", table=True, instant=True),
                columns=(
                    Column("server", "Server"),
                    Column("model", "Model"),
                    Column("Value #A", "Output tokens", Style(unit="short")),
                    Column("Value #B", "Tokens per joule", Style(unit="suffix: tok/J")),
                    Column("Value #C", "Cost per million", Style(unit="none")),
                    Column("Value #D", "Cost", Style(unit="none", decimals=2)),
                    Column("Value #E", "Parked", Style(unit="percentunit", decimals=1)),
                    Column("Value #F", "Requests running", Style(unit="none", decimals=1)),
                    Column(
                        "Value #G",
                        "Against reference",
                        Style(
                            unit="percentunit",
                            decimals=0,
                            thresholds=judged(1, 1.5),
                            properties={"custom.cellOptions": {"type": "color-text"}},
                        ),
                    ),
                ),
                links={"Model": link_to("tpw-models", "Models", server="Server", model="Model")},
                sort="Cost",
            ),
            24,
        ),
    )


def _over_time(page: Dashboard) -> None:
    page.line(
        8,
        (
            curve(
                "${kind:text} tokens per joule by model",
                "Five-minute means, all energy of the GPUs a server owns. More concurrent requests give more tokens per "
                "joule: compare with the load on the Models dashboard.",
                Query(f"model:tpw_tokens_per_joule:ratio_rate5m{{{KIND}, {BOUNDARY}}}", "{{server}} {{model}}"),
                unit="suffix: tok/J",
                no_value=NO_TOKENS,
            ),
            12,
        ),
        (
            curve(
                "$currency per million ${kind:text} tokens by model",
                "One-hour means, ${scope:text} cost, on a logarithmic axis: a server with few requests costs many "
                "times more per token. Dashed: cost of the same tokens at $reference.",
                Query(
                    f"model:tpw_cost_per_million_tokens:ratio_rate1h{{{KIND}, {SCOPE}, {MONEY}}}",
                    "{{server}} {{model}}",
                ),
                Query(
                    f'1e6 * sum(model:tpw_server_reference_cost:rate1h{{reference="$reference", {MONEY}}})'
                    f" / (sum(model:tpw_server_tokens:rate1h{{{KIND}}}) > 0)",
                    "at $reference",
                ),
                unit="none",
                no_value=NO_PRICE,
                logarithmic=True,
                styles={"/^at /": Style(color=palette.REFERENCE, properties=DASHED)},
            ),
            12,
        ),
    )
    page.line(
        8,
        (
            curve(
                "Power by state",
                "Energy counters of all GPUs by state. Dashed: the sum of the power sensors, which must match the top.",
                *(
                    Query(f'sum(cluster:tpw_gpu_state_energy_joules:rate5m{{boundary="gpu", state="{state}"}})', state)
                    for state in palette.STATES
                ),
                Query("sum(tpw_gpu_power_watts)", "sensors"),
                unit="watt",
                stacked=True,
                styles={
                    **{state: Style(color=color) for state, color in palette.STATES.items()},
                    "sensors": Style(color=palette.NEUTRAL, properties={**DASHED, **ALONE}),
                },
            ),
            12,
        ),
        (
            curve(
                "Cost by component, $currency per hour",
                "Cost of the servers by component, and of idle GPUs, as a mean over each bar; the last bar is "
                "incomplete. Credit for negative prices is below zero.",
                Query(
                    f"3600 * sum by (component) (rate(tpw_server_cost_total{{{MONEY}}}[$__interval] offset -$__interval))",
                    "{{component}}",
                    step="1h",
                ),
                Query(
                    f'3600 * sum(rate(tpw_gpu_state_cost_total{{state="idle", {MONEY}}}[$__interval] offset -$__interval))',
                    "idle GPUs",
                    step="1h",
                ),
                Query(
                    f"-3600 * sum(rate(tpw_gpu_state_credit_total{{{MONEY}}}[$__interval] offset -$__interval))",
                    "credit",
                    step="1h",
                ),
                unit="none",
                stacked=True,
                bars=True,
                no_value=NO_PRICE,
                legend=("mean",),
                styles={
                    **{name: Style(color=color) for name, color in palette.COMPONENTS.items()},
                    "idle GPUs": Style(color=palette.IDLE),
                    "credit": Style(color=palette.CREDIT),
                },
            ),
            12,
        ),
    )
    page.line(
        7,
        (electricity_price(), 12),
        (
            grid(
                "Firing alerts",
                "Alerts of this project that are firing in Prometheus.",
                Query(
                    "sum by (severity, alertname, instance, gpu, server, model)"
                    ' (ALERTS{alertname=~"Tpw.+", alertstate="firing"})',
                    table=True,
                    instant=True,
                    unfiltered=("job", "namespace", "server", "model"),
                ),
                columns=(
                    Column(
                        "severity",
                        "Severity",
                        Style(
                            width=90,
                            properties={
                                "custom.cellOptions": {"type": "color-text"},
                                "mappings": [
                                    {
                                        "type": "value",
                                        "options": {
                                            "critical": {"color": "red", "index": 0},
                                            "warning": {"color": "orange", "index": 1},
                                            "info": {"color": "blue", "index": 2},
                                        },
                                    }
                                ],
                            },
                        ),
                    ),
                    Column("alertname", "Alert", Style(width=220)),
                    Column("instance", "Node", Style(width=130)),
                    Column("gpu", "GPU", Style(width=60)),
                    Column("server", "Server", Style(width=90)),
                    Column("model", "Model"),
                ),
                drop=("Value",),
                sort="Alert",
                descending=False,
            ),
            12,
        ),
    )
