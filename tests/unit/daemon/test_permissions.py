"""Each permission of docs/kubernetes.md missing: its feature is off, that is logged once, and the rest works."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from support.kubenode import Node, Pod
from support.pageserver import PageServer, answer
from tpw.model import Sharing
from tpw.power.simulated import SimulatedMeter

DOCS = Path(__file__).parents[3] / "docs" / "kubernetes.md"


@dataclass(frozen=True)
class Missing:
    """A permission that is missing."""

    feature: str
    """First column of the table."""
    logged: tuple[str, ...] = ()
    """A part of each warning."""
    server: str = "chat/llama"
    gpus: frozenset[str] = frozenset({"0"})
    prepare: Callable[[Path, pytest.MonkeyPatch], Any] = lambda _directory, _patch: None
    discovery: Callable[[Path, str], str] = lambda _directory, _api: ""
    config: str = ""
    sees_host: bool = True
    lists_processes: bool = True
    api: int = 0
    """Status of the API's answers."""


def _no_socket(_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def devices(_path: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tpw.discovery.podresources.devices", devices)


def _api(directory: Path, url: str) -> str:
    (directory / "token").write_text("abc\n")
    return f"kubernetes: {{url: '{url}', token_file: '{directory / 'token'}', node: gpu-1, labels: team}}"


ROWS = (
    Missing(
        "names of pods without the API",
        server="vllm-PORT",
        discovery=lambda directory, _: f"pod_logs: '{directory / 'not mounted'}'",
    ),
    Missing("names of pods by the API", ("does not allow this service account",), discovery=_api, api=403),
    Missing("pod labels, deployments of several pools", ("does not allow",), discovery=_api, api=403),
    Missing(
        "`servers[].selector`",
        ("does not allow",),
        discovery=_api,
        api=403,
        config="servers: [{name: other, selector: {namespace: other}}]",
    ),
    Missing(
        "GPUs of servers by their processes",
        ("none of the processes that the driver lists", "its GPUs are not known"),
        gpus=frozenset(),
        sees_host=False,
    ),
    Missing(
        "GPUs of containers by the kubelet's service",
        ("Permission denied, so the kubelet's assignment of GPUs to pods is not read there", "its GPUs are not known"),
        gpus=frozenset(),
        prepare=_no_socket,
        lists_processes=False,
    ),
    Missing(
        "GPUs of pods by the kubelet's checkpoint",
        ("so the kubelet's assignment of GPUs to pods is unknown", "its GPUs are not known"),
        gpus=frozenset(),
        discovery=lambda directory, _: f"kubelet_checkpoint: '{directory}'",
        lists_processes=False,
    ),
)


@contextmanager
def started(row: Missing, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Node, Pod]]:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    row.prepare(directory, monkeypatch)
    if not row.lists_processes:
        monkeypatch.setattr(SimulatedMeter, "sharing", lambda _self, _uuid: Sharing())
    with PageServer(lambda _: answer("{}", status=row.api or 404)) as api:
        node = Node(directory, monkeypatch, row.discovery(directory, api.url), row.config, row.sees_host)
        try:
            pod = node.begin()
            node.ready(pod)
            yield node, pod
        finally:
            node.close()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.feature)
def test_a_missing_permission_is_logged_once_and_the_rest_works(
    row: Missing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture_logs() as logs, started(row, tmp_path, monkeypatch) as (node, pod):
        for _ in range(6):
            node.scan()
            node.tick(10)
        page = node.page()
        name = row.server.replace("PORT", str(pod.server.port))
        assert page.value("tpw_server_up", server=name) == 1.0
        assert page.sum("tpw_server_tokens_total", server=name) == node.truth
        assert {dict(labels)["gpu"] for metric, labels in page if metric == "tpw_server_gpu"} == row.gpus
        assert page.sum("tpw_gpu_energy_joules_total") > 0.0

    warnings = [entry["detail"] for entry in logs if entry["log_level"] == "warning"]
    assert len(warnings) == len(row.logged), warnings
    assert all(any(part in warning for warning in warnings) for part in row.logged), warnings


def test_every_row_of_the_table_has_a_test() -> None:
    section = DOCS.read_text().partition("## Permissions")[2].partition("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| ")][1:]
    rows = [row for row in rows if not row.startswith("---")]
    tested_elsewhere = {"books that outlive a pod", "energy of CPU and memory (RAPL)"}
    assert set(rows) == {row.feature for row in ROWS} | tested_elsewhere


def test_a_quiet_node_logs_nothing_after_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with started(Missing("none"), tmp_path, monkeypatch) as (node, _):
        node.scan()
        node.tick(10)
        with capture_logs() as logs:
            for _ in range(12):
                node.scan()
                for _ in range(5):
                    node.tick(10)
    assert logs == []
