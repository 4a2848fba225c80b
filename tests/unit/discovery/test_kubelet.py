"""Devices that the kubelet assigned to pods."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tpw.discovery.kubelet import Checkpoint, devices_to_gpus
from tpw.discovery.workload import parse
from tpw.model import Gpu

POD = "6f8d2c1e-0b0a-4a57-9d1b-2f3c4d5e6f70"
MIG = "MIG-41b35b7c-0000-1111-2222-333344445555"
GPUS = (Gpu("GPU-aaaa", 0), Gpu("GPU-bbbb", 1, mig_uuids=(MIG,)))


def entry(devices: Any, *, pod: str = POD, resource: str = "nvidia.com/gpu") -> dict[str, Any]:
    return {"PodUID": pod, "ContainerName": "vllm", "ResourceName": resource, "DeviceIDs": devices, "AllocResp": "CgA="}


def checkpoint(folder: Path, *entries: dict[str, Any]) -> Checkpoint:
    file = folder / "kubelet_internal_checkpoint"
    registered = {"nvidia.com/gpu": ["GPU-aaaa", "GPU-bbbb"]}
    document = {"Data": {"PodDeviceEntries": list(entries), "RegisteredDevices": registered}, "Checksum": 1234567}
    file.write_text(json.dumps(document))
    return Checkpoint(str(file))


@pytest.mark.parametrize(
    "cgroup",
    [
        f"0::/kubepods.slice/kubepods-burstable-pod{POD.replace('-', '_')}.slice/cri-containerd-ab.scope",
        f"12:cpu:/kubepods/burstable/pod{POD}/0123456789ab\n1:name=systemd:/kubepods/burstable/pod{POD}/0123456789ab",
        f"0::/../../pod{POD}/0123",
    ],
)
def test_a_cgroup_names_its_pod(cgroup: str):
    assert parse(cgroup.encode()).pod == POD


@pytest.mark.parametrize("cgroup", [b"", b"0::/user.slice", b"0::/system.slice/podman-6f8d2c1e.scope"])
def test_a_process_in_no_pod(cgroup: bytes):
    assert parse(cgroup).pod == ""


@pytest.mark.parametrize("devices", [{"0": ["GPU-aaaa"], "1": ["GPU-bbbb"]}, ["GPU-aaaa", "GPU-bbbb"]])
def test_devices_are_a_mapping_by_numa_node_or_a_list(tmp_path: Path, devices: Any):
    assert checkpoint(tmp_path, entry(devices)).devices() == ({POD: frozenset({"GPU-aaaa", "GPU-bbbb"})}, "")


def test_gpus_of_all_containers_of_a_pod_are_added_and_other_resources_ignored(tmp_path: Path):
    found, problem = checkpoint(
        tmp_path,
        entry({"-1": ["GPU-aaaa"]}),
        entry({"-1": [MIG]}, resource="nvidia.com/mig-1g.10gb"),
        entry({"-1": ["eth0"]}, resource="example.com/nic"),
        entry({"-1": ["GPU-cccc"]}, pod="other"),
    ).devices()
    assert (found, problem) == ({POD: frozenset({"GPU-aaaa", MIG}), "other": frozenset({"GPU-cccc"})}, "")


def test_a_missing_file_and_an_empty_one_are_no_problem(tmp_path: Path):
    assert Checkpoint(str(tmp_path / "none")).devices() == ({}, "")
    file = tmp_path / "empty"
    file.write_text('{"Data": {"PodDeviceEntries": null}}')
    assert Checkpoint(str(file)).devices() == ({}, "")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"Data": {"PodDeviceEntries": [{"PodUID": "x"}]}}', '{"Data": 5}'])
def test_an_invalid_file_is_reported(tmp_path: Path, text: str):
    file = tmp_path / "checkpoint"
    file.write_text(text)
    found, problem = Checkpoint(str(file)).devices()
    assert (found, "not a checkpoint" in problem) == ({}, True)


def test_an_unreadable_file_is_reported(tmp_path: Path):
    found, problem = Checkpoint(str(tmp_path)).devices()
    assert (found, "run the exporter as a user that can read this file" in problem) == ({}, True)


@pytest.mark.parametrize(
    ("identifier", "uuid"),
    [
        ("GPU-aaaa", "GPU-aaaa"),
        ("GPU-bbbb::3", "GPU-bbbb"),
        (MIG, "GPU-bbbb"),
        (f"{MIG}::0", "GPU-bbbb"),
        ("nvidia1", "GPU-bbbb"),
        ("nvidia1/gi7", "GPU-bbbb"),
        ("nvidia0/vgpu2", "GPU-aaaa"),
    ],
)
def test_t27_every_form_of_identifier_names_a_gpu(identifier: str, uuid: str):
    assert devices_to_gpus(frozenset({identifier}), GPUS).gpus == {uuid}


def test_a_device_that_is_not_on_this_host_is_reported():
    found = devices_to_gpus(frozenset({"GPU-cccc", "nvidia7"}), GPUS)
    assert (found.gpus, len(found.problems)) == (frozenset(), 2)
