"""GPUs: state, power, energy and waste of each GPU. For operators of the hardware."""

from __future__ import annotations

from grafana import palette, queries
from grafana.dashboard import Dashboard, Settings, link_to, trust
from grafana.metrics import Vocabulary
from grafana.panels import (
    DASHED,
    Column,
    Query,
    Style,
    bars,
    curve,
    grid,
    scatter,
    tile,
    timeline,
)
from grafana.queries import MONEY

SETTINGS = Settings(
    uid="tpw-gpus",
    title="tpw / GPUs",
    description="Every GPU of a node: state, owner, power, energy, waste, heat.",
    filters=("cluster", "job", "namespace", "instance", "gpu"),
    owned=True,
    single=("instance",),
    annotations=("alerts", "restarts"),
)
WHO = "instance, gpu, uuid"
NAME = "{{instance}} GPU {{gpu}}"


def dashboard(words: Vocabulary) -> Dashboard:
    """The dashboard."""
    page = Dashboard(SETTINGS, words)
    _table(page)
    _states(page)
    page.row("Power and energy")
    _power(page)
    page.row("Heat, memory, work")
    _health(page)
    page.row("Only on some hardware", collapsed=True)
    _rare(page)
    return page


def _states(page: Dashboard) -> None:
    counts = tile(
        "GPUs by state",
        "Current number. lost: the driver no longer responds for the GPU.",
        *(Query(f'sum(gpu:tpw_gpu_state_seconds:rate5m{{state="{state}"}})', state) for state in palette.STATES),
        Query(queries.LOST, "lost"),
        unit="none",
        decimals=0,
        styles={
            **{state: Style(color=color) for state, color in palette.STATES.items()},
            "lost": Style(thresholds=((None, palette.NEUTRAL), (1, palette.BAD))),
        },
    )
    page.line(
        9,
        (counts, 4),
        (
            timeline(
                "State of each GPU",
                "active: its server processes requests. parked: a model is loaded, no requests. other: used by a "
                "process that is no known server. starting: its server loads a model. idle: not used. lost: no answer.",
                Query(queries.state_code(), NAME),
                states=palette.STATE_CODES,
            ),
            13,
        ),
        (
            bars(
                "$currency wasted per hour, worst ten",
                "Cost rate of parked and idle time over the last five minutes, less credit.",
                Query(f"topk(10, gpu:tpw_waste_cost_per_hour:rate5m{{{MONEY}}} > 0)", NAME, instant=True),
                unit="none",
                color=palette.STATES["parked"],
                no_value="nothing is wasted, or no price is configured",
            ),
            7,
        ),
    )


def _table(page: Dashboard) -> None:
    waste = queries.gpu_cost_in("$__range", WHO, "parked|idle")
    page.line(
        10,
        (
            grid(
                "GPUs",
                "A row per GPU. Busy: utilisation. Heat: temperature. Wasted: cost of its parked and idle time in the "
                "time range, less credit. A click on a number selects that GPU.",
                Query(f"max by ({WHO}, name) (tpw_gpu_info)", table=True, instant=True),
                Query(queries.state_code(WHO), table=True, instant=True),
                Query(f"max by ({WHO}) (tpw_gpu_power_watts)", table=True, instant=True),
                Query(
                    f"max by ({WHO}) (tpw_gpu_power_watts) / (max by ({WHO}) (tpw_gpu_power_limit_watts) > 0)",
                    table=True,
                    instant=True,
                ),
                Query(f"max by ({WHO}) (tpw_gpu_utilization_ratio)", table=True, instant=True),
                Query(
                    f"max by ({WHO}) (tpw_gpu_memory_used_bytes) / (max by ({WHO}) (tpw_gpu_memory_total_bytes) > 0)",
                    table=True,
                    instant=True,
                ),
                Query(f"max by ({WHO}) (tpw_gpu_temperature_celsius)", table=True, instant=True),
                Query(waste, table=True, instant=True),
                Query(queries.owner(WHO), table=True, instant=True),
                columns=(
                    Column("instance", "Node", Style(width=125)),
                    Column("gpu", "GPU", Style(width=55)),
                    Column("name", "Type", Style(width=185)),
                    Column("server", "Owner", Style(width=90)),
                    Column(
                        "Value #B",
                        "State",
                        Style(
                            width=75,
                            properties={
                                "custom.cellOptions": {"type": "color-text"},
                                "mappings": [
                                    {
                                        "type": "value",
                                        "options": {
                                            str(code): {"text": name, "color": color, "index": index}
                                            for index, (code, (name, color)) in enumerate(palette.STATE_CODES.items())
                                        },
                                    }
                                ],
                            },
                        ),
                    ),
                    Column("Value #C", "Power", Style(unit="watt", decimals=0, width=70)),
                    Column("Value #D", "Of limit", Style(unit="percentunit", decimals=0, width=75)),
                    Column("Value #E", "Busy", Style(unit="percentunit", decimals=0, width=65)),
                    Column("Value #F", "Memory", Style(unit="percentunit", decimals=0, width=80)),
                    Column("Value #G", "Heat", Style(unit="celsius", decimals=0, width=65)),
                    Column("Value #H", "Wasted, $currency", Style(unit="none", decimals=2, width=110)),
                ),
                drop=("Value #A", "Value #I", "uuid"),
                links={"GPU": link_to("tpw-gpus", "This GPU alone", instance="Node", gpu="GPU")},
                sort="Wasted, $currency",
            ),
            21,
        ),
        (trust(), 3),
    )


def _power(page: Dashboard) -> None:
    page.line(
        8,
        (
            curve(
                "Power of each GPU",
                "Power sensors. Dashed: the highest enforced limit of the selected GPUs.",
                Query("tpw_gpu_power_watts", NAME),
                Query("max(tpw_gpu_power_limit_watts)", "limit"),
                unit="watt",
                legend=(),
                fill=0,
                styles={"limit": Style(color=palette.REFERENCE, properties=DASHED)},
            ),
            8,
        ),
        (
            curve(
                "Parked and idle power",
                "Power that generates no tokens, by state.",
                Query('sum by (state) (gpu:tpw_gpu_state_energy_joules:rate5m{state=~"parked|idle"})', "{{state}}"),
                unit="watt",
                stacked=True,
                styles={state: Style(color=palette.STATES[state]) for state in ("parked", "idle")},
            ),
            8,
        ),
        (
            curve(
                "Sampled power against the energy counter",
                "Mean of the power sensor over mean power by the energy counter, less one, over an hour. Healthy: "
                "within a few per cent of zero. A GPU that differs from the others has a faulty meter.",
                Query(queries.sensor_error(), NAME),
                unit="percentunit",
                at_least=None,
                legend=(),
                fill=0,
            ),
            8,
        ),
    )
    page.line(
        8,
        (
            curve(
                "State of the node, share of time",
                "Share of GPU time by state over five minutes.",
                Query(
                    "sum by (state) (gpu:tpw_gpu_state_seconds:rate5m)"
                    " / ignoring (state) group_left () (sum(gpu:tpw_gpu_state_seconds:rate5m) > 0)",
                    "{{state}}",
                ),
                unit="percentunit",
                stacked=True,
                at_most=1,
                styles={state: Style(color=color) for state, color in palette.STATES.items()},
            ),
            8,
        ),
        (
            bars(
                "Energy today, by state",
                "GPU energy of the day so far, in the time zone of the tariff, in kWh, from the exporters' books: not "
                "of the time range.",
                *(
                    Query(
                        f'sum(tpw_period_energy_joules{{period="day", state="{state}"}}) / 3.6e6',
                        state,
                        instant=True,
                    )
                    for state in palette.STATES
                ),
                unit="kwatth",
                decimals=1,
                styles={state: Style(thresholds=((None, color),)) for state, color in palette.STATES.items()},
            ),
            8,
        ),
        (
            scatter(
                "Power against utilisation",
                "One point per five minutes. High utilisation at low power is a latched reading or memory-bound work. "
                "Utilisation does not measure efficiency.",
                Query("max by (instance, gpu) (avg_over_time(tpw_gpu_utilization_ratio[5m]))"),
                Query("max by (instance, gpu) (avg_over_time(tpw_gpu_power_watts[5m]))"),
                x_label="utilisation",
                y_label="power",
                unit_x="percentunit",
                unit_y="watt",
                partition=("instance", "gpu"),
                name="${__field.labels.instance} GPU ${__field.labels.gpu}",
                no_value="the GPUs do not report utilisation",
            ),
            8,
        ),
    )


def _health(page: Dashboard) -> None:
    page.line(
        7,
        (
            curve(
                "Temperature",
                "Per GPU. Temperature follows power. One GPU that is hotter than its neighbours has a problem with its "
                "air.",
                Query("tpw_gpu_temperature_celsius", NAME),
                unit="celsius",
                at_least=20,
                legend=(),
                fill=0,
            ),
            12,
        ),
        (
            curve(
                "Memory used",
                "Per GPU. Parked models keep their memory.",
                Query("tpw_gpu_memory_used_bytes", NAME),
                unit="bytes",
                legend=(),
                fill=0,
            ),
            12,
        ),
    )
    page.line(
        7,
        (
            curve(
                "Throttled, share of time",
                "By reason and GPU. sw_power_cap is normal under load; hw_thermal and hw_power_brake are not.",
                Query(
                    "sum by (instance, gpu, reason) (rate(tpw_gpu_throttle_seconds_total[$__rate_interval]))",
                    "GPU {{gpu}} {{reason}}",
                ),
                unit="percentunit",
                legend=(),
                fill=0,
                no_value="the driver does not report throttling",
            ),
            24,
        ),
    )


def _rare(page: Dashboard) -> None:
    page.line(
        7,
        (
            curve(
                "Host power by component",
                "Hosts with a readable meter (RAPL, hwmon, a BMC).",
                Query("sum by (instance, component) (tpw_host_power_watts)", "{{instance}} {{component}}"),
                unit="watt",
                no_value="no meter of the host is readable",
            ),
            12,
        ),
        (
            grid(
                "What the meters include",
                "GPUs by the scope of their meter (superchips report the whole module) and how joules are obtained.",
                Query("count by (power_scope, energy_method, name) (tpw_gpu_info)", table=True, instant=True),
                columns=(
                    Column("name", "Type", Style(width=170)),
                    Column("power_scope", "Meter includes"),
                    Column("energy_method", "Energy by"),
                    Column("Value", "GPUs", Style(unit="none", decimals=0, width=70)),
                ),
                sort="GPUs",
            ),
            12,
        ),
    )
    page.line(
        7,
        (
            grid(
                "GPUs that servers share",
                "Current split of the time and energy of GPUs with several owners. sm: by use of the multiprocessors. "
                "even: the driver reports no use. gpm, slices: by instance (MIG).",
                Query(
                    'max by (instance, gpu, server, method) (tpw_server_gpu_share_ratio{method!="sole"})',
                    table=True,
                    instant=True,
                ),
                columns=(
                    Column("instance", "Node"),
                    Column("gpu", "GPU", Style(width=70)),
                    Column("server", "Server"),
                    Column("method", "Split by", Style(width=90)),
                    Column("Value", "Share", Style(unit="percentunit", decimals=1, width=90)),
                ),
                sort="Share",
            ),
            12,
        ),
        (
            curve(
                "Estimated power of instances (MIG)",
                "Power of the GPU divided among its instances, which have no meter: by their activity where the driver "
                "reports it, else by compute slices. The share of no instance is not shown.",
                Query(
                    "sum by (instance, gpu, profile, gpu_instance)"
                    " (rate(tpw_gpu_instance_estimated_energy_joules_total[$__rate_interval]))",
                    "{{instance}} GPU {{gpu}} {{profile}} {{gpu_instance}}",
                ),
                unit="watt",
                stacked=True,
                legend=(),
                no_value="no GPU is partitioned",
            ),
            12,
        ),
    )
