"""Standing queries: moments that come after they were added open, are updated and close, for each query alone."""

import itertools
import math
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from encoders.calibration import Evidence
from encoders.values import Utterance
from kinodex.v1 import search_service_pb2 as search
from kinodex.v1.search_service_pb2_grpc import SearchServiceStub
from serve.api.services import watch_queue as unread
from serve.catalog.catalog import Catalog
from serve.client.client import Client
from serve.errors import IndexUnavailable, ServerFailed
from serve.indexing.pipeline import index
from serve.live.live_rows import LiveRows
from serve.moderation.standing import StandingQuery, Watcher
from serve.moderation.standing_moments import judge_utterance, moment_of
from serve.search.evidence import MAX_VIDEO_COUNT, z_scores
from serve.search.library import Library
from serve.search.traits import CaptionBank
from serve.search.verdict import verdict_of
from serve.settings import Settings
from serve.values import Filter, MomentChange, Query, Thresholds, Verdict, Video
from support.fakes import CALIBRATION, ColourEncoder, SilentProgress, use_fakes, write_scenes
from support.running import read_refusal, running
from support.sample_live import STARTED, camera
from support.waiting import HANG_SECONDS, wait_until
from temporal.values import ChangeKind

pytestmark = pytest.mark.slow

SETTINGS = Settings(workers=1)
SEEN = dict.fromkeys([*range(5, 9), *range(20, 34)], "red") | {36: "green", 37: "green"}
SAID = {9: "it is on fire", 26: "nothing else", 41: "on fire again"}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_fakes(monkeypatch)
    film = write_scenes(tmp_path / "film.mp4", [("red", 8)])
    list(index([str(film)], tmp_path / "data", SETTINGS, progress=SilentProgress()))
    return tmp_path / "data"


@pytest.fixture
def library(data: Path) -> Iterator[Library]:
    with Library.open(data, SETTINGS) as opened:
        opened.engine.refresh()
        yield opened


@pytest.fixture
def live(data: Path, library: Library) -> Iterator[LiveRows]:
    with Catalog.open_editor(data) as editor:
        yield LiveRows(editor, library.engine.fingerprint)


class Standing:
    """A standing query, and the changes that were delivered to it."""

    def __init__(
        self,
        watcher: Watcher,
        text: str,
        *,
        asked: Filter | None = None,
        pixels: NDArray[np.uint8] | None = None,
        **thresholds: float,
    ) -> None:
        image = b"" if pixels is None else b"decoded already"
        query = Query(text=text, image=image, filter=asked or Filter(), channel="all")
        self.changes: list[MomentChange] = []
        self.watcher = watcher
        self.standing = StandingQuery(
            query=query,
            target=watcher.engine.target_of(query, pixels),
            thresholds=Thresholds(**thresholds),
            deliver=self.changes.append,
        )
        watcher.add(self.standing)

    def spans(self) -> list[tuple[str, float, float]]:
        return [(one.kind.value, one.moment.start_seconds, one.moment.end_seconds) for one in self.changes]

    def remove(self) -> None:
        self.watcher.remove(self.standing)


def extend(library: Library, live: LiveRows, watcher: Watcher, first: int, last: int, video_id: str = "cam") -> None:
    """Add segments to a stream, one after the other, and follow each."""
    for n in range(first, last):
        live.apply([camera(library, n, seen=SEEN, heard=SAID, video_id=video_id, is_last=n == 6)], {})
        library.engine.refresh()
        watcher.follow()


RED = [
    ("OPENED", 5.0, 7.0), ("CLOSED", 5.0, 9.0), ("OPENED", 20.0, 22.0), ("UPDATED", 20.0, 32.0), ("CLOSED", 20.0, 34.0)
]  # fmt: skip


def test_a_moment_opens_is_updated_and_closes(library: Library, live: LiveRows) -> None:
    watcher = Watcher(library.engine)
    red = Standing(watcher, "red")
    extend(library, live, watcher, 0, 7)

    assert red.spans() == RED
    first = red.changes[0].moment
    assert (first.video_id, first.final, first.speech_score) == ("cam", True, None)
    assert first.visual_score == first.confidence
    assert first.confidence > 0.9
    assert first.best_frame_seconds in range(5, 9)
    assert first.recorded_time == pytest.approx(1_700_000_005.0)
    assert len({one.moment_id for one in red.changes}) == 2


def test_only_later_moments_are_delivered(library: Library, live: LiveRows) -> None:
    watcher = Watcher(library.engine)
    extend(library, live, watcher, 0, 2)  # until 24: nobody listens
    red = Standing(watcher, "red")
    extend(library, live, watcher, 2, 4)
    late = Standing(watcher, "red")
    extend(library, live, watcher, 4, 7)

    assert red.spans() == [("OPENED", 24.0, 26.0), ("CLOSED", 24.0, 34.0)]  # it began to look at 24
    assert late.spans() == []


def test_a_stream_that_begins_later_is_watched_from_its_start(library: Library, live: LiveRows) -> None:
    watcher = Watcher(library.engine)
    red = Standing(watcher, "red")
    extend(library, live, watcher, 0, 7, "new")
    assert red.spans() == RED


def test_words_are_delivered_once_they_are_final(library: Library, live: LiveRows) -> None:
    watcher = Watcher(library.engine)
    fire = Standing(watcher, 'when does somebody say "on fire"?', cooldown_seconds=20.0)
    extend(library, live, watcher, 0, 7)

    assert fire.spans() == [
        ("OPENED", 9.0, 10.5),
        ("CLOSED", 9.0, 10.5),
        ("OPENED", 41.0, 42.5),
        ("CLOSED", 41.0, 42.5),
    ]
    moment = fire.changes[0].moment
    assert moment.transcript == "it is on fire"
    assert moment.speech_score is not None


def test_text_in_pictures_is_delivered_once_while_it_stands(library: Library, live: LiveRows) -> None:
    watcher = Watcher(library.engine)
    fire = Standing(watcher, 'the sign that says "fire exit"', enter=0.5, cooldown_seconds=1.0)
    other = Standing(watcher, "red")
    written = {1: "fire exit", 2: "fire exit", 3: "fish market", 5: "fire exit"}
    for n in range(7):
        live.apply([camera(library, n, written=written, is_last=n == 6)], {})
        library.engine.refresh()
        watcher.follow()

    assert fire.spans() == [
        ("OPENED", 16.0, 24.0),
        ("CLOSED", 16.0, 24.0),
        ("OPENED", 48.0, 56.0),
        ("CLOSED", 48.0, 56.0),
    ]
    moment = fire.changes[0].moment
    assert (moment.speech_score, moment.visual_score, moment.text_score) == (None, None, moment.confidence)
    assert [line.text for line in moment.matched_text] == ["fire exit"]
    assert not any(change.moment.text_score for change in other.changes)
    answer = library.moments(Query(text="fire exit", channel="text"))
    assert [(each.start_seconds, each.end_seconds) for each in answer.moments[:2]] == [(16.0, 32.0), (48.0, 56.0)]


def test_each_query_has_its_own_thresholds_and_filters(library: Library, live: LiveRows) -> None:
    watcher = Watcher(library.engine)
    long, paused = Standing(watcher, "red", min_seconds=6.0), Standing(watcher, "red", cooldown_seconds=20.0)
    short = Standing(watcher, "green", min_seconds=0.0)
    elsewhere = Standing(watcher, "red", asked=Filter(video_ids=("other",)))
    extend(library, live, watcher, 0, 7)

    assert long.spans() == [("OPENED", 20.0, 26.0), ("CLOSED", 20.0, 34.0)]
    assert paused.spans()[:3] == [("OPENED", 5.0, 7.0), ("CLOSED", 5.0, 9.0), ("OPENED", 29.0, 31.0)]
    assert short.spans() == [("OPENED", 36.0, 36.0), ("CLOSED", 36.0, 38.0)]
    assert elsewhere.spans() == []


def test_adding_and_removing_queries_does_not_change_the_others(library: Library, live: LiveRows) -> None:
    watcher, rng = Watcher(library.engine), random.Random(1)
    standing = [Standing(watcher, "red")]
    others: list[Standing] = []
    for n in range(7):
        for _ in range(20):
            if others and rng.random() < 0.4:
                others.pop(rng.randrange(len(others))).remove()
            else:
                others.append(Standing(watcher, rng.choice(["red", "green", "blue", "yellow"])))
        extend(library, live, watcher, n, n + 1)

    assert standing[0].spans() == RED
    for one in others:
        one.remove()
    assert len(watcher) == 1
    assert np.isfinite(watcher.texts).all()


def test_a_threshold_of_zero_lets_no_other_video_in(library: Library, live: LiveRows) -> None:
    watcher = Watcher(library.engine)
    elsewhere = Standing(watcher, "red", asked=Filter(video_ids=("other",)), enter=0.0, leave=0.0)
    extend(library, live, watcher, 0, 7)
    assert elsewhere.spans() == []


def test_a_live_picture_is_judged_as_search_judges_a_moment(library: Library, live: LiveRows) -> None:
    watcher = Watcher(library.engine)
    red = Standing(watcher, "red")
    extend(library, live, watcher, 0, 2)

    engine = library.engine
    assert engine.visual is not None
    by, query = engine.visual.calibration.moment, engine.visual.encode_text("red")
    frame = ColourEncoder().encode_frames(np.full((1, 2, 2, 3), (255, 0, 0), np.uint8))
    (z,) = z_scores(frame, query, CaptionBank(ColourEncoder(), engine.visual.calibration))
    evidence = Evidence(
        own=z, video=z, margin=0.0, lead=0.0, generality=engine.visual.generality(query), log_frames=0.0,
        log_videos=math.log(MAX_VIDEO_COUNT), is_alone=0.0,
    )  # fmt: skip
    assert red.changes[0].moment.confidence == pytest.approx(by.confidence(evidence), abs=1e-3)


def test_a_picture_is_judged_by_its_likeness(library: Library, live: LiveRows) -> None:
    """Grey pictures of a colour encoder are as near to each colour: 0.6, far below its 0.8 for no match."""
    watcher = Watcher(library.engine)
    red, grey = (np.full((32, 32, 3), rgb, np.uint8) for rgb in ((255, 0, 0), (128, 128, 128)))
    seen = [Standing(watcher, "", pixels=pixels) for pixels in (red, grey)]
    both = Standing(watcher, "green", pixels=red)  # half a match each: the text never, the picture in 5..9
    extend(library, live, watcher, 0, 7)

    assert seen[0].spans() == RED
    assert seen[0].changes[0].moment.confidence == pytest.approx(CALIBRATION.picture.confidence(1.0), abs=1e-3)
    assert seen[1].spans() == []
    assert both.spans() == []


def test_a_bug_in_one_round_does_not_end_the_next(
    library: Library, live: LiveRows, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watcher = Watcher(library.engine)
    red = Standing(watcher, "red")
    live.apply([camera(library, 0, seen=SEEN)], {})
    library.engine.refresh()
    broken = pytest.MonkeyPatch()
    broken.setattr(watcher, "_follow_video", lambda *_: 1 / 0)
    watcher.start()
    watcher.wake()
    while "standing queries failed" not in caplog.text:
        pass
    broken.undo()
    while len(red.changes) < 2:
        watcher.wake()
    watcher.stop()
    assert red.spans() == RED[:2]


def test_a_query_misses_nothing_while_the_index_is_away(
    library: Library, live: LiveRows, caplog: pytest.LogCaptureFixture
) -> None:
    watcher, asked = Watcher(library.engine), threading.Event()

    def away(catalog: Catalog) -> None:
        asked.set()
        raise IndexUnavailable()

    red = Standing(watcher, "red")
    extend(library, live, watcher, 0, 1)
    live.apply([camera(library, 1, seen=SEEN)], {})
    library.engine.refresh()
    live.apply([camera(library, 2, seen=SEEN)], {})
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(library.engine.segment_index, "refresh", away)
        watcher.start()
        watcher.wake()
        assert asked.wait(HANG_SECONDS)
    watcher.stop()
    extend(library, live, watcher, 3, 7)
    assert red.spans() == RED
    assert "standing queries failed" not in caplog.text


def test_open_moments_of_a_deleted_video_are_closed(library: Library, live: LiveRows) -> None:
    watcher = Watcher(library.engine)
    red, green = Standing(watcher, "red"), Standing(watcher, "green")
    extend(library, live, watcher, 0, 3)  # until 32, red from 20 on
    live.delete("default", "cam", STARTED + 100)
    library.engine.refresh()
    watcher.follow()
    assert red.spans() == [*RED[:3], ("CLOSED", 20.0, 31.0)]
    assert (green.spans(), watcher.videos) == ([], {})


def test_a_video_that_ended_and_grows_again_is_resumed(library: Library, live: LiveRows) -> None:
    watcher = Watcher(library.engine)
    red = Standing(watcher, "red")
    extend(library, live, watcher, 0, 7)  # it ends with 64
    assert (watcher.videos, red.spans()) == ({}, RED)
    late = Standing(watcher, "red")
    again = {70: "red", 71: "red", 72: "red", 73: "red"}
    live.apply([camera(library, n, seen=again) for n in (7, 8)], {})
    library.engine.refresh()
    watcher.follow()
    assert red.spans()[len(RED) :] == late.spans() == [("OPENED", 70.0, 72.0), ("CLOSED", 70.0, 74.0)]
    assert len(watcher.videos) == 1


def test_a_video_that_ended_before_the_query_is_followed_from_its_end(library: Library, live: LiveRows) -> None:
    watcher = Watcher(library.engine)
    extend(library, live, watcher, 0, 7)
    red = Standing(watcher, "red")
    live.apply([camera(library, n, seen={66: "red", 67: "red", 68: "red"}) for n in (7, 8)], {})
    library.engine.refresh()
    watcher.follow()
    assert red.spans() == [("OPENED", 66.0, 68.0), ("CLOSED", 66.0, 69.0)]


def test_after_a_bug_no_earlier_moment_is_delivered(
    library: Library, live: LiveRows, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watcher = Watcher(library.engine)
    extend(library, live, watcher, 0, 3)
    red = Standing(watcher, "red")  # asked after 32 s
    take = watcher._follow_video

    def broken(video: Video, followed: object) -> None:
        if video.video_id == "cam":
            raise ValueError("a damaged video")
        take(video, followed)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(watcher, "_follow_video", broken)
        watcher.start()
        live.apply([camera(library, 3, seen=SEEN)], {})
        live.apply([camera(library, 0, seen=SEEN, video_id="other")], {})
        library.engine.refresh()
        wait_until(lambda: len(red.changes) == 2)  # the other one is followed all the same
        for _ in range(3):
            watcher.wake()
        Standing(watcher, "green").remove()  # and others can ask
        watcher.stop()
    assert caplog.text.count("standing queries failed video=default/cam") == 1
    extend(library, live, watcher, 4, 7)

    assert [one for one in red.spans() if one[1] > 9] == [("OPENED", 32.0, 34.0), ("CLOSED", 32.0, 34.0)]


# ---- over gRPC


@pytest.mark.slow
def test_a_call_gets_moments_as_they_come(library: Library, live: LiveRows, data: Path) -> None:
    with running(data, SETTINGS, drain_seconds=30.0) as server:
        channel = grpc.insecure_channel(server.address)
        stub = SearchServiceStub(channel)
        request = search.WatchMomentsRequest(query={"text": "red"}, min_duration={"seconds": 1})
        call = stub.WatchMoments(request, timeout=HANG_SECONDS)
        assert next(call) == search.WatchMomentsResponse()
        live.apply([camera(library, 0, seen=SEEN)], {})
        opened, closed = next(call), next(call)
        gone = stub.WatchMoments(request, timeout=HANG_SECONDS)
        next(gone)
        gone.cancel()
    assert (opened.state, closed.state) == (1, 3)
    assert opened.moment_id == closed.moment_id
    assert (opened.moment.video_id, closed.moment.span.start_offset.seconds, closed.moment.span.end_offset.seconds) == (
        "cam", 5, 9,
    )  # fmt: skip
    with channel, pytest.raises(grpc.RpcError) as error:
        next(call)
    assert read_refusal(error.value) == ("UNAVAILABLE", "SERVER_NOT_READY")


@pytest.mark.slow
@pytest.mark.parametrize("is_cancelled", [True, False])
def test_a_call_that_ends_while_it_begins_leaves_no_query(
    data: Path, monkeypatch: pytest.MonkeyPatch, is_cancelled: bool
) -> None:
    adding, go_on, add = threading.Event(), threading.Event(), Watcher.add

    def slowly(watcher: Watcher, asked: StandingQuery) -> None:
        adding.set()
        assert go_on.wait(HANG_SECONDS)
        add(watcher, asked)

    with running(data, SETTINGS) as server, grpc.insecure_channel(server.address) as channel:
        monkeypatch.setattr(Watcher, "add", slowly)
        request = search.WatchMomentsRequest(query={"text": "red"})
        timeout = HANG_SECONDS if is_cancelled else 1.0
        while not adding.is_set():  # a slow server may not begin the first call before its deadline
            call = SearchServiceStub(channel).WatchMoments(request, timeout=timeout)
            wait_until(lambda call=call: adding.is_set() or not call.is_active())
            timeout *= 2
        if is_cancelled:
            call.cancel()
        wait_until(lambda: server.server.metrics.calls_in_flight._value.get() == 0)
        go_on.set()
        server.server.search_service.workers.close()  # waits for what is being done
        assert len(server.server.followers.ready_watcher()) == 0


@pytest.mark.slow
def test_a_call_that_does_not_read_is_ended(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "STUCK_SECONDS", 0.5)
    with running(data, SETTINGS) as server, grpc.insecure_channel(server.address) as channel:
        watcher = server.server.followers.ready_watcher()
        call = SearchServiceStub(channel).WatchMoments(
            search.WatchMomentsRequest(query={"text": "red"}), timeout=HANG_SECONDS
        )
        next(call)
        (asked,) = [one for one in watcher.slots if one is not None]
        moment = moment_of(next(iter(watcher.engine.videos.values())), 1.0, 2.0, 0.9, transcript="x" * 2000)
        change = MomentChange(moment_id="m", kind=ChangeKind.UPDATED, moment=moment)
        told = 0
        while len(watcher):  # gRPC takes some megabytes until it waits for the reader
            asked.deliver(change)
            told += 1
            time.sleep(0.0005)  # lets the server's thread send
        read: list[search.WatchMomentsResponse] = []
        with pytest.raises(grpc.RpcError) as error:
            read.extend(call)
    assert len(read) < told
    assert read_refusal(error.value) == ("RESOURCE_EXHAUSTED", "OVERLOADED")


@pytest.mark.slow
def test_the_client_gets_the_same_changes(library: Library, live: LiveRows, data: Path) -> None:
    with running(data, SETTINGS) as server, Client(server.address) as client:
        changes = client.watch_moments(Query(text="red", channel="visual"), Thresholds(min_seconds=1.0))
        found: list[MomentChange] = []
        thread = threading.Thread(target=lambda: found.extend(itertools.islice(changes, 2)))
        thread.start()
        wait_until(lambda: len(server.server.followers.ready_watcher()) == 1)
        live.apply([camera(library, 0, seen=SEEN)], {})
        thread.join(HANG_SECONDS)
        changes.close()  # type: ignore[attr-defined]
        with pytest.raises(ServerFailed) as error:
            next(client.watch_moments(Query(text="red", exclude_text="blue")))
    assert [(one.kind.value, one.moment.start_seconds, one.moment.end_seconds) for one in found] == [
        ("OPENED", 5.0, 6.0), ("CLOSED", 5.0, 9.0),
    ]  # fmt: skip
    assert found[0].moment.verdict is Verdict.MATCH
    assert error.value.code == "INVALID_ARGUMENT"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({}, ("INVALID_ARGUMENT", "REQUEST_INVALID")),
        ({"query": {"text": "red", "exclude_text": "blue"}}, ("INVALID_ARGUMENT", "REQUEST_INVALID")),
        ({"query": {"text": "red"}, "enter_confidence": 0.4, "leave_confidence": 0.5},
         ("INVALID_ARGUMENT", "REQUEST_INVALID")),
        ({"query": {"text": "red"}, "enter_confidence": 1.5}, ("INVALID_ARGUMENT", "REQUEST_INVALID")),
        ({"query": {"text": "red"}, "cooldown": {"seconds": -1}}, ("INVALID_ARGUMENT", "REQUEST_INVALID")),
        ({"query": {"text": "red"}, "filter": {"collections": ["nowhere"]}}, ("NOT_FOUND", "COLLECTION_NOT_FOUND")),
        ({"query": {"image": b"no picture"}}, ("INVALID_ARGUMENT", "REQUEST_INVALID")),
    ],
)  # fmt: skip
def test_bad_requests_are_refused(data: Path, request_: dict[str, object], expected: tuple[str, str]) -> None:
    with running(data, SETTINGS) as server, grpc.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.RpcError) as error:
            next(SearchServiceStub(channel).WatchMoments(search.WatchMomentsRequest(**request_)))  # type: ignore[arg-type]
        assert read_refusal(error.value) == expected


def test_words_are_as_sure_as_the_only_passage_of_a_search(library: Library) -> None:
    """A cosine of 0.5 was a MATCH of 92 %, and seven in ten such moments were right."""
    vector = np.eye(4, dtype=np.float32)[0]

    def confidence(question: str, text: str, cosine: float) -> float:
        utterance = Utterance(
            epoch=0, start_seconds=1.0, end_seconds=4.0, text=text, words=(), language="en", avg_logprob=-0.2,
            no_speech_prob=0.1,
        )  # fmt: skip
        return judge_utterance(utterance, vector, cosine, library.engine.target_of(Query(text=question), None))

    said = "in the middle of the night the old stable was on fire"
    assert verdict_of(confidence("a burning barn", said, 0.5)) is not Verdict.MATCH
    assert verdict_of(confidence("is the stable on fire?", said, 0.75)) is Verdict.MATCH
    assert confidence("a stable fire", said, 0.5) > confidence("a stable burns", said, 0.5) + 0.1
    assert confidence("when do you see the stable?", said, 0.75) < 0.3  # it asks for a sight
