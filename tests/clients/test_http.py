"""Clients of the API over HTTP that have none of our code: curl, and Connect and gRPC-Web in Node."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import google.rpc
import pytest

from serve.client.client import Client
from serve.config import ClientConfig
from serve.values import Query
from support import toolchain
from support.toolchain import Reached
from support.waiting import HANG_SECONDS

pytestmark = pytest.mark.clients

GOOGLE_PROTOS = Path(next(iter(google.rpc.__path__))).parents[1]
PROTOCOLS = ("connect-json", "connect-proto", "grpc-web")


@pytest.fixture(scope="module", params=["server", "tls_server"])
def there(request: pytest.FixtureRequest) -> Reached:
    found: Reached = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def moments(there: Reached) -> list[dict[str, Any]]:
    """What our own client finds over gRPC."""
    config = ClientConfig(token=there.token, **({"tls": "on", "tls_ca": str(there.ca)} if there.ca else {}))
    with Client(there.address, config) as client:
        found = client.moments(Query(text="green", channel="visual", limit=100)).moments
    assert len(found) > 4
    return [
        {"video_id": one.video_id, "start_seconds": pytest.approx(one.start_seconds, abs=1e-9),
         "end_seconds": pytest.approx(one.end_seconds, abs=1e-9)}
        for one in found
    ]  # fmt: skip


@pytest.fixture(scope="module")
def in_node(node_connect: Sequence[str], there: Reached, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the client in Node says of its round, by protocol."""
    descriptors = tmp_path_factory.mktemp("protos") / "api.binpb"
    files = [
        f"kinodex/v1/{path.name}" for path in sorted((toolchain.PROTOS / "kinodex" / "v1").glob("*_service.proto"))
    ]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{toolchain.PROTOS}", f"-I{GOOGLE_PROTOS}"]
    options = ["--include_imports", f"--descriptor_set_out={descriptors}", "google/rpc/error_details.proto"]
    subprocess.run([*command, *options, *files], check=True, timeout=HANG_SECONDS)
    given = {"url": there.url, "ca": there.ca or "", "token": there.token, "descriptors": descriptors}
    done = subprocess.run(
        [*node_connect, *(f"--{name}={value}" for name, value in given.items())],
        capture_output=True, text=True, timeout=HANG_SECONDS, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_node_finds_what_our_client_finds_over_grpc(
    in_node: dict[str, Any], moments: list[dict[str, Any]], protocol: str
) -> None:
    answer = in_node[protocol]
    assert answer["moments"] == moments
    assert (len(answer["video_ids"]), answer["jpeg"], answer["watched"]) == (7, "ffd8ff", [True])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_node_reads_errors_to_the_last_detail(in_node: dict[str, Any], protocol: str) -> None:
    answer = in_node[protocol]
    errors = [(answer[name]["code"], answer[name]["reason"]) for name in ("missing", "empty", "stranger")]
    assert errors == [
        ("NotFound", "VIDEO_NOT_FOUND"),
        ("InvalidArgument", "REQUEST_INVALID"),
        ("Unauthenticated", "UNAUTHENTICATED"),
    ]


def test_curl_finds_what_our_client_finds_over_grpc(there: Reached, moments: list[dict[str, Any]]) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    question = {"query": {"text": "green", "channel": "CHANNEL_VISUAL"}, "pageSize": 100}
    command = [
        curl, "--silent", "--fail", *(["--cacert", str(there.ca)] if there.ca else []),
        "--header", "content-type: application/json", "--header", f"authorization: Bearer {there.token}",
        "--data", json.dumps(question), f"{there.url}/kinodex.v1.SearchService/SearchMoments",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [
        {"video_id": one["videoId"], "start_seconds": seconds(one["span"].get("startOffset", "0s")),
         "end_seconds": seconds(one["span"]["endOffset"])}
        for one in json.loads(done.stdout)["moments"]
    ] == moments  # fmt: skip


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))
