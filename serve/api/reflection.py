"""The descriptors that gRPC reflection serves, so that grpcurl and other tools know the methods and messages."""

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from kinodex.v1 import library_service_pb2, moderation_service_pb2, search_service_pb2, stream_pb2


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
        pending = list(copy.message_type)
        while pending:
            message = pending.pop()
            pending += message.nested_type
            for field in message.field:
                first, *others = field.name.split("_")
                field.json_name = first + "".join(other.capitalize() for other in others)
        pool.Add(copy)

    ours = (search_service_pb2, library_service_pb2, moderation_service_pb2, stream_pb2)
    for module in (*ours, health_pb2, reflection_pb2, error_details_pb2):
        add(module.DESCRIPTOR)
    return pool
