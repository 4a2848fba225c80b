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
    """Names, in the order in which the exposition emits their values."""
    help: str
    absent: str = ""
    """What it means when a series is not there. "" where it is always there for what it describes."""


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
    Metric(
        "tpw_gpu_power_watts",
        Kind.GAUGE,
        _GPU,
        "Power the board draws now, as its sensor reports it.",
        absent="The board does not tell its power, or does not answer.",
    ),
    Metric(
        "tpw_gpu_power_limit_watts",
        Kind.GAUGE,
        _GPU,
        "Power limit in force.",
        absent="The board has no limit to tell, or does not answer.",
    ),
    Metric(
        "tpw_gpu_power_smoothing_floor_watts",
        Kind.GAUGE,
        _GPU,
        "Power below which the board's power smoothing holds it up on purpose: idle and decode draw at least this much.",
        absent="The board has no power smoothing (Blackwell has), it is switched off, or the board does not answer.",
    ),
    Metric(
        "tpw_gpu_energy_joules_total",
        Kind.COUNTER,
        _GPU,
        "Energy of the board: every joule that was accepted.",
        absent="The board reports neither energy nor power.",
    ),
    Metric(
        "tpw_gpu_state_energy_joules_total",
        Kind.COUNTER,
        (*_GPU, "state"),
        "The same joules by what the GPU was doing: active, parked (a model loaded, no work) or idle (nobody owns it).",
        absent="The board reports neither energy nor power.",
    ),
    Metric(
        "tpw_gpu_state_facility_energy_joules_total",
        Kind.COUNTER,
        (*_GPU, "state"),
        "The same with the GPU's share of the host, times PUE (boundary facility).",
        absent="The board reports neither energy nor power.",
    ),
    Metric("tpw_gpu_state_seconds_total", Kind.COUNTER, (*_GPU, "state"), "Time by what the GPU was doing."),
    Metric(
        "tpw_gpu_state_cost_total",
        Kind.COUNTER,
        (*_GPU, "state", "component", "currency"),
        "What that time cost: component energy is the facility energy at the price of its moment, the others run with "
        "time.",
        absent="No currency is configured; for component energy also: no tariff, or the board reports no energy.",
    ),
    Metric(
        "tpw_gpu_state_credit_total",
        Kind.COUNTER,
        (*_GPU, "state", "currency"),
        "What negative electricity prices paid back for that time: the net cost is the cost less this.",
        absent="No tariff is configured, or the board reports no energy.",
    ),
    Metric(
        "tpw_gpu_unmetered_seconds_total", Kind.COUNTER, _GPU, "Time for which no trustworthy energy reading exists."
    ),
    Metric(
        "tpw_gpu_energy_anomalies_total",
        Kind.COUNTER,
        (*_GPU, "reason"),
        "Energy readings that were not believed, by reason.",
        absent="None of that reason happened.",
    ),
    Metric(
        "tpw_gpu_utilization_ratio",
        Kind.GAUGE,
        _GPU,
        "Share of time with at least one kernel resident, 0 to 1.",
        absent="The board does not tell, or does not answer.",
    ),
    Metric(
        "tpw_gpu_memory_used_bytes",
        Kind.GAUGE,
        _GPU,
        "Device memory in use.",
        absent="The board does not tell, or does not answer.",
    ),
    Metric(
        "tpw_gpu_memory_total_bytes",
        Kind.GAUGE,
        _GPU,
        "Device memory there is.",
        absent="The board does not tell, or does not answer.",
    ),
    Metric(
        "tpw_gpu_temperature_celsius",
        Kind.GAUGE,
        _GPU,
        "Temperature of the GPU.",
        absent="The board does not tell, or does not answer.",
    ),
    Metric(
        "tpw_gpu_throttle_seconds_total",
        Kind.COUNTER,
        (*_GPU, "reason"),
        "Time the clocks were held down, by reason.",
        absent="The driver does not count it.",
    ),
    Metric(
        "tpw_gpu_instance_estimated_energy_joules_total",
        Kind.COUNTER,
        (*_GPU, "gpu_instance", "profile", "method"),
        "Estimated part of the GPU's energy that an instance of it (MIG) took: no instance has a meter. All of a GPU's sum "
        "to its energy or less. method gpm: by how busy each was, slices: by its compute slices.",
        absent="The GPU is not partitioned, or its instances are not known.",
    ),
    Metric(
        "tpw_gpu_calibration_gain_ratio",
        Kind.GAUGE,
        _GPU,
        "Factor of the configuration that the board's power and energy are multiplied by.",
        absent="None is configured for the GPU.",
    ),
    Metric(
        "tpw_gpu_calibration_offset_watts",
        Kind.GAUGE,
        _GPU,
        "Watts of the configuration that are added to the board's after that.",
        absent="None is configured for the GPU.",
    ),
    Metric(
        "tpw_energy_unpriced_joules_total",
        Kind.COUNTER,
        _GPU,
        "Facility joules for whose moment no price was known when they were counted.",
        absent="No tariff is configured, or the board reports no energy.",
    ),
    Metric(
        "tpw_energy_late_priced_joules_total",
        Kind.COUNTER,
        _GPU,
        "Unpriced joules whose price arrived later: their cost was counted then.",
        absent="No tariff is configured, or the board reports no energy.",
    ),
    Metric(
        "tpw_gpu_state_emissions_grams_total",
        Kind.COUNTER,
        (*_GPU, "state", "basis"),
        "CO2 equivalent of the GPU's facility energy, by state.",
        absent="No carbon intensity is configured, or the board reports no energy.",
    ),
    Metric(
        "tpw_emissions_unknown_joules_total",
        Kind.COUNTER,
        _GPU,
        "Facility joules for whose moment no carbon intensity was known: their grams are missing.",
        absent="No carbon intensity is configured.",
    ),
    # ---------------------------------------------------------------------------------------------------------- host
    Metric(
        "tpw_host_power_watts",
        Kind.GAUGE,
        ("component",),
        "Power of a host component (cpu, dram, node) now.",
        absent="No meter of the host is readable (RAPL, hwmon, a BMC), or its first interval is not over.",
    ),
    Metric(
        "tpw_host_energy_joules_total",
        Kind.COUNTER,
        ("component",),
        "Energy of a host component.",
        absent="No meter of the host is readable.",
    ),
    Metric(
        "tpw_host_share_info",
        Kind.GAUGE,
        ("method",),
        "How the host's part of facility energy is found: node_minus_gpus, components (CPU and memory), in_gpus (the "
        "boards' meters hold the CPU), none; always 1.",
        absent="No GPU was seen.",
    ),
    # ------------------------------------------------------------------------------------------------------- servers
    Metric(
        "tpw_server_up",
        Kind.GAUGE,
        _SERVER,
        "1 while the server's counters can be read.",
        absent="Nothing is read from it: its counters are elsewhere, or it is no longer configured.",
    ),
    Metric(
        "tpw_server_info",
        Kind.GAUGE,
        ("server", "engine", "cadence", "version", "attribution"),
        "What serves, when its output counter moves, and how its GPUs are known; always 1.",
        absent="The server is no longer configured or found; its counters stay.",
    ),
    Metric(
        "tpw_server_gpu",
        Kind.GAUGE,
        ("server", "gpu", "uuid"),
        "1 for every GPU the server owns now.",
        absent="The server owns no GPU now, or which ones is not known.",
    ),
    Metric(
        "tpw_server_gpu_share_ratio",
        Kind.GAUGE,
        ("server", "gpu", "uuid", "method"),
        "Share of the GPU's time and energy that is the server's now. method sole: it alone works there, sm: by use of the "
        "multiprocessors, even: the driver does not tell, gpm and slices: by instance (MIG).",
        absent="The server owns no GPU now, or which ones is not known.",
    ),
    Metric(
        "tpw_server_tokens_total",
        Kind.COUNTER,
        ("server", "model", "kind"),
        "Tokens by kind: input (computed prompt), cached_input (prompt from the prefix cache), output. Disjoint.",
        absent="The server was never read, or its engine does not count that kind.",
    ),
    Metric(
        "tpw_server_requests_total",
        Kind.COUNTER,
        _MODEL,
        "Requests finished.",
        absent="The engine does not count finished requests.",
    ),
    Metric(
        "tpw_server_requests_running",
        Kind.GAUGE,
        _MODEL,
        "Requests being worked on.",
        absent="The engine does not tell, or the server is down.",
    ),
    Metric(
        "tpw_server_requests_waiting",
        Kind.GAUGE,
        _MODEL,
        "Requests in the server's queue.",
        absent="The engine does not tell, or the server is down.",
    ),
    Metric(
        "tpw_server_energy_joules_total",
        Kind.COUNTER,
        (*_MODEL, "state"),
        "Energy of the boards the server owns (boundary gpu), by state.",
        absent="It is not known which GPUs are its own, or they report no energy.",
    ),
    Metric(
        "tpw_server_facility_energy_joules_total",
        Kind.COUNTER,
        (*_MODEL, "state"),
        "The same with the server's share of the host, times PUE (boundary facility).",
        absent="It is not known which GPUs are its own, or they report no energy.",
    ),
    Metric(
        "tpw_server_cost_total",
        Kind.COUNTER,
        (*_MODEL, "state", "component", "currency"),
        "What the server cost, by component, priced at the moment of use.",
        absent="No currency is configured, or it is not known which GPUs are its own.",
    ),
    Metric(
        "tpw_server_credit_total",
        Kind.COUNTER,
        (*_MODEL, "state", "currency"),
        "What negative electricity prices paid back.",
        absent="No tariff is configured, or it is not known which GPUs are its own, or they report no energy.",
    ),
    Metric(
        "tpw_server_reference_cost_total",
        Kind.COUNTER,
        (*_MODEL, "reference", "currency"),
        "What the same tokens (API prices) or the same GPU time (rented) would have cost elsewhere.",
        absent="No reference is configured.",
    ),
    Metric(
        "tpw_server_work_units_total",
        Kind.COUNTER,
        (*_MODEL, "unit"),
        "Work where tokens are not the measure: audio seconds, images, requests.",
        absent="The engine counts no such work.",
    ),
    Metric(
        "tpw_server_emissions_grams_total",
        Kind.COUNTER,
        (*_MODEL, "state", "basis"),
        "CO2 equivalent of the server's facility energy.",
        absent="No carbon intensity is known.",
    ),
    # --------------------------------------------------------------------------------------------------- live ratios
    Metric(
        "tpw_tokens_per_second",
        Kind.GAUGE,
        (*_MODEL, "kind"),
        "Tokens per second over the window; kind output or total.",
        absent="Fewer than two looks at the server so far, or its engine does not count that kind.",
    ),
    Metric(
        "tpw_tokens_per_watt",
        Kind.GAUGE,
        (*_MODEL, "kind", "boundary"),
        "Tokens per second per watt = tokens per joule over the window, all energy of the server's GPUs included.",
        absent="As tokens per second; also while its GPUs used no energy or were metered for less than 95 % of the window, "
        "and where it has GPUs on other nodes (`spans_nodes`).",
    ),
    Metric(
        "tpw_cost_per_token",
        Kind.GAUGE,
        (*_MODEL, "kind", "scope", "currency"),
        "Money per token over the window; absent when no token was made.",
        absent="No token was made, no tariff is configured, some of the window had no price or no meter, or the server has "
        "GPUs on other nodes (`spans_nodes`).",
    ),
    Metric(
        "tpw_window_seconds",
        Kind.GAUGE,
        _SERVER,
        "The window the live ratios span.",
        absent="Fewer than two looks at the server so far.",
    ),
    # --------------------------------------------------------------------------------------------------------- money
    Metric(
        "tpw_electricity_price_per_kwh",
        Kind.GAUGE,
        ("currency",),
        "All-in electricity price in force now.",
        absent="No tariff is configured, or no price is known for now (state missing).",
    ),
    Metric(
        "tpw_electricity_price_state",
        Kind.GAUGE,
        ("state",),
        "1 for the state of the price in force.",
        absent="No tariff is configured.",
    ),
    Metric(
        "tpw_electricity_price_next_change_timestamp_seconds",
        Kind.GAUGE,
        (),
        "When the price changes next, Unix time.",
        absent="No later change is known yet.",
    ),
    Metric(
        "tpw_electricity_price_next_per_kwh",
        Kind.GAUGE,
        ("currency",),
        "The price after that change.",
        absent="No later change is known yet.",
    ),
    Metric(
        "tpw_reference_price_per_token",
        Kind.GAUGE,
        ("reference", "kind", "currency"),
        "What the same token costs elsewhere.",
        absent="No reference with a price per token is configured.",
    ),
    Metric(
        "tpw_grid_carbon_grams_per_kwh",
        Kind.GAUGE,
        ("basis",),
        "Carbon intensity of the grid now.",
        absent="No carbon intensity is known.",
    ),
    Metric(
        "tpw_demand_interval_watts",
        Kind.GAUGE,
        (),
        "Mean power of the demand interval that is forming.",
        absent="No demand charge is configured.",
    ),
    Metric(
        "tpw_demand_peak_watts",
        Kind.GAUGE,
        (),
        "Highest demand interval of the billing month.",
        absent="No demand charge is configured.",
    ),
    Metric(
        "tpw_demand_price_per_kw_month",
        Kind.GAUGE,
        ("currency",),
        "What one kW of the month's peak costs.",
        absent="No demand charge is configured.",
    ),
    Metric(
        "tpw_facility_pue_ratio",
        Kind.GAUGE,
        (),
        "Power usage effectiveness that energy is multiplied with now.",
    ),
    # ------------------------------------------------------------------------------------------------------- sources
    Metric(
        "tpw_source_up",
        Kind.GAUGE,
        ("source",),
        "1 while the source's last read succeeded.",
        absent="There is no such source: also a meter that is only a default (nvml, rapl) and that this machine does not "
        "have or does not let the exporter read.",
    ),
    Metric(
        "tpw_source_read_duration_seconds",
        Kind.GAUGE,
        ("source",),
        "How long the last read took.",
        absent="The source was not tried yet.",
    ),
    Metric(
        "tpw_source_last_success_timestamp_seconds",
        Kind.GAUGE,
        ("source",),
        "When the source last gave a reading.",
        absent="The source has not given a reading since the exporter started.",
    ),
    Metric("tpw_source_reads_total", Kind.COUNTER, ("source",), "Reads that were tried."),
    Metric(
        "tpw_source_read_failures_total",
        Kind.COUNTER,
        ("source", "reason"),
        "Reads that failed, by reason.",
        absent="No read failed for that reason.",
    ),
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
    Metric(
        "tpw_store_last_write_timestamp_seconds",
        Kind.GAUGE,
        (),
        "When the books were last written to disk.",
        absent="The books were not written yet, or no state directory is configured.",
    ),
    Metric(
        "tpw_exposition_dropped_samples_total",
        Kind.COUNTER,
        (),
        "Samples left out of a page because they were not finite or not as the catalogue says: a bug in the exporter.",
    ),
)

METRICS: dict[str, Metric] = {row.name: row for row in CATALOGUE}
