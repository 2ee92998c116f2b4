"""The data directory of a server: a full disk, other processes that write, and a second server."""

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status

from kinodex.v1 import library_service_pb2 as library_pb2
from kinodex.v1 import moment_pb2
from kinodex.v1 import search_service_pb2 as search_pb2
from kinodex.v1.library_service_pb2_grpc import LibraryServiceStub
from kinodex.v1.search_service_pb2_grpc import SearchServiceStub
from serve.api.warming import lock_for_serving
from serve.catalog.catalog import Catalog
from serve.errors import DataDirectoryBusy, SettingsError
from serve.indexing.pipeline import index
from serve.settings import Settings
from support.fakes import SilentProgress, use_fakes, write_scenes
from support.running import Running, running
from support.waiting import HANG_SECONDS

pytestmark = pytest.mark.slow

NO_WORKER = ["sh", "-c", "exec cat"]  # jobs stay as they are
URI = "https://example.org/film.mp4"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    use_fakes(monkeypatch)
    film, data = write_scenes(tmp_path / "film.mp4", [("red", 3)]), tmp_path / "data"
    list(index([str(film)], data, Settings(workers=1), progress=SilentProgress()))
    with running(data, ingest_command=NO_WORKER) as started:
        yield started


@pytest.fixture
def channel(server: Running) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as opened:
        yield opened


def film_of(channel: grpc.Channel) -> Any:
    listed = LibraryServiceStub(channel).ListVideos(library_pb2.ListVideosRequest(), timeout=HANG_SECONDS)
    return next(video for video in listed.videos if video.uri.endswith("film.mp4") and video.uri != URI)


def test_readers_never_wait_behind_writers(server: Running, channel: grpc.Channel) -> None:
    library, search = LibraryServiceStub(channel), SearchServiceStub(channel)
    video_id = film_of(channel).video_id
    path = server.server.directory / "catalog.sqlite"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        changes = [
            library.IngestVideo.future(
                library_pb2.IngestVideoRequest(uri=URI, video_id=f"new-{n}"), timeout=2 * HANG_SECONDS
            )
            for n in range(8)
        ]
        changes += [
            library.DeleteVideo.future(library_pb2.DeleteVideoRequest(video_id=video_id), timeout=2 * HANG_SECONDS)
            for _ in range(8)
        ]
        for _ in range(3):
            got = library.GetVideo(library_pb2.GetVideoRequest(video_id=video_id), timeout=HANG_SECONDS)
            assert got.video.state == library_pb2.Video.STATE_READY
            assert film_of(channel).video_id == video_id
            request = search_pb2.SearchMomentsRequest(query=moment_pb2.Query(text="red"))
            assert search.SearchMoments(request, timeout=HANG_SECONDS).moments
            assert library.GetFrame(library_pb2.GetFrameRequest(video_id=video_id), timeout=HANG_SECONDS).jpeg
        assert not any(change.done() for change in changes)  # all of them waited all the time
        other.execute("ROLLBACK")
    for change in changes[:8]:
        assert change.result().video.state == library_pb2.Video.STATE_PROCESSING
    outcomes = [change.exception() for change in changes[8:]]
    assert outcomes.count(None) == 1
    assert {error.code() for error in outcomes if error is not None} == {grpc.StatusCode.NOT_FOUND}


def test_a_full_disk_is_said_and_nothing_is_lost(server: Running, channel: grpc.Channel) -> None:
    library, editor = LibraryServiceStub(channel), server.server.editor
    video_id = film_of(channel).video_id
    ((pages,),) = editor.select("PRAGMA page_count")
    editor.select(f"PRAGMA max_page_count = {pages}")
    large = {f"key{n}": "x" * 1000 for n in range(16)}

    def fill() -> None:
        for n in range(20):  # the catalog has some free pages
            request = library_pb2.IngestVideoRequest(uri=f"{URI}/{n}", metadata=large)
            library.IngestVideo(request, timeout=HANG_SECONDS)

    with pytest.raises(grpc.RpcError) as caught:
        fill()
    check_full(caught.value, server.server.directory)
    assert film_of(channel).video_id == video_id
    editor.select("PRAGMA max_page_count = 1000000")
    library.IngestVideo(library_pb2.IngestVideoRequest(uri=URI, metadata=large), timeout=HANG_SECONDS)


def test_a_full_disk_is_said_when_a_video_is_deleted(
    server: Running, channel: grpc.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, editor, video_id = LibraryServiceStub(channel), server.server.editor, film_of(channel).video_id

    def fail(*_: object) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorname = "SQLITE_IOERR_WRITE"
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(editor, "remove_row", fail)
        patched.setattr("serve.catalog.sqlite.FREE_BYTES", 1 << 62)
        with pytest.raises(grpc.RpcError) as caught:
            library.DeleteVideo(library_pb2.DeleteVideoRequest(video_id=video_id), timeout=HANG_SECONDS)
        check_full(caught.value, server.server.directory)
        assert film_of(channel).video_id == video_id
    library.DeleteVideo(library_pb2.DeleteVideoRequest(video_id=video_id), timeout=HANG_SECONDS)


def check_full(error: Any, directory: Path) -> None:
    status = rpc_status.from_call(error)
    assert status is not None
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    info, retry = ErrorInfo(), RetryInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    assert any(detail.Unpack(retry) for detail in status.details)
    assert info.reason == "SPOOL_FULL"
    assert retry.retry_delay.seconds > 0
    assert str(directory) not in str(status)


# ------------------------------------------------------------------ one server of a data directory
def serve_again(directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kinodex", "serve", "--data", str(directory), "--listen", "127.0.0.1:0"]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS, check=False)


def test_a_second_server_of_a_data_directory_is_refused(server: Running, channel: grpc.Channel) -> None:
    directory = server.server.directory
    done = serve_again(directory)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == (
        f"kinodex: error: process {os.getpid()} serves {directory} already: stop it, or choose another --data"
    )
    assert film_of(channel).state == library_pb2.Video.STATE_READY  # the first one is undisturbed


def test_others_index_and_read_while_a_server_runs(server: Running, channel: grpc.Channel, tmp_path: Path) -> None:
    directory, other = server.server.directory, write_scenes(tmp_path / "other.mp4", [("blue", 3)])
    outcomes = list(index([str(other)], directory, Settings(workers=1), progress=SilentProgress()))
    assert [outcome.status for outcome in outcomes] == ["indexed"]
    with Catalog.open_reader(directory) as catalog:
        assert len(catalog.videos()) == 2
    listed = LibraryServiceStub(channel).ListVideos(library_pb2.ListVideosRequest(), timeout=HANG_SECONDS)
    assert len(listed.videos) == 2


def test_the_next_server_starts_when_one_has_stopped_or_failed_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fakes(monkeypatch)
    for listen in ("127.0.0.1:0", "0.0.0.0:0", "127.0.0.1:0"):
        with (
            contextlib.suppress(SettingsError),
            running(tmp_path / "data", listen=listen, warm=False),
            pytest.raises(DataDirectoryBusy, match=f"process {os.getpid()} serves"),
        ):
            lock_for_serving(tmp_path / "data")
    lock_for_serving(tmp_path / "data").release()
