"""Whether a configured server runs on this node, and whether its listed GPUs can be its own. Pure functions.

All nodes of a fleet have the same configuration: a server in it is read, and its GPUs are charged, on one node.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Sequence
from enum import StrEnum
from urllib.parse import urlsplit

from tpw.discovery.ownership import AUTO, NONE, Claim, Holders, held_by, resolve
from tpw.model import Gpu


class Place(StrEnum):
    """Where the address of a server is."""

    HERE = "here"
    """It is an address of this node or of a container on it."""
    ELSEWHERE = "elsewhere"
    """It is none of them."""
    UNKNOWN = "unknown"
    """The host name is not resolved, or the host's processes, and so its containers, are not visible."""


def is_loopback(url: str) -> bool:
    """Whether an address is of this host in any case."""
    if url.startswith("unix:"):
        return True
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def justified(
    claim: Claim,
    *,
    pids: Collection[int] | None,
    has_answered: bool,
    holders: Holders,
    blind: Collection[str],
    gpus: Sequence[Gpu],
) -> tuple[Claim, str]:
    """The claim without listed GPUs that strangers hold, and why as a sentence, or "".

    Args:
        claim: a server's GPUs according to the configuration.
        pids: its processes; empty if none is known at its address, None if the address is not of this host.
        has_answered: whether it has ever answered here.
        holders: process ids by GPU, from the driver.
        blind: GPUs for which the driver lists no processes of this pid namespace.
        gpus: all GPUs of this host.
    """
    if not isinstance(claim.gpus, tuple) or not claim.has_counters or pids is None:
        return claim, ""
    listed = resolve(claim.gpus, gpus).gpus
    own = frozenset(pids)
    strange = {uuid for uuid in listed - frozenset(blind) if (held := holders.get(uuid)) and own.isdisjoint(held)}
    if not listed or strange != listed:
        return claim, ""
    owned = held_by(own, holders)
    names = ", ".join(str(name) for name in claim.gpus)
    if owned:
        indices = ", ".join(str(gpu.index) for gpu in gpus if gpu.uuid in owned)
        return _with_gpus(claim, AUTO), (
            f"server {claim.server}: its `gpus` ({names}) are held by other processes, and its own processes hold GPU"
            f" {indices}, which is used: correct `gpus`, or leave it out"
        )
    if not own and not has_answered:
        return _with_gpus(claim, NONE), (
            f"server {claim.server}: nothing listens at its address on this node, and its `gpus` ({names}) are held by"
            " other processes, so they are not charged to it"
        )
    return claim, ""


def _with_gpus(claim: Claim, gpus: str) -> Claim:
    return Claim(claim.server, gpus, claim.model, claim.has_counters, claim.spans_nodes)
