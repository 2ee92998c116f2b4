"""What gRPC reflection tells of this server's methods and messages."""

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from kinodex.v1 import library_service_pb2, moderation_service_pb2, search_service_pb2, stream_pb2


def described_files() -> DescriptorPool:
    """Return what reflection tells: our files and those they need, with the JSON names that Python leaves out."""
    pool, added = DescriptorPool(), set()

    def add(file: FileDescriptor) -> None:
        if file.name in added:
            return
        added.add(file.name)
        for needed in file.dependencies:
            add(needed)
        told = FileDescriptorProto()
        file.CopyToProto(told)
        pending = list(told.message_type)
        while pending:
            message = pending.pop()
            pending += message.nested_type
            for field in message.field:
                first, *others = field.name.split("_")
                field.json_name = first + "".join(other.capitalize() for other in others)
        pool.Add(told)

    ours = (search_service_pb2, library_service_pb2, moderation_service_pb2, stream_pb2)
    for module in (*ours, health_pb2, reflection_pb2, error_details_pb2):
        add(module.DESCRIPTOR)
    return pool
