"""A live stream of slides against a real broker: a worker reads them, and a server's library answers with the slide."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from encoders.config import TextConfig
from encoders.writing.reader import load_reader
from serve.catalog.catalog import Catalog
from serve.live.live_rows import DeletionRecord, LiveRows
from serve.search.library import Library
from serve.settings import Settings
from serve.values import Query
from support.fakes import SilentProgress, use_fakes, write_scenes
from support.media import Track, times, write_media
from support.worker_runs import Topic, cut, worker_in_thread

pytestmark = [pytest.mark.kafka, pytest.mark.slow]
SLIDES = ["Opening hours", "Closed on Mondays", "Tickets at the gate"]
SLIDE_SECONDS = 9


@pytest.fixture
def topic(kafka: str, topic_prefix: str) -> Iterator[Topic]:
    made = Topic(kafka, topic_prefix)
    yield made
    made.close()


def slide(number: int) -> NDArray[np.uint8]:
    picture = Image.new("RGB", (640, 360), "white")
    text = SLIDES[number // (24 * SLIDE_SECONDS) % len(SLIDES)]
    ImageDraw.Draw(picture).text((60, 140), text, "black", ImageFont.load_default(40))
    return np.asarray(picture)


def test_slides_of_a_stream_are_found_by_their_text_and_go_with_the_stream(
    topic: Topic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serve.indexing.pipeline import index

    use_fakes(monkeypatch)
    film = write_scenes(tmp_path / "film.mp4", [("red", 3)])
    list(index([str(film)], tmp_path / "data", Settings(workers=1), progress=SilentProgress()))
    monkeypatch.setattr("serve.worker.worker.load_reader", lambda config: load_reader(TextConfig()))
    seconds = SLIDE_SECONDS * len(SLIDES)
    write_media(
        tmp_path / "slides.mp4", format="mp4",
        video=Track(times=times(24 * seconds), width=640, height=360, picture=slide, gop=48),
    )  # fmt: skip
    topic.send(cut(tmp_path / "slides.mp4", "cam"))
    with worker_in_thread(topic, tmp_path) as worker:
        worker.wait_until(lambda: topic.is_ended("cam"))
    segments = topic.segments()

    with (
        Library.open(tmp_path / "data", Settings(workers=1)) as library,
        Catalog.open_editor(tmp_path / "data") as editor,
    ):
        live = LiveRows(editor, library.engine.fingerprint)
        live.apply(list(segments.values()), {})
        for n, text in enumerate(SLIDES):
            [best, *_] = library.moments(Query(text=f'the slide that says "{text}"', channel="text")).moments
            assert (best.video_id, [line.text for line in best.matched_text]) == ("cam", [text])
            assert best.start_seconds == pytest.approx(n * SLIDE_SECONDS, abs=1.1)
            assert best.end_seconds == pytest.approx((n + 1) * SLIDE_SECONDS, abs=1.1)
        live.apply([DeletionRecord(collection="cams", video_id="cam", append_time=2e9)], {})
        assert library.moments(Query(text="opening hours", channel="text")).moments == ()
