"""What grpcurl, ghz and other tools learn of a server by reflection, in both versions that they ask for."""

from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2

from serve.api.build import SERVICES
from support.fakes import use_fakes
from support.running import Running, running
from support.waiting import HANG_SECONDS

pytestmark = pytest.mark.slow

VERSIONS = ["grpc.reflection.v1", "grpc.reflection.v1alpha"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        use_fakes(patch)
        with running(tmp_path_factory.mktemp("mirror") / "data", ingest_command=["sh", "-c", "exec cat"]) as started:
            yield started


def ask(server: Running, version: str, **question: str) -> reflection_pb2.ServerReflectionResponse:
    """Ask one question; the messages of the versions are the same on the wire."""
    with grpc.insecure_channel(server.address) as channel:
        call = channel.stream_stream(
            f"/{version}.ServerReflection/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )
        [answer] = call(iter([reflection_pb2.ServerReflectionRequest(**question)]), timeout=HANG_SECONDS)
        return answer


@pytest.mark.parametrize("version", VERSIONS)
def test_both_versions_list_the_services_and_each_other(server: Running, version: str) -> None:
    listed = {service.name for service in ask(server, version, list_services="").list_services_response.service}
    assert listed == {*SERVICES, "grpc.health.v1.Health", *(f"{each}.ServerReflection" for each in VERSIONS)}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("symbol", "file"),
    [
        ("kinodex.v1.SearchService", "kinodex/v1/search_service.proto"),
        ("kinodex.v1.SearchService.SearchMoments", "kinodex/v1/search_service.proto"),
        ("kinodex.v1.Query", "kinodex/v1/moment.proto"),
        ("kinodex.v1.Query.text", "kinodex/v1/moment.proto"),
        ("grpc.reflection.v1.ServerReflection.ServerReflectionInfo", "grpc_reflection/v1/reflection.proto"),
    ],
)
def test_services_methods_messages_and_fields_have_files(server: Running, version: str, symbol: str, file: str) -> None:
    answer = ask(server, version, file_containing_symbol=symbol)
    files = [
        FileDescriptorProto.FromString(content) for content in answer.file_descriptor_response.file_descriptor_proto
    ]
    assert files[0].name == file


@pytest.mark.parametrize("symbol", ["kinodex.v1.SearchService.Nothing", "kinodex.v1.Nothing", "SearchService", ""])
def test_names_of_nothing_are_not_found(server: Running, symbol: str) -> None:
    answer = ask(server, VERSIONS[0], file_containing_symbol=symbol)
    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
