"""What of the host enters the facility boundary beside the boards, so that no joule enters twice.

Meters of a host lie inside one another: a node's (a BMC) holds everything, GPUs too; ``psys`` holds packages and memory; a
package holds its cores, though not the memory of servers; on a superchip whose board meter is the module's (Grace) the
boards hold the CPU. So exactly one of these rules is in force:

- ``node_minus_gpus``: a node meter was read of late. The host is what it showed less what was booked meanwhile. Where that
  is less than nothing (meters differ, a controller lags) the difference is owed, and the next intervals pay it first: host
  and boards together are never booked above what the node used.
- ``components``: CPU and memory as read (or ``psys`` in place of both).
- ``in_gpus``: a board's meter counts the module, and with it what CPU meters show: nothing is added.
- ``none``: no meter of the host is readable, or the configuration leaves the host out.

A node is read every 10 to 60 s, so its joules come in lumps that belong to the time before. They are given out evenly over
as long a time as they took to come: late by one interval, and not all to whoever worked in the second of the reading.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from tpw.ledger.books import HostAccount, HostShare
from tpw.model import HostMethod, Instant

NODE = "node"
PSYS = "psys"
COMPONENTS = ("cpu", "dram")

STALE_SECONDS = 150.0
"""A meter that was not read for so long, and for three of its intervals, is not there."""


def counted(components: Collection[str], *, boards_hold_cpu: bool) -> tuple[HostMethod, tuple[str, ...]]:
    """Which components are the host's share, and by which rule; of the node, GPUs are then to be taken off.

    Args:
        components: what is metered now.
        boards_hold_cpu: whether a GPU's own meter is that of a module with its CPU.
    """
    if NODE in components:
        return HostMethod.NODE, (NODE,)
    if not components:
        return HostMethod.NONE, ()
    if boards_hold_cpu:
        return HostMethod.IN_GPUS, ()
    if PSYS in components:
        return HostMethod.COMPONENTS, (PSYS,)
    found = tuple(name for name in COMPONENTS if name in components)
    return (HostMethod.COMPONENTS, found) if found else (HostMethod.NONE, ())


def beyond(node_joules: float, booked_joules: float, owed_joules: float) -> tuple[float, float]:
    """What of a node's joules is the host's, and what is owed then.

    Args:
        node_joules: what the node used since its last reading.
        booked_joules: what was booked of it in that time already: the boards', and the host's by another rule.
        owed_joules: what was booked above the node before.
    """
    balance = node_joules - booked_joules - owed_joules
    return max(0.0, balance), max(0.0, -balance)


@dataclass(frozen=True, slots=True)
class Rise:
    """What one reading of a host component added."""

    joules: float
    gap_seconds: float
    """Since the reading before; 0 for the first."""


def settle(
    share: HostShare,
    carry_joules: float,
    rises: Mapping[str, Rise],
    accounts: Mapping[str, HostAccount],
    boards_joules: float,
    now: Instant,
    *,
    boards_hold_cpu: bool,
) -> tuple[HostShare, float]:
    """One tick: what there is to give out from now on.

    Args:
        share: where the rule stood.
        carry_joules: what was not given out yet.
        rises: of the components that were read at this tick.
        accounts: of all components, with these readings.
        boards_joules: what is booked for the boards at this tick, of the time since ``share.since_seconds``.
        now: the tick.
        boards_hold_cpu: see :func:`counted`.

    Returns:
        The state after, and the joules to give out, these included.
    """
    fresh = [name for name, account in accounts.items() if _is_fresh(account, now.monotonic_seconds)]
    method, names = counted(fresh, boards_hold_cpu=boards_hold_cpu)
    booked = share.booked_joules + boards_joules
    owed, release, since = share.owed_joules, share.release_watts, share.since_seconds
    if method is not HostMethod.NODE:
        given = sum(rises[name].joules for name in names if name in rises)
        return replace(share, method=method, booked_joules=booked + given, release_watts=0.0), carry_joules + given
    node = rises.get(NODE)
    if node is not None:
        # Without a believable rise nothing is known of the time before it: it is neither the host's nor owed.
        if node.joules > 0.0 and node.gap_seconds > 0.0:
            given, owed = beyond(node.joules, booked, owed)
            carry_joules += given
            release = carry_joules / node.gap_seconds
        else:
            since = now.wall_seconds
        booked = 0.0
    return HostShare(method, booked, owed, since, release), carry_joules


def given_out(share: HostShare, carry_joules: float, elapsed_seconds: float) -> float:
    """How many of the joules that are there are shared among the boards at this tick."""
    if share.release_watts <= 0.0:
        return carry_joules
    return min(carry_joules, share.release_watts * elapsed_seconds)


def _is_fresh(account: HostAccount, now_seconds: float) -> bool:
    at = account.baseline_at_seconds
    return at is not None and now_seconds - at <= max(STALE_SECONDS, 3.0 * account.gap_seconds)
