"""Names of pods and containers, without any right: the kubelet names the directories of their logs after them.

``/var/log/pods/<namespace>_<pod>_<uid>`` and ``/var/log/containers/<pod>_<namespace>_<container>-<id>.log`` (a link). A
static pod has a digest of 32 digits for its uid there, as in its cgroup.

Names of pods show their workload: a Deployment's pods are ``<name>-<hash>-<suffix>``, where the hash is a number in the ten
characters of ``rand.SafeEncodeString`` that digits become, and the suffix five of its 27 (kubernetes/apimachinery,
pkg/util/rand); a StatefulSet's are ``<name>-<ordinal>``; those of a Job or a DaemonSet ``<name>-<suffix>``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_DEPLOYMENT = re.compile(r"(.+)-[456789bcdf]{5,10}-[bcdfghjklmnpqrstvwxz2456789]{5}\Z")
_STATEFUL_SET = re.compile(r"(.+)-(\d{1,5})\Z")
_SUFFIXED = re.compile(r"(.+)-[bcdfghjklmnpqrstvwxz2456789]{5}\Z")
_CONTAINER_LOG = re.compile(r"[^_]+_[^_]+_(.+)-([0-9a-f]{64})\.log\Z")


@dataclass(frozen=True, slots=True)
class PodName:
    """A pod and its workload."""

    namespace: str
    pod: str

    @property
    def workload(self) -> str:
        """Name of the workload."""
        return workload_of_pod(self.pod)[0]

    @property
    def kind(self) -> str:
        """``deployment``, ``statefulset``, or ``pod`` where the name does not show it."""
        return workload_of_pod(self.pod)[1]


def workload_of_pod(pod: str) -> tuple[str, str]:
    """Name and kind of a pod's workload, by the pod's name."""
    for pattern, kind in ((_DEPLOYMENT, "deployment"), (_STATEFUL_SET, "statefulset"), (_SUFFIXED, "pod")):
        found = pattern.match(pod)
        if found:
            return found[1], kind
    return pod, "pod"


class PodNames:
    """Names by uid and by container id. A name that was found is kept while it is there: it never changes.

    Args:
        directory: the kubelet's directory of pod logs; that of the container logs is beside it.
    """

    def __init__(self, directory: str) -> None:
        self._pods_directory = Path(directory)
        self._containers_directory = Path(directory).parent / "containers"
        self._pods: dict[str, PodName] = {}
        self._containers: dict[str, str] = {}
        self._listed_pods = self._listed_containers = False

    def forget(self) -> None:
        """Start a new scan: unknown names may be there now."""
        self._listed_pods = self._listed_containers = False

    def pod(self, uid: str) -> PodName | None:
        """The pod with a uid; None if it is unknown."""
        if uid not in self._pods and not self._listed_pods:
            self._listed_pods = True
            parts = (name.split("_") for name in _names(self._pods_directory))
            self._pods = {found[2]: PodName(found[0], found[1]) for found in parts if len(found) == 3}
        return self._pods.get(uid)

    def container(self, identifier: str) -> str:
        """The name of a pod's container; "" if it is unknown."""
        if identifier and identifier not in self._containers and not self._listed_containers:
            self._listed_containers = True
            matches = (_CONTAINER_LOG.match(name) for name in _names(self._containers_directory))
            self._containers = {found[2]: found[1] for found in matches if found}
        return self._containers.get(identifier, "")


def _names(directory: Path) -> Iterable[str]:
    try:
        return os.listdir(directory)  # noqa: PTH208 - names only
    except OSError:
        return ()
