"""Everything that can be wrong with a request, sent over the wire to a real server, and what it answers.

`python tests/serve/api/test_bad_requests.py` prints the table for people, with the answers as they come.
"""

import contextlib
import hashlib
import socket
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[3]), str(Path(__file__).parents[2])]

import av
import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from ingest.config import SourceConfig
from kinodex.v1 import library_service_pb2 as library_pb2
from kinodex.v1 import moment_pb2
from kinodex.v1 import search_service_pb2 as search_pb2
from kinodex.v1.library_service_pb2_grpc import LibraryServiceStub
from kinodex.v1.search_service_pb2_grpc import SearchServiceStub
from serve.api.pages import PageSigner, binding, page_key
from serve.api.tokens import Principal
from serve.errors import CallAbandoned
from serve.indexing import job_worker
from serve.indexing.pipeline import index
from serve.settings import Settings
from support.fakes import SilentProgress, use_fakes, write_scenes
from support.running import Running, running

pytestmark = pytest.mark.slow

TIMEOUT_SECONDS = 60  # of every call here but those about time
MAX_CALL_SECONDS = 0.5  # of a call without a deadline
MAX_MESSAGE_BYTES = 10 << 20
MAX_UPLOAD_BYTES = 100_000
NO_WORKER = ["sh", "-c", "exec cat"]  # jobs wait until a test does them
CHANNEL_OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
EVERYBODY = Principal(name="", collections=None, can_write=True)
LAPTOP = Principal(name="laptop", collections=None, can_write=True)


# ------------------------------------------------------------------ the server
@dataclass(kw_only=True)
class World:
    """A server with a film and a sound in it, and ways to ask it."""

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
        return self.search.SearchMoments(
            search_pb2.SearchMomentsRequest(query=query, **fields), timeout=TIMEOUT_SECONDS
        )

    def videos(self, query: moment_pb2.Query | None = None, **fields: Any) -> Any:
        return self.search.SearchVideos(search_pb2.SearchVideosRequest(query=query, **fields), timeout=TIMEOUT_SECONDS)

    def ingest(self, uri: str, **fields: Any) -> Any:
        return self.library.IngestVideo(
            library_pb2.IngestVideoRequest(uri=uri, **fields), timeout=TIMEOUT_SECONDS
        ).video

    def upload(self, messages: Iterable[library_pb2.UploadVideoRequest]) -> Any:
        return self.library.UploadVideo(iter(messages), timeout=TIMEOUT_SECONDS).video

    def listed(self, **fields: Any) -> Any:
        return self.library.ListVideos(library_pb2.ListVideosRequest(**fields), timeout=TIMEOUT_SECONDS)

    def get(self, method: str, video_id: str, **fields: Any) -> Any:
        request = getattr(library_pb2, f"{method}Request")(video_id=video_id, **fields)
        return getattr(self.library, method)(request, timeout=TIMEOUT_SECONDS)

    def raw(self, method: str, content: bytes) -> bytes:
        answer: bytes = self.channel.unary_unary(f"/kinodex.v1.{method}")(content, timeout=TIMEOUT_SECONDS)
        return answer

    # ---- looking

    @property
    def uploads(self) -> list[str]:
        folder = self.directory / "uploads"
        return [path.name for path in folder.iterdir()] if folder.exists() else []

    def settled(self, video: Any) -> Any:
        """Do all jobs, as the ingest worker does, and return how a video fared."""
        job_worker.JobWorker(self.directory, self.settings).work_until_released()
        wait_until(lambda: self.status(video).state != library_pb2.Video.STATE_PROCESSING)
        return self.status(video)

    def status(self, video: Any) -> Any:
        return self.get("GetVideo", video.video_id, collection=video.collection).video

    def answers(self) -> bool:
        """Whether a good question, and with it the only thread for questions, is still answered."""
        found = self.moments(moment_pb2.Query(text="red", channel=moment_pb2.CHANNEL_VISUAL))
        return [one.video_id for one in found.moments] == [self.film_id] and found.moments[0].confidence > 0.9


def wait_until(is_so: Callable[[], bool]) -> None:
    for _ in range(500):
        if is_so():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come")


def write_sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        wave = (8000 * np.sin(2 * np.pi * 440 * np.arange(3 * 16_000) / 16_000)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[World]:
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


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with opened(tmp_path_factory.mktemp("bad")) as started:
        yield started


# ------------------------------------------------------------------ parts of requests
def words(text: str = "red", **fields: Any) -> moment_pb2.Query:
    return moment_pb2.Query(text=text, **fields)


def example(video_id: str, **fields: Any) -> moment_pb2.MomentReference:
    span = moment_pb2.TimeSpan(start_offset=Duration(seconds=0), end_offset=Duration(seconds=2))
    return moment_pb2.MomentReference(video_id=video_id, span=span, **fields)


def header(filename: str = "new.mp4", **fields: Any) -> library_pb2.UploadVideoRequest:
    return library_pb2.UploadVideoRequest(header=library_pb2.UploadHeader(filename=filename, **fields))


def data(content: bytes) -> library_pb2.UploadVideoRequest:
    return library_pb2.UploadVideoRequest(data=content)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def packed(byte_count: int) -> bytes:
    """Compress zeros, without having them all at once."""
    press, block = zlib.compressobj(9), bytes(1 << 20)
    content = [press.compress(block) for _ in range(byte_count >> 20)]
    return b"".join([*content, press.compress(block[: byte_count % (1 << 20)]), press.flush()])


def png(width: int, height: int, content: bytes | None = None) -> bytes:
    """Write a PNG of one bit a pixel, black unless it is given its compressed rows."""
    size = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    content = packed(height * (1 + (width + 7) // 8)) if content is None else content
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(png_chunk, (b"IHDR", b"IDAT", b"IEND"), (size, content, b"")))


def picture(content: bytes) -> Callable[[World], Any]:
    return lambda world: world.moments(moment_pb2.Query(image=content))


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
PLAYLIST = b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"


def film_as_picture(world: World) -> Any:
    film = next(Path(one.uri) for one in world.listed().videos if one.video_id == world.film_id)
    return world.moments(moment_pb2.Query(image=film.read_bytes()))


# ------------------------------------------------------------------ page tokens
def first_page(world: World) -> str:
    """Return the token of a list's second page."""
    token: str = world.listed(page_size=1).next_page_token
    assert token
    return token


def altered(world: World) -> Any:
    token = first_page(world)
    at = len(token) // 2
    return world.listed(page_token=token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :])


def token_of(
    world: World, payload: dict[str, Any], request: Message, method: str, caller: Principal, key: bytes | None = None
) -> str:
    """Make a page token as the server would, were it asked by somebody else, or were it another one."""
    signer = PageSigner(key or page_key(world.directory))
    return signer.sign(payload, binding=binding(caller.scope, method, request))


def list_token(world: World, caller: Principal, key: bytes | None = None) -> str:
    return token_of(world, {"after": ["", "", ""]}, library_pb2.ListVideosRequest(), "ListVideos", caller, key)


def forgotten(world: World) -> Any:
    request = search_pb2.SearchMomentsRequest(query=words())
    held = {"ranking": "AAAAAAAAAAAAAAAAAAAAAA", "start": 1}  # as after an hour, or a restart
    return world.moments(words(), page_token=token_of(world, held, request, "SearchMoments", EVERYBODY))


# ------------------------------------------------------------------ calls that end early
class Endless:
    """Work for a question that does not end of itself."""

    def __init__(self) -> None:
        self.has_begun, self.was_abandoned = threading.Event(), threading.Event()

    def __call__(self, query: Any, pixels: Any, check: Callable[[], None]) -> Any:
        self.has_begun.set()
        try:
            for _ in range(6000):
                check()
                time.sleep(0.01)
        except CallAbandoned:
            self.was_abandoned.set()
            raise
        raise AssertionError("nobody stopped it")


@contextlib.contextmanager
def endless(world: World) -> Iterator[Endless]:
    """Make questions last for ever; see to it that the work of this one has stopped."""
    library, work = world.running.server.loaded.library, Endless()
    assert library is not None
    with patch.object(library.engine, "candidates", work):
        yield work
        # On a machine that is overrun the deadline may pass before it begins.
        assert not work.has_begun.is_set() or work.was_abandoned.wait(TIMEOUT_SECONDS)


def cancelled(world: World) -> Any:
    with endless(world) as work:
        call = world.search.SearchMoments.future(search_pb2.SearchMomentsRequest(query=words()))
        assert work.has_begun.wait(TIMEOUT_SECONDS)
        call.cancel()
    return Outcome(code=call.code().name)


def late(timeout: float | None) -> Callable[[World], Any]:
    def ask(world: World) -> Any:
        with endless(world):
            call = world.search.SearchVideos.future(search_pb2.SearchVideosRequest(query=words()), timeout=timeout)
            error = call.exception()
        raise error

    return ask


# ------------------------------------------------------------------ uploads that go wrong
class Waiting:
    """Messages of an upload, and then none, until it is over."""

    def __init__(self, *messages: library_pb2.UploadVideoRequest) -> None:
        self.messages, self.is_over = messages, threading.Event()

    def __iter__(self) -> Iterator[library_pb2.UploadVideoRequest]:
        yield from self.messages
        self.is_over.wait(TIMEOUT_SECONDS)


def stalled(world: World) -> Any:
    messages = Waiting(header(), data(b"beginning"))
    try:
        with patch.object(world.running.server.library_service, "max_stall_seconds", 0.3):
            return world.upload(messages)
    finally:
        messages.is_over.set()


class Relay:
    """One connection to a server, which can break."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.ends = [socket.create_connection((host, int(port)))]
        self.threads = [threading.Thread(target=self.accept)]
        self.threads[0].start()

    def accept(self) -> None:
        self.ends.append(self.listener.accept()[0])
        self.listener.close()
        for one, other in (self.ends, self.ends[::-1]):
            self.threads.append(threading.Thread(target=self.pump, args=(one, other)))
            self.threads[-1].start()

    def pump(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := one.recv(1 << 16):
                other.sendall(content)

    def close(self) -> None:
        for end in self.ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> "Relay":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
        for thread in self.threads:
            thread.join()
        for end in self.ends:
            end.close()


def cut_off(world: World, library: LibraryServiceStub, cut: Callable[[Any], None]) -> Any:
    """Send the beginning of an upload and then cut it off; nothing may be left of it."""
    messages, before = Waiting(header(), data(b"beginning")), world.listed()
    call = library.UploadVideo.future(iter(messages))
    try:
        wait_until(lambda: any((world.directory / "uploads" / name).stat().st_size for name in world.uploads))
        cut(call)
        wait_until(lambda: not world.uploads)
    finally:
        messages.is_over.set()
    assert world.listed() == before
    return Outcome(code=call.code().name)


def cancelled_upload(world: World) -> Any:
    return cut_off(world, world.library, lambda call: call.cancel())


def spool_full(world: World) -> Any:
    with patch.object(world.running.server.spool, "max_spool_bytes", 10):
        return world.upload([header(), data(bytes(1000))])


def text_file(world: World) -> Any:
    content = b"These are words, and no pictures.\n" * 20
    return world.settled(world.upload([header("letter.txt", video_id="letter"), data(content)]))


def reused(world: World) -> Any:
    uri = f"file://{world.settings.source.file_roots[0]}/film.mp4"
    world.ingest(uri, video_id="once", request_id="retry-1")
    try:
        return world.ingest(uri, video_id="twice", request_id="retry-1")
    finally:
        world.get("DeleteVideo", "once")


def metadata_service(world: World) -> Any:
    return world.settled(world.ingest("http://169.254.169.254/latest/meta-data/"))


# ------------------------------------------------------------------ the table
@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a request."""

    code: str
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class Bad:
    """A request that cannot be answered, and what the server says instead.

    Attributes:
        message: Its beginning, where gRPC and not the server wrote it; None: whatever gRPC says.
    """

    request: str
    send: Callable[[World], Any]
    code: str
    reason: str = ""
    message: str | None = None


INVALID = ("INVALID_ARGUMENT", "REQUEST_INVALID")
TOKEN_INVALID = ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID", "page_token: is not the next_page_token of this request")
REFUSED = ("PERMISSION_DENIED", "SOURCE_REFUSED")
NO_VIDEO = ("NOT_FOUND", "VIDEO_NOT_FOUND", "no video nowhere")
TOO_LARGE = ("RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED")

BAD: list[Bad] = [
    # ---- questions
    Bad("a search without a query", lambda w: w.videos(), *INVALID, "query: is required"),
    Bad(
        "a query with nothing in it",
        lambda w: w.moments(words("")),
        *INVALID,
        "query: needs text, an image or an example (like)",
    ),
    Bad(
        "a query of blanks",
        lambda w: w.moments(words(" \t\n")),
        *INVALID,
        "query: needs text, an image or an example (like)",
    ),
    Bad(
        "a query of 1 MB of text",
        lambda w: w.moments(words("red " * 250_000)),
        *INVALID,
        "query.text: must be at most 2,000 characters, got 1,000,000",
    ),
    Bad(
        "a page of -1 moments",
        lambda w: w.moments(words(), page_size=-1),
        *INVALID,
        "page_size: must not be negative, got -1",
    ),
    Bad(
        "-1 moments of a video",
        lambda w: w.moments(words(), max_moments_per_video=-1),
        *INVALID,
        "max_moments_per_video: must not be negative, got -1",
    ),
    Bad(
        "21 moments with each video",
        lambda w: w.videos(words(), max_moments_per_video=21),
        *INVALID,
        "max_moments_per_video: must be at most 20",
    ),
    Bad(
        "a confidence of 1.5",
        lambda w: w.moments(words(), min_confidence=1.5),
        *INVALID,
        "min_confidence: must be 0 to 1, got 1.5",
    ),
    Bad(
        "an image_weight of 2",
        lambda w: w.moments(words(image_weight=2.0)),
        *INVALID,
        "query.image_weight: must be 0 to 1, got 2",
    ),
    Bad(
        "an image_weight that is no number",
        lambda w: w.moments(words(image_weight=float("nan"))),
        *INVALID,
        "query.image_weight: must be 0 to 1, got nan",
    ),
    Bad(
        "a channel that there is not",
        lambda w: w.moments(words(channel=99)),
        *INVALID,
        "query.channel: must be a Channel, got 99",
    ),
    Bad(
        "a video as example that is not there",
        lambda w: w.moments(moment_pb2.Query(like=example("nowhere"))),
        *NO_VIDEO,
    ),
    Bad(
        "an example without its span",
        lambda w: w.moments(moment_pb2.Query(like=moment_pb2.MomentReference(video_id=w.film_id))),
        *INVALID,
        "query.like.span: is required",
    ),
    Bad(
        "an example and a picture",
        lambda w: w.moments(moment_pb2.Query(like=example(w.film_id), image=png(8, 8))),
        *INVALID,
        "query.like: cannot stand beside an image",
    ),
    # ---- filters
    Bad(
        "a collection that is not there",
        lambda w: w.moments(words(), filter=moment_pb2.Filter(collections=["nowhere"])),
        "NOT_FOUND",
        "COLLECTION_NOT_FOUND",
        "no collection nowhere",
    ),
    Bad(
        "a video that is not there",
        lambda w: w.moments(words(), filter=moment_pb2.Filter(video_ids=["nowhere"])),
        *NO_VIDEO,
    ),
    Bad(
        "a duration below zero",
        lambda w: w.moments(words(), filter=moment_pb2.Filter(min_duration=Duration(seconds=-1))),
        *INVALID,
        "filter.min_duration: must not be negative, got -1 s",
    ),
    Bad(
        "a duration that is none",
        lambda w: w.moments(words(), filter=moment_pb2.Filter(min_duration=Duration(seconds=1, nanos=-1))),
        *INVALID,
        "filter.min_duration: is no Duration: seconds 1, nanos -1",
    ),
    Bad(
        "metadata without a condition",
        lambda w: w.moments(words(), filter=moment_pb2.Filter(metadata=[moment_pb2.MetadataFilter(key="topic")])),
        *INVALID,
        "filter.metadata[0]: needs a condition: equals or range",
    ),
    Bad(
        "three things at once",
        lambda w: w.moments(words("", channel=99), page_size=-1),
        *INVALID,
        "query: needs text, an image or an example (like); query.channel: must be a Channel, got 99; "
        "page_size: must not be negative, got -1",
    ),
    # ---- pictures
    Bad(
        "a picture that is text",
        picture(b"not a picture, but words"),
        *INVALID,
        "query.image: must be a JPEG, PNG or WebP picture",
    ),
    Bad("a picture that is SVG", picture(SVG), *INVALID, "query.image: must be a JPEG, PNG or WebP picture"),
    Bad(
        "a picture that is a playlist", picture(PLAYLIST), *INVALID, "query.image: must be a JPEG, PNG or WebP picture"
    ),
    Bad("a picture that is a film", film_as_picture, *INVALID, "query.image: must be a JPEG, PNG or WebP picture"),
    Bad("a picture of no bytes", picture(b""), *INVALID, "query: needs text, an image or an example (like)"),
    Bad(
        "a picture that is damaged",
        picture(png(64, 64)[:8] + b"no chunk at all"),
        *INVALID,
        "query.image: no picture or sound in it decodes",
    ),
    Bad(
        "a picture of 400 megapixels, in 49 KB",
        picture(png(20_000, 20_000)),
        *INVALID,
        "query.image: no picture or sound in it decodes",
    ),
    Bad("a picture above 8 MiB", picture(bytes((8 << 20) + 1)), *INVALID, "query.image: must be at most 8 MiB"),
    # ---- page tokens
    Bad("a page token that is none", lambda w: w.listed(page_token="2"), *TOKEN_INVALID),
    Bad("a page token, altered", altered, *TOKEN_INVALID),
    Bad("a page token, cut off", lambda w: w.listed(page_token=first_page(w)[:-4]), *TOKEN_INVALID),
    Bad("a page token of 100,000 characters", lambda w: w.listed(page_token="A" * 100_000), *TOKEN_INVALID),
    Bad(
        "a page token of another request",
        lambda w: w.listed(page_token=first_page(w), collection="default"),
        *TOKEN_INVALID,
    ),
    Bad("a page token of another method", lambda w: w.moments(words(), page_token=first_page(w)), *TOKEN_INVALID),
    Bad("a page token of another caller", lambda w: w.listed(page_token=list_token(w, LAPTOP)), *TOKEN_INVALID),
    Bad(
        "a page token of another server",
        lambda w: w.listed(page_token=list_token(w, EVERYBODY, bytes(32))),
        *TOKEN_INVALID,
    ),
    Bad(
        "a page token of an answer that is forgotten",
        forgotten,
        "FAILED_PRECONDITION",
        "PAGE_TOKEN_EXPIRED",
        "the page token has expired: ask for the first page again",
    ),
    # ---- videos
    Bad("a page of -1 videos", lambda w: w.listed(page_size=-1), *INVALID, "page_size: must not be negative, got -1"),
    Bad(
        "a list of a collection that is not there",
        lambda w: w.listed(collection="nowhere"),
        "NOT_FOUND",
        "COLLECTION_NOT_FOUND",
        "no collection nowhere",
    ),
    Bad("a video without its id", lambda w: w.get("GetVideo", ""), *INVALID, "video_id: is required"),
    Bad("GetVideo of a video that is not there", lambda w: w.get("GetVideo", "nowhere"), *NO_VIDEO),
    Bad("GetTranscript of a video that is not there", lambda w: w.get("GetTranscript", "nowhere"), *NO_VIDEO),
    Bad("GetFrame of a video that is not there", lambda w: w.get("GetFrame", "nowhere"), *NO_VIDEO),
    Bad(
        "GetFrame before the beginning",
        lambda w: w.get("GetFrame", w.film_id, offset=Duration(seconds=-1)),
        *INVALID,
        "offset: must not be negative, got -1 s",
    ),
    Bad(
        "GetFrame of a sound",
        lambda w: w.get("GetFrame", w.sound_id),
        "NOT_FOUND",
        "FRAME_NOT_FOUND",
        "video SOUND has no pictures",
    ),
    Bad("DeleteVideo of a video that is not there", lambda w: w.get("DeleteVideo", "nowhere"), *NO_VIDEO),
    # ---- ingest
    Bad("ingest of nothing", lambda w: w.ingest(""), *INVALID, "uri: is required"),
    Bad(
        "ingest of /etc/passwd",
        lambda w: w.ingest("/etc/passwd"),
        *INVALID,
        "uri: is not a URI, such as https://example.org/video.mp4",
    ),
    Bad(
        "ingest of a file outside file_roots",
        lambda w: w.ingest("file:///etc/passwd"),
        *REFUSED,
        "outside the allowed folders: file:///etc/passwd (list its folder in file_roots)",
    ),
    Bad(
        "ingest of a file behind ..",
        lambda w: w.ingest(f"file://{w.settings.source.file_roots[0]}/../../../etc/passwd"),
        *REFUSED,
        "outside the allowed folders: file:///films/../../../etc/passwd (list its folder in file_roots)",
    ),
    Bad(
        "ingest over ftp:",
        lambda w: w.ingest("ftp://example.org/film.mp4"),
        *REFUSED,
        "not a URI of a supported scheme: ftp://example.org/film.mp4 (use one of http, https, file)",
    ),
    Bad(
        "ingest over gopher:",
        lambda w: w.ingest("gopher://example.org/film.mp4"),
        *REFUSED,
        "not a URI of a supported scheme: gopher://example.org/film.mp4 (use one of http, https, file)",
    ),
    Bad(
        "ingest of javascript:",
        lambda w: w.ingest("javascript:alert(1)"),
        *REFUSED,
        "not a URI of a supported scheme: javascript:alert(1) (use one of http, https, file)",
    ),
    Bad(
        "ingest of data:",
        lambda w: w.ingest("data:video/mp4;base64,AAAA"),
        *REFUSED,
        "not a URI of a supported scheme: data:video/mp4;base64,AAAA (use one of http, https, file)",
    ),
    Bad(
        "ingest of http: without a host",
        lambda w: w.ingest("http:///film.mp4"),
        *REFUSED,
        "not a valid http or https URL: http:///film.mp4 (check its spelling)",
    ),
    Bad(
        "a URI with a line break",
        lambda w: w.ingest("https://example.org/film\r\nHost: other"),
        *INVALID,
        "uri: is not a URI, such as https://example.org/video.mp4",
    ),
    Bad(
        "a URI of 8,193 characters",
        lambda w: w.ingest("https://example.org/" + "a" * 8173),
        *INVALID,
        "uri: must be at most 8,192 characters, got 8,193",
    ),
    Bad(
        "ingest of a cloud's metadata service",
        metadata_service,
        "FAILED",
        "SOURCE_REFUSED",
        "address 169.254.169.254 of host 169.254.169.254 is not public: "
        "http://169.254.169.254/latest/meta-data/ (list its network in private_networks)",
    ),
    Bad(
        "a video_id with a slash",
        lambda w: w.ingest("https://example.org/a", video_id="../x"),
        *INVALID,
        'video_id: must be letters, digits, ".", "_" and "-", at most 128',
    ),
    Bad(
        "a video_id of two dots",
        lambda w: w.ingest("https://example.org/a", video_id=".."),
        *INVALID,
        'video_id: must be letters, digits, ".", "_" and "-", at most 128',
    ),
    Bad(
        "a collection with a blank",
        lambda w: w.ingest("https://example.org/a", collection="my films"),
        *INVALID,
        'collection: must be letters, digits, ".", "_" and "-", at most 64',
    ),
    Bad(
        "metadata of 65 keys",
        lambda w: w.ingest("https://example.org/a", metadata={str(n): "" for n in range(65)}),
        *INVALID,
        "metadata: must have at most 64 keys, got 65",
    ),
    Bad(
        "a request_id of another request",
        reused,
        "INVALID_ARGUMENT",
        "REQUEST_ID_REUSED",
        "request_id retry-1 was used for another request",
    ),
    # ---- uploads
    Bad("an upload without a message", lambda w: w.upload([]), *INVALID, "header: is required, and comes first"),
    Bad(
        "an upload without a header",
        lambda w: w.upload([data(b"film")]),
        *INVALID,
        "header: is required, and comes first",
    ),
    Bad(
        "an upload with an empty message",
        lambda w: w.upload([header(), library_pb2.UploadVideoRequest()]),
        *INVALID,
        "data: is required in every message after the first",
    ),
    Bad(
        "an upload with two headers",
        lambda w: w.upload([header(), header(), data(b"film")]),
        *INVALID,
        "data: is required in every message after the first",
    ),
    Bad(
        "a filename that is a path",
        lambda w: w.upload([header("../../etc/passwd"), data(b"film")]),
        *INVALID,
        "header.filename: must be a name, not a path",
    ),
    Bad(
        "a block above 1 MiB",
        lambda w: w.upload([header(), data(bytes((1 << 20) + 1))]),
        *INVALID,
        "data: must be at most 1048576 bytes",
    ),
    Bad(
        "a checksum that is none",
        lambda w: w.upload([header(sha256="beef"), data(b"film")]),
        *INVALID,
        "header.sha256: must be 64 hexadecimal digits",
    ),
    Bad(
        "an upload with another checksum",
        lambda w: w.upload([header(sha256=hashlib.sha256(b"").hexdigest()), data(b"film")]),
        "DATA_LOSS",
        "UPLOAD_CORRUPT",
        "the upload of new.mp4 was damaged on its way, its SHA-256 is another: send it again",
    ),
    Bad(
        "an upload of another length",
        lambda w: w.upload([header(size_bytes=5), data(b"film")]),
        "DATA_LOSS",
        "UPLOAD_CORRUPT",
        "the upload of new.mp4 was damaged on its way, 4 of 5 bytes arrived: send it again",
    ),
    Bad(
        "an upload of no bytes",
        lambda w: w.upload([header()]),
        "INVALID_ARGUMENT",
        "SOURCE_UNREADABLE",
        "empty file: upload:new.mp4",
    ),
    Bad(
        "an upload announced above max_upload_bytes",
        lambda w: w.upload([header(size_bytes=MAX_UPLOAD_BYTES + 1)]),
        *TOO_LARGE,
        "more than 100000 bytes: upload:new.mp4 (the limit is the setting max_upload_bytes)",
    ),
    Bad(
        "an upload that grows above max_upload_bytes",
        lambda w: w.upload([header(), *[data(bytes(60_000))] * 2]),
        *TOO_LARGE,
        "more than 100000 bytes: upload:new.mp4 (the limit is the setting max_upload_bytes)",
    ),
    Bad(
        "an upload when the spool is full",
        spool_full,
        "RESOURCE_EXHAUSTED",
        "SPOOL_FULL",
        "there is no room for uploads now: come back when others are indexed",
    ),
    Bad(
        "an upload that stops coming",
        stalled,
        "DEADLINE_EXCEEDED",
        "UPLOAD_STALLED",
        "the upload of new.mp4 sent nothing for 0.3 s: send it again",
    ),
    Bad("an upload that is cancelled", cancelled_upload, "CANCELLED"),
    Bad("an upload of a text file", text_file, "FAILED", "DECODE_ERROR", "not a media file: upload:letter.txt"),
    # ---- calls
    Bad("a question that is cancelled", cancelled, "CANCELLED"),
    Bad("a question past its own deadline", late(0.3), "DEADLINE_EXCEEDED"),
    Bad("a question past server.max_call_seconds", late(None), "DEADLINE_EXCEEDED", "CALL_TOO_LONG"),
    Bad(
        "a message above max_message_bytes",
        lambda w: w.raw("SearchService/SearchMoments", bytes(MAX_MESSAGE_BYTES + 1)),
        "RESOURCE_EXHAUSTED",
    ),
    Bad(
        "bytes that are no message",
        lambda w: w.raw("SearchService/SearchMoments", b"\xff\xff\xff"),
        "INVALID_ARGUMENT",
        "REQUEST_INVALID",
        "request: is no message of this method",
    ),
    Bad(
        "text that is not UTF-8",
        lambda w: w.raw("LibraryService/GetVideo", b"\x0a\x02\xff\xff"),
        "INVALID_ARGUMENT",
        "REQUEST_INVALID",
        "request: is no message of this method",
    ),
    Bad("a method that there is not", lambda w: w.raw("SearchService/SearchEverything", b""), "UNIMPLEMENTED"),
    Bad("a service that there is not", lambda w: w.raw("AlertService/ListAlerts", b""), "UNIMPLEMENTED"),
]


@pytest.mark.parametrize("row", BAD, ids=lambda row: row.request)
def test_says_what_is_wrong_and_goes_on(row: Bad, world: World) -> None:
    found = outcome(world, row)
    assert (found.code, found.reason) == (row.code, row.reason)
    assert row.message in (None, found.message)
    assert world.answers()
    assert world.uploads == []
    assert world.running.server.call_workers.call_count == world.running.server.query_workers.call_count == 0


def test_half_a_file_is_no_upload_when_the_connection_breaks(world: World) -> None:
    with (
        Relay(world.running.address) as relay,
        grpc.insecure_channel(relay.address, CHANNEL_OPTIONS) as channel,
    ):
        assert cut_off(world, LibraryServiceStub(channel), lambda call: relay.close()).code == "UNAVAILABLE"
    assert world.answers()


@pytest.mark.parametrize(
    "content", [png(64, 64)[:60], png(8, 8, packed(64 << 20))], ids=["cut off", "with 64 MB too many in its data"]
)
def test_a_picture_that_still_decodes_is_one(content: bytes, world: World) -> None:
    assert outcome(world, Bad("", picture(content), "")).code == "OK"
    assert world.answers()


@pytest.mark.parametrize(
    ("send", "code", "reason"),
    [
        (lambda w: w.ingest("ftp://" + "%" * 8000), *REFUSED),
        (lambda w: w.get("GetVideo", "\N{GRINNING FACE}" * 512), "NOT_FOUND", "VIDEO_NOT_FOUND"),
        (lambda w: w.ingest("", metadata={f"{n:02}" + "%" * 62: 2000 * "a" for n in range(64)}), *INVALID),
    ],
    ids=["a URI", "an id", "twenty keys"],
)
def test_what_is_long_is_told_as_well(send: Callable[[World], Any], code: str, reason: str, world: World) -> None:
    found = outcome(world, Bad("", send, ""))
    assert (found.code, found.reason) == (code, reason)


def test_what_is_our_own_fault_is_in_the_log_and_nowhere_else(world: World, caplog: pytest.LogCaptureFixture) -> None:
    library = world.running.server.loaded.library
    assert library is not None
    with patch.object(library.engine, "candidates", side_effect=RuntimeError("/secret/path")):
        found = outcome(world, Bad("", lambda w: w.moments(words()), ""))
    assert found == Outcome(code="INTERNAL", reason="INTERNAL", message="internal error")
    (record,) = (each for each in caplog.records if each.exc_info)
    assert "/secret/path" in str(record.exc_info)
    assert world.answers()


def outcome(world: World, row: Bad) -> Outcome:
    """Send a bad request, and say what came of it; names that differ from run to run are left out."""
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


def markdown(world: World) -> Iterator[str]:
    """Render the table for people, with the answers of a real server."""
    yield "| Request | Code | Reason | Message |"
    yield "|---|---|---|---|"
    for row in BAD:
        found = outcome(world, row)
        cells = (row.request, found.code, found.reason and f"`{found.reason}`", found.message.replace("|", "\\|"))
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary, opened(Path(temporary)) as started:
        for line in markdown(started):
            print(line, flush=True)
