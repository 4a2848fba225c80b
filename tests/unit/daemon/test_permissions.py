"""Each permission of docs/kubernetes.md missing: its feature is off, that is logged once, and the rest works."""

from __future__ import annotations

import os
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
    host: Callable[[Path], str] = lambda _directory: "meters: []"
    sees_host: bool = True
    lists_processes: bool = True
    api: int = 0
    """Status of the API's answers."""
    awaited: tuple[str, ...] = ()
    """What `/-/ready` answers 503 for, a part each."""


def _no_socket(_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def devices(_path: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tpw.discovery.podresources.devices", devices)


def _api(directory: Path, url: str) -> str:
    (directory / "token").write_text("abc\n")
    return f"kubernetes: {{url: '{url}', token_file: '{directory / 'token'}', node: gpu-1, labels: team}}"


def _deny(below: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who may not open these files, also where the tests run as root."""
    open_file = os.open

    def opened(path: str | Path, *arguments: Any, **options: Any) -> int:
        if str(path).startswith(below):
            raise PermissionError(13, "Permission denied", str(path))
        return open_file(path, *arguments, **options)

    monkeypatch.setattr("os.open", opened)


def _no_books(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of another user."""
    _deny(str(directory / "state"), monkeypatch)


def _no_energy(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zone of RAPL as the kernel has it since 2020: energy_uj is 0400."""
    zone = directory / "sys" / "class" / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0")
    (zone / "max_energy_range_uj").write_text("262143328850")
    (zone / "energy_uj").write_text("1000000")
    _deny(str(zone / "energy_uj"), monkeypatch)


ROWS = (
    Missing(
        "energy of CPU and memory (RAPL)",
        ("energy_uj is not readable: permission denied",),
        host=lambda directory: f"sysfs: '{directory / 'sys'}'",
        prepare=_no_energy,
    ),
    Missing(
        "books that outlive a pod",
        ("Permission denied",),
        prepare=_no_books,
        awaited=("the books cannot be written: ",),
    ),
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
        discovery, host = row.discovery(directory, api.url), row.host(directory)
        node = Node(directory, monkeypatch, discovery, row.config, host, row.sees_host)
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
        assert page.values_of("tpw_host_power_watts") == []
        awaited = node.daemon.awaited()
        assert len(awaited) == len(row.awaited), awaited
        assert all(part in one for part, one in zip(row.awaited, awaited, strict=True)), awaited

    warnings = [entry["detail"] for entry in logs if entry["log_level"] in ("warning", "error")]
    assert len(warnings) == len(row.logged), warnings
    assert all(any(part in warning for warning in warnings) for part in row.logged), warnings


def test_every_row_of_the_table_has_a_test() -> None:
    section = DOCS.read_text().partition("## Permissions")[2].partition("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| ")][1:]
    rows = [row for row in rows if not row.startswith("---")]
    assert set(rows) == {row.feature for row in ROWS}


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
