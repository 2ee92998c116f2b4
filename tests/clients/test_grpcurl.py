"""grpcurl, which knows of us only what the server's reflection tells it."""

import base64
import hashlib
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from kinodex.v1 import library_service_pb2, moderation_service_pb2, moment_pb2, search_service_pb2, server_service_pb2
from support.fakes import write_scenes
from support.toolchain import Reached
from support.waiting import HANG_SECONDS, wait_until

pytestmark = pytest.mark.clients

BLOCK_BYTES = 4096  # of an upload: small, so that there are some messages
STATUS_EXIT = 64  # grpcurl's exit status is this and the gRPC code
SERVICES = (
    search_service_pb2.DESCRIPTOR.services_by_name["SearchService"],
    library_service_pb2.DESCRIPTOR.services_by_name["LibraryService"],
    moderation_service_pb2.DESCRIPTOR.services_by_name["ModerationService"],
    server_service_pb2.DESCRIPTOR.services_by_name["ServerService"],
)

Curl = Callable[..., subprocess.CompletedProcess[str]]


def as_in_protos(answer: Any) -> Any:
    """Name fields as the protos do: grpcurl writes videoId or video_id, as the descriptors have JSON names or not."""
    if isinstance(answer, list):
        return [as_in_protos(each) for each in answer]
    if isinstance(answer, dict):
        return {re.sub(r"[A-Z]", lambda one: f"_{one[0].lower()}", key): as_in_protos(answer[key]) for key in answer}
    return answer


def protection(there: Reached) -> list[str]:
    return ["-plaintext"] if there.ca is None else ["-cacert", str(there.ca)]


@pytest.fixture(scope="module")
def curl(grpcurl: Path) -> Curl:
    def run(
        there: Reached, *words: str, given: str = "", options: tuple[str, ...] = (), token: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        token = there.token if token is None else token
        headers = ["-H", f"authorization: Bearer {token}"] if token else []
        data = ["-d", "@"] if given else []
        command = [str(grpcurl), *(options or protection(there)), *headers, *data, there.address, *words]
        return subprocess.run(command, input=given, capture_output=True, text=True, timeout=HANG_SECONDS, check=False)

    return run


@pytest.fixture
def call(curl: Curl) -> Callable[..., dict[str, Any]]:
    """Call a method by its name, with JSON, and read JSON."""

    def run(there: Reached, method: str, *messages: dict[str, Any]) -> dict[str, Any]:
        done = curl(there, f"kinodex.v1.{method}", given="\n".join(map(json.dumps, messages)))
        assert (done.returncode, done.stderr) == (0, "")
        answer: dict[str, Any] = as_in_protos(json.loads(done.stdout))
        return answer

    return run


# ------------------------------------------------------------------ reflection
def test_lists_the_services_and_their_methods(curl: Curl, server: Reached) -> None:
    assert curl(server, "list").stdout.split() == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "kinodex.v1.LibraryService",
        "kinodex.v1.ModerationService",
        "kinodex.v1.SearchService",
        "kinodex.v1.ServerService",
    ]
    for service in SERVICES:
        methods = sorted(f"{service.full_name}.{method.name}" for method in service.methods)
        assert curl(server, "list", service.full_name).stdout.split() == methods


def test_describes_services_and_messages(curl: Curl, server: Reached) -> None:
    for service in SERVICES:
        described = curl(server, "describe", service.full_name).stdout
        assert f"service {service.name} {{" in described
        for method in service.methods:
            assert f"rpc {method.name} (" in described
            assert f"{method.full_name} is a method" in curl(server, "describe", method.full_name).stdout
    described = curl(server, "describe", "kinodex.v1.Query").stdout
    for field in moment_pb2.Query.DESCRIPTOR.fields:
        assert f" {field.name} = {field.number};" in described
    assert "stream .kinodex.v1.UploadVideoRequest" in curl(server, "describe", "kinodex.v1.LibraryService").stdout


# ------------------------------------------------------------------ calls
def test_calls_every_method(call: Callable[..., dict[str, Any]], curl: Curl, server: Reached, tmp_path: Path) -> None:
    called: set[str] = set()

    def ask(method: str, *messages: dict[str, Any]) -> dict[str, Any]:
        called.add(method)
        return call(server, method, *messages)

    def indexed(video: dict[str, Any]) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            found = ask("LibraryService/GetVideo", {"video_id": video["video_id"]})["video"]
            return None if found["state"] == "STATE_PROCESSING" else found

        return wait_until(look)

    there = ask("LibraryService/ListVideos", {"collection": "default", "page_size": 2})
    assert len(there["videos"]) == 2
    assert there["next_page_token"]

    film = write_scenes(tmp_path / "new.mp4", [("blue", 4), ("red", 5)], tones=[(440, 2.0)], salt=7)
    content = film.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    header = {
        "filename": "new.mp4",
        "sizeBytes": str(len(content)),
        "sha256": sha256,
        "metadata": {"camera": "7"},
        "startTime": "2026-11-23T10:00:00Z",
    }
    blocks = [content[at : at + BLOCK_BYTES] for at in range(0, len(content), BLOCK_BYTES)]
    assert len(blocks) > 2
    uploaded = ask(
        "LibraryService/UploadVideo",
        {"header": header},
        *({"data": base64.b64encode(block).decode()} for block in blocks),
    )["video"]
    assert (uploaded["state"], uploaded["uri"]) == ("STATE_PROCESSING", "upload:new.mp4")
    video = indexed(uploaded)
    assert (video["state"], video["content_sha256"]) == ("STATE_READY", sha256)
    assert (video["utterance_count"], video["start_time"]) == ("1", "2026-11-23T10:00:00Z")  # JSON's int64 is a string
    name = video["video_id"]

    question = {"query": {"text": "red", "channel": "CHANNEL_VISUAL"}, "filter": {"video_ids": [name]}}
    found = ask("SearchService/SearchVideos", question)["videos"]
    assert [(one["video_id"], one["verdict"]) for one in found] == [(name, "VERDICT_MATCH")]
    filtered = {**question["filter"], "metadata": [{"key": "camera", "range": {"min": 6.5}}], "minDuration": "2.5s"}
    moment = ask("SearchService/SearchMoments", {**question, "filter": filtered, "page_size": 1})["moments"][0]
    assert float(moment["span"]["start_offset"].removesuffix("s")) == pytest.approx(4, abs=1)
    assert moment["start_time"].startswith("2026-11-23T10:00:0")
    like = {"video_id": name, "span": moment["span"]}  # an answer's span is a question's, as it is
    assert ask("SearchService/SearchMoments", {"query": {"like": like}})["moments"]

    curve = ask("SearchService/GetSimilarityCurve", {"query": question["query"], "video_id": name, "point_count": 3})
    assert len(curve["visual_points"]) == 3
    assert [each["video_id"] for each in curve["moments"]] == [name]

    (utterance,) = ask("LibraryService/GetTranscript", {"video_id": name})["utterances"]
    assert [word["text"] for word in utterance["words"]] == ["Paris", "is", "lovely."]
    naming = json.dumps({"video_id": name, "speaker": 1, "name": "Ana"})
    unnamed = curl(server, "kinodex.v1.LibraryService/NameSpeaker", given=naming)  # speakers are off here
    assert (unnamed.returncode, '"reason": "SPEAKER_NOT_FOUND"' in unnamed.stderr) == (STATUS_EXIT + 5, True)
    called.add("LibraryService/NameSpeaker")
    outline = ask("LibraryService/GetChapters", {"video_id": name, "highlight_count": 1})
    assert float(outline["chapters"][-1]["span"]["end_offset"].removesuffix("s")) == pytest.approx(9, abs=1)
    assert len(outline["highlights"]) == 1
    frame = ask("LibraryService/GetFrame", {"video_id": name, "offset": "5.25s"})
    assert base64.b64decode(frame["jpeg"]).startswith(b"\xff\xd8\xff")

    board = ask("LibraryService/GetStoryboard", {"video_id": name, "picture_count": 3})
    assert board["picture_offsets"] == ["0s", "3s", "6s"]
    assert [float(cut.removesuffix("s")) for cut in board["shot_offsets"]] == [pytest.approx(4, abs=1)]
    collections = ask("LibraryService/ListCollections", {})["collections"]
    assert [each["collection"] for each in collections] == ["default"]

    assert ask("LibraryService/DeleteVideo", {"video_id": name}) == {}

    no_film = {"data": base64.b64encode(b"not a video at all").decode()}
    failed = indexed(ask("LibraryService/UploadVideo", {"header": {"filename": "no.mp4"}}, no_film)["video"])
    assert (failed["state"], failed["failure"]["reason"]) == ("STATE_FAILED", "DECODE_ERROR")
    ask("LibraryService/DeleteVideo", {"video_id": failed["video_id"]})

    assert "streams" not in ask("ServerService/ListStreams", {"include_ended": True})  # no Kafka here
    gone = {"uri": "https://example.invalid/no.mp4", "video_id": "gone"}
    ask("LibraryService/IngestVideo", gone)
    job = ask("ServerService/GetJob", {"video_id": "gone"})["job"]
    assert (job["uri"], job["own"]) == (gone["uri"], True)
    assert [each["video_id"] for each in ask("ServerService/ListJobs", {"own": True})["jobs"]] == ["gone"]
    assert ask("ServerService/CancelJob", {"video_id": "gone"}) == {}

    info = ask("ServerService/GetServerInfo", {})
    assert {each["kind"] for each in info["encoders"]} == {"visual", "speech", "sentence"}
    assert "decoding" in [each["name"] for each in info["checks"]]

    film = write_scenes(server.films / "local.mp4", [("yellow", 3)], salt=8)
    try:
        ingested = ask("LibraryService/IngestVideo", {"uri": film.as_uri(), "video_id": "local"})["video"]
        assert (ingested["video_id"], ingested["state"]) == ("local", "STATE_PROCESSING")
        assert indexed(ingested)["state"] == "STATE_READY"
        ask("LibraryService/DeleteVideo", {"video_id": "local", "request_id": "once"})
    finally:
        film.unlink()

    assert "policies" not in ask("ModerationService/ListPolicies", {})  # none hold here
    unknown = curl(
        server,
        "kinodex.v1.ModerationService/ReviewEvent",
        given='{"event_id": "none", "state": "STATE_APPROVED"}',
        options=("-plaintext",),
    )
    assert unknown.returncode == STATUS_EXIT + 5
    assert "EVENT_NOT_FOUND" in unknown.stderr
    called.add("ModerationService/ReviewEvent")
    assert "events" not in ask("ModerationService/ListEvents", {"filter": {"labels": ["Fire"]}})
    for method, given, answer in (
        ("ModerationService/WatchEvents", "", ["resumeToken"]),
        ("SearchService/WatchMoments", '{"query": {"text": "red"}}', []),
    ):
        options = ("-plaintext", "-max-time", "2")
        watched = curl(server, f"kinodex.v1.{method}", given=given, options=options)
        assert watched.returncode == STATUS_EXIT + 4  # it goes on until the caller has enough
        assert list(json.loads(watched.stdout)) == answer
        called.add(method)

    assert called == {f"{service.name}/{method.name}" for service in SERVICES for method in service.methods}


def test_errors_are_printed_with_their_details(curl: Curl, server: Reached) -> None:
    done = curl(server, "kinodex.v1.LibraryService/GetVideo", given='{"video_id": "nowhere"}')
    assert done.returncode == STATUS_EXIT + 5
    for said in ("Code: NotFound", '"reason": "VIDEO_NOT_FOUND"', '"domain": "kinodex"', '"video_id": "nowhere"'):
        assert said in done.stderr
    done = curl(server, "kinodex.v1.SearchService/SearchMoments", given='{"min_confidence": 2}')
    assert done.returncode == STATUS_EXIT + 3
    assert "google.rpc.BadRequest" in done.stderr
    assert "min_confidence" in done.stderr


def test_without_a_token_it_learns_nothing(curl: Curl, server: Reached) -> None:
    for words in (("list",), ("kinodex.v1.LibraryService/ListVideos",)):
        done = curl(server, *words, token="", given="{}" if len(words[0]) > 4 else "")
        assert done.returncode != 0
        assert "Unauthenticated" in done.stderr
        assert done.stdout == ""


@pytest.mark.parametrize("service", ["", *(service.full_name for service in SERVICES)])
def test_the_health_check_says_that_it_serves(service: str, curl: Curl, server: Reached) -> None:
    done = curl(server, "grpc.health.v1.Health/Check", given=json.dumps({"service": service}))
    assert json.loads(done.stdout) == {"status": "SERVING"}


# ------------------------------------------------------------------ TLS
def test_lists_and_asks_over_tls(call: Callable[..., dict[str, Any]], curl: Curl, tls_server: Reached) -> None:
    assert "kinodex.v1.SearchService" in curl(tls_server, "list").stdout
    question = {"query": {"text": "when does the speaker mention London?"}}
    assert call(tls_server, "SearchService/SearchMoments", question)["moments"][0]["verdict"] == "VERDICT_MATCH"


def test_refuses_a_server_of_another_authority_and_plain_text(curl: Curl, tls_server: Reached, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "stranger.pem"))
    for options in (("-cacert", str(tmp_path / "stranger.pem")), ("-plaintext",)):
        done = curl(tls_server, "list", options=(*options, "-connect-timeout", "3"))
        assert (done.returncode, done.stdout) == (1, "")
