"""The API over HTTP, at a real server: the answers, errors and limits of gRPC."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2

from kinodex.v1 import search_service_pb2 as search
from kinodex.v1.search_service_pb2_grpc import SearchServiceStub
from serve.indexing.pipeline import index
from serve.settings import Settings
from support.fakes import SilentProgress, use_fakes, write_scenes
from support.running import Running, read_refusal, running
from support.waiting import HANG_SECONDS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    film = write_scenes(folder / "paris.mp4", [("blue", 10), ("red", 8)], tones=[(440, 3.0)])
    with pytest.MonkeyPatch.context() as patch:
        use_fakes(patch)
        list(index([str(film)], folder / "data", Settings(workers=2), progress=SilentProgress()))
    return folder / "data"


@pytest.fixture(scope="module")
def server(data: Path) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        use_fakes(patch)
        with running(data, http_listen="127.0.0.1:0") as started:
            yield started


@pytest.fixture
def http(server: Running) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, timeout=HANG_SECONDS) as client:
        yield client


def post(http: httpx2.Client, method: str, request: Any, **headers: str) -> httpx2.Response:
    return http.post(f"/kinodex.v1.{method}", json=request, headers=headers)


def test_json_gives_the_answer_of_grpc(http: httpx2.Client, server: Running) -> None:
    answer = post(http, "SearchService/SearchMoments", {"query": {"text": "red"}})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    with grpc.insecure_channel(server.address) as channel:
        request = search.SearchMomentsRequest(query={"text": "red"})
        ours = SearchServiceStub(channel).SearchMoments(request, timeout=HANG_SECONDS)
    over_http = json_format.ParseDict(answer.json(), search.SearchMomentsResponse())
    assert over_http.moments == ours.moments != []


def test_an_error_has_the_code_the_words_and_the_details_of_grpc(http: httpx2.Client, server: Running) -> None:
    answer = post(http, "SearchService/SearchMoments", {"pageSize": -1}, **{"x-request-id": "mine"})
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        SearchServiceStub(channel).SearchMoments(search.SearchMomentsRequest(page_size=-1))
    error = answer.json()
    assert answer.status_code == 400
    assert (error["code"], error["message"]) == ("invalid_argument", caught.value.details())  # type: ignore[attr-defined]
    names = [detail["type"] for detail in error["details"]]
    assert names == ["google.rpc.ErrorInfo", "google.rpc.BadRequest", "google.rpc.RequestInfo"]
    assert read_refusal(caught.value) == ("INVALID_ARGUMENT", "REQUEST_INVALID")
    assert error_details_pb2.RequestInfo.FromString(_bytes(error["details"][2]["value"])).request_id == "mine"


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))


def test_a_frame_is_a_jpeg_that_is_sent_once(http: httpx2.Client) -> None:
    [video] = post(http, "LibraryService/ListVideos", {}).json()["videos"]
    path = f"/frames/{video['videoId']}?t=12"
    answer = http.get(path)
    assert (answer.status_code, answer.content[:3]) == (200, b"\xff\xd8\xff")
    again = http.get(path, headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    missing = http.get("/frames/none")
    assert (missing.status_code, json.loads(missing.content)["reason"]) == (404, "VIDEO_NOT_FOUND")


def test_the_pages_and_the_health_are_served(http: httpx2.Client) -> None:
    assert http.get("/healthz").status_code == 200
    page = http.get("/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
