"""A kubelet's pod resources service with real gRPC, on a unix socket. Needs the packages grpcio and protobuf."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import contextmanager
from typing import Any

_FIELDS: Mapping[str, Sequence[tuple[str, int, str]]] = {
    "ListPodResourcesResponse": (("pod_resources", 1, "PodResources"),),
    "PodResources": (("name", 1, "text"), ("namespace", 2, "text"), ("containers", 3, "ContainerResources")),
    "ContainerResources": (
        ("name", 1, "text"),
        ("devices", 2, "ContainerDevices"),
        ("cpu_ids", 3, "numbers"),
        ("dynamic_resources", 5, "DynamicResource"),
    ),
    "ContainerDevices": (("resource_name", 1, "text"), ("device_ids", 2, "texts")),
    "DynamicResource": (
        ("claim_name", 2, "text"),
        ("claim_namespace", 3, "text"),
        ("claim_resources", 4, "ClaimResource"),
    ),
    "ClaimResource": (("driver_name", 2, "text"), ("pool_name", 3, "text"), ("device_name", 4, "text")),
}
"""Of kubernetes/kubelet, pkg/apis/podresources/v1/api.proto: what the exporter reads, and neighbours of it."""


def _message(pods: Sequence[Mapping[str, Any]]) -> bytes:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="api.proto", package="v1", syntax="proto3")
    for name, fields in _FIELDS.items():
        described = file.message_type.add(name=name)
        for field_name, number, kind in fields:
            added = described.field.add(name=field_name, number=number)
            added.label = field.LABEL_OPTIONAL if kind == "text" else field.LABEL_REPEATED
            added.type = {"text": field.TYPE_STRING, "texts": field.TYPE_STRING, "numbers": field.TYPE_INT64}.get(
                kind, field.TYPE_MESSAGE
            )
            if added.type == field.TYPE_MESSAGE:
                added.type_name = f".v1.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("v1.ListPodResourcesResponse"))
    return bytes(kind(pod_resources=list(pods)).SerializeToString())


@contextmanager
def kubelet(path: str, pods: Sequence[Mapping[str, Any]]) -> Iterator[None]:
    """Serve these pods until the ``with`` block is left."""
    import grpc

    answer = _message(pods)

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: Any) -> Any:
            if details.method != "/v1.PodResourcesLister/List":
                return None
            return grpc.unary_unary_rpc_method_handler(lambda _request, _context: answer)

    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers([Handler()])
    server.add_insecure_port(f"unix:{path}")
    server.start()
    try:
        yield
    finally:
        server.stop(0).wait()
