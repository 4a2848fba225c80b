"""Models: how efficiency follows load. For operators of the serving stack."""

from __future__ import annotations

from grafana import palette, queries
from grafana.dashboard import Dashboard, Settings, link_to, trust
from grafana.metrics import Vocabulary
from grafana.panels import (
    DASHED,
    NO_PRICE,
    NO_TOKENS,
    Column,
    Query,
    Style,
    bars,
    curve,
    grid,
    note,
    scatter,
    tile,
    timeline,
)
from grafana.queries import BOUNDARY, KIND, MONEY, SCOPE

SETTINGS = Settings(
    uid="tpw-models",
    title="tpw / Models",
    description="Tokens per joule, cost and power of each model against its load.",
    filters=("cluster", "job", "namespace", "server", "model"),
    choices=("kind", "scope", "boundary"),
    reference=True,
    single=("server",),
)
WHO = ("server", "model")
BY = "server, model"
WITHIN = 0.95
"""Share of requests within a target that is required. Chosen: targets are mostly for the 95th percentile."""
LOADS = ("under 1", "1 to 4", "5 to 16", "17 to 64", "over 64")

HOW_TO_READ = """\
**More concurrent requests give more tokens per joule.** Above, one point is five minutes. A lower point at the same load \
is a regression. A point further right on the curve is a busier hour.

**Do not compare models by this alone.** Long prompts with short answers give few *output* tokens per joule: also read \
*Tokens by kind* and *Prompt tokens from the cache*. Large batches increase latency: see the dashboard of the engine.
"""


def dashboard(words: Vocabulary) -> Dashboard:
    """The dashboard."""
    page = Dashboard(SETTINGS, words)
    _against_load(page)
    _now(page)
    page.row("Over time")
    _over_time(page)
    page.row("Servers and cost")
    _cost(page)
    return page


def _ratio(window: str) -> str:
    return (
        f"sum by ({BY}) (model:tpw_server_tokens:rate{window}{{{KIND}}})"
        f" / (sum by ({BY}) (model:tpw_server_energy_joules:rate{window}{{{BOUNDARY}}}) > 0)"
    )


def _against_load(page: Dashboard) -> None:
    running = Query(f"sum by ({BY}) (model:tpw_server_requests_running:avg5m)")
    speed = Query(f"sum by ({BY}) (model:tpw_server_tokens:rate5m{{{KIND}}})")
    page.line(
        10,
        (
            scatter(
                "Tokens per joule against requests running",
                "One point per five minutes. The curve shows the effect of batching. A lower point at the same load "
                "is a regression.",
                running,
                Query(f"{_ratio('5m')} > 0"),
                x_label="requests running",
                y_label="${kind:text} tokens per joule",
                unit_x="none",
                unit_y="suffix: tok/J",
                partition=WHO,
            ),
            9,
        ),
        (
            scatter(
                "$currency/M against tokens/s",
                "One point per five minutes, ${scope:text} cost. Hardware cost accrues with time: twice the tokens "
                "halve the cost per token.",
                speed,
                Query(
                    f"1e6 * sum by ({BY}) (model:tpw_server_cost:rate5m{{{SCOPE}, {MONEY}}})"
                    f" / (sum by ({BY}) (model:tpw_server_tokens:rate5m{{{KIND}}}) > 1)"
                ),
                x_label="${kind:text} tokens per second",
                y_label="per million tokens",
                unit_x="short",
                unit_y="none",
                partition=WHO,
                no_value=NO_PRICE,
            ),
            6,
        ),
        (
            scatter(
                "Power against tokens per second",
                "One point per five minutes. The intercept is the power of the parked server. The slope is the "
                "energy of one more token.",
                speed,
                Query(f"sum by ({BY}) (model:tpw_server_energy_joules:rate5m{{{BOUNDARY}}})"),
                x_label="${kind:text} tokens per second",
                y_label="${boundary:text} power",
                unit_x="short",
                unit_y="watt",
                partition=WHO,
            ),
            6,
        ),
        (trust(), 3),
    )


def _latency(load: str) -> str:
    """Mean latency at a load, marked by whether at least ``WITHIN`` of the requests are known to have met the target."""
    by = f"{BY}, slo"

    def summed(record: str, more: str = "") -> str:
        return f'sum by ({by}) (sum_over_time(model:tpw_slo_{record}_by_load:rate5m{{load="{load}"{more}}}[$__range]))'

    total = summed("requests", ', met="total"')
    known = summed("requests", ', met="yes"')
    return " or ".join(
        f"label_replace({summed('latency_seconds')} / ({total} > 0)"
        f' and {known} / ({total} > 0) {compared} {WITHIN}, "mark", "{mark}", "", "")'
        for mark, compared in (("within", ">="), ("beyond", "<"))
    )


def _now(page: Dashboard) -> None:
    page.line(
        7,
        (
            bars(
                "Tokens per joule by load",
                "By model and number of running requests in the time range: all its tokens at that load over all its "
                "joules at that load. Models are not added up: their mix differs from load to load.",
                *(
                    Query(
                        f"sum by ({BY}) (sum_over_time("
                        f'model:tpw_server_tokens_by_load:rate5m{{load="{load}", {KIND}}}[$__range]))'
                        f" / (sum by ({BY}) (sum_over_time("
                        f'model:tpw_server_energy_joules_by_load:rate5m{{load="{load}", {BOUNDARY}}}[$__range])) > 0)',
                        f"{{{{model}}}} {load} ({{{{server}}}})",
                        instant=True,
                    )
                    for load in LOADS
                ),
                unit="suffix: tok/J",
                no_value=NO_TOKENS,
            ),
            16,
        ),
        (note("How to read this", "Why to read efficiency together with load.", HOW_TO_READ), 8),
    )
    page.line(
        7,
        (
            bars(
                "Latency by load",
                "Mean latency of requests by model and number of requests running, in the time range, for the targets of "
                "`slo`. At the loads marked *within*, at least 95 of 100 requests are known to have met the target: "
                "the highest of them is what the server can take.",
                *(
                    Query(
                        _latency(load), f"{{{{slo}}}} {{{{mark}}}}: {{{{model}}}} {load} ({{{{server}}}})", instant=True
                    )
                    for load in LOADS
                ),
                unit="s",
                no_value="no slo is set, or the engine has no histograms",
            ),
            16,
        ),
        (
            bars(
                "Share of its best hour this week",
                "Tokens per joule of the last hour over the best hour of the last seven days. Low at night means low "
                "load. Low at peak load needs a check.",
                Query(
                    f"model:tpw_tokens_per_joule:ratio_rate1h{{{KIND}, {BOUNDARY}}}"
                    f" / (max_over_time(model:tpw_tokens_per_joule:ratio_rate1h{{{KIND}, {BOUNDARY}}}[7d]) > 0)",
                    "{{server}} {{model}}",
                    instant=True,
                ),
                unit="percentunit",
                at_most=1,
                decimals=0,
                no_value=NO_TOKENS,
            ),
            8,
        ),
    )


def _over_time(page: Dashboard) -> None:
    page.line(
        8,
        (
            curve(
                "Active only, and parked time included",
                "Tokens per joule of the GPUs over five minutes. The gap between the lines is what parked time costs.",
                Query(
                    f"sum(model:tpw_server_tokens:rate5m{{{KIND}}})"
                    ' / (sum(model:tpw_server_energy_joules:rate5m{boundary="gpu", state="active"}) > 0)',
                    "active only",
                ),
                Query(
                    f"sum(model:tpw_server_tokens:rate5m{{{KIND}}})"
                    ' / (sum(model:tpw_server_energy_joules:rate5m{boundary="gpu"}) > 0)',
                    "parked time included",
                ),
                unit="suffix: tok/J",
                no_value=NO_TOKENS,
                legend=("mean",),
                styles={
                    "active only": Style(color=palette.STATES["active"]),
                    "parked time included": Style(color=palette.STATES["parked"]),
                },
            ),
            8,
        ),
        (
            curve(
                "Tokens by kind",
                "Tokens per second. input: prompt tokens that had to be computed; cached_input: served from the prefix "
                "cache; output: generated.",
                *(
                    Query(f'sum(model:tpw_server_tokens:rate5m{{kind="{kind}"}})', kind)
                    for kind in ("output", "input", "cached_input")
                ),
                unit="short",
                stacked=True,
                no_value=NO_TOKENS,
                styles={kind: Style(color=color) for kind, color in palette.TOKENS.items()},
            ),
            8,
        ),
        (
            curve(
                "Requests running, and waiting",
                "Five-minute means. Waiting above zero: the batch is full. Few running and none waiting: fewer "
                "replicas are enough.",
                Query(f"sum by ({BY}) (model:tpw_server_requests_running:avg5m)", "{{server}} {{model}}"),
                Query("sum(model:tpw_server_requests_waiting:avg5m)", "waiting, all"),
                unit="none",
                styles={"waiting, all": Style(color=palette.WARN, properties=DASHED)},
            ),
            8,
        ),
    )
    page.line(
        7,
        (
            curve(
                "Prompt tokens from the cache",
                "Share of prompt tokens that the prefix cache served. Cached tokens cost almost nothing; a change here "
                "moves tokens per joule of kind total and not of kind output.",
                Query(
                    f'sum by ({BY}) (model:tpw_server_tokens:rate5m{{kind="cached_input"}})'
                    f' / (sum by ({BY}) (model:tpw_server_tokens:rate5m{{kind=~"cached_input|input"}}) > 0)',
                    "{{server}} {{model}}",
                ),
                unit="percentunit",
                at_most=1,
                no_value=NO_TOKENS,
            ),
            8,
        ),
        (
            curve(
                "Joules per request",
                "${boundary:text} energy of a finished request, and of a unit of work where tokens are not the measure "
                "(audio seconds, images). One-hour means.",
                Query(
                    f"sum by ({BY}) (model:tpw_server_energy_joules:rate1h{{{BOUNDARY}}})"
                    f" / (sum by ({BY}) (rate(tpw_server_requests_total[1h])) > 0)",
                    "{{server}} {{model}}",
                ),
                Query(
                    f"sum by ({BY}) (model:tpw_server_energy_joules:rate1h{{{BOUNDARY}}})"
                    f" / on ({BY}) group_right () (sum by ({BY}, unit) (rate(tpw_server_work_units_total[1h])) > 0)",
                    "{{server}} {{model}} per {{unit}}",
                ),
                unit="joule",
                logarithmic=True,
                no_value="no request finished",
            ),
            8,
        ),
        (
            timeline(
                "Active and parked",
                "State of the GPUs of each server: active, or parked with a loaded model and no requests.",
                Query(
                    "sum by (server)"
                    ' (model:tpw_server_energy_joules:rate5m{boundary="gpu", state="active"}) > bool'
                    " sum by (server)"
                    ' (model:tpw_server_energy_joules:rate5m{boundary="gpu", state="parked"})',
                    "{{server}}",
                ),
                states={1: ("active", palette.STATES["active"]), 0: ("parked", palette.STATES["parked"])},
            ),
            8,
        ),
    )


def _cost(page: Dashboard) -> None:
    page.line(
        8,
        (
            curve(
                "$currency per million tokens by component",
                "One-hour means of all chosen models together. Credit for negative prices is below zero.",
                Query(
                    f"1e6 * sum by (component) (rate(tpw_server_cost_total{{{MONEY}}}[1h]))"
                    f" / on () group_left () (sum(model:tpw_server_tokens:rate1h{{{KIND}}}) > 0)",
                    "{{component}}",
                ),
                Query(
                    f"-1e6 * sum(rate(tpw_server_credit_total{{{MONEY}}}[1h]))"
                    f" / (sum(model:tpw_server_tokens:rate1h{{{KIND}}}) > 0)",
                    "credit",
                ),
                unit="none",
                stacked=True,
                no_value=NO_PRICE,
                styles={
                    **{name: Style(color=color) for name, color in palette.COMPONENTS.items()},
                    "credit": Style(color=palette.CREDIT),
                },
            ),
            8,
        ),
        (
            curve(
                "$currency per hour saved against $reference",
                "Cost of the same work at the reference, less its cost here. Below zero, the reference is cheaper.",
                Query(
                    queries.mean_of_known(
                        "3600 * (sum by (server) (model:tpw_server_reference_cost:rate1h"
                        f'{{reference="$reference", {MONEY}}})'
                        f' - sum by (server) (model:tpw_server_cost:rate1h{{scope="full", {MONEY}}}))',
                        "1h",
                    ),
                    "{{server}}",
                ),
                unit="none",
                at_least=None,
                no_value="no reference configured",
            ),
            8,
        ),
        (
            curve(
                "Power of the GPUs, share of their limits",
                "Mean power of the GPUs of each server over their enforced limits.",
                Query(
                    "sum by (server) (tpw_gpu_power_watts * on (cluster, job, instance, gpu, uuid) group_right () "
                    "tpw_server_gpu) / (sum by (server) (tpw_gpu_power_limit_watts * on (cluster, job, instance, gpu, "
                    "uuid) group_right () tpw_server_gpu) > 0)",
                    "{{server}}",
                ),
                unit="percentunit",
                at_most=1,
            ),
            8,
        ),
    )
    page.line(
        6,
        (
            grid(
                "Servers",
                "Engine, when its output counter increases (finish: only at the end of a request, so short windows are "
                "inaccurate), the source of ownership, and the window of live ratios. Output tokens per joule now, and as "
                "others have published them for this model on this GPU (conditions: the exporter's page).",
                Query("count by (server, instance) (tpw_server_gpu)", table=True, instant=True),
                Query("max by (server, instance) (tpw_window_seconds)", table=True, instant=True),
                Query(
                    "max by (server, instance, engine, version, cadence, attribution) (tpw_server_info)",
                    table=True,
                    instant=True,
                ),
                Query(
                    'max by (server, instance) (tpw_tokens_per_watt{kind="output", boundary="gpu"})',
                    table=True,
                    instant=True,
                ),
                Query(
                    "max by (server, instance) (tpw_server_published_tokens_per_watt)",
                    table=True,
                    instant=True,
                ),
                columns=(
                    Column("server", "Server"),
                    Column("instance", "Node"),
                    Column("engine", "Engine", Style(width=75)),
                    Column("version", "Version", Style(width=80)),
                    Column("attribution", "Owner from", Style(width=105)),
                    Column("cadence", "Counts at", Style(width=85)),
                    Column("Value #A", "GPUs", Style(unit="none", decimals=0, width=60)),
                    Column("Value #B", "Window", Style(unit="s", decimals=0, width=75)),
                    Column("Value #D", "Now", Style(unit="suffix: tok/J", width=95)),
                    Column("Value #E", "Published", Style(unit="suffix: tok/J", width=95)),
                ),
                drop=("Value #C",),
                links={
                    "Node": link_to("tpw-gpus", "GPUs", instance="Node"),
                    "Server": link_to("tpw-money", "Money", server="Server"),
                },
                sort="Server",
                descending=False,
            ),
            21,
        ),
        (
            tile(
                "Requests",
                "In the time range.",
                Query("sum(increase(tpw_server_requests_total[$__range]))", instant=True),
                unit="short",
                no_value="not counted by the engine",
            ),
            3,
        ),
    )
    page.line(
        7,
        (
            bars(
                "Requests without usage",
                "Requests in the time range with unknown tokens, seen by the proxy or the middleware. Healthy: none, "
                "or a few clients that disconnect. Otherwise start the proxy with --inject-usage, or see the alert "
                "TpwRequestsWithoutUsage.",
                Query(
                    queries.gained("tpw_server_requests_without_usage_total", "server, path"),
                    "{{server}} {{path}}",
                    instant=True,
                ),
                unit="none",
                decimals=0,
                color=palette.WARN,
                above=True,
                no_value="every answer had usage",
            ),
            24,
        ),
    )
