"""From the processes of a server's tree to those of its container and its pod. Pure functions.

The processes on the GPUs may be no descendants of the process that listens: workers of Ray are children of its daemon, and
a proxy in a container of its own (a sidecar) may stand in front of the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tpw.discovery.ownership import Holders
from tpw.discovery.workload import Cgroup

_LEVELS: tuple[Callable[[Cgroup], str], ...] = (lambda cgroup: cgroup.container, lambda cgroup: cgroup.pod)


def widened(
    servers: Mapping[str, frozenset[int] | None],
    holders: Holders,
    cgroup_of: Callable[[int], Cgroup],
    is_detached: Callable[[int], bool] = lambda _pid: False,
) -> dict[str, frozenset[int] | None]:
    """The processes of each server, with those on GPUs that are only in its container, else in its pod.

    A server that holds a GPU by its own tree gets detached workers of its container only: a container may run a training
    job beside the server. Where a container or pod has several servers, its other processes belong to none of them.

    Args:
        servers: processes of each server by its tree; None if its address is not of this host.
        holders: process ids by GPU, from the driver.
        cgroup_of: what the cgroup of a process names.
        is_detached: whether a process is a worker that computes for a server of its container, by its name.
    """
    found = dict(servers)
    holding = {pid for pids in holders.values() for pid in pids or ()}
    for level in _LEVELS:
        served = {pid for pids in found.values() for pid in pids or ()}
        free = {pid: group for pid in holding - served if (group := level(cgroup_of(pid)))}
        if not free:
            break
        groups = {name: {level(cgroup_of(pid)) for pid in pids} - {""} for name, pids in found.items() if pids}
        for name, own in groups.items():
            pids = found[name] or frozenset()
            others = set().union(*(group for other, group in groups.items() if other != name))
            near = {pid for pid, group in free.items() if group in own - others}
            if not holding.isdisjoint(pids):
                near = {pid for pid in near if is_detached(pid)}
            found[name] = pids | near
    return found
