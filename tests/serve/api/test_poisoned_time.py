"""A library with a video of the end of year 9999, as earlier versions took it: nobody loses more than this video."""

import itertools
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from kinodex.v1 import library_service_pb2 as library
from kinodex.v1 import moderation_service_pb2 as moderation
from kinodex.v1 import moment_pb2
from kinodex.v1 import search_service_pb2 as search
from kinodex.v1.library_service_pb2_grpc import LibraryServiceStub
from kinodex.v1.moderation_service_pb2_grpc import ModerationServiceStub
from kinodex.v1.search_service_pb2_grpc import SearchServiceStub
from serve.indexing.pipeline import index
from serve.settings import Settings
from support.fakes import SilentProgress, use_fakes, write_scenes
from support.running import Running, read_refusal, running
from support.waiting import HANG_SECONDS, wait_until
from support.webhook_receiver import Receiver
from support.webhook_receiver import receiver as receiver

pytestmark = pytest.mark.slow

END_OF_TIME = 253_402_300_799.999999999  # as a float, the first second of the year 10000
RED = {"id": "red", "label": "Red", "shows": ["red"], "min_seconds": 1, "cooldown_seconds": 0}


@pytest.fixture
def server(tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    use_fakes(monkeypatch)
    data = tmp_path / "data"
    for name in ("first", "poisoned", "second"):
        film = write_scenes(tmp_path / f"{name}.mp4", [("green", 2), ("red", 3), ("green", 2 + len(name))])
        list(index([str(film)], data, Settings(workers=1), progress=SilentProgress()))
    with closing(sqlite3.connect(data / "catalog.sqlite")) as catalog, catalog:
        catalog.execute("UPDATE videos SET recorded_time = ? WHERE CAST(uri AS TEXT) LIKE '%poisoned%'", (END_OF_TIME,))
    webhook = {"webhook_url": receiver.url, "webhook_secret": "a secret of some bytes"}
    with running(data, Settings(workers=1), **webhook) as started:
        yield started


def test_others_are_searched_listed_watched_and_delivered(server: Running, receiver: Receiver) -> None:
    with grpc.insecure_channel(server.address) as channel:
        searches, videos, events = (
            SearchServiceStub(channel),
            LibraryServiceStub(channel),
            ModerationServiceStub(channel),
        )
        question = moment_pb2.Query(text="red", channel=moment_pb2.CHANNEL_VISUAL)
        listed = videos.ListVideos(library.ListVideosRequest(), timeout=HANG_SECONDS).videos
        good = {video.video_id for video in listed}
        assert len(good) == 2
        moments = searches.SearchMoments(search.SearchMomentsRequest(query=question), timeout=HANG_SECONDS).moments
        assert {moment.video_id for moment in moments} == good
        found = searches.SearchVideos(search.SearchVideosRequest(query=question), timeout=HANG_SECONDS).videos
        assert {video.video_id for video in found if video.moments} == good
        watch = events.WatchEvents(moderation.WatchEventsRequest(), timeout=HANG_SECONDS)
        next(watch)
        (server.server.directory / "policies.yaml").write_text(json.dumps({"version": "1", "policies": [RED]}))
        wait_until(lambda: len(receiver.requests) == 4)  # each opens and closes
        assert {json.loads(body)["videoId"] for _, body in receiver.requests} == good
        found_events = events.ListEvents(moderation.ListEventsRequest(), timeout=HANG_SECONDS).events
        assert {event.video_id for event in found_events} == good
        told = itertools.islice((one.event for one in watch if one.HasField("event")), 4)
        assert {event.video_id for event in told} == good
        watch.cancel()


def test_it_has_an_error_of_its_own_and_can_be_deleted(server: Running) -> None:
    (bad,) = (video.video_id for video in server.server.reader.videos() if video.recorded_time == END_OF_TIME)
    with grpc.insecure_channel(server.address) as channel:
        videos = LibraryServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            videos.GetVideo(library.GetVideoRequest(video_id=bad), timeout=HANG_SECONDS)
        assert read_refusal(caught.value) == ("DATA_LOSS", "VIDEO_DAMAGED")
        videos.DeleteVideo(library.DeleteVideoRequest(video_id=bad), timeout=HANG_SECONDS)
        with pytest.raises(grpc.RpcError) as caught:
            videos.GetVideo(library.GetVideoRequest(video_id=bad), timeout=HANG_SECONDS)
        assert read_refusal(caught.value) == ("NOT_FOUND", "VIDEO_NOT_FOUND")
