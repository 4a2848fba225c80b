"""Pods as the API describes them: their workload, deployment, containers, ports and labels."""

from __future__ import annotations

from typing import Any

import pytest

from tpw.discovery.pods import Port, allowed_labels, pod_of_object


def described(
    name: str = "llama-7d9f8c6b5-x2x7z",
    labels: dict[str, str] | None = None,
    owner: tuple[str, str] | None = None,
    **metadata: Any,
) -> dict[str, Any]:
    owners = [{"kind": owner[0], "name": owner[1], "controller": True}] if owner else []
    named = {"name": name, "namespace": "chat", "uid": "u1", "labels": labels, "ownerReferences": owners, **metadata}
    return {"metadata": named, "spec": {}, "status": {}}


HASH = {"pod-template-hash": "7d9f8c6b5"}
LWS = {"leaderworkerset.sigs.k8s.io/name": "deepseek"}
RAY = {"ray.io/cluster": "llm-raycluster-abcde"}
RAY_SERVICE = {**RAY, "ray.io/originated-from-cr-name": "llm", "ray.io/originated-from-crd": "RayService"}
KSERVE = {"serving.kserve.io/inferenceservice": "llama", "pod-template-hash": "7d9f8c6b5"}


@pytest.mark.parametrize(
    ("labels", "owner", "workload", "kind"),
    [
        (HASH, ("ReplicaSet", "llama-7d9f8c6b5"), "llama", "deployment"),
        ({}, ("ReplicaSet", "llama-7d9f8c6b5"), "llama-7d9f8c6b5", "replicaset"),
        ({"rollouts-pod-template-hash": "7d9f8c6b5"}, ("ReplicaSet", "llama-7d9f8c6b5"), "llama", "rollout"),
        ({}, ("StatefulSet", "llama"), "llama", "statefulset"),
        ({}, ("DaemonSet", "llama"), "llama", "daemonset"),
        ({}, ("Job", "batch"), "batch", "job"),
        ({}, ("Job", "batch-28912345"), "batch", "cronjob"),
        (LWS, ("StatefulSet", "deepseek-0"), "deepseek", "leaderworkerset"),
        (RAY, ("RayCluster", "llm-raycluster-abcde"), "llm-raycluster-abcde", "raycluster"),
        (RAY_SERVICE, ("RayCluster", "llm-raycluster-abcde"), "llm", "rayservice"),
        (KSERVE, ("ReplicaSet", "llama-predictor-00002-deployment-7d9f8c6b5"), "llama", "inferenceservice"),
        ({}, ("PodClique", "graph-0-decode"), "graph-0-decode", "podclique"),
        ({}, ("Node", "gpu-1"), "llama-7d9f8c6b5-x2x7z", "pod"),
        ({}, None, "llama-7d9f8c6b5-x2x7z", "pod"),
    ],
)
def test_a_pod_belongs_to_what_manages_it(labels, owner, workload, kind):
    pod = pod_of_object(described(labels=labels, owner=owner))

    assert (pod.workload, pod.kind) == (workload, kind)


@pytest.mark.parametrize(
    ("labels", "configured", "deployment"),
    [
        (HASH, (), "chat/llama"),
        ({**HASH, "team.example/service": "assistant"}, ("team.example/service",), "chat/assistant"),
        ({**LWS, "team.example/service": "assistant"}, ("team.example/service",), "chat/assistant"),
        (LWS, ("team.example/service",), "chat/deepseek"),
        ({**HASH, "nvidia.com/dynamo-graph-deployment-name": "graph"}, (), "chat/graph"),
    ],
)
def test_pools_of_one_service_have_its_deployment(labels, configured, deployment):
    pod = pod_of_object(described(labels=labels, owner=("ReplicaSet", "llama-7d9f8c6b5")), configured)

    assert pod.deployment == deployment


def test_a_static_pod_has_the_uid_of_its_cgroup():
    pod = pod_of_object(described(annotations={"kubernetes.io/config.hash": "d" * 32}))

    assert pod.uid == "d" * 32


def test_containers_and_ports_of_sidecars_count():
    document = described()
    document["status"] = {
        "podIP": "10.1.0.7",
        "containerStatuses": [{"name": "vllm", "containerID": f"containerd://{'a' * 64}"}, {"name": "starting"}],
        "initContainerStatuses": [{"name": "routing-proxy", "containerID": f"cri-o://{'b' * 64}"}],
    }
    document["spec"] = {
        "containers": [
            {"name": "vllm", "ports": [{"name": "metrics", "containerPort": 8200}, {"containerPort": 9000}]}
        ],
        "initContainers": [
            {"name": "routing-proxy", "ports": [{"containerPort": 8000}, {"containerPort": 53, "protocol": "UDP"}]}
        ],
    }

    pod = pod_of_object(document)

    assert pod.containers == {"a" * 64: "vllm", "b" * 64: "routing-proxy"}
    assert pod.ports == (Port("metrics", 8200, "vllm"), Port("", 9000, "vllm"), Port("", 8000, "routing-proxy"))
    assert pod.address == "10.1.0.7"


def test_allowed_labels_are_named_as_kube_state_metrics_names_them():
    labels = {"app.kubernetes.io/name": "llama", "team": "search", "cost-center": "7", "cost.center": "8", "other": "x"}

    assert allowed_labels(labels, ("app.kubernetes.io/name", "team", "cost-center", "cost.center", "absent")) == (
        ("label_app_kubernetes_io_name", "llama"),
        ("label_team", "search"),
        ("label_cost_center", "7"),
        ("label_cost_center_conflict1", "8"),
        ("label_absent", ""),
    )
