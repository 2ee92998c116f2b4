"""The audit log of a real server: who asked for what, and how it ended."""

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from kinodex.v1 import library_service_pb2 as library_pb2
from kinodex.v1 import moderation_service_pb2 as moderation_pb2
from kinodex.v1 import moment_pb2
from kinodex.v1 import search_service_pb2 as search_pb2
from kinodex.v1.library_service_pb2_grpc import LibraryServiceStub
from kinodex.v1.moderation_service_pb2_grpc import ModerationServiceStub
from kinodex.v1.search_service_pb2_grpc import SearchServiceStub
from serve.api.tokens import create_token
from serve.catalog.catalog import Catalog
from support.fakes import use_fakes
from support.running import Running, metrics_of, running
from support.waiting import HANG_SECONDS, wait_until

NO_WORKER = ["sh", "-c", "exec cat"]  # jobs stay as they are
NOW = datetime(2026, 5, 1, tzinfo=UTC)
ASKED = "kinodex.v1.SearchService/SearchMoments"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_fakes(monkeypatch)
    with Catalog.open_writer(tmp_path / "data"):
        return tmp_path / "data"


def metadata(token: str, request_id: str = "r") -> dict[str, Any]:
    return {
        "metadata": [("authorization", f"Bearer {token}"), ("x-request-id", request_id)],
        "timeout": HANG_SECONDS,
    }


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("ascii").splitlines()] if file.exists() else []


def upload(*blocks: bytes) -> Iterator[library_pb2.UploadVideoRequest]:
    yield library_pb2.UploadVideoRequest(header=library_pb2.UploadHeader(filename="a.mp4", collection="talks"))
    for block in blocks:
        yield library_pb2.UploadVideoRequest(data=block)


def ask(server: Running, text: str, options: dict[str, Any]) -> None:
    request = search_pb2.SearchMomentsRequest(query=moment_pb2.Query(text=text))
    with grpc.insecure_channel(server.address) as channel:
        SearchServiceStub(channel).SearchMoments(request, **options)


def test_every_call_is_a_line_with_its_caller_its_videos_and_its_outcome(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    made = {"collections": ["talks"], "can_write": True, "expire_time": None, "now": NOW}
    token = create_token(data / "tokens.json", "laptop", **made)  # type: ignore[arg-type]
    with (
        running(data, ingest_command=NO_WORKER, audit_log=str(file)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        library = LibraryServiceStub(channel)
        ask(server, "a secret question", metadata(token, "asked"))
        uploaded = library.UploadVideo(upload(b"bytes"), **metadata(token, "uploaded")).video
        uri = "https://user:hunter2@example.org/b.mp4"
        ingest = library_pb2.IngestVideoRequest(uri=uri, collection="talks")
        ingested = library.IngestVideo(ingest, **metadata(token, "ingested")).video
        library.DeleteVideo(library_pb2.DeleteVideoRequest(video_id=ingested.video_id), **metadata(token, "deleted"))
        refused = library_pb2.DeleteVideoRequest(video_id="v1", collection="films")
        with pytest.raises(grpc.RpcError):  # into the collection "default", which it does not name
            library.IngestVideo(library_pb2.IngestVideoRequest(uri=uri), **metadata(token, "not-mine"))
        for options in (metadata(token, "denied"), metadata("kdx_00000000_" + "A" * 43, "stranger")):
            with pytest.raises(grpc.RpcError):
                library.DeleteVideo(refused, **options)
        watch = ModerationServiceStub(channel).WatchEvents(
            moderation_pb2.WatchEventsRequest(), metadata=metadata(token, "watched")["metadata"]
        )
        next(watch)
        wait_until(lambda: [line for line in lines_of(file) if line["outcome"] == "BEGUN"])
        watch.cancel()
        wait_until(lambda: len(lines_of(file)) == 9)
    lines = {(line["request_id"], line["outcome"]): line for line in lines_of(file)}
    assert all(line["caller"] == "laptop" for (name, _), line in lines.items() if name != "stranger")
    assert all(line["peer"].startswith("ipv4:127.0.0.1:") for line in lines.values())
    assert lines["asked", "OK"]["method"] == ASKED
    assert "question" not in lines["asked", "OK"]
    about = {name: (line.get("collections"), line.get("ids"), line.get("uri")) for (name, _), line in lines.items()}
    assert about["uploaded"] == (["talks"], [uploaded.video_id], "upload:a.mp4")
    assert about["ingested"][:2] == (["talks"], [ingested.video_id])
    assert about["deleted"] == (["talks"], [ingested.video_id], None)
    assert about["not-mine"] == (["default"], None, "https://example.org/b.mp4")
    assert about["denied"] == (["films"], ["v1"], None)
    assert lines["denied", "PERMISSION_DENIED"]["reason"] == "PERMISSION_DENIED"
    assert "caller" not in lines["stranger", "UNAUTHENTICATED"]
    assert {outcome for name, outcome in lines if name == "watched"} == {"BEGUN", "CANCELLED"}
    content = file.read_text("ascii")
    for secret in ("hunter2", "a secret question", token):
        assert secret not in content


def test_questions_are_recorded_only_if_the_operator_asks(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    with running(data, audit_log=str(file), audit_questions=True) as server:
        ask(server, "a boat", {})
    [line] = lines_of(file)  # a stopped server has written all
    assert (line["method"], line["question"], line["outcome"]) == (ASKED, "a boat", "OK")
    assert "caller" not in line


@pytest.mark.slow
def test_calls_go_on_while_the_audit_log_cannot_be_written(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = data / "nowhere" / "audit.jsonl"
    with (
        caplog.at_level(logging.ERROR, "serve.observe.audit"),
        running(data, audit_log=str(file), metrics_listen="127.0.0.1:0") as server,
    ):
        assert caplog.messages == [
            f"audit log cannot be written, its acts are lost file={file} reason=No such file or directory"
        ]
        ask(server, "a boat", {})
        wait_until(lambda: metrics_of(server).get('kinodex_audit_acts_total{outcome="lost"}') == 1)
        file.parent.mkdir()
        ask(server, "a ship", {})
        wait_until(lambda: metrics_of(server).get('kinodex_audit_acts_total{outcome="written"}') == 1)
    assert len(lines_of(file)) == 1


def test_a_caller_without_a_token_is_known_by_the_certificate(data: Path, tmp_path: Path) -> None:
    ca, file = trustme.CA(), tmp_path / "audit.jsonl"
    own, client = ca.issue_cert("localhost"), ca.issue_cert("camera.example.org")
    own.cert_chain_pems[0].write_to_path(str(tmp_path / "chain.pem"))
    own.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    (tmp_path / "key.pem").chmod(0o600)
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    files = {
        "tls_certificate": str(tmp_path / "chain.pem"),
        "tls_key": str(tmp_path / "key.pem"),
        "tls_client_ca": str(tmp_path / "ca.pem"),
    }
    credentials = grpc.ssl_channel_credentials(
        ca.cert_pem.bytes(), client.private_key_pem.bytes(), client.cert_chain_pems[0].bytes()
    )
    with (
        running(data, audit_log=str(file), listen="localhost:0", **files) as server,
        grpc.secure_channel(f"localhost:{server.server.port}", credentials) as channel,
    ):
        LibraryServiceStub(channel).ListVideos(library_pb2.ListVideosRequest(), timeout=HANG_SECONDS)
    [line] = lines_of(file)
    assert line["caller"] == "certificate:camera.example.org"
