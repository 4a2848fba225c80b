"""Overview: is it cheap, is it wasting, can I trust it? For operators of the servers."""

from __future__ import annotations

from grafana import palette, queries
from grafana.dashboard import Dashboard, Settings, link_to, trust
from grafana.metrics import Vocabulary
from grafana.panels import DASHED, HIDDEN, NO_PRICE, NO_TOKENS, Column, Draft, Query, Style, curve, grid, judged, tile
from grafana.queries import BOUNDARY, KIND, MONEY, SCOPE

SETTINGS = Settings(
    uid="tpw-overview",
    title="tpw / Overview",
    description="Tokens per joule, cost per million tokens, waste, and whether the numbers are complete.",
    filters=("cluster", "job", "namespace", "server", "model"),
    choices=("kind", "scope", "boundary"),
    reference=True,
)


FULL = 'scope="full"'
MONTH = 730
"""Hours."""


def dashboard(words: Vocabulary) -> Dashboard:
    """The dashboard."""
    page = Dashboard(SETTINGS, words)
    _answers(page)
    _table(page)
    _over_time(page)
    return page


def _answers(page: Dashboard) -> None:
    efficiency = tile(
        "Tokens per watt",
        "${kind:text} tokens per second for each watt, over the last five minutes: the same number as tokens per "
        "joule. servers: all energy of the GPUs they own, parked time included. fleet: idle GPUs as well.",
        Query(
            f"sum(model:tpw_server_tokens:rate5m{{{KIND}}})"
            f" / (sum(model:tpw_server_energy_joules:rate5m{{{BOUNDARY}}}) > 0)",
            "servers",
        ),
        Query(
            f"sum(cluster:tpw_server_tokens:rate5m{{{KIND}}})"
            f" / (sum(cluster:tpw_gpu_state_energy_joules:rate5m{{{BOUNDARY}, {queries.OWN}}}) > 0)",
            "fleet",
        ),
        unit="suffix: tok/s/W",
        no_value=NO_TOKENS,
    )
    cost = tile(
        "$currency per M tokens",
        "Cost per million ${kind:text} tokens, ${scope:text} cost. servers: what the servers cost over the last hour. "
        "fleet: idle GPUs as well. in this range: the fleet over the whole hours of the time range.",
        Query(
            f"1e6 * sum(model:tpw_server_cost:rate1h{{{SCOPE}, {MONEY}}})"
            f" / (sum(model:tpw_server_tokens:rate1h{{{KIND}}}) > 0)",
            "servers",
        ),
        Query(
            f"1e6 * {queries.fleet_cost('1h')} / (sum(cluster:tpw_server_tokens:rate1h{{{KIND}}}) > 0)",
            "fleet",
        ),
        Query(
            f"1e6 * {queries.fleet_cost()} / ({queries.hours('cluster:tpw_server_tokens', KIND)} > 0)",
            "in this range",
        ),
        unit="none",
        no_value="no price, no full cost, or no whole hour yet",
    )
    wasted = tile(
        "Waste per month",
        "Cost of GPUs that are parked (a model is loaded, no requests) or idle (no owner), less credit. at this pace: "
        "of the last hour, for a month of 730 hours. so far: since the first of the month in the time zone of the "
        "tariff, from the exporters' books. of all cost: of the last hour; orange from 20 %, red from 40 %.",
        Query(f"{MONTH} * sum(cluster:tpw_waste_cost_per_hour:rate1h{{{MONEY}}})", "at this pace, $currency"),
        Query(f'sum(tpw_period_cost{{period="month", state=~"parked|idle", {MONEY}}})', "so far, $currency"),
        Query(
            f'sum(cluster:tpw_gpu_state_net_cost:rate1h{{state=~"parked|idle", {MONEY}}})'
            f" / (sum(cluster:tpw_gpu_state_net_cost:rate1h{{{MONEY}}}) > 0)",
            "of all cost",
        ),
        unit="none",
        no_value=NO_PRICE,
        styles={"of all cost": Style(unit="percentunit", decimals=0, thresholds=judged(0.2, 0.4))},
    )
    spent = tile(
        "Spent, $currency",
        "All booked costs of all GPUs, owned or not: of today and of the month so far, in the time zone of the "
        "tariff, from the exporters' books, and of the month at the pace of the last seven days.",
        Query(queries.period_cost("day"), "today"),
        Query(queries.period_cost("month"), "this month"),
        Query(f'sum(tpw_period_cost_forecast{{period="month", {MONEY}}})', "forecast"),
        unit="none",
        no_value=NO_PRICE,
    )
    page.line(6, (efficiency, 4), (cost, 4), (wasted, 4), (_worst(), 9), (trust(), 3))
    page.line(5, (spent, 4), *_now(), (_firing(), 8))


def _worst() -> Draft:
    rate = f'gpu:tpw_gpu_state_net_cost:rate5m{{state=~"parked|idle", {MONEY}}} unless on (uuid) tpw:spare_gpu:info'
    gpu, owner = queries.GPU, queries.owner()
    by = "cluster, instance, server, state"
    owned = f"sum by ({by}) (({rate}) * on ({gpu}) group_left (server) ({owner}))"
    free = f"sum by ({by}) (({rate}) unless on ({gpu}) tpw_server_gpu)"
    every = f'{owned} or label_replace({free}, "server", "no owner", "", "")'
    acts = {"parked": "Parked: use it or stop it", "idle": "Idle: use or switch off"}
    expr = f"topk(5, {MONTH} * 3600 * ({every}) > 0)"
    for state, act in acts.items():
        expr = f'label_replace({expr}, "act", "{act}", "state", "{state}")'
    return grid(
        "Largest waste now",
        "What parked and idle GPUs cost at the pace of the last five minutes, for a month of 730 hours, by owner and "
        "node; the five largest. GPUs that are kept free by intention (tpw:spare_gpu:info) are left out. A click "
        "opens the GPUs of the node.",
        Query(f'label_join({expr}, "who", " on ", "server", "instance")', table=True, instant=True),
        columns=(
            Column("who", "Who", Style(width=160)),
            Column("Value", "$currency/month", Style(unit="none", decimals=0, width=90)),
            Column("act", "What to do", Style(width=160)),
            Column("instance", "Node", Style(properties=HIDDEN)),
        ),
        drop=("server", "state"),
        links={"Who": link_to("tpw-gpus", "GPUs", instance="Node")},
        sort="$currency/month",
    )


def _now() -> tuple[tuple[Draft, int], ...]:
    speed = tile(
        "Tokens / s",
        "${kind:text} tokens per second of all servers over the last five minutes.",
        Query(f"sum(model:tpw_server_tokens:rate5m{{{KIND}}})"),
        unit="short",
        no_value=NO_TOKENS,
    )
    requests = tile(
        "Requests",
        "Mean over five minutes. waiting: above zero, the servers are full and latency rises.",
        Query("sum(model:tpw_server_requests_running:avg5m)", "running"),
        Query("sum(model:tpw_server_requests_waiting:avg5m)", "waiting"),
        unit="short",
        decimals=1,
    )
    power = tile(
        "Power",
        "Facility power, mean of the last five minutes: GPUs and their share of the host, times PUE. idle: GPUs "
        "without an owner.",
        Query('sum(model:tpw_server_energy_joules:rate5m{boundary="facility"})', "servers"),
        Query('sum(cluster:tpw_gpu_state_energy_joules:rate5m{boundary="facility", state="idle"})', "idle"),
        unit="watt",
    )
    price = tile(
        "$currency/kWh",
        "Current all-in electricity price and its state.",
        Query(
            f"max by (state) (tpw_electricity_price_per_kwh{{{MONEY}}}"
            " * on (cluster, job, instance) group_left (state) tpw_electricity_price_state)",
            "{{state}}",
        ),
        unit="none",
        no_value=NO_PRICE,
    )
    return (speed, 3), (requests, 3), (power, 3), (price, 3)


def _table(page: Dashboard) -> None:
    by = "server, model"

    def row(expr: str) -> Query:
        return Query(expr, table=True, instant=True)

    def day(metric: str, matchers: str) -> str:
        return f"sum by ({by}) (model:{metric}:rate1d{{{matchers}}})"

    def per_hour(metric: str, matchers: str) -> Query:
        return row(queries.mean_of_known(f"3600 * sum by ({by}) (model:{metric}:rate1h{{{matchers}}})", "1h"))

    joules = day("tpw_server_energy_joules", BOUNDARY)
    parked = day("tpw_server_energy_joules", f'{BOUNDARY}, state="parked"')
    reference = day("tpw_server_reference_cost", f'reference="$reference", {MONEY}')
    page.line(
        7,
        (
            grid(
                "Models: now, and in the last 24 hours",
                "Per watt: tokens per second for each watt. /M: per million tokens. now: over five minutes, and the "
                "exporter's own cost per token of its live window; a server that spans nodes has none. /h: of the "
                "last hour, output tokens. 24 h, Parked (share of the energy that was used without requests) and "
                "Against $reference (full cost here over the cost of the same work there; below 100 % is cheaper "
                "here): of the last 24 hours, whatever the time range. No cost: the costs of the GPUs are not "
                "configured; choose energy. A click on a model opens it on the Models dashboard.",
                per_hour("tpw_server_tokens", 'kind="output"'),
                row(f"max by ({by}) (model:tpw_tokens_per_joule:ratio_rate5m{{{KIND}, {BOUNDARY}}})"),
                row(f"max by ({by}) (model:tpw_tokens_per_joule:ratio_rate1d{{{KIND}, {BOUNDARY}}})"),
                row(f"1e6 * max by ({by}) (tpw_cost_per_token{{{KIND}, {SCOPE}, {MONEY}}})"),
                row(f"max by ({by}) (model:tpw_cost_per_million_tokens:ratio_rate1d{{{KIND}, {SCOPE}, {MONEY}}})"),
                per_hour("tpw_server_cost", f"{SCOPE}, {MONEY}"),
                row(f"{parked} / ({joules} > 0)"),
                row(f"{day('tpw_server_cost', f'{FULL}, {MONEY}')} / ({reference} > 0)"),
                columns=(
                    Column("server", "Server"),
                    Column("model", "Model"),
                    Column("Value #B", "Per watt now", Style(unit="suffix: tok/s/W", width=120)),
                    Column("Value #C", "Per watt 24 h", Style(unit="suffix: tok/s/W", width=120)),
                    Column("Value #D", "$currency/M now", Style(unit="none", width=105)),
                    Column("Value #E", "$currency/M 24 h", Style(unit="none", width=105)),
                    Column("Value #A", "Tokens/h", Style(unit="short", width=85)),
                    Column("Value #F", "$currency/h", Style(unit="none", decimals=2, width=75)),
                    Column("Value #G", "Parked", Style(unit="percentunit", decimals=0, width=75)),
                    Column(
                        "Value #H",
                        "Against reference",
                        Style(
                            unit="percentunit",
                            decimals=0,
                            width=130,
                            thresholds=judged(1, 1.5),
                            properties={"custom.cellOptions": {"type": "color-text"}},
                        ),
                    ),
                ),
                links={"Model": link_to("tpw-models", "Models", server="Server", model="Model")},
                sort="$currency/h",
            ),
            24,
        ),
    )


def _over_time(page: Dashboard) -> None:
    page.line(
        8,
        (
            curve(
                "Tokens per watt over time",
                "${kind:text} tokens per second for each watt, five-minute means. servers: all energy of the GPUs "
                "they own. fleet: idle GPUs as well. More concurrent requests give more tokens per watt: compare with "
                "the load on the Models dashboard.",
                Query(
                    f"sum(cluster:tpw_server_tokens:rate5m{{{KIND}}})"
                    f' / (sum(cluster:tpw_gpu_state_energy_joules:rate5m{{{BOUNDARY}, state!~"idle|other"}}) > 0)',
                    "servers",
                ),
                Query(
                    f"sum(cluster:tpw_server_tokens:rate5m{{{KIND}}})"
                    f" / (sum(cluster:tpw_gpu_state_energy_joules:rate5m{{{BOUNDARY}, {queries.OWN}}}) > 0)",
                    "fleet",
                ),
                unit="suffix: tok/s/W",
                no_value=NO_TOKENS,
                legend=("mean",),
                styles={
                    "servers": Style(color=palette.STATES["active"]),
                    "fleet": Style(color=palette.IDLE),
                },
            ),
            12,
        ),
        (
            curve(
                "A million tokens cost over time, $currency",
                "One-hour means of the fleet, idle GPUs included, ${scope:text} cost per million ${kind:text} tokens, "
                "on a logarithmic axis: few requests cost many times more per token. Dashed: cost of the same tokens "
                "at $reference.",
                Query(
                    f"1e6 * {queries.fleet_cost('1h')} / (sum(cluster:tpw_server_tokens:rate1h{{{KIND}}}) > 0)",
                    "here",
                ),
                Query(
                    f'1e6 * sum(cluster:tpw_server_reference_cost:rate1h{{reference="$reference", {MONEY}}})'
                    f" / (sum(cluster:tpw_server_tokens:rate1h{{{KIND}}}) > 0)",
                    "at $reference",
                ),
                unit="none",
                no_value="no price, no full cost, or no whole hour yet",
                logarithmic=True,
                legend=("mean",),
                styles={
                    "here": Style(color=palette.COMPONENTS["energy"]),
                    "/^at /": Style(color=palette.REFERENCE, properties=DASHED),
                },
            ),
            12,
        ),
    )
    hour = "[$__interval] offset -$__interval"
    charged = f"avg_over_time(cluster:tpw_gpu_state_cost:sum1h{{{MONEY}}}{hour})"
    net = f"avg_over_time(cluster:tpw_gpu_state_net_cost:sum1h{{{MONEY}}}{hour})"
    page.line(
        8,
        (
            curve(
                "Power by state",
                "Energy counters of all GPUs by state, five-minute means.",
                *(
                    Query(f'sum(cluster:tpw_gpu_state_energy_joules:rate5m{{boundary="gpu", state="{state}"}})', state)
                    for state in palette.STATES
                ),
                unit="watt",
                stacked=True,
                styles={state: Style(color=color) for state, color in palette.STATES.items()},
            ),
            12,
        ),
        (
            curve(
                "Spent by component, $currency per hour",
                "All booked costs of all GPUs, as a mean over each bar of whole hours. Credit for negative prices is "
                "below zero.",
                Query(f"sum by (component) ({charged})", "{{component}}", step="1h"),
                Query(f"sum({net}) - sum({charged}) < -1e-6", "credit", step="1h"),
                unit="none",
                stacked=True,
                bars=True,
                no_value="no price, or no whole hour yet",
                legend=("mean",),
                styles={
                    **{name: Style(color=color) for name, color in palette.COMPONENTS.items()},
                    "credit": Style(color=palette.CREDIT),
                },
            ),
            12,
        ),
    )


def _firing() -> Draft:
    return grid(
        "Firing alerts",
        "Alerts of this project that are firing in Prometheus.",
        Query(
            "label_join(sum by (severity, alertname, instance, gpu, server, model)"
            ' (ALERTS{alertname=~"Tpw.+", alertstate="firing"}),'
            ' "about", " ", "instance", "gpu", "server", "model")',
            table=True,
            instant=True,
            unfiltered=("job", "namespace", "server", "model"),
        ),
        columns=(
            Column(
                "severity",
                "Severity",
                Style(
                    width=75,
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
            Column("alertname", "Alert", Style(width=175)),
            Column("about", "About", Style(width=110)),
        ),
        drop=("Value", "instance", "gpu", "server", "model"),
        sort="Alert",
        descending=False,
    )
