"""Which part of the host's energy enters the facility boundary beside the GPUs, so that no joule enters twice.

Meters of a host overlap: a node's (BMC) covers everything, GPUs included; ``psys`` covers packages and memory; a package
covers its cores, but not the memory of servers; the module meter of a superchip (Grace) covers GPU and CPU. Exactly one of
these rules is in force:

- ``node_minus_gpus``: a node meter is fresh. The host is the node's energy less what was booked meanwhile. If that is
  negative (meters differ, a controller lags) the difference is owed, and the next intervals pay it first: host and GPUs
  together never exceed the node.
- ``components``: CPU and memory as read (or ``psys`` in place of both).
- ``in_gpus``: a GPU's meter covers the module, CPU included: nothing is added.
- ``none``: no meter of the host is readable, or the configuration excludes the host.

A node is read every 10 to 60 s, so its joules arrive in lumps that belong to the time before. They are released evenly
over as long a time as they cover: one interval late, but not all to the server that worked in the second of the reading.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from tpw.ledger.books import HostAccount, HostShare
from tpw.ledger.replacing import replace
from tpw.model import HostMethod, Instant

NODE = "node"
PSYS = "psys"
COMPONENTS = ("cpu", "dram")

STALE_SECONDS = 150.0
"""A meter that was not read for this long, nor for three of its intervals, is absent. Tuning: above the slowest poll."""


def counted_components(components: Collection[str], *, gpus_hold_cpu: bool) -> tuple[HostMethod, tuple[str, ...]]:
    """The rule, and the components that are the host's share by it. The GPUs are part of a node's.

    Args:
        components: what is metered now.
        gpus_hold_cpu: whether a GPU's meter covers a module with its CPU.
    """
    if NODE in components:
        return HostMethod.NODE, (NODE,)
    if not components:
        return HostMethod.NONE, ()
    if gpus_hold_cpu:
        return HostMethod.IN_GPUS, ()
    if PSYS in components:
        return HostMethod.COMPONENTS, (PSYS,)
    found = tuple(name for name in COMPONENTS if name in components)
    return (HostMethod.COMPONENTS, found) if found else (HostMethod.NONE, ())


def excess(node_joules: float, booked_joules: float, owed_joules: float) -> tuple[float, float]:
    """The host's part of a node's joules, and what is owed afterwards.

    Args:
        node_joules: what the node used since its last reading.
        booked_joules: what was booked for that time: GPUs, and the host by another rule.
        owed_joules: what was booked above the node before.
    """
    balance = node_joules - booked_joules - owed_joules
    return max(0.0, balance), max(0.0, -balance)


@dataclass(frozen=True, slots=True)
class Rise:
    """The rise of one host component."""

    joules: float
    gap_seconds: float
    """Since the reading before; 0 for the first."""


def share_host(
    share: HostShare,
    carry_joules: float,
    rises: Mapping[str, Rise],
    accounts: Mapping[str, HostAccount],
    gpu_joules: float,
    now: Instant,
    *,
    gpus_hold_cpu: bool,
) -> tuple[HostShare, float]:
    """One tick of the host's share.

    Args:
        share: the state before.
        carry_joules: joules that were not released yet.
        rises: components that were read at this tick.
        accounts: all components, these readings included.
        gpu_joules: joules booked for GPUs at this tick, used since ``share.since_seconds``.
        now: the tick.
        gpus_hold_cpu: see :func:`counted_components`.

    Returns:
        The state after, and the joules to release, these included.
    """
    fresh = [name for name, account in accounts.items() if _is_fresh(account, now.monotonic_seconds)]
    method, names = counted_components(fresh, gpus_hold_cpu=gpus_hold_cpu)
    booked = share.booked_joules + gpu_joules
    owed, release, since = share.owed_joules, share.release_watts, share.since_seconds
    if method is not HostMethod.NODE:
        given = sum(rises[name].joules for name in names if name in rises)
        return replace(share, method=method, booked_joules=booked + given, release_watts=0.0), carry_joules + given
    node = rises.get(NODE)
    if node is not None:
        # Without a plausible rise the time before it is unknown: neither the host's nor owed.
        if node.joules > 0.0 and node.gap_seconds > 0.0:
            given, owed = excess(node.joules, booked, owed)
            carry_joules += given
            release = carry_joules / node.gap_seconds
        else:
            since = now.wall_seconds
        booked = 0.0
    return HostShare(method, booked, owed, since, release), carry_joules


def released_joules(share: HostShare, carry_joules: float, elapsed_seconds: float) -> float:
    """The joules that the GPUs share at this tick."""
    if share.release_watts <= 0.0:
        return carry_joules
    return min(carry_joules, share.release_watts * elapsed_seconds)


def _is_fresh(account: HostAccount, now_seconds: float) -> bool:
    at = account.baseline_at_seconds
    return at is not None and now_seconds - at <= max(STALE_SECONDS, 3.0 * account.gap_seconds)
