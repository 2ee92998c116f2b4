"""A server for the tests of bad requests, with a film and a sound; ways to send it requests, and their outcomes."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import av
import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from ingest.config import SourceConfig
from kinodex.v1 import library_service_pb2 as library_pb2
from kinodex.v1 import moment_pb2
from kinodex.v1 import search_service_pb2 as search_pb2
from kinodex.v1.library_service_pb2_grpc import LibraryServiceStub
from kinodex.v1.search_service_pb2_grpc import SearchServiceStub
from serve.indexing import job_worker
from serve.indexing.pipeline import index
from serve.settings import Settings
from support.fakes import SilentProgress, use_fakes, write_scenes
from support.running import Running, running
from support.waiting import HANG_SECONDS, wait_until

MAX_CALL_SECONDS = 0.5  # of a call that has no deadline
MAX_MESSAGE_BYTES = 10 << 20
MAX_UPLOAD_BYTES = 100_000
NO_WORKER = ["sh", "-c", "exec cat"]  # jobs wait until a test does them
CHANNEL_OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]

INVALID = ("INVALID_ARGUMENT", "REQUEST_INVALID")
NO_VIDEO = ("NOT_FOUND", "VIDEO_NOT_FOUND", "no video nowhere")
REFUSED = ("PERMISSION_DENIED", "SOURCE_REFUSED")
TOO_LARGE = ("RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED")


# ------------------------------------------------------------------ the server
@dataclass(kw_only=True)
class World:
    """A server with a film and a sound, and ways to send it requests."""

    running: Running
    directory: Path
    settings: Settings
    channel: grpc.Channel
    film_id: str
    sound_id: str
    search: SearchServiceStub = field(init=False)
    library: LibraryServiceStub = field(init=False)

    def __post_init__(self) -> None:
        self.search, self.library = SearchServiceStub(self.channel), LibraryServiceStub(self.channel)

    # ---- asking

    def moments(self, query: moment_pb2.Query | None = None, **fields: Any) -> Any:
        return self.search.SearchMoments(search_pb2.SearchMomentsRequest(query=query, **fields), timeout=HANG_SECONDS)

    def videos(self, query: moment_pb2.Query | None = None, **fields: Any) -> Any:
        return self.search.SearchVideos(search_pb2.SearchVideosRequest(query=query, **fields), timeout=HANG_SECONDS)

    def curve(self, video_id: str, query: moment_pb2.Query | None = None, **fields: Any) -> Any:
        request = search_pb2.GetSimilarityCurveRequest(query=query, video_id=video_id, **fields)
        return self.search.GetSimilarityCurve(request, timeout=HANG_SECONDS)

    def ingest(self, uri: str, **fields: Any) -> Any:
        return self.library.IngestVideo(library_pb2.IngestVideoRequest(uri=uri, **fields), timeout=HANG_SECONDS).video

    def upload(self, messages: Iterable[library_pb2.UploadVideoRequest]) -> Any:
        return self.library.UploadVideo(iter(messages), timeout=HANG_SECONDS).video

    def list_videos(self, **fields: Any) -> Any:
        return self.library.ListVideos(library_pb2.ListVideosRequest(**fields), timeout=HANG_SECONDS)

    def get(self, method: str, video_id: str, **fields: Any) -> Any:
        request = getattr(library_pb2, f"{method}Request")(video_id=video_id, **fields)
        return getattr(self.library, method)(request, timeout=HANG_SECONDS)

    def raw(self, method: str, content: bytes) -> bytes:
        answer: bytes = self.channel.unary_unary(f"/kinodex.v1.{method}")(content, timeout=HANG_SECONDS)
        return answer

    # ---- looking

    @property
    def uploads(self) -> list[str]:
        folder = self.directory / "uploads"
        return [path.name for path in folder.iterdir()] if folder.exists() else []

    def index_all(self, video: Any) -> Any:
        """Do all jobs, as the ingest worker does, and return the status of a video."""
        job_worker.JobWorker(self.directory, self.settings).work_until_released()
        wait_until(lambda: self.status(video).state != library_pb2.Video.STATE_PROCESSING)
        return self.status(video)

    def status(self, video: Any) -> Any:
        return self.get("GetVideo", video.video_id, collection=video.collection).video

    def answers(self) -> bool:
        """Whether a good question, and with it the only thread for questions, is still answered."""
        found = self.moments(moment_pb2.Query(text="red", channel=moment_pb2.CHANNEL_VISUAL))
        return [one.video_id for one in found.moments] == [self.film_id] and found.moments[0].confidence > 0.9


def write_sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        wave = (8000 * np.sin(2 * np.pi * 440 * np.arange(3 * 16_000) / 16_000)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with serve_world(tmp_path_factory.mktemp("bad")) as started:
        yield started


@contextlib.contextmanager
def serve_world(folder: Path) -> Iterator[World]:
    """Run a server with a film and a sound, on one thread for questions, with small limits."""
    films = folder / "films"
    films.mkdir()
    film = write_scenes(films / "film.mp4", [("red", 4)])
    sound = write_sound(films / "sound.wav")
    settings = Settings(workers=1, source=SourceConfig(file_roots=(str(films),)))
    config = {
        "query_workers": 1,
        "max_call_seconds": MAX_CALL_SECONDS,
        "max_message_bytes": MAX_MESSAGE_BYTES,
        "max_upload_bytes": MAX_UPLOAD_BYTES,
    }
    with pytest.MonkeyPatch.context() as patched:
        use_fakes(patched)
        patched.setattr(job_worker, "RELEASE_SECONDS", 0.0)
        patched.setattr(job_worker, "POLL_SECONDS", 0.02)
        outcomes = list(index([str(film), str(sound)], folder / "data", settings, progress=SilentProgress()))
        ids = {Path(each.uri).name: each.video_id for each in outcomes}
        with (
            running(folder / "data", settings, ingest_command=NO_WORKER, **config) as started,
            grpc.insecure_channel(started.address, CHANNEL_OPTIONS) as channel,
        ):
            yield World(
                running=started,
                directory=folder / "data",
                settings=settings,
                channel=channel,
                film_id=str(ids["film.mp4"]),
                sound_id=str(ids["sound.wav"]),
            )


# ------------------------------------------------------------------ requests and their outcomes
@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The answer or the error of a request."""

    code: str
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class Bad:
    """A request that cannot be answered, and the error that the server returns.

    Attributes:
        message: Its beginning, where gRPC and not the server wrote it; None: whatever gRPC says.
    """

    request: str
    send: Callable[[World], Any]
    code: str
    reason: str = ""
    message: str | None = None


def outcome(world: World, row: Bad) -> Outcome:
    """Send a request and return its outcome, with fixed names in place of those that differ from run to run."""
    try:
        answer = row.send(world)
    except grpc.RpcError as error:
        status = rpc_status.from_call(error)
        info = ErrorInfo()
        for detail in status.details if status is not None else ():
            if detail.Is(ErrorInfo.DESCRIPTOR):
                detail.Unpack(info)
        found = Outcome(code=error.code().name, reason=info.reason, message=error.details() or "")
    else:
        if isinstance(answer, library_pb2.Video) and answer.state == library_pb2.Video.STATE_FAILED:
            answer = Outcome(code="FAILED", reason=answer.failure.reason, message=answer.failure.message)
        found = answer if isinstance(answer, Outcome) else Outcome(code="OK", message=repr(answer)[:200])
    films = world.settings.source.file_roots[0]
    return replace(found, message=found.message.replace(world.sound_id, "SOUND").replace(films, "/films"))


def check_refusal(row: Bad, world: World) -> None:
    """Send a bad request and compare its outcome; check that the server still answers and that nothing is left."""
    found = outcome(world, row)
    assert (found.code, found.reason) == (row.code, row.reason)
    assert row.message in (None, found.message)
    assert world.answers()
    assert world.uploads == []
    server = world.running.server
    wait_until(lambda: server.library_service.workers.call_count == server.search_service.workers.call_count == 0)


def words(text: str = "red", **fields: Any) -> moment_pb2.Query:
    return moment_pb2.Query(text=text, **fields)


def example(video_id: str, **fields: Any) -> moment_pb2.MomentReference:
    span = moment_pb2.TimeSpan(start_offset=Duration(seconds=0), end_offset=Duration(seconds=2))
    return moment_pb2.MomentReference(video_id=video_id, span=span, **fields)
