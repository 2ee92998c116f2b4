"""Questions to a real server, by our client and by bare stubs."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from fakes import SilentProgress, use_fakes, write_scenes
from grpc_health.v1 import health_pb2, health_pb2_grpc
from running import Running, running

from kinodex.v1 import moment_pb2
from kinodex.v1 import search_service_pb2 as search
from kinodex.v1.search_service_pb2_grpc import SearchServiceStub
from serve.client import Client
from serve.library import Library
from serve.pipeline import delete, index
from serve.render import moments_json, search_json, to_json
from serve.settings import Settings
from serve.values import Filter, MomentReference, Query
from temporal.values import TimeSpan

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


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.text)
def test_answers_are_those_of_the_embedded_library_byte_for_byte(
    query: Query, client: Client, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fakes(monkeypatch)
    with Library.open(data, SETTINGS) as library:
        assert to_json(moments_json("q", client.moments(query))) == to_json(moments_json("q", library.moments(query)))
        assert to_json(search_json("q", client.search(query))) == to_json(search_json("q", library.search(query)))
