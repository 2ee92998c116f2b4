"""Chapters of stored videos: files and live streams."""

from pathlib import Path

import numpy as np
import pytest

from encoders.values import FrameEmbeddings
from serve.catalog import chapters as stored
from serve.catalog.catalog import Catalog
from serve.catalog.chapters import read_outline
from serve.errors import VideoNotFound
from serve.live.live_rows import LiveRows
from support.sample_catalog import FINGERPRINT, MEDIA, WIDTH, new_video, utterance
from support.sample_live import STARTED, STRIDE, live_segment


def put_two_halves(catalog: Catalog) -> None:
    """Index a video of a minute: half of it shows one thing, half another, and somebody names both."""
    row = catalog.begin(new_video("halves"))
    vectors = np.repeat(np.eye(2, WIDTH, dtype=np.float32), 30, axis=0)
    pictures = FrameEmbeddings(epochs=np.zeros(60, np.int32), pts_seconds=np.arange(60.0), vectors=vectors)
    catalog.add_frames(row, pictures, [b"jpeg"] * 60)
    said = [utterance("This is the sea", 3.0), utterance("This is the mountain", 43.0)]
    catalog.add_utterances(row, said, np.eye(2, WIDTH, dtype=np.float32))
    catalog.finish(row, media=MEDIA, duration_seconds=60.0, warnings=())


def test_a_file_has_chapters_of_what_is_stored(catalog: Catalog, reader: Catalog) -> None:
    put_two_halves(catalog)
    first, second = read_outline(reader, reader.video("halves")).chapters
    assert (first.span.start_seconds, first.span.end_seconds, first.title) == (0.0, 29.5, "sea")
    assert (second.span.start_seconds, second.span.end_seconds, second.title) == (29.5, 60.0, "mountain")
    assert second.best_frame_seconds is not None
    assert reader.thumbnail(reader.video("halves").row, second.best_frame_seconds) is not None


def test_highlights_come_if_they_are_asked_for(catalog: Catalog, reader: Catalog) -> None:
    put_two_halves(catalog)
    assert read_outline(reader, reader.video("halves")).highlights == ()
    found = read_outline(reader, reader.video("halves"), 2).highlights
    assert [each.transcript for each in found] == ["This is the sea", "This is the mountain"]


def test_a_deleted_video_has_none(catalog: Catalog, reader: Catalog) -> None:
    put_two_halves(catalog)
    video = reader.video("halves")
    catalog.delete("halves")
    with pytest.raises(VideoNotFound):
        read_outline(reader, video)


def put_stream(directory: Path, *indexes: int) -> None:
    with Catalog.open_editor(directory) as editor:
        live = LiveRows(editor, FINGERPRINT, clock=lambda: STARTED + 1e6)
        live.apply([live_segment(index) for index in indexes], {})


def test_a_live_video_begins_where_its_first_part_is_kept(catalog: Catalog, reader: Catalog, tmp_path: Path) -> None:
    put_stream(tmp_path, 100, 101, 102, 103)
    found = read_outline(reader, reader.video("cam")).chapters
    assert found[0].span.start_seconds == 100 * STRIDE + STRIDE  # a segment brings the second half of its frames
    assert found[-1].span.end_seconds == reader.video("cam").duration_seconds


def test_of_a_long_live_video_only_the_latest_part_has_chapters(
    catalog: Catalog, reader: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "LATEST_SECONDS", 40.0)
    put_stream(tmp_path, *range(20))
    video = reader.video("cam")
    since = video.duration_seconds - 40
    found = read_outline(reader, video).chapters
    said = reader.utterances(video.row, since_seconds=since)
    assert 0 < len(said) == len(reader.utterance_vectors(video.row, since_seconds=since)) < video.utterance_count
    assert since - STRIDE * 2 <= found[0].span.start_seconds <= since
    assert found[-1].span.end_seconds == video.duration_seconds
