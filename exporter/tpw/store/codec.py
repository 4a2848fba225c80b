"""Accounts and postings to JSON and back.

Only what the next tick needs is kept: gauges and live windows are not, they begin anew with the process. A key that is
not there reads as its default, so books of an older version open in a newer one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tpw.ledger.amounts import Additive, Amounts, Served
from tpw.ledger.books import (
    Books,
    GpuAccount,
    HostAccount,
    Pending,
    PostingKey,
    ServerAccount,
    SourceAccount,
)
from tpw.model import (
    Attribution,
    Cadence,
    EnergyMethod,
    Gpu,
    PowerScope,
    ProcessIdentity,
    Role,
    SplitMethod,
    State,
    TokenKind,
)
from tpw.tariff.demand import Demand

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode


def dump_quantity(quantity: Additive) -> str:
    """Amounts, or what was served, without what is zero or empty: most fields of most rows are."""
    fields_of = quantity.operations
    return _encode(
        {name: value for name, value in zip(fields_of.names, fields_of.values(quantity), strict=True) if value}
    )


def load_amounts(text: str) -> Amounts:
    """The amounts in ``text``."""
    return Amounts(**_known(Amounts, text))


def load_served(text: str) -> Served:
    """What was served, from ``text``."""
    known = _known(Served, text)
    return Served(**{**known, "tokens": {TokenKind(kind): value for kind, value in known.get("tokens", {}).items()}})


def _known(kind: type[Additive], text: str) -> dict[str, Any]:
    data = json.loads(text)
    return {name: data[name] for name in kind.operations.names if name in data}


def dump_contract(books: Books) -> str:
    """What the contract's months and peaks have come to."""
    return _encode(
        {
            "month_kwh": [[start, kwh] for start, kwh in books.month_kwh.items()],
            "standing_since_seconds": books.standing_charges_since_seconds,
            "peaks": {
                name: {
                    "began_seconds": demand.began_seconds,
                    "month_start_seconds": demand.month_start_seconds,
                    "month_end_seconds": demand.month_end_seconds,
                    "peak_watts": demand.peak_watts,
                    "peak_at_seconds": demand.peak_at_seconds,
                    "windows": [[start, joules] for start, joules in demand.windows.items()],
                    "settled_until_seconds": demand.closed_until_seconds,
                    "earlier_peaks_watts": demand.earlier_peaks_watts,
                    "closed_kw_months": demand.closed_kw_months,
                    "booked_kw_months": demand.booked_kw_months,
                    "window_seconds": demand.window_seconds,
                }
                for name, demand in books.demand.items()
            },
        }
    )


def load_contract(text: str) -> Books:
    """Books with what ``text`` says, and nothing else in them."""
    data = json.loads(text)
    return Books(
        month_kwh=dict(data.get("month_kwh", [])),
        demand={name: _load_demand(state) for name, state in data.get("peaks", {}).items()},
        standing_charges_since_seconds=data.get("standing_since_seconds"),
    )


def _load_demand(state: Mapping[str, Any]) -> Demand:
    windows, earlier = dict(state.get("windows", [])), tuple(state.get("earlier_peaks_watts", []))
    known = {name: value for name, value in state.items() if name in Demand.__slots__}
    closed_until = state.get("settled_until_seconds", 0.0)
    return Demand(**{**known, "windows": windows, "earlier_peaks_watts": earlier, "closed_until_seconds": closed_until})


def dump_gpu(account: GpuAccount) -> str:
    """One GPU's account."""
    gpu = account.gpu
    return _encode(
        {
            "index": gpu.index,
            "name": gpu.name,
            "vendor": gpu.vendor,
            "architecture": gpu.architecture,
            "driver_version": gpu.driver_version,
            "pci_bus_id": gpu.pci_bus_id,
            "power_scope": gpu.power_scope,
            "energy_method": gpu.energy_method,
            "max_power_watts": gpu.max_power_watts,
            "baseline_joules": account.baseline_joules,
            "baseline_wall_seconds": account.baseline_wall_seconds,
            "mark_joules": account.mark_joules,
            "pending": [
                [piece.start_seconds, piece.end_seconds, [[*key, weight] for key, weight in piece.shares]]
                for piece in account.pending
            ],
            "away_since_seconds": account.unreported_since_seconds,
            "unmetered_seconds": account.unmetered_seconds,
            "anomalies": account.anomalies,
            "throttle_seconds": account.throttle_seconds,
            "throttle_raw": account.throttle_raw,
            "instance_joules": [[*key, joules] for key, joules in account.instance_joules.items()],
        }
    )


def load_gpu(uuid: str, text: str) -> GpuAccount:
    """The account in ``text``: not up until it is read."""
    data = json.loads(text)
    return GpuAccount(
        gpu=Gpu(
            uuid=uuid,
            index=data["index"],
            name=data.get("name", ""),
            vendor=data.get("vendor", "nvidia"),
            architecture=data.get("architecture", ""),
            driver_version=data.get("driver_version", ""),
            pci_bus_id=data.get("pci_bus_id", ""),
            power_scope=PowerScope(data.get("power_scope", "gpu")),
            energy_method=EnergyMethod(data.get("energy_method", "counter")),
            max_power_watts=data.get("max_power_watts"),
        ),
        baseline_joules=data.get("baseline_joules"),
        baseline_wall_seconds=data.get("baseline_wall_seconds"),
        mark_joules=data.get("mark_joules"),
        pending=tuple(
            Pending(
                start,
                end,
                tuple(
                    (PostingKey(gpu, server, model, State(state)), weight)
                    for gpu, server, model, state, weight in shares
                ),
            )
            for start, end, shares in data.get("pending", [])
        ),
        unreported_since_seconds=data.get("away_since_seconds"),
        unmetered_seconds=data.get("unmetered_seconds", 0.0),
        anomalies=data.get("anomalies", {}),
        throttle_seconds=data.get("throttle_seconds", {}),
        throttle_raw=data.get("throttle_raw", {}),
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
            "cadence": account.cadence,
            "version": account.version,
            "attribution": account.attribution,
            "since_wall_seconds": account.since_wall_seconds,
            "identity": _dump_identity(account.identity),
            "address": account.address,
            "series": account.series,
            "counted": [[model, role, value] for (model, role), value in account.counted.items()],
            "tokens": [[model, kind, value] for (model, kind), value in account.tokens.items()],
            "work": [[model, unit, value] for (model, unit), value in account.work.items()],
            "requests": account.requests,
            "models": account.models,
            "reference_cost": [[model, name, value] for (model, name), value in account.reference_cost.items()],
        }
    )


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


def load_server(name: str, text: str) -> ServerAccount:
    """The account in ``text``: not up until it is read."""
    data = json.loads(text)
    return ServerAccount(
        name=name,
        engine=data.get("engine", ""),
        cadence=Cadence(data.get("cadence", "unknown")),
        version=data.get("version", ""),
        attribution=Attribution(data.get("attribution", "none")),
        since_wall_seconds=data.get("since_wall_seconds"),
        identity=_load_identity(data.get("identity", "")),
        address=data.get("address", ""),
        series=data.get("series", {}),
        counted={(model, Role(role)): value for model, role, value in data.get("counted", [])},
        tokens={(model, TokenKind(kind)): value for model, kind, value in data.get("tokens", [])},
        work={(model, unit): value for model, unit, value in data.get("work", [])},
        requests=data.get("requests", {}),
        models=tuple(data.get("models", [])),
        reference_cost={(model, ref): value for model, ref, value in data.get("reference_cost", [])},
    )


def dump_host(account: HostAccount) -> str:
    """One host component. Its meter begins anew with the process, so only the total is kept."""
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
