"""Clients in other languages, made from our .proto files alone: each does the same round and prints what it got."""

import hashlib
import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import google.rpc
import pytest

from serve.client.client import Client
from serve.config import ClientConfig
from serve.values import Query
from support import toolchain
from support.fakes import write_scenes
from support.toolchain import Reached
from support.waiting import HANG_SECONDS

pytestmark = pytest.mark.clients

# Beside ours: the errors' google/rpc/*.proto, which the package of their Python code brings.
PROTO_FOLDERS = (toolchain.PROTOS, Path(next(iter(google.rpc.__path__))).parents[1])


@pytest.fixture(scope="module")
def new_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scenes = [("blue", 4), ("red", 5), ("blue", 6)]
    return write_scenes(tmp_path_factory.mktemp("new") / "new.mp4", scenes, tones=[(440, 2.0), (880, 9.0)], salt=99)


@pytest.fixture(scope="module", params=["node", "go"])
def command(request: pytest.FixtureRequest) -> list[str]:
    """Run a client, but for its options."""
    found: list[str] = request.getfixturevalue(f"{request.param}_client")
    folders = [f"--protos={folder}" for folder in PROTO_FOLDERS]
    return [*found, *folders] if request.param == "node" else found


@pytest.fixture(scope="module", params=["server", "tls_server"])
def there(request: pytest.FixtureRequest) -> Reached:
    found: Reached = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def told(command: Sequence[str], there: Reached, new_film: Path) -> dict[str, Any]:
    """What a client says of its round."""
    given = {
        "address": there.address,
        "ca": there.ca or "",
        "token": there.token,
        "reading-token": there.reading_token,
        "video": new_film,
    }
    options = [f"--{name}={value}" for name, value in given.items()]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=HANG_SECONDS, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


def test_finds_what_our_own_client_finds(told: dict[str, Any], there: Reached) -> None:
    config = ClientConfig(token=there.token, **({"tls": "on", "tls_ca": str(there.ca)} if there.ca else {}))
    with Client(there.address, config) as client:
        ours = client.moments(Query(text="green", channel="visual", limit=100)).moments
    assert len(ours) > 4
    assert told["whole"] == [
        {
            "video_id": moment.video_id,
            "start_seconds": pytest.approx(moment.start_seconds, abs=1e-9),
            "end_seconds": pytest.approx(moment.end_seconds, abs=1e-9),
            "verdict": f"VERDICT_{moment.verdict}",
        }
        for moment in ours
    ]


def test_the_health_check_needs_no_token(told: dict[str, Any]) -> None:
    assert told["health"] == "SERVING"


def test_pages_of_two_are_the_whole_answer_without_repeats(told: dict[str, Any]) -> None:
    paged = [moment for page in told["moment_pages"] for moment in page]
    assert paged == told["whole"]
    assert {len(page) for page in told["moment_pages"][:-1]} == {2}
    for pages, count in ((told["video_pages"], 7), (told["list_pages"], 7)):
        names = [name for page in pages for name in page]
        assert len(names) == len(set(names)) == count
        assert {len(page) for page in pages[:-1]} == {2}


def test_an_upload_is_indexed_found_read_and_forgotten(told: dict[str, Any], new_film: Path) -> None:
    sha256 = hashlib.sha256(new_film.read_bytes()).hexdigest()
    assert told["uploaded"] == {"state": "STATE_PROCESSING", "uri": "upload:new.mp4"}
    assert told["states"][-1] == "STATE_READY"
    ready = told["ready"]
    assert ready == {
        "video_id": sha256[:16],
        "metadata": {"camera": "7"},
        "duration_seconds": pytest.approx(15.0, abs=0.2),
        "frame_count": pytest.approx(15, abs=1),
        "utterance_count": 2,
        "content_sha256": sha256,
        "index_time_seconds": pytest.approx(time.time(), abs=HANG_SECONDS),
    }
    (moment,) = told["moments"]
    assert (moment["video_id"], moment["verdict"]) == (ready["video_id"], "VERDICT_MATCH")
    assert (moment["start_seconds"], moment["end_seconds"]) == (pytest.approx(4, abs=1), pytest.approx(9, abs=1))
    assert [one["text"] for one in told["transcript"]] == ["Paris is lovely.", "London is foggy."]
    assert [one["start_seconds"] for one in told["transcript"]] == pytest.approx([2.0, 9.0], abs=0.1)
    assert told["transcript"][0]["words"] == ["Paris", "is", "lovely."]
    assert told["frame"]["hex"] == "ffd8ff"  # a JPEG begins so
    assert told["frame"]["length"] > 300
    assert told["frame"]["offset_seconds"] == pytest.approx(5.25, abs=0.5)
    assert told["errors"]["deleted"]["reason"] == "VIDEO_NOT_FOUND"


@pytest.mark.parametrize(
    ("call", "code", "reason", "fields"),
    [
        ("deleted", "NOT_FOUND", "VIDEO_NOT_FOUND", []),
        ("empty_question", "INVALID_ARGUMENT", "REQUEST_INVALID", ["query", "page_size"]),
        ("foreign_page", "INVALID_ARGUMENT", "PAGE_TOKEN_INVALID", ["page_token"]),
        ("wrong_sha256", "DATA_LOSS", "UPLOAD_CORRUPT", []),
        ("no_token", "UNAUTHENTICATED", "UNAUTHENTICATED", []),
        ("refused_upload", "PERMISSION_DENIED", "PERMISSION_DENIED", []),
    ],
)
def test_errors_can_be_read_to_the_last_detail(
    told: dict[str, Any], call: str, code: str, reason: str, fields: list[str]
) -> None:
    error = told["errors"][call]
    assert (error["code"], error["reason"], error["domain"], error["fields"]) == (code, reason, "kinodex", fields)
    assert error["message"] == error["status_message"] != ""
    assert len(error["request_id"]) == 32
    if call == "deleted":
        assert error["metadata"]["video_id"] == told["ready"]["video_id"]
