"""The chart in a real control plane: what its objects are to an API server, its admission and its controllers."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

from support import realparts
from support.cluster import ControlPlane
from support.servers import HttpStatusError, wait_until

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]
CHART = Path(__file__).resolve().parents[2] / "deploy" / "helm" / "tpw-exporter"
CASES = {"default": {}} | {
    path.name.removesuffix("-values.yaml"): yaml.safe_load(path.read_text())
    for path in sorted((CHART / "ci").glob("*-values.yaml"))
}
NUMBERS = itertools.count()
WHOLE_CLUSTER = {"ClusterRole", "ClusterRoleBinding", "SecurityContextConstraints"}
LABELS = {
    "kubernetes.io/arch": "amd64",
    "nvidia.com/gpu.present": "true",
    "nvidia.com/mig.strategy": "mixed",
    "cloud.google.com/gke-accelerator": "nvidia-h100-80gb",
    "eks.amazonaws.com/compute-type": "ec2",
}

_CONSTRAINTS = {
    **dict.fromkeys(("users", "groups", "volumes", "seccompProfiles"), "strings"),
    **dict.fromkeys(("allowedCapabilities", "defaultAddCapabilities", "requiredDropCapabilities"), "strings or null"),
    **dict.fromkeys(("allowHostPID", "allowHostIPC", "allowHostNetwork", "allowHostPorts"), "boolean"),
    **dict.fromkeys(("allowHostDirVolumePlugin", "allowPrivilegedContainer", "readOnlyRootFilesystem"), "boolean"),
    "allowPrivilegeEscalation": "boolean",
    **dict.fromkeys(("runAsUser", "fsGroup", "supplementalGroups", "seLinuxContext"), "strategy"),
    "priority": "integer or null",
}
"""Fields of OpenShift's SecurityContextConstraints, as its API reference lists them."""


def constraints_definition() -> dict[str, Any]:
    """A resource with those fields: OpenShift serves the real one."""
    shapes: dict[str, Any] = {
        "strings": {"type": "array", "items": {"type": "string"}},
        "strings or null": {"type": "array", "nullable": True, "items": {"type": "string"}},
        "boolean": {"type": "boolean"},
        "strategy": {"type": "object", "properties": {"type": {"type": "string"}}, "required": ["type"]},
        "integer or null": {"type": "integer", "nullable": True},
    }
    properties = {name: shapes[shape] for name, shape in _CONSTRAINTS.items()}
    schema = {"openAPIV3Schema": {"type": "object", "properties": properties}}
    names = {"kind": "SecurityContextConstraints", "plural": "securitycontextconstraints"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "securitycontextconstraints.security.openshift.io"},
        "spec": {
            "group": "security.openshift.io",
            "scope": "Cluster",
            "names": {**names, "singular": names["plural"], "listKind": f"{names['kind']}List"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        },
    }


@pytest.fixture(scope="module")
def prepared(cluster: ControlPlane) -> ControlPlane:
    """With the resources of the operator and of OpenShift, a runtime class, and two nodes that every case selects."""
    definitions = [*realparts.operator_definitions(), constraints_definition()]
    runtime = {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": "nvidia"},
        "handler": "nvidia",
    }
    apply(cluster, [*definitions, runtime])
    cluster.kubectl("wait", "--for=condition=established", "--timeout=60s", "crd", "--all")
    for node, gpu in (("node-a", "h100"), ("node-b", "l4")):
        cluster.make_node(node, {**LABELS, "gpu": gpu})
    cluster.make_namespace("grafana")
    return cluster


def apply(cluster: ControlPlane, documents: list[dict[str, Any]]) -> None:
    """As one field manager, strict about unknown fields."""
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=yaml.safe_dump_all(documents))


def documents_of(values: dict[str, Any], namespace: str) -> list[dict[str, Any]]:
    """What the chart renders, in the namespace of the release."""
    texts = helm_python.Chart.load(str(CHART)).render(values, name="tpw-exporter", namespace=namespace)
    found = [
        document
        for name, text in texts.items()
        if name.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    ]
    for document in found:
        if document["kind"] not in WHOLE_CLUSTER:
            document["metadata"].setdefault("namespace", namespace)
    return found


def without_surge(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The field is newer than this API server; the schemas of 1.25 to 1.37 check it (tests/unit/deploy)."""
    for document in documents:
        if document["kind"] == "DaemonSet":
            update = document["spec"]["updateStrategy"].get("rollingUpdate", {})
            if update.pop("maxSurge", 0):
                update["maxUnavailable"] = 1
    return documents


def pods(cluster: ControlPlane, namespace: str) -> list[dict[str, Any]]:
    """Those that are not on their way out."""
    found = cluster.request("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def node_of(pod: dict[str, Any]) -> str:
    """The node that the controller made a pod for."""
    terms = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (field,) = terms["nodeSelectorTerms"][0]["matchFields"]
    return str(field["values"][0])


def start_pods(cluster: ControlPlane, namespace: str) -> None:
    """What scheduler and kubelets do with the pods of a DaemonSet on two nodes."""
    for pod in wait_until(lambda: two(pods(cluster, namespace)), "a pod for each node"):
        name = pod["metadata"]["name"]
        cluster.bind(namespace, name, node_of(pod))
        cluster.run_pod(namespace, name)


def two(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return found if len(found) == 2 else []


def daemonsets(cluster: ControlPlane, namespace: str) -> list[dict[str, Any]]:
    """One, or one for each node pool."""
    return list(cluster.request("GET", f"/apis/apps/v1/namespaces/{namespace}/daemonsets")["items"])


def ready(cluster: ControlPlane, namespace: str) -> tuple[int, int]:
    """Pods that the DaemonSets want and that are ready."""
    found = [one["status"] for one in daemonsets(cluster, namespace)]
    wanted = sum(status.get("desiredNumberScheduled", 0) for status in found)
    return wanted, sum(status.get("numberReady", 0) for status in found)


@pytest.fixture
def release(prepared: ControlPlane, request: pytest.FixtureRequest) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A namespace with the chart applied, for a case."""
    case = request.param
    namespace = f"tpw-{case}-{next(NUMBERS)}"
    prepared.make_namespace(namespace)
    documents = without_surge(documents_of(CASES[case], namespace))
    apply(prepared, documents)
    yield namespace, documents
    prepared.kubectl("delete", "--wait=false", "-f", "-", stdin=yaml.safe_dump_all(documents))
    for pod in prepared.request("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]:
        prepared.kubectl(
            "delete",
            "pod",
            "-n",
            namespace,
            pod["metadata"]["name"],
            "--grace-period=0",
            "--force",
            "--ignore-not-found",
        )


@pytest.mark.parametrize("release", CASES, indirect=True)
def test_the_api_server_accepts_the_chart_and_its_controller_makes_a_pod_on_each_node(prepared, release):
    namespace, documents = release
    start_pods(prepared, namespace)
    wait_until(lambda: ready(prepared, namespace) == (2, 2), "two pods that are ready")

    def generation() -> dict[str, int]:
        found = daemonsets(prepared, namespace)
        return {one["metadata"]["name"]: one["metadata"]["generation"] for one in found}

    before = generation()
    apply(prepared, documents)
    assert generation() == before, "the API server keeps what was applied as it is"


@pytest.mark.parametrize(("kind", "path"), [("DaemonSet", ("spec", "template", "spec")), ("PodMonitor", ("spec",))])
def test_unknown_fields_are_refused(prepared, kind, path):
    """Or the tests above would accept everything."""
    documents = documents_of({"podMonitor": {"enabled": True}}, "default")
    (document,) = [document for document in documents if document["kind"] == kind]
    where = document
    for step in path:
        where = where[step]
    where["nonsense"] = True
    done = prepared.try_kubectl("apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(document))
    assert done.returncode
    assert "nonsense" in done.stderr


@pytest.mark.parametrize(
    "change",
    [
        lambda pod: pod["metadata"]["labels"].update({"app.kubernetes.io/name": "other"}),
        lambda pod: pod["spec"]["containers"][0]["securityContext"].update(privileged=True),
    ],
    ids=["selector", "privileged"],
)
def test_what_the_chart_refuses_is_refused_by_the_api_server_too(prepared, change):
    """The refusals of the chart are no invention: without them the error would come from the API server, or never."""
    (document,) = [found for found in documents_of({}, "default") if found["kind"] == "DaemonSet"]
    change(document["spec"]["template"])
    done = prepared.try_kubectl("apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(document))
    assert done.returncode
    assert "invalid" in done.stderr.lower()


@pytest.mark.parametrize("release", ["default"], indirect=True)
def test_the_account_may_list_and_watch_pods_and_nothing_else(prepared, release):
    namespace, _documents = release
    token = prepared.service_account_token(namespace, "tpw-exporter")
    pod = {"metadata": {"name": "chat-0"}, "spec": {"containers": [{"name": "vllm", "image": "vllm"}]}}
    prepared.make_pod("default", pod, node="node-a", ip="10.1.0.7")
    found = prepared.request("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-a", token=token)["items"]
    assert "chat-0" in {pod["metadata"]["name"] for pod in found}
    events = prepared.request("GET", "/api/v1/pods?watch=1&timeoutSeconds=1", token=token)
    assert "chat-0" in {event["object"]["metadata"]["name"] for event in events}

    review = {"spec": {"namespace": namespace}}
    answer = prepared.request("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", review, token=token)
    rules = {
        (resource, verb)
        for rule in answer["status"]["resourceRules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    everybody = {("selfsubjectaccessreviews", "create"), ("selfsubjectrulesreviews", "create")}
    assert rules - everybody == {("pods", "list"), ("pods", "watch")}
    for method, path in (
        ("GET", "/api/v1/nodes"),
        ("GET", f"/api/v1/namespaces/{namespace}/secrets"),
        ("GET", f"/api/v1/namespaces/{namespace}/configmaps"),
        ("DELETE", "/api/v1/namespaces/default/pods/chat-0"),
        ("GET", "/api/v1/namespaces/default/pods/chat-0/log"),
    ):
        with pytest.raises(HttpStatusError, match="403"):
            prepared.request(method, path, token=token)
    prepared.delete_pod("default", "chat-0")


@pytest.mark.parametrize("release", ["minimal"], indirect=True)
def test_without_the_right_pods_cannot_be_listed(prepared, release):
    token = prepared.service_account_token(release[0], "default")
    with pytest.raises(HttpStatusError, match="403"):
        prepared.request("GET", "/api/v1/pods", token=token)


@pytest.mark.parametrize("release", ["default"], indirect=True)
def test_a_rollout_stops_at_a_node_where_the_new_pod_is_not_ready(prepared, release):
    """As where its books cannot be written: the other node keeps its pod."""
    namespace, _documents = release
    start_pods(prepared, namespace)
    wait_until(lambda: ready(prepared, namespace) == (2, 2), "two pods that are ready")
    old = {pod["metadata"]["uid"]: node_of(pod) for pod in pods(prepared, namespace)}
    apply(prepared, documents_of({"config": {"facility": {"pue": 1.2}}}, namespace))

    def replaced() -> dict[str, Any] | None:
        """The new pod, with the old one ended as a kubelet would."""
        for pod in prepared.request("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]:
            if "deletionTimestamp" in pod["metadata"]:
                prepared.delete_pod(namespace, pod["metadata"]["name"])
        return next((pod for pod in pods(prepared, namespace) if pod["metadata"]["uid"] not in old), None)

    new = wait_until(replaced, "a new pod")
    prepared.bind(namespace, new["metadata"]["name"], node_of(new))
    kept = next(node for node in old.values() if node != node_of(new))

    def observed() -> bool:
        status = prepared.request("GET", f"/apis/apps/v1/namespaces/{namespace}/daemonsets/tpw-exporter")["status"]
        return bool(status["updatedNumberScheduled"] == 1 and status["numberUnavailable"] == 1)

    wait_until(observed, "one pod that is not available")
    prepared.request(
        "PATCH",
        f"/apis/apps/v1/namespaces/{namespace}/daemonsets/tpw-exporter",
        {"metadata": {"annotations": {"again": "1"}}},
        content="application/merge-patch+json",
    )
    assert kept in {node_of(pod) for pod in pods(prepared, namespace) if pod["metadata"]["uid"] in old}

    prepared.run_pod(namespace, new["metadata"]["name"])
    wait_until(
        lambda: not {pod["metadata"]["uid"] for pod in pods(prepared, namespace)} & set(old),
        "the other pod goes",
    )


def test_an_api_server_that_restarts_keeps_what_it_had(prepared):
    """What clients of a watch meet."""
    before = json.dumps(prepared.request("GET", "/api/v1/nodes/node-a")["metadata"]["uid"])
    prepared.stop_apiserver()
    with pytest.raises(OSError, match="refused"):
        prepared.request("GET", "/api/v1/nodes")
    prepared.start_apiserver()
    assert json.dumps(prepared.request("GET", "/api/v1/nodes/node-a")["metadata"]["uid"]) == before
