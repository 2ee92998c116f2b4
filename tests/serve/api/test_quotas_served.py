"""Quotas of a real server: a full collection refuses an upload before its bytes come."""

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from kinodex.v1 import library_service_pb2 as library_pb2
from kinodex.v1.library_service_pb2_grpc import LibraryServiceStub
from serve.catalog.catalog import Catalog
from support.fakes import use_fakes
from support.running import read_refusal, running
from support.waiting import HANG_SECONDS

NO_WORKER = ["sh", "-c", "exec cat"]  # jobs stay as they are


def test_a_full_collection_refuses_before_the_bytes_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    with Catalog.open_writer(tmp_path / "data"):
        pass
    with (
        running(tmp_path / "data", ingest_command=NO_WORKER, quotas=("talks=1videos",)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        library = LibraryServiceStub(channel)

        def ingest(name: str, collection: str = "talks") -> None:
            request = library_pb2.IngestVideoRequest(uri=f"https://example.org/{name}.mp4", collection=collection)
            library.IngestVideo(request, timeout=HANG_SECONDS)

        def header_alone() -> Iterator[library_pb2.UploadVideoRequest]:
            header = library_pb2.UploadHeader(filename="a.mp4", collection="talks")
            yield library_pb2.UploadVideoRequest(header=header)
            answered.wait(HANG_SECONDS)

        answered = threading.Event()
        ingest("first")
        ingest("first")
        ingest("elsewhere", "films")
        for send in (lambda: ingest("second"), lambda: library.UploadVideo(header_alone(), timeout=HANG_SECONDS)):
            with pytest.raises(grpc.RpcError) as caught:
                send()
            assert read_refusal(caught.value) == ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
            assert "collection talks is full: it has 1 of 1 videos" in str(caught.value)
        answered.set()
