"""Servers that are selected by the labels of their pods, from an API server to the page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from support.pageserver import Asked, PageServer, answer
from support.procfs import FakeProcFs, Tcp
from support.scraped import Page as Scraped
from support.scraped import parse
from tpw.config.load import load
from tpw.daemon.daemon import Daemon
from tpw.daemon.podwatch import PodWatch
from tpw.discovery.pods import pod_of_object
from tpw.discovery.processes import HostProcesses
from tpw.exposition.render import Format, Page
from tpw.ledger.books import Books, ServerAccount
from tpw.power.simulated import SimulatedMeter


@dataclass
class Pod:
    """A pod with a page."""

    number: int
    namespace: str = "chat"
    app: str = "llama"
    tokens: int = 0
    server: PageServer = field(init=False)

    def __post_init__(self) -> None:
        self.server = PageServer(self._answered)
        self.server.__enter__()

    def _answered(self, asked: Asked) -> bytes:
        text = f'vllm:generation_tokens_total{{model_name="m",engine="0"}} {self.tokens}\n'
        return answer(text) if asked.path == "/metrics" else answer(status=404)

    @property
    def uid(self) -> str:
        return f"0b5a2f4e-6b1c-4a5e-9c1d-{self.number:012d}"

    def described(self) -> dict[str, object]:
        labels = {"app": self.app, "team": "search"}
        ports = [{"name": "http", "containerPort": 1}, {"name": "metrics", "containerPort": self.server.port}]
        return {
            "metadata": {"name": f"p{self.number}", "namespace": self.namespace, "uid": self.uid, "labels": labels},
            "spec": {"containers": [{"name": "vllm", "ports": ports}]},
            "status": {"podIP": "127.0.0.1"},
        }


@pytest.fixture
def pods() -> Iterator[list[Pod]]:
    some = [Pod(1), Pod(2), Pod(3, namespace="other"), Pod(4, app="embed")]
    yield some
    for pod in some:
        pod.server.__exit__(None, None, None)


@pytest.fixture
def api(pods: list[Pod]) -> Iterator[PageServer]:
    def answered(asked: Asked) -> bytes | None:
        if "watch" in asked.path:
            return answer("")
        assert "spec.nodeName%3Dgpu-1" in asked.path
        return answer(json.dumps({"metadata": {"resourceVersion": "1"}, "items": [pod.described() for pod in pods]}))

    with PageServer(answered) as server:
        yield server


def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pods: list[Pod], api: str, servers: str) -> Daemon:
    proc = FakeProcFs(tmp_path / "proc")
    proc.process(1, "/sbin/init", comm="systemd", parent=0)
    proc.process(2, "", comm="kthreadd", parent=0)
    proc.network("host", ("10.0.0.1",), [Tcp(pod.server.port, 5000 + pod.number) for pod in pods])
    for pod in pods:
        cgroup = f"0::/kubepods/pod{pod.uid}/{'a' * 64}"
        proc.process(1000 + pod.number, "python3 server.py", sockets=(5000 + pod.number,), cgroup=cgroup)
    monkeypatch.setattr("tpw.daemon.ownership.HostProcesses", partial(HostProcesses, str(proc.root)))
    (tmp_path / "token").write_text("abc\n")
    kubernetes = f"{{url: '{api}', token_file: '{tmp_path / 'token'}', node: gpu-1, labels: team}}" if api else "{}"
    config = load(f"host: {{meters: []}}\ndiscovery: {{kubernetes: {kubernetes}}}\nservers: {servers}")
    held = {pod.number - 1: frozenset({1000 + pod.number}) for pod in pods}
    daemon = Daemon(config, accelerators=[SimulatedMeter(gpus=4, holders=lambda: held)])
    daemon.poll_all()
    return daemon


def page(daemon: Daemon) -> Scraped:
    return parse(Page().body(daemon.snapshot, Format.TEXT).decode())


def test_the_selected_pods_of_this_node_are_replicas_of_the_configured_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pods: list[Pod], api: PageServer
) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    chosen = f"selector: {{namespace: chat, labels: {{app: llama}}}}, headers_file: '{tmp_path / 'secret'}'"
    daemon = started(tmp_path, monkeypatch, pods, api.url, f"[{{name: chat, {chosen}}}]")
    for pod in pods:
        pod.tokens = 10**pod.number
    daemon.tick()
    daemon.tick()
    found = page(daemon)

    assert found.sum("tpw_server_tokens_total") == 110
    owned = {(dict(labels)["server"], dict(labels)["gpu"]) for name, labels in found if name == "tpw_server_gpu"}
    assert owned == {("chat", "0"), ("chat", "1")}
    [info] = [dict(labels) for name, labels in found if name == "tpw_server_info"]
    assert (info["namespace"], info["label_team"], info["pod"]) == ("chat", "search", "")
    assert [pod.server.asked[-1].headers.get("authorization") for pod in pods[:2]] == ["Bearer s3cret"] * 2
    assert [pod.server.asked for pod in pods[2:]] == [[], []]  # of another namespace, and another app
    daemon.stop()


def test_another_node_of_the_selector_reads_nothing_and_a_node_without_the_api_reports_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pods: list[Pod], api: PageServer
) -> None:
    selector = "{labels: {app: llama}, node: gpu-2}"
    daemon = started(tmp_path, monkeypatch, pods, api.url, f"[{{name: chat, selector: {selector}}}]")
    assert page(daemon).sum("tpw_server_tokens_total") == 0
    assert not any("selector" in note for note in daemon.snapshot.notes)
    daemon.stop()

    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    (tmp_path / "without").mkdir()
    daemon = started(tmp_path / "without", monkeypatch, pods, "", f"[{{name: chat, selector: {selector}}}]")
    assert any("servers with a selector are not read" in note for note in daemon.snapshot.notes)
    daemon.stop()


def test_replicas_keep_their_names_over_a_restart_by_the_address_at_which_they_were_read(pods: list[Pod]) -> None:
    watched = SimpleNamespace(pods={pod.uid: pod_of_object(pod.described()) for pod in pods}, problem="")
    watch = PodWatch()
    watch._watched = watched  # type: ignore[assignment]
    config = load("servers: [{name: chat, selector: {namespace: chat, labels: {app: llama}}}]")
    first = watch.selected(config.servers, [], Books())
    urls = dict(first.addresses)
    assert sorted(urls) == ["chat", "chat:replica-2"]

    swapped = {"chat": urls["chat:replica-2"], "chat:replica-2": urls["chat"]}
    books = Books(servers={name: ServerAccount(name, address=url) for name, url in swapped.items()})
    again = PodWatch()
    again._watched = watched  # type: ignore[assignment]
    assert again.selected(config.servers, [], books).addresses == swapped
    assert again.selected(config.servers, [], Books()).addresses == swapped  # known by their pods from now on
