"""Questions to a real server, by our client and by bare stubs."""

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from PIL import Image

from kinodex.v1 import moment_pb2
from kinodex.v1 import search_service_pb2 as search
from kinodex.v1.search_service_pb2_grpc import SearchServiceStub
from serve.cli.render import moments_json, search_json
from serve.client.client import Client
from serve.errors import IndexUnavailable, ServerFailed
from serve.indexing.pipeline import delete, index, reindex
from serve.search.library import Library
from serve.settings import Settings
from serve.text import to_json
from serve.values import Filter, MomentReference, Query
from support.fakes import SilentProgress, use_fakes, write_scenes
from support.marks import first_quick
from support.running import Running, is_ready, metrics_of, running
from support.waiting import HANG_SECONDS, wait_until
from temporal.values import TimeSpan

pytestmark = pytest.mark.slow

SETTINGS = Settings(workers=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    films = [
        write_scenes(folder / "paris.mp4", [("blue", 10), ("red", 8), ("blue", 10)], tones=[(440, 3.0), (1320, 20.0)]),
        write_scenes(folder / "london.mp4", [("green", 20)], tones=[(880, 12.0)]),
        *(write_scenes(folder / f"{n}.mp4", [("yellow", 4 + n), ("green", 4)]) for n in range(6)),
    ]
    with pytest.MonkeyPatch.context() as patch:
        use_fakes(patch)
        list(index([str(film) for film in films], folder / "data", SETTINGS, progress=SilentProgress()))
        other = write_scenes(folder / "other.mp4", [("red", 12)], tones=[(440, 5.0)])
        list(index([str(other)], folder / "data", SETTINGS, collection="other", progress=SilentProgress()))
    return folder / "data"


@pytest.fixture(scope="module")
def server(data: Path) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        use_fakes(patch)
        with running(data) as started:
            yield started


@pytest.fixture
def client(server: Running) -> Iterator[Client]:
    with Client(server.address) as opened:
        yield opened


QUERIES = [
    Query(text="when does the speaker mention London?"),
    Query(text="red", channel="visual", limit=3),
    Query(text="green", filter=Filter(collections=("default",), min_duration_seconds=9.0)),
    Query(text="blue", exclude_text="red", limit=50),
    Query(text="green and yellow", max_moments_per_video=1, limit=100),
    Query(text="Paris", channel="speech", min_confidence=0.5),
    Query(text="mortgage rates"),
]


@pytest.mark.parametrize("query", first_quick(QUERIES, 2), ids=lambda query: query.text)
def test_answers_are_those_of_the_embedded_library_byte_for_byte(
    query: Query, client: Client, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fakes(monkeypatch)
    with Library.open(data, SETTINGS) as library:
        assert to_json(moments_json("q", client.moments(query))) == to_json(moments_json("q", library.moments(query)))
        assert to_json(search_json("q", client.search(query))) == to_json(search_json("q", library.search(query)))


def test_a_video_that_another_process_indexes_is_found_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    film = write_scenes(tmp_path / "film.mp4", [("red", 6)], tones=[(440, 2.0)])
    with running(tmp_path / "data") as server, Client(server.address) as client:
        assert client.search(Query(text="red")).videos == ()
        [outcome] = index([str(film)], tmp_path / "data", SETTINGS, progress=SilentProgress())
        assert [video.video_id for video in client.search(Query(text="red")).videos] == [outcome.video_id]
        assert outcome.video_id is not None
        delete(tmp_path / "data", [outcome.video_id])
        assert client.search(Query(text="red")).videos == ()


def test_more_like_a_moment_and_an_image_over_the_wire(client: Client, tmp_path: Path) -> None:
    [paris] = [video for video in client.videos() if video.uri.endswith("paris.mp4")]
    heard = MomentReference(video_id=paris.video_id, span=TimeSpan(start_seconds=3.0, end_seconds=4.0))
    assert client.moments(Query(like=heard, channel="speech", limit=1)).moments[0].uri.endswith("other.mp4")
    Image.new("RGB", (300, 200), (255, 0, 0)).save(tmp_path / "red.png")
    seen = client.search(Query(image=(tmp_path / "red.png").read_bytes())).videos
    assert {Path(video.uri).name for video in seen[:2]} == {"other.mp4", "paris.mp4"}
    assert seen[0].collection in ("default", "other")


def test_matched_words_carry_their_times(client: Client) -> None:
    best = client.moments(Query(text="London", channel="speech")).moments[0]
    [word] = best.matched_words
    assert word.text == "London"
    assert best.start_seconds <= word.start_seconds < word.end_seconds <= best.end_seconds


# ---- from start to end


def test_serves_nothing_until_it_is_warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    with running(tmp_path / "data", warm=False) as server, grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        names = ("", "kinodex.v1.SearchService", "kinodex.v1.LibraryService")

        def states() -> set[int]:
            return {health.Check(health_pb2.HealthCheckRequest(service=name)).status for name in names}

        assert states() == {health_pb2.HealthCheckResponse.NOT_SERVING}
        request = search.SearchVideosRequest(query=moment_pb2.Query(text="red"))
        with pytest.raises(grpc.RpcError) as caught:
            SearchServiceStub(channel).SearchVideos(request)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        server.call(server.server.warm_up())
        assert states() == {health_pb2.HealthCheckResponse.SERVING}
        assert SearchServiceStub(channel).SearchVideos(request).videos == []


def test_the_client_comes_back_until_the_server_is_warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    with running(tmp_path / "data", warm=False) as server, Client(server.address) as client:
        asking = threading.Timer(0.5, server.call, [server.server.warm_up()])
        asking.start()
        assert client.search(Query(text="red")).videos == ()
        asking.join()


def test_a_call_under_way_is_answered_before_the_server_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    with (
        running(tmp_path / "data", drain_seconds=HANG_SECONDS) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        entered, go_on = threading.Event(), threading.Event()
        engine = server.server.loaded.require().engine
        rank = engine.rank_videos

        def slow(*arguments: Any) -> Any:
            entered.set()
            assert go_on.wait(HANG_SECONDS)
            return rank(*arguments)

        monkeypatch.setattr(engine, "rank_videos", slow)
        request = search.SearchVideosRequest(query=moment_pb2.Query(text="red"))
        answer = SearchServiceStub(channel).SearchVideos.future(request)
        assert entered.wait(HANG_SECONDS)
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.run_coroutine_threadsafe(server.server.stop(), server.loop)
        assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watched.cancel()
        go_on.set()
        assert answer.result(HANG_SECONDS).videos == []
        stopping.result(HANG_SECONDS)


def test_a_refresh_under_way_ends_before_its_catalog_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else SQLite would read from what is freed."""
    use_fakes(monkeypatch)
    monkeypatch.setattr("serve.api.server.REFRESH_SECONDS", 0.01)
    with running(tmp_path / "data") as server:
        entered, go_on = threading.Event(), threading.Event()
        library = server.server.loaded.require()
        closed_while_read = []

        def slow() -> None:
            entered.set()
            assert go_on.wait(HANG_SECONDS)
            closed_while_read.append(library.catalog._is_closed)

        monkeypatch.setattr(library.engine, "refresh", slow)
        assert entered.wait(HANG_SECONDS)
        stopping = asyncio.run_coroutine_threadsafe(server.server.stop(), server.loop)
        with pytest.raises(TimeoutError):
            stopping.result(0.5)
        go_on.set()
        stopping.result(HANG_SECONDS)
    assert closed_while_read == [False]


def test_an_abandoned_call_stops_working(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = server.server.loaded.require().engine
    entered, stopped = threading.Event(), threading.Event()

    def endless(query: Query, pixels: object, check: Callable[[], None]) -> None:
        entered.set()
        try:
            while True:
                check()
                time.sleep(0.001)
        finally:
            stopped.set()

    monkeypatch.setattr(engine, "rank_moments", endless)
    request = search.SearchMomentsRequest(query=moment_pb2.Query(text="red"))
    with grpc.insecure_channel(server.address) as channel:
        call = SearchServiceStub(channel).SearchMoments.future(request)
        assert entered.wait(HANG_SECONDS)
        call.cancel()
        assert stopped.wait(HANG_SECONDS)
        entered.clear(), stopped.clear()
        timeout = 0.2
        while not entered.is_set():  # a slow server may not begin the first call before its deadline
            with pytest.raises(grpc.RpcError) as caught:
                SearchServiceStub(channel).SearchMoments(request, timeout=timeout)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            timeout *= 2
        assert stopped.wait(HANG_SECONDS)


def test_too_many_questions_are_refused_with_the_time_to_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fakes(monkeypatch)
    with (
        running(tmp_path / "data", query_workers=1, max_waiting_queries=1) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        go_on, engine = threading.Event(), server.server.loaded.require().engine
        rank = engine.rank_videos
        monkeypatch.setattr(engine, "rank_videos", lambda *given: (go_on.wait(HANG_SECONDS), rank(*given))[1])
        stub = SearchServiceStub(channel)
        request = search.SearchVideosRequest(query=moment_pb2.Query(text="red"))
        taken = [stub.SearchVideos.future(request) for _ in range(2)]
        wait_until(lambda: server.server.search_service.workers.call_count == 2)
        with pytest.raises(grpc.RpcError) as caught:
            stub.SearchVideos(request)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        status = rpc_status.from_call(caught.value)
        assert status is not None
        assert [detail.TypeName() for detail in status.details] == [
            "google.rpc.ErrorInfo", "google.rpc.RetryInfo", "google.rpc.RequestInfo"
        ]  # fmt: skip
        go_on.set()
        assert [one.result(HANG_SECONDS).videos for one in taken] == [[], []]


def test_an_index_that_does_not_answer_makes_questions_wait_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise IndexUnavailable()

    use_fakes(monkeypatch)
    with running(tmp_path / "data") as server, Client(server.address) as client:
        engine = server.server.loaded.require().engine
        with monkeypatch.context() as patch:
            patch.setattr(engine, "_is_fresh", lambda: False)
            patch.setattr(engine.segment_index, "refresh", fail)
            server.server.loaded.refresh()  # as after a deletion, or new segments from Kafka
            with pytest.raises(ServerFailed, match="vector index") as caught:
                client.search(Query(text="red"))
        assert (caught.value.code, caught.value.reason) == ("UNAVAILABLE", "INDEX_UNAVAILABLE")
        assert client.search(Query(text="red")).videos == ()


def test_new_encoders_of_a_reindexed_library_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    film = write_scenes(tmp_path / "film.mp4", [("red", 6)], tones=[(440, 2.0)])
    list(index([str(film)], tmp_path / "data", SETTINGS, progress=SilentProgress()))
    with running(tmp_path / "data") as server, Client(server.address) as client:
        assert client.search(Query(text="red")).videos
        monkeypatch.setattr("support.fakes.ColourEncoder.fingerprint", "another")
        list(reindex(tmp_path / "data", SETTINGS, progress=SilentProgress()))
        wait_until(lambda: is_ready(client) and bool(client.search(Query(text="red")).videos))
        assert server.server.loaded.require().encoders.space.visual_fingerprint == "another"


def test_metrics_tell_of_calls_caches_and_the_index(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fakes(monkeypatch)
    own = shutil.copytree(data, tmp_path / "own")  # a data directory has one server
    with running(own, metrics_listen="127.0.0.1:0") as server, Client(server.address) as client:
        client.search(Query(text="red"))
        client.search(Query(text="red"))
        with pytest.raises(ServerFailed):
            client.video("nothing")
        failed = 'kinodex_calls_total{code="NOT_FOUND",method="kinodex.v1.LibraryService/GetVideo"}'
        wait_until(lambda: failed in metrics_of(server))  # counted when it has been answered
        values = metrics_of(server)
    assert values['kinodex_calls_total{code="OK",method="kinodex.v1.SearchService/SearchVideos"}'] == 2
    assert values[failed] == 1
    assert values['kinodex_call_seconds_count{method="kinodex.v1.SearchService/SearchVideos"}'] == 2
    assert values['kinodex_texts_total{encoder="visual",outcome="encoded"}'] >= 1
    assert values['kinodex_rankings_total{outcome="found"}'] == 1
    assert values["kinodex_videos"] == 9
    assert values['kinodex_index_rows{kind="utterances"}'] == 4
    assert values["kinodex_ready"] == 1


def test_a_request_id_comes_back_and_is_in_the_log(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    request = search.SearchVideosRequest(query=moment_pb2.Query(text="red"))
    with grpc.insecure_channel(server.address) as channel, caplog.at_level("INFO", "serve.api.interceptor"):
        _, call = SearchServiceStub(channel).SearchVideos.with_call(request, metadata=[("x-request-id", "trace-7")])
        assert dict(call.initial_metadata())["x-request-id"] == "trace-7"
        _, call = SearchServiceStub(channel).SearchVideos.with_call(request)
        assert len(dict(call.initial_metadata())["x-request-id"]) == 32
        wait_until(lambda: len([one for one in caplog.messages if "SearchVideos code=OK" in one]) == 2)


def test_calls_are_traced_where_the_operator_wants_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fakes(monkeypatch)
    received: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        try:
            with (
                running(shutil.copytree(data, tmp_path / "own"), traces=True) as server,
                grpc.insecure_channel(server.address) as channel,
            ):
                SearchServiceStub(channel).SearchVideos(
                    search.SearchVideosRequest(query=moment_pb2.Query(text="red")),
                    metadata=[("traceparent", f"00-{'ab' * 16}-{'cd' * 8}-01"), ("x-request-id", "trace-7")],
                )
        finally:
            collector.shutdown()
            thread.join()
    told = b"".join(received)
    assert b"kinodex.v1.SearchService/SearchVideos" in told
    assert b"trace-7" in told
    assert bytes.fromhex("ab" * 16) in told  # it is part of the caller's trace


def test_the_same_question_is_ranked_once_until_the_library_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fakes(monkeypatch)
    films = [str(write_scenes(tmp_path / f"{n}.mp4", [("red", 4 + n)])) for n in range(3)]
    list(index(films[:2], tmp_path / "data", SETTINGS, progress=SilentProgress()))
    with running(tmp_path / "data") as server, Client(server.address) as client:
        engine = server.server.loaded.require().engine
        ranked: list[Query] = []
        rank = engine.rank_videos
        monkeypatch.setattr(engine, "rank_videos", lambda query, *rest: (ranked.append(query), rank(query, *rest))[1])
        first = client.search(Query(text="red"))
        assert client.search(Query(text="red")) == first
        assert client.search(Query(text="red", limit=1)).videos == first.videos[:1]
        assert len(ranked) == 1
        client.search(Query(text="red", channel="visual"))
        assert len(ranked) == 2
        list(index(films[2:], tmp_path / "data", SETTINGS, progress=SilentProgress()))
        assert len(client.search(Query(text="red")).videos) == 3
        assert len(ranked) == 3
