"""Which servers, models and states share the time of a GPU.

A server owns its GPUs while it answers, or while a process still holds them. If several servers own one GPU, those that
worked share its time and energy: by what their processes used of it (``Ownership.shares``) if that is known for all of
them, else evenly. If none worked, all of them share it. So a parked server beside a working one is charged nothing of the
time in which the other works.

A partitioned GPU (MIG) is first divided into its instances, by the weights of its parts, and each instance is shared as
above by the servers on it. The rest, and instances without an owner, are idle. An instance is reserved for its server,
working or not, so here a parked server beside a working one keeps its part.

Within a server the models share by the tokens of the interval, else by running requests, else evenly. All of this is a
convention: a GPU has one meter, which cannot attribute its joules. The parts always sum to the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tpw.ledger.books import Division, PostingKey, ServerAccount
from tpw.model import UNKNOWN_MODEL, Ownership, Part, SplitMethod, State, TokenKind


@dataclass(frozen=True, slots=True)
class Activity:
    """What a server did over the interval."""

    owns: bool
    """Whether it owns its GPUs at all: it answers, or a process holds them."""
    active: bool | None
    """Whether it worked; None where only the utilisation of its GPUs can show it."""
    models: tuple[tuple[str, float], ...]
    """(model, weight); the weights sum to 1."""


def activity(
    account: ServerAccount,
    owner: Ownership,
    risen: Mapping[tuple[str, TokenKind], float] | None,
    *,
    moved: bool,
) -> Activity:
    """What the server did. ``risen`` is None if it was not read at this tick."""
    if not owner.has_counters:
        return Activity(owns=True, active=None, models=((owner.model or UNKNOWN_MODEL, 1.0),))
    weights = _weights(account, owner, risen or {})
    if account.up:
        running = any(load.running for load in account.loads)
        working = moved or running if risen is not None else account.active
        return Activity(owns=True, active=working, models=weights)
    return Activity(owns=owner.held, active=None, models=weights)


def _weights(
    account: ServerAccount, owner: Ownership, risen: Mapping[tuple[str, TokenKind], float]
) -> tuple[tuple[str, float], ...]:
    models = account.models or (owner.model or UNKNOWN_MODEL,)
    if len(models) == 1:
        return ((models[0], 1.0),)
    by_tokens = dict.fromkeys(models, 0.0)
    for (model, _), tokens in risen.items():
        if model in by_tokens:
            by_tokens[model] += tokens
    total = sum(by_tokens.values())
    if total > 0.0:
        return tuple((model, tokens / total) for model, tokens in by_tokens.items() if tokens > 0.0)
    running = {load.model: load.running for load in account.loads if load.running and load.model in by_tokens}
    busy = sum(running.values())
    if busy > 0.0:
        return tuple((model, requests / busy) for model, requests in running.items())
    return tuple((model, 1.0 / len(models)) for model in models)


def divide(
    gpu: str,
    owners: Mapping[str, Ownership],
    activities: Mapping[str, Activity],
    utilization_ratio: float | None,
    parts: tuple[Part, ...] = (),
) -> Division:
    """Who shares the interval on one GPU; the weights sum to 1.

    Args:
        gpu: its UUID.
        owners: the GPUs of every server.
        activities: what every server did.
        utilization_ratio: of the GPU; None where it is not reported.
        parts: its instances, if it is partitioned.
    """
    present = [name for name, owner in owners.items() if gpu in owner.gpus and activities[name].owns]
    # Without counters a busy GPU is the only sign of work. Where utilisation is missing, its owner counts as working.
    busy = utilization_ratio is None or utilization_ratio > 0.0
    instances = frozenset(part.instance for part in parts)
    if not any(owners[name].instances & instances for name in present):
        weights, method = _among(gpu, present, owners, activities, busy=busy)
        return Division(tuple(weights.items()), method, parts)
    # A server that owns the whole GPU is on every instance, and on the rest.
    whole = [name for name in present if not owners[name].instances & instances]
    total: dict[PostingKey, float] = {}
    for part in parts:
        there = [name for name in present if name in whole or part.instance in owners[name].instances]
        inner, _ = _among(gpu, there, owners, activities, busy=part.busy is not False)
        _add(total, inner, part.weight)
    rest = 1.0 - sum(part.weight for part in parts)
    if rest > 0.0:
        inner, _ = _among(gpu, whole, owners, activities, busy=busy)
        _add(total, inner, rest)
    return Division(tuple(total.items()), parts[0].method, parts)


def _add(total: dict[PostingKey, float], inner: Mapping[PostingKey, float], weight: float) -> None:
    for key, share in inner.items():
        total[key] = total.get(key, 0.0) + share * weight


def _among(
    gpu: str,
    present: list[str],
    owners: Mapping[str, Ownership],
    activities: Mapping[str, Activity],
    *,
    busy: bool,
) -> tuple[dict[PostingKey, float], SplitMethod | None]:
    """The split among the servers present, and its method. Without any the GPU is idle."""
    if not present:
        return {PostingKey(gpu, "", "", State.IDLE): 1.0}, None
    working = [name for name in present if _works(activities[name], busy=busy)]
    state = State.ACTIVE if working else State.PARKED
    split, method = _split(gpu, working or present, owners)
    weights: dict[PostingKey, float] = {}
    for name, weight in split:
        for model, share in activities[name].models:
            key = PostingKey(gpu, name, model, state)
            weights[key] = weights.get(key, 0.0) + weight * share
    return weights, method


def _works(activity: Activity, *, busy: bool) -> bool:
    return busy if activity.active is None else bool(activity.active)


def _split(gpu: str, names: list[str], owners: Mapping[str, Ownership]) -> tuple[list[tuple[str, float]], SplitMethod]:
    if len(names) == 1:
        return [(names[0], 1.0)], SplitMethod.SOLE
    known = [owners[name].shares.get(gpu) for name in names]
    used = [share for share in known if share is not None]
    total = sum(used)
    # A server with unknown use must not be charged nothing because the use of the others is known.
    if total > 0.0 and len(used) == len(names):
        split = zip(names, used, strict=True)
        return [(name, share / total) for name, share in split if share > 0.0], SplitMethod.SM
    return [(name, 1.0 / len(names)) for name in names], SplitMethod.EVEN
