"""Workloads from cgroups as systems write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpw.discovery.workload import MAX_NAME_LENGTH, Cgroup, parse, workload_of
from tpw.model import Workload, WorkloadKind

ID = "3f2a" * 16
POD = "0b5a2f4e-6b1c-4a5e-9c1d-2f7e8a9b0c1d"
UNDERSCORED = POD.replace("-", "_")


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        (f"0::/kubepods/burstable/pod{POD}/{ID}\n", "kubernetes", f"{POD}/{ID[:12]}"),
        (f"0::/kubepods/pod{POD}\n", "kubernetes", POD),
        (
            f"0::/kubepods.slice/kubepods-besteffort-pod{UNDERSCORED}.slice/cri-containerd-{ID}.scope\n",
            "kubernetes",
            f"{POD}/{ID[:12]}",
        ),
        (f"0::/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/crio-{ID}.scope/x\n", "kubernetes", f"{POD}/{ID[:12]}"),
        (
            f"0::/system.slice/containerd.service/kubepods-burstable-pod{UNDERSCORED}.slice:cri-containerd:{ID}\n",
            "kubernetes",
            f"{POD}/{ID[:12]}",
        ),
        (
            f"12:devices:/kubepods/pod{POD}/{ID}\n3:cpu,cpuacct:/kubepods/pod{POD}/{ID}\n1:name=systemd:/x.service\n",
            "kubernetes",
            f"{POD}/{ID[:12]}",
        ),
        (f"0::/kubepods/burstable/pod{'ab12' * 8}/{ID}\n", "kubernetes", f"{'ab12' * 8}/{ID[:12]}"),
        ("0::/system.slice/slurmstepd.scope/job_4711/step_0/user/task_0\n", "slurm", "4711"),
        ("9:memory:/slurm/uid_1000/job_12/step_batch\n8:cpu:/\n1:name=systemd:/slurmd.service\n", "slurm", "12"),
        ("0::/system.slice/node7_slurmstepd.scope/job_5/step_batch/user/task_0\n", "slurm", "5"),
        (f"0::/system.slice/docker-{ID}.scope\n", "container", ID[:12]),
        (f"4:cpu:/docker/{ID}\n", "container", ID[:12]),
        (
            f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container\n",
            "container",
            ID[:12],
        ),
        ("0::/lxc.payload.web1/system.slice/nginx.service\n", "container", "web1"),
        ("0::/system.slice/train.service\n", "systemd", "train.service"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/jupyter.service\n", "systemd", "jupyter.service"),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", "command", "ada: train.py"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.scope\n", "command", "ada: train.py"),
        ("0::/\n", "command", "ada: train.py"),
        ("", "command", "ada: train.py"),
    ],
)
def test_a_workload_is_named_by_the_cgroup_of_its_process(text: str, kind: str, name: str) -> None:
    assert workload_of(parse(text.encode()), "ada", "train.py") == Workload(WorkloadKind(kind), name)


def test_pod_and_container_are_available_in_full() -> None:
    assert parse(f"0::/kubepods/burstable/pod{POD}/{ID}".encode()) == Cgroup(pod=POD, container=ID)


@given(st.binary(max_size=200), st.text(max_size=200), st.text(max_size=200))
def test_any_text_makes_a_valid_label(cgroup: bytes, user: str, command: str) -> None:
    name = workload_of(parse(cgroup), user, command).name
    assert 0 < len(name) <= MAX_NAME_LENGTH
    assert name.isprintable()
