"""The name of a server that is found: its workload, the same on every node and at every address. Pure functions."""

from __future__ import annotations

from collections.abc import Collection

from tpw.model import ServerWorkload, WorkloadKind, label_text, replica_name


def server_name(
    owner: ServerWorkload,
    engine: str,
    port: int | str | None,
    taken: Collection[str],
    *,
    model: str = "",
    is_alone: bool = True,
    shares_network: bool = True,
) -> str:
    """The name of a server.

    ``namespace/workload`` in a pod, with ``/container`` where several containers of it serve; else ``job-`` and the id of
    a Slurm job, the systemd unit, or the id of a container with a network of its own. Where none of these names it, and in
    pods with unknown names, the engine and the port. A second server with the same name has a number; in a pod with a known
    name it is a replica (:func:`tpw.model.replica_name`), whichever model it has.

    Args:
        owner: to whom its process belongs.
        engine: name of the engine.
        port: where it listens: its port, or the name of its Unix socket.
        taken: names of the other servers of this node.
        model: the model, for a server that another one starts for it.
        is_alone: whether only one container of its pod serves.
        shares_network: whether it is in the exporter's network namespace.
    """
    workload = _workload(owner, is_alone=is_alone, shares_network=shares_network)
    named = f"{workload}/{model}" if model else workload
    name = label_text(named if workload else f"{engine}-{model or port}")
    others = (replica_name(name, n) if owner.namespace else f"{name}:{n}" for n in range(2, len(taken) + 3))
    return next(one for one in (name, *others) if one not in taken)


def _workload(owner: ServerWorkload, *, is_alone: bool, shares_network: bool) -> str:
    if owner.namespace:
        name = f"{owner.namespace}/{owner.workload}"
        return name if is_alone or not owner.container else f"{name}/{owner.container}"
    if owner.kind == WorkloadKind.SLURM:
        return f"job-{owner.workload}"
    if owner.kind == WorkloadKind.SYSTEMD:
        return owner.workload
    return owner.workload if owner.kind == WorkloadKind.CONTAINER and not shares_network else ""
