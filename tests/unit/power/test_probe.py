"""``tpw-exporter probe``: how the energy of each GPU is read, and why no better method is used."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fakenvml import FakeNvml
from support.node import Node
from support.servers import clean_environment, exporter_command
from tpw.cli import probe
from tpw.config.schema import Config


@pytest.fixture
def nvml(stand_in: Callable[..., FakeNvml]) -> Iterator[FakeNvml]:
    with stand_in(2, start_seconds=1000.0) as nvml:
        yield nvml


def no_counter(nvml: FakeNvml) -> None:
    nvml.no_energy(0)


def instants_only(nvml: FakeNvml) -> None:
    nvml.no_energy(0)
    nvml.no_average(0)


def old_driver(nvml: FakeNvml) -> None:
    nvml.gpu(0).set(architecture=6)
    nvml.gpu(0).flag("no_fields")
    nvml.no_energy(0)


def nothing(nvml: FakeNvml) -> None:
    for flag in ("no_energy", "no_average", "no_instant", "no_usage"):
        nvml.gpu(0).flag(flag)


COUNTER = ("counter", "gpu", "", [])
MODULE = "Power and energy are those of the whole module, its CPU included: NVML reports none of the GPU alone."
UNDECIDED = (
    "A superchip: whether its energy counter covers the GPU or the whole module is determined within a minute;"
    " until then it counts as the module's."
)
MIG = (
    "MIG is on: power and energy are those of the whole GPU, since instances have no meters, and NVML reports no"
    " utilisation."
)


@pytest.mark.parametrize(
    ("prepare", "method", "scope", "why", "remarks"),
    [
        (lambda nvml: None, *COUNTER),
        (
            no_counter,
            "average_power",
            "gpu",
            "no NVML energy counter (before Volta, or a virtual GPU): the one-second mean of power is integrated",
            [],
        ),
        (
            instants_only,
            "instant_power",
            "gpu",
            "no NVML energy counter (before Volta, or a virtual GPU), no mean power: instantaneous power is integrated",
            [],
        ),
        (
            old_driver,
            "instant_power",
            "gpu",
            "no NVML energy counter (before Volta, or a virtual GPU), no mean power: instantaneous power is integrated",
            [],
        ),
        (
            nothing,
            "none",
            "gpu",
            "no NVML energy counter (before Volta, or a virtual GPU), and no power reading either",
            [],
        ),
        (lambda nvml: nvml.module_scope(0, 1.5, gpu_scope=False), "counter", "module", "", [MODULE]),
        (lambda nvml: nvml.module_scope(0, 1.5), "counter", "module", "", [UNDECIDED]),
        (lambda nvml: nvml.mig(0, [[1]]), "counter", "gpu", "", [MIG]),
    ],
    ids=["all", "no counter", "no mean", "old driver", "nothing", "module only", "superchip", "MIG"],
)
def test_probe_shows_the_method_of_each_gpu_and_the_reason_for_it(
    nvml: FakeNvml,
    capsys: pytest.CaptureFixture[str],
    prepare: Callable[[FakeNvml], object],
    method: str,
    scope: str,
    why: str,
    remarks: list[str],
) -> None:
    prepare(nvml)
    with Node(nvml) as node:
        seen = probe.findings(node.daemon.snapshot, node.daemon.holders(), Config())
    capsys.readouterr()
    probe._print(seen)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]

    gpu, other = seen["gpus"]
    assert (gpu["energy_method"], gpu["power_scope"]) == (method, scope)
    assert (gpu["why_not_better"], gpu["remarks"]) == (why, remarks)
    assert (other["energy_method"], other["power_scope"], other["why_not_better"], other["remarks"]) == COUNTER
    start = lines.index(f"energy method {method}, power scope {scope}")
    assert lines[start + 1 : start + 1 + bool(why) + len(remarks)] == [*([why] if why else []), *remarks]


def test_probe_shows_a_gpu_with_denied_access(nvml: FakeNvml) -> None:
    nvml.gpu(1).flag("no_access")
    with Node(nvml) as node:
        seen = probe.findings(node.daemon.snapshot, node.daemon.holders(), Config())

    assert [gpu["index"] for gpu in seen["gpus"]] == [0]
    assert "GPU 1 of 2 cannot be used: no permission (4)" in seen["notes"]


def test_probe_reads_once_and_prints(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("host: {meters: []}\ndiscovery: {processes: false}\npolling: {interval: 100ms}\n")
    with FakeNvml(tmp_path) as nvml:
        nvml.no_energy(1)
        command = exporter_command("probe", "--json", f"--config.file={config}")
        done = subprocess.run(
            command, env=clean_environment(**nvml.env()), capture_output=True, text=True, timeout=60, check=True
        )
    printed: dict[str, Any] = json.loads(done.stdout)

    assert [gpu["energy_method"] for gpu in printed["gpus"]] == ["counter", "average_power"]
    assert [gpu["power_watts"] for gpu in printed["gpus"]] == [100.0, 100.0]
