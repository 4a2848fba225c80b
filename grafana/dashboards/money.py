"""Money: cost, its causes, and the cost at a reference. For finance and team leads; calendar ranges."""

from __future__ import annotations

from grafana import palette, queries
from grafana.dashboard import Dashboard, Settings, electricity_price, link_to, trust
from grafana.metrics import Vocabulary
from grafana.panels import (
    DASHED,
    NO_PRICE,
    Column,
    Query,
    Style,
    bars,
    curve,
    grid,
    judged,
    judged_down,
    note,
    tile,
)
from grafana.queries import KIND, MONEY, SCOPE

SETTINGS = Settings(
    uid="tpw-money",
    title="tpw / Money",
    description="Spend by component, server and day; electricity price; forecast; comparison with a reference.",
    filters=("cluster", "job", "namespace", "server", "model"),
    choices=("kind", "scope"),
    reference=True,
    time=("now/M", "now"),
    refresh="5m",
    annotations=("price", "alerts"),
)
BY = "server, model"
FACILITY = 'boundary="facility"'
NO_HOURS = "no price, or no whole hour yet"
NO_FULL = "no price, no full cost, or no whole hour yet"
NO_REFERENCE = "no reference, or less than six hours of data"


def _scope(scope: str) -> str:
    return f'scope="{scope}"'


FULL = _scope("full")
ENERGY = queries.hours("cluster:tpw_cost", f"{_scope('energy')}, {MONEY}")

SMALL_PRINT = """\
**Whole hours.** Sums over the time range are of the whole hours that ended in it.

**Included.** Energy is the joules of the GPUs and their share of the host, times PUE, at the price at the time of use, \
also where that price became known later. A price is never changed afterwards. Hardware, hosting and other configured \
costs accrue with time, for idle GPUs too. Prices are as configured, with or without VAT. *Costs* selects all components \
(full, where the costs of the GPUs are among them) or electricity alone (energy).

**Not included.** Idle GPUs have no owner and are not in the cost of any server: see *idle GPUs*. Joules without a price \
are not in any cost: *priced* above shows the share that has one.
"""


def dashboard(words: Vocabulary) -> Dashboard:
    """The dashboard."""
    page = Dashboard(SETTINGS, words)
    _answers(page)
    _efficiency(page)
    page.row("When")
    _when(page)
    page.row("Who")
    _who(page)
    page.row("Demand and scope")
    _charges(page)
    return page


def _answers(page: Dashboard) -> None:
    page.line(
        5,
        (
            tile(
                "Spent, $currency",
                "All booked costs of all GPUs in the time range, and in the previous range of the same length.",
                Query(queries.booked(), "in this range", instant=True),
                Query(queries.booked(offset=" offset $__range"), "previous range", instant=True),
                unit="none",
                no_value=NO_HOURS,
            ),
            4,
        ),
        (
            tile(
                "Electricity, $currency",
                "Cost of energy in the time range, less credit for negative prices, and its share of what was spent.",
                Query(ENERGY, "in this range", instant=True),
                Query(f"{ENERGY} / ({queries.booked()} > 0)", "of all cost", instant=True),
                unit="none",
                no_value=NO_HOURS,
                styles={"of all cost": Style(unit="percentunit", decimals=0)},
            ),
            4,
        ),
        (
            tile(
                "Wasted, $currency",
                "Cost of parked and idle time in the time range, less credit, and its share of what was spent. Orange "
                "from 20 %, red from 40 %.",
                Query(queries.booked("parked|idle"), "in this range", instant=True),
                Query(f"{queries.booked('parked|idle')} / ({queries.booked()} > 0)", "of all cost", instant=True),
                unit="none",
                no_value=NO_HOURS,
                styles={"of all cost": Style(unit="percentunit", decimals=0, thresholds=judged(0.2, 0.4))},
            ),
            4,
        ),
        (
            tile(
                "$currency per M tokens",
                "Cost per million ${kind:text} tokens in the time range, ${scope:text} cost. servers: what they "
                "cost. fleet: idle GPUs as well. No full cost: the costs of the GPUs are not configured; choose "
                "energy.",
                Query(f"1e6 * {queries.server_cost()} / ({queries.tokens()} > 0)", "servers", instant=True),
                Query(
                    f"1e6 * {queries.fleet_cost()} / ({queries.hours('cluster:tpw_server_tokens', KIND)} > 0)",
                    "fleet",
                    instant=True,
                ),
                unit="none",
                no_value=NO_FULL,
            ),
            5,
        ),
        (
            tile(
                "This month, $currency",
                "All costs of the month so far, in the time zone of the tariff, from the exporters' books, and what it "
                "will be at the pace of the last seven days: of the month, not of the time range.",
                Query(f'sum(tpw_period_cost_forecast{{period="month", {MONEY}}})', "forecast", instant=True),
                Query(queries.period_cost("month"), "so far", instant=True),
                unit="none",
                decimals=0,
                no_value=NO_PRICE,
            ),
            4,
        ),
        (trust(), 3),
    )
    page.line(
        6,
        (
            tile(
                "Saved, $currency",
                "Cost of the work of the time range at $reference, less the full cost here, idle GPUs included. Red: "
                "the reference would have been cheaper. Absent where the costs of the GPUs (hardware or gpu_hour) or "
                "of electricity are not configured: without them nothing is saved.",
                Query(
                    queries.hours("cluster:tpw_server_reference_cost", f'reference="$reference", {MONEY}')
                    + f" - {queries.hours('cluster:tpw_gpu_state_net_cost', f'{queries.OWN}, {MONEY}')}"
                    + f" and {queries.hours('cluster:tpw_cost', f'{FULL}, {MONEY}')}",
                    instant=True,
                ),
                unit="none",
                no_value="no reference, no full cost, or no whole hour yet",
                thresholds=((None, palette.BAD), (0, palette.GOOD)),
            ),
            4,
        ),
        (
            tile(
                "Paid, $currency/kWh",
                "Cost of energy over the facility kWh of all GPUs, next to the time mean of the price. Paid below the "
                "mean is the gain from load at cheap hours. priced: the share of all facility energy that has a "
                "price; the rest is in no cost of this dashboard.",
                Query(
                    f"{ENERGY} / ({queries.hours('cluster:tpw_gpu_state_energy_joules', FACILITY)} / 3.6e6 > 0)",
                    "paid",
                    instant=True,
                ),
                Query(
                    f"max by (cluster) (avg_over_time(cluster:tpw_electricity_price_per_kwh:max{{{MONEY}}}[$__range]))",
                    "mean price {{cluster}}",
                    instant=True,
                ),
                Query(
                    f"1 - {queries.unpriced()}"
                    f" / ({queries.hours('cluster:tpw_gpu_state_energy_joules', FACILITY)} > 0)",
                    "priced",
                    instant=True,
                ),
                unit="none",
                no_value=NO_HOURS,
                styles={"priced": Style(unit="percentunit", decimals=0, thresholds=judged_down(0.99, 0.95))},
            ),
            4,
        ),
        (
            bars(
                "Cost by hour of the day, $currency per hour",
                "Mean ${scope:text} cost rate of all GPUs in each hour of the day (UTC), over the time range.",
                Query(
                    'sum by (hour) (avg_over_time(cluster:tpw_cost_by_hour:rate5m{scope="${scope:text}",'
                    f" {MONEY}}}[$__range])) * 3600",
                    table=True,
                    instant=True,
                ),
                unit="none",
                no_value=NO_FULL,
                vertical=True,
                rows=("hour", "Value"),
            ),
            16,
        ),
    )


def _efficiency(page: Dashboard) -> None:
    cost, tokens = queries.server_cost(BY), queries.tokens(BY)
    page.line(
        7,
        (
            grid(
                "Servers and models in this range, $currency",
                "Sums over the whole hours of the time range. Saved: against "
                "$reference. Idle GPUs have no owner and are in no row. No full cost: the costs of the GPUs are not "
                "configured; choose energy. A click on a model opens it on the Models dashboard.",
                Query(tokens, table=True, instant=True),
                Query(cost, table=True, instant=True),
                Query(queries.server_cost(BY, _scope("energy")), table=True, instant=True),
                Query(f"1e6 * {cost} / ({tokens} > 0)", table=True, instant=True),
                Query(
                    f"{queries.reference_cost(BY)} - {queries.server_cost(BY, FULL)}",
                    table=True,
                    instant=True,
                ),
                columns=(
                    Column("server", "Server"),
                    Column("model", "Model"),
                    Column("Value #A", "Tokens", Style(unit="short", width=100)),
                    Column("Value #B", "Cost, $currency", Style(unit="none", decimals=2)),
                    Column("Value #C", "Electricity, $currency", Style(unit="none", decimals=2)),
                    Column("Value #D", "$currency per M tokens", Style(unit="none")),
                    Column(
                        "Value #E",
                        "Saved, $currency",
                        Style(
                            unit="none",
                            decimals=2,
                            thresholds=((None, palette.BAD), (0, palette.GOOD)),
                            properties={"custom.cellOptions": {"type": "color-text"}},
                        ),
                    ),
                ),
                links={"Model": link_to("tpw-models", "Models", server="Server", model="Model")},
                sort="Cost, $currency",
            ),
            24,
        ),
    )


COMPONENT_STYLES = {
    **{name: Style(color=color) for name, color in palette.COMPONENTS.items()},
    "credit": Style(color=palette.CREDIT),
}


def _when(page: Dashboard) -> None:
    day = "[1d] offset -1d"
    charged = f"sum_over_time(cluster:tpw_gpu_state_cost:sum1h{{{MONEY}}}{day})"
    net = f"sum_over_time(cluster:tpw_gpu_state_net_cost:sum1h{{{MONEY}}}{day})"
    rate = f"cluster:tpw_gpu_state_cost:rate5m{{{MONEY}}}"
    page.line(
        8,
        (
            curve(
                "Spent per day by component, $currency",
                "A bar is a day of the time zone of this dashboard, of all GPUs; the last bar is incomplete. Credit "
                "for negative prices is below zero. *This month* above is by the time zone of the tariff.",
                Query(f"sum by (component) ({charged})", "{{component}}", step="1d"),
                Query(f"sum({net}) - sum({charged}) < -1e-6", "credit", step="1d"),
                unit="none",
                stacked=True,
                bars=True,
                no_value=NO_HOURS,
                legend=("mean",),
                styles=COMPONENT_STYLES,
            ),
            24,
        ),
    )
    page.line(
        6,
        (electricity_price(), 24),
    )
    page.line(
        8,
        (
            curve(
                "Cost rate by component, $currency per hour",
                "Cost rate of all GPUs by component over the last five minutes. Compare with the price above and "
                "the load.",
                Query(f"3600 * sum by (component) ({rate})", "{{component}}"),
                Query(
                    f"3600 * (sum(cluster:tpw_gpu_state_net_cost:rate5m{{{MONEY}}}) - sum({rate})) < -1e-6",
                    "credit",
                ),
                unit="none",
                stacked=True,
                no_value=NO_PRICE,
                legend=("mean", "max"),
                styles=COMPONENT_STYLES,
            ),
            24,
        ),
    )


def _who(page: Dashboard) -> None:
    most = "topk(15, " + queries.server_cost("server") + ")"
    active = queries.hours("server:tpw_server_active_cost", f"{SCOPE}, {MONEY}", "server")
    makes = queries.mean_of_known('86400 * sum by (server) (server:tpw_server_tokens:rate1d{kind="output"})', "1d")
    matchers = f'kind="output", reference="$reference", {MONEY}'
    needs = queries.mean_of_known(f"86400 * sum by (server) (server:tpw_break_even_tokens:rate1d{{{matchers}}})", "1d")
    page.line(
        8,
        (
            bars(
                "Allocated and active, $currency",
                "Cost of each server in the time range, and the part while it was active. The difference is parked "
                "time. The fifteen highest of each.",
                Query(most, "{{server}}", instant=True),
                Query(f"topk(15, {active})", "{{server}} active", instant=True),
                unit="none",
                decimals=2,
                no_value=NO_FULL,
                above=True,
                styles={"/ active/": Style(thresholds=((None, palette.STATES["active"]),))},
                color=palette.STATES["parked"],
            ),
            8,
        ),
        (
            bars(
                "Idle GPUs by node, $currency",
                "Cost of GPUs without an owner in the time range, less credit; the fifteen most expensive nodes.",
                Query(f"topk(15, {queries.booked('idle', 'node', 'instance')})", "{{instance}}", instant=True),
                unit="none",
                decimals=2,
                no_value=NO_HOURS,
                color=palette.IDLE,
            ),
            8,
        ),
        (
            bars(
                "Break-even, output tokens per day",
                "needs: output tokens per day at which a server costs as much as $reference, at the mix of token "
                "kinds of the last 24 hours: fixed cost over the reference price per token less the active energy "
                "cost per token. makes: actual output tokens. Below *needs*, the reference is cheaper. No *needs*: "
                "the reference has a price per time, or its price per token is not above that energy cost. The "
                "fifteen servers that make most.",
                Query(f"topk(15, {makes})", "{{server}} makes", instant=True),
                Query(f"{needs} and on (server) topk(15, {makes})", "{{server}} needs", instant=True),
                unit="short",
                no_value=NO_REFERENCE,
                color=palette.TOKENS["output"],
                above=True,
                styles={"/ needs/": Style(thresholds=((None, palette.REFERENCE),))},
            ),
            8,
        ),
    )


def _charges(page: Dashboard) -> None:
    page.line(
        8,
        (
            curve(
                "Demand interval against the monthly peak",
                "Mean power of the current demand interval. Dashed: the highest interval of the billing month. Above "
                "it, the demand charge of the month rises.",
                Query("max(cluster:tpw_demand_interval_watts:max)", "forming"),
                Query("max(cluster:tpw_demand_peak_watts:max)", "monthly peak"),
                unit="watt",
                no_value="no demand charge configured",
                styles={"monthly peak": Style(color=palette.REFERENCE, properties=DASHED)},
            ),
            10,
        ),
        (
            bars(
                "What advice would save, $currency per month",
                "By kind of advice, from the last four weeks of each node's books; kinds can overlap. "
                "tpw-exporter advise, or api/v1/advice of the exporter, has the lines with how each was calculated.",
                Query(f"sum by (kind) (tpw_advice_saving_per_month{{{MONEY}}})", "{{kind}}", instant=True),
                unit="none",
                decimals=2,
                no_value="advice.metrics is not set, or the books have no week yet",
                color=palette.REFERENCE,
            ),
            7,
        ),
        (note("Scope", "Boundary, scope and what is not included.", SMALL_PRINT), 7),
    )
