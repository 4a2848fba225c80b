"""Which GPUs a process may use, according to its environment."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tpw.discovery.environment import Visible, allowed
from tpw.model import Die, Gpu

MIG = "MIG-41b35b7c-0000-1111-2222-333344445555"
GPUS = tuple(
    Gpu(f"GPU-{letter * 4}0000-1111-2222-3333-444455556666", index, name="H100") for index, letter in enumerate("abcd")
)
CUT = (replace(GPUS[0], mig_uuids=(MIG,)), *GPUS[1:])
UNEQUAL = (replace(GPUS[0], name="L4"), *GPUS[1:])
AMD = tuple(Gpu(f"GPU-{index}e5f", index, vendor="amd", name="MI300X") for index in range(4))
MI250 = tuple(
    Gpu(f"GPU-{index}e5f", index, vendor="amd", name="MI250", dies=(Die(f"GPU-{index + 1}e5f", index + 1),))
    for index in (0, 2)
)


def allowed_gpus(*, gpus: tuple[Gpu, ...] = GPUS, cgroup: bytes = b"", **environment: str) -> tuple[list[int], int]:
    """Indices of the GPUs, and how many things are unclear."""
    visible = Visible.from_environment(environment, cgroup)
    found = allowed([visible] if visible else [], gpus)
    return sorted(gpu.index for gpu in gpus if gpu.uuid in found.gpus), len(found.problems)


def test_an_environment_without_gpu_variables_allows_no_known_gpu():
    assert Visible.from_environment({"PATH": "/bin", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}) is None
    assert allowed_gpus(PATH="/bin") == ([], 0)


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ("0", [0]),
        ("2,1", [1, 2]),
        (" 0 , 3 ", [0, 3]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1,-1,2", [1]),  # CUDA stops at the first invalid entry
        ("1,9,2", [1]),
        (GPUS[2].uuid, [2]),
        ("GPU-cccc", [2]),
        ("GPU-", []),  # the beginning of them all
        (f"{GPUS[3].uuid},{GPUS[0].uuid}", [0, 3]),
    ],
)
def test_cuda_visible_devices(listed: str, expected: list[int]):
    assert allowed_gpus(CUDA_VISIBLE_DEVICES=listed) == (expected, 0)


@pytest.mark.parametrize(("order", "expected"), [("PCI_BUS_ID", ([1], 0)), ("FASTEST_FIRST", ([], 1)), ("", ([], 1))])
def test_the_order_of_gpus_of_different_models_is_not_guessed(order: str, expected: tuple[list[int], int]):
    assert allowed_gpus(gpus=UNEQUAL, CUDA_VISIBLE_DEVICES="1", CUDA_DEVICE_ORDER=order) == expected


def test_the_order_does_not_matter_if_all_gpus_or_uuids_are_listed():
    assert allowed_gpus(gpus=UNEQUAL, CUDA_VISIBLE_DEVICES="3,2,1,0") == ([0, 1, 2, 3], 0)
    assert allowed_gpus(gpus=UNEQUAL, CUDA_VISIBLE_DEVICES=GPUS[1].uuid) == ([1], 0)


def test_a_problem_names_its_remedy():
    visible = Visible.from_environment({"CUDA_VISIBLE_DEVICES": "1"})
    assert visible is not None
    [problem] = allowed([visible], UNEQUAL).problems
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in problem
    assert "`gpus`" in problem


@pytest.mark.parametrize(
    ("container", "cuda", "expected"),
    [
        ("2,3", None, [2, 3]),
        (GPUS[1].uuid, None, [1]),
        ("3,1", "0", [1]),  # inside, the first is the lower one
        ("3,1", "1", [3]),
        ("2,3", GPUS[3].uuid, [3]),
        ("all", None, []),
        ("void", None, []),
        ("none", None, []),
    ],
)
def test_indices_in_a_container_count_its_own_gpus(container: str, cuda: str | None, expected: list[int]):
    environment = {"NVIDIA_VISIBLE_DEVICES": container} | ({} if cuda is None else {"CUDA_VISIBLE_DEVICES": cuda})
    assert allowed_gpus(cgroup=b"0::/kubepods.slice/x", **environment) == (expected, 0)


@pytest.mark.parametrize("container", [None, "all", "void"])
def test_indices_in_a_container_of_unknown_gpus_are_not_guessed(container: str | None):
    """Devices that are injected with CDI are listed in no variable."""
    environment = {"CUDA_VISIBLE_DEVICES": "0"} | ({} if container is None else {"NVIDIA_VISIBLE_DEVICES": container})
    assert allowed_gpus(cgroup=b"0::/system.slice/docker-0123.scope", **environment) == ([], 1)
    assert allowed_gpus(cgroup=b"0::/user.slice", **environment) == ([0], 0)


@pytest.mark.parametrize("name", [MIG, f"MIG-{GPUS[0].uuid}/7/0"])
def test_t27_an_instance_is_on_its_gpu(name: str):
    assert allowed_gpus(gpus=CUT, CUDA_VISIBLE_DEVICES=name) == ([0], 0)
    assert allowed_gpus(gpus=CUT, NVIDIA_VISIBLE_DEVICES=name) == ([0], 0)


def test_an_unknown_instance_names_no_gpu():
    assert allowed_gpus(gpus=GPUS, CUDA_VISIBLE_DEVICES=MIG) == ([], 0)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"HIP_VISIBLE_DEVICES": "1"}, [1]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, [1]),
        ({"HIP_VISIBLE_DEVICES": "1", "CUDA_VISIBLE_DEVICES": "2"}, [1]),
        ({"ROCR_VISIBLE_DEVICES": "2,3"}, [2, 3]),
        ({"ROCR_VISIBLE_DEVICES": "2,3", "HIP_VISIBLE_DEVICES": "1"}, [3]),
        ({"ROCR_VISIBLE_DEVICES": "GPU-3e5f"}, [3]),
        ({"NVIDIA_VISIBLE_DEVICES": "1"}, []),
    ],
)
def test_amd(environment: dict[str, str], expected: list[int]):
    assert allowed_gpus(gpus=AMD, **environment) == (expected, 0)


def test_gpus_of_all_processes_of_a_server_are_added():
    environments = [Visible.from_environment({"CUDA_VISIBLE_DEVICES": str(rank)}) for rank in (0, 2)]
    assert allowed([one for one in environments if one], GPUS).gpus == {GPUS[0].uuid, GPUS[2].uuid}


@pytest.mark.parametrize(
    ("listed", "expected"),
    [("0", [0]), ("1", [0]), ("2", [2]), ("3,2", [2]), ("1,3", [0, 2]), ("GPU-2e5f,0", [0, 2])],
)
def test_rocm_counts_dies_and_each_names_its_gpu(listed: str, expected: list[int]):
    assert allowed_gpus(gpus=MI250, HIP_VISIBLE_DEVICES=listed) == (expected, 0)
