"""Attribution on a Kubernetes node without any privilege: the real daemon as uid 10101 without capabilities.

It has the host's processes, beside real servers in network namespaces, cgroups and users as the kubelet makes them, and the
stand-in NVML.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from fakenvml import FakeNvml
from support import pods
from support.pods import PodNode, pid_with
from support.scraped import Page, parse
from support.servers import wait_until

pytestmark = pytest.mark.skipif(bool(pods.missing()), reason=pods.missing() or "-")

CAPTURE = Path(__file__).parents[1] / "captures" / "servers" / "vllm-0.32.0-after-16-requests.txt"
DAEMON = "import sys; from tpw.cli import main; sys.exit(main(sys.argv[1:]))"


PODS = (
    *("root", "user", "readonly", "pids", "hostnet", "noport", "sidecar", "two", "ray", "lws", "mig-a", "mig-b"),
    "other-job",
)
"""Their uids count from 1."""


RUN = f"{os.getpid():08x}"
"""Begins the uids of this run's pods: another run on the same machine has others."""


def uid(number: int) -> str:
    """A pod's uid."""
    return f"{RUN}-6b1c-4a5e-9c1d-{number:012d}"


def cgroup(pod: int, container: str = "a") -> str:
    """As the cgroupfs driver has it."""
    return f"/kubepods/burstable/pod{uid(pod)}/{container * 64}"


def scope(pod: int, container: str = "a") -> str:
    """As the systemd driver has it, with CRI-O."""
    middle = uid(pod).replace("-", "_")
    return f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{middle}.slice/crio-{container * 64}.scope"


def is_ours(line: str) -> bool:
    """Whether a log line is about this test: other servers may run on the machine at the same time."""
    pid = re.search(r"\(pid (\d+)\)", line)
    try:
        return pid is None or RUN in Path(f"/proc/{pid[1]}/cgroup").read_text()
    except OSError:
        return False


class Attributed(NamedTuple):
    """What the page reports about a server."""

    gpus: frozenset[str]
    how: str


@pytest.fixture
def node() -> Iterator[PodNode]:
    with PodNode() as one:
        yield one


@pytest.fixture
def nvml(node: PodNode) -> Iterator[FakeNvml]:
    with FakeNvml(node.directory, 16, refresh_seconds=0.1) as fake:
        fake.control_file.chmod(0o666)
        yield fake


class Daemon:
    """The daemon in its namespace, read from there."""

    def __init__(self, node: PodNode, nvml: FakeNvml, config: object = None) -> None:
        self._node = node
        state = Path(tempfile.mkdtemp(prefix="state-", dir=node.directory))
        state.chmod(0o777)
        file = state / "tpw.yaml"
        file.write_text(json.dumps(config or {}))  # JSON is YAML
        node.address("exporter")
        self.child = node.exporter(
            DAEMON,
            "--web.listen-address=0.0.0.0:10101",
            f"--state.dir={state}",
            f"--config.file={file}",
            environment=nvml.env(),
        )

    def get(self, path: str) -> str:
        address = self._node.address("exporter")
        code = (
            f"import urllib.request as r; print(r.urlopen('http://{address}:10101{path}', timeout=5).read().decode())"
        )
        namespace = f"--net=/run/netns/{self._node.namespace('exporter')}"
        command = ["nsenter", namespace, sys.executable, "-c", code]
        run = subprocess.run(command, check=False, capture_output=True, text=True)
        if run.returncode:
            raise OSError(run.stderr[-200:])
        return run.stdout

    def page(self) -> Page:
        return parse(self.get("/metrics"))

    def attributed(self) -> dict[str, Attributed]:
        """By the name of each server."""
        page = self.page()
        gpus: dict[str, set[str]] = {}
        for metric, labels in page:
            if metric == "tpw_server_gpu":
                gpus.setdefault(dict(labels)["server"], set()).add(dict(labels)["gpu"])
        how = {
            dict(labels)["server"]: dict(labels)["attribution"] for name, labels in page if name == "tpw_server_info"
        }
        return {server: Attributed(frozenset(gpus.get(server, ())), method) for server, method in how.items()}


def start_matrix(node: PodNode, nvml: FakeNvml, config: dict[str, object]) -> tuple[Daemon, dict[str, set[str]]]:
    """Servers of every kind, and the exporter. Returns it, and the GPUs of each server when all are attributed."""
    page = node.directory / "page"
    page.write_bytes(CAPTURE.read_bytes())

    logs = node.directory / "log" / "pods"
    for number, pod in enumerate(PODS, 1):
        (logs / f"chat_{pod}-7d9f8c6b5-x2x7z_{uid(number)}").mkdir(parents=True)
    (logs.parent / "containers").mkdir()
    for container in "ab":
        (logs.parent / "containers" / f"two-7d9f8c6b5-x2x7z_chat_serve-{container}-{container * 64}.log").touch()

    def engine(pod: str, gpu: int, place: str, *arguments: str, **options: object) -> None:
        worker = f"worker-{pod}-{gpu}"
        environment = {"PAGE": str(page), "WORKER": worker}
        node.start(pod, ["vllm", "serve", "m", *arguments], cgroup=place, environment=environment, **options)  # type: ignore[arg-type]
        nvml.processes(gpu, [pid_with(worker)])

    engine("root", 0, cgroup(1), "--port", "8000")
    engine("user", 1, scope(2), "--port", "8000", user=1000)
    engine("readonly", 2, cgroup(3), "--port", "8000", read_only=True)
    engine("pids", 3, cgroup(4), "--port", "8000", own_pids=True)
    engine("hostnet", 4, cgroup(5), "--port", "8007", network="node")
    engine("noport", 5, scope(6))
    engine("sidecar", 6, cgroup(7), user=1337)
    node.start("sidecar", ["relay"], cgroup=cgroup(7, "b"), user=1337)
    engine("two", 7, cgroup(8), "--port", "8000")
    engine("two", 8, cgroup(8, "b"), "--port", "8001", user=1000)
    ray = {"PAGE": str(page)}
    node.start("ray", ["vllm", "serve", "m", "--port", "8000"], cgroup=cgroup(9), environment=ray)
    node.start("ray", ["raylet"], cgroup=cgroup(9), environment={"WORKER": "worker-ray"})
    nvml.processes(9, [pid_with("worker-ray")])
    node.start("lws-1", ["raylet"], cgroup=cgroup(10), environment={"WORKER": "worker-lws-1"})
    nvml.processes(10, [pid_with("worker-lws-1")])
    for number, pod in enumerate(("mig-a", "mig-b"), 11):
        environment = {"PAGE": str(page), "WORKER": f"worker-{pod}"}
        node.start(pod, ["vllm", "serve", "m"], cgroup=cgroup(number), user=1000, environment=environment)
    nvml.mig(11, [[pid_with("worker-mig-a")], [pid_with("worker-mig-b")]])
    engine("other-job", 12, cgroup(13), "--port", "8000", user=2000)

    daemon = Daemon(node, nvml, {"discovery": {"pod_logs": str(logs)}, **config})
    expected = {"root": "0", "user": "1", "readonly": "2", "pids": "3", "hostnet": "4", "noport": "5", "sidecar": "6"}
    expected |= {"two/serve-a": "7", "two/serve-b": "8", "ray": "9", "mig-a": "11", "mig-b": "11", "other-job": "12"}
    wanted = {f"chat/{name}": {gpu} for name, gpu in expected.items()}

    def by_name() -> dict[str, set[str]] | None:
        found = {
            name: set(one.gpus)
            for name, one in daemon.attributed().items()
            if name.startswith("chat/") and one.how == "processes"
        }
        return found if found == wanted else None

    wait_until(by_name, f"{wanted}", every=1.0)
    return daemon, wanted


def test_every_server_has_its_gpus_without_a_privilege(node: PodNode, nvml: FakeNvml) -> None:
    daemon, _ = start_matrix(node, nvml, {})
    status = Path(f"/proc/{pid_with('--web.listen-address=0.0.0.0:10101')}/status").read_text()
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^Uid:\s+10101\s+10101", status, re.MULTILINE)
    warnings = [line for line in daemon.child.log.read_text().splitlines() if "level=warning" in line and is_ours(line)]
    assert warnings == []


@pytest.mark.heavy
def test_every_server_has_its_tokens_joules_and_money_within_1_percent(node: PodNode, nvml: FakeNvml) -> None:
    """GPUs with constant power of their own, servers that make tokens for half a minute: rises and the truth."""
    watts = {str(gpu): 100.0 + 25.0 * gpu for gpu in range(16)}
    for gpu, power in watts.items():
        nvml.gpu(int(gpu)).set_constant(power)
    tariff = {"currency": "EUR", "energy": {"kind": "flat", "price_per_kwh": 0.3}}
    daemon, wanted = start_matrix(node, nvml, {"tariff": tariff, "host": {"meters": []}})
    page, made, first = node.directory / "page", 0, daemon.page()

    def tokens(now: Page, server: str) -> float:
        return now.sum("tpw_server_tokens_total", server=server, kind="output")

    capture = CAPTURE.read_text()
    (before,) = re.findall(r"^vllm:generation_tokens_total\{.*\} (\S+)$", capture, re.MULTILINE)
    for _ in range(30):
        time.sleep(1.0)
        made += 1000
        text = re.sub(
            r"^(vllm:generation_tokens_total\{.*\}) \S+$", rf"\g<1> {float(before) + made}", capture, flags=re.MULTILINE
        )
        page.with_suffix(".next").write_text(text)
        page.with_suffix(".next").replace(page)

    def complete() -> Page | None:
        now = daemon.page()
        return now if all(tokens(now, name) - tokens(first, name) == made for name in wanted) else None

    last = wait_until(complete, f"{made} tokens of each server", every=0.5)
    seconds = last.value("tpw_snapshot_timestamp_seconds") - first.value("tpw_snapshot_timestamp_seconds")
    rise = {
        metric: {name: last.sum(metric, server=name) - first.sum(metric, server=name) for name in wanted}
        for metric in ("tpw_server_energy_joules_total", "tpw_server_cost_total")
    }
    sharing = {gpu: [name for name, gpus in wanted.items() if gpu in gpus] for gpus in wanted.values() for gpu in gpus}
    watts["11"] *= 2 / 7  # two of seven slices are instances of these servers, the others are of nobody
    for gpu, servers in sharing.items():
        joules = sum(rise["tpw_server_energy_joules_total"][name] for name in servers)
        money = sum(rise["tpw_server_cost_total"][name] for name in servers)
        assert joules == pytest.approx(watts[gpu] * seconds, rel=0.01), (gpu, servers)
        assert money == pytest.approx(watts[gpu] * seconds * 0.3 / 3.6e6, rel=0.01), (gpu, servers)
        assert made * len(servers) / joules == pytest.approx(made * len(servers) / (watts[gpu] * seconds), rel=0.01)


def test_a_deployment_is_one_server_through_rollouts(node: PodNode, nvml: FakeNvml) -> None:
    logs = node.directory / "log" / "pods"
    page = node.directory / "page"
    made = 0

    def has_made(tokens: int) -> None:
        next_page = page.with_suffix(".next")
        next_page.write_text(f'vllm:generation_tokens_total{{model_name="m",engine="0"}} {tokens}\n')
        next_page.replace(page)

    def server(page: Page, name: str) -> dict[str, float]:
        return {dict(labels)["server"]: value for (metric, labels), value in page.items() if metric == name}

    has_made(0)
    daemon = Daemon(node, nvml, {"discovery": {"pod_logs": str(logs)}})
    for number in range(1, 5):
        pod = f"llama-7d9f8c6b{3 + number}-x2x7z"
        (logs / f"chat_{pod}_{uid(number)}").mkdir(parents=True)
        has_made(0)
        worker = f"worker-rollout-{number}"
        environment = {"PAGE": str(page), "WORKER": worker}
        child = node.start(f"p{number}", ["vllm", "serve", "m"], cgroup=cgroup(number), environment=environment)
        nvml.processes(0, [pid_with(worker)])
        wait_until(lambda: server(daemon.page(), "tpw_server_up").get("chat/llama") == 1.0, "found", every=0.5)
        has_made(1000 * number)
        made += 1000 * number
        wait_until(
            lambda: daemon.page().sum("tpw_server_tokens_total", server="chat/llama") == made,  # noqa: B023
            f"{made} tokens",
            every=0.5,
        )
        info = [dict(labels) for metric, labels in daemon.page() if metric == "tpw_server_info"]
        assert [(one["server"], one["workload"], one["pod"]) for one in info if one["namespace"] == "chat"] == [
            ("chat/llama", "llama", pod)
        ]
        nvml.processes(0, [])
        child.kill()
        wait_until(lambda: server(daemon.page(), "tpw_server_up").get("chat/llama") != 1.0, "gone", every=0.5)
    # Two replicas at the same time are the same server, with the GPUs of both and the tokens of both.
    has_made(0)
    for number, gpu in ((5, 0), (6, 1)):
        (logs / f"chat_llama-7d9f8c6b{3 + number}-x2x7z_{uid(number)}").mkdir(parents=True)
        environment = {"PAGE": str(page), "WORKER": f"worker-replica-{number}"}
        node.start(f"p{number}", ["vllm", "serve", "m"], cgroup=cgroup(number), environment=environment)
        nvml.processes(gpu, [pid_with(f"worker-replica-{number}")])
    wait_until(
        lambda: daemon.attributed().get("chat/llama") == Attributed(frozenset("01"), "processes"),
        "both replicas",
        every=0.5,
    )
    has_made(500)
    made += 2 * 500
    wait_until(lambda: daemon.page().sum("tpw_server_tokens_total", server="chat/llama") == made, f"{made} tokens")
    assert {name for name in server(daemon.page(), "tpw_server_tokens_total") if name.startswith("chat")} == {
        "chat/llama"
    }
