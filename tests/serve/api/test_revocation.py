"""A token that is revoked, expired or narrowed ends the calls that began with it."""

import datetime
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kinodex.v1 import library_service_pb2 as library_pb2
from kinodex.v1 import moderation_service_pb2 as moderation_pb2
from kinodex.v1 import moment_pb2
from kinodex.v1 import search_service_pb2 as search_pb2
from kinodex.v1.library_service_pb2_grpc import LibraryServiceStub
from kinodex.v1.moderation_service_pb2_grpc import ModerationServiceStub
from kinodex.v1.search_service_pb2_grpc import SearchServiceStub
from serve.api.tokens import create_token, revoke_token
from support.callers import NOW, bearer
from support.fakes import use_fakes
from support.running import Running, read_refusal, running
from support.waiting import HANG_SECONDS, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    use_fakes(monkeypatch)
    tokens = tmp_path / "data" / "tokens.json"
    create_token(tokens, "boss", collections=None, can_write=True, expire_time=None, now=NOW)
    with running(tmp_path / "data", ingest_command=["sh", "-c", "exec cat"]) as started:
        yield started


def begin(kind: str, channel: grpc.Channel, metadata: Any, is_over: threading.Event) -> Any:
    """Begin a call that lasts; return it once it is under way."""

    def messages() -> Iterator[library_pb2.UploadVideoRequest]:
        yield library_pb2.UploadVideoRequest(header=library_pb2.UploadHeader(filename="film.mp4"))
        while not is_over.wait(0.05):
            yield library_pb2.UploadVideoRequest(data=b"more" * 1000)

    if kind == "upload":
        return LibraryServiceStub(channel).UploadVideo.future(messages(), metadata=metadata, timeout=HANG_SECONDS)
    if kind == "moments":
        request = search_pb2.WatchMomentsRequest(query=moment_pb2.Query(text="red"))
        call = SearchServiceStub(channel).WatchMoments(request, metadata=metadata, timeout=HANG_SECONDS)
    elif kind == "events":
        watch = ModerationServiceStub(channel).WatchEvents
        call = watch(moderation_pb2.WatchEventsRequest(), metadata=metadata, timeout=HANG_SECONDS)
    else:
        watch = health_pb2_grpc.HealthStub(channel).Watch
        call = watch(health_pb2.HealthCheckRequest(), metadata=metadata, timeout=HANG_SECONDS)
    next(call)
    return call


@pytest.mark.parametrize("kind", ["upload", "moments", "events", "health"])
def test_what_is_under_way_ends_when_its_token_is_revoked(server: Running, kind: str) -> None:
    tokens, is_over = server.server.directory / "tokens.json", threading.Event()
    spool = server.server.library_service.spool
    mine, others = bearer(server, "guest"), bearer(server, "other")
    with grpc.insecure_channel(server.address) as channel:
        call = begin(kind, channel, mine, is_over)
        stays = begin("moments", channel, others, is_over)
        if kind == "upload":
            wait_until(lambda: spool.used_bytes() > 0)
        revoke_token(tokens, "guest")
        assert call.code() is grpc.StatusCode.UNAUTHENTICATED  # waits for the end
        assert read_refusal(call)[1] == "UNAUTHENTICATED"
        assert stays.is_active()
        stays.cancel()
        is_over.set()
    wait_until(lambda: spool.used_bytes() == 0 and not any(s.count for s in server.server.interceptor.shares.values()))


def test_a_watch_ends_when_its_token_expires(server: Running) -> None:
    tokens = server.server.directory / "tokens.json"
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=2)
    token = create_token(tokens, "brief", collections=None, can_write=False, expire_time=soon, now=NOW)
    with grpc.insecure_channel(server.address) as channel:
        call = begin("moments", channel, (("authorization", f"Bearer {token}"),), threading.Event())
        assert call.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_watch_ends_when_its_token_gets_other_rights(server: Running) -> None:
    tokens, mine = server.server.directory / "tokens.json", bearer(server, "guest")
    with grpc.insecure_channel(server.address) as channel:
        call = begin("events", channel, mine, threading.Event())
        document = json.loads(tokens.read_text())
        document["tokens"][-1]["collections"] = ["alpha"]
        time.sleep(0.01)  # else a coarse clock may give the file the same time
        tokens.write_text(json.dumps(document))
        assert call.code() is grpc.StatusCode.PERMISSION_DENIED
