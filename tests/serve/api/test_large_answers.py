"""Pages of a real server fit into what any gRPC client takes by default, whatever videos hold."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.wrappers_pb2 import BytesValue

from kinodex.v1 import library_service_pb2 as library_pb2
from kinodex.v1.library_service_pb2_grpc import LibraryServiceStub
from serve.api.pages import MAX_PAGE_BYTES, fit_page
from serve.codec.requests import MAX_METADATA_CHARS, MAX_METADATA_COUNT
from serve.indexing.job import NewJob
from serve.indexing.jobs import JobQueue
from support.fakes import use_fakes
from support.running import Running, running
from support.waiting import HANG_SECONDS

NO_WORKER = ["sh", "-c", "exec cat"]
VIDEO_COUNT = 300


@pytest.mark.slow
@pytest.mark.parametrize(("size", "expected"), [(10, 50), (MAX_PAGE_BYTES // 10 + 1, 9), (2 * MAX_PAGE_BYTES, 1)])
def test_a_page_has_fewer_answers_if_they_are_large(size: int, expected: int) -> None:
    counts: list[int] = []

    def write(count: int) -> BytesValue:
        counts.append(count)
        return BytesValue(value=bytes(count * size))

    page = fit_page(write, 50)
    assert len(page.value) == expected * size
    assert len(counts) < 5


def test_an_empty_page_is_a_page() -> None:
    assert fit_page(lambda count: BytesValue(), 0).value == b""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    use_fakes(monkeypatch)
    with running(tmp_path / "data", ingest_command=NO_WORKER) as started:
        yield started


@pytest.mark.slow
def test_a_list_of_large_videos_comes_in_pages_that_a_default_client_takes(server: Running) -> None:
    metadata = {f"key{n:02}": "x" * 250 for n in range(MAX_METADATA_COUNT)}
    jobs = JobQueue(server.server.editor)
    for number in range(VIDEO_COUNT):
        uri = f"https://example.org/{number:03}/{'y' * 8000}"
        jobs.submit(NewJob(collection="c", video_id=f"v{number:03}", uri=uri, display_uri=uri, metadata=metadata))
    found, token, page_count = [], "", 0
    with grpc.insecure_channel(server.address) as channel:
        while not page_count or token:
            request = library_pb2.ListVideosRequest(page_size=1000, page_token=token)
            answer = LibraryServiceStub(channel).ListVideos(request, timeout=HANG_SECONDS)
            assert answer.ByteSize() <= 4 << 20
            found += [video.video_id for video in answer.videos]
            token, page_count = answer.next_page_token, page_count + 1
    assert found == [f"v{number:03}" for number in range(VIDEO_COUNT)]
    assert page_count > 1


@pytest.mark.slow
def test_metadata_is_bounded_in_sum(server: Running) -> None:
    metadata = {f"key{n:02}": "x" * (MAX_METADATA_CHARS // 16) for n in range(17)}
    request = library_pb2.IngestVideoRequest(uri="https://example.org/film.mp4", metadata=metadata)
    with grpc.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            LibraryServiceStub(channel).IngestVideo(request, timeout=HANG_SECONDS)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        del request.metadata["key00"], request.metadata["key01"]
        assert LibraryServiceStub(channel).IngestVideo(request, timeout=HANG_SECONDS).video.video_id
