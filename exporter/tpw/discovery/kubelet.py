"""Which devices the kubelet assigned to which pod, from the checkpoint of its device manager.

Facts (kubernetes/kubernetes: pkg/kubelet/cm/devicemanager/checkpoint/checkpoint.go): JSON, rewritten and renamed into
place at every change. ``DeviceIDs`` of an entry maps a NUMA node to identifiers; before 1.20 it was a list. The
identifiers are the device plugin's: the UUID of a GPU or of a MIG instance, with the suffix ``::<n>`` if it is
time-sliced; ``nvidia<index>`` with GKE's plugin. The cgroup of a process names its pod, as ``pod<uid>``, with underscores
in the uid if systemd manages the cgroups.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tpw.discovery.environment import Allowed, gpu_by_uuid
from tpw.model import Gpu

GPU_RESOURCE = re.compile(r"(nvidia\.com/(gpu|mig-)|amd\.com/gpu)")
_GKE = re.compile(r"nvidia(\d+)(/|\Z)")


@dataclass(frozen=True, slots=True)
class Assignee:
    """A container, by the uid of its pod and by names; "" where they are unknown."""

    uid: str
    namespace: str = ""
    pod: str = ""
    container: str = ""


class Checkpoint:
    """The kubelet's checkpoint file.

    Args:
        path: its path. A missing file is not a problem: the host is not a Kubernetes node.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def devices(self) -> tuple[Mapping[str, frozenset[str]], str]:
        """GPU identifiers by pod uid, and a sentence about what is wrong with the file, or ""."""
        try:
            text = self._path.read_bytes()
        except FileNotFoundError:
            return {}, ""
        except OSError as error:
            return {}, (
                f"{self._path}: {error.strerror}, so the kubelet's assignment of GPUs to pods is unknown: run the exporter"
                " as a user that can read this file (it belongs to root)"
            )
        try:
            found: dict[str, frozenset[str]] = {}
            for pod, identifiers in _entries(json.loads(text)):
                found[pod] = found.get(pod, frozenset()) | identifiers
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}, f"{self._path}: not a checkpoint of the kubelet's device manager; it is ignored"
        return found, ""


def _entries(document: Any) -> Iterator[tuple[str, frozenset[str]]]:
    for entry in document["Data"]["PodDeviceEntries"] or ():
        if GPU_RESOURCE.match(entry["ResourceName"]):
            devices = entry["DeviceIDs"]
            lists = devices.values() if isinstance(devices, dict) else [devices]
            yield entry["PodUID"], frozenset(str(identifier) for node in lists for identifier in node)


class Kubelet:
    """What the kubelet of this node assigned, by its service for that, else by its checkpoint.

    Args:
        checkpoint: path of the checkpoint; a missing file is not a problem: the host is not a Kubernetes node.
        socket: path of the service's socket; "" for none.
    """

    def __init__(self, checkpoint: str, socket: str = "") -> None:
        self._checkpoint = Checkpoint(checkpoint)
        self._socket = socket

    def devices(self, servers: Mapping[str, Sequence[Assignee]]) -> tuple[Mapping[str, frozenset[str]], str]:
        """GPU identifiers by server, and a sentence about what is wrong, or "".

        Args:
            servers: the containers of each server's processes.
        """
        from tpw.discovery import podresources  # only nodes on which the driver lists no processes pay for it

        problem = ""
        try:
            assigned = podresources.devices(self._socket) if self._socket else {}
        except FileNotFoundError:
            assigned = {}
        except (OSError, podresources.RefusedError) as error:
            assigned = {}
            reason = error.strerror if isinstance(error, OSError) else str(error)
            problem = (
                f"{self._socket}: {reason}, so the kubelet's assignment of GPUs to pods is not read there: run the exporter"
                " as a user that can use this socket (it belongs to root)"
            )
        found = {name: _assigned(name, servers, assigned) for name in servers}
        if any(found.values()):
            return {name: devices for name, devices in found.items() if devices}, problem
        by_pod, damaged = self._checkpoint.devices()
        found = {name: frozenset().union(*(by_pod.get(one.uid, ()) for one in own)) for name, own in servers.items()}
        return {name: devices for name, devices in found.items() if devices}, problem or damaged


def _assigned(
    server: str, servers: Mapping[str, Sequence[Assignee]], assigned: Mapping[tuple[str, str, str], frozenset[str]]
) -> frozenset[str]:
    """Devices of a server's containers, else of the rest of their pods: a proxy in a container of its own has none."""
    containers = {name: {(one.namespace, one.pod, one.container) for one in own} for name, own in servers.items()}
    own = containers.pop(server)
    others = set[tuple[str, str, str]]().union(*containers.values())
    pods = {(namespace, pod) for namespace, pod, _ in own}
    near = [devices for key, devices in assigned.items() if key[:2] in pods and key not in others]
    return frozenset[str]().union(*(assigned.get(key, ()) for key in own)) or frozenset[str]().union(*near)


def devices_to_gpus(identifiers: frozenset[str], gpus: Sequence[Gpu]) -> Allowed:
    """The GPUs that a device plugin's identifiers name."""
    found: set[str] = set()
    problems: list[str] = []
    for identifier in sorted(identifiers):
        gke = _GKE.match(identifier)
        if gke:
            gpu = next((gpu for gpu in gpus if gpu.index == int(gke[1])), None)
        else:
            gpu = gpu_by_uuid(identifier.partition("::")[0], gpus)
        if gpu is None:
            problems.append(
                f"the kubelet assigned it {identifier}, which is not a GPU that the meters report on this host"
            )
        else:
            found.add(gpu.uuid)
    return Allowed(frozenset(found), tuple(problems))
