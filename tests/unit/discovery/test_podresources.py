"""Devices by the kubelet's pod resources service: its answer as recorded from a real gRPC server, and every other one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tpw.discovery.kubelet import Assignee, Kubelet, devices_to_gpus
from tpw.discovery.podresources import RefusedError, devices
from tpw.model import Gpu

RECORDED = Path(__file__).parents[2] / "captures" / "kubelet" / "pod-resources-grpcio-1.85.3.bin"
MIG = "MIG-41b35b7c-0000-1111-2222-333344445555"
GPUS = (Gpu("GPU-aaaa", 0), Gpu("GPU-bbbb", 1, mig_uuids=(MIG,)), Gpu("GPU-cccc", 2), Gpu("GPU-dddd", 3))


@contextmanager
def answering(directory: Path, sent: bytes) -> Iterator[str]:
    """A socket that reads a request and sends these bytes."""
    path = directory / "kubelet.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):  # until the client has read all of it
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield str(path)
        thread.join(5.0)


def container(pod: str, name: str) -> Assignee:
    return Assignee("u", "chat", pod, name)


def test_devices_of_plugins_and_claims_are_those_of_their_containers(tmp_path: Path):
    with answering(tmp_path, RECORDED.read_bytes()) as path:
        assert devices(path) == {
            ("chat", "llama-7d9f8c6b5-x2x7z", "vllm"): {"GPU-aaaa"},
            ("chat", "shared-0", "a"): {"GPU-bbbb::3"},
            ("chat", "shared-0", "b"): {"GPU-cccc"},
            ("chat", "mig-0", "vllm"): {MIG},
            ("chat", "gke-0", "vllm"): {"nvidia1/vgpu0"},
            ("chat", "dra-0", "vllm"): {"nvidia2", "nvidia3"},
        }


def test_every_form_of_a_device_is_a_gpu(tmp_path: Path):
    servers = {
        "plain": (container("llama-7d9f8c6b5-x2x7z", "vllm"),),
        "beside a proxy": (container("llama-7d9f8c6b5-x2x7z", "istio-proxy"),),
        "shared": (container("shared-0", "a"),),
        "mig": (container("mig-0", "vllm"),),
        "gke": (container("gke-0", "vllm"),),
        "claim": (container("dra-0", "vllm"),),
        "without": (container("net-0", "x"),),
    }
    with answering(tmp_path, RECORDED.read_bytes()) as path:
        found, problem = Kubelet(str(tmp_path / "none"), path).devices(
            {name: own for name, own in servers.items() if name != "plain"}
        )
    assert problem == ""
    assert {name: set(devices_to_gpus(own, GPUS).gpus) for name, own in found.items()} == {
        "beside a proxy": {"GPU-aaaa"},
        "shared": {"GPU-bbbb"},
        "mig": {"GPU-bbbb"},
        "gke": {"GPU-bbbb"},
        "claim": {"GPU-cccc", "GPU-dddd"},
    }


def test_a_container_without_gpu_does_not_get_that_of_another_server_of_its_pod(tmp_path: Path):
    servers = {"gpu": (container("shared-0", "a"), container("shared-0", "b")), "cpu": (container("shared-0", "c"),)}
    with answering(tmp_path, RECORDED.read_bytes()) as path:
        found, _ = Kubelet(str(tmp_path / "none"), path).devices(servers)
    assert found == {"gpu": {"GPU-bbbb::3", "GPU-cccc"}}


CUT = RECORDED.read_bytes()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        CUT[: len(CUT) // 2],
        b"\0\0\4\3\0\0\0\0\1\0\0\0\7",  # RST_STREAM: refused
        b"\0\0\1\1\5\0\0\0\1\x88",  # headers that end the stream: an error without a message
        b"\0\0\6\0\1\0\0\0\1\0\0\0\0\1\xff",  # a message that is none
        b"\0\0\5\0\1\0\0\0\1\1\0\0\0\0",  # a compressed one
    ],
)
def test_any_other_answer_is_a_refusal_and_the_checkpoint_is_read(tmp_path: Path, sent: bytes):
    with answering(tmp_path, sent) as path, pytest.raises(RefusedError):
        devices(path)
    (tmp_path / "kubelet.sock").unlink()
    checkpoint = tmp_path / "checkpoint"
    checkpoint.write_text(
        '{"Data": {"PodDeviceEntries": [{"PodUID": "u", "ResourceName": "nvidia.com/gpu", "DeviceIDs": ["GPU-aaaa"]}]}}'
    )
    with answering(tmp_path, sent) as path:
        found, problem = Kubelet(str(checkpoint), path).devices({"chat": (container("x", "y"),)})
    assert found == {"chat": {"GPU-aaaa"}}
    assert "not read there" in problem


def test_without_a_socket_nothing_is_wrong(tmp_path: Path):
    for path in ("", str(tmp_path / "none")):
        assert Kubelet(str(tmp_path / "none"), path).devices({"chat": (container("x", "y"),)}) == ({}, "")
