"""Which GPUs a server owns: the rule, as pure functions.

A server owns its GPUs while it answers, or while a process still holds them; a configured server that is gone owns
nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from tpw.model import Attribution, Gpu, Ownership

AUTO = "auto"
NONE = "none"

Holders = Mapping[str, Collection[int] | None]
"""Process ids that hold each GPU, by UUID; None where the driver does not say."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What is said about a server's GPUs.

    ``gpus`` is ``"auto"``, ``"none"``, or the listed names: an index, a UUID or the beginning of one, a PCI bus id.
    """

    server: str
    gpus: str | tuple[str, ...] = AUTO
    model: str = ""
    has_counters: bool = True
    """False for ranks without an address: they never answer."""


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


def resolve(names: Sequence[str | int], gpus: Sequence[Gpu]) -> Resolved:
    """Find listed GPUs among those that are there. What is not there is reported, not fatal."""
    found: set[str] = set()
    problems: list[str] = []
    for name in names:
        matches = {gpu.uuid for gpu in gpus if _is_called(gpu, str(name).strip())}
        if len(matches) == 1:
            found |= matches
        elif matches:
            problems.append(f"GPU {name} is several: {', '.join(sorted(matches))}; write more of its UUID")
        else:
            known = ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in gpus) or "none"
            problems.append(f"GPU {name} is not on this host; here are {known}")
    return Resolved(frozenset(found), tuple(problems))


def ownership(
    claim: Claim,
    *,
    answering: bool,
    pids: Collection[int] | None,
    holders: Holders,
    gpus: Sequence[Gpu],
    foreign_pids: Collection[int] = (),
    assigned: Assigned | None = None,
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

    Returns:
        ``gpus`` is empty when it owns nothing; ``held`` is whether a process still holds one of them.
    """
    if claim.gpus == NONE:
        return _owned(claim, frozenset(), Attribution.NONE, held=False)
    if claim.gpus == AUTO:
        mine = held_by(pids or (), holders)
        if not mine and assigned is not None and assigned.gpus:
            return _owned(claim, assigned.gpus, assigned.method, held=True)
        return _owned(claim, mine, Attribution.PROCESSES if mine else Attribution.NONE, held=bool(mine))
    names = (claim.gpus,) if isinstance(claim.gpus, str) else claim.gpus
    listed = resolve(names, gpus).gpus
    held = frozenset(uuid for uuid in listed if _is_held(uuid, holders, pids, foreign_pids, claim))
    if answering:
        return _owned(claim, listed, Attribution.CONFIGURED, held=bool(held))
    return _owned(claim, held, Attribution.CONFIGURED, held=bool(held))


def held_by(pids: Collection[int], holders: Holders) -> frozenset[str]:
    """GPUs that any of these processes holds."""
    wanted = frozenset(pids)
    return frozenset(uuid for uuid, holding in holders.items() if holding and not wanted.isdisjoint(holding))


def _is_held(
    uuid: str, holders: Holders, pids: Collection[int] | None, foreign_pids: Collection[int], claim: Claim
) -> bool:
    holding = holders.get(uuid)
    if holding is None:
        # The driver does not tell. Ranks without an address have nothing else to show that they are there.
        return not claim.has_counters
    if pids:
        return not frozenset(pids).isdisjoint(holding)
    return bool(frozenset(holding) - frozenset(foreign_pids))


def _owned(claim: Claim, gpus: frozenset[str], method: Attribution, *, held: bool) -> Ownership:
    return Ownership(claim.server, gpus, method, held, claim.model, claim.has_counters)


def _is_called(gpu: Gpu, name: str) -> bool:
    if name.isdecimal():
        return gpu.index == int(name)
    lower = name.lower().removesuffix("...")
    if lower.startswith("mig-"):
        return lower in (uuid.lower() for uuid in gpu.mig_uuids)
    if ":" in name:
        return bool(gpu.pci_bus_id) and _bus_id(gpu.pci_bus_id) == _bus_id(name)
    return bool(lower) and (gpu.uuid.lower().startswith(lower) or gpu.uuid.lower().startswith(f"gpu-{lower}"))


def _bus_id(text: str) -> tuple[int, ...]:
    """Domain, bus, device, function: 00000000:65:00.0, 0000:65:00.0 and 65:00.0 are one."""
    try:
        parts = [int(part, 16) for part in text.replace(".", ":").split(":")]
    except ValueError:
        return ()
    return tuple(parts) if len(parts) == 4 else (0, *parts)
