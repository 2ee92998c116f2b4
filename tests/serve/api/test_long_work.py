"""Videos that come in over the wire: at once PROCESSING, then READY or FAILED, whatever happens in between."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from ingest.config import SourceConfig
from kinodex.v1 import library_service_pb2 as library
from kinodex.v1.library_service_pb2_grpc import LibraryServiceStub
from serve.client.client import Client
from serve.errors import ServerFailed
from serve.settings import Settings
from serve.values import Filter, MetadataCondition, Query, VideoState
from support import SUPPORT
from support.fakes import use_fakes, write_scenes
from support.running import Running, running
from support.waiting import HANG_SECONDS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    write_scenes(folder / "paris.mp4", [("blue", 5), ("red", 6)], tones=[(440, 3.0)])
    write_scenes(folder / "london.mp4", [("green", 8)], tones=[(880, 2.0)])
    write_scenes(folder / "quiet.mp4", [("yellow", 4), ("blue", 3)])
    (folder / "text.mp4").write_text("no video at all")
    return folder


def settings_for(films: Path) -> Settings:
    return Settings(workers=2, source=SourceConfig(file_roots=(str(films),)))


@pytest.fixture(scope="module")
def server(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        use_fakes(patch)
        patch.setenv("KINODEX_SOURCE_FILE_ROOTS", str(films))  # for the ingest worker
        with running(tmp_path_factory.mktemp("data") / "data", settings_for(films)) as started:
            yield started


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[Client]:
    with Client(server.address) as opened:
        yield opened


def test_a_uri_becomes_a_video_that_is_found(client: Client, films: Path) -> None:
    uri = (films / "paris.mp4").as_uri()
    begun = client.ingest(uri, metadata={"year": "1999"}, recorded_time=1e9)
    assert (begun.state, begun.uri, begun.collection) == (VideoState.PROCESSING, uri, "default")
    done = client.wait(begun.video_id, timeout_seconds=HANG_SECONDS)
    assert (done.state, done.video_id, done.metadata) == (VideoState.READY, begun.video_id, {"year": "1999"})
    assert done.duration_seconds == pytest.approx(11, abs=0.3)
    assert (done.frame_count, done.utterance_count) == (12, 1)  # the sound ends a little later than the picture
    best = client.moments(Query(text="red", channel="visual")).moments[0]
    assert best.video_id == begun.video_id
    assert best.recorded_time == pytest.approx(1e9 + best.start_seconds)
    [said] = client.transcript(begun.video_id)
    assert said.text == "Paris is lovely."
    at_seconds, jpeg = client.frame(begun.video_id, 7.2)
    assert at_seconds == pytest.approx(7, abs=0.6)
    assert jpeg.startswith(b"\xff\xd8\xff")
    assert client.video(begun.video_id[:6]).video_id == begun.video_id
    assert client.ingest(uri).state is VideoState.PROCESSING  # fetched again: it may have changed
    assert client.wait(begun.video_id, timeout_seconds=HANG_SECONDS).state is VideoState.READY


def test_an_upload_is_named_by_its_content_and_made_once(client: Client, films: Path, server: Running) -> None:
    sent: list[int] = []
    begun = client.upload(films / "london.mp4", collection="uploads", on_sent=sent.append)
    assert begun.state is VideoState.PROCESSING
    assert sent[-1] == (films / "london.mp4").stat().st_size
    done = client.wait(begun.video_id, timeout_seconds=HANG_SECONDS)
    assert done.state is VideoState.READY
    assert done.content_sha256.startswith(begun.video_id)
    assert done.uri == "upload:london.mp4"
    again = client.upload(films / "london.mp4", collection="uploads")
    assert (again.video_id, again.state) == (begun.video_id, VideoState.READY)
    assert not list(server.server.library_service.spool.folder.iterdir())


def test_what_cannot_be_indexed_says_why(client: Client, films: Path) -> None:
    broken = client.wait(client.upload(films / "text.mp4").video_id, timeout_seconds=HANG_SECONDS)
    assert (broken.state, broken.failure_reason) == (VideoState.FAILED, "DECODE_ERROR")
    assert "text.mp4" in broken.failure_message
    missing = client.wait(client.ingest((films / "nothing.mp4").as_uri()).video_id, timeout_seconds=HANG_SECONDS)
    assert (missing.state, missing.failure_reason) == (VideoState.FAILED, "SOURCE_NOT_FOUND")
    client.delete(missing.video_id)
    with pytest.raises(ServerFailed, match="no video"):
        client.video(missing.video_id)


def test_metadata_and_time_are_filtered_by(client: Client, films: Path) -> None:
    for n, (name, year) in enumerate((("a", "1999"), ("b", "2010"), ("c", "unknown"))):
        begun = client.ingest(
            (films / "quiet.mp4").as_uri(),
            collection="dated",
            video_id=name,
            metadata={"year": year},
            recorded_time=None if name == "c" else 1000.0 * n,
        )
        assert begun.video_id == name
    for name in "abc":
        assert client.wait(name, "dated", timeout_seconds=HANG_SECONDS).state is VideoState.READY

    def found(**conditions: object) -> set[str]:
        asked = Filter(collections=("dated",), **conditions)  # type: ignore[arg-type]
        videos = {video.video_id for video in client.search(Query(text="yellow", filter=asked)).videos}
        assert {one.video_id for one in client.moments(Query(text="yellow", filter=asked)).moments} <= videos
        return videos

    assert found() == {"a", "b", "c"}
    assert found(metadata=(MetadataCondition(key="year", equals="1999"),)) == {"a"}
    assert found(metadata=(MetadataCondition(key="year", least=2000.0),)) == {"b"}
    assert found(metadata=(MetadataCondition(key="year", least=1990.0, greatest=2020.0),)) == {"a", "b"}
    assert found(metadata=(MetadataCondition(key="colour", equals="red"),)) == set()
    assert found(recorded_from=500.0) == {"b"}
    assert found(recorded_until=500.0) == {"a"}
    assert found(recorded_from=0.0, recorded_until=5000.0) == {"a", "b"}
    # The first four seconds are yellow: a time that begins later leaves that moment out.
    late = Query(text="yellow", filter=Filter(collections=("dated",), recorded_from=1004.5), channel="visual")
    assert {one.video_id for one in client.moments(late).moments} <= {"b"}
    assert all(one.end_seconds > 4.5 for one in client.moments(late).moments)


def test_a_repeated_request_is_answered_as_the_first(server: Running, films: Path) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = LibraryServiceStub(channel)
        ingest = library.IngestVideoRequest(
            uri=(films / "quiet.mp4").as_uri(), collection="again", video_id="v", request_id="one"
        )
        assert stub.IngestVideo(ingest).video.video_id == "v"
        with Client(server.address) as client:
            client.wait("v", "again", timeout_seconds=HANG_SECONDS)
        assert stub.IngestVideo(ingest).video.state == library.Video.STATE_READY  # and nothing is done again
        delete = library.DeleteVideoRequest(video_id="v", collection="again", request_id="two")
        stub.DeleteVideo(delete)
        stub.DeleteVideo(delete)
        delete.request_id = "three"
        with pytest.raises(grpc.RpcError) as caught:
            stub.DeleteVideo(delete)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_list_has_what_is_there_and_what_comes(client: Client, films: Path) -> None:
    listed = list(client.videos())
    assert [video.uri for video in listed] == sorted(video.uri for video in listed)
    states = {(video.collection, video.video_id): video.state for video in listed}
    assert VideoState.READY in states.values()
    assert VideoState.FAILED in states.values()
    for (collection, video_id), state in states.items():
        assert client.video(video_id, collection).state is state


def test_deleting_what_is_being_indexed_ends_it(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    monkeypatch.setenv("KINODEX_SOURCE_FILE_ROOTS", str(films))
    monkeypatch.setenv("TEST_SLOW_SECONDS", "0.3")
    with running(tmp_path / "data", settings_for(films)) as server, Client(server.address) as client:
        first = client.ingest((films / "paris.mp4").as_uri())
        client.delete(first.video_id)
        second = client.ingest((films / "london.mp4").as_uri())
        assert client.wait(second.video_id, timeout_seconds=HANG_SECONDS).state is VideoState.READY
        assert [video.video_id for video in client.videos()] == [second.video_id]


@pytest.mark.slow
def test_killed_in_the_middle_a_server_goes_on_where_it_was(films: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, str(SUPPORT / "server_child.py"), "--data", str(tmp_path / "data"),
        "--roots", str(films),
    ]  # fmt: skip

    def start() -> tuple["subprocess.Popen[str]", str]:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        return process, process.stdout.readline().split()[-1]

    names = [f"v{n}" for n in range(6)]
    process, address = start()
    with Client(address) as client:
        wait_ready(client)
        for n, name in enumerate(names):
            if n % 2:
                client.ingest((films / "paris.mp4").as_uri(), video_id=name)
            else:
                client.upload(films / "london.mp4", video_id=name)
    for n in range(3):
        with Client(address) as client:
            wait_ready(client)
            client.wait(names[2 * n], timeout_seconds=HANG_SECONDS)
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        process, address = start()
    with Client(address) as client:
        wait_ready(client)
        done = {name: client.wait(name, timeout_seconds=HANG_SECONDS) for name in names}
        assert {video.state for video in done.values()} == {VideoState.READY}
        assert [video.frame_count for video in done.values()] == [9, 12] * 3
        assert sorted(video.video_id for video in client.videos()) == names
    assert not list((tmp_path / "data" / "uploads").iterdir())
    process.terminate()
    assert process.wait(HANG_SECONDS) == 0
    assert process.stdout is not None
    process.stdout.close()


def wait_ready(client: Client) -> None:
    for _ in range(20):
        try:
            list(client.videos())
            return
        except ServerFailed as error:
            if error.code != "UNAVAILABLE":
                raise
    pytest.fail("the server never became ready")
