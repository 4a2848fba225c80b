"""The daemon over a GPU that two real servers share: by use of the multiprocessors, and by instance (MIG)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fakenvml import FakeNvml
from support.scraped import Page, parse
from support.servers import Exporter, Llama, clean_environment, exporter_command, wait_until


@pytest.fixture
def nvml(tmp_path: Path) -> Iterator[FakeNvml]:
    with FakeNvml(tmp_path, 1, refresh_seconds=0.1, watts=280.0) as fake:
        yield fake


def config(gpus: dict[str, Any], llamas: dict[str, Llama]) -> dict[str, Any]:
    return {
        "polling": {"interval": "500ms"},
        "host": {"meters": []},
        "discovery": {"processes": False},
        "servers": [{"name": name, "url": llama.url, "gpus": gpus[name]} for name, llama in llamas.items()],
    }


def shares(metrics: Page, method: str) -> dict[str, float]:
    found = {}
    for (name, labels), ratio in metrics.items():
        if name == "tpw_server_gpu_share_ratio" and dict(labels)["method"] == method:
            found[dict(labels)["server"]] = ratio
    return found


def conserved(metrics: Page) -> None:
    """Law 2: servers, other workloads and idle sum to the GPU."""
    total_joules = metrics.sum("tpw_gpu_energy_joules_total")
    idle = sum(metrics.sum("tpw_gpu_state_energy_joules_total", state=state) for state in ("idle", "other"))
    assert total_joules > 0.0
    assert metrics.sum("tpw_server_energy_joules_total") + idle == pytest.approx(total_joules, rel=1e-12)


def risen(after: Page, before: Page, name: str, **labels: str) -> float:
    return after.sum(name, **labels) - before.sum(name, **labels)


def test_two_servers_on_one_gpu_share_it_by_what_their_processes_use(
    exporter: Callable[..., Exporter], llama: Llama, start_llama: Callable[..., Llama], nvml: FakeNvml
) -> None:
    other = start_llama()
    nvml.processes(0, [llama.child.pid, other.child.pid, 1])
    nvml.usage(0, {llama.child.pid: 60, other.child.pid: 20, 1: 9}, lasting=True)
    daemon = exporter(config({"a": "auto", "b": "auto"}, {"a": llama, "b": other}), environment=nvml.env())

    def shared() -> Page | None:
        metrics = parse(daemon.metrics())
        return metrics if len(shares(metrics, "sm")) == 2 else None

    before = wait_until(shared, "both servers to share the GPU by use")
    # The third process belongs to no server: its use is its own.
    assert shares(before, "sm") == {"a": pytest.approx(60 / 89), "b": pytest.approx(20 / 89)}
    after = wait_until(
        lambda: page if risen(page := parse(daemon.metrics()), before, "tpw_gpu_energy_joules_total") > 500.0 else None,
        "two seconds of energy",
    )
    conserved(after)
    gpu_joules = risen(after, before, "tpw_gpu_energy_joules_total")
    assert risen(after, before, "tpw_server_energy_joules_total", server="a") == pytest.approx(60 / 89 * gpu_joules)
    assert risen(after, before, "tpw_server_energy_joules_total", server="b") == pytest.approx(20 / 89 * gpu_joules)
    others = "tpw_gpu_state_energy_joules_total"
    assert risen(after, before, others, state="other") == pytest.approx(9 / 89 * gpu_joules)
    assert risen(after, before, "tpw_workload_energy_joules_total") == pytest.approx(9 / 89 * gpu_joules)


def test_a_server_at_5_percent_beside_a_job_at_90_has_what_it_used(
    exporter: Callable[..., Exporter], llama: Llama, nvml: FakeNvml
) -> None:
    """80 W without load, 520 W more at full use: the server uses 40 + 26 W, the job 40 + 468 W."""
    gpu, watts = nvml.gpu(0), 80.0 + 520.0 * 0.95
    gpu.set_constant(80.0)
    nvml.utilization(0, 0)
    with subprocess.Popen(["sleep", "600"]) as job:
        try:
            nvml.processes(0, [llama.child.pid, job.pid])
            daemon = exporter(config({"a": "auto"}, {"a": llama}), environment=nvml.env())

            def owned(joules: float) -> Page | None:
                page = parse(daemon.metrics())
                return page if page.sum("tpw_server_energy_joules_total", server="a") > joules else None

            wait_until(lambda: owned(40.0), "a second of no-load power")
            gpu.set_constant(watts)
            nvml.utilization(0, 95)
            nvml.usage(0, {llama.child.pid: 5, job.pid: 90}, lasting=True)
            before = wait_until(
                lambda: page if shares(page := parse(daemon.metrics()), "sm") else None, "the share by use"
            )
            after = wait_until(
                lambda: (
                    page
                    if risen(page := parse(daemon.metrics()), before, "tpw_gpu_energy_joules_total") > 4.0 * watts
                    else None
                ),
                "four seconds of energy",
            )
        finally:
            job.terminate()
    conserved(after)
    used = risen(after, before, "tpw_gpu_energy_joules_total")
    bound = after.sum("tpw_server_gpu_share_error_ratio", server="a")
    assert 0.0 < bound < 0.02
    true = {"a": 66.0 / watts, "job": 508.0 / watts}
    assert abs(risen(after, before, "tpw_server_energy_joules_total", server="a") / used - true["a"]) <= bound
    assert abs(risen(after, before, "tpw_workload_energy_joules_total") / used - true["job"]) <= bound


def test_servers_on_instances_of_one_gpu_have_their_parts_and_the_rest_is_idle(
    exporter: Callable[..., Exporter], llama: Llama, start_llama: Callable[..., Llama], nvml: FakeNvml, tmp_path: Path
) -> None:
    other = start_llama()
    nvml.gpu(0).flag("no_gpm")
    nvml.mig(0, [[llama.child.pid], [other.child.pid], []], ["1g.10gb", "3g.40gb", "2g.20gb"])
    uuids = [nvml.instance_uuid(0, j) for j in range(3)]
    # One is found by its process, the other is listed.
    daemon = exporter(config({"a": "auto", "b": [uuids[1]]}, {"a": llama, "b": other}), environment=nvml.env())

    def shared() -> Page | None:
        metrics = parse(daemon.metrics())
        return metrics if len(shares(metrics, "slices")) == 2 else None

    before = wait_until(shared, "both servers to be on their instances")
    assert shares(before, "slices") == {"a": pytest.approx(1 / 7), "b": pytest.approx(3 / 7)}
    after = wait_until(
        lambda: page if risen(page := parse(daemon.metrics()), before, "tpw_gpu_energy_joules_total") > 500.0 else None,
        "two seconds of energy",
    )
    conserved(after)
    gpu_joules = risen(after, before, "tpw_gpu_energy_joules_total")
    estimate = "tpw_gpu_instance_estimated_energy_joules_total"
    for uuid, slices, profile in zip(uuids, (1, 3, 2), ("1g.10gb", "3g.40gb", "2g.20gb"), strict=True):
        of_instance = risen(after, before, estimate, gpu_instance=uuid, profile=profile, method="slices")
        assert of_instance == pytest.approx(gpu_joules * slices / 7)
    assert risen(after, before, "tpw_server_energy_joules_total", server="b") == pytest.approx(gpu_joules * 3 / 7)
    assert risen(after, before, "tpw_gpu_state_energy_joules_total", state="idle") == pytest.approx(gpu_joules * 3 / 7)

    file = next(tmp_path.glob("exporter-*.yaml"))
    probed = json.loads(
        subprocess.run(
            exporter_command("probe", "--json", f"--config.file={file}"),
            env=clean_environment(**nvml.env()),
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout
    )
    (gpu,) = probed["gpus"]
    assert [instance["uuid"] for instance in gpu["instances"]] == uuids
    assert gpu["shares"] == {"a": pytest.approx(1 / 7), "b": pytest.approx(3 / 7)}
    assert probed["host_share"]["method"] == "none"
