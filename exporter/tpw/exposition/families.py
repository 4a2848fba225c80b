"""Snapshot -> metric families.

:func:`families` is a pure function of the snapshot. All samples go through one :class:`Sheet`, which checks them against
the catalogue. A value that is unknown has no sample: a GPU that does not answer has no gauges, a server that is down no
requests, and without a currency there is no cost.

A counter must exist at 0 before it grows, or ``rate()`` misses its first increment: whatever will be booked is emitted from
the start.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import fsum, isfinite
from typing import TYPE_CHECKING, NamedTuple

from tpw import __version__
from tpw.exposition.catalogue import CATALOGUE, METRICS, Metric
from tpw.exposition.comparing import comparisons
from tpw.exposition.periods import add_periods
from tpw.exposition.totals import Totals, listed, slo_outcomes, totals, unlisted
from tpw.ledger.accuracy import energy_error_ratio
from tpw.ledger.amounts import ENERGY, NOTHING, Amounts
from tpw.ledger.books import Books, GpuAccount, ServerAccount
from tpw.ledger.outage import held_joules
from tpw.ledger.phases import METHOD
from tpw.ledger.share_error import share_error_ratio
from tpw.ledger.window import live_ratios
from tpw.model import UNKNOWN_MODEL, EnergyMethod, PriceState, Reference, ServerWorkload, State, TokenKind
from tpw.snapshot import Snapshot

if TYPE_CHECKING:
    from tpw.ledger.service import Service

Sample = tuple[tuple[str, ...], float]
"""Label values, in the order of the catalogue, and the value."""

DROPPED = "tpw_exposition_dropped_samples_total"

_SERVER_INFO = "tpw_server_info"
_NO_OWNER = ServerWorkload()
_PLANNED_OFF = (str(State.PLANNED_OFF),)
"""Shown where pauses are planned, or were."""
_STATES = tuple(str(state) for state in State if state is not State.PLANNED_OFF)
_SERVER_STATES = (str(State.ACTIVE), str(State.PARKED), str(State.STARTING))


class Family(NamedTuple):
    """One metric family with at least one sample."""

    metric: Metric
    samples: list[Sample]


class ExpositionError(ValueError):
    """An invalid sample, which is a bug. The message has the metric and the problem."""


@dataclass(slots=True)
class Drops:
    """Counts invalid samples in production."""

    count: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    """The first problem of each metric."""

    def add(self, metric: str, problem: str) -> None:
        """Count one sample."""
        self.count += 1
        self.problems.setdefault(metric, problem)


class Sheet(dict[str, list[Sample]]):
    """Metric name -> samples, to append to. Only valid samples leave it: known names, all labels, finite values."""

    __slots__ = ()

    def __missing__(self, name: str) -> list[Sample]:
        samples = self[name] = list[Sample]()
        return samples

    def add(self, name: str, labels: tuple[str, ...], value: float | None) -> None:
        """Append a sample. None means unknown: no sample."""
        if value is not None:
            self[name].append((labels, value))

    def families(self, drops: Drops | None = None) -> list[Family]:
        """The families with samples, in the order of the catalogue.

        Args:
            drops: where to count invalid samples. Without it they raise :class:`ExpositionError`.
        """
        for name in self.keys() - METRICS.keys():
            for _ in self[name]:
                _reject(drops, name, "is not in the catalogue")
        result = []
        for metric in CATALOGUE:
            samples = self.get(metric.name)
            if not samples:
                continue
            width = len(metric.labels)
            if drops is None and len({labels for labels, _ in samples}) != len(samples):
                raise ExpositionError(f"{metric.name} has two samples with the same labels")
            # NaN and Inf minus themselves are not 0: isfinite() without a call per sample.
            invalid = [labels for labels, value in samples if len(labels) != width or value - value != 0.0]
            if invalid:
                samples = [sample for sample in samples if _is_valid(metric, sample, drops)]
            if samples:
                result.append(Family(metric, samples))
        return result


def _is_valid(metric: Metric, sample: Sample, drops: Drops | None) -> bool:
    labels, value = sample
    if len(labels) != len(metric.labels):
        _reject(drops, metric.name, f"has {len(labels)} label values {labels!r} for the labels {metric.labels!r}")
    elif not isfinite(value):
        _reject(drops, metric.name, f"is {value!r} at {labels!r}")
    else:
        return True
    return False


def _reject(drops: Drops | None, name: str, problem: str) -> None:
    if drops is None:
        raise ExpositionError(f"{name} {problem}")
    drops.add(name, problem)


def families(snapshot: Snapshot, drops: Drops | None = None) -> list[Family]:
    """All families of the snapshot, in the order of the catalogue.

    Args:
        snapshot: one tick.
        drops: in production: counts invalid samples; the count is a metric of its own. Without it an invalid sample raises
            :class:`ExpositionError`.
    """
    sheet, books = Sheet(), snapshot.books
    booked, pending = totals(books), held_joules(books.held)
    energy_priced = snapshot.energy_priced
    components = booked.components.union(snapshot.components, (ENERGY,) if energy_priced else ())
    ordered = tuple(sorted(components)) if books.currency else ()
    basis = "" if snapshot.carbon is None else snapshot.carbon.basis
    bases = tuple(sorted((booked.bases | {basis}) - {""}))
    has_plan = snapshot.planned_servers is not None or any(state in _PLANNED_OFF for _, state in booked.gpus)
    planned = _PLANNED_OFF if has_plan else ()
    for account in sorted(books.gpus.values(), key=_by_index):
        _gpu(sheet, account)
        _gpu_books(sheet, account, booked, books.currency, ordered, basis, _STATES + planned)
        if account.gpu.energy_method is not EnergyMethod.NONE:
            who = (str(account.gpu.index), account.gpu.uuid)
            sheet.add("tpw_gpu_pending_energy_joules", who, pending.get(account.gpu.uuid, 0.0))
    for workload, used in sorted(booked.workloads.items()):
        sheet.add("tpw_workload_energy_joules_total", (workload.name, str(workload.kind)), used)
    _hosts(sheet, books)
    configured = snapshot.servers_read
    if books.gpus:
        _unlisted(sheet, unlisted(booked, snapshot.retired), books.currency, ordered)
    booked, servers = listed(books, booked, snapshot.retired)
    for name, server in sorted(servers.items()):
        _server(sheet, server, books, snapshot.owners.get(name, _NO_OWNER), configured=name in configured)
        _server_books(sheet, server, booked, books, ordered, bases, _SERVER_STATES + planned)
        if snapshot.planned_servers is not None:
            sheet.add("tpw_server_planned_off", (name,), 1.0 if name in snapshot.planned_servers else 0.0)
        _reference_costs(sheet, server, books.currency, snapshot.references)
        _ratios(sheet, server, snapshot)
    if any(owner.deployment for owner in snapshot.owners.values()):
        _deployments(sheet, snapshot)
    if books.tenants is not None:
        from tpw.exposition.tenants import add_tenants

        add_tenants(sheet, books, books.tenants, servers, ordered)
    _money(sheet, snapshot)
    if snapshot.periods is not None:
        add_periods(sheet, snapshot, snapshot.periods.to_date(books))
    for kind, saving in snapshot.advice.items() if books.currency else ():
        sheet.add("tpw_advice_saving_per_month", (kind, books.currency), saving)
    _sources(sheet, snapshot)
    _exporter(sheet, snapshot)
    if drops is not None:
        sheet.add(DROPPED, (), float(drops.count))
    return _with_pod_labels(sheet.families(drops), snapshot.owners)


def _with_pod_labels(rows: list[Family], owners: Mapping[str, ServerWorkload]) -> list[Family]:
    """The families, with the allowed labels of pods on the info metric of servers. All its series have the same labels."""
    names = tuple({name: None for owner in owners.values() for name, _ in owner.labels})
    if not names:
        return rows

    def widened(family: Family) -> Family:
        if family.metric.name != _SERVER_INFO:
            return family
        by_server = {server: dict(owner.labels) for server, owner in owners.items()}
        samples = [
            ((*labels, *(by_server.get(labels[0], {}).get(name, "") for name in names)), value)
            for labels, value in family.samples
        ]
        return Family(replace(family.metric, labels=(*family.metric.labels, *names)), samples)

    return [widened(family) for family in rows]


def _unlisted(sheet: Sheet, amounts: Amounts, currency: str, components: tuple[str, ...]) -> None:
    sheet.add("tpw_books_unlisted_energy_joules", (), amounts.joules)
    sheet.add("tpw_books_unlisted_facility_energy_joules", (), amounts.facility_joules)
    for component in components:
        sheet.add("tpw_books_unlisted_cost", (component, currency), amounts.cost.get(component, 0.0))
    if ENERGY in components:
        sheet.add("tpw_books_unlisted_credit", (currency,), amounts.credit)


def _by_index(account: GpuAccount) -> tuple[int, str]:
    return account.gpu.index, account.gpu.uuid


# ----------------------------------------------------------------------------------------------------------------- GPUs


def _gpu(sheet: Sheet, account: GpuAccount) -> None:
    """Identity of the GPU, and its gauges while it answers."""
    gpu = account.gpu
    who = (str(gpu.index), gpu.uuid)
    identity = (gpu.name, gpu.vendor, gpu.architecture, gpu.driver_version, str(gpu.power_scope), str(account.method))
    sheet.add("tpw_gpu_info", (*who, *identity), 1.0)
    sheet.add("tpw_gpu_up", who, 1.0 if account.up else 0.0)
    if account.calibration is not None:
        sheet.add("tpw_gpu_calibration_gain_ratio", who, account.calibration.gain)
        sheet.add("tpw_gpu_calibration_offset_watts", who, account.calibration.offset_watts)
    sample = account.sample
    if account.up and sample is not None:
        sheet.add("tpw_gpu_power_watts", who, sample.power_watts)
        sheet.add("tpw_gpu_power_limit_watts", who, sample.power_limit_watts)
        sheet.add("tpw_gpu_power_smoothing_floor_watts", who, sample.power_floor_watts)
        sheet.add("tpw_gpu_utilization_ratio", who, sample.utilization_ratio)
        sheet.add("tpw_gpu_memory_used_bytes", who, sample.memory_used_bytes)
        sheet.add("tpw_gpu_memory_total_bytes", who, sample.memory_total_bytes)
        sheet.add("tpw_gpu_temperature_celsius", who, sample.temperature_celsius)


def _gpu_books(
    sheet: Sheet,
    account: GpuAccount,
    booked: Totals,
    currency: str,
    components: tuple[str, ...],
    basis: str,
    states: tuple[str, ...],
) -> None:
    """Counters of the GPU, for all states."""
    gpu = account.gpu
    index, uuid = who = (str(gpu.index), gpu.uuid)
    by_state = [(state, booked.gpus.get((uuid, state), NOTHING)) for state in states]
    joules = [amounts.joules for _, amounts in by_state]
    measured = gpu.energy_method is not EnergyMethod.NONE or any(joules)
    if measured:
        # Added in the order of the states as exported, so that they sum to the total to the last bit (law 1). sum() adds
        # floats differently from Python 3.12 on.
        total = 0.0
        for value in joules:
            total += value
        sheet.add("tpw_gpu_energy_joules_total", who, total)
        energy = sheet["tpw_gpu_state_energy_joules_total"]
        facility_energy = sheet["tpw_gpu_state_facility_energy_joules_total"]
        for state, amounts in by_state:
            energy.append(((index, uuid, state), amounts.joules))
            facility_energy.append(((index, uuid, state), amounts.facility_joules))
    seconds = sheet["tpw_gpu_state_seconds_total"]
    for state, amounts in by_state:
        seconds.append(((index, uuid, state), amounts.seconds))
    cost = sheet["tpw_gpu_state_cost_total"]
    for component in components:
        if measured or component != ENERGY:
            for state, amounts in by_state:
                cost.append(((index, uuid, state, component, currency), amounts.cost.get(component, 0.0)))
    if measured and ENERGY in components:
        credit = sheet["tpw_gpu_state_credit_total"]
        for state, amounts in by_state:
            credit.append(((index, uuid, state, currency), amounts.credit))
        sheet.add("tpw_energy_unpriced_joules_total", who, fsum([amounts.unpriced_joules for _, amounts in by_state]))
        late = fsum([amounts.late_priced_joules for _, amounts in by_state])
        sheet.add("tpw_energy_late_priced_joules_total", who, late)
    _gpu_emissions(sheet, who, by_state, basis if measured else "")
    sheet.add("tpw_gpu_unmetered_seconds_total", who, account.unmetered_seconds)
    if account.up:
        sheet.add("tpw_gpu_energy_error_ratio", (uuid,), energy_error_ratio(account))
    for reason, count in sorted(account.anomalies.items()):
        sheet.add("tpw_gpu_energy_anomalies_total", (*who, reason), float(count))
    if account.division is not None:
        existing = {(part.instance, part.profile) for part in account.division.parts}
        for (instance, profile, method), estimate in sorted(account.instance_joules.items()):
            if (instance, profile) in existing:
                labels = (*who, instance, profile, str(method))
                sheet.add("tpw_gpu_instance_estimated_energy_joules_total", labels, estimate)
    for reason, throttled in sorted(account.throttle_seconds.items()):
        sheet.add("tpw_gpu_throttle_seconds_total", (*who, reason), throttled)


def _gpu_emissions(sheet: Sheet, who: tuple[str, str], by_state: list[tuple[str, Amounts]], current: str) -> None:
    bases = {basis for _, amounts in by_state for basis in amounts.emissions_grams} | ({current} - {""})
    for basis in sorted(bases):
        for state, amounts in by_state:
            grams = amounts.emissions_grams.get(basis, 0.0)
            sheet.add("tpw_gpu_state_emissions_grams_total", (*who, state, basis), grams)
    if bases:
        unknown = fsum([amounts.unrated_joules for _, amounts in by_state])
        sheet.add("tpw_emissions_unknown_joules_total", who, unknown)


def _hosts(sheet: Sheet, books: Books) -> None:
    for component, account in sorted(books.hosts.items()):
        sheet.add("tpw_host_power_watts", (component,), account.power_watts)
        sheet.add("tpw_host_energy_joules_total", (component,), account.joules)
    if books.gpus:
        sheet.add("tpw_host_share_info", (str(books.host_share.method),), 1.0)


# -------------------------------------------------------------------------------------------------------------- servers


def _server(sheet: Sheet, server: ServerAccount, books: Books, owner: ServerWorkload, *, configured: bool) -> None:
    """Identity, GPUs, tokens and load of the server.

    A server that is no longer configured keeps its counters only. A server without a metrics page here (ranks with their
    counters on another node) has no ``up``.
    """
    name = server.name
    if configured or server.up:
        sheet.add("tpw_server_up", (name,), 1.0 if server.up else 0.0)
    if configured or server.up or server.gpus:
        identity = (name, server.engine, str(server.cadence), server.version, str(server.attribution))
        phase = "" if server.phase is None else str(server.phase)
        belongs = (owner.namespace, owner.workload, owner.kind, owner.pod, owner.container, owner.deployment, phase)
        sheet.add(_SERVER_INFO, identity + belongs, 1.0)
    for account in sorted((books.gpus[uuid] for uuid in server.gpus if uuid in books.gpus), key=_by_index):
        owned = (name, str(account.gpu.index), account.gpu.uuid)
        sheet.add("tpw_server_gpu", owned, 1.0)
        division = account.division
        if division is not None and division.method is not None:
            sheet.add("tpw_server_gpu_share_ratio", (*owned, str(division.method)), division.ratio(name))
            use_is_known = account.sample is not None and account.sample.process_use is not None
            error = share_error_ratio(division, name, use_is_known=use_is_known)
            sheet.add("tpw_server_gpu_share_error_ratio", (name, account.gpu.uuid), error)
    for (model, kind), tokens in sorted(server.tokens.items()):
        sheet.add("tpw_server_tokens_total", (name, model, str(kind)), tokens)
    for (model, tier), tokens in sorted(server.tiers.items()):
        sheet.add("tpw_server_cached_tokens_total", (name, model, str(tier)), tokens)
    for reason, count in sorted(server.anomalies.items()):
        sheet.add("tpw_server_token_anomalies_total", (name, reason), float(count))
    for path, requests in sorted(server.uncounted.items()):
        sheet.add("tpw_server_requests_without_usage_total", (name, path), requests)
    for model, finished in sorted(server.requests.items()):
        sheet.add("tpw_server_requests_total", (name, model), finished)
    for (model, phase), joules in () if server.phases is None else sorted(server.phases.joules.items()):
        sheet.add("tpw_server_phase_energy_joules_total", (name, model, str(phase), METHOD), joules)
    for (model, unit), units in sorted(server.work.items()):
        sheet.add("tpw_server_work_units_total", (name, model, unit), units)
    if server.service is not None and server.service.targets:
        _service(sheet, name, server.service)
    for model, comparison in comparisons(server, books):
        nearest, highest = comparison.nearest, comparison.highest_tokens_per_joule
        if nearest is not None:
            sheet.add("tpw_server_published_tokens_per_watt", (name, model, nearest.source), nearest.tokens_per_joule)
        sheet.add("tpw_server_highest_plausible_tokens_per_watt", (name, model), highest)
    for load in server.loads if server.up else ():
        who = (name, load.model or UNKNOWN_MODEL)
        sheet.add("tpw_server_requests_running", who, load.running)
        sheet.add("tpw_server_requests_waiting", who, load.waiting)


def _service(sheet: Sheet, name: str, service: Service) -> None:
    """Requests within and outside the targets of latency, of each target and of all together."""
    for slo, seconds in service.targets:
        sheet.add("tpw_server_slo_target_seconds", (name, str(slo)), seconds)
    targets = {slo for slo, _ in service.targets}
    for (model, label), outcomes in slo_outcomes(service).items():
        for met, requests in outcomes._asdict().items():
            sheet.add("tpw_server_slo_requests_total", (name, model, label, met), requests)
    for (model, slo), latency in sorted(service.seconds.items()):
        if slo in targets:
            sheet.add("tpw_server_slo_latency_seconds_total", (name, model, str(slo)), latency)


def _server_books(
    sheet: Sheet,
    server: ServerAccount,
    booked: Totals,
    books: Books,
    components: tuple[str, ...],
    bases: tuple[str, ...],
    states: tuple[str, ...],
) -> None:
    """Counters of the server over all its GPUs, for all states of each of its models."""
    name, currency = server.name, books.currency
    models = booked.models.get(name, set())
    gpus = [books.gpus[uuid].gpu for uuid in server.gpus if uuid in books.gpus]
    metered = any(gpu.energy_method is not EnergyMethod.NONE for gpu in gpus)
    # Without a GPU the energy of a model is unknown, not zero: only what was booked is emitted.
    for model in sorted(models.union(server.models) if server.gpus else models):
        measured = (name, model) not in booked.unmeasured if model in models else metered
        for state in states:
            who = (name, model, state)
            amounts = booked.servers.get(who, NOTHING)
            if measured:
                sheet.add("tpw_server_energy_joules_total", who, amounts.joules)
                sheet.add("tpw_server_facility_energy_joules_total", who, amounts.facility_joules)
            for component in components:
                if measured or component != ENERGY:
                    labels = (name, model, state, component, currency)
                    sheet.add("tpw_server_cost_total", labels, amounts.cost.get(component, 0.0))
            if measured and ENERGY in components:
                sheet.add("tpw_server_credit_total", (*who, currency), amounts.credit)
            for basis in bases if measured else ():
                grams = amounts.emissions_grams.get(basis, 0.0)
                sheet.add("tpw_server_emissions_grams_total", (*who, basis), grams)


def _reference_costs(sheet: Sheet, server: ServerAccount, currency: str, references: Sequence[Reference]) -> None:
    """Cost of the server's work elsewhere: by GPU time while it owns GPUs, by tokens for models that it counts."""
    if not currency:
        return
    costs = dict(server.reference_cost)
    timed = server.models if server.gpus else ()
    counted = {model for model, _ in server.tokens} if server.up else set()
    for reference in references:
        for model in timed if reference.price_per_gpu_second is not None else counted:
            costs.setdefault((model, reference.name), 0.0)
    for (model, name), cost in sorted(costs.items()):
        sheet.add("tpw_server_reference_cost_total", (server.name, model, name, currency), cost)


def _ratios(sheet: Sheet, server: ServerAccount, snapshot: Snapshot) -> None:
    currency = snapshot.books.currency
    ratios = live_ratios(server, snapshot.scopes, preliminary_price=snapshot.prices.preliminary)
    if ratios is None:
        return
    name = server.name
    sheet.add("tpw_window_seconds", (name,), ratios.span_seconds)
    for model, values in ratios.models.items():
        for kind, rate in values.tokens_per_second.items():
            sheet.add("tpw_tokens_per_second", (name, model, kind), rate)
        for (kind, boundary), ratio in values.tokens_per_joule.items():
            sheet.add("tpw_tokens_per_watt", (name, model, kind, str(boundary)), ratio)
        for (kind, scope), cost in values.cost_per_token.items():
            sheet.add("tpw_cost_per_token", (name, model, kind, str(scope), currency), cost)
        weights = server.phases.weights if server.phases is not None and server.phases.model == model else None
        if weights is not None:
            sheet.add("tpw_server_phase_energy_error_ratio", (name, model), weights.error_ratio)
            for token, joules in ((TokenKind.INPUT, weights.input_joules), (TokenKind.OUTPUT, weights.output_joules)):
                sheet.add("tpw_phase_energy_joules_per_token", (name, model, str(token)), joules)
                if values.energy_cost_per_joule is not None:
                    cost = joules * values.energy_cost_per_joule
                    sheet.add("tpw_phase_cost_per_token", (name, model, str(token), currency), cost)


def _deployments(sheet: Sheet, snapshot: Snapshot) -> None:
    """Live ratios of several servers that make one service."""
    from tpw.ledger.deployments import live_deployments  # only nodes with deployments pay for it

    books, price = snapshot.books, snapshot.prices.preliminary
    found = live_deployments(books, snapshot.owners, snapshot.scopes, preliminary_price=price)
    for name, deployment in sorted(found.items()):
        sheet.add("tpw_deployment_window_seconds", (name,), deployment.span_seconds)
        ratios = deployment.ratios
        for kind, rate in ratios.tokens_per_second.items():
            sheet.add("tpw_deployment_tokens_per_second", (name, kind), rate)
        for (kind, boundary), ratio in ratios.tokens_per_joule.items():
            sheet.add("tpw_deployment_tokens_per_watt", (name, kind, str(boundary)), ratio)
        for (kind, scope), cost in ratios.cost_per_token.items():
            sheet.add("tpw_deployment_cost_per_token", (name, kind, str(scope), books.currency), cost)
        for phase, share in deployment.energy_shares.items():
            sheet.add("tpw_deployment_energy_share_ratio", (name, str(phase)), share)


# ------------------------------------------------------------------------------------------ money, sources, the exporter


def _money(sheet: Sheet, snapshot: Snapshot) -> None:
    prices = snapshot.prices
    currency = prices.currency
    if currency:
        now = prices.now
        if now is not None and now.state is not PriceState.MISSING:
            sheet.add("tpw_electricity_price_per_kwh", (currency,), now.price_per_kwh)
        state = PriceState.MISSING if now is None else now.state
        sheet.add("tpw_electricity_price_state", (str(state),), 1.0)
        if prices.next is not None:
            sheet.add("tpw_electricity_price_next_change_timestamp_seconds", (), prices.next.start_seconds)
            sheet.add("tpw_electricity_price_next_per_kwh", (currency,), prices.next.price_per_kwh)
        rank = snapshot.price_rank_ratio
        if rank is not None:
            sheet.add("tpw_electricity_price_rank_ratio", (), rank)
    currency = snapshot.books.currency or currency
    for reference in snapshot.references if currency else ():
        for kind, price in reference.price_per_token.items():
            sheet.add("tpw_reference_price_per_token", (reference.name, str(kind), currency), price)
    for component in sorted({*snapshot.components, *((ENERGY,) if prices.currency else ())}) if currency else ():
        sheet.add("tpw_cost_components_info", (component,), 1.0)
    if snapshot.site is not None and snapshot.site.by:
        sheet.add("tpw_site_share_ratio", (snapshot.site.name, snapshot.site.by), snapshot.site.share)
    sheet.add("tpw_facility_pue_ratio", (), snapshot.pue)
    if snapshot.carbon is not None:
        sheet.add("tpw_grid_carbon_grams_per_kwh", (snapshot.carbon.basis,), snapshot.carbon.grams_per_kwh)
    demand = snapshot.demand
    if demand is not None:
        sheet.add("tpw_demand_interval_watts", (), demand.interval_watts)
        sheet.add("tpw_demand_peak_watts", (), demand.peak_watts)
        sheet.add("tpw_demand_price_per_kw_month", (currency,), demand.price_per_kw_month)


def _sources(sheet: Sheet, snapshot: Snapshot) -> None:
    for source in snapshot.sources:
        who = (source.name,)
        sheet.add("tpw_source_up", who, 1.0 if source.up else 0.0)
        sheet.add("tpw_source_read_duration_seconds", who, source.read_duration_seconds)
        sheet.add("tpw_source_last_success_timestamp_seconds", who, source.last_success_wall_seconds)
        sheet.add("tpw_source_reads_total", who, float(source.reads))
        for reason, count in source.failures:
            sheet.add("tpw_source_read_failures_total", (source.name, reason), float(count))


def _exporter(sheet: Sheet, snapshot: Snapshot) -> None:
    sheet.add("tpw_build_info", (__version__, platform.python_version()), 1.0)
    sheet.add("tpw_config_last_reload_successful", (), 1.0 if snapshot.config_reload_successful else 0.0)
    sheet.add("tpw_snapshot_timestamp_seconds", (), snapshot.at.wall_seconds)
    sheet.add("tpw_polls_total", (), float(snapshot.books.polls))
    sheet.add("tpw_polls_skipped_total", (), float(snapshot.books.polls_skipped))
    sheet.add("tpw_poll_lag_seconds", (), snapshot.poll_lag_seconds)
    sheet.add("tpw_store_last_write_timestamp_seconds", (), snapshot.store.written_wall_seconds)
    if snapshot.store.problem is not None:
        sheet.add("tpw_books_writable", (), 0.0 if snapshot.store.problem else 1.0)
    sheet.add("tpw_books_recovered_total", (), float(snapshot.books.recovered))
