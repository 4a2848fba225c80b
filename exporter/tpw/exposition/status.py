"""Snapshot -> status: the JSON of ``/api/v1/status``, which the landing page and ``top`` show.

``null`` means unknown, never zero. Keys are added, never renamed. Energy is in joules, time in seconds, money in
``currency``.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import fsum
from typing import TYPE_CHECKING, TypedDict

from tpw import __version__
from tpw.exposition.comparing import comparisons
from tpw.exposition.totals import Totals, listed, slo_outcomes, totals
from tpw.exposition.waste import Waste
from tpw.ledger.accuracy import energy_error_ratio
from tpw.ledger.amounts import NOTHING, Amounts
from tpw.ledger.books import GpuAccount, ServerAccount
from tpw.ledger.share_error import share_error_ratio
from tpw.ledger.window import OUTPUT, TOTAL, ModelRatios, live_ratios
from tpw.model import UNKNOWN_MODEL, WASTED, Boundary, Instant, Phase, PriceState, Scope, State
from tpw.snapshot import Prices, Snapshot

if TYPE_CHECKING:
    from tpw.published.figures import Comparison

_Nested = dict[str, dict[str, float]]

_NO_RATIOS = ModelRatios()


class StateStatus(TypedDict):
    """Totals of one state."""

    seconds: float
    joules: float
    facility_joules: float
    cost: dict[str, float]
    """By component; empty without a price."""
    credit: float
    """What negative prices paid back."""
    unpriced_joules: float
    """Facility joules without a known price so far."""


class CalibrationStatus(TypedDict):
    """The configured correction of a GPU's meter."""

    gain: float
    offset_watts: float


class InstanceStatus(TypedDict):
    """One instance of a partitioned GPU (MIG)."""

    uuid: str
    profile: str
    estimated_share: float
    """Share of the GPU's energy now."""
    method: str
    """gpm or slices."""


class GpuStatus(TypedDict):
    """One GPU."""

    index: int
    uuid: str
    name: str
    vendor: str
    up: bool
    state: str | None
    """active, parked, starting, other, idle; null if the GPU does not answer."""
    owners: list[str]
    power_watts: float | None
    power_limit_watts: float | None
    utilization_ratio: float | None
    memory_used_bytes: float | None
    memory_total_bytes: float | None
    temperature_celsius: float | None
    energy_at: float | None
    """Unix time of the reading up to which its energy is booked: up to a tick before ``at``."""
    energy_method: str
    energy_error_ratio: float | None
    """Stated 95 % bound of its energy; null where the error of the meter is not known."""
    method_note: str
    calibration: CalibrationStatus | None
    """null if none is configured."""
    split_method: str | None
    """How it is shared among its owners: sole, sm, even, gpm, slices; null without an owner."""
    shares: dict[str, float]
    """By owning server."""
    share_error_ratios: dict[str, float]
    """Stated 95 % bound of that share, by owning server; absent where it is not known."""
    workloads: dict[str, float]
    """Shares of what uses it without being a server, by workload."""
    instances: list[InstanceStatus]
    """Empty if the GPU is not partitioned."""
    unmetered_seconds: float
    states: dict[str, StateStatus]


class PublishedStatus(TypedDict):
    """The published figure nearest to a model of a server; null where a condition was not published."""

    tokens_per_watt: float
    """Of output tokens, boundary gpu."""
    gpu: str
    gpus: int | None
    precision: str
    task: str
    input_tokens: int | None
    output_tokens: int | None
    concurrency: float | None
    source: str
    address: str
    date: str
    differences: list[str]
    """Of its conditions from those of the server, in words."""


class LatencyStatus(TypedDict):
    """Requests of a model by whether they met a target of latency, from the engine's histograms."""

    target_seconds: float | None
    """null for all targets together."""
    yes: float
    no: float
    unknown: float
    """The target lies between two bounds of the histogram."""
    total_seconds: float | None
    """Latency of all these requests together; null for all targets together."""


class ModelStatus(TypedDict):
    """One model of a server. Ratios are by kind (output, total), over the server's window."""

    model: str
    tokens: dict[str, float]
    requests: float | None
    running: float | None
    waiting: float | None
    tokens_per_second: dict[str, float]
    tokens_per_watt: dict[str, dict[str, float]]
    """By boundary."""
    cost_per_token: dict[str, dict[str, float]]
    """By scope."""
    watts: dict[str, float]
    """Mean over the window, by boundary."""
    states: dict[str, StateStatus]
    latency: dict[str, LatencyStatus]
    """By target: ttft, tpot, e2e, all. Empty without targets."""
    published: PublishedStatus | None
    """null if none is near."""
    published_note: str
    """Why none is near."""
    highest_plausible_tokens_per_watt: float | None
    """null if unknown."""


class ServerStatus(TypedDict):
    """One inference server."""

    name: str
    state: str
    """active, parked, down (was read before and does not answer now), waiting (not read yet), unread (no metrics page
    here)."""
    up: bool
    engine: str
    version: str
    cadence: str
    attribution: str
    gpus: list[int]
    namespace: str
    workload: str
    workload_kind: str
    deployment: str
    spans_nodes: bool
    """Whether it also uses GPUs of other nodes: their energy is not here."""
    labels: dict[str, str]
    """Allowed labels of its pod, as they are named in metrics."""
    window_seconds: float | None
    models: list[ModelStatus]


class HostStatus(TypedDict):
    """One host component."""

    component: str
    power_watts: float | None
    joules: float


class PriceStatus(TypedDict):
    """The electricity price."""

    per_kwh: float | None
    state: str
    next_at: float | None
    """Unix time."""
    next_per_kwh: float | None


class CarbonStatus(TypedDict):
    """The carbon intensity of the grid."""

    grams_per_kwh: float
    """CO2 equivalent."""
    basis: str


class SiteStatus(TypedDict):
    """The node's part of the site's charges."""

    name: str
    by: str
    """gpu, kw or energy."""
    node: float | None
    total: float | None
    share: float | None
    """null while it is not known."""


class DemandStatus(TypedDict):
    """The demand of the billing month."""

    interval_watts: float | None
    """Mean of the current interval so far; null at its start."""
    peak_watts: float
    price_per_kw_month: float


class SourceEntry(TypedDict):
    """One source."""

    name: str
    up: bool
    tried: bool
    read_duration_seconds: float | None
    last_success: float | None
    reads: int
    failures: dict[str, int]
    detail: str
    hint: str


class ReferenceStatus(TypedDict):
    """The price of the same work elsewhere."""

    name: str
    price_per_gpu_hour: float | None
    price_per_token: dict[str, float]


class PeriodStatus(TypedDict):
    """What was booked since a period began, all servers and idle GPUs together."""

    period: str
    """day, week or month, in the time zone of the tariff."""
    start: float
    """Unix time."""
    end: float
    tokens: dict[str, float]
    joules: float
    facility_joules: float
    unpriced_joules: float
    """Facility energy without a price yet: it is not in the cost."""
    cost: float | None
    """All components, credit subtracted; null without a currency."""
    cost_forecast: float | None
    """By the end of the month, at the pace of the recent days; null while unknown."""


class CorrectionStatus(TypedDict):
    """An entry of an operator, which reports add; counters are as they were booked."""

    at: float
    """Unix time of the use."""
    made: float
    """Unix time of the entry."""
    server: str
    model: str
    kind: str
    tokens: float
    reason: str
    author: str


class Headline(TypedDict):
    """Totals of the machine. Ratios are of output tokens, over all servers with known tokens."""

    tokens_per_second: float | None
    all_tokens_per_second: float | None
    power_watts: float | None
    """Sum over all GPUs that answer."""
    tokens_per_watt: float | None
    cost_per_token: float | None
    """Scope full."""
    energy_cost_per_token: float | None
    wasted_watts: float | None
    """Sum over parked and idle GPUs."""
    wasted_gpus: int
    wasted_cost_per_hour: float | None
    """Cost of parked and idle GPUs, over the last minute."""


class Status(TypedDict):
    """The whole status."""

    version: str
    at: float
    """Unix time of the snapshot."""
    interval_seconds: float
    currency: str | None
    headline: Headline
    price: PriceStatus | None
    """null without a tariff."""
    pue: float
    carbon: CarbonStatus | None
    """null if the intensity is unknown."""
    demand: DemandStatus | None
    """null without a demand charge."""
    site: SiteStatus | None
    """null where this node is the whole site of the contract."""
    gpus: list[GpuStatus]
    hosts: list[HostStatus]
    host_share_method: str
    """node_minus_gpus, components, in_gpus or none."""
    servers: list[ServerStatus]
    sources: list[SourceEntry]
    references: list[ReferenceStatus]
    config_reload_successful: bool
    corrections: list[CorrectionStatus]
    notes: list[str]
    periods: list[PeriodStatus]
    """Empty while the rows of the books cannot be read."""


def status(snapshot: Snapshot, waste: Waste | None = None) -> Status:
    """The status of a snapshot.

    Args:
        snapshot: one tick.
        waste: recent cost of parked and idle GPUs, if known.
    """
    books = snapshot.books
    booked = totals(books)
    owners: dict[str, list[ServerAccount]] = {}
    for server in books.servers.values():
        for uuid in server.gpus:
            owners.setdefault(uuid, []).append(server)
    accounts = sorted(books.gpus.values(), key=lambda account: (account.gpu.index, account.gpu.uuid))
    gpus = [_gpu(account, owners.get(account.gpu.uuid, []), booked, snapshot.at) for account in accounts]
    configured = snapshot.servers_read
    listed_totals, listed_servers = listed(books, booked, snapshot.retired)
    servers = [
        _server(server, snapshot, listed_totals, configured=name in configured)
        for name, server in sorted(listed_servers.items())
        if name in configured or server.up or server.gpus
    ]
    carbon, demand, site = snapshot.carbon, snapshot.demand, snapshot.site
    return Status(
        version=__version__,
        at=snapshot.at.wall_seconds,
        interval_seconds=snapshot.interval_seconds,
        currency=books.currency or snapshot.prices.currency or None,
        headline=_headline(gpus, _counted_once(servers, snapshot), waste),
        price=_price(snapshot.prices),
        pue=snapshot.pue,
        carbon=None if carbon is None else CarbonStatus(grams_per_kwh=carbon.grams_per_kwh, basis=carbon.basis),
        demand=None
        if demand is None
        else DemandStatus(
            interval_watts=demand.interval_watts,
            peak_watts=demand.peak_watts,
            price_per_kw_month=demand.price_per_kw_month,
        ),
        site=None
        if site is None or not site.by
        else SiteStatus(name=site.name, by=site.by, node=site.node, total=site.total, share=site.share),
        gpus=gpus,
        hosts=[
            HostStatus(component=component, power_watts=account.power_watts, joules=account.joules)
            for component, account in sorted(books.hosts.items())
        ],
        host_share_method=str(books.host_share.method),
        servers=servers,
        sources=[
            SourceEntry(
                name=source.name,
                up=source.up,
                tried=source.read_duration_seconds is not None,
                read_duration_seconds=source.read_duration_seconds,
                last_success=source.last_success_wall_seconds,
                reads=source.reads,
                failures=dict(source.failures),
                detail=source.detail,
                hint=source.hint,
            )
            for source in snapshot.sources
        ],
        references=[
            ReferenceStatus(
                name=reference.name,
                price_per_gpu_hour=(
                    None if reference.price_per_gpu_second is None else reference.price_per_gpu_second * 3600.0
                ),
                price_per_token={str(kind): price for kind, price in reference.price_per_token.items()},
            )
            for reference in snapshot.references
        ],
        config_reload_successful=snapshot.config_reload_successful,
        corrections=[
            CorrectionStatus(
                at=one.at_seconds,
                made=one.made_seconds,
                server=one.server,
                model=one.model,
                kind=str(one.kind),
                tokens=one.tokens,
                reason=one.reason,
                author=one.author,
            )
            for one in books.corrections
        ],
        notes=[*snapshot.notes, *((site.sentence,) if site is not None and site.sentence else ())],
        periods=_periods(snapshot),
    )


def _periods(snapshot: Snapshot) -> list[PeriodStatus]:
    if snapshot.periods is None:
        return []
    to_date, currency = snapshot.periods.to_date(snapshot.books), snapshot.books.currency
    found = []
    for period, sums in to_date.periods.items():
        booked = Amounts.total(sums.used.values())
        costs = [one.cost for _, one in to_date.forecasts(period) if one.cost is not None] if period == "month" else []
        tokens: dict[str, float] = {}
        for work in sums.served.values():
            for kind, count in work.tokens.items():
                tokens[str(kind)] = tokens.get(str(kind), 0.0) + count
        found.append(
            PeriodStatus(
                period=period,
                start=sums.start_seconds,
                end=sums.end_seconds,
                tokens=tokens,
                joules=booked.joules,
                facility_joules=booked.facility_joules,
                unpriced_joules=booked.unpriced_joules if snapshot.energy_priced else 0.0,
                cost=booked.net_cost if currency else None,
                cost_forecast=fsum(costs) if costs and currency else None,
            )
        )
    return found


_PRECEDENCE = (State.ACTIVE, State.STARTING, State.OTHER, State.PARKED, State.PLANNED_OFF, State.IDLE)


def state_now(account: GpuAccount) -> State | None:
    """State of a GPU at the last tick; None if it does not answer. If several share it, the first of these states that one
    of them is in: a GPU on which one server works is active."""
    if not account.up:
        return None
    found = {key.state for key, _ in account.division.shares} if account.division is not None else set[State]()
    return next((state for state in _PRECEDENCE if state in found), State.IDLE)


def _gpu(account: GpuAccount, owners: list[ServerAccount], booked: Totals, at: Instant) -> GpuStatus:
    gpu, sample = account.gpu, account.sample if account.up else None
    state = state_now(account)
    division = account.division
    return GpuStatus(
        index=gpu.index,
        uuid=gpu.uuid,
        name=gpu.name,
        vendor=gpu.vendor,
        up=account.up,
        state=None if state is None else str(state),
        owners=sorted(server.name for server in owners),
        power_watts=sample.power_watts if sample else None,
        power_limit_watts=sample.power_limit_watts if sample else None,
        utilization_ratio=sample.utilization_ratio if sample else None,
        memory_used_bytes=sample.memory_used_bytes if sample else None,
        memory_total_bytes=sample.memory_total_bytes if sample else None,
        temperature_celsius=sample.temperature_celsius if sample else None,
        energy_at=None
        if account.baseline_at_seconds is None
        else at.wall_seconds - (at.monotonic_seconds - account.baseline_at_seconds),
        energy_method=str(account.method),
        energy_error_ratio=energy_error_ratio(account) if account.up else None,
        method_note=gpu.method_note,
        calibration=None
        if account.calibration is None
        else CalibrationStatus(gain=account.calibration.gain, offset_watts=account.calibration.offset_watts),
        split_method=None if division is None or division.method is None else str(division.method),
        shares={} if division is None else {server.name: division.ratio(server.name) for server in owners},
        share_error_ratios=_share_errors(account, owners),
        workloads={} if division is None else division.workloads(),
        instances=[
            InstanceStatus(
                uuid=part.instance, profile=part.profile, estimated_share=part.weight, method=str(part.method)
            )
            for part in (division.parts if division else ())
        ],
        unmetered_seconds=account.unmetered_seconds,
        states={str(state): _state(booked.gpus.get((gpu.uuid, str(state)), NOTHING)) for state in State},
    )


def _share_errors(account: GpuAccount, owners: list[ServerAccount]) -> dict[str, float]:
    if account.division is None:
        return {}
    is_known = account.sample is not None and account.sample.process_use is not None
    ratios = {server.name: share_error_ratio(account.division, server.name, use_is_known=is_known) for server in owners}
    return {name: ratio for name, ratio in ratios.items() if ratio is not None}


def _state(amounts: Amounts) -> StateStatus:
    return StateStatus(
        seconds=amounts.seconds,
        joules=amounts.joules,
        facility_joules=amounts.facility_joules,
        cost=dict(sorted(amounts.cost.items())),
        credit=amounts.credit,
        unpriced_joules=max(0.0, amounts.unpriced_joules - amounts.late_priced_joules),
    )


def _server(server: ServerAccount, snapshot: Snapshot, booked: Totals, *, configured: bool) -> ServerStatus:
    books = snapshot.books
    ratios = live_ratios(server, snapshot.scopes, preliminary_price=snapshot.prices.preliminary)
    owner = snapshot.owners.get(server.name, server.belongs)
    counted = {model for model, _ in server.tokens}
    compared = dict(comparisons(server, books))
    models = sorted(counted.union(server.models, booked.models.get(server.name, ()))) or [UNKNOWN_MODEL]
    if server.up:
        state = "active" if server.active else "parked"
    elif server.engine:
        state = "down"
    else:
        state = "waiting" if configured else "unread"
    return ServerStatus(
        name=server.name,
        state=state,
        up=server.up,
        engine=server.engine,
        version=server.version,
        cadence=str(server.cadence),
        attribution=str(server.attribution),
        gpus=sorted(books.gpus[uuid].gpu.index for uuid in server.gpus if uuid in books.gpus),
        namespace=owner.namespace,
        workload=owner.workload,
        workload_kind=owner.kind,
        deployment=owner.deployment,
        spans_nodes=bool(server.window) and not server.window[-1].single_node,
        labels=dict(owner.labels),
        window_seconds=ratios.span_seconds if ratios else None,
        models=[
            _model(
                server,
                model,
                booked,
                ratios.models.get(model, _NO_RATIOS) if ratios else _NO_RATIOS,
                compared.get(model),
            )
            for model in models
        ],
    )


def _latency(server: ServerAccount, model: str) -> dict[str, LatencyStatus]:
    service = server.service
    if service is None or not service.targets:
        return {}
    targets = {str(slo): seconds for slo, seconds in service.targets}
    totals = {str(slo): seconds for (name, slo), seconds in service.seconds.items() if name == model}
    return {
        slo: LatencyStatus(
            target_seconds=targets.get(slo),
            yes=outcomes.yes,
            no=outcomes.no,
            unknown=outcomes.unknown,
            total_seconds=totals.get(slo),
        )
        for (name, slo), outcomes in slo_outcomes(service).items()
        if name == model
    }


def _published(comparison: Comparison | None) -> PublishedStatus | None:
    if comparison is None or comparison.nearest is None:
        return None
    from tpw.published.figures import SOURCES

    row, source = comparison.nearest, SOURCES[comparison.nearest.source]
    return PublishedStatus(
        tokens_per_watt=row.tokens_per_joule,
        gpu=row.gpu,
        gpus=row.gpus,
        precision=row.precision,
        task=row.task,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        concurrency=row.concurrency,
        source=source.title,
        address=source.address,
        date=source.date,
        differences=list(comparison.differences),
    )


def _model(
    server: ServerAccount, model: str, booked: Totals, ratios: ModelRatios, comparison: Comparison | None
) -> ModelStatus:
    load = next((load for load in server.loads if (load.model or UNKNOWN_MODEL) == model), None) if server.up else None
    return ModelStatus(
        model=model,
        tokens={str(kind): tokens for (name, kind), tokens in server.tokens.items() if name == model},
        requests=server.requests.get(model),
        running=load.running if load else None,
        waiting=load.waiting if load else None,
        tokens_per_second=dict(ratios.tokens_per_second),
        tokens_per_watt=_nested(ratios.tokens_per_joule),
        cost_per_token=_nested(ratios.cost_per_token),
        watts={str(boundary): value for boundary, value in ratios.watts.items()},
        states={
            str(state): _state(booked.servers.get((server.name, model, str(state)), NOTHING))
            for state in (State.ACTIVE, State.PARKED, State.STARTING, State.PLANNED_OFF)
        },
        latency=_latency(server, model),
        published=_published(comparison),
        published_note="" if comparison is None else comparison.reason,
        highest_plausible_tokens_per_watt=None if comparison is None else comparison.highest_tokens_per_joule,
    )


def _nested(values: Mapping[tuple[str, Boundary], float] | Mapping[tuple[str, Scope], float]) -> _Nested:
    """Values by (kind, boundary or scope) as values by boundary or scope, and kind."""
    nested: _Nested = {}
    for (kind, outer), value in values.items():
        nested.setdefault(str(outer), {})[kind] = value
    return nested


def _price(prices: Prices) -> PriceStatus | None:
    if not prices.currency:
        return None
    now = prices.now
    known = now is not None and now.state is not PriceState.MISSING
    return PriceStatus(
        per_kwh=now.price_per_kwh if now is not None and known else None,
        state=str(now.state if now is not None else PriceState.MISSING),
        next_at=prices.next.start_seconds if prices.next else None,
        next_per_kwh=prices.next.price_per_kwh if prices.next else None,
    )


def _counted_once(servers: list[ServerStatus], snapshot: Snapshot) -> list[ServerStatus]:
    """The servers without the routers in front of them."""
    if not any(account.phase is Phase.ROUTER for account in snapshot.books.servers.values()):
        return servers
    from tpw.ledger.deployments import routers

    routed = routers(snapshot.books, snapshot.owners)
    return [server for server in servers if server["name"] not in routed]


def _headline(gpus: list[GpuStatus], servers: list[ServerStatus], waste: Waste | None) -> Headline:
    models = [model for server in servers for model in server["models"]]
    powers = [gpu["power_watts"] for gpu in gpus if gpu["power_watts"] is not None]
    wasted = [gpu for gpu in gpus if gpu["state"] in WASTED]
    wasted_powers = [gpu["power_watts"] for gpu in wasted if gpu["power_watts"] is not None]
    return Headline(
        tokens_per_second=_total([model["tokens_per_second"].get(OUTPUT) for model in models]),
        all_tokens_per_second=_total([model["tokens_per_second"].get(TOTAL) for model in models]),
        power_watts=fsum(powers) if powers else None,
        tokens_per_watt=_tokens_per_watt(models),
        cost_per_token=_cost_per_token(models, Scope.FULL),
        energy_cost_per_token=_cost_per_token(models, Scope.ENERGY),
        wasted_watts=fsum(wasted_powers) if wasted_powers else None,
        wasted_gpus=len(wasted),
        wasted_cost_per_hour=waste.cost_per_hour if waste else None,
    )


def _total(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fsum(known) if known else None


def _tokens_per_watt(models: list[ModelStatus]) -> float | None:
    """Output tokens per second of all models with a ratio, per watt of their GPUs."""
    both = [
        (model["tokens_per_second"][OUTPUT], model["watts"][Boundary.GPU])
        for model in models
        if OUTPUT in model["tokens_per_watt"].get(Boundary.GPU, {})
    ]
    power = fsum(power for _, power in both)
    return fsum(rate for rate, _ in both) / power if power > 0.0 else None


def _cost_per_token(models: list[ModelStatus], scope: Scope) -> float | None:
    """The mean over models, weighted by their output tokens."""
    priced = [
        (model["tokens_per_second"][OUTPUT], model["cost_per_token"][scope][OUTPUT])
        for model in models
        if OUTPUT in model["cost_per_token"].get(scope, {})
    ]
    rate = fsum(rate for rate, _ in priced)
    return fsum(rate * cost for rate, cost in priced) / rate if rate > 0.0 else None
