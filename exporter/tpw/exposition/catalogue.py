"""The catalogue: one row per metric family.

The exposition emits only these families, with exactly these labels. The metric reference in ``docs/``, the dashboards and
the rules read the names from here. Renaming a metric or a label is a breaking change.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Prometheus metric types in use."""

    GAUGE = "gauge"
    COUNTER = "counter"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family. ``name`` is the sample name, as in the text format."""

    name: str
    labels: tuple[str, ...]
    """Names, in the order in which the exposition emits their values."""
    help: str
    absent: str = ""
    """Why a series can be missing; "" where it is always present."""

    @property
    def kind(self) -> Kind:
        """A counter ends in ``_total``; everything else is a gauge."""
        return Kind.COUNTER if self.name.endswith("_total") else Kind.GAUGE


_GPU = ("gpu", "uuid")
_SERVER = ("server",)
_MODEL = ("server", "model")
_TENANT = (*_MODEL, "tenant")

_NO_READING = "The GPU does not report it, or the GPU does not answer."
_NO_ENERGY = "The GPU reports neither energy nor power."
_NO_TARIFF = "No tariff is configured, or the GPU reports no energy."
_NO_SERVER_ENERGY = "The GPUs of the server are unknown, or they report no energy."
_NO_DEMAND = "No demand charge is configured."
_NO_NEXT_PRICE = "No later price change is known."
_NO_PHASES = (
    "The phases cannot be separated: too little active time (16 minutes), always the same mix of tokens, a stated error "
    "above 0.15, an engine that counts tokens at the end of a request or serves several models, or a GPU that is shared "
    "by other evidence than sole and sm."
)
_NO_DEPLOYMENT = (
    "The node has fewer than two servers of the deployment, or only the prefill or only the decode instances of a pair; or "
    "one of them cannot be read."
)
_NO_TENANTS = "No tenants are configured for the server, or it was not read yet."
_METHODS = (
    "method: by tokens weighted as measured, configured or by default; owner or use for time without tokens; rest for what "
    "nobody claimed (tenant unattributed)."
)
_WHOLE = "Tenants, unattributed and what is not divided yet sum to the server."
_NO_WINDOW = "The server has been read fewer than two times."

_PERIOD = ("period", "server")
_BUDGET = ("budget", "period", "currency")
_PERIODS = (
    "period is the day, week (from Monday on) or month of tariff.timezone. server is (idle) for GPUs that nobody used, "
    "(other) for those used by workloads that are no servers, and (retired) for servers without series of their own: the "
    "series of a period sum to the node."
)
_NO_PERIOD = (
    "Nothing was booked for it in the period, the first rows of the period are not kept any more (setting state.keep), or "
    "the books are not read yet (the first seconds after a start) or cannot be read."
)
_FORECAST = (
    "what is booked, and for the rest the pace of the last seven days and today, or since the books began; from the books. "
    "All servers of a node sum to the node."
)
_NO_FORECAST = "The books have less than 24 hours, or the period is unknown (see tpw_period_cost)."

CATALOGUE: tuple[Metric, ...] = (
    # ---------------------------------------------------------------------------------------------------------- GPUs
    Metric(
        "tpw_gpu_info",
        (*_GPU, "name", "vendor", "architecture", "driver_version", "power_scope", "energy_method"),
        "Identity of the GPU and how its energy is measured, from NVML or the configured meter; always 1.",
    ),
    Metric(
        "tpw_gpu_up",
        _GPU,
        "1 if the GPU answered its last read (NVML or the configured meter), 0 if it did not. A lost GPU stays at 0.",
    ),
    Metric(
        "tpw_gpu_power_watts",
        _GPU,
        "Power the GPU draws, in watts, from its sensor (NVML_FI_DEV_POWER_AVERAGE, NVML_FI_DEV_POWER_INSTANT or "
        "nvmlDeviceGetPowerUsage, or the configured meter), with the configured calibration applied.",
        _NO_READING,
    ),
    Metric(
        "tpw_gpu_power_limit_watts",
        _GPU,
        "Power limit the GPU enforces, in watts (nvmlDeviceGetEnforcedPowerLimit, or the configured meter).",
        _NO_READING,
    ),
    Metric(
        "tpw_gpu_power_smoothing_floor_watts",
        _GPU,
        "Power, in watts, below which NVIDIA power smoothing does not let the GPU fall, even when it is idle "
        "(NVML_FI_PWR_SMOOTHING_APPLIED_TMP_FLOOR).",
        "The GPU has no power smoothing (Blackwell has), it is disabled, or the GPU does not answer.",
    ),
    Metric(
        "tpw_gpu_energy_joules_total",
        _GPU,
        "Energy of the GPU in joules, as booked: the difference of its energy counter (NVML_FI_DEV_ENERGY, "
        "nvmlDeviceGetTotalEnergyConsumption or the configured meter) or the integral of its power.",
        _NO_ENERGY,
    ),
    Metric(
        "tpw_gpu_pending_energy_joules",
        _GPU,
        "Energy of the GPU in joules that is metered and not in the counters yet: a server that may have used it cannot be "
        "read. It is booked when the server's page shows the owner, or after polling.hold as state other.",
        _NO_ENERGY,
    ),
    Metric(
        "tpw_gpu_state_energy_joules_total",
        (*_GPU, "state"),
        "Energy of the GPU in joules, from the books, by state: active (an owning server was working), parked (owned, "
        "no work), starting (held by a server that is not ready), other (used by a process that is no known server), idle "
        "(not used), planned_off (parked or idle in a pause of the setting planned_off). The states sum to "
        "tpw_gpu_energy_joules_total.",
        _NO_ENERGY,
    ),
    Metric(
        "tpw_gpu_state_facility_energy_joules_total",
        (*_GPU, "state"),
        "Energy of the GPU and its host share, times PUE (boundary facility), in joules, by state, from the books.",
        _NO_ENERGY,
    ),
    Metric(
        "tpw_gpu_state_seconds_total",
        (*_GPU, "state"),
        "Time of the GPU in seconds, from the books, by state: active, parked, starting, other, idle, planned_off.",
    ),
    Metric(
        "tpw_gpu_state_cost_total",
        (*_GPU, "state", "component", "currency"),
        "Cost of the GPU in the currency of the label, by state and component, from the books. Component energy is "
        "facility energy at the price of its moment; the others (hardware, fixed charges, ...) run with time.",
        "No currency is configured. For component energy also: no tariff is configured, or the GPU reports no energy.",
    ),
    Metric(
        "tpw_gpu_state_credit_total",
        (*_GPU, "state", "currency"),
        "Money that negative electricity prices paid back for the GPU, in the currency of the label, from the books, "
        "by state. Net cost is cost minus credit.",
        _NO_TARIFF,
    ),
    Metric(
        "tpw_gpu_unmetered_seconds_total",
        _GPU,
        "Time without a trustworthy energy reading of the GPU, in seconds, from the books.",
    ),
    Metric(
        "tpw_gpu_energy_error_ratio",
        ("uuid",),
        "Stated 95 % bound of the relative error of the GPU's energy over an hour or longer, from the energy method, the "
        "time between readings, the errors published for GPU sensors (arXiv 2312.02741), and the setting calibration.",
        "The GPU is down, or its energy comes from a meter with an unknown error.",
    ),
    Metric(
        "tpw_gpu_energy_anomalies_total",
        (*_GPU, "reason"),
        "Energy readings of the GPU that the exporter rejected, by reason (reset, backwards, frozen, stuck, zero, ...).",
        "No reading was rejected for that reason.",
    ),
    Metric(
        "tpw_gpu_utilization_ratio",
        _GPU,
        "Share of time in which at least one kernel ran on the GPU, 0 to 1 (nvmlDeviceGetUtilizationRates, or the "
        "configured meter). It does not show how busy the GPU was.",
        _NO_READING,
    ),
    Metric(
        "tpw_gpu_memory_used_bytes",
        _GPU,
        "Device memory in use on the GPU, in bytes (nvmlDeviceGetMemoryInfo, or the configured meter).",
        _NO_READING,
    ),
    Metric(
        "tpw_gpu_memory_total_bytes",
        _GPU,
        "Device memory of the GPU, in bytes (nvmlDeviceGetMemoryInfo, or the configured meter).",
        _NO_READING,
    ),
    Metric(
        "tpw_gpu_temperature_celsius",
        _GPU,
        "Temperature of the GPU in degrees Celsius (nvmlDeviceGetTemperature, or the configured meter).",
        _NO_READING,
    ),
    Metric(
        "tpw_gpu_throttle_seconds_total",
        (*_GPU, "reason"),
        "Time the clocks of the GPU were reduced, in seconds, by reason: sw_power_cap, sw_thermal, hw_thermal, "
        "hw_power_brake (NVML_FI_DEV_CLOCKS_EVENT_REASON_*).",
        "The driver does not count it.",
    ),
    Metric(
        "tpw_gpu_instance_estimated_energy_joules_total",
        (*_GPU, "gpu_instance", "profile", "method"),
        "Estimated energy of one MIG instance, in joules, from the books: instances have no meter of their own. Method "
        "gpm weighs by how busy each instance was, slices by its compute slices. The sum over instances is at most the "
        "energy of the GPU.",
        "The GPU is not partitioned, or its instances are unknown.",
    ),
    Metric(
        "tpw_workload_energy_joules_total",
        ("workload", "kind"),
        "Energy of GPUs in joules, from the books, used by a workload that is no known server (state other). Workload: "
        "pod, Slurm job, container, systemd unit, or user and command of the processes, from their cgroups; kind: which "
        "of these. Those beyond the limit are summed in kind other.",
        "No workload other than known servers has used a GPU.",
    ),
    Metric(
        "tpw_gpu_calibration_gain_ratio",
        _GPU,
        "Factor by which the measured power and energy of the GPU are multiplied (setting calibration).",
        "No calibration is configured for the GPU.",
    ),
    Metric(
        "tpw_gpu_calibration_offset_watts",
        _GPU,
        "Offset in watts that is added to the measured power of the GPU after the gain (setting calibration).",
        "No calibration is configured for the GPU.",
    ),
    Metric(
        "tpw_energy_unpriced_joules_total",
        _GPU,
        "Facility energy of the GPU, in joules, that had no electricity price when it was booked, from the books.",
        _NO_TARIFF,
    ),
    Metric(
        "tpw_energy_late_priced_joules_total",
        _GPU,
        "Facility energy of the GPU, in joules, that was booked without a price and priced later, from the books.",
        _NO_TARIFF,
    ),
    Metric(
        "tpw_gpu_state_emissions_grams_total",
        (*_GPU, "state", "basis"),
        "Emissions of the GPU's facility energy in grams of CO2 equivalent, by state and basis, from the books; basis "
        "embodied: of making the GPU, by time. Of the other bases only one is to be used at a time.",
        "Neither a carbon intensity nor emissions are configured, or the GPU reports no energy.",
    ),
    Metric(
        "tpw_emissions_unknown_joules_total",
        _GPU,
        "Facility energy of the GPU, in joules, that had no carbon intensity when it was booked, from the books.",
        "No carbon intensity is configured.",
    ),
    # ---------------------------------------------------------------------------------------------------------- host
    Metric(
        "tpw_host_power_watts",
        ("component",),
        "Power of a host component (cpu, dram, node, ...) in watts, mean of two readings (RAPL, hwmon, Redfish).",
        "No host meter is readable (RAPL, hwmon, BMC), or its first interval is not complete.",
    ),
    Metric(
        "tpw_host_energy_joules_total",
        ("component",),
        "Energy of a host component (cpu, dram, node, ...) in joules (RAPL, hwmon, Redfish).",
        "No host meter is readable.",
    ),
    Metric(
        "tpw_host_share_info",
        ("method",),
        "How the host is counted in facility energy; always 1. Method node_minus_gpus: node meter minus GPUs; "
        "components: CPU and memory; in_gpus: the GPU meters include the CPU; none: not counted.",
        "No GPU was found.",
    ),
    # ------------------------------------------------------------------------------------------------------- servers
    Metric(
        "tpw_server_up",
        _SERVER,
        "1 if the metrics page of the server was read on the last attempt, 0 if not.",
        "The server has no metrics page here, or it is no longer configured or found.",
    ),
    Metric(
        "tpw_server_planned_off",
        _SERVER,
        "1 while the server is planned to be off (setting planned_off), 0 while it is not.",
        "No planned pauses are configured, or the server is no longer configured or found.",
    ),
    Metric(
        "tpw_server_info",
        (
            *("server", "engine", "cadence", "version", "attribution"),
            *("namespace", "workload", "workload_kind", "pod", "container", "deployment", "role"),
        ),
        "Engine and version of the server, when its output counter moves (cadence), how its GPUs were found "
        "(attribution), from its metrics page and process; to whom its process belongs, from its cgroup, the Kubernetes "
        "API and the names of pod logs (servers of one deployment make one service together); and its role (prefill, "
        "decode or both), from its command line or configuration. Empty where unknown. Pod labels in "
        "discovery.kubernetes.labels are added as label_*. Always 1.",
        "The server is no longer configured or found; its counters stay.",
    ),
    Metric(
        "tpw_server_gpu",
        ("server", "gpu", "uuid"),
        "1 for each GPU the server owns now, by configuration, processes (NVML), kubelet or environment.",
        "The server owns no GPU now, or its GPUs are unknown.",
    ),
    Metric(
        "tpw_server_gpu_share_ratio",
        ("server", "gpu", "uuid", "method"),
        "Share of the GPU's time and energy that is booked to the server now, 0 to 1. Method sole: no other process "
        "computes there; sm: by SM utilization per process (nvmlDeviceGetProcessUtilization) over the same second; tokens, "
        "requests, memory, even: the driver does not report it, split by the servers' tokens, their running requests, the "
        "memory of the processes, or evenly; gpm, slices: by MIG instance.",
        "The server owns no GPU now, or its GPUs are unknown.",
    ),
    Metric(
        "tpw_server_gpu_share_error_ratio",
        ("server", "uuid"),
        "Stated bound of the error of tpw_server_gpu_share_ratio, as a part of the energy of the GPU: for 95 of 100 "
        "servers the energy booked over a minute differs by less from what they used. By method, from simulated processes "
        "with known duty (docs/accuracy.md); 0 for a server that is alone.",
        "The GPU is partitioned: no meter was compared with the parts of MIG instances.",
    ),
    Metric(
        "tpw_server_tokens_total",
        ("server", "model", "kind"),
        "Tokens of the server by kind, from the token counters of the engine: input (prompt tokens computed), "
        "cached_input (prompt tokens from the prefix cache), output (generated). The kinds are disjoint.",
        "The server was never read, or its engine does not count that kind.",
    ),
    Metric(
        "tpw_server_cached_tokens_total",
        ("server", "model", "tier"),
        "Cached input tokens of the server by where they came from, from the token counters of the engine: device (memory "
        "of the GPU), host (memory of the host), disk, remote (a store or a server elsewhere). A part of "
        "tpw_server_tokens_total of kind cached_input: what has an unknown origin is in none.",
        "The engine does not report where cached tokens came from.",
    ),
    Metric(
        "tpw_server_token_anomalies_total",
        ("server", "reason"),
        "Values on the metrics page of the server that were not booked, by reason, counted by the exporter: implausible "
        "(rose by more than plausibility allows), models (above models_per_server: booked as model other), "
        "series (too many series), invalid (a counter that is negative, not finite or above 2^63: not read).",
        "No value was rejected for that reason.",
    ),
    Metric(
        "tpw_server_requests_without_usage_total",
        ("server", "path"),
        "Requests of the server with unknown tokens, by path without names and numbers, from the counters of the proxy or "
        "middleware of this project: their answers had no usage, or none that is known. Their energy is booked, their "
        "tokens are not.",
        "The server is not read through the proxy or the middleware, or all its answers had usage.",
    ),
    Metric(
        "tpw_server_requests_total",
        _MODEL,
        "Requests the server has finished, from the request counter of the engine.",
        "The engine does not count finished requests.",
    ),
    Metric(
        "tpw_server_slo_target_seconds",
        ("server", "slo"),
        "Target of the latency of requests of the server, in seconds, from the setting slo: ttft (time to first token), "
        "tpot (mean time of the tokens after the first), e2e (whole request).",
        "No target is set for the server.",
    ),
    Metric(
        "tpw_server_slo_requests_total",
        (*_MODEL, "slo", "met"),
        "Requests of the server by whether they met the target slo, from the histograms of the engine: yes, no, or unknown "
        "(the target lies between two bounds of the buckets). yes is a lower bound, yes + unknown an upper one. slo all: "
        "all targets together, as bounds of what the histograms leave open; a request is in it when it has ended.",
        "No target is set for the server, or its engine has no histogram of that latency by request.",
    ),
    Metric(
        "tpw_server_slo_latency_seconds_total",
        (*_MODEL, "slo"),
        "Latency of all these requests together, in seconds, from the sum of the engine's histogram: over the requests of "
        "tpw_server_slo_requests_total it is their mean latency.",
        "No target is set for the server, or its engine has no histogram of that latency by request.",
    ),
    Metric(
        "tpw_server_published_tokens_per_watt",
        (*_MODEL, "source"),
        "Output tokens per second per watt of the GPUs that others have published for this model on this GPU, of the "
        "conditions nearest to those of the server now, at steady load. source: mlenergy-v3 or inferencex-828; conditions, "
        "differences and licence are in /api/v1/status and docs/measure.md.",
        "No figure of this model on this GPU is published, or the server is down or uses GPUs of several kinds or nodes.",
    ),
    Metric(
        "tpw_server_highest_plausible_tokens_per_watt",
        _MODEL,
        "Output tokens per second per watt of its GPUs that no server of this model on these GPUs can exceed: four times "
        "the best published figure of models at least as large, at most what the arithmetic rate of the GPU allows "
        "(docs/measure.md). More than that means that the server uses GPUs that are not counted as its own.",
        "Neither a figure of this model nor its size and the rate of the GPU are known, or the server is down.",
    ),
    Metric(
        "tpw_server_requests_running",
        _MODEL,
        "Requests the server is processing, from the gauge of the engine.",
        "The engine does not report it, or the server is down.",
    ),
    Metric(
        "tpw_server_requests_waiting",
        _MODEL,
        "Requests in the queue of the server, from the gauge of the engine.",
        "The engine does not report it, or the server is down.",
    ),
    Metric(
        "tpw_server_energy_joules_total",
        (*_MODEL, "state"),
        "Energy of the server's share of its GPUs (boundary gpu), in joules, by state, from the books.",
        _NO_SERVER_ENERGY,
    ),
    Metric(
        "tpw_server_phase_energy_joules_total",
        (*_MODEL, "phase", "method"),
        "Estimated part of the server's active energy in joules that was prefill and decode, from the books. Method "
        "regression: by input tokens, output tokens and steps of the engine, minute by minute. Their sum is at most the "
        "active energy: the rest could not be split.",
        _NO_PHASES,
    ),
    Metric(
        "tpw_server_phase_energy_error_ratio",
        _MODEL,
        "Stated 95 % bound of the error of tpw_server_phase_energy_joules_total, as a part of the energy of both phases; "
        "from the estimate, and simulated servers with known phases (docs/accuracy.md).",
        _NO_PHASES,
    ),
    Metric(
        "tpw_server_facility_energy_joules_total",
        (*_MODEL, "state"),
        "Energy of the server's GPU and host shares, times PUE (facility), in joules, by state, from the books.",
        _NO_SERVER_ENERGY,
    ),
    Metric(
        "tpw_server_cost_total",
        (*_MODEL, "state", "component", "currency"),
        "Cost of the server in the currency of the label, by state and component, from the books. Component energy is "
        "facility energy at the price of its moment; the others (hardware, fixed charges, ...) run with time.",
        "No currency is configured, or the GPUs of the server are unknown.",
    ),
    Metric(
        "tpw_server_credit_total",
        (*_MODEL, "state", "currency"),
        "Money that negative electricity prices paid back for the server, in the currency of the label, from the "
        "books, by state. Net cost is cost minus credit.",
        "No tariff is configured, the GPUs of the server are unknown, or they report no energy.",
    ),
    Metric(
        "tpw_server_reference_cost_total",
        (*_MODEL, "reference", "currency"),
        "Cost of the same work elsewhere, in the currency of the label: the tokens at an API price, or the GPU time at "
        "a rental price (setting references). A full price: compare it with tpw_server_cost_total only where "
        "tpw_cost_components_info has hardware or gpu_hour.",
        "No reference is configured.",
    ),
    Metric(
        "tpw_server_work_units_total",
        (*_MODEL, "unit"),
        "Work of the server in the unit of the label (audio seconds, images, ...), from the engine's counters.",
        "The engine counts no such work.",
    ),
    Metric(
        "tpw_server_emissions_grams_total",
        (*_MODEL, "state", "basis"),
        "Emissions of the server's facility energy in grams of CO2 equivalent, by state and basis, from the books; basis "
        "embodied: of making its GPUs, by time. Of the other bases only one is to be used at a time.",
        "Neither a carbon intensity is known nor emissions are configured.",
    ),
    Metric(
        "tpw_tenant_tokens_total",
        (*_TENANT, "kind"),
        "Tokens of a tenant on the server, by kind, as the source of the setting tenants counts them: a gateway, the "
        "proxy, or a label of the engine's page. Updated once a minute. Tenants above the limit are summed as other.",
        _NO_TENANTS,
    ),
    Metric(
        "tpw_tenant_energy_joules_total",
        (*_TENANT, "state", "method"),
        "Energy of the server's GPUs (boundary gpu) in joules, from the books, divided among tenants by their tokens. "
        f"{_METHODS} {_WHOLE}",
        _NO_TENANTS,
    ),
    Metric(
        "tpw_tenant_facility_energy_joules_total",
        (*_TENANT, "state", "method"),
        "Facility energy of the server in joules, from the books, divided among tenants like "
        "tpw_tenant_energy_joules_total.",
        _NO_TENANTS,
    ),
    Metric(
        "tpw_tenant_cost_total",
        (*_TENANT, "state", "component", "currency", "method"),
        "Cost of the server in the currency of the label, by component, from the books, divided among tenants by their "
        f"tokens. {_METHODS} {_WHOLE}",
        f"{_NO_TENANTS} No currency is configured.",
    ),
    Metric(
        "tpw_tenant_credit_total",
        (*_TENANT, "state", "currency", "method"),
        "Money that negative electricity prices paid back, in the currency of the label, from the books, divided among "
        "tenants like tpw_tenant_cost_total. Net cost is cost minus credit.",
        f"{_NO_TENANTS} No tariff is configured.",
    ),
    Metric(
        "tpw_tenant_emissions_grams_total",
        (*_TENANT, "state", "basis", "method"),
        "Emissions of the server in grams of CO2 equivalent, by basis, from the books, divided among tenants by their "
        f"tokens. {_METHODS} {_WHOLE}",
        f"{_NO_TENANTS} Neither a carbon intensity is known nor emissions are configured.",
    ),
    Metric(
        "tpw_tenant_unsettled_energy_joules",
        (*_MODEL, "state"),
        "Energy of the server's GPUs (boundary gpu) in joules that is booked and not divided among tenants yet, from the "
        "books. Tenants, unattributed and this sum to tpw_server_energy_joules_total.",
        _NO_TENANTS,
    ),
    Metric(
        "tpw_tenant_unsettled_cost",
        (*_MODEL, "state", "component", "currency"),
        "Cost of the server in the currency of the label that is booked and not divided among tenants yet, by component, "
        "from the books. Tenants, unattributed and this sum to tpw_server_cost_total.",
        f"{_NO_TENANTS} No currency is configured.",
    ),
    Metric(
        "tpw_books_unlisted_energy_joules",
        (),
        "Energy (boundary gpu), in joules, from the books, of servers and models that have no series because they have "
        "been gone for longer than state.retire. A gauge: it falls when one returns.",
        "No GPU was found.",
    ),
    Metric(
        "tpw_books_unlisted_facility_energy_joules",
        (),
        "Facility energy, in joules, from the books, of servers and models that have no series because they have been "
        "gone for longer than state.retire.",
        "No GPU was found.",
    ),
    Metric(
        "tpw_books_unlisted_cost",
        ("component", "currency"),
        "Cost in the currency of the label, by component, from the books, of servers and models that have no series "
        "because they have been gone for longer than state.retire.",
        "No currency is configured.",
    ),
    Metric(
        "tpw_books_unlisted_credit",
        ("currency",),
        "Money that negative electricity prices paid back, in the currency of the label, from the books, for servers and "
        "models that have no series because they have been gone for longer than state.retire.",
        "No tariff is configured.",
    ),
    # --------------------------------------------------------------------------------------------------- live ratios
    Metric(
        "tpw_tokens_per_second",
        (*_MODEL, "kind"),
        "Tokens per second over tpw_window_seconds, kind output or total, from the token counters of the engine.",
        "The server has been read fewer than two times, or its engine does not count that kind.",
    ),
    Metric(
        "tpw_tokens_per_watt",
        (*_MODEL, "kind", "boundary"),
        "Tokens per second per watt (tokens per joule) over tpw_window_seconds, parked time included, from the books.",
        "The server has been read fewer than two times, its engine does not count that kind, its GPUs used no energy "
        "or were metered for less than 95 % of the window, or it has GPUs on other nodes (spans_nodes).",
    ),
    Metric(
        "tpw_cost_per_token",
        (*_MODEL, "kind", "scope", "currency"),
        "Cost per token in the currency of the label over tpw_window_seconds, from the books. scope is energy (electricity "
        "alone), operating (everything but capital) or full (everything in tpw_cost_components_info, GPUs included).",
        "No token was generated, what the scope contains is not configured (full: hardware or gpu_hour, and energy, "
        "gpu_hour or hosting), part of the window had no price or no meter, or the server has GPUs on other nodes "
        "(spans_nodes).",
    ),
    Metric(
        "tpw_phase_energy_joules_per_token",
        (*_MODEL, "kind"),
        "Estimated GPU joules of one more token over the last hours, kind input (of prefill, per computed prompt token) or "
        "output (of decode), as tpw_server_phase_energy_joules_total is split.",
        _NO_PHASES,
    ),
    Metric(
        "tpw_phase_cost_per_token",
        (*_MODEL, "kind", "currency"),
        "Energy cost of an input and of an output token in the currency of the label: tpw_phase_energy_joules_per_token "
        "at the cost of the server's joules over tpw_window_seconds, from the books. Energy alone (scope energy).",
        _NO_PHASES + " Or as tpw_cost_per_token.",
    ),
    Metric(
        "tpw_window_seconds",
        _SERVER,
        "Window of the live ratios in seconds (setting polling.window); longer if the engine counts at request end, or if "
        "a GPU without an energy counter is read rarely, because its driver is slow.",
        _NO_WINDOW,
    ),
    # --------------------------------------------------------------------------------------------------- deployments
    Metric(
        "tpw_deployment_tokens_per_second",
        ("deployment", "kind"),
        "Tokens per second of the servers of a deployment on this node over tpw_deployment_window_seconds, from the token "
        "counters of their engines, each token once: prompts of prefill instances, output of decode instances, routers not "
        "at all. kind output or total.",
        _NO_DEPLOYMENT,
    ),
    Metric(
        "tpw_deployment_tokens_per_watt",
        ("deployment", "kind", "boundary"),
        "Tokens per joule of the servers of a deployment on this node over tpw_deployment_window_seconds: the tokens of "
        "all of them over the joules of all of them, from the books. Boundary gpu or facility.",
        _NO_DEPLOYMENT + " Or as tpw_tokens_per_watt.",
    ),
    Metric(
        "tpw_deployment_cost_per_token",
        ("deployment", "kind", "scope", "currency"),
        "Cost per token of the servers of a deployment on this node in the currency of the label over "
        "tpw_deployment_window_seconds, from the books: the costs of all of them over the tokens of all of them.",
        _NO_DEPLOYMENT + " Or as tpw_cost_per_token.",
    ),
    Metric(
        "tpw_deployment_energy_share_ratio",
        ("deployment", "role"),
        "Share of the GPU joules of the servers of a deployment on this node, 0 to 1, that those with this role used "
        "(prefill, decode; both: without one of these), over their tpw_window_seconds, from the books.",
        _NO_DEPLOYMENT + " Or the power of one of them is unknown.",
    ),
    Metric(
        "tpw_deployment_window_seconds",
        ("deployment",),
        "Window of the live ratios of a deployment in seconds: the part that the windows of its servers (setting "
        "polling.window) have in common.",
        _NO_DEPLOYMENT,
    ),
    # --------------------------------------------------------------------------------------------------------- money
    Metric(
        "tpw_electricity_price_per_kwh",
        ("currency",),
        "Electricity price in force now, all-in, in the currency of the label per kWh, from the tariff.",
        "No tariff is configured, or the current price is unknown (state missing).",
    ),
    Metric(
        "tpw_electricity_price_state",
        ("state",),
        "1 for the state of the electricity price (final, preliminary, forecast, fallback, missing), from the tariff.",
        "No tariff is configured.",
    ),
    Metric(
        "tpw_electricity_price_next_change_timestamp_seconds",
        (),
        "Time of the next electricity price change, as a Unix timestamp in seconds, from the tariff.",
        _NO_NEXT_PRICE,
    ),
    Metric(
        "tpw_electricity_price_next_per_kwh",
        ("currency",),
        "Electricity price after the next change, all-in, in the currency of the label per kWh, from the tariff.",
        _NO_NEXT_PRICE,
    ),
    Metric(
        "tpw_electricity_price_rank_ratio",
        (),
        "Rank of the electricity price now among those of the next 24 hours: the share of that time with a lower price, 0 "
        "while none is lower. Counted is time with a published or forecast price. From the tariff.",
        "No tariff is configured, the price now is unknown or a fallback, or less than 8 of the next 24 hours are priced.",
    ),
    Metric(
        "tpw_reference_price_per_token",
        ("reference", "kind", "currency"),
        "Price of one token elsewhere, in the currency of the label (setting references).",
        "No reference with a price per token is configured.",
    ),
    Metric(
        "tpw_cost_components_info",
        ("component",),
        "1 for each component of cost that is booked now, from the settings tariff and costs: what a full cost contains.",
        "No cost is configured.",
    ),
    Metric(
        "tpw_grid_carbon_grams_per_kwh",
        ("basis",),
        "Carbon intensity of the grid now, in grams of CO2 equivalent per kWh, from the configured value or feed.",
        "No carbon intensity is known.",
    ),
    Metric(
        "tpw_demand_interval_watts",
        (),
        "Mean facility power of the current demand interval so far, in watts, from the books.",
        f"{_NO_DEMAND} Or the demand is that of the whole site (setting site), which is known at the end of an interval.",
    ),
    Metric(
        "tpw_demand_peak_watts",
        (),
        "Highest mean power of a demand interval in the billing month, in watts, from the books; of the whole site with "
        "the setting site.",
        _NO_DEMAND,
    ),
    Metric(
        "tpw_demand_price_per_kw_month",
        ("currency",),
        "Price of one kW of the monthly demand peak, in the currency of the label, from the tariff.",
        _NO_DEMAND,
    ),
    Metric(
        "tpw_site_share_ratio",
        ("site", "by"),
        "Part of the site's charges that this node books, from 0 to 1: its GPUs, kW or energy (label by) over those of the "
        "site, from the setting site and its queries. The shares of all nodes of a site should sum to 1.",
        "No site is configured, or a query has not returned the site's total or power yet: charges are deferred then.",
    ),
    Metric(
        "tpw_facility_pue_ratio",
        (),
        "Power usage effectiveness by which energy is multiplied now (setting facility.pue, or its query).",
    ),
    # ------------------------------------------------------------------------------------------------ period to date
    Metric(
        "tpw_period_cost",
        (*_PERIOD, "state", "component", "currency"),
        f"Cost of the current period so far, from the books, in the currency of the label; component energy is net of what "
        f"negative prices paid back. {_PERIODS}",
        _NO_PERIOD,
    ),
    Metric(
        "tpw_period_energy_joules",
        (*_PERIOD, "state"),
        f"Energy that GPUs used in the current period so far, in joules, from the books. {_PERIODS}",
        _NO_PERIOD,
    ),
    Metric(
        "tpw_period_facility_energy_joules",
        (*_PERIOD, "state"),
        "Energy of the GPUs in the current period so far with the host's share and PUE, in joules, from the books. "
        f"{_PERIODS}",
        _NO_PERIOD,
    ),
    Metric(
        "tpw_period_unpriced_energy_joules",
        ("period",),
        "Facility energy of the current period that has no price yet, in joules, from the books: tpw_period_cost lacks "
        "what it will cost.",
        "No tariff is configured, or the period is unknown (see tpw_period_cost).",
    ),
    Metric(
        "tpw_period_tokens",
        (*_PERIOD, "kind"),
        "Tokens of the current period so far, from the books, with corrections of `tpw-exporter books correct`. "
        f"{_PERIODS}",
        _NO_PERIOD,
    ),
    Metric(
        "tpw_period_cost_forecast",
        (*_PERIOD, "currency"),
        f"Cost of the whole month in the currency of the label: {_FORECAST}",
        f"{_NO_FORECAST} More than 5 % of the energy of these days has no price.",
    ),
    Metric(
        "tpw_period_facility_energy_forecast_joules",
        _PERIOD,
        f"Facility energy of the whole month in joules: {_FORECAST}",
        _NO_FORECAST,
    ),
    Metric(
        "tpw_period_tokens_forecast",
        (*_PERIOD, "kind"),
        f"Tokens of the whole month: {_FORECAST}",
        _NO_FORECAST,
    ),
    Metric(
        "tpw_budget_amount",
        _BUDGET,
        "Amount of the budget for one period, in the currency of the label (setting budgets). Every exporter with this "
        "budget exposes the whole amount.",
        "No budget is configured.",
    ),
    Metric(
        "tpw_budget_spent",
        _BUDGET,
        "What this node has spent of the budget in the current period, in the currency of the label, from the books; the "
        "sum over all nodes is what is spent.",
        "No budget is configured, or the period is unknown (see tpw_period_cost).",
    ),
    Metric(
        "tpw_budget_projected",
        _BUDGET,
        "What this node will have spent of the budget at the end of the period, in the currency of the label: spent so "
        "far, and the pace of the last seven days for the rest.",
        f"No budget is configured. {_NO_FORECAST} More than 5 % of the energy of these days has no price.",
    ),
    Metric(
        "tpw_advice_saving_per_month",
        ("kind", "currency"),
        "What the advice of a kind (idle, parked, schedule, consolidate, power_limit, shift, contract, elsewhere) would "
        "save a month, in the currency of the label: the sum of its lines in tpw-exporter advise, from the last four weeks "
        "of the books, calculated once an hour. Lines of different kinds can overlap.",
        "advice.metrics is not set, the books have no week yet, or they do not show whether there is something to save.",
    ),
    # ------------------------------------------------------------------------------------------------------- sources
    Metric(
        "tpw_source_up",
        ("source",),
        "1 if the last read of the source succeeded, 0 if it failed.",
        "There is no such source. A meter that is only a default (nvml, rapl) and that this machine lacks or does not "
        "permit is not listed.",
    ),
    Metric(
        "tpw_source_read_duration_seconds",
        ("source",),
        "Duration of the last read of the source, in seconds, measured by the exporter.",
        "The source has not been read yet.",
    ),
    Metric(
        "tpw_source_last_success_timestamp_seconds",
        ("source",),
        "Time of the last successful read of the source, as a Unix timestamp in seconds.",
        "No read has succeeded since the exporter started.",
    ),
    Metric(
        "tpw_source_reads_total",
        ("source",),
        "Reads of the source that were attempted, counted by the exporter.",
    ),
    Metric(
        "tpw_source_read_failures_total",
        ("source", "reason"),
        "Reads of the source that failed, by reason, counted by the exporter.",
        "No read failed for that reason.",
    ),
    # ------------------------------------------------------------------------------------------------------ exporter
    Metric(
        "tpw_build_info",
        ("version", "python_version"),
        "Version of the exporter and of Python; always 1.",
    ),
    Metric(
        "tpw_config_last_reload_successful",
        (),
        "1 if the last load of the configuration file succeeded, 0 if an older configuration is in force.",
    ),
    Metric(
        "tpw_snapshot_timestamp_seconds",
        (),
        "Time at which the values on this page were read, as a Unix timestamp in seconds.",
    ),
    Metric(
        "tpw_polls_total",
        (),
        "Polling ticks that were run, counted by the exporter.",
    ),
    Metric(
        "tpw_polls_skipped_total",
        (),
        "Polling ticks that were skipped because an earlier one was still running or the process was suspended, or that"
        " failed, counted by the exporter.",
    ),
    Metric(
        "tpw_poll_lag_seconds",
        (),
        "Delay between the scheduled and the actual start of the last polling tick, in seconds.",
    ),
    Metric(
        "tpw_store_last_write_timestamp_seconds",
        (),
        "Time of the last write of the books to the state directory, as a Unix timestamp in seconds.",
        "The books have not been written yet, or no state directory is configured.",
    ),
    Metric(
        "tpw_books_writable",
        (),
        "1 if the last write of the books to the state directory succeeded, 0 if it failed: the exporter then goes on "
        "with a reserve beside them; where that cannot be written either, a restart loses what was counted since.",
        "No state directory is in use.",
    ),
    Metric(
        "tpw_books_recovered_total",
        (),
        "Times a damaged file of the books was recovered at a start, from what was readable and from the newest backup, "
        "counted by the exporter.",
    ),
    Metric(
        "tpw_exposition_dropped_samples_total",
        (),
        "Samples omitted from /metrics because they were not finite or not in the catalogue, counted by the exporter.",
    ),
)

METRICS: dict[str, Metric] = {row.name: row for row in CATALOGUE}
