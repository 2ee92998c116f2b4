"""Who may call a real server, and what callers can see of what is not theirs: nothing, not even that it is there."""

import datetime
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RequestInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from kinodex.v1 import library_service_pb2 as library_pb2
from kinodex.v1 import moderation_service_pb2 as moderation_pb2
from kinodex.v1 import moment_pb2, stream_pb2
from kinodex.v1 import search_service_pb2 as search_pb2
from kinodex.v1 import server_service_pb2 as server_pb2
from kinodex.v1.library_service_pb2_grpc import LibraryServiceStub
from kinodex.v1.moderation_service_pb2_grpc import ModerationServiceStub
from kinodex.v1.search_service_pb2_grpc import SearchServiceStub
from kinodex.v1.server_service_pb2_grpc import ServerServiceStub
from serve.api.build import build_server
from serve.api.tokens import create_token, revoke_token
from serve.catalog.catalog import Catalog
from serve.config import ServerConfig
from serve.errors import SettingsError
from serve.indexing.job import NewJob
from serve.indexing.jobs import JobQueue
from serve.indexing.pipeline import index
from serve.settings import Settings
from support.fakes import SilentProgress, use_fakes, write_scenes
from support.running import Running, running
from support.sample_catalog import put
from support.sample_events import FIRE, put_events
from support.waiting import HANG_SECONDS

pytestmark = pytest.mark.slow

NO_WORKER = ["sh", "-c", "exec cat"]  # jobs stay as they are
NOW = datetime.datetime.now(datetime.UTC)
HOUR = datetime.timedelta(hours=1)
NOWHERE = "0123456789abcdef"  # no video; as long as the ids are, so that answers can be compared byte by byte
CHANNEL_OPTIONS = [("grpc.use_local_subchannel_pool", 1)]


# ------------------------------------------------------------------ the server and its callers
class Caller:
    """Calls a server with a token, or with whatever else stands where one belongs."""

    def __init__(self, channel: grpc.Channel, authorization: str | None) -> None:
        self.search, self.library = SearchServiceStub(channel), LibraryServiceStub(channel)
        self.server, self.moderation = ServerServiceStub(channel), ModerationServiceStub(channel)
        self.options: dict[str, Any] = {
            "metadata": [] if authorization is None else [("authorization", authorization)],
            "timeout": HANG_SECONDS,
        }

    def moments(self, text: str = "red", **fields: Any) -> Any:
        query = fields.pop("query", moment_pb2.Query(text=text))
        return self.search.SearchMoments(search_pb2.SearchMomentsRequest(query=query, **fields), **self.options)

    def videos(self, text: str = "red", **fields: Any) -> Any:
        query = fields.pop("query", moment_pb2.Query(text=text))
        return self.search.SearchVideos(search_pb2.SearchVideosRequest(query=query, **fields), **self.options)

    def curve(self, video_id: str, **fields: Any) -> Any:
        request = search_pb2.GetSimilarityCurveRequest(query=moment_pb2.Query(text="red"), video_id=video_id, **fields)
        return self.search.GetSimilarityCurve(request, **self.options)

    def serves(self, method: str, **fields: Any) -> Any:
        request = getattr(server_pb2, f"{method}Request")(**fields)
        return getattr(self.server, method)(request, **self.options)

    def listed(self, **fields: Any) -> Any:
        return self.library.ListVideos(library_pb2.ListVideosRequest(**fields), **self.options)

    def ingest(self, **fields: Any) -> Any:
        request = library_pb2.IngestVideoRequest(**{"uri": "https://example.org/film.mp4", **fields})
        return self.library.IngestVideo(request, **self.options)

    def upload(self, messages: Iterator[library_pb2.UploadVideoRequest]) -> Any:
        return self.library.UploadVideo(messages, **self.options)

    def get(self, method: str, video_id: str, **fields: Any) -> Any:
        request = getattr(library_pb2, f"{method}Request")(video_id=video_id, **fields)
        return getattr(self.library, method)(request, **self.options)

    def like(self, video_id: str, **fields: Any) -> Any:
        span = moment_pb2.TimeSpan(start_offset=Duration(seconds=0), end_offset=Duration(seconds=2))
        example = moment_pb2.MomentReference(video_id=video_id, span=span, **fields)
        return self.moments(query=moment_pb2.Query(like=example))


class House:
    """A server with two collections: a film in each, and the same film in both."""

    def __init__(self, directory: Path, started: Running, channel: grpc.Channel) -> None:
        self.directory, self.running, self.channel = directory, started, channel
        with Catalog.open_reader(directory) as catalog:
            ids = {(one.collection, Path(one.uri).stem): one.video_id for one in catalog.videos()}
        self.alpha_id, self.beta_id, self.twin_id = ids["alpha", "mine"], ids["beta", "theirs"], ids["beta", "twin"]
        assert ids["alpha", "twin"] == self.twin_id
        self.admin = self.caller("admin", None, can_write=True)
        self.reader = self.caller("reader", ["alpha"])
        self.writer = self.caller("writer", ["alpha"], can_write=True)

    @property
    def tokens(self) -> Path:
        return self.directory / "tokens.json"

    def token(
        self, name: str, collections: list[str] | None = None, *, can_write: bool = False, expire_time: Any = None
    ) -> str:
        return create_token(
            self.tokens, name, collections=collections, can_write=can_write, expire_time=expire_time, now=NOW
        )

    def caller(self, name: str, collections: list[str] | None, *, can_write: bool = False) -> Caller:
        return self.bearing(f"Bearer {self.token(name, collections, can_write=can_write)}")

    def bearing(self, authorization: str | None) -> Caller:
        return Caller(self.channel, authorization)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    settings, directory = Settings(workers=1), folder / "data"
    films = {
        "alpha": [write_scenes(folder / "mine.mp4", [("red", 3)], tones=[(440, 1.0)])],
        "beta": [write_scenes(folder / "theirs.mp4", [("red", 4)], tones=[(440, 2.0)])],
    }
    twin = write_scenes(folder / "twin.mp4", [("green", 3)])
    with pytest.MonkeyPatch.context() as patch:
        use_fakes(patch)
        for collection, own in films.items():
            inputs = [str(film) for film in (*own, twin)]
            list(index(inputs, directory, settings, collection=collection, progress=SilentProgress()))
        first = {"collections": None, "can_write": True, "expire_time": None, "now": NOW}
        create_token(directory / "tokens.json", "first", **first)  # type: ignore[arg-type]
        with (
            running(directory, settings, ingest_command=NO_WORKER) as started,
            grpc.insecure_channel(started.address, CHANNEL_OPTIONS) as channel,
        ):
            yield House(directory, started, channel)


# ------------------------------------------------------------------ what a refusal says
def refused(send: Callable[..., Any], *given: Any, **named: Any) -> Status:
    """Return how a call is refused, but for the call's own id."""
    with pytest.raises(grpc.RpcError) as caught:
        send(*given, **named)
    error: Any = caught.value
    status = rpc_status.from_call(error)
    assert status is not None, error
    for detail in list(status.details):
        if detail.Is(RequestInfo.DESCRIPTOR):
            status.details.remove(detail)
    return status


def code(send: Callable[..., Any], *given: Any, **named: Any) -> str:
    return grpc_code(refused(send, *given, **named))


def grpc_code(status: Status) -> str:
    return next(each.name for each in grpc.StatusCode if each.value[0] == status.code)


def assert_same(one: Status, other: Status, words: tuple[str, str]) -> None:
    """Check that two answers tell as much, but for a name, which is as long in both."""
    mine, theirs = (word.encode() for word in words)
    assert len(mine) == len(theirs)
    assert one.SerializeToString(deterministic=True).replace(mine, theirs) == other.SerializeToString(
        deterministic=True
    )


# ------------------------------------------------------------------ who gets in
METHODS = [
    (service, method)
    for module in (search_pb2, library_pb2, moderation_pb2, server_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


def raw_call(channel: grpc.Channel, service: Any, method: Any, request: bytes) -> Callable[..., list[bytes]]:
    """Return what sends a request, once, and gives all answers."""
    sent = "stream" if method.client_streaming else "unary"
    path, asked = f"/{service.full_name}/{method.name}", iter([request]) if method.client_streaming else request
    if method.server_streaming:
        return lambda **options: list(getattr(channel, f"{sent}_stream")(path)(asked, **options))
    return lambda **options: [getattr(channel, f"{sent}_unary")(path)(asked, **options)]


def reflect(house: House, authorization: str | None) -> list[str]:
    stub = reflection_pb2_grpc.ServerReflectionStub(house.channel)
    metadata = [] if authorization is None else [("authorization", authorization)]
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = stub.ServerReflectionInfo(iter([request]), metadata=metadata, timeout=HANG_SECONDS)
    return [service.name for service in answer.list_services_response.service]


def test_whoever_has_no_valid_token_learns_the_same_everywhere(house: House) -> None:
    good = house.token("good")
    expired = house.token("expired", expire_time=NOW - HOUR)
    revoked = house.token("revoked")
    assert house.bearing(f"Bearer {revoked}").listed().videos
    revoke_token(house.tokens, "revoked")
    kind, token_id, secret = good.split("_", 2)
    wrong = [
        None,
        "",
        good,
        f"Basic {good}",
        f"Bearer{good}",
        f"Bearer {good} ",
        f"Bearer {good}x",
        "Bearer",
        "Bearer kdx__",
        "Bearer " + "x" * 4000,
        f"Bearer {kind}_{'0' * 8}_{secret}",
        f"Bearer {kind}_{token_id}_{secret[::-1]}",
        f"Bearer {expired[:-1]}{'A' if expired[-1] != 'A' else 'B'}",
        f"Bearer {revoked}",
    ]
    answers = []
    for authorization in wrong:
        caller = house.bearing(authorization)
        for service, method in METHODS:
            answers.append(refused(raw_call(house.channel, service, method, b""), **caller.options))
        answers.append(refused(reflect, house, authorization))
    assert {grpc_code(answer) for answer in answers} == {"UNAUTHENTICATED"}
    assert len({answer.SerializeToString(deterministic=True) for answer in answers}) == 1
    assert house.bearing(f"bearer {good}").listed().videos
    assert "kinodex.v1.SearchService" in reflect(house, f"Bearer {good}")


def test_a_caller_learns_that_their_token_has_expired(house: House) -> None:
    status = refused(house.bearing(f"Bearer {house.token('over', expire_time=NOW - HOUR)}").listed)
    assert grpc_code(status) == "UNAUTHENTICATED"
    assert status.message.startswith("the token over expired on ")


def test_what_cannot_be_read_is_no_way_past_the_door(house: House) -> None:
    for service, method in METHODS:
        send = raw_call(house.channel, service, method, b"\xff\xff")
        assert code(send, timeout=HANG_SECONDS) == "UNAUTHENTICATED"


def test_health_needs_no_token(house: House) -> None:
    stub = health_pb2_grpc.HealthStub(house.channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=HANG_SECONDS)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_every_call_is_refused_while_the_tokens_cannot_be_used(house: House) -> None:
    whole = house.tokens.read_bytes()
    house.tokens.write_bytes(b"{}")
    assert code(house.admin.listed) == "UNAUTHENTICATED"
    house.tokens.write_bytes(whole)
    assert house.admin.listed().videos


# ------------------------------------------------------------------ what they see
def test_a_caller_who_names_no_collection_sees_only_their_own(house: House) -> None:
    for answers in (house.reader.moments().moments, house.reader.videos().videos, house.reader.listed().videos):
        assert {one.collection for one in answers} == {"alpha"}
    assert house.reader.moments().moments[0].video_id == house.alpha_id
    everything = house.admin.listed().videos
    assert {(one.collection, one.video_id) for one in everything} >= {
        ("alpha", house.alpha_id),
        ("alpha", house.twin_id),
        ("beta", house.beta_id),
        ("beta", house.twin_id),
    }
    assert {one.collection for one in house.admin.moments().moments} == {"alpha", "beta"}


def test_a_caller_lists_the_collections_of_their_token(house: House) -> None:
    def names(caller: Caller) -> list[str]:
        answer = caller.library.ListCollections(library_pb2.ListCollectionsRequest(), **caller.options)
        return [each.collection for each in answer.collections]

    assert names(house.reader) == ["alpha"]
    assert names(house.caller("new", ["gamma", "alpha"])) == ["alpha", "gamma"]
    assert names(house.admin) == ["alpha", "beta", "default"]
    first = house.admin.library.ListCollections(library_pb2.ListCollectionsRequest(page_size=1), **house.admin.options)
    request = library_pb2.ListCollectionsRequest(page_token=first.next_page_token)
    rest = house.admin.library.ListCollections(request, **house.admin.options)
    assert [each.collection for each in rest.collections] == ["beta", "default"]
    assert code(house.reader.library.ListCollections, request, **house.reader.options) == "INVALID_ARGUMENT"


BY_COLLECTION: dict[str, Callable[[House, str], Any]] = {
    "SearchMoments": lambda h, name: h.writer.moments(filter=moment_pb2.Filter(collections=[name])),
    "SearchVideos": lambda h, name: h.writer.videos(filter=moment_pb2.Filter(collections=["alpha", name])),
    "GetSimilarityCurve": lambda h, name: h.writer.curve(h.beta_id, collection=name),
    "ListVideos": lambda h, name: h.writer.listed(collection=name),
    "like": lambda h, name: h.writer.like(h.beta_id, collection=name),
    "ListStreams": lambda h, name: h.writer.serves("ListStreams", collection=name),
    "ListJobs": lambda h, name: h.writer.serves("ListJobs", collection=name),
    "GetJob": lambda h, name: h.writer.serves("GetJob", video_id=h.beta_id, collection=name),
    "CancelJob": lambda h, name: h.writer.serves("CancelJob", video_id=h.beta_id, collection=name),
    "GetVideo": lambda h, name: h.writer.get("GetVideo", h.beta_id, collection=name),
    "GetTranscript": lambda h, name: h.writer.get("GetTranscript", h.beta_id, collection=name),
    "GetChapters": lambda h, name: h.writer.get("GetChapters", h.beta_id, collection=name),
    "GetFrame": lambda h, name: h.writer.get("GetFrame", h.beta_id, collection=name),
    "GetStoryboard": lambda h, name: h.writer.get("GetStoryboard", h.beta_id, collection=name),
    "DeleteVideo": lambda h, name: h.writer.get("DeleteVideo", h.beta_id, collection=name),
    "NameSpeaker": lambda h, name: h.writer.get("NameSpeaker", h.beta_id, collection=name, speaker=1),
    "IngestVideo": lambda h, name: h.writer.ingest(collection=name),
    "UploadVideo": lambda h, name: h.writer.upload(upload_of(collection=name)),
}


def upload_of(**fields: Any) -> Iterator[library_pb2.UploadVideoRequest]:
    yield library_pb2.UploadVideoRequest(header=library_pb2.UploadHeader(filename="new.mp4", **fields))


@pytest.mark.parametrize("send", BY_COLLECTION.values(), ids=BY_COLLECTION)
def test_a_collection_of_others_is_refused_whether_it_is_there_or_not(
    house: House, send: Callable[[House, str], Any]
) -> None:
    there, not_there = refused(send, house, "beta"), refused(send, house, "nope")
    assert grpc_code(there) == "PERMISSION_DENIED"
    assert_same(there, not_there, ("beta", "nope"))


BY_VIDEO: dict[str, Callable[[House, str], Any]] = {
    "GetVideo": lambda h, name: h.writer.get("GetVideo", name),
    "GetVideo in alpha": lambda h, name: h.writer.get("GetVideo", name, collection="alpha"),
    "GetTranscript": lambda h, name: h.writer.get("GetTranscript", name),
    "GetChapters": lambda h, name: h.writer.get("GetChapters", name),
    "GetFrame": lambda h, name: h.writer.get("GetFrame", name),
    "GetStoryboard": lambda h, name: h.writer.get("GetStoryboard", name),
    "NameSpeaker": lambda h, name: h.writer.get("NameSpeaker", name, speaker=1),
    "DeleteVideo": lambda h, name: h.writer.get("DeleteVideo", name),
    "DeleteVideo in alpha": lambda h, name: h.writer.get("DeleteVideo", name, collection="alpha"),
    "GetSimilarityCurve": lambda h, name: h.writer.curve(name),
    "like": lambda h, name: h.writer.like(name),
    "like in alpha": lambda h, name: h.writer.like(name, collection="alpha"),
    "filter": lambda h, name: h.writer.moments(filter=moment_pb2.Filter(video_ids=[h.alpha_id, name])),
    "filter in alpha": lambda h, name: h.writer.videos(
        filter=moment_pb2.Filter(video_ids=[name], collections=["alpha"])
    ),
}


@pytest.mark.parametrize("send", BY_VIDEO.values(), ids=BY_VIDEO)
def test_a_video_of_others_is_as_one_that_is_not_there(house: House, send: Callable[[House, str], Any]) -> None:
    there, not_there = refused(send, house, house.beta_id), refused(send, house, NOWHERE)
    assert grpc_code(there) == "NOT_FOUND"
    assert_same(there, not_there, (house.beta_id, NOWHERE))


def test_the_beginning_of_an_id_does_not_find_videos_of_others(house: House) -> None:
    assert house.admin.get("GetVideo", house.beta_id[:6]).video.video_id == house.beta_id
    there = refused(house.reader.get, "GetVideo", house.beta_id[:6])
    assert_same(there, refused(house.reader.get, "GetVideo", NOWHERE[:6]), (house.beta_id[:6], NOWHERE[:6]))


def test_a_job_of_others_is_as_one_that_is_not_there(house: House) -> None:
    queued = house.admin.ingest(collection="beta", uri="https://example.org/secret.mp4").video
    for method in ("GetVideo", "DeleteVideo"):
        there = refused(house.writer.get, method, queued.video_id)
        not_there = refused(house.writer.get, method, NOWHERE)
        assert grpc_code(there) == "NOT_FOUND"
        assert_same(there, not_there, (queued.video_id, NOWHERE))
    for method in ("GetJob", "CancelJob"):
        there = refused(house.writer.serves, method, video_id=queued.video_id)
        not_there = refused(house.writer.serves, method, video_id=NOWHERE)
        assert grpc_code(there) == "NOT_FOUND"
        assert_same(there, not_there, (queued.video_id, NOWHERE))
    assert house.reader.serves("ListJobs").jobs == []
    assert [job.own for job in house.admin.serves("ListJobs").jobs] == [True]
    other = house.caller("colleague", ["beta"])
    assert [(job.video_id, job.own) for job in other.serves("ListJobs").jobs] == [(queued.video_id, False)]
    assert other.serves("ListJobs", own=True).jobs == []
    assert code(other.serves, "CancelJob", video_id=queued.video_id) == "PERMISSION_DENIED"
    assert queued.video_id not in [one.video_id for one in house.reader.listed().videos]
    house.admin.get("DeleteVideo", queued.video_id)


def test_no_answer_comes_sooner_because_others_asked_before(house: House) -> None:
    def work_of(caller: Caller) -> tuple[int, int]:
        server = house.running.server
        counts = [vectors.encoded_count for vectors in server.loaded.text_vectors().values()]
        before = (sum(counts), server.search_service.rankings.miss_count)
        caller.moments("a purple zebra")
        counts = [vectors.encoded_count for vectors in server.loaded.text_vectors().values()]
        return sum(counts) - before[0], server.search_service.rankings.miss_count - before[1]

    one, other = house.caller("one", ["alpha"]), house.caller("other", ["alpha"])
    first, second = work_of(one), work_of(other)
    assert first == second
    assert min(first) > 0
    assert work_of(one) == (0, 0)


@pytest.mark.parametrize("is_whole", [True, False])
def test_finding_no_video_takes_the_same_work_wherever_else_one_is(house: House, is_whole: bool) -> None:
    """The work is counted in steps of SQLite's virtual machine."""
    with Catalog.open_reader(house.directory) as catalog:
        steps = 0

        def work_of(video_id: str) -> int:
            nonlocal steps
            steps = 0
            assert catalog.videos_named(video_id, ("alpha",), is_whole=is_whole) == []
            assert JobQueue(catalog).jobs(collections=("alpha",), video_id=video_id) == []
            return steps

        def count() -> None:
            nonlocal steps
            steps += 1

        catalog.videos()  # opens the connection
        catalog._connection.set_progress_handler(count, 1)
        work_of(NOWHERE)  # SQLite prepares the statements
        assert work_of(NOWHERE) == work_of(house.beta_id) > 0


def test_an_id_in_two_collections_is_each_ones_own(house: House) -> None:
    assert house.reader.get("GetVideo", house.twin_id).video.collection == "alpha"
    assert house.reader.get("GetFrame", house.twin_id).jpeg
    assert house.reader.like(house.twin_id).moments is not None
    for name in ("alpha", "beta"):
        assert house.admin.get("GetVideo", house.twin_id, collection=name).video.collection == name
    for method in ("GetVideo", "GetTranscript", "GetChapters", "GetFrame", "GetStoryboard", "DeleteVideo"):
        assert code(house.admin.get, method, house.twin_id) == "INVALID_ARGUMENT"
    assert code(house.admin.like, house.twin_id) == code(house.admin.curve, house.twin_id) == "INVALID_ARGUMENT"
    assert house.reader.curve(house.twin_id).visual_points
    assert house.admin.like(house.twin_id, collection="beta").moments is not None


def test_an_id_in_two_collections_is_none_alone_while_it_is_being_indexed_in_one(house: House) -> None:
    queued = house.admin.ingest(collection="beta", video_id=house.alpha_id).video
    assert (queued.collection, queued.state) == ("beta", library_pb2.Video.STATE_PROCESSING)
    assert code(house.admin.get, "GetVideo", house.alpha_id) == "INVALID_ARGUMENT"
    assert house.reader.get("GetVideo", house.alpha_id).video.state == library_pb2.Video.STATE_READY
    house.admin.get("DeleteVideo", house.alpha_id, collection="beta")
    assert house.admin.get("GetVideo", house.alpha_id).video.collection == "alpha"


def test_deleting_takes_nothing_from_others(house: House) -> None:
    with Catalog.open_writer(house.directory) as catalog:
        for collection in ("alpha", "beta"):
            put(catalog, "shared", collection=collection)
    house.writer.get("DeleteVideo", "shared")
    assert code(house.writer.get, "GetVideo", "shared") == "NOT_FOUND"
    assert house.admin.get("GetVideo", "shared").video.collection == "beta"
    house.admin.get("DeleteVideo", "shared")


# ------------------------------------------------------------------ what they may change
def test_events_are_reviewed_by_who_may_write_and_found_by_who_may_read(house: House) -> None:
    with Catalog.open_writer(house.directory) as catalog:
        row = catalog.video(house.beta_id, "beta").row
        (event,) = put_events(catalog, row, 1, replace(FIRE, collection="beta", video_id=house.beta_id))

    def review(caller: Caller, event_id: str = event.event_id) -> Any:
        request = moderation_pb2.ReviewEventRequest(event_id=event_id, state=stream_pb2.EventReview.STATE_APPROVED)
        return caller.moderation.ReviewEvent(request, **caller.options)

    there, not_there = refused(review, house.writer), refused(review, house.writer, event.event_id[:-1] + "_")
    assert grpc_code(there) == "NOT_FOUND"
    assert_same(there, not_there, (event.event_id, event.event_id[:-1] + "_"))
    assert code(review, house.caller("watcher", ["beta"])) == "PERMISSION_DENIED"
    answer = review(house.caller("judge", ["beta"], can_write=True)).event.review
    assert (answer.reviewer, answer.state) == ("judge", stream_pb2.EventReview.STATE_APPROVED)


def test_a_token_for_reading_changes_nothing(house: House) -> None:
    for send in (
        lambda: house.reader.ingest(collection="alpha"),
        lambda: house.reader.upload(upload_of(collection="alpha")),
        lambda: house.reader.get("NameSpeaker", house.alpha_id, speaker=1),
        lambda: house.reader.get("DeleteVideo", house.alpha_id),
        lambda: house.reader.get("DeleteVideo", house.alpha_id, collection="alpha"),
    ):
        assert code(send) == "PERMISSION_DENIED"
    assert house.reader.get("GetVideo", house.alpha_id).video.state == library_pb2.Video.STATE_READY


@pytest.mark.parametrize("name", ["reader", "writer"])
def test_an_upload_without_the_right_to_it_is_refused_before_its_bytes_come(house: House, name: str) -> None:
    is_over = threading.Event()

    def messages() -> Iterator[library_pb2.UploadVideoRequest]:
        yield from upload_of(collection="alpha" if name == "reader" else "beta")
        is_over.wait(HANG_SECONDS)  # the bytes never come

    try:
        assert code(lambda: getattr(house, name).upload(messages())) == "PERMISSION_DENIED"
    finally:
        is_over.set()
    assert not (house.directory / "uploads").exists()


def test_request_ids_are_each_callers_own(house: House) -> None:
    for caller, uri in ((house.writer, "https://example.org/one"), (house.admin, "https://example.org/two")):
        video = caller.ingest(collection="alpha", uri=uri, request_id="same").video
        assert video.uri == uri
        assert caller.ingest(collection="alpha", uri=uri, request_id="same").video == video
    assert code(house.writer.ingest, collection="alpha", uri="https://example.org/two", request_id="same") == (
        "INVALID_ARGUMENT"
    )
    for video in house.admin.listed(collection="alpha").videos:
        if video.state == library_pb2.Video.STATE_PROCESSING:
            house.admin.get("DeleteVideo", video.video_id)


# ------------------------------------------------------------------ pages
def test_a_page_token_is_its_callers_own(house: House) -> None:
    pages = [
        (house.reader.listed(page_size=1).next_page_token, "listed"),
        (house.reader.moments(page_size=1).next_page_token, "moments"),
        (house.reader.videos(page_size=1).next_page_token, "videos"),
    ]
    for token, method in pages:
        assert token
        assert code(getattr(house.writer, method), page_token=token) == "INVALID_ARGUMENT"
        assert code(getattr(house.admin, method), page_token=token) == "INVALID_ARGUMENT"
        assert getattr(house.reader, method)(page_token=token)


@pytest.mark.parametrize("collections", [["alpha", "beta"], ["beta"], None], ids=["more", "others", "all"])
def test_a_page_token_does_not_outlive_what_its_callers_token_opened(
    house: House, collections: list[str] | None
) -> None:
    before = house.caller("guest", ["alpha"])
    pages = [(getattr(before, method)(page_size=1).next_page_token, method) for method in ("listed", "moments")]
    revoke_token(house.tokens, "guest")
    after = house.caller("guest", collections)
    for token, method in pages:
        assert code(getattr(after, method), page_token=token) == "INVALID_ARGUMENT"
    revoke_token(house.tokens, "guest")
    again = house.caller("guest", ["alpha"])
    for token, method in pages:
        assert getattr(again, method)(page_token=token)
    revoke_token(house.tokens, "guest")


def test_pages_of_a_list_repeat_nothing_and_miss_nothing_while_videos_come_and_go(house: House) -> None:
    lister = house.caller("lister", ["rolls"])
    jobs = JobQueue(house.running.server.editor)

    def add(*numbers: int) -> None:
        with Catalog.open_writer(house.directory) as catalog:
            for number in numbers:
                put(catalog, f"roll{number}", collection="rolls", uri=f"https://example.org/{number:02}")

    def queue(number: int) -> None:
        uri = f"https://example.org/{number:02}"
        jobs.submit(NewJob(collection="rolls", video_id=f"roll{number}", uri=uri, display_uri=uri))

    def delete(*numbers: int) -> None:
        for number in numbers:
            house.admin.get("DeleteVideo", f"roll{number}", collection="rolls")

    def page(token: str) -> tuple[list[int], str]:
        answer = lister.listed(page_size=2, page_token=token)
        return [int(one.video_id.removeprefix("roll")) for one in answer.videos], answer.next_page_token

    add(10, 20, 40, 60, 80)
    for number in (30, 50, 70):
        queue(number)
    first, token = page("")
    assert first == [10, 20]
    add(5, 15, 25)  # two before the place that was reached, one behind it
    delete(20, 40)  # the last one shown, and the next but one
    second, token = page(token)
    assert second == [25, 30]
    queue(30)  # it was shown already
    add(30, 50)  # indexed meanwhile
    delete(10)
    third, token = page(token)
    assert third == [50, 60]
    delete(60)
    fourth, token = page(token)
    assert (fourth, token) == ([70, 80], "")
    assert page("")[0] == [5, 15]


# ------------------------------------------------------------------ who reaches it
@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, trustme.CA]:
    folder, authority = tmp_path_factory.mktemp("certificates"), trustme.CA()
    leaf = authority.issue_cert("127.0.0.1")
    (folder / "chain.pem").write_bytes(b"".join(each.bytes() for each in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(str(folder / "key.pem"))
    (folder / "key.pem").chmod(0o600)
    authority.cert_pem.write_to_path(str(folder / "clients.pem"))
    return folder, authority


def tls(certificates: tuple[Path, trustme.CA], *, clients: bool) -> dict[str, str]:
    folder, _ = certificates
    config = {"tls_certificate": str(folder / "chain.pem"), "tls_key": str(folder / "key.pem")}
    return {**config, "tls_client_ca": str(folder / "clients.pem")} if clients else config


def test_a_server_with_tls_answers_nobody_who_does_not_show_a_certificate(
    tmp_path: Path, certificates: tuple[Path, trustme.CA], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fakes(monkeypatch)
    _, authority = certificates
    roots, leaf = authority.cert_pem.bytes(), authority.issue_cert("laptop")
    mine = (leaf.private_key_pem.bytes(), leaf.cert_chain_pems[0].bytes())
    with running(tmp_path, ingest_command=NO_WORKER, **tls(certificates, clients=True)) as started:

        def ask(credentials: grpc.ChannelCredentials | None) -> str:
            channel = (
                grpc.insecure_channel(started.address, CHANNEL_OPTIONS)
                if credentials is None
                else grpc.secure_channel(started.address, credentials, CHANNEL_OPTIONS)
            )
            with channel:
                try:
                    Caller(channel, None).listed()
                except grpc.RpcError as error:
                    return str(error.code().name)
                return "OK"

        assert ask(grpc.ssl_channel_credentials(roots, *mine)) == "OK"
        assert ask(grpc.ssl_channel_credentials(roots)) == "UNAVAILABLE"
        assert ask(None) == "UNAVAILABLE"


@pytest.mark.parametrize("protected_by", ["nothing", "tokens", "TLS"])
def test_half_a_protection_is_none_beyond_this_machine(
    tmp_path: Path, certificates: tuple[Path, trustme.CA], protected_by: str
) -> None:
    if protected_by == "tokens":
        create_token(tmp_path / "tokens.json", "laptop", collections=None, can_write=True, expire_time=None, now=NOW)
    before = sorted(tmp_path.iterdir())
    config = tls(certificates, clients=False) if protected_by == "TLS" else {}
    settings = Settings(server=ServerConfig(listen="0.0.0.0:0", **config))  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="can be reached from other machines"):
        build_server(tmp_path, settings)
    assert sorted(tmp_path.iterdir()) == before  # nothing was begun
