"""Replicas of a server, which have accounts of their own in the ledger, as the one server that they are. Pure functions.

Each replica has its own process, counters, outages and GPUs: a parked one beside a working one is parked. The names of
their accounts are reused (:func:`tpw.model.replica_name`), so that their number is the most that ran at the same time.
What is exposed is their sum: it does not fall when one of them ends, because accounts do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from tpw.ledger.amounts import Amounts
from tpw.ledger.books import Books, Division, GpuAccount, PostingKey, ServerAccount, WindowSample
from tpw.ledger.phases import pooled
from tpw.ledger.replacing import replace
from tpw.model import Load, ServerWorkload, server_of_replica

if TYPE_CHECKING:
    from tpw.ledger.service import Service

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


def merged(books: Books) -> Books:
    """The books with one account for each server; the same object where no server has replicas."""
    replicas = {name: server for name in books.servers if (server := server_of_replica(name)) != name}
    if not replicas:
        return books
    groups: dict[str, list[ServerAccount]] = {}
    for name, account in books.servers.items():
        groups.setdefault(replicas.get(name, name), []).append(account)

    def renamed(key: PostingKey) -> PostingKey:
        return key._replace(server=replicas[key.server]) if key.server in replicas else key

    return replace(
        books,
        servers={
            name: parts[0] if len(parts) == 1 and parts[0].name == name else _server(name, parts)
            for name, parts in groups.items()
        },
        postings=_grouped(books.postings, renamed, Amounts.total),
        gpus={uuid: _gpu(account, renamed) for uuid, account in books.gpus.items()},
    )


def merged_owners(owners: Mapping[str, ServerWorkload]) -> Mapping[str, ServerWorkload]:
    """To whom each server belongs; without a pod and a container where replicas have different ones."""
    if all(server_of_replica(name) == name for name in owners):
        return owners
    found: dict[str, ServerWorkload] = {}
    for name in sorted(owners):
        one, server = owners[name], server_of_replica(name)
        first = found.setdefault(server, one)
        if first.pod != one.pod:
            found[server] = first = replace(first, pod="")
        if first.container != one.container:
            found[server] = replace(first, container="")
    return found


def _grouped(
    values: Mapping[_Key, _Value], key_of: Callable[[_Key], _Key], total: Callable[[Iterable[_Value]], _Value]
) -> dict[_Key, _Value]:
    groups: dict[_Key, list[_Value]] = {}
    for key, value in values.items():
        groups.setdefault(key_of(key), []).append(value)
    return {key: parts[0] if len(parts) == 1 else total(parts) for key, parts in groups.items()}


def _sums(mappings: Iterable[Mapping[Any, Any]]) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for mapping in mappings:
        for key, value in mapping.items():
            found[key] = found[key] + value if key in found else value
    return found


def _gpu(account: GpuAccount, renamed: Callable[[PostingKey], PostingKey]) -> GpuAccount:
    division = account.division
    if division is None or all(renamed(key) is key for key, _ in division.shares):
        return account
    shares = _grouped(dict(division.shares), renamed, sum)
    return replace(account, division=Division(tuple(shares.items()), division.method, division.parts))


def _server(name: str, parts: Sequence[ServerAccount]) -> ServerAccount:
    """The sum of the accounts. What describes a server is that of the one that was there last."""
    latest = max(parts, key=lambda one: (one.up, one.seen.get("", 0.0)))
    reads = [one.read_wall_seconds for one in parts if one.read_wall_seconds is not None]
    there = [one for one in parts if one.up or one.gpus]
    seen: dict[str, float] = {}
    for one in parts:
        seen |= {model: max(at, seen.get(model, 0.0)) for model, at in one.seen.items()}
    return replace(
        latest,
        name=name,
        active=any(one.active for one in parts),
        read_wall_seconds=max(reads, default=None),
        gpus=frozenset().union(*(one.gpus for one in parts)),
        counted=_sums(one.counted for one in parts),
        tokens=_sums(one.tokens for one in parts),
        work=_sums(one.work for one in parts),
        requests=_sums(one.requests for one in parts),
        uncounted=_sums(one.uncounted for one in parts),
        tiers=_sums(one.tiers for one in parts),
        reference_cost=_sums(one.reference_cost for one in parts),
        anomalies=_sums(one.anomalies for one in parts),
        loads=_loads([load for one in parts for load in one.loads]),
        models=tuple(sorted({model for one in there or (latest,) for model in one.models})),
        seen=seen,
        phases=pooled([one.phases for one in parts if one.phases is not None]),
        service=_service([one.service for one in parts if one.service is not None]),
        window=summed_window([one.window for one in parts if len(one.window) > 1], latest.window_seconds),
    )


def _service(parts: Sequence[Service]) -> Service | None:
    if not parts:
        return None
    from tpw.ledger.service import summed  # only servers with targets pay for it

    return summed(parts)


def _loads(loads: Sequence[Load]) -> tuple[Load, ...]:
    """Requests by model; unknown where one of the replicas does not report them."""

    def total(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) if len(known) == len(values) else None

    models = dict.fromkeys(load.model for load in loads)
    by_model = [(model, [load for load in loads if load.model == model]) for model in models]
    return tuple(
        Load(model, total([one.running for one in some]), total([one.waiting for one in some]))
        for model, some in by_model
    )


def summed_window(windows: Sequence[tuple[WindowSample, ...]], seconds: float) -> tuple[WindowSample, ...]:
    """Sums of windows at the moments that all replicas that are read have in common, as far as ratios need them: the
    newest, and those around the beginning of the window. A replica that cannot be read now counts with its last totals:
    nothing rises."""
    if len(windows) < 2:
        return windows[0] if windows else ()
    newest = max(window[-1].at_seconds for window in windows)
    read = [window for window in windows if window[-1].at_seconds == newest]
    times = sorted(set.intersection(*({sample.at_seconds for sample in window} for window in read)))
    nearest = min(range(len(times)), key=lambda index: abs(newest - seconds - times[index]))
    wanted = {*times[max(0, nearest - 1) : nearest + 2], times[-1]}
    return tuple(_sample(at, [_latest(window, at) for window in windows]) for at in sorted(wanted))


def _latest(window: Sequence[WindowSample], at: float) -> WindowSample:
    """The last sample up to a moment, else the first."""
    return next((sample for sample in reversed(window) if sample.at_seconds <= at), window[0])


def _sample(at: float, parts: Sequence[WindowSample]) -> WindowSample:
    behind = max(part.behind_seconds for part in parts)
    energy = [part.tokens if part.energy_tokens is None else part.energy_tokens for part in parts]
    models = dict.fromkeys(model for part in parts for model in part.amounts)
    return WindowSample(
        at,
        _sums(part.tokens for part in parts),
        {model: Amounts.total(part.amounts[model] for part in parts if model in part.amounts) for model in models},
        single_node=all(part.single_node for part in parts),
        behind_seconds=behind,
        energy_tokens=_sums(energy) if behind else None,
        lost_joules=sum(part.lost_joules for part in parts),
        awaited_joules=sum(part.awaited_joules for part in parts),
    )
