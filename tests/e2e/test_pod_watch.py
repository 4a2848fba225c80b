"""The watch of a node's pods in a real control plane."""

from __future__ import annotations

import json
import threading

import pytest

from support.servers import wait_until
from tpw.discovery.kubernetes import MOST_BYTES, NodePods
from tpw.http.client import Client, Tls

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]


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
        [made] = wait_until(lambda: cluster.request("GET", path)["items"], "a pod of the ReplicaSet")
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
    wait_until(lambda: names() == {first}, "the first pod")
    [pod] = node.pods.values()
    assert (pod.namespace, pod.workload, pod.kind) == ("chat", "llama", "deployment")
    assert (node.problem, pod.labels["team"]) == ("", "search")
    second = rolled_out("v2")
    wait_until(lambda: second in names(), "the pod of a rollout")
    cluster.delete_pod("chat", first)
    wait_until(lambda: names() == {second}, "without the old one")
    assert {one.workload for one in node.pods.values()} == {"llama"}

    token.write_text("an-old-token")
    cluster.stop_apiserver()
    assert names() == {second}
    cluster.start_apiserver()
    wait_until(lambda: "unauthorized" in node.problem, "a token that is not valid")
    token.write_text(cluster.service_account_token("default", "default"))
    third = rolled_out("v3")
    wait_until(lambda: third in names(), "the pods after it was replaced", timeout=90)
    assert node.problem == ""
    node.stop()


def test_a_thousand_pods_are_listed_and_followed_while_others_come_and_go(cluster, tmp_path):
    token = tmp_path / "token"
    token.write_text(cluster.token)
    cluster.make_node("node-m", {})
    cluster.make_namespace("many")

    def create(number: int) -> None:
        spec = {
            "nodeName": "node-m",
            "containers": [{"name": "c", "image": "c", "env": [{"name": "A", "value": "x" * 500}]}],
        }
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"p{number}", "labels": {"n": str(number)}},
            "spec": spec,
        }
        cluster.request("POST", "/api/v1/namespaces/many/pods", pod)

    for number in range(1000):
        create(number)
    api = Client(cluster.api, headers_file=token, tls=Tls(str(cluster.ca)), max_bytes=MOST_BYTES)
    node = NodePods(api, "node-m", spread=lambda _low, high: min(high, 0.2))
    threading.Thread(target=node.run, daemon=True).start()
    wait_until(lambda: len(node.pods) == 1000, "the list")
    for number in range(50):
        cluster.delete_pod("many", f"p{number}")
        create(1000 + number)
    wait_until(
        lambda: {one.pod for one in node.pods.values()} == {f"p{number}" for number in range(50, 1050)},
        "the pods that are there",
    )
    assert node.problem == ""
    node.stop()
