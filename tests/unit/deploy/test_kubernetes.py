"""The Helm chart and the manifests rendered from it."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

import tpw
from tpw.config.load import load

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "deploy" / "helm" / "tpw-exporter"
DASHBOARDS = ROOT / "deploy" / "grafana" / "dashboards"
MANIFESTS = ROOT / "deploy" / "kubernetes"
RELEASES = [f"1.{minor}" for minor in range(25, int(kubernetes_validate.latest_version().split(".")[1]) + 1)]
CASES = {"default": {}} | {
    path.name.removesuffix("-values.yaml"): yaml.safe_load(path.read_text())
    for path in sorted((CHART / "ci").glob("*-values.yaml"))
}


CUSTOM = {"PodMonitor", "ServiceMonitor", "PrometheusRule", "SecurityContextConstraints"}
"""Kinds of others than Kubernetes. ``tests/e2e/test_control_plane.py`` has the operator's own schemas."""


@functools.cache
def loaded(chart: Path) -> helm_python.Chart:
    return helm_python.Chart.load(str(chart))


def texts_of(values: dict[str, Any], chart: Path = CHART) -> dict[str, str]:
    return loaded(chart).render(values, name="tpw-exporter", namespace="monitoring")


@functools.cache
def rendered(case: str) -> list[dict[str, Any]]:
    return committed() if case == "committed" else render(CASES[case])


def render(values: dict[str, Any], chart: Path = CHART) -> list[dict[str, Any]]:
    texts = texts_of(values, chart)
    return [
        document
        for name, text in texts.items()
        if name.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    ]


def committed() -> list[dict[str, Any]]:
    files = sorted(MANIFESTS.glob("*.yaml"))
    return [
        document
        for file in files
        if file.name != "kustomization.yaml"
        for document in yaml.safe_load_all(file.read_text())
    ]


def of_kind(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(document for document in documents if document["kind"] == kind)


def pod_of(documents: list[dict[str, Any]]) -> dict[str, Any]:
    return of_kind(documents, "DaemonSet")["spec"]["template"]["spec"]


@pytest.mark.parametrize("release", RELEASES)
def test_manifests_are_valid_for_every_kubernetes_release(release):
    documents = {json.dumps(document): case for case in (*CASES, "committed") for document in rendered(case)}
    assert len(documents) > len(CASES)
    for text, case in documents.items():
        document = json.loads(text)
        if document["kind"] not in CUSTOM:
            try:
                kubernetes_validate.validate(document, release, strict=True)
            except kubernetes_validate.ValidationError as error:
                raise AssertionError(f"{case}: {document['kind']} {document['metadata']['name']}: {error}") from error


@pytest.mark.parametrize("case", CASES)
def test_chart_passes_helms_strict_lint(case):
    report = helm_python.lint(str(CHART), CASES[case], strict=True, kube_version="v1.30.0")
    complaints = [message for message in report["messages"] if message["severity"] > 1]
    assert (report["errors"], complaints) == ([], [])


@pytest.mark.parametrize(
    "values",
    [
        {"hostPid": True},
        {"image": {"repository": "x", "tags": "1"}},
        {"image": {"digest": "latest"}},
        {"rapl": {"group": "rapl"}},
        {"state": {"hostPath": "relative"}},
        {"extraArgs": ["log.level=debug"]},
        {"podMonitor": {"interval": "15"}},
        {"prometheusRule": {"grafana": "grafana.example.com"}},
        {"prometheusRule": {"parameters": {"budgets": {"euro": 1}}}},
        {"prometheusRule": {"parameters": {"removedGpus": ["GPU-1"]}}},
        {"dashboards": {"label": "grafana_dashboard"}},
        {"webConfig": {"secret": "web"}},
        {"networkPolicy": {"egress": {"ports": []}}},
        {"config": {"tarif": {"currency": "EUR"}}},
        {"config": {"tariff": {"currency": "EUR", "timezone": "Europe/Berlin", "energy": {"kind": "flatt"}}}},
        {"config": {"servers": [{"name": "chat", "url": "http://chat:8000", "gpu": [0]}]}},
        {"config": {"polling": {"interval": 1}}},
        {"state": {"type": "nfs"}},
        {"rbac": {"enabled": True}},
        {"existingSecret": "Tpw_Secret"},
    ],
    ids=lambda values: next(iter(values)),
)
def test_chart_rejects_unknown_values(values):
    with pytest.raises(helm_python.HelmError, match=next(iter(values))):
        render(values)


@pytest.mark.parametrize("case", [*CASES, "committed"])
def test_config_map_holds_a_valid_configuration(case):
    text = next(
        document["data"]["config.yaml"]
        for document in rendered(case)
        if document["kind"] == "ConfigMap" and "config.yaml" in document["data"]
    )
    config = load(text, "config.yaml")
    if case == "everything":
        assert config.host.sysfs == "/host/sys"
        assert config.facility.pue == 1.3
        assert [server.name for server in config.servers] == ["chat"]
        assert config.web.allowed_hosts == ("tpw.example.org",)
    else:
        assert config.host.meters == ()  # a container does not see them


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_committed_manifests_are_what_the_chart_renders():
    files = {path.name: path.read_text() for path in MANIFESTS.glob("*.yaml") if path.name != "kustomization.yaml"}
    assert files == script("render_kubernetes").rendered(), "run `make generate`"


def test_the_schema_and_the_readme_of_the_chart_are_those_of_the_configuration_and_the_values():
    for path, text in script("render_chart").rendered().items():
        assert path.read_text() == text, f"{path.name}: run `make generate`"


def test_the_readme_describes_every_value():
    described = set(re.findall(r"^\| `([\w.]+)` \|", (CHART / "README.md").read_text(), re.MULTILINE))
    assert set(yaml.safe_load((CHART / "values.yaml").read_text())) <= {key.split(".")[0] for key in described}
    assert {"state.type", "podMonitor.honorLabels", "prometheusRule.parameters.budgets"} <= described


def test_the_schema_describes_every_value():
    """Else Helm would refuse the chart's own defaults."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(yaml.safe_load((CHART / "values.yaml").read_text())) == set(schema["properties"]) - {"global"}


def test_kustomization_lists_every_manifest_except_custom_resources():
    listed = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())["resources"]
    there = {path.name for path in MANIFESTS.glob("*.yaml")} - {"kustomization.yaml", "podmonitor.yaml"}
    assert set(listed) == there


def test_chart_has_the_version_of_the_package():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == tpw.__version__


PRIVILEGED = {"gke", "mixed-mig"}
"""The reasons are in their files."""


@pytest.mark.parametrize("case", sorted(set(CASES) - PRIVILEGED))
def test_the_exporter_runs_without_privileges(case):
    pod = pod_of(rendered(case))
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    for mount in container["volumeMounts"]:
        assert mount.get("readOnly") or mount["name"] in {"state", "all-gpus"}, mount


# ------------------------------------------------------------------------------------------------------------------- state


def volume(documents: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(volume for volume in pod_of(documents)["volumes"] if volume["name"] == name)


def test_books_stay_on_the_node_by_default():
    assert volume(rendered("default"), "state")["hostPath"]["path"] == "/var/lib/tpw-exporter"


def test_each_node_has_a_directory_of_its_own_in_a_claim():
    documents = rendered("claim")
    assert volume(documents, "state")["persistentVolumeClaim"] == {"claimName": "tpw-books"}
    pod = pod_of(documents)
    for container in (*pod["initContainers"], *pod["containers"]):
        (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "state"]
        assert mount["subPathExpr"] == "$(TPW_KUBERNETES_NODE)"
        names = {entry["name"]: entry for entry in container["env"]}
        assert names["TPW_KUBERNETES_NODE"]["valueFrom"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}


def test_an_empty_directory_needs_nothing_of_the_node_and_no_init_container():
    documents = rendered("openshift-restricted")
    pod = pod_of(documents)
    assert volume(documents, "state")["emptyDir"] == {}
    assert "initContainers" not in pod
    assert not [volume for volume in pod["volumes"] if "hostPath" in volume]
    assert not {"runAsUser", "runAsGroup"} & set(pod["securityContext"])
    assert not pod.get("hostPID")


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], str]:
    """The notes after an installation. The library renders no NOTES.txt, so they have another name here."""
    copy = tmp_path_factory.mktemp("chart") / "tpw-exporter"
    shutil.copytree(CHART, copy, ignore=shutil.ignore_patterns("files", "ci"))
    (copy / "templates" / "NOTES.txt").rename(copy / "templates" / "notes.md")
    return lambda values: texts_of(values, copy)["tpw-exporter/templates/notes.md"]


def test_the_notes_state_what_becomes_of_the_books(notes):
    states = ({}, {"type": "claim", "claim": "tpw-books"}, {"type": "emptyDir"})
    assert len({notes({"state": state}) for state in states}) == len(states)


# ---------------------------------------------------------------------------------------------------------------- refusals


CHARGED = {"currency": "EUR", "energy": {"kind": "flat", "price_per_kwh": 0.2}, "fixed": {"per_month": 3897.4}}
SURGE = {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"podLabels": {"app.kubernetes.io/name": "other"}}, "podLabels"),
        ({"extraArgs": ["--web.listen-address=:9000"]}, "extraArgs"),
        ({"extraArgs": ["--state.dir", "/tmp"]}, "extraArgs"),
        ({"state": {"type": "claim"}}, "state.claim"),
        ({"state": {"claim": "books"}}, "state.claim"),
        ({"podSecurityContext": {"runAsUser": None}}, "state.prepare"),
        ({"securityContext": {"runAsUser": 7}}, "securityContext.runAsUser"),
        ({"podSecurityContext": {"runAsUser": 0}}, "runAsNonRoot"),
        ({"securityContext": {"privileged": True}}, "allowPrivilegeEscalation"),
        ({"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}, "allowPrivilegeEscalation"),
        ({"updateStrategy": SURGE}, "maxSurge"),
        ({"updateStrategy": SURGE, "state": {"type": "claim", "claim": "books"}}, "maxSurge"),
        ({"updateStrategy": SURGE, "state": {"type": "emptyDir"}, "hostNetwork": True}, "hostNetwork"),
        ({"updateStrategy": {"rollingUpdate": {"maxSurge": 1}}, "state": {"type": "emptyDir"}}, "maxUnavailable"),
        ({"existingConfigMap": "mine", "config": {"facility": {"pue": 1.2}}}, "existingConfigMap"),
        ({"existingConfigMap": "mine", "web": {"allowedHosts": ["a.example"]}}, "existingConfigMap"),
        ({"serviceAccount": {"create": False}}, "rbac.create"),
        ({"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}, "twice"),
        ({"serviceMonitor": {"enabled": True}, "service": {"enabled": False}}, "serviceMonitor"),
        ({"config": {"tariff": CHARGED}}, "every node would book all of them"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_that_cannot_run_are_refused(values, word):
    with pytest.raises(helm_python.HelmError, match=word):
        render(values)


def test_what_the_refusals_ask_for_is_accepted():
    render({"securityContext": {"privileged": True, "allowPrivilegeEscalation": True}})
    render({"updateStrategy": {"type": "OnDelete", **SURGE}})
    render({"updateStrategy": SURGE, "state": {"type": "emptyDir"}})
    render({"serviceAccount": {"create": False, "name": "monitoring"}})
    render({"config": {"tariff": CHARGED, "site": {"name": "berlin", "total": 640}}})


# ------------------------------------------------------------------------------------------------------- rights and objects


def test_the_account_may_list_and_watch_pods_and_has_its_token():
    documents = rendered("default")
    assert of_kind(documents, "ClusterRole")["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}
    ]
    (subject,) = of_kind(documents, "ClusterRoleBinding")["subjects"]
    account = of_kind(documents, "ServiceAccount")["metadata"]["name"]
    assert (subject["name"], subject["namespace"]) == (account, "monitoring")
    assert pod_of(documents)["serviceAccountName"] == account
    assert pod_of(documents)["automountServiceAccountToken"] is True


def test_without_the_right_the_pod_has_no_token():
    documents = render({"rbac": {"create": False}})
    assert not {"ClusterRole", "ClusterRoleBinding"} & {document["kind"] for document in documents}
    assert pod_of(documents)["automountServiceAccountToken"] is False


def test_the_constraints_of_openshift_allow_what_the_pod_has():
    documents = rendered("openshift")
    constraints, pod = of_kind(documents, "SecurityContextConstraints"), pod_of(documents)
    assert constraints["users"] == ["system:serviceaccount:monitoring:tpw-exporter"]
    assert constraints["allowHostPID"] is pod["hostPID"] is True
    assert constraints["allowPrivilegedContainer"] is constraints["allowHostNetwork"] is False
    added = {name for part in pod["initContainers"] for name in part["securityContext"]["capabilities"]["add"]}
    assert set(constraints["allowedCapabilities"]) == added
    kinds = {next(iter(set(volume) - {"name"})) for volume in pod["volumes"]}
    assert kinds <= {"hostPath", "configMap"}


def test_a_config_map_and_a_secret_of_the_user_are_mounted():
    documents = rendered("prometheus-operator")
    assert volume(documents, "config")["configMap"]["name"] == "tpw-exporter-config"
    assert volume(documents, "secrets")["secret"]["secretName"] == "tpw-exporter-secrets"
    template = of_kind(documents, "DaemonSet")["spec"]["template"]
    assert "checksum/config" not in template["metadata"]["annotations"]
    assert "tpw-exporter" not in {d["metadata"]["name"] for d in documents if d["kind"] == "ConfigMap"}
    assert {"--web.enable-lifecycle", "--web.external-url=https://tpw.example.com"} <= set(
        template["spec"]["containers"][0]["args"]
    )


def test_extra_objects_are_templates():
    assert of_kind(rendered("prometheus-operator"), "Secret")["metadata"]["namespace"] == "monitoring"


def test_gpus_are_requested_by_a_mount_where_the_variable_is_not_accepted():
    documents = rendered("eks")
    (container,) = pod_of(documents)["containers"]
    assert {"name": "all-gpus", "mountPath": "/var/run/nvidia-container-devices/all"} in container["volumeMounts"]
    assert volume(documents, "all-gpus")["hostPath"]["path"] == "/dev/null"
    assert {"name": "NVIDIA_VISIBLE_DEVICES", "value": "/var/run/nvidia-container-devices"} in container["env"]


def test_an_image_can_be_named_by_its_digest():
    (container,) = pod_of(rendered("everything"))["containers"]
    assert re.fullmatch(r"example\.com/observability/tpw-exporter@sha256:[0-9a-f]{64}", container["image"])
    (container,) = pod_of(render({"image": {"repository": "r.example/tpw", "tag": "1.2"}}))["containers"]
    assert container["image"] == "r.example/tpw:1.2"


def test_the_default_image_names_a_registry_and_the_notes_call_it_a_placeholder(notes):
    """Without a registry, a container runtime would take it from one that is not ours."""
    (container,) = pod_of(rendered("default"))["containers"]
    registry = container["image"].split("/")[0]
    assert registry.endswith("example.com")
    assert "PLACEHOLDER" in notes({})
    assert "PLACEHOLDER" not in notes({"image": {"repository": "r.example/tpw"}})


def test_the_state_directory_belongs_to_the_user_of_the_exporter():
    pod = pod_of(render({"podSecurityContext": {"runAsUser": 4321, "runAsGroup": 5432}}))
    (container,) = pod["initContainers"]
    assert {"--owner=4321", "--group=5432"} <= set(container["command"])
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["CHOWN", "FOWNER"]}


def test_rapl_mounts_sysfs_read_only_and_joins_the_group():
    pod = pod_of(render({"rapl": {"enabled": True, "group": 2000}}))
    (container,) = pod["containers"]
    assert {"name": "sys", "mountPath": "/host/sys", "readOnly": True} in container["volumeMounts"]
    assert pod["securityContext"]["supplementalGroups"] == [2000]


def test_a_changed_configuration_rolls_the_pods():
    def checksum(config: dict[str, Any]) -> str:
        template = of_kind(render({"config": config}), "DaemonSet")["spec"]["template"]
        return template["metadata"]["annotations"]["checksum/config"]

    assert checksum({"facility": {"pue": 1.2}}) != checksum({"facility": {"pue": 1.3}})


@pytest.mark.parametrize(
    ("kind", "field", "key"),
    [("PodMonitor", "podMetricsEndpoints", "podMonitor"), ("ServiceMonitor", "endpoints", "serviceMonitor")],
)
def test_monitors_select_the_port_of_the_pods(kind, field, key):
    documents = render(
        {**CASES["everything"], "podMonitor": {"enabled": False}, key: CASES["everything"]["podMonitor"]}
    )
    spec = of_kind(documents, kind)["spec"]
    (endpoint,) = spec[field]
    assert set(spec) == {"selector", field}
    assert set(endpoint) == {
        *("port", "interval", "scrapeTimeout", "honorLabels", "relabelings", "metricRelabelings"),
        *("scheme", "basicAuth"),
    }
    assert endpoint["port"] in [port["name"] for port in pod_of(documents)["containers"][0]["ports"]]
    labels = of_kind(documents, "DaemonSet")["spec"]["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("monitor", ["podMonitor", "serviceMonitor"])
def test_series_keep_their_name_when_a_pod_is_replaced(monitor):
    """One pod runs on a node, and its books outlive it: ``instance`` is the node, and the pod is no label.

    The labels are dropped from the target and not from its samples: ``up`` would keep them, and ``tpw_server_info``, where
    ``pod`` and ``container`` are those of a server, would lose them. ``tests/e2e/test_replaced_pod.py`` runs it.
    """
    document = of_kind(render({monitor: {"enabled": True}}), f"{monitor[0].upper()}{monitor[1:]}")
    (endpoint,) = document["spec"].get("podMetricsEndpoints") or document["spec"]["endpoints"]
    named = {rule.get("targetLabel"): rule.get("sourceLabels") for rule in endpoint["relabelings"]}
    assert named["instance"] == named["node"] == ["__meta_kubernetes_pod_node_name"]
    assert {"action": "labeldrop", "regex": "pod|container"} in endpoint["relabelings"]
    assert endpoint["honorLabels"] is True
    assert "metricRelabelings" not in endpoint


def test_without_a_secret_there_is_no_web_configuration():
    pod = pod_of(render({}))
    assert not any("web.config" in argument for argument in pod["containers"][0]["args"])
    assert {volume["name"] for volume in pod["volumes"]} == {"config", "state", "pod-logs", "container-logs"}


def test_probes_use_paths_without_a_password():
    from tpw.exposition.access import PROBES

    (container,) = pod_of(render({"webConfig": {"secretName": "web"}}))["containers"]
    asked = {
        probe: container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert set(asked.values()) == PROBES
    assert asked["readinessProbe"] == "/-/ready"  # 503 where the books cannot be written: test_permissions.py
    assert asked["startupProbe"] == asked["livenessProbe"] == "/-/healthy"
    assert "httpHeaders" not in container["livenessProbe"]["httpGet"]


def test_probes_of_a_port_that_wants_a_certificate_connect_to_the_port_only():
    probe = {"httpGet": None, "tcpSocket": {"port": "metrics"}}
    documents = render({"livenessProbe": probe, "readinessProbe": probe})
    (container,) = pod_of(documents)["containers"]
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[name]["tcpSocket"] == {"port": "metrics"}
        assert "httpGet" not in container[name]
    kubernetes_validate.validate(of_kind(documents, "DaemonSet"), RELEASES[-1], strict=True)


def test_the_web_configuration_is_a_secret_and_the_probes_can_pass_it():
    pod = pod_of(render(CASES["everything"]))
    (container,) = pod["containers"]
    assert "--web.config.file=/etc/tpw-exporter-web/web.yaml" in container["args"]
    assert {"name": "web", "secret": {"secretName": "tpw-exporter-web"}} in pod["volumes"]
    assert {"name": "web", "mountPath": "/etc/tpw-exporter-web", "readOnly": True} in container["volumeMounts"]
    for name in ("startupProbe", "livenessProbe"):
        assert container[name]["httpGet"] == {"path": "/-/healthy", "port": "metrics", "scheme": "HTTPS"}


def test_the_policy_admits_named_peers_and_restricts_egress_only_where_configured():
    policy = of_kind(render(CASES["everything"]), "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == [
        {
            "ports": [{"port": "metrics", "protocol": "TCP"}],
            "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        }
    ]
    assert len(policy["egress"]) == 2
    policy = of_kind(render({"networkPolicy": {"enabled": True}}), "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    assert policy["ingress"] == [{"ports": [{"port": "metrics", "protocol": "TCP"}]}]
    assert [document["kind"] for document in render({})].count("NetworkPolicy") == 0


def test_examples_in_comments_of_the_values_are_valid():
    text = (CHART / "values.yaml").read_text()
    copied = re.sub(r"^(\s*)(from|egress): \[\]\n(?=\s*#  -)", r"\1\2:\n", text, flags=re.MULTILINE)
    copied = re.sub(r"^( *)#  ( *)(?=- |  ports:)", r"\1  \2", copied, flags=re.MULTILINE)
    values = yaml.safe_load(copied)["networkPolicy"] | {"enabled": True}
    assert (len(values["from"]), len(values["egress"])) == (1, 4)
    policy = of_kind(render({"networkPolicy": values}), "NetworkPolicy")
    kubernetes_validate.validate(policy, RELEASES[-1], strict=True)


# ----------------------------------------------------------------------------------------------------- rules and dashboards


def test_rules_and_dashboards_are_off_by_default():
    kinds = [document["kind"] for document in render({})]
    assert "PrometheusRule" not in kinds
    assert kinds.count("ConfigMap") == 1


def test_the_rules_of_the_chart_are_those_of_prometheus():
    groups = [
        group
        for kind in ("recording", "alerts")
        for group in yaml.safe_load((ROOT / "deploy" / "prometheus" / f"tpw-{kind}.rules.yaml").read_text())["groups"]
    ]
    rule = of_kind(render({"prometheusRule": {"enabled": True}}), "PrometheusRule")
    assert rule["spec"] == {"groups": groups}
    assert len(groups) > 5


def test_a_packed_chart_has_files_for_links_and_renders_the_same(tmp_path: Path):
    archive = Path(helm_python.package(str(CHART), destination=str(tmp_path)))
    with tarfile.open(archive) as packed:
        members = {member.name.removeprefix("tpw-exporter/files/"): member for member in packed}
        packed.extractall(tmp_path, filter="data")
    assert members["rules/tpw-alerts.rules.yaml"].isfile()
    assert {name for name in members if name.startswith("dashboards/")} == {
        f"dashboards/{path.name}" for path in DASHBOARDS.glob("*.json")
    }
    assert render(CASES["everything"], tmp_path / "tpw-exporter") == render(CASES["everything"])


def test_rules_have_the_labels_of_the_operator_and_absolute_addresses():
    rule = of_kind(render(CASES["everything"]), "PrometheusRule")
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    assert rule["metadata"]["annotations"] == {"example.com/team": "inference"}
    alerts = [entry for group in rule["spec"]["groups"] for entry in group["rules"] if "alert" in entry]
    assert len(alerts) > 20
    for alert in alerts:
        notes = alert["annotations"]
        assert notes["runbook_url"] == f"https://git.example.com/tpw-exporter/runbooks/{alert['alert']}.md"
        assert notes["dashboard_url"].startswith("https://grafana.example.com/d/tpw-")
        assert "{{ $labels." in "".join(notes.values()) or alert["alert"] in _WITHOUT_LABELS, (
            "templates are Prometheus'"
        )


_WITHOUT_LABELS = {
    "TpwExporterAbsent",
    "TpwWasteHigh",
    "TpwBudgetBurn",
    "TpwBudgetForecast",
    "TpwSpendChanged",
    "TpwPriceHigh",
}


def test_parameters_are_a_separate_rule_group():
    groups = of_kind(render(CASES["everything"]), "PrometheusRule")["spec"]["groups"]
    parameters = groups[-1]
    assert parameters["name"] == "tpw-parameters"
    parameters_found = [(rule["record"], rule["expr"], rule["labels"]) for rule in parameters["rules"]]
    assert parameters_found == [
        ("tpw:budget_per_month:money", "vector(20000)", {"currency": "EUR"}),
        ("tpw:budget_per_month:money", "vector(1500.5)", {"currency": "USD"}),
        ("tpw:budget_per_million_tokens:money", "vector(1.2)", {"currency": "EUR"}),
        ("tpw:budget_per_million_tokens:money", "vector(3)", {"currency": "EUR", "server": "code"}),
        ("tpw:spare_gpu:info", "vector(1)", {"uuid": "GPU-1"}),
        ("tpw:spare_gpu:info", "vector(1)", {"instance": "10.0.0.7:10101"}),
        ("tpw:removed_gpu:info", "vector(1)", {"uuid": "PCI-0000:41:00.0", "instance": "10.0.0.8:10101"}),
        ("tpw:standby_server:info", "vector(1)", {"server": "chat-standby"}),
        ("tpw:cpu_server:info", "vector(1)", {"server": "tiny"}),
    ]
    names = [
        group["name"]
        for group in of_kind(render({"prometheusRule": {"enabled": True}}), "PrometheusRule")["spec"]["groups"]
    ]
    assert "tpw-parameters" not in names
    assert names == [group["name"] for group in groups[:-1]]


def test_a_budget_of_millions_is_a_valid_number_in_promql():
    values = {"prometheusRule": {"enabled": True, "parameters": {"budgets": {"JPY": 30_000_000}}}}
    rule = of_kind(render(values), "PrometheusRule")["spec"]["groups"][-1]["rules"][0]
    assert float(rule["expr"].removeprefix("vector(").removesuffix(")")) == 3e7


def test_dashboards_are_config_maps_for_the_sidecar_within_the_size_limit():
    maps = [
        document
        for document in render(CASES["everything"])
        if document["kind"] == "ConfigMap" and "grafana_dashboard" in document["metadata"]["labels"]
    ]
    files = {path.name: path.read_text() for path in DASHBOARDS.glob("*.json")}
    assert len(maps) == len(files) > 0
    for document in maps:
        assert document["metadata"]["namespace"] == "grafana"
        assert document["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert document["metadata"]["annotations"] == {"grafana_folder": "GPUs"}
        ((name, text),) = document["data"].items()
        assert json.loads(text) == json.loads(files[name.removeprefix("tpw-")])
        # kubectl apply keeps the whole object in an annotation, which may have 256 KiB; a ConfigMap may have 1 MiB.
        assert len(json.dumps(document)) < 256 * 1024
    assert len({document["metadata"]["name"] for document in maps}) == len(files)


def kustomized(folder: Path) -> list[dict[str, Any]]:
    """What ``kubectl apply --kustomize`` applies; computed here where kubectl is not installed."""
    if kubectl := shutil.which("kubectl"):
        command = [kubectl, "kustomize", str(folder)]
        return list(yaml.safe_load_all(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    document = yaml.safe_load((folder / "kustomization.yaml").read_text())
    options = document.get("generatorOptions", {})
    found = [part for name in document.get("resources", ()) for part in yaml.safe_load_all((folder / name).read_text())]
    for entry in document.get("configMapGenerator", ()):
        files = dict(item.split("=") for item in entry["files"])
        assert all((folder / file).resolve().is_relative_to(folder) for file in files.values()), "outside of the root"
        metadata = {"name": entry["name"], "labels": options["labels"], "annotations": options["annotations"]}
        data = {name: (folder / file).read_text() for name, file in files.items()}
        found.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    return found


def test_kustomize_makes_a_config_map_of_every_dashboard():
    maps = kustomized(ROOT / "deploy" / "grafana")
    data = {name: text for document in maps for name, text in document["data"].items()}
    assert data == {f"tpw-{path.name}": path.read_text() for path in DASHBOARDS.glob("*.json")}
    for document in maps:
        assert document["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert document["metadata"]["name"] == f"{next(iter(document['data'])).removesuffix('.json')}-dashboard"
        assert len(json.dumps(document)) < 256 * 1024


def test_kustomize_applies_the_manifests():
    kinds = {document["kind"] for document in kustomized(MANIFESTS)}
    assert kinds == {"ConfigMap", "DaemonSet", "Service", "ServiceAccount", "ClusterRole", "ClusterRoleBinding"}
    (subject,) = of_kind(committed(), "ClusterRoleBinding")["subjects"]
    assert subject["namespace"] == yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())["namespace"]


def test_each_node_pool_has_a_daemonset_and_a_configuration_of_its_own_on_its_own_nodes():
    documents = rendered("node-pools")
    sets = {one["metadata"]["name"]: one["spec"] for one in documents if one["kind"] == "DaemonSet"}
    configs = {
        one["metadata"]["name"]: yaml.safe_load(one["data"]["config.yaml"])
        for one in documents
        if one["kind"] == "ConfigMap" and "config.yaml" in one["data"]
    }
    pods = {name: spec["template"]["spec"] for name, spec in sets.items()}

    assert sets.keys() == configs.keys() == {"tpw-exporter-h100", "tpw-exporter-l4"}
    for name, pool in (("tpw-exporter-h100", "h100"), ("tpw-exporter-l4", "l4")):
        labels = sets[name]["template"]["metadata"]["labels"]
        assert sets[name]["selector"]["matchLabels"]["tpw-exporter/pool"] == pool
        assert sets[name]["selector"]["matchLabels"].items() <= labels.items()
        assert pods[name]["nodeSelector"] == {"gpu": pool}
        [volume] = [one for one in pods[name]["volumes"] if one["name"] == "config"]
        assert volume["configMap"]["name"] == name
        assert configs[name]["tariff"]["currency"] == "EUR"
    assert [configs[name]["facility"]["pue"] for name in sorted(configs)] == [1.3, 1.5]
    assert [configs[name]["costs"]["hardware"]["price_per_gpu"] for name in sorted(configs)] == [30000, 2500]
    assert "runtimeClassName" not in pods["tpw-exporter-h100"]
    assert pods["tpw-exporter-l4"]["runtimeClassName"] == "nvidia"
    assert {pod["serviceAccountName"] for pod in pods.values()} == {"tpw-exporter"}


@pytest.mark.parametrize(
    "pool",
    [{"config": {}}, {"nodeSelector": {"gpu": "l4"}, "config": {"tarif": {}}}, {"nodeSelector": {}, "rbac": {}}],
)
def test_a_node_pool_needs_its_nodes_and_has_values_of_the_chart(pool):
    with pytest.raises(Exception, match="nodePools"):
        render({"nodePools": {"l4": pool}})
