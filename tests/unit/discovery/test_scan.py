"""Which GPUs a server owns if the driver does not list its processes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from support.procfs import FakeProcFs, Tcp
from tpw.discovery.kubelet import Kubelet
from tpw.discovery.ownership import AUTO, Claim, ownership
from tpw.discovery.processes import HostProcesses
from tpw.discovery.scan import HostScan, scan_host
from tpw.model import Attribution, Gpu, Ownership

GPUS = (Gpu("GPU-aaaa", 0, name="H100"), Gpu("GPU-bbbb", 1, name="H100"))
POD = "6f8d2c1e-0b0a-4a57-9d1b-2f3c4d5e6f70"
Lists = Mapping[str, frozenset[int] | None]
SILENT: Lists = {"GPU-aaaa": None, "GPU-bbbb": None}
EMPTY: Lists = {"GPU-aaaa": frozenset(), "GPU-bbbb": frozenset()}
FOREIGN: Lists = {"GPU-aaaa": frozenset({900_001}), "GPU-bbbb": frozenset({900_002})}


@pytest.fixture
def fake(tmp_path: Path) -> FakeProcFs:
    return FakeProcFs(tmp_path / "proc")


def server(fake: FakeProcFs, *, cgroup: str = "0::/user.slice", **environment: str) -> None:
    """A server on port 8000 with its engine as a child."""
    fake.process(50, "vllm serve m --port 8000", session=50, sockets=(500,), environment=environment, cgroup=cgroup)
    fake.process(51, ["VLLM::EngineCore"], parent=50, session=50, environment=environment, cgroup=cgroup)
    fake.network("host", ("10.0.0.1",), [Tcp(8000, 500)])


def kernel(fake: FakeProcFs) -> None:
    """A kernel thread: only the host's pid namespace shows one."""
    fake.process(2, [], parent=0, comm="kthreadd")


def scanned(fake: FakeProcFs, lists: Lists, kubelet: Kubelet | None = None) -> HostScan:
    host = HostProcesses(str(fake.root))
    return scan_host(host, {"chat": "http://127.0.0.1:8000"}, {}, lists, find=False, kubelet=kubelet)


def owned(scan: HostScan, lists: Lists, gpus: str | tuple[str, ...] = AUTO) -> Ownership:
    assigned, _ = scan.assigned("chat", GPUS)
    return ownership(
        Claim("chat", gpus), answering=True, pids=scan.pids["chat"], holders=lists, gpus=GPUS, assigned=assigned
    )


@pytest.mark.parametrize("lists", [SILENT, EMPTY, FOREIGN], ids=["silent", "empty", "foreign"])
def test_without_process_lists_the_environment_decides(fake: FakeProcFs, lists: Lists):
    server(fake, CUDA_VISIBLE_DEVICES="1")
    owner = owned(scanned(fake, lists), lists)
    assert (owner.gpus, owner.method, owner.held) == ({"GPU-bbbb"}, Attribution.ENVIRONMENT, True)


def test_the_driver_has_priority_over_the_environment(fake: FakeProcFs):
    server(fake, CUDA_VISIBLE_DEVICES="0,1")
    lists: Lists = {"GPU-aaaa": None, "GPU-bbbb": frozenset({51})}
    owner = owned(scanned(fake, lists), lists)
    assert (owner.gpus, owner.method) == ({"GPU-bbbb"}, Attribution.PROCESSES)


def test_in_the_host_s_pid_namespace_an_empty_list_means_no_process(fake: FakeProcFs):
    """A server that may use a GPU and does not (built for the CPU, or still loading) owns nothing."""
    kernel(fake)
    server(fake, CUDA_VISIBLE_DEVICES="1")
    owner = owned(scanned(fake, EMPTY), EMPTY)
    assert (owner.gpus, owner.method) == (frozenset(), Attribution.NONE)


def test_a_gpu_with_a_visible_holder_is_not_assigned_by_the_environment(fake: FakeProcFs):
    server(fake, CUDA_VISIBLE_DEVICES="0,1")
    fake.process(60, "python train.py")
    lists: Lists = {"GPU-aaaa": frozenset({60}), "GPU-bbbb": None}
    assert owned(scanned(fake, lists), lists).gpus == {"GPU-bbbb"}


def test_the_configuration_has_priority(fake: FakeProcFs):
    server(fake, CUDA_VISIBLE_DEVICES="1")
    owner = owned(scanned(fake, SILENT), SILENT, ("0",))
    assert (owner.gpus, owner.method) == ({"GPU-aaaa"}, Attribution.CONFIGURED)


def test_a_server_without_processes_has_no_environment(fake: FakeProcFs):
    server(fake, CUDA_VISIBLE_DEVICES="1")
    host = HostProcesses(str(fake.root))
    servers = {"chat": "http://127.0.0.1:8000"}
    scan_host(host, servers, {}, SILENT, find=False)
    fake.network("host", ("10.0.0.1",), [])
    fake.end(50)
    assert owned(scan_host(host, servers, {}, SILENT, find=False), SILENT).gpus == {"GPU-bbbb"}
    fake.end(51)
    assert owned(scan_host(host, servers, {}, SILENT, find=False), SILENT).gpus == frozenset()


def test_the_kubelet_has_priority_over_the_environment(fake: FakeProcFs, tmp_path: Path):
    server(fake, cgroup=f"0::/kubepods/pod{POD}/0123", NVIDIA_VISIBLE_DEVICES="GPU-aaaa")
    file = tmp_path / "checkpoint"
    entries = [{"PodUID": POD, "ResourceName": "nvidia.com/gpu", "DeviceIDs": {"-1": ["GPU-bbbb"]}}]
    file.write_text(json.dumps({"Data": {"PodDeviceEntries": entries}}))
    owner = owned(scanned(fake, SILENT, Kubelet(str(file))), SILENT)
    assert (owner.gpus, owner.method) == ({"GPU-bbbb"}, Attribution.KUBERNETES)
    without = owned(scanned(fake, SILENT, Kubelet(str(tmp_path / "none"))), SILENT)
    assert (without.gpus, without.method) == ({"GPU-aaaa"}, Attribution.ENVIRONMENT)


def test_the_kubelet_s_file_is_read_only_if_it_is_needed(fake: FakeProcFs, tmp_path: Path):
    """A directory in its place would be reported as a problem."""
    wrong = Kubelet(str(tmp_path))
    server(fake, cgroup=f"0::/kubepods/pod{POD}/0123")
    held: Lists = {"GPU-aaaa": frozenset({51}), "GPU-bbbb": None}
    assert not any(str(tmp_path) in problem for problem in scanned(fake, held, wrong).problems)
    assert any(str(tmp_path) in problem for problem in scanned(fake, SILENT, wrong).problems)


def test_an_ambiguous_environment_is_reported(fake: FakeProcFs):
    server(fake, CUDA_VISIBLE_DEVICES="1")
    unequal = (GPUS[0], Gpu("GPU-bbbb", 1, name="L4"))
    assigned, problems = scanned(fake, SILENT).assigned("chat", unequal)
    assert assigned is None
    assert len(problems) == 1


@pytest.mark.parametrize(
    ("urls", "problems"),
    [
        (("http://127.0.0.1:8000", "http://localhost:8000/"), 1),
        (("http://127.0.0.1:8000", "http://10.0.0.1:8000"), 1),
        (("http://127.0.0.1:8000", "http://[::1]:8000"), 1),
        (("http://127.0.0.1:8000/metrics", "http://127.0.0.1:8000"), 1),
        (("http://127.0.0.1:8000", "http://127.0.0.1:9000"), 1),
        # A router has a URL for each of its models.
        (("http://127.0.0.1:8000/metrics?model=a", "http://127.0.0.1:8000/metrics?model=b"), 0),
        (("http://127.0.0.1:8000", "http://127.0.0.1:7000"), 0),
        (("http://127.0.0.1:8000", "http://192.0.2.1:8000"), 0),
        (("http://127.0.0.1:7001", "http://127.0.0.1:7002"), 0),
    ],
)
def test_t28_one_server_that_is_configured_twice_is_reported(fake: FakeProcFs, urls: tuple[str, str], problems: int):
    """Each of the two would count all its tokens."""
    fake.process(50, "text-generation-router --port 8000", sockets=(500, 501))
    fake.process(60, "llama-server", sockets=(502,))
    fake.network("host", ("10.0.0.1",), [Tcp(8000, 500, "::"), Tcp(9000, 501), Tcp(7000, 502)])
    host = HostProcesses(str(fake.root))
    scan = scan_host(host, dict(zip(("one", "two"), urls, strict=True)), {}, {}, find=False)
    expected = (
        "servers one and two are served by the same process (50): if they are one server at two addresses, its tokens are"
        " counted twice; remove one of them from the configuration"
    )
    assert list(scan.problems) == [expected] * problems
