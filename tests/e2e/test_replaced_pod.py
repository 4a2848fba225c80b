"""A pod of the exporter is replaced: Prometheus, by the chart's own PodMonitor, goes on with the same series.

A real API server, the DaemonSet controller and a real Prometheus that discovers the pods there. The energy of the time
between two pods is in the driver's counter: the books catch it up, and ``increase()`` has to find it.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

from fakenvml import FakeNvml
from support.cluster import ControlPlane
from support.servers import Child, Prometheus, clean_environment, exporter_command, free_port, wait_until

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(300)]
CHART = Path(__file__).resolve().parents[2] / "deploy" / "helm" / "tpw-exporter"
WATTS = (400.0, 250.0)
BEFORE, BETWEEN, AFTER = 15.0, 20.0, 25.0
"""Seconds with the first pod, without one, and with the second."""
FIELDS = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
TOTAL = "tpw_gpu_energy_joules_total"


def scrape_config(monitor: dict[str, Any], sd: dict[str, Any]) -> dict[str, Any]:
    """What the operator makes of a PodMonitor (``generatePodMonitorConfig`` of its pkg/prometheus/promcfg.go, 0.85).

    Selection first, then namespace, container and pod of the target, job and endpoint, and the monitor's own last.
    """
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    name = f"{monitor['metadata']['namespace']}/{monitor['metadata']['name']}"

    def chosen(meta: str, value: str) -> dict[str, Any]:
        return {"action": "keep", "source_labels": [f"__meta_kubernetes_pod_{meta}"], "regex": value}

    rules = [
        {"action": "drop", "source_labels": ["__meta_kubernetes_pod_phase"], "regex": "(Failed|Succeeded)"},
        *(
            chosen("label_" + label.replace(".", "_").replace("/", "_"), value)
            for label, value in monitor["spec"]["selector"]["matchLabels"].items()
        ),
        chosen("container_port_name", endpoint["port"]),
        {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
        {"source_labels": ["__meta_kubernetes_pod_container_name"], "target_label": "container"},
        {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
        {"target_label": "job", "replacement": name},
        {"target_label": "endpoint", "replacement": endpoint["port"]},
        *({FIELDS.get(key, key): value for key, value in rule.items()} for rule in endpoint["relabelings"]),
    ]
    return {
        "job_name": f"podMonitor/{name}/0",
        "honor_labels": endpoint["honorLabels"],
        "scrape_interval": endpoint["interval"],
        "scrape_timeout": endpoint["scrapeTimeout"],
        "kubernetes_sd_configs": [sd],
        "relabel_configs": rules,
    }


def documents(port: int) -> dict[str, dict[str, Any]]:
    """The chart's objects by kind, scraped every second, on a port that is free here."""
    values = {"podMonitor": {"enabled": True, "interval": "1s", "scrapeTimeout": "1s"}, "hostNetwork": False}
    texts = helm_python.Chart.load(str(CHART)).render(values, name="tpw-exporter", namespace="monitoring")
    found = {
        document["kind"]: document
        for name, text in texts.items()
        if name.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    }
    found["DaemonSet"]["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"] = port
    for document in found.values():
        document["metadata"].setdefault("namespace", "monitoring")
    return found


class Pods:
    """The pod of the node and its process: what a kubelet does."""

    def __init__(self, cluster: ControlPlane, port: int, folder: Path, nvml: FakeNvml) -> None:
        self.cluster = cluster
        self.port = port
        self.folder = folder
        self.nvml = nvml
        self.child: Child | None = None
        self.seen: set[str] = set()
        (folder / "config.yaml").write_text(
            json.dumps({"polling": {"interval": "200ms"}, "host": {"meters": []}, "discovery": {"processes": False}})
        )

    def _new(self) -> dict[str, Any] | None:
        found = self.cluster.request("GET", "/api/v1/namespaces/monitoring/pods")["items"]
        return next((pod for pod in found if pod["metadata"]["name"] not in self.seen), None)

    def start(self, ip: str) -> None:
        """Run the pod that the controller has made."""
        pod = wait_until(self._new, "a pod of the DaemonSet")
        name = pod["metadata"]["name"]
        self.seen.add(name)
        self.cluster.bind("monitoring", name, "node-a")
        flags = [f"--config.file={self.folder / 'config.yaml'}", f"--state.dir={self.folder / 'state'}"]
        self.child = Child(
            f"exporter-{ip}",
            exporter_command("run", *flags, f"--web.listen-address={ip}:{self.port}"),
            clean_environment(**self.nvml.env()),
        )
        self.child.wait_ready(f"http://{ip}:{self.port}/-/ready")
        self.cluster.run_pod("monitoring", name, ip=ip)

    def stop(self) -> None:
        """End the process and the pod."""
        assert self.child
        self.child.stop()
        for name in self.seen:
            self.cluster.delete_pod("monitoring", name)


@pytest.fixture
def scraped(
    cluster: ControlPlane, prometheus: Callable[..., Prometheus], tmp_path: Path
) -> Iterator[tuple[Prometheus, float, float]]:
    """A Prometheus after the pod was replaced, and the first and last instant that its window may have.

    It has each target twice: by the PodMonitor of the chart, and by one without its relabelling, for comparison.
    """
    port = free_port()
    objects = documents(port)
    cluster.make_node("node-a")
    cluster.make_namespace("monitoring")
    kept = [objects[kind] for kind in ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "ConfigMap", "DaemonSet")]
    cluster.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(kept))
    sd = {
        "role": "pod",
        "api_server": cluster.api,
        "authorization": {"credentials": cluster.token},
        "tls_config": {"ca_file": str(cluster.ca)},
        "namespaces": {"names": ["monitoring"]},
    }
    plain = copy.deepcopy(objects["PodMonitor"])
    plain["metadata"]["name"] = "plain"
    (endpoint,) = plain["spec"]["podMetricsEndpoints"]
    endpoint["relabelings"] = [rule for rule in endpoint["relabelings"] if rule.get("action") != "labeldrop"]
    configs = [scrape_config(monitor, sd) for monitor in (objects["PodMonitor"], plain)]

    with FakeNvml(tmp_path, len(WATTS)) as nvml:
        for gpu, watts in enumerate(WATTS):
            nvml.gpu(gpu).set_constant(watts)
        (tmp_path / "pod").mkdir()
        pods = Pods(cluster, port, tmp_path / "pod", nvml)
        server = prometheus(config={"scrape_configs": configs})
        try:
            pods.start("127.0.0.2")
            server.wait_for(f'count({TOTAL}{{job="monitoring/plain"}}) == {len(WATTS)}')
            begin = time.time() + 2.0
            time.sleep(BEFORE)
            pods.stop()
            time.sleep(BETWEEN)
            pods.start("127.0.0.3")
            time.sleep(AFTER)
            yield server, begin, time.time() - 1.0
        finally:
            if pods.child:
                pods.child.stop()


def test_increase_over_a_replaced_pod_is_the_energy_that_was_used(scraped):
    server, begin, end = scraped
    seconds = int(end - begin)

    def joules(job: str) -> float:
        query = f'sum(increase({TOTAL}{{job="{job}"}}[{seconds}s]))'
        ((_labels, value),) = [(one.labels, one.value) for one in server.at(query, end)]
        return value

    truth = sum(WATTS) * seconds
    assert joules("monitoring/tpw-exporter") == pytest.approx(truth, rel=0.005)
    assert joules("monitoring/plain") < 0.9 * truth, "the comparison would not notice"

    series = server.at(f'count by (__name__) (last_over_time({{job="monitoring/tpw-exporter"}}[{seconds}s]))', end)
    counts = {one.labels["__name__"]: one.value for one in series}
    assert counts[TOTAL] == len(WATTS)
    assert counts["up"] == 1
    (up,) = server.at('up{job="monitoring/tpw-exporter"}', end)
    assert (up.labels["instance"], up.labels["node"]) == ("node-a", "node-a")
    assert not {"pod", "container"} & set(up.labels)
