"""gRPC reflection, so that grpcurl and other tools know the methods and messages: the versions v1 and v1alpha.

grpcio-reflection has v1alpha alone. The two differ in the name of their package only, so one servicer answers for both.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha import reflection_pb2 as alpha_pb2

from kinodex.v1 import library_service_pb2, moderation_service_pb2, search_service_pb2, server_service_pb2, stream_pb2

ALPHA, V1 = reflection.SERVICE_NAME, "grpc.reflection.v1.ServerReflection"
ALPHA_PACKAGE, V1_PACKAGE = "grpc.reflection.v1alpha", "grpc.reflection.v1"


class Symbols:
    """A descriptor pool that also finds the file of a method: Python's own knows no names of methods."""

    def __init__(self, pool: DescriptorPool) -> None:
        self.pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:
        """Return the file.

        Raises:
            KeyError: If there is no such symbol.
        """
        service, _, method = symbol.rpartition(".")
        with contextlib.suppress(KeyError):
            found = self.pool.FindServiceByName(service)
            if method in found.methods_by_name:
                return found.file
        return self.pool.FindFileContainingSymbol(symbol)


def add_reflection(service_names: Sequence[str], server: grpc.aio.Server) -> None:
    """Serve reflection of our services and itself."""
    servicer = reflection.aio.ReflectionServicer([*service_names, ALPHA, V1], Symbols(descriptor_pool()))
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        alpha_pb2.ServerReflectionRequest.FromString,
        alpha_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method}) for name in (ALPHA, V1)]
    )


def descriptor_pool() -> DescriptorPool:
    """Return our files and those that they import, with the JSON names that Python's own descriptors lack."""
    pool, added = DescriptorPool(), set()

    def add(file: FileDescriptor) -> None:
        if file.name in added:
            return
        added.add(file.name)
        for dependency in file.dependencies:
            add(dependency)
        copy = FileDescriptorProto()
        file.CopyToProto(copy)
        add_json_names(copy)
        pool.Add(copy)
        if file.package == ALPHA_PACKAGE:
            rename_to_v1(copy)
            pool.Add(copy)

    ours = (search_service_pb2, library_service_pb2, moderation_service_pb2, server_service_pb2, stream_pb2)
    for module in (*ours, health_pb2, alpha_pb2, error_details_pb2):
        add(module.DESCRIPTOR)
    return pool


def add_json_names(file: FileDescriptorProto) -> None:
    for message in messages_of(file):
        for field in message.field:
            first, *others = field.name.split("_")
            field.json_name = first + "".join(other.capitalize() for other in others)


def rename_to_v1(file: FileDescriptorProto) -> None:
    """Turn the descriptor of reflection v1alpha into that of v1."""

    def renamed(name: str) -> str:
        return name.replace(f"{ALPHA_PACKAGE}.", f"{V1_PACKAGE}.")

    file.name, file.package = file.name.replace("v1alpha", "v1"), V1_PACKAGE
    for message in messages_of(file):
        for field in message.field:
            if field.type_name:
                field.type_name = renamed(field.type_name)
    for service in file.service:
        for method in service.method:
            method.input_type, method.output_type = renamed(method.input_type), renamed(method.output_type)


def messages_of(file: FileDescriptorProto) -> Iterator[DescriptorProto]:
    """Yield the messages of a file, also those inside others."""
    pending = list(file.message_type)
    while pending:
        message = pending.pop()
        pending += message.nested_type
        yield message
