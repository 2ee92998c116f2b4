"""Curves of questions along one video: from the library in this process, and from a server."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from kinodex.v1 import moment_pb2
from kinodex.v1 import search_service_pb2 as search
from kinodex.v1.search_service_pb2_grpc import SearchServiceStub
from serve.cli.render import moments_json
from serve.client.client import Client
from serve.errors import ServerFailed
from serve.indexing.pipeline import index
from serve.search.curves.similarity import trace_similarity
from serve.search.library import Library
from serve.settings import Settings
from serve.text import to_json
from serve.timeline import SimilarityCurve
from serve.values import Answer, Filter, Query
from support.fakes import SilentProgress, use_fakes, write_scenes
from support.running import Running, running
from temporal.values import TimeSpan

SETTINGS = Settings(workers=1)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Index a film that is blue, red from 10 s to 18 s, and blue again; and one without red."""
    folder = tmp_path_factory.mktemp("curves")
    films = [
        write_scenes(folder / "paris.mp4", [("blue", 10), ("red", 8), ("blue", 10)], tones=[(440, 3.0), (1320, 20.0)]),
        write_scenes(folder / "london.mp4", [("green", 12)], tones=[(880, 4.0)]),
    ]
    with pytest.MonkeyPatch.context() as patch:
        use_fakes(patch)
        list(index([str(film) for film in films], folder / "data", SETTINGS, progress=SilentProgress()))
        yield folder / "data"


@pytest.fixture(scope="module")
def library(data: Path) -> Iterator[Library]:
    with Library.open(data, SETTINGS) as opened:
        yield opened


def curve_of(library: Library, query: Query, span: TimeSpan | None = None, point_count: int = 500) -> SimilarityCurve:
    library.engine.refresh()
    (video,) = (each for each in library.engine.videos.values() if each.uri.endswith("paris.mp4"))
    return trace_similarity(library.engine, query, video, span, point_count)


def test_the_curve_is_high_where_the_sight_is(library: Library) -> None:
    curve = curve_of(library, Query(text="red", channel="visual"))
    assert [at for at, _ in curve.visual_points] == [*map(float, range(28)), 27.6]
    high, low = ([score for at, score in curve.visual_points if (10 <= at < 18) is red] for red in (True, False))
    assert min(high) > max(low)
    assert curve.shot_seconds == (pytest.approx(10, abs=1), pytest.approx(18, abs=1))
    assert (curve.speech_parts, curve.text_parts) == ((), ())


def test_scores_and_moments_are_those_of_the_same_question_about_this_video(library: Library) -> None:
    query = Query(text="red or Paris")
    curve = curve_of(library, query)
    [video_id] = {moment.video_id for moment in curve.moments}
    assert curve.moments == library.moments(replace(query, filter=Filter(video_ids=(video_id,)), limit=100)).moments
    best = next(moment for moment in curve.moments if moment.visual_score is not None)
    assert (best.best_frame_seconds, best.visual_score) in curve.visual_points
    said = next(moment for moment in curve.moments if moment.speech_score is not None)
    assert said.speech_score in [part.score for part in curve.speech_parts]
    assert [part.text for part in curve.speech_parts] == ["Paris is lovely.", "Tokyo never sleeps."]
    assert curve.speech_parts[0].score > curve.speech_parts[1].score


def test_a_thinned_curve_keeps_the_peaks(library: Library) -> None:
    query = Query(text="red", channel="visual")
    whole, thin = curve_of(library, query), curve_of(library, query, point_count=4)
    assert len(thin.visual_points) == 4
    for number, point in enumerate(thin.visual_points):
        step = [score for at, score in whole.visual_points if 7 * number <= at < 7 * (number + 1)]
        assert point in whole.visual_points
        assert point[1] == max(step)


def test_a_part_has_only_what_lies_in_it(library: Library) -> None:
    part = TimeSpan(start_seconds=0.0, end_seconds=9.0)
    curve = curve_of(library, Query(text="red or Paris or Tokyo"), part)
    assert curve.span == part
    assert len(curve.visual_points) == 9
    assert [each.text for each in curve.speech_parts] == ["Paris is lovely."]
    assert all(moment.start_seconds < 9 for moment in curve.moments)
    assert curve.shot_seconds == ()


def test_what_is_excluded_lowers_the_curve(library: Library) -> None:
    plain, without = (curve_of(library, Query(text="red", exclude_text=text)) for text in ("", "blue"))
    assert sum(score for _, score in without.visual_points) < sum(score for _, score in plain.visual_points)


@pytest.fixture(scope="module")
def server(data: Path) -> Iterator[Running]:
    with running(data) as started:
        yield started


def test_a_server_answers_as_the_library_does(server: Running, library: Library) -> None:
    query = Query(text="red or Paris")
    expected = curve_of(library, query, TimeSpan(start_seconds=2.0, end_seconds=25.0), 10)
    with Client(server.address) as client:
        [video_id] = [video.video_id for video in client.videos() if video.uri.endswith("paris.mp4")]
        curve = client.similarity_curve(query, video_id, span=expected.span, point_count=10)
        assert replace(curve, moments=()) == replace(expected, moments=())
        one, other = (moments_json("q", Answer(moments=each.moments)) for each in (curve, expected))
        assert to_json(one) == to_json(other)  # times are rounded to nanoseconds on the way
        with pytest.raises(ServerFailed, match="no video nowhere"):
            client.similarity_curve(query, "nowhere")
        assert client.similarity_curve(Query(text="red", channel="speech"), video_id).visual_points == ()


def test_all_mistakes_of_a_request_come_at_once(server: Running) -> None:
    request = search.GetSimilarityCurveRequest(query=moment_pb2.Query(image_weight=2.0), point_count=-1)
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        SearchServiceStub(channel).GetSimilarityCurve(request)
    said = caught.value.details() or ""
    for field in ("video_id", "point_count", "query:", "query.image_weight"):
        assert field in said
