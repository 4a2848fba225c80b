"""Whose time a GPU's time was, and in which state.

A server owns its GPUs while it answers, or while a process still holds them. Where several servers own one GPU, those that
were working share its time and energy, by their measured share where one is known (``Ownership.shares``), else evenly; if
none was working, all of them do. Within a server the models share by the tokens of the interval, else by running
requests, else evenly: a convention, since no meter knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tpw.ledger.books import PostingKey, ServerAccount
from tpw.model import UNKNOWN_MODEL, Ownership, State, TokenKind

Shares = tuple[tuple[PostingKey, float], ...]


@dataclass(frozen=True, slots=True)
class Activity:
    """What a server did over the interval."""

    owns: bool
    """Whether it owns its GPUs at all: it answers, or it is held."""
    active: bool | None
    """Whether it worked; None where only its GPUs' utilisation can tell."""
    models: tuple[tuple[str, float], ...]
    """(model, weight); the weights sum to 1."""


def activity(
    account: ServerAccount,
    owner: Ownership,
    risen: Mapping[tuple[str, TokenKind], float] | None,
    *,
    moved: bool,
) -> Activity:
    """What the server did. ``risen`` is None where this tick brought no reading of it."""
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


def shares(
    gpu: str, owners: Mapping[str, Ownership], activities: Mapping[str, Activity], utilization_ratio: float | None
) -> Shares:
    """Who shares the interval on one GPU; the weights sum to 1."""
    present = [name for name, owner in owners.items() if gpu in owner.gpus and activities[name].owns]
    if not present:
        return ((PostingKey(gpu, "", "", State.IDLE), 1.0),)
    # Without counters a busy board is the only sign of work; where it does not tell, its owner is believed to work.
    busy = utilization_ratio is None or utilization_ratio > 0.0
    working = [name for name in present if _works(activities[name], busy=busy)]
    state = State.ACTIVE if working else State.PARKED
    names = working or present
    result: list[tuple[PostingKey, float]] = []
    for name, weight in _split(gpu, names, owners):
        result.extend((PostingKey(gpu, name, model, state), weight * share) for model, share in activities[name].models)
    return tuple(result)


def _works(activity: Activity, *, busy: bool) -> bool:
    return busy if activity.active is None else activity.active


def _split(gpu: str, names: list[str], owners: Mapping[str, Ownership]) -> list[tuple[str, float]]:
    if len(names) == 1:
        return [(names[0], 1.0)]
    known = {name: owners[name].shares.get(gpu, 0.0) for name in names}
    total = sum(known.values())
    if total > 0.0:
        return [(name, share / total) for name, share in known.items() if share > 0.0]
    return [(name, 1.0 / len(names)) for name in names]
