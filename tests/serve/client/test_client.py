"""The client against a real gRPC server: retries, deadlines, errors in words, paging, uploads, TLS."""

import hashlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from google.rpc import code_pb2

from kinodex.v1 import library_service_pb2 as library
from serve.client.channel import read_address
from serve.client.client import BLOCK_BYTES, Client
from serve.codec.messages import moments_response, ready_status, search_response, video_message
from serve.codec.outlines import outline_message
from serve.codec.overviews import collection_message
from serve.codec.timelines import storyboard_message
from serve.codec.utterances import speaker_message, utterance_message
from serve.config import ClientConfig
from serve.errors import RequestInvalid, ServerFailed, SettingsError
from serve.overview import CollectionSummary
from serve.timeline import VideoStoryboard
from serve.values import Answer, Filter, Query, Speaker, VideoState, VideoStatus
from support.fake_server import FakeServer, make_refusal, serving
from support.sample_answers import chapter, moment, utterance, video, video_answer
from support.waiting import HANG_SECONDS
from temporal.values import Outline, TimeSpan

ROOT = Path(__file__).resolve().parents[3]
PARIS = Query(text="Paris")
FOUND = Answer(moments=(moment(start_seconds=62.125),))
READY = ready_status(video())
WAITING = VideoStatus(video_id="v", collection="default", uri="u", state=VideoState.PROCESSING, progress=0.5)
GOT_READY = library.GetVideoResponse(video=video_message(READY))
GOT_WAITING = library.GetVideoResponse(video=video_message(WAITING))


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving({"SearchMoments": [moments_response(FOUND)], "GetVideo": [GOT_READY]}) as fake:
        yield fake


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.address, ClientConfig(token="secret", timeout_seconds=10.0)) as one:
        yield one


def refused(call: Any) -> ServerFailed:
    with pytest.raises(ServerFailed) as caught:
        call()
    assert "\n" not in str(caught.value)
    return caught.value


# ------------------------------------------------------------------ questions
def test_a_question_is_sent_and_its_answer_read(server: FakeServer, client: Client) -> None:
    query = Query(text="Paris", limit=3, filter=Filter(collections=("talks",)))
    assert client.moments(query) == FOUND
    [request] = server.requests["SearchMoments"]
    assert (request.query.text, request.page_size, list(request.filter.collections)) == ("Paris", 3, ["talks"])


def test_each_call_carries_the_token_and_an_id_of_its_own(server: FakeServer, client: Client) -> None:
    client.moments(PARIS)
    client.moments(PARIS)
    assert {headers["authorization"] for headers in server.headers} == {"Bearer secret"}
    ids = {headers["x-request-id"] for headers in server.headers}
    assert sorted(map(len, ids)) == [32, 32]
    with Client(server.address) as nobody:
        nobody.moments(PARIS)
    assert "authorization" not in server.headers[-1]


@pytest.mark.parametrize(("limit", "page_size", "tokens"), [(250, 100, ["", "1", "2"]), (150, 100, ["", "1"])])
def test_pages_are_asked_for_until_there_are_enough(
    server: FakeServer, client: Client, limit: int, page_size: int, tokens: list[str]
) -> None:
    answer = Answer(videos=(video_answer(moment()),) * 100, degraded_channels=("visual",))
    server.answers["SearchVideos"] = [search_response(answer, token) for token in ("1", "2", "3")]
    found = client.search(Query(text="Paris", limit=limit))
    assert (len(found.videos), found.degraded_channels) == (limit, ("visual",))
    requests = server.requests["SearchVideos"]
    assert [request.page_token for request in requests] == tokens
    assert {request.page_size for request in requests} == {page_size}


def test_the_last_page_ends_it(server: FakeServer, client: Client) -> None:
    server.answers["SearchMoments"] = [moments_response(FOUND, "1"), moments_response(FOUND)]
    assert len(client.moments(Query(text="x", limit=10)).moments) == 2


def test_a_picture_too_large_for_a_request_is_refused_here(server: FakeServer, client: Client) -> None:
    with pytest.raises(RequestInvalid, match="8 MiB"):
        client.search(Query(image=bytes((8 << 20) + 1)))
    assert not server.requests


# ------------------------------------------------------------------ what goes wrong
@pytest.mark.slow
def test_a_call_is_repeated_while_the_server_cannot_be_reached(server: FakeServer, client: Client) -> None:
    unavailable = grpc.StatusCode.UNAVAILABLE
    server.answers["SearchMoments"] = [unavailable, unavailable, moments_response(FOUND)]
    image = bytes(3 << 20)  # above gRPC's own buffer, which would not be sent again
    assert client.moments(Query(image=image)) == FOUND
    assert [request.query.image == image for request in server.requests["SearchMoments"]] == [True] * 3
    assert len({headers["x-request-id"] for headers in server.headers}) == 1


@pytest.mark.parametrize(
    "code",
    [code for code in grpc.StatusCode if code not in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)],
    ids=lambda code: code.name,
)
def test_no_other_failure_is_repeated(server: FakeServer, client: Client, code: grpc.StatusCode) -> None:
    server.answers["SearchMoments"] = [code]
    error = refused(lambda: client.moments(PARIS))
    assert (error.code, error.reason) == (code.name, "")
    assert len(server.requests["SearchMoments"]) == 1
    assert server.address in str(error)


def test_a_deadline_ends_a_call(server: FakeServer) -> None:
    is_over = threading.Event()

    def slowly(request: object) -> Any:
        is_over.wait(HANG_SECONDS)
        return moments_response(FOUND)

    server.answers["SearchMoments"] = [slowly]
    with Client(server.address, ClientConfig(timeout_seconds=0.1)) as client:
        error = refused(lambda: client.moments(PARIS))
    is_over.set()
    assert error.code == "DEADLINE_EXCEEDED"
    assert str(error) == f"the server at {server.address} did not answer in 0.1 s: see client.timeout_seconds"


def test_a_missing_server_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.client.channel.ATTEMPT_COUNT", 2)  # else three seconds
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with Client(address) as client:
            error = refused(lambda: client.moments(PARIS))
    assert error.code == "UNAVAILABLE"
    assert str(error) == f"cannot reach the server at {address}: nothing listens there"


@pytest.mark.parametrize(
    ("status", "message", "reason"),
    [
        (make_refusal(code_pb2.NOT_FOUND, "no video 99", "VIDEO_NOT_FOUND"), "no video 99", "VIDEO_NOT_FOUND"),
        (
            make_refusal(code_pb2.INVALID_ARGUMENT, "x", "REQUEST_INVALID", ("query", "is bad"), ("page_size", "too")),
            "query: is bad; page_size: too",
            "REQUEST_INVALID",
        ),
        (make_refusal(code_pb2.RESOURCE_EXHAUSTED, "a\x1b[31m\nb", "OVERLOADED"), "a�[31m b", "OVERLOADED"),
    ],
)
def test_errors_of_the_server_are_passed_on(
    server: FakeServer, client: Client, status: Any, message: str, reason: str
) -> None:
    server.answers["GetVideo"] = [status]
    error = refused(lambda: client.video("99"))
    assert (str(error), error.reason, error.code) == (message, reason, code_pb2.Code.Name(status.code))


def test_an_internal_error_says_whose_it_is(server: FakeServer, client: Client) -> None:
    server.answers["GetVideo"] = [make_refusal(code_pb2.INTERNAL, "internal error", "INTERNAL")]
    error = refused(lambda: client.video("99"))
    assert str(error) == f"the server at {server.address} failed: INTERNAL: internal error"
    assert error.reason == "INTERNAL"


def test_an_answer_of_a_newer_server_is_said(server: FakeServer, client: Client) -> None:
    answer = video_message(READY)
    answer.state = 9  # type: ignore[assignment]
    server.answers["GetVideo"] = [library.GetVideoResponse(video=answer)]
    assert "needs a newer kinodex" in str(refused(lambda: client.video("99")))


# ------------------------------------------------------------------ videos
def test_a_video_is_ingested_once_however_often_it_is_asked(server: FakeServer, client: Client) -> None:
    answer = library.IngestVideoResponse(video=video_message(WAITING))
    server.answers["IngestVideo"] = [grpc.StatusCode.UNAVAILABLE, answer]
    uri = "https://example.org/a.mp4"
    assert client.ingest(uri, collection="c", video_id="v", metadata={"k": "v"}, recorded_time=1.5) == WAITING
    first, second = server.requests["IngestVideo"]
    assert first == second
    assert (first.uri, first.collection, first.video_id, dict(first.metadata)) == (uri, "c", "v", {"k": "v"})
    assert first.start_time.ToNanoseconds() == 1_500_000_000
    client.ingest(uri, request_id="mine")
    client.ingest(uri)
    ids = [request.request_id for request in server.requests["IngestVideo"]]
    assert ids[2] == "mine"
    assert len(set(ids)) == 3


def test_an_upload_is_sent_again_whole_with_the_same_id(server: FakeServer, client: Client, tmp_path: Path) -> None:
    content = bytes(range(256)) * 2048 + b"end"  # two blocks and a bit
    (tmp_path / "a talk.mp4").write_bytes(content)
    answer = library.UploadVideoResponse(video=video_message(WAITING))
    server.answers["UploadVideo"] = [grpc.StatusCode.UNAVAILABLE, answer]
    sent: list[int] = []
    assert client.upload(tmp_path / "a talk.mp4", collection="c", metadata={"k": "v"}, on_sent=sent.append) == WAITING
    first, second = server.requests["UploadVideo"]
    assert first == second
    header, blocks = first[0].header, [message.data for message in first[1:]]
    assert (header.filename, header.size_bytes, header.collection) == ("a talk.mp4", len(content), "c")
    assert header.sha256 == hashlib.sha256(content).hexdigest()
    assert header.request_id
    assert b"".join(blocks) == content
    assert max(map(len, blocks)) == BLOCK_BYTES
    assert sent == [BLOCK_BYTES, 2 * BLOCK_BYTES, len(content)] * 2


def test_an_upload_that_is_refused_is_not_repeated(server: FakeServer, client: Client, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    server.answers["UploadVideo"] = [make_refusal(code_pb2.RESOURCE_EXHAUSTED, "no room", "SPOOL_FULL")]
    assert refused(lambda: client.upload(tmp_path / "a.mp4")).reason == "SPOOL_FULL"
    assert len(server.requests["UploadVideo"]) == 1


def test_a_file_that_cannot_be_read_is_the_files_error(
    server: FakeServer, client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(FileNotFoundError):
        client.upload(tmp_path / "absent.mp4")
    path = tmp_path / "a.mp4"
    path.write_bytes(b"x")

    def gone(sent_bytes: int) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    server.answers["UploadVideo"] = [library.UploadVideoResponse()]
    with caplog.at_level("CRITICAL", logger="grpc._channel"), pytest.raises(PermissionError):
        client.upload(path, on_sent=gone)


def test_videos_are_listed_page_by_page(server: FakeServer, client: Client) -> None:
    videos = [video_message(READY)] * 2
    server.answers["ListVideos"] = [
        library.ListVideosResponse(videos=videos, next_page_token="1"),
        library.ListVideosResponse(videos=videos),
    ]
    assert list(client.videos("talks")) == [READY] * 4
    assert [(r.collection, r.page_token) for r in server.requests["ListVideos"]] == [("talks", ""), ("talks", "1")]


def test_waiting_ends_when_the_video_is_ready(server: FakeServer, client: Client) -> None:
    server.answers["GetVideo"] = [GOT_WAITING, GOT_WAITING, GOT_READY]
    assert client.wait("v", poll_seconds=0.001) == READY
    assert len(server.requests["GetVideo"]) == 3


def test_waiting_ends_when_its_time_is_up(server: FakeServer, client: Client) -> None:
    server.answers["GetVideo"] = [GOT_WAITING]
    error = refused(lambda: client.wait("v", timeout_seconds=0.01, poll_seconds=0.005))
    assert error.code == "DEADLINE_EXCEEDED"
    assert str(error).startswith("video v is not indexed after 0.01 s")


def test_what_is_in_a_video_is_read(server: FakeServer, client: Client) -> None:
    said = replace(utterance("Hello there.", 1.0, 2.0), speaker=2, spoken_language="de")
    ana = Speaker(number=2, name="Ana", utterance_count=1, speech_seconds=1.0, start_seconds=1.0)
    server.answers["GetTranscript"] = [
        library.GetTranscriptResponse(utterances=[utterance_message(said)], speakers=[speaker_message(ana)])
    ]
    server.answers["NameSpeaker"] = [library.NameSpeakerResponse(speakers=[speaker_message(ana)])]
    outline = Outline(chapters=(chapter(0.0, 30.0, "hello"),))
    server.answers["GetChapters"] = [outline_message(outline)]
    server.answers["GetFrame"] = [lambda asked: library.GetFrameResponse(jpeg=b"jpeg", offset=asked.offset)]
    server.answers["DeleteVideo"] = [library.DeleteVideoResponse()]
    [heard] = client.transcript("v", "c")
    assert (heard.text, heard.words, heard.speaker, heard.spoken_language) == (said.text, said.words, 2, "de")
    assert client.speakers("v", "c") == client.name_speaker("v", 2, "Ana", "c") == [ana]
    assert (server.requests["NameSpeaker"][0].speaker, server.requests["NameSpeaker"][0].name) == (2, "Ana")
    assert client.outline("v", "c", highlight_count=3).chapters[0].title == "hello"
    assert server.requests["GetChapters"][0].highlight_count == 3
    assert client.frame("v", 1.25, "c") == (1.25, b"jpeg")
    client.delete("v", "c")
    for name in ("GetTranscript", "NameSpeaker", "GetChapters", "GetFrame", "DeleteVideo"):
        assert {(r.video_id, r.collection) for r in server.requests[name]} == {("v", "c")}
    assert server.requests["DeleteVideo"][0].request_id


def test_storyboards_and_collections_are_read(server: FakeServer, client: Client) -> None:
    board = VideoStoryboard(
        span=TimeSpan(start_seconds=1.5, end_seconds=60.0), picture_seconds=(1.0, 30.25), shot_seconds=(29.5,)
    )
    server.answers["GetStoryboard"] = [storyboard_message(board)]
    assert client.storyboard("v", board.span, 2, "c") == board
    [asked] = server.requests["GetStoryboard"]
    assert (asked.video_id, asked.collection, asked.picture_count) == ("v", "c", 2)
    assert asked.span == storyboard_message(board).span
    one, other = (
        CollectionSummary(collection=name, video_count=7, live_count=1, processing_count=2, failed_count=3,
                          duration_seconds=60.5, live_size_bytes=9)
        for name in ("a", "b")
    )  # fmt: skip
    server.answers["ListCollections"] = [
        library.ListCollectionsResponse(collections=[collection_message(one)], next_page_token="more"),
        library.ListCollectionsResponse(collections=[collection_message(other)]),
    ]
    assert list(client.collections()) == [one, other]
    assert [each.page_token for each in server.requests["ListCollections"]] == ["", "more"]


# ------------------------------------------------------------------ where the server is
@pytest.mark.parametrize(
    ("text", "tls", "has_tls"),
    [
        ("localhost:1", "auto", False),
        ("LOCALHOST:1", "auto", False),
        ("127.3.2.1:1", "auto", False),
        ("[::1]:1", "auto", False),
        ("unix:/run/kinodex.sock", "auto", False),
        ("localhost:1", "on", True),
        ("example.org:1", "auto", True),
        ("example.org:1", "off", False),
        ("10.0.0.1:1", "auto", True),
        ("[2001:db8::1]:1", "auto", True),
        ("localhost.example.org:1", "auto", True),
        ("grpc://example.org:1", "auto", False),
        ("grpcs://localhost:1/", "auto", True),
        ("grpcs://localhost:1", "on", True),
    ],
)
def test_an_address_says_whether_tls_is_spoken(text: str, tls: Any, has_tls: bool) -> None:
    assert read_address(text, ClientConfig(tls=tls)).has_tls is has_tls


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.org",
        "example.org:",
        "example.org:0",
        "example.org:65536",
        "example.org:x",
        ":8970",
        "http://example.org:1",
        "grpc://example.org:1/path",
        "user@example.org:1",
        "::1:8970",
        "a b:1",
        "unix:",
        "example.org:1\n",
    ],
)
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(SettingsError, match="HOST:PORT"):
        Client(text)


@pytest.mark.parametrize(("text", "tls"), [("grpc://example.org:1", "on"), ("grpcs://localhost:1", "off")])
def test_an_address_that_contradicts_the_setting_is_refused(text: str, tls: Any) -> None:
    with pytest.raises(SettingsError, match=r"client\.tls"):
        Client(text, ClientConfig(tls=tls))


@pytest.mark.parametrize("text", ["grpc://example.org:1", "grpc://10.0.0.1:1", "grpc://localhost.example.org:1"])
def test_a_token_is_never_sent_in_plain_text_to_another_machine(text: str) -> None:
    with pytest.raises(SettingsError, match="token is not sent"):
        Client(text, ClientConfig(token="secret"))
    Client(text).close()


def test_settings_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"client\.token"):
        Client("localhost:1", ClientConfig(token="a\nb"))
    with pytest.raises(SettingsError, match=r"client\.tls_ca .*absent\.pem: No such file"):
        Client("example.org:1", ClientConfig(tls_ca=str(tmp_path / "absent.pem")))


# ------------------------------------------------------------------ TLS
@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def written(folder: Path, name: str, blob: trustme.Blob) -> str:
    blob.write_to_path(str(folder / name))
    return str(folder / name)


def credentials(authority: trustme.CA, *, ask_client: bool = False) -> grpc.ServerCredentials:
    shown = authority.issue_cert("127.0.0.1")
    return grpc.ssl_server_credentials(
        [(shown.private_key_pem.bytes(), b"".join(blob.bytes() for blob in shown.cert_chain_pems))],
        authority.cert_pem.bytes() if ask_client else None,
        ask_client,
    )


def test_a_trusted_certificate_is_taken_and_carries_the_token(authority: trustme.CA, tmp_path: Path) -> None:
    config = ClientConfig(token="secret", tls_ca=written(tmp_path, "ca.pem", authority.cert_pem))
    with serving({"GetVideo": [GOT_READY]}, credentials(authority)) as server:
        with Client(f"grpcs://{server.address}", config) as client:
            assert client.video("v") == READY
        assert server.headers[0]["authorization"] == "Bearer secret"


def test_a_certificate_that_is_not_trusted_is_refused(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.client.channel.ATTEMPT_COUNT", 2)
    other = ClientConfig(tls_ca=written(tmp_path, "ca.pem", trustme.CA().cert_pem))
    with serving({"GetVideo": [GOT_READY]}, credentials(authority)) as server:
        for config in (other, ClientConfig()):
            with Client(f"grpcs://{server.address}", config) as client:
                error = refused(lambda client=client: client.video("v"))
            assert str(error).endswith("its certificate is not trusted (see client.tls_ca)")
        assert not server.requests


def test_a_certificate_of_our_own_is_shown_where_it_is_asked_for(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.client.channel.ATTEMPT_COUNT", 2)
    ca, ours = written(tmp_path, "ca.pem", authority.cert_pem), authority.issue_cert("client.example.org")
    shown = ClientConfig(
        tls_ca=ca,
        tls_certificate=written(tmp_path, "ours.pem", ours.cert_chain_pems[0]),
        tls_key=written(tmp_path, "ours.key", ours.private_key_pem),
    )
    with serving({"GetVideo": [GOT_READY]}, credentials(authority, ask_client=True)) as server:
        with Client(f"grpcs://{server.address}", shown) as client:
            assert client.video("v") == READY
        with Client(f"grpcs://{server.address}", ClientConfig(tls_ca=ca)) as client:
            assert refused(lambda: client.video("v")).code == "UNAVAILABLE"
