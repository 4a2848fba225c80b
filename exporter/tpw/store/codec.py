"""Accounts and amounts to JSON and back.

Only what the next tick needs is stored. Gauges and live windows are not: they start empty with the process. A missing key
reads as its default, so books of an older version open in a newer one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tpw.ledger.amounts import Additive, Amounts, Served
from tpw.ledger.books import (
    Books,
    Correction,
    GpuAccount,
    HostAccount,
    Pending,
    PostingKey,
    Rows,
    ServerAccount,
    SourceAccount,
)
from tpw.ledger.phases import Phases, estimated
from tpw.model import (
    Attribution,
    Cadence,
    EnergyMethod,
    Gpu,
    Latency,
    Phase,
    PowerScope,
    ProcessIdentity,
    Role,
    ServerWorkload,
    Slo,
    SplitMethod,
    State,
    Tier,
    TokenKind,
    Workload,
    WorkloadKind,
)
from tpw.tariff.demand import Demand

if TYPE_CHECKING:
    from tpw.ledger.service import Service

_raw_decode = json.JSONDecoder().raw_decode
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode

_GPU = ("index", "name", "vendor", "architecture", "driver_version", "pci_bus_id", "max_power_watts")
_GPU_ACCOUNT = (
    *("baseline_joules", "baseline_wall_seconds", "mark_joules", "unmetered_seconds", "no_load_watts"),
    *("anomalies", "throttle_seconds", "throttle_raw"),
)
_SERVER_ACCOUNT = (
    "engine",
    "version",
    "since_wall_seconds",
    "address",
    "unread_since_seconds",
    "series",
    "requests",
    "anomalies",
    "seen",
    "uncounted",
)
_CORRECTION = ("at_seconds", "server", "model", "tokens", "reason", "author")
_DEMAND = (
    *("began_seconds", "month_start_seconds", "month_end_seconds", "peak_watts", "peak_at_seconds"),
    *("closed_kw_months", "booked_kw_months", "window_seconds"),
)
"""Fields that are stored under their own name, as they are."""


def _decoded(text: str) -> Any:
    """As ``json.loads``, for what begins and ends without a space: in half the time where a row is short."""
    value, end = _raw_decode(text)
    if end != len(text):
        raise ValueError(f"extra data in a row: {text[end : end + 20]!r}")
    return value


def _known(data: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: data[name] for name in names if name in data}


def _lists(mapping: Mapping[Any, object]) -> list[list[object]]:
    """A mapping with tuples as keys: JSON has none."""
    return [[*key, value] for key, value in mapping.items()]


def dump_key(key: PostingKey) -> tuple[str, str, str, str]:
    """A posting's key as columns: GPU, server, model (or the workload, which has no model), state."""
    workload = key.workload
    what = key.model if workload is None else _encode([workload.kind, workload.name])
    return key.gpu, key.server, what, key.state


@lru_cache(maxsize=4096)
def load_key(gpu: str, server: str, model: str, state: str) -> PostingKey:
    """The key in these columns."""
    if state == State.OTHER and model:
        kind, name = json.loads(model)
        return PostingKey(gpu, server, "", State.OTHER, Workload(WorkloadKind(kind), name))
    return PostingKey(gpu, server, model, State(state))


def dump_quantity(quantity: Additive) -> str:
    """Amounts, or what was served, without zero and empty fields: most fields of most rows are."""
    names, values = quantity.operations.names, quantity.operations.values(quantity)
    return _encode({name: value for name, value in zip(names, values) if value})  # noqa: B905 - every row of every tick


def load_amounts(text: str) -> Amounts:
    """The amounts in ``text``."""
    return Amounts(**_known(_decoded(text), Amounts.operations.names))


def load_served(text: str) -> Served:
    """What was served, from ``text``."""
    known = _known(_decoded(text), Served.operations.names)
    return Served(**{**known, "tokens": {TokenKind(kind): value for kind, value in known.get("tokens", {}).items()}})


def dump_held(held: Rows) -> str:
    """Entries of servers that cannot be read."""
    return _encode(
        [[start, *dump_key(key), dump_quantity(amounts)] for start, row in held.items() for key, amounts in row.items()]
    )


def load_held(text: str) -> Rows:
    """The entries in ``text``."""
    held: dict[float, dict[PostingKey, Amounts]] = {}
    for start, gpu, server, model, state, amounts in json.loads(text):
        held.setdefault(float(start), {})[load_key(gpu, server, model, state)] = load_amounts(amounts)
    return held


def dump_contract(books: Books) -> str:
    """The state of the contract's months and peaks."""
    return _encode(
        {
            "month_kwh": list(books.month_kwh.items()),
            "standing_charges_since_seconds": books.standing_charges_since_seconds,
            "peaks": {
                name: {
                    **{name: getattr(demand, name) for name in _DEMAND},
                    "windows": list(demand.windows.items()),
                    "settled_until_seconds": demand.closed_until_seconds,
                    "earlier_peaks_watts": demand.earlier_peaks_watts,
                }
                for name, demand in books.demand.items()
            },
        }
    )


def load_contract(text: str) -> Books:
    """Books with the state in ``text``, and nothing else in them."""
    data = json.loads(text)
    return Books(
        month_kwh=dict(data.get("month_kwh", [])),
        demand={name: _load_demand(state) for name, state in data.get("peaks", {}).items()},
        # The second name is that of 0.1.0.
        standing_charges_since_seconds=data.get("standing_charges_since_seconds", data.get("standing_since_seconds")),
    )


def _load_demand(state: Mapping[str, Any]) -> Demand:
    return Demand(
        **_known(state, _DEMAND),
        windows=dict(state.get("windows", [])),
        closed_until_seconds=state.get("settled_until_seconds", 0.0),
        earlier_peaks_watts=tuple(state.get("earlier_peaks_watts", [])),
    )


def dump_gpu(account: GpuAccount) -> str:
    """One GPU's account."""
    gpu = account.gpu
    return _encode(
        # Written out: by lists of names, saving takes 5 % longer.
        {
            "index": gpu.index,
            "name": gpu.name,
            "vendor": gpu.vendor,
            "architecture": gpu.architecture,
            "driver_version": gpu.driver_version,
            "pci_bus_id": gpu.pci_bus_id,
            "max_power_watts": gpu.max_power_watts,
            "power_scope": gpu.power_scope,
            "energy_method": gpu.energy_method,
            "baseline_joules": account.baseline_joules,
            "baseline_wall_seconds": account.baseline_wall_seconds,
            "mark_joules": account.mark_joules,
            "no_load_watts": account.no_load_watts,
            "unmetered_seconds": account.unmetered_seconds,
            "anomalies": account.anomalies,
            "throttle_seconds": account.throttle_seconds,
            "throttle_raw": account.throttle_raw,
            "pending": [
                [piece.start_seconds, piece.end_seconds, [[*dump_key(key), weight] for key, weight in piece.shares]]
                for piece in account.pending
            ],
            "away_since_seconds": account.unreported_since_seconds,
            "instance_joules": _lists(account.instance_joules),
        }
    )


def load_gpu(uuid: str, text: str) -> GpuAccount:
    """The account in ``text``: not up until it is read."""
    data = json.loads(text)
    return GpuAccount(
        gpu=Gpu(
            uuid=uuid,
            **_known(data, _GPU),
            power_scope=PowerScope(data.get("power_scope", "gpu")),
            energy_method=EnergyMethod(data.get("energy_method", "counter")),
        ),
        **_known(data, _GPU_ACCOUNT),
        pending=tuple(
            Pending(
                start,
                end,
                tuple((load_key(*key), weight) for *key, weight in shares),
            )
            for start, end, shares in data.get("pending", [])
        ),
        unreported_since_seconds=data.get("away_since_seconds"),
        instance_joules={
            (instance, profile, SplitMethod(method)): joules
            for instance, profile, method, joules in data.get("instance_joules", [])
        },
    )


def dump_server(account: ServerAccount) -> str:
    """One server's account, without its live window."""
    return _encode(
        {
            "engine": account.engine,
            "version": account.version,
            "since_wall_seconds": account.since_wall_seconds,
            "address": account.address,
            "unread_since_seconds": account.unread_since_seconds,
            "series": account.series,
            "requests": account.requests,
            "uncounted": account.uncounted,
            "cadence": account.cadence,
            "attribution": account.attribution,
            "identity": _dump_identity(account.identity),
            "models": account.models,
            "counted": _lists(account.counted),
            "tokens": _lists(account.tokens),
            "work": _lists(account.work),
            "tiers": _lists(account.tiers),
            "reference_cost": _lists(account.reference_cost),
            "anomalies": account.anomalies,
            "seen": account.seen,
            **_dump_phases(account.phases),
            **({} if account.service is None else {"service": _dump_service(account.service)}),
            "belongs": _dump_workload(account.belongs),
        }
    )


def load_server(name: str, text: str) -> ServerAccount:
    """The account in ``text``: not up until it is read."""
    data = json.loads(text)
    return ServerAccount(
        name=name,
        **_known(data, _SERVER_ACCOUNT),
        cadence=Cadence(data.get("cadence", "unknown")),
        attribution=Attribution(data.get("attribution", "none")),
        identity=_load_identity(data.get("identity", "")),
        models=tuple(data.get("models", [])),
        counted={(model, Role(role)): value for model, role, value in data.get("counted", [])},
        tokens={(model, TokenKind(kind)): value for model, kind, value in data.get("tokens", [])},
        work={(model, unit): value for model, unit, value in data.get("work", [])},
        tiers={(model, Tier(tier)): value for model, tier, value in data.get("tiers", [])},
        reference_cost={(model, reference): value for model, reference, value in data.get("reference_cost", [])},
        phases=_load_phases(data.get("phases")),
        service=_load_service(data["service"]) if "service" in data else None,
        belongs=_load_workload(data.get("belongs", {})),
    )


def _dump_phases(phases: Phases | None) -> dict[str, object]:
    if phases is None:
        return {}
    return {"phases": {"model": phases.model, "moments": phases.moments, "joules": _lists(phases.joules)}}


def _load_phases(data: Mapping[str, Any] | None) -> Phases | None:
    if data is None:
        return None
    joules = {(model, Phase(phase)): value for model, phase, value in data["joules"]}
    moments = tuple(data["moments"])
    return Phases(data["model"], joules, moments, weights=estimated(moments))


def _dump_service(service: Service) -> dict[str, object]:
    return {
        "targets": service.targets,
        "raw": [
            [key, value.within, value.at_most, value.requests, value.seconds] for key, value in service.raw.items()
        ],
        "outcomes": _lists(service.outcomes),
        "seconds": _lists(service.seconds),
        "joint": [
            [model, joint.booked, joint.begun, list(joint.start.items()), joint.unpaired]
            for model, joint in service.joint.items()
        ],
    }


def _load_service(data: Mapping[str, Any]) -> Service:
    from tpw.ledger.service import Joint, Outcomes, Service  # only books with targets pay for it

    return Service(
        targets=tuple((Slo(slo), seconds) for slo, seconds in data["targets"]),
        raw={key: Latency(*values) for key, *values in data["raw"]},
        outcomes={(model, Slo(slo)): Outcomes(*values) for model, slo, values in data["outcomes"]},
        seconds={(model, Slo(slo)): value for model, slo, value in data["seconds"]},
        joint={
            model: Joint(
                Outcomes(*booked),
                Outcomes(*begun),
                {Slo(slo): Outcomes(*values) for slo, values in start},
                unpaired,
            )
            for model, booked, begun, start, unpaired in data["joint"]
        },
    )


_WORKLOAD = ("workload", "kind", "namespace", "deployment")


def _dump_workload(workload: ServerWorkload) -> dict[str, object]:
    named = {name: value for name in _WORKLOAD if (value := getattr(workload, name))}
    return {**named, "labels": workload.labels} if workload.labels else named


def _load_workload(data: Mapping[str, Any]) -> ServerWorkload:
    labels = tuple((str(name), str(value)) for name, value in data.get("labels", []))
    return ServerWorkload(**_known(data, _WORKLOAD), labels=labels)


def _dump_identity(identity: ProcessIdentity | None) -> str:
    if identity is None:
        return ""
    kind = "page" if identity.pid is None else f"process:{identity.pid}"
    return f"{kind}:{identity.started_wall_seconds!r}"


def _load_identity(text: str) -> ProcessIdentity | None:
    """None also for a text that no version has written: the next reading is then a baseline."""
    kind, *numbers = text.split(":")
    try:
        if kind == "page":
            return ProcessIdentity(float(numbers[0]))
        return ProcessIdentity(float(numbers[1]), int(numbers[0])) if kind == "process" else None
    except (ValueError, IndexError):
        return None


def dump_host(account: HostAccount) -> str:
    """One host component. Its meter starts anew with the process, so only the total is stored."""
    return _encode({"joules": account.joules})


def load_host(text: str) -> HostAccount:
    """The account in ``text``."""
    return HostAccount(joules=json.loads(text).get("joules", 0.0))


def dump_source(account: SourceAccount) -> str:
    """One source's counts."""
    return _encode({"reads": account.reads, "failures": account.failures})


def load_source(text: str) -> SourceAccount:
    """The counts in ``text``."""
    data = json.loads(text)
    return SourceAccount(reads=data.get("reads", 0), failures=data.get("failures", {}))


def dump_correction(correction: Correction) -> str:
    """One entry of an operator; its moment is the key."""
    return _encode({**{name: getattr(correction, name) for name in _CORRECTION}, "kind": correction.kind})


def load_correction(made: float, text: str) -> Correction:
    """The entry in ``text``."""
    data = json.loads(text)
    return Correction(
        made_seconds=float(made), kind=TokenKind(data["kind"]), **{name: data[name] for name in _CORRECTION}
    )
