"""Which GPUs a server owns, as pure functions.

A server owns its GPUs until its process is known to be gone: while it answers, while a process still holds them, and where
the driver does not list processes. A configured server that is gone owns nothing. On a partitioned GPU (MIG) it owns the
instances that its processes use, or that are listed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from tpw.model import UNKNOWN_WORKLOAD, Attribution, Die, Gpu, Instance, Occupants, Ownership, Sharing, Workload

AUTO = "auto"
NONE = "none"

Holders = Mapping[str, Collection[int] | None]
"""Process ids that hold each GPU, by UUID; None if the driver does not list them."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A server's GPUs according to the configuration.

    ``gpus`` is ``"auto"``, ``"none"``, or the listed names: an index, a UUID or its prefix (of a GPU or of an instance,
    ``MIG-...``), a PCI bus id, the name of a GPU of the meter ``external``.
    """

    server: str
    gpus: str | tuple[str, ...] = AUTO
    model: str = ""
    has_counters: bool = True
    """False for ranks without a URL: they never answer."""
    spans_nodes: bool = False
    """True if it has GPUs on other nodes as well."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """GPUs that were assigned to a server's processes, and how that is known. Valid as long as the processes run."""

    gpus: frozenset[str]
    method: Attribution


@dataclass(frozen=True, slots=True)
class Resolved:
    """Listed names as UUIDs, and a sentence for each name that was not found."""

    gpus: frozenset[str]
    problems: tuple[str, ...] = ()
    instances: frozenset[str] = frozenset()
    """The instances that were listed; their GPUs are in ``gpus``."""


_NOT_SHARED: Mapping[str, Sharing] = {}


def resolve(names: Sequence[str | int], gpus: Sequence[Gpu], sharing: Mapping[str, Sharing] = _NOT_SHARED) -> Resolved:
    """Find listed GPUs, and instances of GPUs, on this host. A missing one is reported, not fatal."""
    found: set[str] = set()
    instances: set[str] = set()
    problems: list[str] = []
    for name in names:
        called = str(name).strip().lower().removesuffix("...")
        of_instances = [
            (uuid, instance.uuid)
            for uuid, shared in sharing.items()
            for instance in shared.instances
            if called.startswith("mig-") and instance.uuid.lower().startswith(called)
        ]
        if len(of_instances) == 1:
            found.add(of_instances[0][0])
            instances.add(of_instances[0][1])
            continue
        if of_instances:
            several = ", ".join(sorted(instance for _, instance in of_instances))
            problems.append(f"instance {name} is ambiguous: {several}; write more of its UUID")
            continue
        # The driver may report no more about an instance than the GPU it is on: then the name means that GPU.
        matches = {gpu.uuid for gpu in gpus if called in _names(gpu)} or {
            gpu.uuid for gpu in gpus if _is_called(gpu, str(name).strip())
        }
        if len(matches) == 1:
            found |= matches
        elif matches:
            problems.append(f"GPU {name} is ambiguous: {', '.join(sorted(matches))}; write more of its UUID")
        else:
            present = [f"{gpu.index} ({gpu.uuid})" for gpu in gpus]
            known = ", ".join((*present, *(i.uuid for shared in sharing.values() for i in shared.instances))) or "none"
            problems.append(f"GPU {name} is not on this host, which has {known}")
    return Resolved(frozenset(found), tuple(problems), frozenset(instances))


def ownership(
    claim: Claim,
    *,
    answering: bool,
    pids: Collection[int] | None,
    holders: Holders,
    gpus: Sequence[Gpu],
    foreign_pids: Collection[int] = (),
    assigned: Assigned | None = None,
    sharing: Mapping[str, Sharing] = _NOT_SHARED,
    started_wall_seconds: float | None = None,
    blind: Collection[str] = (),
    held_before: Collection[int] = (),
) -> Ownership:
    """Which GPUs a server owns now.

    Args:
        claim: its GPUs according to the configuration.
        answering: whether the last read of its counters succeeded.
        pids: the server's processes; None if they are unknown (it runs on another host).
        holders: from the driver.
        gpus: all GPUs of this host.
        foreign_pids: processes of other servers: a GPU that they hold is not held by this one.
        assigned: its GPUs by other means, if the driver does not list its processes.
        sharing: instances of each GPU, as reported by the driver.
        started_wall_seconds: when the oldest of its processes on a GPU started; None if that is unknown.
        blind: GPUs for which the driver lists no processes of this pid namespace.
        held_before: processes that held its listed GPUs while it answered. Its address may be that of a proxy, and the
            processes there not those of the server.

    Returns:
        ``gpus`` is empty if it owns nothing; ``held`` is whether a process still holds one of them.
    """
    if claim.gpus == NONE:
        return _owned(claim, frozenset(), Attribution.NONE, held=False)
    if claim.gpus == AUTO:
        owned = held_by(pids or (), holders)
        if not owned and assigned is not None and assigned.gpus:
            return _owned(
                claim,
                assigned.gpus,
                assigned.method,
                held=True,
                pids=pids,
                sharing=sharing,
                started=started_wall_seconds,
            )
        method = Attribution.PROCESSES if owned else Attribution.NONE
        return _owned(claim, owned, method, held=bool(owned), pids=pids, sharing=sharing, started=started_wall_seconds)
    names = (claim.gpus,) if isinstance(claim.gpus, str) else claim.gpus
    listed = resolve(names, gpus, sharing)
    held = frozenset(
        uuid
        for uuid in listed.gpus
        if _is_held(
            _holding(uuid, listed.instances, holders, sharing), {*(pids or ()), *held_before}, foreign_pids, claim
        )
    )
    unknown = frozenset(
        uuid
        for uuid in listed.gpus - held
        if claim.has_counters and (holders.get(uuid) is None or (uuid in blind and not holders[uuid]))
    )
    owned = listed.gpus if answering else held | unknown
    if held_by(pids or (), {uuid: holders.get(uuid) for uuid in listed.gpus}) == frozenset():
        pids = None  # its address is that of a proxy: the processes on its GPUs are those of the server behind it
    return _owned(
        claim,
        owned,
        Attribution.CONFIGURED,
        held=bool(held),
        pids=pids,
        sharing=sharing,
        listed=listed.instances,
        started=started_wall_seconds,
        holders_known=bool(held) or not unknown,
    )


def occupants(
    gpus: Sequence[Gpu],
    owners: Mapping[str, Ownership],
    holders: Holders,
    blind: Collection[str],
    workloads: Mapping[int, Workload],
    sharing: Mapping[str, Sharing] = _NOT_SHARED,
) -> dict[str, Occupants]:
    """The processes on each GPU that belong to no server.

    Where a server with unknown processes owns a GPU, what is on it may be that server's: nobody else is assumed there.

    Args:
        gpus: all GPUs of this host.
        owners: what every server owns.
        holders: from the driver.
        blind: GPUs for which the driver lists no processes of this pid namespace.
        workloads: to whom each process belongs; those that started since the last scan are missing.
        sharing: memory and instances by process, from the driver.
    """
    served = frozenset().union(*(owner.pids for owner in owners.values()))
    found: dict[str, Occupants] = {}
    for gpu in gpus:
        holding = holders.get(gpu.uuid)
        is_known = holding is not None and gpu.uuid not in blind
        owned_unseen = any(gpu.uuid in owner.gpus and not owner.pids for owner in owners.values())
        others = frozenset(holding or ()) - served if is_known and not owned_unseen else frozenset[int]()
        shared = sharing.get(gpu.uuid, Sharing())
        found[gpu.uuid] = Occupants(
            {pid: workloads.get(pid, UNKNOWN_WORKLOAD) for pid in sorted(others)},
            is_known,
            shared.memory_bytes or {},
            {pid: instance.uuid for instance in shared.instances for pid in instance.pids},
        )
    return found


def held_by(pids: Collection[int], holders: Holders) -> frozenset[str]:
    """GPUs that are held by any of these processes."""
    wanted = frozenset(pids)
    return frozenset(uuid for uuid, holding in holders.items() if holding and not wanted.isdisjoint(holding))


def _holding(
    uuid: str, listed: frozenset[str], holders: Holders, sharing: Mapping[str, Sharing]
) -> Collection[int] | None:
    """Processes on a GPU; if instances of it are listed, on those."""
    instances = [instance for instance in _instances(uuid, sharing) if instance.uuid in listed]
    if instances:
        return frozenset().union(*(instance.pids for instance in instances))
    return holders.get(uuid)


def _is_held(
    holding: Collection[int] | None, pids: Collection[int], foreign_pids: Collection[int], claim: Claim
) -> bool:
    if holding is None:
        # The driver does not list processes. There is no other evidence of ranks without a URL.
        return not claim.has_counters
    if pids:
        return not frozenset(pids).isdisjoint(holding)
    return bool(frozenset(holding) - frozenset(foreign_pids))


def _owned(
    claim: Claim,
    gpus: frozenset[str],
    method: Attribution,
    *,
    held: bool,
    pids: Collection[int] | None = None,
    sharing: Mapping[str, Sharing] = _NOT_SHARED,
    listed: frozenset[str] = frozenset(),
    started: float | None = None,
    holders_known: bool = True,
) -> Ownership:
    wanted = frozenset(pids or ())
    instances: set[str] = set()
    for uuid in gpus:
        present = _instances(uuid, sharing)
        named = {instance.uuid for instance in present if instance.uuid in listed}
        # A partitioned GPU that is listed as a whole is narrowed to the instances that the server's processes use.
        instances |= named or {instance.uuid for instance in present if not wanted.isdisjoint(instance.pids)}
    return Ownership(
        claim.server,
        gpus,
        method,
        held,
        claim.model,
        claim.has_counters,
        pids=wanted,
        holders_known=holders_known,
        instances=frozenset(instances),
        spans_nodes=claim.spans_nodes,
        started_wall_seconds=started,
    )


def _instances(uuid: str, sharing: Mapping[str, Sharing]) -> tuple[Instance, ...]:
    shared = sharing.get(uuid)
    return shared.instances if shared is not None else ()


def _names(gpu: Gpu) -> tuple[str, str]:
    """Its UUID, and the name that a GPU of the meter ``external`` has in the configuration."""
    uuid = gpu.uuid.lower()
    return uuid, uuid.removeprefix("ext-")


def _is_called(gpu: Gpu, name: str) -> bool:
    lower = name.lower().removesuffix("...")
    if lower.startswith("mig-"):
        return lower in (uuid.lower() for uuid in gpu.mig_uuids)
    return any(_is_die_called(die, name, lower) for die in gpu.all_dies())


def _is_die_called(die: Die, name: str, lower: str) -> bool:
    if name.isdecimal():
        return die.index == int(name)
    if ":" in name:
        return bool(die.pci_bus_id) and bus_id(die.pci_bus_id) == bus_id(name)
    return bool(lower) and (die.uuid.lower().startswith(lower) or die.uuid.lower().startswith(f"gpu-{lower}"))


def bus_id(text: str) -> tuple[int, ...]:
    """Domain, bus, device, function: 00000000:65:00.0, 0000:65:00.0 and 65:00.0 are equal. Empty if the text is invalid."""
    try:
        parts = [int(part, 16) for part in text.replace(".", ":").split(":")]
    except ValueError:
        return ()
    return tuple(parts) if len(parts) == 4 else (0, *parts)
