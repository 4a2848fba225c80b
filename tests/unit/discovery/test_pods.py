"""Pods as the API describes them: their workload, deployment, containers, ports and labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tpw.discovery.pods import Pod, Port, allowed_labels, is_selected, page_of, pod_of_object
from tpw.discovery.servernames import server_name
from tpw.model import ServerWorkload
from tpw.tokens.engines import DIALECTS


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
    assert pod.ports == (
        Port("metrics", 8200, "vllm"),
        Port("", 9000, "vllm"),
        Port("", 8000, "routing-proxy", is_sidecar=True),
    )
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


FIXTURES = Path(__file__).parents[2] / "captures" / "pods"
EXPECTED = {
    # Pod: (name of the server and its kind, deployment, page).
    "production-stack": (
        "serving/stack-llama3-deployment-vllm",
        "deployment",
        "serving/stack-llama3-deployment-vllm",
        "http://10.1.0.1:8000",
    ),
    "kserve": ("serving/llama", "inferenceservice", "serving/llama", "http://10.1.0.1:8080/metrics"),
    "kserve-llm-prefill": ("serving/qwen-kserve-prefill", "deployment", "serving/qwen", "http://10.1.0.1:8000"),
    "llm-d-decode": (
        "serving/pd-llm-d-modelservice-decode",
        "deployment",
        "serving/facebook-opt-125m",
        "http://10.1.0.1:8200",
    ),
    "llm-d-prefill": (
        "serving/pd-llm-d-modelservice-prefill",
        "deployment",
        "serving/facebook-opt-125m",
        "http://10.1.0.1:8000",
    ),
    "ray-serve": ("serving/llm", "rayservice", "serving/llm", "http://10.1.0.1:8080"),
    "nim": ("serving/meta-llama3-8b", "deployment", "serving/meta-llama3-8b", "http://10.1.0.1:8000"),
    "dynamo-decode": ("serving/graph-vllmdecodeworker", "deployment", "serving/graph", "http://10.1.0.1:9090"),
    "lws-leader": ("serving/vllm", "leaderworkerset", "serving/vllm", "http://10.1.0.1:8080"),
    "lws-worker": ("serving/vllm", "leaderworkerset", "serving/vllm", ""),
}


def captured(name: str) -> Pod:
    return pod_of_object(yaml.safe_load((FIXTURES / f"{name}.yaml").read_text()))


def test_every_captured_pod_is_expected():
    assert {path.stem for path in FIXTURES.iterdir()} == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_pods_of_serving_platforms_have_their_name_deployment_and_page(name: str):
    pod = captured(name)
    owner = ServerWorkload(pod.workload, pod.kind, pod.namespace, pod.pod, deployment=pod.deployment)
    usual = [port for row in DIALECTS for port in (row.port, *row.other_ports) if port is not None]
    expected = EXPECTED[name]

    assert server_name(owner, "vllm", 8000, ()) == expected[0]
    assert (pod.kind, pod.deployment) == expected[1:3]
    assert page_of(pod, None, usual, "http") == expected[3]


def test_the_port_of_a_page_is_named_numbered_or_annotated():
    pod = captured("kserve")

    assert page_of(pod, "http-autometric", (), "https") == "https://10.1.0.1:9090"
    assert page_of(pod, "8080", (), "http") == "http://10.1.0.1:8080"
    assert page_of(pod, "none", (), "http") == ""
    noted = replace(pod, annotations={"prometheus.io/port": "9400", "prometheus.io/scheme": "https"}, address="fd00::7")
    assert page_of(noted, None, (), "http") == "https://[fd00::7]:9400"
    assert page_of(replace(pod, address=""), None, (), "http") == ""


def test_a_selector_needs_the_namespace_and_every_label():
    pod = captured("nim")

    assert is_selected(pod, "serving", {"app": "meta-llama3-8b"})
    assert is_selected(pod, None, {})
    assert not is_selected(pod, "other", {})
    assert not is_selected(pod, None, {"app": "meta-llama3-8b", "team": "x"})
