"""To whom a process belongs, from its cgroup. Pure functions.

/proc/PID/cgroup is world-readable, so no privilege is needed. It has one line ``0::PATH`` with cgroup v2, and one line
``ID:CONTROLLERS:PATH`` per hierarchy with v1. Forms of the paths:

- Kubernetes: ``/kubepods/burstable/pod<uid>/<container>`` (cgroupfs driver), or with dashes in the uid replaced
  ``/kubepods.slice/.../kubepods-burstable-pod<uid>.slice/cri-containerd-<container>.scope`` (systemd driver; ``crio-``,
  ``docker-``). A static pod has a digest of 32 digits in place of the uid.
- Slurm: ``/slurm/uid_1000/job_4711/step_0/...`` (v1), ``/system.slice/slurmstepd.scope/job_4711/step_0/...`` (v2).
- Docker: ``/docker/<container>``, ``/system.slice/docker-<container>.scope``; Podman: ``.../libpod-<container>.scope``;
  LXC: ``/lxc.payload.<name>``, ``/lxc/<name>``.
- systemd: ``/system.slice/<name>.service``. A login session is a scope (``session-3.scope``) and ``user@1000.service`` is
  the manager of a user's units: neither names a workload.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tpw.model import Workload, WorkloadKind

_POD = re.compile(r"pod([0-9a-f]{8}[-_](?:[0-9a-f]{4}[-_]){3}[0-9a-f]{12}|[0-9a-f]{32})")
_CONTAINER = re.compile(r"(?:\A|[/:-])([0-9a-f]{64})(?:\.scope)?(?:/|\Z)")
_JOB = re.compile(r"slurm.*?/job_(\d+)")
_LXC = re.compile(r"/lxc(?:\.payload\.|/)([^/]+)")
_UNIT = re.compile(r"/([^/]+\.service)(?=/|\Z)")
_USERS_MANAGER = re.compile(r"user@\d+\.service\Z")
_SHOWN_DIGITS = 12
"""Digits of a container's id that ``docker ps`` and ``podman ps`` show."""

MAX_NAME_LENGTH = 128


@dataclass(frozen=True, slots=True)
class Cgroup:
    """What a process's cgroup names; "" where it names none."""

    pod: str = ""
    """Uid of the pod."""
    container: str = ""
    """Id of the container, in full."""
    job: str = ""
    """Slurm job id."""
    lxc: str = ""
    """Name of the LXC container."""
    unit: str = ""
    """systemd service, the innermost."""


def parse(cgroup: bytes) -> Cgroup:
    """What /proc/PID/cgroup names, whichever of its hierarchies names it."""
    paths = list(_paths(cgroup))
    units = [unit for path in paths for unit in _UNIT.findall(path) if not _USERS_MANAGER.match(unit)]
    return Cgroup(
        pod=_first(_POD, paths).replace("_", "-"),
        container=_first(_CONTAINER, paths),
        job=_first(_JOB, paths),
        lxc=_first(_LXC, paths),
        unit=units[-1] if units else "",
    )


def workload_of(cgroup: Cgroup, user: str, command: str) -> Workload:
    """The workload of a process.

    Args:
        cgroup: what its cgroup names.
        user: name or id of its user; "" where it is unknown.
        command: what it runs, without arguments.
    """
    if cgroup.pod:
        container = cgroup.container[:_SHOWN_DIGITS]
        return _workload(WorkloadKind.KUBERNETES, f"{cgroup.pod}/{container}" if container else cgroup.pod)
    if cgroup.job:
        return _workload(WorkloadKind.SLURM, cgroup.job)
    if cgroup.container or cgroup.lxc:
        return _workload(WorkloadKind.CONTAINER, cgroup.container[:_SHOWN_DIGITS] or cgroup.lxc)
    if cgroup.unit:
        return _workload(WorkloadKind.SYSTEMD, cgroup.unit)
    return _workload(WorkloadKind.COMMAND, f"{user}: {command}" if user else command)


def _workload(kind: WorkloadKind, name: str) -> Workload:
    printable = "".join(character if character.isprintable() else "?" for character in name)
    return Workload(kind, printable[:MAX_NAME_LENGTH] or "unknown")


def _paths(cgroup: bytes) -> Iterator[str]:
    for line in cgroup.decode("utf-8", "replace").splitlines():
        _, _, path = line.partition(":")[2].partition(":")
        if path:
            yield path


def _first(pattern: re.Pattern[str], paths: list[str]) -> str:
    return next((found[1] for path in paths if (found := pattern.search(path)) is not None), "")
