"""Who shares the time and energy of a GPU over an interval.

Parties are the servers that own the GPU, and the workloads of other processes on it. The energy has two parts:

- *No-load* power is what the GPU draws while nothing on it computes. It is shared by all parties that hold the GPU,
  working or not: by the memory that they hold if it is known, else evenly. It is learned by observation
  (:mod:`tpw.ledger.no_load`); until then it counts as 0.
- The rest is shared by the parties that *compute*, by the best evidence there is (:class:`tpw.model.SplitMethod`): use by
  process over the same interval; tokens, with a prefill token as ``PREFILL_WEIGHT`` of a decoded one; running
  requests; memory held; evenly.

A server that made tokens computes, whatever the driver's rounded percentages are. The state of a share is that of its
party: a parked server beside a working one has a parked share of the no-load power and nothing else.

On a partitioned GPU (MIG) the parties of each instance share its part, by the weights of :mod:`tpw.discovery.partition`.
The rest, and instances that nobody uses, are idle.

Within a server the models share by the tokens of the interval, else by running requests, else evenly. The weights of one
GPU always sum to 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tpw.ledger.books import Division, PostingKey, ServerAccount
from tpw.model import (
    STARTING_SECONDS,
    UNKNOWN_MODEL,
    UNKNOWN_WORKLOAD,
    Cadence,
    GpuSample,
    Occupants,
    Ownership,
    Part,
    Reason,
    SplitMethod,
    State,
    TokenKind,
    Workload,
)

PREFILL_WEIGHT = 0.15
"""Work of computing one prompt token, in decoded tokens. Chosen between the ratios of input and output prices of hosted
models (1:3 to 1:8) and of measured energies (1:5 to 1:20). Cached prompt tokens cost nothing."""

LEAST_USE = 0.005
"""Use of a server that made tokens while the driver reports none: half of the driver's step of one percent."""

_ABOVE_NO_LOAD = 1.5
"""Processes that draw more than this many times the no-load power use the GPU, even if no use is reported."""

LEAST_WORK = 0.5
"""Decoded tokens per second of a running request of which no token is counted. Below the speed of any decoding."""


@dataclass(frozen=True, slots=True)
class Activity:
    """What a server did over the interval."""

    owns: bool
    """Whether it owns its GPUs at all: it answers, a process holds them, or it is not known that none does."""
    active: bool | None
    """Whether it worked; None where only the use of its GPUs can show it."""
    models: tuple[tuple[str, float], ...]
    """(model, weight); the weights sum to 1."""
    is_starting: bool = False
    """Whether its process holds the GPUs and is not ready yet."""
    work: float | None = None
    """Decoded tokens per second, prompt tokens weighted. None where its tokens are not counted while it works."""
    requests: float | None = None
    """Running requests; None where they are unknown."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known about one GPU over the interval."""

    sample: GpuSample | None = None
    occupants: Occupants | None = None
    """None where nothing is known about its processes."""
    no_load_watts: float | None = None
    """What it draws while nothing computes; None until it is learned."""
    parts: tuple[Part, ...] = ()
    """Its instances, if it is partitioned."""

    @property
    def is_used(self) -> bool | None:
        """Whether anything computes on it, by utilization, else by power; None where neither is known."""
        sample = self.sample
        if sample is None:
            return None
        if sample.utilization_ratio is not None:
            return sample.utilization_ratio > 0.0
        return self.draws_load

    @property
    def draws_load(self) -> bool | None:
        """Whether it draws clearly more than without load; None where that is unknown."""
        watts = None if self.sample is None else self.sample.power_watts
        if watts is None or self.no_load_watts is None:
            return None
        return watts > _ABOVE_NO_LOAD * self.no_load_watts

    @property
    def no_load_ratio(self) -> float:
        """Part of its power that it would draw without load; 0 while that is unknown."""
        watts = None if self.sample is None else self.sample.power_watts
        if not watts or self.no_load_watts is None:
            return 0.0
        return min(1.0, self.no_load_watts / watts)


def activity(
    account: ServerAccount,
    owner: Ownership,
    risen: Mapping[tuple[str, TokenKind], float] | None,
    *,
    moved: bool,
    seconds: float | None = None,
    fault: Reason | None = None,
    now_wall_seconds: float = 0.0,
) -> Activity:
    """What the server did.

    Args:
        account: the account after this tick's reading.
        owner: its GPUs.
        risen: tokens since the last reading; None if it was not read at this tick.
        moved: whether any of its counters rose.
        seconds: time since the last reading; None where that is unknown.
        fault: why it could not be read at this tick.
        now_wall_seconds: the tick.
    """
    if not owner.has_counters:
        return Activity(owns=True, active=None, models=((owner.model or UNKNOWN_MODEL, 1.0),))
    weights = _weights(account, owner, risen or {})
    if account.up:
        loads = [load.running for load in account.loads]
        working = moved or any(loads) if risen is not None else account.active
        requests = sum(running or 0.0 for running in loads) if loads and None not in loads else None
        work = None if account.cadence is Cadence.FINISH else _work_per_second(risen, requests, seconds)
        return Activity(owns=True, active=working, models=weights, work=work, requests=requests)
    starting = owner.held and _is_starting(account, owner, fault, now_wall_seconds)
    may_run = account.unread_since_seconds is not None and not owner.holders_known
    return Activity(owns=owner.held or may_run, active=None, models=weights, is_starting=starting)


def _is_starting(account: ServerAccount, owner: Ownership, fault: Reason | None, now: float) -> bool:
    """Whether its process has not been ready since it started."""
    started = owner.started_wall_seconds
    since = account.since_wall_seconds if started is None else started
    if since is not None and now - since > STARTING_SECONDS:
        return False
    if fault is Reason.LOADING or not account.engine:
        return True
    read = account.read_wall_seconds
    return started is not None and read is not None and started > read


def _work_per_second(
    risen: Mapping[tuple[str, TokenKind], float] | None, requests: float | None, seconds: float | None
) -> float | None:
    """Decoded tokens per second, prompt tokens weighted; None where they are not known for this interval.

    A running request has a share before its first token is counted: a long prefill is counted when it ends. Everything is
    in proportion to time, so that the length of a tick changes nothing.
    """
    if risen is None or seconds is None or seconds <= 0.0:
        return None
    weight = {TokenKind.OUTPUT: 1.0, TokenKind.INPUT: PREFILL_WEIGHT}
    tokens = sum(rise * weight.get(kind, 0.0) for (_, kind), rise in risen.items())
    return tokens / seconds + LEAST_WORK * max(1.0, requests or 0.0)


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


# -------------------------------------------------------------------------------------------------------------- parties


@dataclass(slots=True)
class _Party:
    """A server, or a workload that is none, on one GPU."""

    server: str = ""
    workload: Workload | None = None
    activity: Activity | None = None
    pids: set[int] = field(default_factory=set)
    use: float | None = None
    """Use by its processes over the interval; None where it is unknown."""
    computes: bool = False

    def keys(self, gpu: str, *, draws_load: bool) -> Iterable[tuple[PostingKey, float]]:
        """The postings that its share goes to, and the part of each."""
        if self.activity is None:
            used = self.computes or draws_load
            state, workload = (State.OTHER, self.workload) if used else (State.IDLE, None)
            return ((PostingKey(gpu, "", "", state, workload), 1.0),)
        if self.activity.is_starting:
            state = State.STARTING
        elif self.activity.active or (self.activity.active is None and self.computes):
            state = State.ACTIVE
        else:
            state = State.PARKED
        return ((PostingKey(gpu, self.server, model, state), part) for model, part in self.activity.models)


def divide(
    gpu: str,
    owners: Mapping[str, Ownership],
    activities: Mapping[str, Activity],
    evidence: Evidence,
) -> Division:
    """Who shares the interval on one GPU; the weights sum to 1.

    Args:
        gpu: its UUID.
        owners: the GPUs of every server.
        activities: what every server did.
        evidence: what is known about the GPU.
    """
    present = [name for name, owner in owners.items() if gpu in owner.gpus and activities[name].owns]
    parts = evidence.parts
    instances = frozenset(part.instance for part in parts)
    workloads = {} if evidence.occupants is None else evidence.occupants.instances
    if not any(owners[name].instances & instances for name in present) and instances.isdisjoint(workloads.values()):
        parties = _parties(present, owners, activities, evidence)
        weights, method = _among(gpu, parties, evidence, busy=evidence.is_used)
        return Division(tuple(weights.items()), method, parts)
    # A server that owns the whole GPU is on every instance, and on the rest.
    whole = [name for name in present if not owners[name].instances & instances]
    total: dict[PostingKey, float] = {}
    for part in parts:
        there = [name for name in present if name in whole or part.instance in owners[name].instances]
        parties = _parties(there, owners, activities, evidence, part.instance)
        inner, _ = _among(gpu, parties, evidence, busy=part.busy is not False)
        _add(total, inner, part.weight)
    rest = 1.0 - sum(part.weight for part in parts)
    if rest > 0.0:
        parties = _parties(whole, owners, activities, evidence, instance="")
        inner, _ = _among(gpu, parties, evidence, busy=evidence.is_used)
        _add(total, inner, rest)
    return Division(tuple(total.items()), parts[0].method, parts)


def _add(total: dict[PostingKey, float], inner: Mapping[PostingKey, float], weight: float) -> None:
    for key, share in inner.items():
        total[key] = total.get(key, 0.0) + share * weight


def _parties(
    servers: Sequence[str],
    owners: Mapping[str, Ownership],
    activities: Mapping[str, Activity],
    evidence: Evidence,
    instance: str | None = None,
) -> list[_Party]:
    """The parties on a GPU, or on one instance of it, with the use of each."""
    parties = [_Party(server=name, activity=activities[name], pids=set(owners[name].pids)) for name in servers]
    occupants = evidence.occupants or Occupants(is_known=False)
    by_workload: dict[Workload, _Party] = {}
    for pid, workload in occupants.workloads.items():
        if instance is None or occupants.instances.get(pid) == instance:
            by_workload.setdefault(workload, _Party(workload=workload)).pids.add(pid)
    use = None if evidence.sample is None or instance is not None else evidence.sample.process_use
    if use is not None:
        known = {pid for party in (*parties, *by_workload.values()) for pid in party.pids}
        foreign = use.keys() - known
        hidden = next((party for party in parties if not party.pids), None)
        if foreign and hidden is not None:
            hidden.pids |= foreign  # a server with unknown processes: the driver's list has them
        elif foreign:
            # It started after the driver's last list.
            by_workload.setdefault(UNKNOWN_WORKLOAD, _Party(workload=UNKNOWN_WORKLOAD)).pids |= foreign
    parties += by_workload.values()
    if not parties and not occupants.is_known and evidence.is_used is not False and evidence.sample is not None:
        # Nobody can be seen on it, and nothing shows that it is not used.
        parties.append(_Party(workload=UNKNOWN_WORKLOAD))
    if use is not None:
        for party in parties:
            party.use = sum(use.get(pid, 0.0) for pid in party.pids)
    return parties


# ---------------------------------------------------------------------------------------------------------------- shares


def _among(
    gpu: str, parties: Sequence[_Party], evidence: Evidence, *, busy: bool | None
) -> tuple[dict[PostingKey, float], SplitMethod | None]:
    """The split among parties, and its method. Without any the GPU is idle."""
    if not parties:
        return {PostingKey(gpu, "", "", State.IDLE): 1.0}, None
    _find_computing(parties, busy=busy)
    computing = [party for party in parties if party.computes]
    memory = {} if evidence.occupants is None else evidence.occupants.memory_bytes
    work, method = _work(computing, memory) if computing else ([], SplitMethod.SOLE)
    if len(parties) == 1:
        shares = [1.0]
    else:
        held = _by_memory(parties, memory) or [1.0 / len(parties)] * len(parties)
        no_load = evidence.no_load_ratio if computing else 1.0
        done = dict(zip(map(id, computing), work, strict=True))
        shares = [
            no_load * hold + (1.0 - no_load) * done.get(id(party), 0.0)
            for party, hold in zip(parties, held, strict=True)
        ]
        if not computing:
            method = SplitMethod.MEMORY if _by_memory(parties, memory) else SplitMethod.EVEN
    draws_load = evidence.draws_load is True and not computing
    weights: dict[PostingKey, float] = {}
    for party, share in zip(parties, shares, strict=True):
        for key, part in party.keys(gpu, draws_load=draws_load):
            if share * part > 0.0:
                weights[key] = weights.get(key, 0.0) + share * part
    return weights, method


def _find_computing(parties: Sequence[_Party], *, busy: bool | None) -> None:
    """Mark the parties that computed in the interval.

    Use by process decides if it is known. Without it a server's own counters do; of the others only the use of the whole
    GPU is known, so it counts for all of them.
    """
    for party in parties:
        doing = party.activity
        if doing is not None and doing.active is not None:
            party.computes = doing.active or bool(party.use)
        elif party.use is not None:
            party.computes = party.use > 0.0
        else:
            party.computes = busy is not False


def _work(computing: Sequence[_Party], memory: Mapping[int, float]) -> tuple[list[float], SplitMethod]:
    """The shares of parties in what was computed, by the best evidence that all of them have."""
    if len(computing) == 1:
        return [1.0], SplitMethod.SOLE
    uses = [party.use for party in computing if party.use is not None]
    if len(uses) == len(computing):
        return _scaled([max(use, LEAST_USE) for use in uses]), SplitMethod.SM
    doing = [party.activity for party in computing if party.activity is not None]
    if len(doing) == len(computing):
        work = [one.work for one in doing if one.work]
        if len(work) == len(doing):
            return _scaled(work), SplitMethod.TOKENS
        requests = [one.requests for one in doing if one.requests]
        if len(requests) == len(doing):
            return _scaled(requests), SplitMethod.REQUESTS
    held = _by_memory(computing, memory)
    if held:
        return held, SplitMethod.MEMORY
    return [1.0 / len(computing)] * len(computing), SplitMethod.EVEN


def _by_memory(parties: Sequence[_Party], memory: Mapping[int, float]) -> list[float]:
    """Shares by memory held; empty if that of some party is unknown."""
    held = [sum(memory.get(pid, 0.0) for pid in party.pids) for party in parties]
    return _scaled(held) if all(held) else []


def _scaled(weights: Sequence[float]) -> list[float]:
    total = sum(weights)
    return [weight / total for weight in weights]
