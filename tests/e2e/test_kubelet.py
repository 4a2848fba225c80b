"""The kubelet's pod resources service with a real gRPC server. grpcio is not among the locked requirements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.kubelet import kubelet
from tpw.discovery.podresources import RefusedError, devices

pytestmark = pytest.mark.heavy
pytest.importorskip("grpc", reason="needs grpcio and protobuf")


def pod(number: int) -> dict[str, Any]:
    gpu = {"resource_name": "nvidia.com/gpu", "device_ids": [f"GPU-{number:08x}-0000-0000-0000-000000000000"]}
    claims = [{"driver_name": "gpu.nvidia.com", "device_name": f"gpu-{number}"}]
    containers = [
        {"name": "vllm", "devices": [gpu], "cpu_ids": list(range(0, 512, 3))},
        {"name": "dra", "dynamic_resources": [{"claim_name": "c", "claim_resources": claims}]},
        {"name": "y" * 300},
    ]
    return {"name": f"llama-{number}", "namespace": "chat", "containers": containers}


@pytest.mark.parametrize("pods", [0, 1, 250, 4000])
def test_the_devices_of_all_pods_are_read(tmp_path: Path, pods: int) -> None:
    """4,000 pods are 2.6 MB: far above the window that HTTP/2 begins with."""
    path = str(tmp_path / "kubelet.sock")
    with kubelet(path, [pod(number) for number in range(pods)]):
        for _ in range(3):
            found = devices(path)
    expected = {("chat", f"llama-{n}", "vllm"): {f"GPU-{n:08x}-0000-0000-0000-000000000000"} for n in range(pods)}
    assert found == expected | {("chat", f"llama-{n}", "dra"): {f"nvidia{n}"} for n in range(pods)}


def test_a_service_without_this_method_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tpw.discovery.podresources._METHOD", "/v1.PodResourcesLister/Other")
    path = str(tmp_path / "kubelet.sock")
    with kubelet(path, []), pytest.raises(RefusedError):
        devices(path)
