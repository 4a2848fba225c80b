"""The chart in a real control plane: what its objects are to an API server, admission and controllers."""

from __future__ import annotations

import json
import threading

import pytest

from support.servers import HttpStatusError, wait_until
from tpw.discovery.kubernetes import MOST_BYTES, NodePods
from tpw.http.client import Client, Tls

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]


def test_a_pod_of_the_test_runs_on_a_node_of_the_test(cluster):
    cluster.make_node("node-a", {"gpu": "yes"})
    cluster.make_namespace("inference")
    pod = {"metadata": {"name": "chat-0"}, "spec": {"containers": [{"name": "vllm", "image": "vllm"}]}}
    made = cluster.make_pod("inference", pod, node="node-a", ip="10.1.0.7")
    assert made["status"]["phase"] == "Running"
    assert made["spec"]["nodeName"] == "node-a"
    found = cluster.request("GET", "/api/v1/pods?fieldSelector=spec.nodeName=node-a")["items"]
    assert [pod["status"]["podIP"] for pod in found] == ["10.1.0.7"]
    cluster.stop_apiserver()
    with pytest.raises(OSError, match="refused"):
        cluster.request("GET", "/api/v1/pods")
    cluster.start_apiserver()
    assert len(cluster.request("GET", "/api/v1/pods")["items"]) == 1
    cluster.delete_pod("inference", "chat-0")
    assert cluster.request("GET", "/api/v1/pods")["items"] == []
    token = cluster.service_account_token("inference", "default")
    with pytest.raises(HttpStatusError, match="403"):
        cluster.request("GET", "/api/v1/pods", token=token)


def test_the_pods_of_a_node_are_followed_through_rollouts_lost_connections_and_lost_rights(cluster, tmp_path):
    token = tmp_path / "token"
    token.write_text(cluster.service_account_token("default", "default"))
    cluster.make_node("node-k", {})
    cluster.make_node("node-l", {})
    cluster.make_namespace("chat")

    def rolled_out(version: str) -> str:
        """A Deployment with this version, and the name of its pod, which runs on a node."""
        labels = {"app": "llama", "team": "search", "version": version}
        template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "vllm", "image": "vllm"}]}}
        spec = {"replicas": 1, "selector": {"matchLabels": {"app": "llama"}}, "template": template}
        deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "llama"}, "spec": spec}
        cluster.kubectl("-n", "chat", "apply", "-f", "-", stdin=json.dumps(deployment))
        path = f"/api/v1/namespaces/chat/pods?labelSelector=version%3D{version}"
        [made] = wait_until(lambda: cluster.request("GET", path)["items"], "a pod of the ReplicaSet", timeout=30)
        name = made["metadata"]["name"]
        cluster.bind("chat", name, "node-k")
        cluster.run_pod("chat", name, ip="10.1.0.1")
        return str(name)

    api = Client(cluster.api, headers_file=token, tls=Tls(str(cluster.ca)), max_bytes=MOST_BYTES)
    node = NodePods(api, "node-k", spread=lambda _low, high: min(high, 0.2))
    node.step()
    assert "does not allow" in node.problem  # 403: the account has no role

    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}]
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "pods"},
        "rules": rules,
    }
    cluster.request("POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles", role)
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "pods"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "pods"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}],
    }
    cluster.request("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
    elsewhere = {"metadata": {"name": "elsewhere"}, "spec": {"containers": [{"name": "vllm", "image": "vllm"}]}}
    cluster.make_pod("chat", elsewhere, node="node-l", ip="10.1.0.9")
    threading.Thread(target=node.run, daemon=True).start()

    def names() -> set[str]:
        return {one.pod for one in node.pods.values()}

    first = rolled_out("v1")
    wait_until(lambda: names() == {first}, "the first pod", timeout=30)
    [pod] = node.pods.values()
    assert (pod.namespace, pod.workload, pod.kind) == ("chat", "llama", "deployment")
    assert (node.problem, pod.labels["team"]) == ("", "search")
    second = rolled_out("v2")
    wait_until(lambda: second in names(), "the pod of a rollout", timeout=30)
    cluster.delete_pod("chat", first)
    wait_until(lambda: names() == {second}, "without the old one", timeout=30)
    assert {one.workload for one in node.pods.values()} == {"llama"}

    token.write_text("an-old-token")
    cluster.stop_apiserver()
    assert names() == {second}
    cluster.start_apiserver()
    wait_until(lambda: "unauthorized" in node.problem, "a token that is not valid", timeout=60)
    token.write_text(cluster.service_account_token("default", "default"))
    third = rolled_out("v3")
    wait_until(lambda: third in names(), "the pods after it was replaced", timeout=90)
    assert node.problem == ""
    node.stop()
