"""Which devices the kubelet has given to which pod, from the file in which its device manager keeps that.

Facts (kubernetes/kubernetes: pkg/kubelet/cm/devicemanager/checkpoint/checkpoint.go): JSON, written anew (and moved into
place) at every change. ``DeviceIDs`` of an entry is a mapping of NUMA node to identifiers; before 1.20 it was a list. The
identifiers are the device plugin's: the UUID of a GPU or of a MIG instance, ``::<n>`` behind it where it is shared in time,
``nvidia<index>`` with GKE's plugin. The cgroup of a process names its pod, as ``pod<uid>``, with underscores in the uid
where systemd manages the groups.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tpw.discovery.environment import Allowed, named_by
from tpw.model import Gpu

_POD = re.compile(rb"pod([0-9a-f]{8}[-_](?:[0-9a-f]{4}[-_]){3}[0-9a-f]{12})")
_GPU_RESOURCE = re.compile(r"(nvidia\.com/(gpu|mig-)|amd\.com/gpu)")
_GKE = re.compile(r"nvidia(\d+)(/|\Z)")


def pod_of(cgroup: bytes) -> str | None:
    """The uid of the pod that a process is in, from its control groups; None where it is in none."""
    found = _POD.search(cgroup)
    return found[1].decode("ascii").replace("_", "-") if found else None


class Checkpoint:
    """The kubelet's file.

    Args:
        path: where it is; that it is not there is no problem.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def devices(self) -> tuple[Mapping[str, frozenset[str]], str]:
        """Identifiers of GPUs by pod uid, and in words what is wrong with the file; "" where nothing is."""
        try:
            text = self._path.read_bytes()
        except FileNotFoundError:
            return {}, ""
        except OSError as error:
            return {}, (
                f"{self._path}: {error.strerror}, so the kubelet's assignment of GPUs to pods is not known: the exporter's"
                " user must be able to read it (it is root's)"
            )
        try:
            found: dict[str, frozenset[str]] = {}
            for pod, identifiers in _entries(json.loads(text)):
                found[pod] = found.get(pod, frozenset()) | identifiers
        except (ValueError, KeyError, TypeError, AttributeError):
            return {}, f"{self._path}: not a checkpoint of the kubelet's device manager; it is not used"
        return found, ""


def _entries(document: Any) -> Iterator[tuple[str, frozenset[str]]]:
    for entry in document["Data"]["PodDeviceEntries"] or ():
        if _GPU_RESOURCE.match(entry["ResourceName"]):
            devices = entry["DeviceIDs"]
            lists = devices.values() if isinstance(devices, dict) else [devices]
            yield entry["PodUID"], frozenset(str(identifier) for each in lists for identifier in each)


def given(identifiers: frozenset[str], gpus: Sequence[Gpu]) -> Allowed:
    """The GPUs that identifiers of a device plugin mean."""
    found: set[str] = set()
    problems: list[str] = []
    for identifier in sorted(identifiers):
        gke = _GKE.match(identifier)
        if gke:
            gpu = next((gpu for gpu in gpus if gpu.index == int(gke[1])), None)
        else:
            gpu = named_by(identifier.partition("::")[0], gpus)
        if gpu is None:
            problems.append(f"the kubelet gave it {identifier}, which is no GPU that is seen here")
        else:
            found.add(gpu.uuid)
    return Allowed(frozenset(found), tuple(problems))
