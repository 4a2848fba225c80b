"""Snapshot -> metric families: which number stands under which name.

``families`` is a pure function of the snapshot. Everything it fills goes through one :class:`Sheet`, which knows the
catalogue and lets nothing else out. Counters that are sums over postings are rounded once from the exact sum
(``math.fsum``): the order in which the books hold their postings can then not move a counter, not even by the last bit,
which Prometheus would take for a reset.

Absent means unknown: a GPU that does not answer shows no gauges, a server that is down no requests, no currency no cost.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import fsum, isfinite
from typing import NamedTuple

from tpw import __version__
from tpw.exposition.catalogue import CATALOGUE, METRICS, Metric
from tpw.ledger.amounts import NOTHING, Amounts
from tpw.ledger.books import Books, GpuAccount, ServerAccount
from tpw.ledger.window import live_ratios
from tpw.model import UNKNOWN_MODEL, EnergyMethod, PriceState, Reference, State
from tpw.snapshot import Snapshot

Sample = tuple[tuple[str, ...], float]
"""Label values, in the order of the catalogue, and the value."""

DROPPED = "tpw_exposition_dropped_samples_total"

# Label values are plain strings: members of an enum hash by a function in Python, and differently from their text.
_STATES = tuple(str(state) for state in State)
_SERVER_STATES = (str(State.ACTIVE), str(State.PARKED))


class Family(NamedTuple):
    """One metric family with at least one sample."""

    metric: Metric
    samples: list[Sample]


class ExpositionError(ValueError):
    """A sample that must not leave: a bug of ours. Says which metric and what was wrong with it."""


@dataclass(slots=True)
class Drops:
    """Samples left out in production. Owned by whoever keeps the page; only grows."""

    count: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    """The first problem seen, by metric."""

    def add(self, metric: str, problem: str) -> None:
        """Count one sample."""
        self.count += 1
        self.problems.setdefault(metric, problem)


class Sheet(dict[str, list[Sample]]):
    """The one place through which samples leave: names of the catalogue, all labels, finite values.

    ``sheet[name]`` is the list of that metric's samples, to append to.
    """

    __slots__ = ()

    def __missing__(self, name: str) -> list[Sample]:
        samples = self[name] = list[Sample]()
        return samples

    def families(self, drops: Drops | None = None) -> list[Family]:
        """What was filled in, in the order of the catalogue, without empty families.

        Args:
            drops: where to count samples that must not leave. Without it they raise :class:`ExpositionError`.
        """
        for name in self.keys() - METRICS.keys():
            for _ in self[name]:
                _refuse(drops, name, "is not in the catalogue")
        result = []
        for metric in CATALOGUE:
            samples = self.get(metric.name)
            if not samples:
                continue
            width = len(metric.labels)
            if drops is None and len({labels for labels, _ in samples}) != len(samples):
                raise ExpositionError(f"{metric.name} has two samples with the same labels")
            # What is not finite has no difference from itself: this is isfinite() without a call for each.
            unsound = [labels for labels, value in samples if len(labels) != width or value - value != 0.0]
            if unsound:
                samples = [sample for sample in samples if _sound(metric, sample, drops)]
            if samples:
                result.append(Family(metric, samples))
        return result


def _sound(metric: Metric, sample: Sample, drops: Drops | None) -> bool:
    labels, value = sample
    if len(labels) != len(metric.labels):
        _refuse(drops, metric.name, f"has {len(labels)} label values {labels!r} for the labels {metric.labels!r}")
        return False
    if not isfinite(value):
        _refuse(drops, metric.name, f"is {value!r} at {labels!r}")
        return False
    return True


def _refuse(drops: Drops | None, name: str, problem: str) -> None:
    if drops is None:
        raise ExpositionError(f"{name} {problem}")
    drops.add(name, problem)


def families(snapshot: Snapshot, drops: Drops | None = None) -> list[Family]:
    """Everything the snapshot can tell, in the order of the catalogue.

    Args:
        snapshot: one tick.
        drops: for production: counts what had to be left out, and is shown as a metric of its own. Without it a sample
            that must not leave raises :class:`ExpositionError`.
    """
    sheet = Sheet()
    books = snapshot.books
    accounts = sorted(books.gpus.values(), key=_by_index)
    sums = Sums.of(books)
    energy_priced = snapshot.energy_priced
    # A counter must be seen at zero before it grows, or its first increment is in no rate: what is sure to be booked is
    # shown from the start.
    components = sums.components.union(snapshot.components, ("energy",) if energy_priced else ())
    ordered = tuple(sorted(components)) if books.currency else ()
    basis = "" if snapshot.carbon is None else snapshot.carbon.basis
    bases = tuple(sorted({*sums.bases, basis} - {""}))
    for account in accounts:
        _gpu(sheet, account)
        _gpu_books(sheet, account, sums, books.currency, ordered, basis)
    _hosts(sheet, books)
    watched = {source.name[7:] for source in snapshot.sources if source.name.startswith("server:")}
    for name in sorted(books.servers):
        server = books.servers[name]
        _server(sheet, server, books, watched=name in watched)
        _server_books(sheet, server, sums, books, ordered, bases)
        _reference_costs(sheet, server, books.currency, snapshot.references)
        _ratios(sheet, server, books.currency if energy_priced else "")
    _money(sheet, snapshot)
    _sources(sheet, snapshot)
    _exporter(sheet, snapshot)
    if drops is not None:
        sheet[DROPPED].append(((), float(drops.count)))
    return sheet.families(drops)


def _by_index(account: GpuAccount) -> tuple[int, str]:
    return account.gpu.index, account.gpu.uuid


# ------------------------------------------------------------------------------------------------------------- postings


@dataclass(frozen=True, slots=True)
class Sums:
    """The postings, summed as the metrics show them."""

    gpus: Mapping[tuple[str, str], Amounts]
    """By (uuid, state)."""
    servers: Mapping[tuple[str, str, str], Amounts]
    """By (server, model, state)."""
    models: Mapping[str, set[str]]
    """Models for which something was booked, by server."""
    components: frozenset[str]
    """Every cost component that was ever booked."""
    bases: tuple[str, ...]
    """Every basis of emissions that was ever booked."""
    unmeasured: frozenset[tuple[str, str]]
    """(server, model) all of whose postings are on boards that report no energy."""

    @classmethod
    def of(cls, books: Books) -> Sums:
        """The sums of the books' postings."""
        gpus: dict[tuple[str, str], list[Amounts]] = {}
        servers: dict[tuple[str, str, str], list[Amounts]] = {}
        models: dict[str, set[str]] = {}
        components: set[str] = set()
        bases: set[str] = set()
        measured: set[tuple[str, str]] = set()
        mute = {uuid for uuid, account in books.gpus.items() if account.gpu.energy_method is EnergyMethod.NONE}
        for key, amounts in books.postings.items():
            gpu, server, model, state = *key[:3], str(key.state)
            gpus.setdefault((gpu, state), []).append(amounts)
            components.update(amounts.cost)
            bases.update(amounts.emissions_grams)
            if server:
                servers.setdefault((server, model, state), []).append(amounts)
                models.setdefault(server, set()).add(model)
                if amounts.joules > 0.0 or gpu not in mute:
                    measured.add((server, model))
        unmeasured = frozenset((server, model) for server, model, _ in servers if (server, model) not in measured)
        return cls(
            {key: Amounts.total(parts) for key, parts in gpus.items()},
            {key: Amounts.total(parts) for key, parts in servers.items()},
            models,
            frozenset(components),
            tuple(sorted(bases)),
            unmeasured,
        )


# ----------------------------------------------------------------------------------------------------------------- GPUs


def _gpu(sheet: Sheet, account: GpuAccount) -> None:
    """What the board is, and its gauges while it answers."""
    gpu = account.gpu
    who = (str(gpu.index), gpu.uuid)
    sheet["tpw_gpu_info"].append(
        (
            (
                *who,
                gpu.name,
                gpu.vendor,
                gpu.architecture,
                gpu.driver_version,
                str(gpu.power_scope),
                str(account.method),
            ),
            1.0,
        )
    )
    sheet["tpw_gpu_up"].append((who, 1.0 if account.up else 0.0))
    if account.calibration is not None:
        sheet["tpw_gpu_calibration_gain_ratio"].append((who, account.calibration.gain))
        sheet["tpw_gpu_calibration_offset_watts"].append((who, account.calibration.offset_watts))
    sample = account.sample
    if not account.up or sample is None:
        return
    for name, value in (
        ("tpw_gpu_power_watts", sample.power_watts),
        ("tpw_gpu_power_limit_watts", sample.power_limit_watts),
        ("tpw_gpu_power_smoothing_floor_watts", sample.power_floor_watts),
        ("tpw_gpu_utilization_ratio", sample.utilization_ratio),
        ("tpw_gpu_memory_used_bytes", sample.memory_used_bytes),
        ("tpw_gpu_memory_total_bytes", sample.memory_total_bytes),
        ("tpw_gpu_temperature_celsius", sample.temperature_celsius),
    ):
        if value is not None:
            sheet[name].append((who, value))


def _gpu_books(
    sheet: Sheet, account: GpuAccount, sums: Sums, currency: str, components: tuple[str, ...], basis: str
) -> None:
    """What was booked for the board. All states are there from the start, so that no first increment is lost."""
    gpu = account.gpu
    index, uuid = who = (str(gpu.index), gpu.uuid)
    by_state = [(state, sums.gpus.get((uuid, state), NOTHING)) for state in _STATES]
    joules = [amounts.joules for _, amounts in by_state]
    measured = gpu.energy_method is not EnergyMethod.NONE or any(joules)
    if measured:
        # The total is the sum of the states as shown, in their order: law 1 holds to the last bit. (Not sum(): what that
        # does to floats depends on the version of Python.)
        active, parked, idle = joules
        sheet["tpw_gpu_energy_joules_total"].append((who, active + parked + idle))
        state_energy = sheet["tpw_gpu_state_energy_joules_total"]
        state_facility = sheet["tpw_gpu_state_facility_energy_joules_total"]
        for state, amounts in by_state:
            state_energy.append(((index, uuid, state), amounts.joules))
            state_facility.append(((index, uuid, state), amounts.facility_joules))
    state_seconds = sheet["tpw_gpu_state_seconds_total"]
    for state, amounts in by_state:
        state_seconds.append(((index, uuid, state), amounts.seconds))
    for component in components:
        if component == "energy" and not measured:
            continue
        state_cost = sheet["tpw_gpu_state_cost_total"]
        for state, amounts in by_state:
            state_cost.append(((index, uuid, state, component, currency), amounts.cost.get(component, 0.0)))
    if measured and "energy" in components:
        state_credit = sheet["tpw_gpu_state_credit_total"]
        for state, amounts in by_state:
            state_credit.append(((index, uuid, state, currency), amounts.credit))
        unpriced = fsum([amounts.unpriced_joules for _, amounts in by_state])
        sheet["tpw_energy_unpriced_joules_total"].append((who, unpriced))
        late = fsum([amounts.late_priced_joules for _, amounts in by_state])
        # From 0 on: late prices come by hours at once, and a series that begins with them shows no rise.
        sheet["tpw_energy_late_priced_joules_total"].append((who, late))
    _gpu_emissions(sheet, who, by_state, basis if measured else "")
    sheet["tpw_gpu_unmetered_seconds_total"].append((who, account.unmetered_seconds))
    for reason, count in sorted(account.anomalies.items()):
        sheet["tpw_gpu_energy_anomalies_total"].append(((index, uuid, reason), float(count)))
    if account.division is not None:
        here = {(part.instance, part.profile) for part in account.division.parts}
        for (instance, profile, method), estimate in sorted(account.instance_joules.items()):
            if (instance, profile) in here:
                labels = (index, uuid, instance, profile, str(method))
                sheet["tpw_gpu_instance_estimated_energy_joules_total"].append((labels, estimate))
    for reason, seconds in sorted(account.throttle_seconds.items()):
        sheet["tpw_gpu_throttle_seconds_total"].append(((index, uuid, reason), seconds))


def _gpu_emissions(sheet: Sheet, who: tuple[str, str], by_state: list[tuple[str, Amounts]], current: str) -> None:
    bases = {basis for _, amounts in by_state for basis in amounts.emissions_grams}
    if current:
        bases.add(current)
    for basis in sorted(bases):
        for state, amounts in by_state:
            grams = amounts.emissions_grams.get(basis, 0.0)
            sheet["tpw_gpu_state_emissions_grams_total"].append(((*who, state, basis), grams))
    if bases:
        unknown = fsum([amounts.unrated_joules for _, amounts in by_state])
        sheet["tpw_emissions_unknown_joules_total"].append((who, unknown))


def _hosts(sheet: Sheet, books: Books) -> None:
    for component, account in sorted(books.hosts.items()):
        if account.power_watts is not None:
            sheet["tpw_host_power_watts"].append(((component,), account.power_watts))
        sheet["tpw_host_energy_joules_total"].append(((component,), account.joules))
    if books.gpus:
        sheet["tpw_host_share_info"].append(((str(books.host_share.method),), 1.0))


# -------------------------------------------------------------------------------------------------------------- servers


def _server(sheet: Sheet, server: ServerAccount, books: Books, *, watched: bool) -> None:
    """What the server is, what it owns and what it is doing.

    A server that is not watched any more (taken out of the configuration) keeps its counters only; one that was never
    read (ranks whose counters are elsewhere) has no ``up``, because nothing was ever tried.
    """
    name = server.name
    if watched or server.up:
        sheet["tpw_server_up"].append(((name,), 1.0 if server.up else 0.0))
    if watched or server.up or server.gpus:
        sheet["tpw_server_info"].append(
            ((name, server.engine, str(server.cadence), server.version, str(server.attribution)), 1.0)
        )
    owned = sorted((books.gpus[uuid] for uuid in server.gpus if uuid in books.gpus), key=_by_index)
    for account in owned:
        who_owns = (name, str(account.gpu.index), account.gpu.uuid)
        sheet["tpw_server_gpu"].append((who_owns, 1.0))
        division = account.division
        if division is not None and division.method is not None:
            share = (*who_owns, str(division.method))
            sheet["tpw_server_gpu_share_ratio"].append((share, division.ratio(name)))
    for (model, kind), tokens in sorted(server.tokens.items()):
        sheet["tpw_server_tokens_total"].append(((name, model, str(kind)), tokens))
    for model, finished in sorted(server.requests.items()):
        sheet["tpw_server_requests_total"].append(((name, model), finished))
    for (model, unit), units in sorted(server.work.items()):
        sheet["tpw_server_work_units_total"].append(((name, model, unit), units))
    if server.up:
        for load in server.loads:
            who = (name, load.model or UNKNOWN_MODEL)
            if load.running is not None:
                sheet["tpw_server_requests_running"].append((who, load.running))
            if load.waiting is not None:
                sheet["tpw_server_requests_waiting"].append((who, load.waiting))


def _server_books(
    sheet: Sheet, server: ServerAccount, sums: Sums, books: Books, components: tuple[str, ...], bases: tuple[str, ...]
) -> None:
    """What was booked for the server, over all its GPUs; both states from the start for every model it has."""
    name, currency = server.name, books.currency
    booked = sums.models.get(name, set())
    boards = [books.gpus[uuid].gpu for uuid in server.gpus if uuid in books.gpus]
    metered = any(board.energy_method is not EnergyMethod.NONE for board in boards)
    # Without a GPU nothing is known of its energy, so nothing is shown: it is not zero.
    models = sorted(booked.union(server.models) if server.gpus else booked)
    for model in models:
        measured = (name, model) not in sums.unmeasured if model in booked else metered
        for state in _SERVER_STATES:
            who = (name, model, state)
            amounts = sums.servers.get(who, NOTHING)
            if measured:
                sheet["tpw_server_energy_joules_total"].append((who, amounts.joules))
                sheet["tpw_server_facility_energy_joules_total"].append((who, amounts.facility_joules))
            for component in components:
                if measured or component != "energy":
                    cost = amounts.cost.get(component, 0.0)
                    sheet["tpw_server_cost_total"].append(((name, model, state, component, currency), cost))
            if measured and "energy" in components:
                sheet["tpw_server_credit_total"].append(((name, model, state, currency), amounts.credit))
            for basis in bases if measured else ():
                grams = amounts.emissions_grams.get(basis, 0.0)
                sheet["tpw_server_emissions_grams_total"].append(((name, model, state, basis), grams))


def _reference_costs(sheet: Sheet, server: ServerAccount, currency: str, references: tuple[Reference, ...]) -> None:
    """What the server's work would have cost elsewhere: of GPU time while it has GPUs, of tokens where it counts any."""
    if not currency:
        return
    costs = dict(server.reference_cost)
    timed = server.models if server.gpus else ()
    counted = {model for model, _ in server.tokens} if server.up else set()
    for reference in references:
        for model in timed if reference.price_per_gpu_second is not None else counted:
            costs.setdefault((model, reference.name), 0.0)
    for (model, name), cost in sorted(costs.items()):
        sheet["tpw_server_reference_cost_total"].append(((server.name, model, name, currency), cost))


def _ratios(sheet: Sheet, server: ServerAccount, currency: str) -> None:
    ratios = live_ratios(server, priced=bool(currency))
    if ratios is None:
        return
    name = server.name
    sheet["tpw_window_seconds"].append(((name,), ratios.span_seconds))
    for model, of in ratios.models.items():
        for kind, rate in of.tokens_per_second.items():
            sheet["tpw_tokens_per_second"].append(((name, model, kind), rate))
        for (kind, boundary), ratio in of.tokens_per_joule.items():
            sheet["tpw_tokens_per_watt"].append(((name, model, kind, str(boundary)), ratio))
        for (kind, scope), cost in of.cost_per_token.items():
            sheet["tpw_cost_per_token"].append(((name, model, kind, str(scope), currency), cost))


# ------------------------------------------------------------------------------------------ money, sources, the exporter


def _money(sheet: Sheet, snapshot: Snapshot) -> None:
    prices = snapshot.prices
    currency = prices.currency
    if currency:
        now = prices.now
        if now is not None and now.state is not PriceState.MISSING:
            sheet["tpw_electricity_price_per_kwh"].append(((currency,), now.price_per_kwh))
        state = PriceState.MISSING if now is None else now.state
        sheet["tpw_electricity_price_state"].append(((str(state),), 1.0))
        if prices.next is not None:
            sheet["tpw_electricity_price_next_change_timestamp_seconds"].append(((), prices.next.start_seconds))
            sheet["tpw_electricity_price_next_per_kwh"].append(((currency,), prices.next.price_per_kwh))
    currency = snapshot.books.currency or currency
    if currency:
        for reference in snapshot.references:
            for kind, price in reference.price_per_token.items():
                sheet["tpw_reference_price_per_token"].append(((reference.name, str(kind), currency), price))
    sheet["tpw_facility_pue_ratio"].append(((), snapshot.pue))
    if snapshot.carbon is not None:
        sheet["tpw_grid_carbon_grams_per_kwh"].append(((snapshot.carbon.basis,), snapshot.carbon.grams_per_kwh))
    demand = snapshot.demand
    if demand is not None:
        if demand.interval_watts is not None:
            sheet["tpw_demand_interval_watts"].append(((), demand.interval_watts))
        sheet["tpw_demand_peak_watts"].append(((), demand.peak_watts))
        sheet["tpw_demand_price_per_kw_month"].append(((currency,), demand.price_per_kw_month))


def _sources(sheet: Sheet, snapshot: Snapshot) -> None:
    for source in snapshot.sources:
        who = (source.name,)
        sheet["tpw_source_up"].append((who, 1.0 if source.up else 0.0))
        if source.read_duration_seconds is not None:
            sheet["tpw_source_read_duration_seconds"].append((who, source.read_duration_seconds))
        if source.last_success_wall_seconds is not None:
            sheet["tpw_source_last_success_timestamp_seconds"].append((who, source.last_success_wall_seconds))
        sheet["tpw_source_reads_total"].append((who, float(source.reads)))
        for reason, count in source.failures:
            sheet["tpw_source_read_failures_total"].append(((source.name, reason), float(count)))


def _exporter(sheet: Sheet, snapshot: Snapshot) -> None:
    plain: Iterable[tuple[str, float | None]] = (
        ("tpw_config_last_reload_successful", 1.0 if snapshot.config_reload_successful else 0.0),
        ("tpw_snapshot_timestamp_seconds", snapshot.at.wall_seconds),
        ("tpw_polls_total", float(snapshot.books.polls)),
        ("tpw_polls_skipped_total", float(snapshot.books.polls_skipped)),
        ("tpw_poll_lag_seconds", snapshot.poll_lag_seconds),
        ("tpw_store_last_write_timestamp_seconds", snapshot.store_written_wall_seconds),
    )
    sheet["tpw_build_info"].append(((__version__, platform.python_version()), 1.0))
    for name, value in plain:
        if value is not None:
            sheet[name].append(((), value))
