"""Connect and gRPC-Web, in JSON and protobuf, by connectrpc's client: calls, streams, uploads, deadlines, errors."""

import itertools
import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from connectrpc.client import ConnectClientSync
from connectrpc.code import Code
from connectrpc.compat import google_protobuf_binary_codec, google_protobuf_json_codec
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.protocol import ProtocolType
from google.protobuf.message_factory import GetMessageClass

from kinodex.v1 import library_service_pb2 as library
from kinodex.v1 import moderation_service_pb2 as moderation
from kinodex.v1 import search_service_pb2 as search
from serve.api.server import DESCRIPTORS
from serve.api.tokens import create_token, revoke_token
from support.fakes import use_fakes, write_scenes
from support.running import Running, running
from support.waiting import HANG_SECONDS, wait_until

pytestmark = pytest.mark.slow

RED = {"id": "red", "label": "Red", "shows": ["red"], "min_seconds": 1, "cooldown_seconds": 0}
METHODS = {f"{service.name}/{method.name}": method for service in DESCRIPTORS for method in service.methods}
PROTOCOLS = [
    (ProtocolType.CONNECT, google_protobuf_json_codec()),
    (ProtocolType.CONNECT, google_protobuf_binary_codec()),
    (ProtocolType.GRPC_WEB, google_protobuf_binary_codec()),
]


@pytest.fixture(scope="module")
def callers(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The data directory of a server with a policy and two callers, and their headers."""
    folder = tmp_path_factory.mktemp("callers") / "data"
    shutil.copytree(data, folder)
    (folder / "policies.yaml").write_text(json.dumps({"version": "1", "policies": [RED]}))
    headers = {}
    for name in ("writer", "leaver"):
        token = create_token(
            folder / "tokens.json", name, collections=None, can_write=True, expire_time=None, now=datetime.now(UTC)
        )
        headers[name] = {"authorization": f"Bearer {token}"}
    return {"folder": folder, **headers}


@pytest.fixture(scope="module")
def guarded(callers: dict[str, Any]) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        use_fakes(patch)
        with running(callers["folder"], http_listen="127.0.0.1:0") as started:
            yield started


@pytest.fixture(params=PROTOCOLS, ids=lambda pair: f"{pair[0].name.lower()}-{pair[1].name()}")
def client(request: pytest.FixtureRequest, guarded: Running) -> ConnectClientSync:
    protocol, codec = request.param
    return ConnectClientSync(guarded.url, protocol=protocol, codec=codec, timeout_ms=int(HANG_SECONDS * 1000))


def info(name: str) -> MethodInfo[Any, Any]:
    method = METHODS[name]
    return MethodInfo(
        name=method.name,
        service_name=method.containing_service.full_name,
        input=GetMessageClass(method.input_type),
        output=GetMessageClass(method.output_type),
        idempotency_level=IdempotencyLevel.UNKNOWN,
        stream_type=StreamType.UNARY,
    )


def test_every_method_of_the_protos_answers(guarded: Running, callers: dict[str, Any]) -> None:
    with httpx2.Client(base_url=guarded.url, headers=callers["writer"], timeout=HANG_SECONDS) as http:
        for name, method in METHODS.items():
            is_stream = method.client_streaming or method.server_streaming
            kind = "application/connect+json" if is_stream else "application/json"
            body = b"{" if is_stream else b'{"no_such_field": 1}'
            answer = http.post(f"/kinodex.v1.{name}", content=body, headers={"content-type": kind})
            assert answer.status_code == (200 if is_stream else 400), name
            assert b"no_such_field" in answer.content or is_stream


def test_a_question_is_answered(client: ConnectClientSync, callers: dict[str, Any]) -> None:
    request, method = search.SearchMomentsRequest(query={"text": "red"}), info("SearchService/SearchMoments")
    best, *_ = client.execute_unary(request=request, method=method, headers=callers["writer"]).moments
    assert (best.span.start_offset.ToSeconds(), best.span.end_offset.ToSeconds()) == (pytest.approx(10, abs=1), 18)


def test_an_error_says_what_grpc_says(client: ConnectClientSync, callers: dict[str, Any]) -> None:
    with pytest.raises(ConnectError) as caught:
        client.execute_unary(
            request=library.GetVideoRequest(video_id="none"),
            method=info("LibraryService/GetVideo"),
            headers=callers["writer"],
        )
    assert caught.value.code is Code.NOT_FOUND
    assert [detail.type_name for detail in caught.value.details] == ["google.rpc.ErrorInfo", "google.rpc.RequestInfo"]


def test_a_call_without_a_token_is_refused(client: ConnectClientSync) -> None:
    with pytest.raises(ConnectError) as caught:
        client.execute_unary(request=library.ListVideosRequest(), method=info("LibraryService/ListVideos"))
    assert caught.value.code is Code.UNAUTHENTICATED


def test_a_watch_without_a_token_is_refused(client: ConnectClientSync) -> None:
    with pytest.raises(ConnectError) as caught:
        list(
            client.execute_server_stream(
                request=moderation.WatchEventsRequest(), method=info("ModerationService/WatchEvents")
            )
        )
    assert caught.value.code is Code.UNAUTHENTICATED


def test_a_watch_streams_until_it_is_left(client: ConnectClientSync, guarded: Running, callers: dict[str, Any]) -> None:
    watches = guarded.server.interceptor.shares["watches"]
    responses = client.execute_server_stream(
        request=moderation.WatchEventsRequest(from_start=True),
        method=info("ModerationService/WatchEvents"),
        headers=callers["writer"],
    )
    states = itertools.islice((one.event.state for one in responses if one.HasField("event")), 2)
    assert len(list(states)) == 2
    assert watches.count == 1
    responses.close()  # type: ignore[attr-defined]
    wait_until(lambda: watches.count == 0)


def test_a_watch_ends_at_its_deadline(client: ConnectClientSync, guarded: Running, callers: dict[str, Any]) -> None:
    responses = client.execute_server_stream(
        request=moderation.WatchEventsRequest(),
        method=info("ModerationService/WatchEvents"),
        headers=callers["writer"],
        timeout_ms=300,
    )
    with pytest.raises(ConnectError) as caught:
        list(responses)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    wait_until(lambda: guarded.server.interceptor.shares["watches"].count == 0)


def uploads(film: Path, name: str) -> Iterator[library.UploadVideoRequest]:
    yield library.UploadVideoRequest(header=library.UploadHeader(filename=name, video_id=name))
    content = film.read_bytes()
    for begin in range(0, len(content), 4096):
        yield library.UploadVideoRequest(data=content[begin : begin + 4096])


def test_a_video_is_uploaded_and_deleted(client: ConnectClientSync, callers: dict[str, Any], tmp_path: Path) -> None:
    film, name = write_scenes(tmp_path / "new.mp4", [("green", 5)], salt=7), "new.mp4"

    def call(method: str, **fields: Any) -> Any:
        chosen = info(f"LibraryService/{method}")
        return client.execute_unary(
            request=chosen.input(video_id=name, **fields), method=chosen, headers=callers["writer"]
        )

    upload = info("LibraryService/UploadVideo")
    answer = client.execute_client_stream(request=uploads(film, name), method=upload, headers=callers["writer"])
    assert answer.video.video_id == call("GetVideo").video.video_id == name
    call("DeleteVideo")


def test_a_broken_upload_leaves_nothing(guarded: Running, callers: dict[str, Any]) -> None:
    client = ConnectClientSync(guarded.url, codec=google_protobuf_binary_codec())

    def broken() -> Iterator[library.UploadVideoRequest]:
        yield library.UploadVideoRequest(header=library.UploadHeader(filename="x.mp4", video_id="broken"))
        yield library.UploadVideoRequest(data=b"x" * 100)
        raise RuntimeError("the caller is gone")

    with pytest.raises((ConnectError, RuntimeError)):
        client.execute_client_stream(
            request=broken(), method=info("LibraryService/UploadVideo"), headers=callers["writer"]
        )
    wait_until(lambda: guarded.server.interceptor.shares["uploads"].count == 0)
    assert guarded.server.library_service.jobs.job("default", "broken") is None
    assert guarded.server.library_service.spool.used_bytes() == 0


def test_a_revoked_token_ends_a_watch_and_says_why(guarded: Running, callers: dict[str, Any]) -> None:
    client = ConnectClientSync(guarded.url, codec=google_protobuf_json_codec(), timeout_ms=int(HANG_SECONDS * 1000))
    responses = client.execute_server_stream(
        request=moderation.WatchEventsRequest(from_start=True),
        method=info("ModerationService/WatchEvents"),
        headers=callers["leaver"],
    )
    next(iter(responses))
    revoke_token(callers["folder"] / "tokens.json", "leaver")
    with pytest.raises(ConnectError) as caught:
        list(responses)
    assert caught.value.code is Code.UNAUTHENTICATED
