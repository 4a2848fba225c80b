"""Two readings of the status -> the account of what lay between them.

``null`` means unknown, never zero. Every total is the rise of a counter of the books; every ratio is made of those rises,
over all energy of the GPUs in that time, parked time included.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import fsum, sqrt
from typing import TypedDict

from tpw.exposition.status import GpuStatus, LatencyStatus, ModelStatus, ServerStatus, StateStatus, Status
from tpw.model import ALL_IN, CAPITAL

WHOLE = 0.98
"""Metered share of the time of a server's GPUs below which it has no ratios."""


class GpuAccount(TypedDict):
    """One GPU. Joules and seconds are by state."""

    index: int
    uuid: str
    name: str
    energy_method: str
    power_limit_watts: float | None
    joules: dict[str, float]
    seconds: dict[str, float]
    total_joules: float
    unmetered_seconds: float
    error_ratio: float | None
    """Stated 95 % bound of its energy."""


class LatencyAccount(TypedDict):
    """Latency of the requests that ended, from the engine's histograms, against a target of the setting ``slo``."""

    target_seconds: float | None
    """null for all targets together."""
    requests: float
    within_at_least: float | None
    """Share of them that met the target. Both bounds are equal where the target is a bound of the histogram; null without
    requests."""
    within_at_most: float | None
    mean_seconds: float | None


class ModelAccount(TypedDict):
    """One model of a server. Costs are net of what negative prices paid back, by scope: energy, full."""

    model: str
    tokens: dict[str, float]
    """By kind: input (computed), cached_input, output."""
    requests: float | None
    joules: dict[str, float]
    """By state, boundary gpu."""
    facility_joules: float
    cost: dict[str, float]
    tokens_per_second: dict[str, float]
    """By kind: output, total."""
    tokens_per_watt: dict[str, float]
    """By kind, boundary gpu. Empty without energy, and where some of it is unknown."""
    cost_per_token: dict[str, dict[str, float]]
    """By scope and kind."""
    latency: dict[str, LatencyAccount]
    """By target: ttft, tpot, e2e, all. Empty where no target is set, or the engine has no histogram."""


class ServerRun(TypedDict):
    """One server."""

    name: str
    engine: str
    version: str
    attribution: str
    gpus: list[int]
    error_ratio: float | None
    """Stated 95 % bound of its energy: of its GPUs' meters and of its shares of them."""
    models: list[ModelAccount]


class Coverage(TypedDict):
    """How much of the run was measured."""

    metered: float | None
    """Share of the GPUs' time with a trusted reading; null without GPUs."""
    attributed: float | None
    """Share of the GPUs' energy that belongs to servers; null without energy."""


class Account(TypedDict):
    """The whole run."""

    begin: float
    """Unix time of the first reading."""
    end: float
    seconds: float
    energy_begin: float
    """Unix time of the first reading of the meters, the mean of the GPUs: joules are from then"""
    energy_end: float
    """until then."""
    currency: str | None
    price_per_kwh: float | None
    """At the end."""
    pue: float
    gpus: list[GpuAccount]
    servers: list[ServerRun]
    coverage: Coverage
    problems: list[str]


class BackwardsError(Exception):
    """A counter fell between two readings: they are not of the same books."""


def account(before: Status, after: Status, only: str = "") -> Account:
    """What lay between two readings of one exporter.

    Args:
        before: the first reading.
        after: the last reading.
        only: the server of interest, and its GPUs; "" for all.

    Raises:
        BackwardsError: a counter fell.
    """
    seconds = after["at"] - before["at"]
    if seconds <= 0.0:
        raise BackwardsError("the exporter published no new snapshot")
    first_gpus = {gpu["uuid"]: gpu for gpu in before["gpus"]}
    first_servers = {server["name"]: server for server in before["servers"]}
    servers = [server for server in after["servers"] if only in ("", server["name"])]
    owned = {index for server in servers for index in server["gpus"]}
    gpus = [_gpu(first_gpus.get(gpu["uuid"]), gpu) for gpu in after["gpus"] if not only or gpu["index"] in owned]
    errors = {gpu["index"]: gpu for gpu in after["gpus"]}
    unmetered = {gpu["index"]: gpu["unmetered_seconds"] for gpu in gpus}
    runs = []
    for server in servers:
        missing = fsum(unmetered.get(index, seconds) for index in server["gpus"])
        is_whole = not server["spans_nodes"] and missing <= (1.0 - WHOLE) * seconds * len(server["gpus"])
        runs.append(_server(first_servers.get(server["name"]), server, errors, seconds, is_whole=is_whole))
    price = after["price"]
    return Account(
        begin=before["at"],
        end=after["at"],
        seconds=seconds,
        energy_begin=_energy_at(before, {gpu["uuid"] for gpu in gpus}),
        energy_end=_energy_at(after, {gpu["uuid"] for gpu in gpus}),
        currency=after["currency"],
        price_per_kwh=None if price is None else price["per_kwh"],
        pue=after["pue"],
        gpus=gpus,
        servers=runs,
        coverage=_coverage(gpus, runs, seconds),
        problems=_problems(before, after, servers, gpus, seconds),
    )


def _energy_at(status: Status, uuids: Collection[str]) -> float:
    found = [gpu["energy_at"] for gpu in status["gpus"] if gpu["uuid"] in uuids and gpu["energy_at"] is not None]
    return fsum(found) / len(found) if found else status["at"]


def _rise(before: float, after: float, what: str) -> float:
    """The rise of a counter. Books are kept in floats: the last digits may differ."""
    if after < before - 1e-9 * max(1.0, abs(before)):
        raise BackwardsError(f"the counter of {what} fell from {before:g} to {after:g}: the books began anew")
    return max(0.0, after - before)


def _rises(before: Mapping[str, float], after: Mapping[str, float], what: str) -> dict[str, float]:
    return {name: _rise(before.get(name, 0.0), value, f"{what} ({name})") for name, value in after.items()}


def _gpu(before: GpuStatus | None, after: GpuStatus) -> GpuAccount:
    first: Mapping[str, StateStatus] = {} if before is None else before["states"]
    name = f"GPU {after['index']}"
    joules = _rises(_column(first, "joules"), _column(after["states"], "joules"), f"joules of {name}")
    unmetered = 0.0 if before is None else before["unmetered_seconds"]
    return GpuAccount(
        index=after["index"],
        uuid=after["uuid"],
        name=after["name"],
        energy_method=after["energy_method"],
        power_limit_watts=after["power_limit_watts"],
        joules=joules,
        seconds=_rises(_column(first, "seconds"), _column(after["states"], "seconds"), f"seconds of {name}"),
        total_joules=fsum(joules.values()),
        unmetered_seconds=_rise(unmetered, after["unmetered_seconds"], f"unmetered seconds of {name}"),
        error_ratio=after["energy_error_ratio"],
    )


def _column(states: Mapping[str, StateStatus], name: str) -> dict[str, float]:
    return {state: float(values[name]) for state, values in states.items()}  # type: ignore[literal-required]


def _server(
    before: ServerStatus | None,
    after: ServerStatus,
    gpus: Mapping[int, GpuStatus],
    seconds: float,
    *,
    is_whole: bool,
) -> ServerRun:
    first = {} if before is None else {model["model"]: model for model in before["models"]}
    return ServerRun(
        name=after["name"],
        engine=after["engine"],
        version=after["version"],
        attribution=after["attribution"],
        gpus=after["gpus"],
        error_ratio=_error([gpus[index] for index in after["gpus"] if index in gpus], after["name"]),
        models=[
            _model(first.get(model["model"]), model, seconds, after["name"], is_whole=is_whole)
            for model in after["models"]
        ],
    )


def _error(gpus: Sequence[GpuStatus], server: str) -> float | None:
    """Of the server's energy. The errors of meters and shares are independent, and that of a share is a part of the energy
    of the whole GPU. None where one is unknown."""
    squares, energy = 0.0, 0.0
    for gpu in gpus:
        watts, meter, share = gpu["power_watts"], gpu["energy_error_ratio"], gpu["share_error_ratios"].get(server)
        if watts is None or meter is None or share is None:
            return None
        part = watts * gpu["shares"].get(server, 0.0)
        squares += (part * meter) ** 2 + (watts * share) ** 2
        energy += part
    return sqrt(squares) / energy if energy > 0.0 else None


def _model(
    before: ModelStatus | None, after: ModelStatus, seconds: float, server: str, *, is_whole: bool
) -> ModelAccount:
    name = f"{after['model']} on {server}"
    first: Mapping[str, StateStatus] = {} if before is None else before["states"]
    tokens = _rises({} if before is None else before["tokens"], after["tokens"], f"tokens of {name}")
    joules = _rises(_column(first, "joules"), _column(after["states"], "joules"), f"joules of {name}")
    facility = _rises(
        _column(first, "facility_joules"), _column(after["states"], "facility_joules"), f"facility joules of {name}"
    )
    cost = _cost(first, after["states"], name)
    counts = {"output": tokens["output"], "total": fsum(tokens.values())} if "output" in tokens else {}
    spent = fsum(joules.values())
    requests = after["requests"]
    return ModelAccount(
        model=after["model"],
        tokens=tokens,
        requests=None
        if requests is None
        else _rise((before["requests"] or 0.0) if before else 0.0, requests, f"requests of {name}"),
        joules=joules,
        facility_joules=fsum(facility.values()),
        cost=cost,
        tokens_per_second={kind: count / seconds for kind, count in counts.items()},
        tokens_per_watt={kind: count / spent for kind, count in counts.items()} if is_whole and spent > 0.0 else {},
        cost_per_token={
            scope: {kind: money / count for kind, count in counts.items() if count > 0.0}
            for scope, money in (cost.items() if is_whole else ())
        },
        latency={
            slo: _latency({} if before is None else before["latency"], slo, found, name)
            for slo, found in after["latency"].items()
        },
    )


def _latency(before: Mapping[str, LatencyStatus], slo: str, after: LatencyStatus, name: str) -> LatencyAccount:
    first = before.get(slo)
    what = f"requests within {slo} of {name}"
    yes = _rise(first["yes"] if first else 0.0, after["yes"], what)
    no = _rise(first["no"] if first else 0.0, after["no"], what)
    requests = yes + no + _rise(first["unknown"] if first else 0.0, after["unknown"], what)
    total = after["total_seconds"]
    seconds = None if total is None else _rise((first["total_seconds"] or 0.0) if first else 0.0, total, what)
    return LatencyAccount(
        target_seconds=after["target_seconds"],
        requests=requests,
        within_at_least=yes / requests if requests > 0.0 else None,
        within_at_most=1.0 - no / requests if requests > 0.0 else None,
        mean_seconds=seconds / requests if seconds is not None and requests > 0.0 else None,
    )


def _cost(before: Mapping[str, StateStatus], after: Mapping[str, StateStatus], name: str) -> dict[str, float]:
    """Money by scope. Empty while some of the energy has no price; ``full`` only with what pays for the GPUs."""
    unpriced = fsum(
        state["unpriced_joules"] - (before[key]["unpriced_joules"] if key in before else 0.0)
        for key, state in after.items()
    )
    components: dict[str, float] = {}
    for key, state in after.items():
        first = before[key]["cost"] if key in before else {}
        for component, money in _rises(first, state["cost"], f"cost of {name}").items():
            components[component] = components.get(component, 0.0) + money
    if unpriced > 1e-6 or not components:
        return {}
    credit = fsum(state["credit"] - (before[key]["credit"] if key in before else 0.0) for key, state in after.items())
    costs = {"energy": components["energy"] - credit} if "energy" in components else {}
    named = set(components)
    if not named.isdisjoint(CAPITAL) and ("energy" in named or not named.isdisjoint(ALL_IN)):
        costs["full"] = fsum(components.values()) - credit
    return costs


def _coverage(gpus: Sequence[GpuAccount], servers: Iterable[ServerRun], seconds: float) -> Coverage:
    missing = fsum(gpu["unmetered_seconds"] for gpu in gpus)
    total = fsum(gpu["total_joules"] for gpu in gpus)
    spent = fsum(joules for server in servers for model in server["models"] for joules in model["joules"].values())
    return Coverage(
        metered=min(1.0, max(0.0, 1.0 - missing / (seconds * len(gpus)))) if gpus else None,
        attributed=min(1.0, spent / total) if total > 0.0 else None,
    )


def _problems(
    before: Status, after: Status, servers: Sequence[ServerStatus], gpus: Sequence[GpuAccount], seconds: float
) -> list[str]:
    found = []
    if not gpus:
        found.append("No GPU was measured: joules, tokens per watt and cost are unknown.")
    for gpu in gpus:
        if gpu["unmetered_seconds"] > 0.001 * seconds:
            found.append(f"GPU {gpu['index']} had no trusted reading for {gpu['unmetered_seconds']:.1f} s.")
        if gpu["seconds"].get("other", 0.0) > 0.0:
            found.append(f"GPU {gpu['index']} was used by a process that is no server.")
    for server in servers:
        if not server["gpus"]:
            found.append(f"{server['name']} has no GPU: configure `gpus` of the server, or see tpw-exporter probe.")
        if server["spans_nodes"]:
            found.append(f"{server['name']} also uses GPUs of other nodes, so it has no ratios here.")
        if not server["up"]:
            found.append(f"{server['name']} did not answer at the end: its last tokens may be missing.")
    known = {server["name"] for server in before["servers"]}
    found += [f"{server['name']} was found during the run." for server in servers if server["name"] not in known]
    failures = {source["name"]: sum(source["failures"].values()) for source in before["sources"]}
    for source in after["sources"]:
        count = sum(source["failures"].values()) - failures.get(source["name"], 0)
        if count > 0:
            found.append(f"{source['name']}: {count} reads failed. {source['detail']}".strip())
    return found
