"""The chart in a real control plane: what its objects are to an API server, admission and controllers."""

from __future__ import annotations

import pytest

from support.servers import HttpStatusError

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
