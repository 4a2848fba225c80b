"""Which GPUs a server owns: the rule, as pure functions.

A server owns its GPUs while it answers, or while a process still holds them; a configured server that is gone owns
nothing. On a partitioned GPU (MIG) it owns the instances that its processes sit on, or that are listed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from tpw.model import Attribution, Die, Gpu, Instance, Ownership, Sharing

AUTO = "auto"
NONE = "none"

Holders = Mapping[str, Collection[int] | None]
"""Process ids that hold each GPU, by UUID; None where the driver does not say."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What is said about a server's GPUs.

    ``gpus`` is ``"auto"``, ``"none"``, or the listed names: an index, a UUID or the beginning of one (of a GPU or of an
    instance, ``MIG-...``), a PCI bus id, the name of a board of the meter ``external``.
    """

    server: str
    gpus: str | tuple[str, ...] = AUTO
    model: str = ""
    has_counters: bool = True
    """False for ranks without an address: they never answer."""
    spans_nodes: bool = False
    """True where it has GPUs on other nodes as well."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """GPUs that a server's processes were given, and how that is known. They are there as long as the processes are."""

    gpus: frozenset[str]
    method: Attribution


@dataclass(frozen=True, slots=True)
class Resolved:
    """Listed names as UUIDs, and in words what could not be found."""

    gpus: frozenset[str]
    problems: tuple[str, ...] = ()
    instances: frozenset[str] = frozenset()
    """Of the instances that were listed; their GPUs are in ``gpus``."""


_NOBODY: Mapping[str, Sharing] = {}


def resolve(names: Sequence[str | int], gpus: Sequence[Gpu], sharing: Mapping[str, Sharing] = _NOBODY) -> Resolved:
    """Find listed GPUs, and instances of GPUs, among those that are there. What is not there is reported, not fatal."""
    found: set[str] = set()
    instances: set[str] = set()
    problems: list[str] = []
    for name in names:
        called = str(name).strip().lower().removesuffix("...")
        of_instances = [
            (uuid, instance.uuid)
            for uuid, of in sharing.items()
            for instance in of.instances
            if called.startswith("mig-") and instance.uuid.lower().startswith(called)
        ]
        if len(of_instances) == 1:
            found.add(of_instances[0][0])
            instances.add(of_instances[0][1])
            continue
        if of_instances:
            several = ", ".join(sorted(instance for _, instance in of_instances))
            problems.append(f"instance {name} is several: {several}; write more of its UUID")
            continue
        # Of an instance nothing more may be known than which board it is on: then it means that board.
        matches = {gpu.uuid for gpu in gpus if called in _names(gpu)} or {
            gpu.uuid for gpu in gpus if _is_called(gpu, str(name).strip())
        }
        if len(matches) == 1:
            found |= matches
        elif matches:
            problems.append(f"GPU {name} is several: {', '.join(sorted(matches))}; write more of its UUID")
        else:
            boards = [f"{gpu.index} ({gpu.uuid})" for gpu in gpus]
            known = ", ".join((*boards, *(i.uuid for of in sharing.values() for i in of.instances))) or "none"
            problems.append(f"GPU {name} is not on this host; here are {known}")
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
    sharing: Mapping[str, Sharing] = _NOBODY,
) -> Ownership:
    """Which GPUs a server owns now.

    Args:
        claim: what the configuration says.
        answering: whether its counters could be read just now.
        pids: the server's processes, where they are known; None where they are not (it listens elsewhere).
        holders: from the driver.
        gpus: all GPUs there are.
        foreign_pids: processes that are known to be other servers': that they hold a GPU says nothing for this one.
        assigned: what else is known of a server whose processes the driver's lists do not show.
        sharing: who uses how much of each GPU, and its instances, as far as the driver tells.

    Returns:
        ``gpus`` is empty when it owns nothing; ``held`` is whether a process still holds one of them.
    """
    if claim.gpus == NONE:
        return _owned(claim, frozenset(), Attribution.NONE, held=False)
    if claim.gpus == AUTO:
        mine = held_by(pids or (), holders)
        if not mine and assigned is not None and assigned.gpus:
            return _owned(claim, assigned.gpus, assigned.method, held=True, pids=pids, sharing=sharing)
        method = Attribution.PROCESSES if mine else Attribution.NONE
        return _owned(claim, mine, method, held=bool(mine), pids=pids, sharing=sharing)
    names = (claim.gpus,) if isinstance(claim.gpus, str) else claim.gpus
    listed = resolve(names, gpus, sharing)
    held = frozenset(
        uuid
        for uuid in listed.gpus
        if _is_held(_holding(uuid, listed.instances, holders, sharing), pids, foreign_pids, claim)
    )
    owned = listed.gpus if answering else held
    return _owned(
        claim, owned, Attribution.CONFIGURED, held=bool(held), pids=pids, sharing=sharing, listed=listed.instances
    )


def held_by(pids: Collection[int], holders: Holders) -> frozenset[str]:
    """GPUs that any of these processes holds."""
    wanted = frozenset(pids)
    return frozenset(uuid for uuid, holding in holders.items() if holding and not wanted.isdisjoint(holding))


def _holding(
    uuid: str, listed: frozenset[str], holders: Holders, sharing: Mapping[str, Sharing]
) -> Collection[int] | None:
    """Processes on a GPU; where instances of it are listed, on those."""
    instances = [instance for instance in _instances(uuid, sharing) if instance.uuid in listed]
    if instances:
        return frozenset().union(*(instance.pids for instance in instances))
    return holders.get(uuid)


def _is_held(
    holding: Collection[int] | None, pids: Collection[int] | None, foreign_pids: Collection[int], claim: Claim
) -> bool:
    if holding is None:
        # The driver does not tell. Ranks without an address have nothing else to show that they are there.
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
    sharing: Mapping[str, Sharing] = _NOBODY,
    listed: frozenset[str] = frozenset(),
) -> Ownership:
    wanted = frozenset(pids or ())
    shares: dict[str, float] = {}
    instances: set[str] = set()
    for uuid in gpus:
        there = _instances(uuid, sharing)
        named = {instance.uuid for instance in there if instance.uuid in listed}
        # A partitioned GPU that is listed as a whole is narrowed to what the server's processes are seen to sit on.
        instances |= named or {instance.uuid for instance in there if not wanted.isdisjoint(instance.pids)}
        usage = sharing[uuid].usage if uuid in sharing else None
        if usage is not None and wanted:
            shares[uuid] = sum(percent for pid, percent in usage.items() if pid in wanted)
    return Ownership(
        claim.server,
        gpus,
        method,
        held,
        claim.model,
        claim.has_counters,
        shares=shares,
        instances=frozenset(instances),
        spans_nodes=claim.spans_nodes,
    )


def _instances(uuid: str, sharing: Mapping[str, Sharing]) -> tuple[Instance, ...]:
    of = sharing.get(uuid)
    return of.instances if of is not None else ()


def _names(gpu: Gpu) -> tuple[str, str]:
    """Its whole UUID, and without the word before it: a board that the configuration itself named is called so again."""
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
    """Domain, bus, device, function: 00000000:65:00.0, 0000:65:00.0 and 65:00.0 are one. Empty where the text is none."""
    try:
        parts = [int(part, 16) for part in text.replace(".", ":").split(":")]
    except ValueError:
        return ()
    return tuple(parts) if len(parts) == 4 else (0, *parts)
