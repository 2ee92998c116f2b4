"""ServerService on a real server: jobs and streams over the network, and by the command."""

import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from click.testing import CliRunner

from kinodex.v1 import server_service_pb2 as server_pb2
from kinodex.v1.server_service_pb2_grpc import ServerServiceStub
from serve.catalog.catalog import Catalog
from serve.cli.main import cli
from serve.client.client import Client
from serve.errors import ServerFailed
from serve.indexing.jobs import JobQueue
from serve.live.live_rows import LiveRows
from serve.values import VideoState
from support.fakes import use_fakes
from support.running import Running, read_refusal, running
from support.sample_catalog import FINGERPRINT, put
from support.sample_live import live_segment

NO_WORKER = ["sh", "-c", "exec cat"]  # jobs wait until a test does them

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("jobs")
    with pytest.MonkeyPatch.context() as patch:
        use_fakes(patch)
        with running(directory, ingest_command=NO_WORKER) as started:
            yield started


@pytest.fixture
def client(server: Running) -> Iterator[Client]:
    with Client(server.address) as opened:
        yield opened


def kinodex(*given: str) -> list[dict[str, Any]]:
    result = CliRunner().invoke(cli, [*given, "--json"])
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_jobs_are_listed_shown_and_ended(server: Running, client: Client) -> None:
    for name in ("b", "a", "c"):
        client.ingest(f"https://user:secret@example.org/{name}.mp4", video_id=name, collection="films")
    with Catalog.open_editor(server.server.directory) as editor:
        queue = JobQueue(editor)
        job = queue.claim()
        assert job is not None
        queue.set_progress({job.job_id: 0.25})
        queue.fail_all("DECODE_ERROR", "no picture")
    client.ingest("https://example.org/d.mp4", video_id="d")
    jobs = list(client.jobs())
    assert [(each.video_id, each.state) for each in jobs] == [
        ("b", "FAILED"),
        ("a", "FAILED"),
        ("c", "FAILED"),
        ("d", "QUEUED"),
    ]
    first = jobs[0]
    assert (first.failure_reason, first.failure_message, first.attempt_count) == ("DECODE_ERROR", "no picture", 1)
    assert (first.progress, first.is_own) == (0.25, True)
    assert "secret" not in repr(jobs)
    assert client.job("b", "films") == first
    assert [each.video_id for each in client.jobs("films", own=True)] == ["b", "a", "c"]

    client.cancel_job("b")
    with pytest.raises(ServerFailed) as caught:
        client.job("b")
    assert (caught.value.code, caught.value.reason) == ("NOT_FOUND", "JOB_NOT_FOUND")
    assert [each["video_id"] for each in kinodex("jobs", "list", "--server", server.address)] == ["a", "c", "d"]
    done = CliRunner().invoke(cli, ["jobs", "cancel", "a", "--collection", "films", "--server", server.address])
    assert (done.exit_code, done.stdout) == (0, "cancelled  a\n")
    assert [each["video_id"] for each in kinodex("jobs", "list", "--data", str(server.server.directory))] == ["c", "d"]
    lines = CliRunner().invoke(cli, ["jobs", "list", "--server", server.address]).stdout.splitlines()
    assert lines[0].startswith("failed   c  films  https://example.org/c.mp4  DECODE_ERROR: no picture")
    assert lines[1].startswith("queued   d  default")


def test_an_ended_job_leaves_the_version_that_answers(server: Running, client: Client) -> None:
    with Catalog.open_writer(server.server.directory) as catalog:
        put(catalog, "old")
    client.ingest("https://example.org/old.mp4", video_id="old")
    assert client.video("old").state is VideoState.PROCESSING
    client.cancel_job("old")
    assert client.video("old").state is VideoState.READY


def test_a_repeated_request_to_end_a_job_ends_no_later_one(server: Running, client: Client) -> None:
    client.ingest("https://example.org/twice.mp4", video_id="twice")
    request = server_pb2.CancelJobRequest(video_id="twice", request_id="once")
    with grpc.insecure_channel(server.address) as channel:
        stub = ServerServiceStub(channel)
        stub.CancelJob(request)
        client.ingest("https://example.org/twice.mp4", video_id="twice")
        stub.CancelJob(request)
        assert client.job("twice").state == "QUEUED"
        for collection in ("x", "y"):
            client.ingest("https://example.org/same.mp4", video_id="same", collection=collection)
        with pytest.raises(grpc.RpcError) as caught:
            stub.GetJob(server_pb2.GetJobRequest(video_id="same"))
        assert read_refusal(caught.value) == ("INVALID_ARGUMENT", "VIDEO_AMBIGUOUS")


def test_pages_of_jobs_and_streams(server: Running, client: Client) -> None:
    for number in range(3):
        client.ingest("https://example.org/page.mp4", video_id=f"page{number}", collection="pages")
    with Catalog.open_editor(server.server.directory) as editor:
        records = [live_segment(0, video_id=f"cam{number}", collection="pages") for number in range(3)]
        LiveRows(editor, FINGERPRINT).apply(records, {})
    with grpc.insecure_channel(server.address) as channel:
        stub = ServerServiceStub(channel)
        for method, request, name in (
            (stub.ListJobs, server_pb2.ListJobsRequest, "jobs"),
            (stub.ListStreams, server_pb2.ListStreamsRequest, "streams"),
        ):
            first = method(request(collection="pages", page_size=2))
            second = method(request(collection="pages", page_size=2, page_token=first.next_page_token))
            assert (len(getattr(first, name)), len(getattr(second, name)), second.next_page_token) == (2, 1, "")
            with pytest.raises(grpc.RpcError) as caught:
                method(request(page_token=first.next_page_token))
            assert read_refusal(caught.value) == ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")
    assert [each.stream_id for each in client.streams("pages")] == ["cam0", "cam1", "cam2"]
    listed = kinodex("streams", "--server", server.address)
    assert [each["stream_id"] for each in listed if each["collection"] == "pages"] == ["cam0", "cam1", "cam2"]
    lines = CliRunner().invoke(cli, ["streams", "--server", server.address]).stdout.splitlines()
    assert lines[0].startswith("pages/cam0  live   final to 0:16 of 0:16  lag ")
