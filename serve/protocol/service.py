"""The gRPC services as a table: what a path takes, what it returns, and which side streams."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from serve.protocol.pool import FILE_NAMES, POOL, message_class


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC. path is what HTTP/2 carries: `/<package>.<Service>/<Method>`."""

    path: str
    service: str
    name: str
    input_class: type[Message]
    output_class: type[Message]
    client_streaming: bool
    server_streaming: bool


def _services() -> dict[str, ServiceDescriptor]:
    files = [POOL.FindFileByName(name) for name in FILE_NAMES]
    return {service.full_name: service for file in files for service in file.services_by_name.values()}


def _method(service: ServiceDescriptor, method: MethodDescriptor) -> Method:
    return Method(
        path=f"/{service.full_name}/{method.name}", service=service.full_name, name=method.name,
        input_class=message_class(method.input_type), output_class=message_class(method.output_type),
        client_streaming=method.client_streaming, server_streaming=method.server_streaming,
    )


# Fully qualified, in the order of their files: what reflection lists.
SERVICES: tuple[str, ...] = tuple(_services())

# path -> Method
METHODS: Mapping[str, Method] = MappingProxyType({
    method.path: method
    for service in _services().values()
    for method in (_method(service, descriptor) for descriptor in service.methods)
})
