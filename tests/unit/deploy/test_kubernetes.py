"""The Helm chart and the manifests rendered from it."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import tarfile
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


def render(values: dict[str, Any], chart: Path = CHART) -> list[dict[str, Any]]:
    texts = helm_python.Chart.load(str(chart)).render(values, name="tpw-exporter", namespace="monitoring")
    return [
        document
        for name, text in texts.items()
        if name.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    ]


def committed() -> list[dict[str, Any]]:
    files = sorted(MANIFESTS.glob("*.yaml"))
    return [yaml.safe_load(file.read_text()) for file in files if file.name != "kustomization.yaml"]


def of_kind(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(document for document in documents if document["kind"] == kind)


def pod_of(documents: list[dict[str, Any]]) -> dict[str, Any]:
    return of_kind(documents, "DaemonSet")["spec"]["template"]["spec"]


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("case", [*CASES, "committed"])
def test_manifests_are_valid_for_every_kubernetes_release(case, release):
    documents = committed() if case == "committed" else render(CASES[case])
    assert documents
    for document in documents:
        if document["kind"] not in ("PodMonitor", "PrometheusRule"):  # custom resources: no schema to be had
            kubernetes_validate.validate(document, release, strict=True)


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
    ],
    ids=lambda values: next(iter(values)),
)
def test_chart_rejects_unknown_values(values):
    with pytest.raises(helm_python.HelmError, match=next(iter(values))):
        render(values)


@pytest.mark.parametrize("case", [*CASES, "committed"])
def test_config_map_holds_a_valid_configuration(case):
    documents = committed() if case == "committed" else render(CASES[case])
    text = of_kind(documents, "ConfigMap")["data"]["config.yaml"]
    config = load(text, "config.yaml")
    if case == "everything":
        assert config.host.sysfs == "/host/sys"
        assert config.facility.pue == 1.3
        assert [server.name for server in config.servers] == ["chat"]
    else:
        assert config.host.meters == ()  # a container does not see them


def test_committed_manifests_are_what_the_chart_renders():
    spec = importlib.util.spec_from_file_location("render_kubernetes", ROOT / "scripts" / "render_kubernetes.py")
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    files = {path.name: path.read_text() for path in MANIFESTS.glob("*.yaml") if path.name != "kustomization.yaml"}
    assert files == script.rendered(), "run `make generate`"


def test_kustomization_lists_every_manifest_except_custom_resources():
    listed = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())["resources"]
    there = {path.name for path in MANIFESTS.glob("*.yaml")} - {"kustomization.yaml", "podmonitor.yaml"}
    assert set(listed) == there


def test_chart_has_the_version_of_the_package():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == tpw.__version__


@pytest.mark.parametrize("case", CASES)
def test_the_exporter_runs_without_privileges(case):
    pod = pod_of(render(CASES[case]))
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    for mount in container["volumeMounts"]:
        assert mount.get("readOnly") or mount["name"] == "state", mount


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


def test_pod_monitor_has_only_fields_of_the_operator():
    spec = of_kind(render(CASES["everything"]), "PodMonitor")["spec"]
    (endpoint,) = spec["podMetricsEndpoints"]
    assert set(spec) == {"selector", "podMetricsEndpoints"}
    assert set(endpoint) == {
        *("port", "interval", "scrapeTimeout", "relabelings", "metricRelabelings"),
        *("scheme", "basicAuth"),
    }
    ports = [port["name"] for port in pod_of(render(CASES["everything"]))["containers"][0]["ports"]]
    assert endpoint["port"] in ports


def test_series_keep_their_name_when_a_pod_is_replaced():
    """One pod runs on a node, and its books outlive it: ``instance`` is the node, not the pod's address."""
    (endpoint,) = of_kind(render({"podMonitor": {"enabled": True}}), "PodMonitor")["spec"]["podMetricsEndpoints"]
    named = {rule["targetLabel"]: rule["sourceLabels"] for rule in endpoint["relabelings"]}
    assert named["instance"] == named["node"] == ["__meta_kubernetes_pod_node_name"]


def test_without_a_secret_there_is_no_web_configuration():
    pod = pod_of(render({}))
    assert not any("web.config" in argument for argument in pod["containers"][0]["args"])
    assert {volume["name"] for volume in pod["volumes"]} == {"config", "state", "pod-logs", "container-logs"}


def test_probes_use_paths_without_a_password():
    from tpw.exposition.access import PROBES

    (container,) = pod_of(render({"webConfig": {"secretName": "web"}}))["containers"]
    asked = {container[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe")}
    assert asked == PROBES
    assert "httpHeaders" not in container["livenessProbe"]["httpGet"]


def test_probes_of_a_port_that_wants_a_certificate_connect_to_the_port_only():
    probe = {"httpGet": None, "tcpSocket": {"port": "metrics"}}
    documents = render({"livenessProbe": probe, "readinessProbe": probe})
    (container,) = pod_of(documents)["containers"]
    for name in ("livenessProbe", "readinessProbe"):
        assert container[name]["tcpSocket"] == {"port": "metrics"}
        assert "httpGet" not in container[name]
    kubernetes_validate.validate(of_kind(documents, "DaemonSet"), RELEASES[-1], strict=True)


def test_the_web_configuration_is_a_secret_and_the_probes_can_pass_it():
    pod = pod_of(render(CASES["everything"]))
    (container,) = pod["containers"]
    assert "--web.config.file=/etc/tpw-exporter-web/web.yaml" in container["args"]
    assert {"name": "web", "secret": {"secretName": "tpw-exporter-web"}} in pod["volumes"]
    assert {"name": "web", "mountPath": "/etc/tpw-exporter-web", "readOnly": True} in container["volumeMounts"]
    assert container["livenessProbe"]["httpGet"] == {"path": "/-/healthy", "port": "metrics", "scheme": "HTTPS"}


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
    found = [yaml.safe_load((folder / name).read_text()) for name in document.get("resources", ())]
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
    assert kinds == {"ConfigMap", "DaemonSet", "Service", "ServiceAccount"}
