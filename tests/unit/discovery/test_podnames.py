"""Names of pods by the directories of their logs, and the workload that they show."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.procfs import FakeProcFs
from tpw.discovery.podnames import PodName, PodNames, workload_of_pod
from tpw.discovery.pods import Pod
from tpw.discovery.processes import HostProcesses
from tpw.model import ServerWorkload

OTHER = "0b5a2f4e-6b1c-4a5e-9c1d-0000000000ff"
UID = "0b5a2f4e-6b1c-4a5e-9c1d-2f7e8a9b0c1d"
ID = "3f2a" * 16


@pytest.mark.parametrize(
    ("pod", "workload", "kind"),
    [
        ("llama-3-8b-chat-7d9f8c6b5-x2x7z", "llama-3-8b-chat", "deployment"),
        ("vllm-5d59d67564-vlqgr", "vllm", "deployment"),
        ("vllm-0", "vllm", "statefulset"),
        ("lws-sample-0-1", "lws-sample-0", "statefulset"),
        ("bench-x7k2p", "bench", "pod"),
        ("my-chat-server", "my-chat-server", "pod"),
        ("node-problem-abcde", "node-problem-abcde", "pod"),
        ("llama-8b-instruct", "llama-8b-instruct", "pod"),
    ],
)
def test_the_name_of_a_pod_shows_its_workload(pod: str, workload: str, kind: str):
    assert workload_of_pod(pod) == (workload, kind)


def test_pods_and_containers_are_named_by_the_entries_of_the_log_directories(tmp_path: Path):
    (tmp_path / "pods" / f"chat_vllm-0_{UID}").mkdir(parents=True)
    (tmp_path / "containers").mkdir()
    (tmp_path / "containers" / f"vllm-0_chat_the-engine-{ID}.log").symlink_to("nowhere")
    names = PodNames(str(tmp_path / "pods"))
    assert names.pod(UID) == PodName("chat", "vllm-0")
    assert names.container(ID) == "the-engine"
    assert (names.pod("another"), names.container("b" * 64), names.container("")) == (None, "", "")


def test_a_name_that_was_found_is_kept_and_new_ones_are_found_by_the_next_scan(tmp_path: Path):
    names = PodNames(str(tmp_path / "pods"))
    assert names.pod(UID) is None
    (tmp_path / "pods" / f"chat_vllm-0_{UID}").mkdir(parents=True)
    assert names.pod(UID) is None  # one list for each scan
    names.forget()
    assert names.pod(UID) == PodName("chat", "vllm-0")


def test_the_api_names_a_process_before_the_logs_do(tmp_path: Path):
    logs = tmp_path / "log" / "pods"
    for uid in (UID, OTHER):
        (logs / f"chat_deepseek-0-1_{uid}").mkdir(parents=True)
    fake = FakeProcFs(tmp_path / "proc")
    for pid, uid in ((10, UID), (11, OTHER)):
        fake.process(pid, "vllm serve m", cgroup=f"0::/kubepods/pod{uid}/{'a' * 64}")
    known = Pod(
        UID,
        "chat",
        "deepseek-0-1",
        "deepseek",
        "leaderworkerset",
        "chat/assistant",
        {"team": "x"},
        {},
        {"a" * 64: "engine"},
    )
    host = HostProcesses(str(fake.root), pod_logs=str(logs), pods=lambda: {UID: known}, pod_labels=("team",))
    host.refresh()

    assert host.server_workload([10]) == ServerWorkload(
        "deepseek", "leaderworkerset", "chat", "deepseek-0-1", "engine", "chat/assistant", (("label_team", "x"),)
    )
    assert host.server_workload([11]) == ServerWorkload(
        "deepseek-0", "statefulset", "chat", "deepseek-0-1", "", "chat/deepseek-0"
    )
    assert {one.name for one in host.workloads([10, 11]).values()} == {"chat/deepseek", "chat/deepseek-0"}
