"""Every metric there is, one row each.

The exposition emits only what stands here, with exactly these labels; the metric reference in docs/, the dashboards and
the rules take their names from here. A row is a promise: a name or a label that changes is a breaking change.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Prometheus metric types that are used here."""

    GAUGE = "gauge"
    COUNTER = "counter"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family. ``name`` is the sample name on the wire (counters end in ``_total``)."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str


_GPU = ("gpu", "uuid")
_SERVER = ("server",)
_MODEL = ("server", "model")

CATALOGUE: tuple[Metric, ...] = (
    # ---------------------------------------------------------------------------------------------------------- GPUs
    Metric(
        "tpw_gpu_info",
        Kind.GAUGE,
        (*_GPU, "name", "vendor", "architecture", "driver_version", "power_scope", "energy_method"),
        "What the GPU is and how its energy is measured; always 1.",
    ),
    Metric("tpw_gpu_up", Kind.GAUGE, _GPU, "1 while the GPU answers; a lost GPU stays, at 0."),
    Metric("tpw_gpu_power_watts", Kind.GAUGE, _GPU, "Power the board draws now, as its sensor reports it."),
    Metric("tpw_gpu_power_limit_watts", Kind.GAUGE, _GPU, "Power limit in force."),
    Metric("tpw_gpu_energy_joules_total", Kind.COUNTER, _GPU, "Energy of the board: every joule that was accepted."),
    Metric(
        "tpw_gpu_state_energy_joules_total",
        Kind.COUNTER,
        (*_GPU, "state"),
        "The same joules by what the GPU was doing: active, parked (a model loaded, no work) or idle (nobody owns it).",
    ),
    Metric("tpw_gpu_state_seconds_total", Kind.COUNTER, (*_GPU, "state"), "Time by what the GPU was doing."),
    Metric(
        "tpw_gpu_state_cost_total",
        Kind.COUNTER,
        (*_GPU, "state", "component", "currency"),
        "What that time cost: component energy is the facility energy at the price of its moment, the others run with "
        "time.",
    ),
    Metric(
        "tpw_gpu_unmetered_seconds_total", Kind.COUNTER, _GPU, "Time for which no trustworthy energy reading exists."
    ),
    Metric(
        "tpw_gpu_energy_anomalies_total",
        Kind.COUNTER,
        (*_GPU, "reason"),
        "Energy readings that were not believed, by reason.",
    ),
    Metric("tpw_gpu_utilization_ratio", Kind.GAUGE, _GPU, "Share of time with at least one kernel resident, 0 to 1."),
    Metric("tpw_gpu_memory_used_bytes", Kind.GAUGE, _GPU, "Device memory in use."),
    Metric("tpw_gpu_memory_total_bytes", Kind.GAUGE, _GPU, "Device memory there is."),
    Metric("tpw_gpu_temperature_celsius", Kind.GAUGE, _GPU, "Temperature of the GPU."),
    Metric(
        "tpw_gpu_throttle_seconds_total",
        Kind.COUNTER,
        (*_GPU, "reason"),
        "Time the clocks were held down, by reason.",
    ),
    Metric(
        "tpw_energy_unpriced_joules_total",
        Kind.COUNTER,
        _GPU,
        "Facility joules for whose moment no price was known.",
    ),
    # ---------------------------------------------------------------------------------------------------------- host
    Metric("tpw_host_power_watts", Kind.GAUGE, ("component",), "Power of a host component (cpu, dram, node) now."),
    Metric("tpw_host_energy_joules_total", Kind.COUNTER, ("component",), "Energy of a host component."),
    # ------------------------------------------------------------------------------------------------------- servers
    Metric("tpw_server_up", Kind.GAUGE, _SERVER, "1 while the server's counters can be read."),
    Metric(
        "tpw_server_info",
        Kind.GAUGE,
        ("server", "engine", "cadence", "version", "attribution"),
        "What serves, when its output counter moves, and how its GPUs are known; always 1.",
    ),
    Metric("tpw_server_gpu", Kind.GAUGE, ("server", "gpu", "uuid"), "1 for every GPU the server owns now."),
    Metric(
        "tpw_server_tokens_total",
        Kind.COUNTER,
        ("server", "model", "kind"),
        "Tokens by kind: input (computed prompt), cached_input (prompt from the prefix cache), output. Disjoint.",
    ),
    Metric("tpw_server_requests_total", Kind.COUNTER, _MODEL, "Requests finished."),
    Metric("tpw_server_requests_running", Kind.GAUGE, _MODEL, "Requests being worked on."),
    Metric("tpw_server_requests_waiting", Kind.GAUGE, _MODEL, "Requests in the server's queue."),
    Metric(
        "tpw_server_energy_joules_total",
        Kind.COUNTER,
        (*_MODEL, "state"),
        "Energy of the boards the server owns (boundary gpu), by state.",
    ),
    Metric(
        "tpw_server_facility_energy_joules_total",
        Kind.COUNTER,
        (*_MODEL, "state"),
        "The same with the server's share of the host, times PUE (boundary facility).",
    ),
    Metric(
        "tpw_server_cost_total",
        Kind.COUNTER,
        (*_MODEL, "state", "component", "currency"),
        "What the server cost, by component, priced at the moment of use.",
    ),
    Metric(
        "tpw_server_credit_total",
        Kind.COUNTER,
        (*_MODEL, "state", "currency"),
        "What negative electricity prices paid back.",
    ),
    Metric(
        "tpw_server_reference_cost_total",
        Kind.COUNTER,
        (*_MODEL, "reference", "currency"),
        "What the same tokens (API prices) or the same GPU time (rented) would have cost elsewhere.",
    ),
    Metric(
        "tpw_server_work_units_total",
        Kind.COUNTER,
        (*_MODEL, "unit"),
        "Work where tokens are not the measure: audio seconds, images, requests.",
    ),
    Metric(
        "tpw_server_emissions_grams_total",
        Kind.COUNTER,
        (*_MODEL, "state", "basis"),
        "CO2 equivalent of the server's facility energy.",
    ),
    # --------------------------------------------------------------------------------------------------- live ratios
    Metric(
        "tpw_tokens_per_second",
        Kind.GAUGE,
        (*_MODEL, "kind"),
        "Tokens per second over the window; kind output or total.",
    ),
    Metric(
        "tpw_tokens_per_watt",
        Kind.GAUGE,
        (*_MODEL, "kind", "boundary"),
        "Tokens per second per watt = tokens per joule over the window, all energy of the server's GPUs included.",
    ),
    Metric(
        "tpw_cost_per_token",
        Kind.GAUGE,
        (*_MODEL, "kind", "scope", "currency"),
        "Money per token over the window; absent when no token was made.",
    ),
    Metric("tpw_window_seconds", Kind.GAUGE, _SERVER, "The window the live ratios span."),
    # --------------------------------------------------------------------------------------------------------- money
    Metric("tpw_electricity_price_per_kwh", Kind.GAUGE, ("currency",), "All-in electricity price in force now."),
    Metric("tpw_electricity_price_state", Kind.GAUGE, ("state",), "1 for the state of the price in force."),
    Metric(
        "tpw_electricity_price_next_change_timestamp_seconds", Kind.GAUGE, (), "When the price changes next, Unix time."
    ),
    Metric("tpw_electricity_price_next_per_kwh", Kind.GAUGE, ("currency",), "The price after that change."),
    Metric(
        "tpw_reference_price_per_token",
        Kind.GAUGE,
        ("reference", "kind", "currency"),
        "What the same token costs elsewhere.",
    ),
    Metric("tpw_grid_carbon_grams_per_kwh", Kind.GAUGE, ("basis",), "Carbon intensity of the grid now."),
    Metric("tpw_demand_interval_watts", Kind.GAUGE, (), "Mean power of the demand interval that is forming."),
    Metric("tpw_demand_peak_watts", Kind.GAUGE, (), "Highest demand interval of the billing month."),
    # ------------------------------------------------------------------------------------------------------- sources
    Metric("tpw_source_up", Kind.GAUGE, ("source",), "1 while the source's last read succeeded."),
    Metric("tpw_source_read_duration_seconds", Kind.GAUGE, ("source",), "How long the last read took."),
    Metric(
        "tpw_source_last_success_timestamp_seconds", Kind.GAUGE, ("source",), "When the source last gave a reading."
    ),
    Metric("tpw_source_reads_total", Kind.COUNTER, ("source",), "Reads that were tried."),
    Metric("tpw_source_read_failures_total", Kind.COUNTER, ("source", "reason"), "Reads that failed, by reason."),
    # ------------------------------------------------------------------------------------------------------ exporter
    Metric("tpw_build_info", Kind.GAUGE, ("version", "python_version"), "What runs; always 1."),
    Metric(
        "tpw_config_last_reload_successful",
        Kind.GAUGE,
        (),
        "1 while the configuration in force is the file as it stands.",
    ),
    Metric("tpw_snapshot_timestamp_seconds", Kind.GAUGE, (), "When the numbers of this page were taken, Unix time."),
    Metric("tpw_polls_total", Kind.COUNTER, (), "Polling ticks that were run."),
    Metric(
        "tpw_polls_skipped_total", Kind.COUNTER, (), "Polling ticks that were skipped because one was still running."
    ),
    Metric("tpw_poll_lag_seconds", Kind.GAUGE, (), "How late the last polling tick began."),
    Metric("tpw_store_last_write_timestamp_seconds", Kind.GAUGE, (), "When the books were last written to disk."),
    Metric(
        "tpw_exposition_dropped_samples_total",
        Kind.COUNTER,
        (),
        "Samples left out of a page because they were not finite or not as the catalogue says: a bug in the exporter.",
    ),
)

METRICS: dict[str, Metric] = {row.name: row for row in CATALOGUE}
