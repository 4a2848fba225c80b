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
from pathlib import Path
from typing import Any

from tpw.discovery.environment import Allowed, gpu_by_uuid
from tpw.model import Gpu

_POD = re.compile(rb"pod([0-9a-f]{8}[-_](?:[0-9a-f]{4}[-_]){3}[0-9a-f]{12})")
_GPU_RESOURCE = re.compile(r"(nvidia\.com/(gpu|mig-)|amd\.com/gpu)")
_GKE = re.compile(r"nvidia(\d+)(/|\Z)")


def pod_of(cgroup: bytes) -> str | None:
    """The uid of the pod that a process is in, from its cgroups; None if it is in none."""
    found = _POD.search(cgroup)
    return found[1].decode("ascii").replace("_", "-") if found else None


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
        if _GPU_RESOURCE.match(entry["ResourceName"]):
            devices = entry["DeviceIDs"]
            lists = devices.values() if isinstance(devices, dict) else [devices]
            yield entry["PodUID"], frozenset(str(identifier) for node in lists for identifier in node)


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
