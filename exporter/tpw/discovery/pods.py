"""Pods as the Kubernetes API describes them, and to which workload each belongs. Pure functions.

Facts:

- The pods of a Deployment belong to a ReplicaSet that is named ``<deployment>-<hash>``, and have the hash as their label
  ``pod-template-hash`` (kubernetes/kubernetes, pkg/controller/deployment); a Rollout of Argo does the same with
  ``rollouts-pod-template-hash``. The Job of a CronJob is ``<cronjob>-<minute>``, in minutes since 1970.
- Controllers of servers make other objects that own the pods, with names that change at an upgrade, and label the pods
  with their own name: LeaderWorkerSet ``leaderworkerset.sigs.k8s.io/name``; KubeRay ``ray.io/originated-from-cr-name``
  (RayService, RayCluster, RayJob), before 1.1 ``ray.io/cluster``; KServe ``serving.kserve.io/inferenceservice``.
- The uid in the cgroup of a static pod is that of its file, which its mirror in the API has as the annotation
  ``kubernetes.io/config.hash``.
- ``containerID`` is ``<runtime>://<64 digits>``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tpw.model import label_text

_WORKLOAD_LABELS = (
    ("leaderworkerset.sigs.k8s.io/name", "leaderworkerset"),
    ("serving.kserve.io/inferenceservice", "inferenceservice"),
    ("ray.io/originated-from-cr-name", "ray"),
    ("ray.io/cluster", "raycluster"),
)
"""Label with the name of the workload -> its kind."""
_RAY_KIND = "ray.io/originated-from-crd"
_DEPLOYMENT_LABELS = (
    "nvidia.com/dynamo-graph-deployment-name",
    "leaderworkerset.sigs.k8s.io/name",
    "serving.kserve.io/inferenceservice",
    "ray.io/originated-from-cr-name",
    "ray.io/cluster",
    "llm-d.ai/model",
)
"""Labels that name what several pools make together, best first. KServe's LLMInferenceService has its name as the
``app.kubernetes.io/name`` of its pods, which are ``app.kubernetes.io/part-of`` ``llminferenceservice``."""
_TEMPLATE_HASHES = (("pod-template-hash", "deployment"), ("rollouts-pod-template-hash", "rollout"))
_CRON_JOB = re.compile(r"(.+)-\d{8,10}\Z")
_CONFIG_HASH = "kubernetes.io/config.hash"
_SCRAPE = ("prometheus.io/", "prometheus.kserve.io/")
_METRICS_PORTS = ("metrics", "http-metrics", "system")
"""Names of ports with a metrics page: by convention, and that of Dynamo's workers."""
_LLM_SERVICE = "llminferenceservice"
_INVALID_IN_LABELS = re.compile(r"[^a-zA-Z0-9_]")


@dataclass(frozen=True, slots=True)
class Port:
    """A port that a pod declares."""

    name: str
    number: int
    container: str
    is_sidecar: bool = False
    """Of an init container that goes on, such as a proxy."""


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of this node."""

    uid: str
    """As the cgroups of its processes name it."""
    namespace: str
    pod: str
    workload: str
    """Name of what manages it, through all objects between."""
    kind: str
    """Of the workload: ``deployment``, ``statefulset``, ``leaderworkerset``, ...; ``pod`` without one."""
    deployment: str
    """``namespace/name`` of what it makes together with other pools; its workload where it does so alone."""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    """Those by which Prometheus finds its targets."""
    containers: Mapping[str, str] = field(default_factory=dict)
    """Name by id."""
    ports: tuple[Port, ...] = ()
    address: str = ""


def pod_of_object(document: Mapping[str, Any], deployment_labels: Sequence[str] = ()) -> Pod:
    """The pod in an answer of the API. ``deployment_labels`` are read before the well-known ones. Raises KeyError,
    TypeError or AttributeError for another document."""
    metadata, spec, status = document["metadata"], document.get("spec") or {}, document.get("status") or {}
    labels, annotations = _texts(metadata.get("labels")), _texts(metadata.get("annotations"))
    namespace, pod = label_text(str(metadata["namespace"])), label_text(str(metadata["name"]))
    workload, kind = _workload(pod, labels, metadata.get("ownerReferences") or ())
    if labels.get("app.kubernetes.io/part-of") == _LLM_SERVICE:
        labels_of_service: tuple[str, ...] = ("app.kubernetes.io/name", *_DEPLOYMENT_LABELS)
    else:
        labels_of_service = _DEPLOYMENT_LABELS
    names = (labels[label] for label in (*deployment_labels, *labels_of_service) if labels.get(label))
    return Pod(
        annotations.get(_CONFIG_HASH) or str(metadata["uid"]),
        namespace,
        pod,
        workload,
        kind,
        f"{namespace}/{next(names, workload)}",
        labels,
        {name: value for name, value in annotations.items() if name.startswith(_SCRAPE)},
        dict(_containers(status)),
        tuple(_ports(spec)),
        str(status.get("podIP") or ""),
    )


def _texts(mapping: Mapping[str, Any] | None) -> Mapping[str, str]:
    return {name: label_text(str(value)) for name, value in (mapping or {}).items()}


def _workload(pod: str, labels: Mapping[str, str], owners: Iterable[Mapping[str, Any]]) -> tuple[str, str]:
    """Name and kind of a pod's workload."""
    for label, kind in _WORKLOAD_LABELS:
        if labels.get(label):
            return labels[label], labels.get(_RAY_KIND, "").lower() or kind if kind == "ray" else kind
    owner = next((one for one in owners if one.get("controller")), None)
    if owner is None or owner["kind"] == "Node":
        return pod, "pod"
    kind, name = label_text(owner["kind"].lower()), label_text(str(owner["name"]))
    if kind == "replicaset":
        for label, above in _TEMPLATE_HASHES:
            if labels.get(label) and name.endswith(f"-{labels[label]}"):
                return name.removesuffix(f"-{labels[label]}"), above
    if kind == "job" and (found := _CRON_JOB.match(name)):
        return found[1], "cronjob"
    return name, kind


def _containers(status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key in ("containerStatuses", "initContainerStatuses"):
        for container in status.get(key) or ():
            identifier = (container.get("containerID") or "").rpartition("//")[2]
            if identifier:
                yield identifier, label_text(str(container["name"]))


def _ports(spec: Mapping[str, Any]) -> Iterator[Port]:
    # A sidecar is an init container that goes on.
    for key in ("containers", "initContainers"):
        for container in spec.get(key) or ():
            for port in container.get("ports") or ():
                if port.get("protocol", "TCP") == "TCP":
                    number, is_sidecar = int(port["containerPort"]), key == "initContainers"
                    yield Port(str(port.get("name") or ""), number, str(container["name"]), is_sidecar)


def is_selected(pod: Pod, namespace: str | None, labels: Mapping[str, str]) -> bool:
    """Whether a pod is in a namespace (None: any) and has all these labels."""
    return namespace in (None, pod.namespace) and labels.items() <= pod.labels.items()


def page_of(pod: Pod, port: str | None, usual: Sequence[int], scheme: str) -> str:
    """The address of a pod's metrics page: without a path where the engine's own is right. "" while the pod has no address,
    and where nothing names a port, as for ranks that serve nothing.

    Args:
        pod: the pod.
        port: the name or number of the port; None: that of the annotation, else of a usual name, else a usual port.
        usual: usual ports of the engine.
        scheme: ``http`` or ``https``, unless an annotation has another one.
    """
    noted = {name.rpartition("/")[2]: value for name, value in pod.annotations.items()}
    number = _page_port(pod, port, noted.get("port", ""), usual)
    if not pod.address or not number:
        return ""
    host = f"[{pod.address}]" if ":" in pod.address else pod.address
    path = noted.get("path", "") if port is None else ""
    return f"{noted.get('scheme', scheme)}://{host}:{number}{path if path.startswith('/') else ''}"


def _page_port(pod: Pod, port: str | None, noted: str, usual: Sequence[int]) -> int:
    named = {one.name: one.number for one in reversed(pod.ports) if one.name}
    if port is not None:
        return int(port) if port.isdecimal() else named.get(port, 0)
    if noted.isdecimal():
        return int(noted)
    for name in _METRICS_PORTS:
        if name in named:
            return named[name]
    # A proxy beside the engine may have its usual port.
    declared = [one.number for one in pod.ports if not one.is_sidecar] or [one.number for one in pod.ports]
    return next((number for number in declared if number in usual), next(iter(declared), 0))


def exposed_label(label: str) -> str:
    """The name of a pod's label in metrics."""
    return "label_" + _INVALID_IN_LABELS.sub("_", label)


def allowed_labels(labels: Mapping[str, str], allowed: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The labels of a pod that are exposed, named as kube-state-metrics names them: ``label_`` and the label's name, with
    ``_`` for each character that a metric's label cannot have. Of labels with the same name then, the first allowed one has
    it and the others end in ``_conflict1``, ``_conflict2``; an allowed label that the pod does not have is empty."""
    found: dict[str, str] = {}
    for label in allowed:
        name = exposed_label(label)
        number = sum(taken == name or taken.startswith(f"{name}_conflict") for taken in found)
        found[f"{name}_conflict{number}" if number else name] = labels.get(label, "")
    return tuple(found.items())
