"""The API over HTTP, at a real server: the answers, errors and limits of gRPC."""

import base64
from typing import Any

import grpc
import httpx2
import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2

from kinodex.v1 import search_service_pb2 as search
from kinodex.v1.search_service_pb2_grpc import SearchServiceStub
from support.running import Running, read_refusal
from support.waiting import HANG_SECONDS

pytestmark = pytest.mark.slow


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


def test_the_pages_and_the_health_are_served(http: httpx2.Client) -> None:
    assert http.get("/healthz").status_code == 200
    page = http.get("/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
