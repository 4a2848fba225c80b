"""Money: cost, its causes, and the cost at a reference. For finance and team leads; calendar ranges."""

from __future__ import annotations

from grafana import palette, queries
from grafana.dashboard import Dashboard, Settings, electricity_price, link_to, trust
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
    judged,
    judged_down,
    note,
    tile,
)
from grafana.queries import MONEY

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
ENERGY = 'component="energy"'
NO_REFERENCE = "no reference configured"

SMALL_PRINT = """\
**Included.** Energy is the joules of the GPUs and their share of the host, times PUE, at the price at the time of use, \
also where that price became known later. A price is never changed afterwards. Hardware, hosting and other configured \
costs accrue with time, for idle GPUs too. Prices are as configured, with or without VAT. *Costs* selects all components \
(full) or electricity alone (energy).

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
    page.row("Charges, credit, demand")
    _charges(page)
    return page


def _answers(page: Dashboard) -> None:
    spent = queries.gpu_cost_in("$__range")
    tokens = queries.tokens_in("$__range")
    by_reference = f'sum(increase(tpw_server_reference_cost_total{{reference="$reference", {MONEY}}}[$__range]))'
    full = queries.server_cost_in("$__range", component="")
    waste = queries.gpu_cost_in("$__range", state="parked|idle")
    page.line(
        5,
        (
            tile(
                "$currency spent",
                "${scope:text} cost of all GPUs in the time range, and in the previous range of the same length.",
                Query(spent, "in this range", instant=True),
                Query(queries.gpu_cost_in("$__range", offset=" offset $__range"), "previous range", instant=True),
                unit="none",
                no_value=NO_PRICE,
            ),
            3,
        ),
        (
            tile(
                "Electricity",
                "Cost of energy in the time range, less credit, and its share of the full cost.",
                Query(queries.gpu_cost_in("$__range", component=ENERGY), "$currency", instant=True),
                Query(
                    f"{queries.gpu_cost_in('$__range', component=ENERGY)}"
                    f" / ({queries.gpu_cost_in('$__range', component='')} > 0)",
                    "of full cost",
                    instant=True,
                ),
                unit="none",
                no_value=NO_PRICE,
                styles={"of full cost": Style(unit="percentunit", decimals=0)},
            ),
            3,
        ),
        (
            tile(
                "Wasted",
                "${scope:text} cost of parked and idle time in the time range, less credit, and its share. Orange from 20 "
                "%, red from 40 %.",
                Query(waste, "$currency", instant=True),
                Query(f"{waste} / ({spent} > 0)", "of all cost", instant=True),
                unit="none",
                no_value=NO_PRICE,
                styles={"of all cost": Style(unit="percentunit", decimals=0, thresholds=judged(0.2, 0.4))},
            ),
            3,
        ),
        (
            tile(
                "$currency / M tokens",
                "Money per million ${kind:text} tokens in the time range, ${scope:text} cost. servers: what they "
                "cost. fleet: idle GPUs as well.",
                Query(f"1e6 * {queries.server_cost_in('$__range')} / ({tokens} > 0)", "servers", instant=True),
                Query(
                    f"1e6 * {spent} / ({tokens} > 0)",
                    "fleet",
                    instant=True,
                    unfiltered=("namespace", "server", "model"),
                ),
                unit="none",
                no_value=NO_TOKENS,
            ),
            3,
        ),
        (
            tile(
                "Forecast for the month",
                "All costs of the month so far, in the time zone of the tariff, from the exporters' books, and what it "
                "will be at the pace of the last seven days: of the month, not of the time range.",
                Query(f'sum(tpw_period_cost_forecast{{period="month", {MONEY}}})', "forecast, $currency", instant=True),
                Query(queries.period_cost("month", component=""), "so far", instant=True),
                unit="none",
                decimals=0,
                no_value=NO_PRICE,
            ),
            3,
        ),
        (
            tile(
                "Saved",
                "Cost of the work of the time range at $reference, less its cost here in $currency. servers: what they "
                "cost. fleet: idle GPUs as well, as in the cost spent. Red: the reference would have been cheaper.",
                Query(f"{by_reference} - {full}", "servers", instant=True),
                Query(
                    f"{by_reference} - {queries.gpu_cost_in('$__range', component='')}",
                    "fleet",
                    instant=True,
                    unfiltered=("namespace", "server", "model"),
                ),
                unit="none",
                no_value=NO_REFERENCE,
                thresholds=((None, palette.BAD), (0, palette.GOOD)),
            ),
            3,
        ),
        (
            tile(
                "$currency paid / kWh",
                "Cost of energy over the facility kWh of the servers, next to the time mean of the price. Paid below "
                "the mean is the gain from load at cheap hours. priced: the share of all facility energy that has a "
                "price; the rest is in no cost of this dashboard.",
                Query(
                    f"{queries.server_cost_in('$__range', component=ENERGY)}"
                    " / (sum(increase(tpw_server_facility_energy_joules_total[$__range])) / 3.6e6 > 0)",
                    "paid",
                    instant=True,
                ),
                Query(
                    f"avg(avg_over_time(tpw_electricity_price_per_kwh{{{MONEY}}}[$__range]))",
                    "mean price",
                    instant=True,
                ),
                Query(
                    f"1 - {queries.unpriced_in('$__range')}"
                    " / (sum(increase(tpw_gpu_state_facility_energy_joules_total[$__range])) > 0)",
                    "priced",
                    instant=True,
                ),
                unit="none",
                no_value=NO_PRICE,
                styles={"priced": Style(unit="percentunit", decimals=0, thresholds=judged_down(0.99, 0.95))},
            ),
            3,
        ),
        (trust(), 3),
    )


def _efficiency(page: Dashboard) -> None:
    tokens = queries.tokens_in("$__range", BY)
    cost = queries.server_cost_in("$__range", BY)
    by_reference = (
        f'sum by ({BY}) (increase(tpw_server_reference_cost_total{{reference="$reference", {MONEY}}}[$__range]))'
    )
    page.line(
        7,
        (
            grid(
                "Servers and models in this range",
                "Sums over the time range. Share: of the cost of all servers. Parked: cost of parked time. Idle GPUs "
                "have no owner and are in no row. A click on a model opens it on the Models dashboard.",
                Query(tokens, table=True, instant=True),
                Query(cost, table=True, instant=True),
                Query(queries.server_cost_in("$__range", BY, ENERGY), table=True, instant=True),
                Query(queries.server_cost_in("$__range", BY, state="parked"), table=True, instant=True),
                Query(f"1e6 * {cost} / ({tokens} > 0)", table=True, instant=True),
                Query(
                    f"{cost} / on () group_left () ({queries.server_cost_in('$__range')} > 0)", table=True, instant=True
                ),
                Query(f"{by_reference} - {queries.server_cost_in('$__range', BY, '')}", table=True, instant=True),
                columns=(
                    Column("server", "Server"),
                    Column("model", "Model"),
                    Column("Value #A", "Tokens", Style(unit="short")),
                    Column("Value #B", "Cost", Style(unit="none", decimals=2)),
                    Column("Value #F", "Share", Style(unit="percentunit", decimals=0)),
                    Column("Value #C", "Electricity", Style(unit="none", decimals=2)),
                    Column("Value #D", "Parked", Style(unit="none", decimals=2)),
                    Column("Value #E", "Per million tokens", Style(unit="none")),
                    Column(
                        "Value #G",
                        "Saved against reference",
                        Style(
                            unit="none",
                            decimals=2,
                            thresholds=((None, palette.BAD), (0, palette.GOOD)),
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


def _component_bars(rate: str, step: str) -> tuple[Query, ...]:
    """Cost by component and credit, as means over each bar."""
    return (
        Query(
            f"{rate} * sum by (component) (rate(tpw_gpu_state_cost_total{{{MONEY}}}[{step}] offset -{step}))",
            "{{component}}",
            step=step,
        ),
        Query(
            f"-{rate} * sum(rate(tpw_gpu_state_credit_total{{{MONEY}}}[{step}] offset -{step}))", "credit", step=step
        ),
    )


COMPONENT_STYLES = {
    **{name: Style(color=color) for name, color in palette.COMPONENTS.items()},
    "credit": Style(color=palette.CREDIT),
}


def _when(page: Dashboard) -> None:
    page.line(
        8,
        (
            curve(
                "$currency per day, by component",
                "A bar is a day (UTC) of all GPUs; the last bar is incomplete. Credit for negative prices is below zero.",
                *_component_bars("86400", "1d"),
                unit="none",
                stacked=True,
                bars=True,
                no_value=NO_PRICE,
                legend=("mean",),
                styles=COMPONENT_STYLES,
            ),
            12,
        ),
        (
            bars(
                "$currency per hour, by hour of the day",
                "Mean ${scope:text} cost rate of all GPUs in each hour of the day (UTC), over the time range.",
                Query(
                    'sum by (hour) (avg_over_time(cluster:tpw_cost_by_hour:rate5m{scope="${scope:text}",'
                    f" {MONEY}}}[$__range])) * 3600",
                    table=True,
                    instant=True,
                ),
                unit="none",
                no_value=NO_PRICE,
                vertical=True,
                rows=("hour", "Value"),
            ),
            12,
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
                "Cost rate, $currency per hour",
                "Cost rate of all GPUs by component over the last five minutes. Compare with the price above and the load.",
                Query(f"3600 * sum by (component) (cluster:tpw_gpu_state_cost:rate5m{{{MONEY}}})", "{{component}}"),
                Query(f"-3600 * sum(rate(tpw_gpu_state_credit_total{{{MONEY}}}[5m]))", "credit"),
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
    page.line(
        8,
        (
            bars(
                "Allocated and active, $currency",
                "Cost of each server in the time range, and the part while it was active. The difference is parked time.",
                Query(queries.server_cost_in("$__range", "server"), "{{server}}", instant=True),
                Query(queries.server_cost_in("$__range", "server", state="active"), "{{server}} active", instant=True),
                unit="none",
                decimals=2,
                no_value=NO_PRICE,
                above=True,
                styles={"/ active$/": Style(thresholds=((None, palette.STATES["active"]),))},
                color=palette.STATES["parked"],
            ),
            8,
        ),
        (
            bars(
                "Idle GPUs by node, $currency",
                "Cost of GPUs without an owner in the time range, less credit.",
                Query(
                    f"sort_desc({queries.gpu_cost_in('$__range', 'instance', state='idle')})",
                    "{{instance}}",
                    instant=True,
                ),
                unit="none",
                decimals=2,
                no_value=NO_PRICE,
                color=palette.IDLE,
            ),
            8,
        ),
        (
            bars(
                "Break-even, output tokens per day",
                "needs: output tokens per day at which a server costs as much as $reference, at the mix of token kinds of "
                "the last 24 hours: fixed cost over the reference price per token less the active energy cost per "
                "token. makes: actual output tokens. Below *needs*, the reference is cheaper. No *needs*: the reference "
                "has a price per time, or its price per token is not above that energy cost.",
                Query(
                    queries.mean_of_known(
                        '86400 * sum by (server) (server:tpw_server_tokens:rate1d{kind="output"})', "1d"
                    ),
                    "{{server}} makes",
                    instant=True,
                ),
                Query(
                    queries.mean_of_known(
                        '86400 * sum by (server) (server:tpw_break_even_tokens:rate1d{kind="output",'
                        f' reference="$reference", {MONEY}}})',
                        "1d",
                    ),
                    "{{server}} needs",
                    instant=True,
                ),
                unit="short",
                no_value=NO_REFERENCE,
                color=palette.TOKENS["output"],
                above=True,
                styles={"/ needs$/": Style(thresholds=((None, palette.REFERENCE),))},
            ),
            8,
        ),
    )
    page.line(
        6,
        (
            curve(
                "Allocated over active",
                "Total over active cost of a server in the last 24 hours, on a logarithmic axis: 1 is never parked, "
                "2 is as much parked as active. ${scope:text} cost.",
                Query(
                    'max by (server) (server:tpw_cost_per_active_cost:ratio_rate1d{scope="${scope:text}",'
                    f" {MONEY}}})",
                    "{{server}}",
                ),
                unit="none",
                decimals=1,
                at_least=1,
                logarithmic=True,
                no_value=NO_PRICE,
            ),
            24,
        ),
    )


def _charges(page: Dashboard) -> None:
    page.line(
        8,
        (
            curve(
                "Charge and credit of electricity, $currency per day",
                "Energy cost of all GPUs by day (UTC). Credit for negative prices is below zero.",
                Query(
                    f'86400 * sum(rate(tpw_gpu_state_cost_total{{component="energy", {MONEY}}}[1d] offset -1d))',
                    "charge",
                    step="1d",
                ),
                Query(f"-86400 * sum(rate(tpw_gpu_state_credit_total{{{MONEY}}}[1d] offset -1d))", "credit", step="1d"),
                unit="none",
                stacked=True,
                bars=True,
                no_value=NO_PRICE,
                legend=("mean",),
                styles={
                    "charge": Style(color=palette.COMPONENTS["energy"]),
                    "credit": Style(color=palette.CREDIT),
                },
            ),
            8,
        ),
        (
            curve(
                "Demand interval against the monthly peak",
                "Mean power of the current demand interval. Dashed: the highest interval of the billing month. Above it, "
                "the demand charge of the month rises.",
                Query("max(tpw_demand_interval_watts)", "forming"),
                Query("max(tpw_demand_peak_watts)", "monthly peak"),
                unit="watt",
                no_value="no demand charge configured",
                styles={"monthly peak": Style(color=palette.REFERENCE, properties=DASHED)},
            ),
            8,
        ),
        (note("Scope", "Boundary, scope and what is not included.", SMALL_PRINT), 8),
    )
