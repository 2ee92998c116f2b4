"""Storyboards of stored videos, and what collections hold."""

from pathlib import Path

import numpy as np

from encoders.values import FrameEmbeddings
from serve.catalog.catalog import Catalog
from serve.catalog.collection_counts import count_collections
from serve.catalog.rows import StoredTraits
from serve.catalog.storyboard import MAX_SHOT_COUNT, clearest_cuts, read_storyboard
from serve.indexing.job import NewJob
from serve.indexing.jobs import JobQueue
from serve.overview import CollectionSummary
from support.sample_catalog import MEDIA, WIDTH, new_video, put
from temporal.moments.shots import Changes, change_strengths
from temporal.values import TimeSpan


def put_minute(catalog: Catalog) -> None:
    """Index a minute of two shots, a picture a second, with a pause in the pictures from 40 s to 55 s."""
    row = catalog.begin(new_video("minute"))
    times = np.array([float(n) for n in range(60) if not 40 < n < 55])
    vectors = np.where(times[:, None] < 30, np.eye(2, WIDTH)[0], np.eye(2, WIDTH)[1]).astype(np.float32)
    pictures = FrameEmbeddings(epochs=np.zeros(len(times), np.int32), pts_seconds=times, vectors=vectors)
    catalog.add_frames(row, pictures, [b"jpeg"] * len(times))
    strengths = change_strengths(pictures)
    catalog.add_traits(row, StoredTraits(change_strengths=strengths, captions="captions", caption_scores=None))
    catalog.finish(row, media=MEDIA, duration_seconds=60.0, warnings=())


def test_pictures_stand_at_even_steps_and_each_once(catalog: Catalog, reader: Catalog) -> None:
    put_minute(catalog)
    video = reader.video("minute")
    board = read_storyboard(reader, video, None, 6)
    assert board.picture_seconds == (0.0, 10.0, 20.0, 30.0, 40.0)  # at 50 s, the picture of 40 s still stands
    assert (board.span, board.shot_seconds) == (TimeSpan(start_seconds=0.0, end_seconds=60.0), (29.5,))
    for at in (0.0, 10.4, 10.6, 47.0, 54.7, 59.9):
        shown = reader.thumbnail(video.row, at)
        at_once = read_storyboard(reader, video, TimeSpan(start_seconds=at, end_seconds=60.0), 1).picture_seconds
        assert shown is not None
        assert at_once == (shown[0],)


def test_a_part_is_that_of_the_video(catalog: Catalog, reader: Catalog) -> None:
    put_minute(catalog)
    video = reader.video("minute")
    part = read_storyboard(reader, video, TimeSpan(start_seconds=42.0, end_seconds=900.0), 1000)
    assert part.span == TimeSpan(start_seconds=42.0, end_seconds=60.0)
    assert part.picture_seconds == (40.0, 55.0, 56.0, 57.0, 58.0, 59.0)
    assert part.shot_seconds == ()
    beyond = read_storyboard(reader, video, TimeSpan(start_seconds=900.0, end_seconds=901.0), 3)
    assert beyond.span == TimeSpan(start_seconds=60.0, end_seconds=60.0)


def test_a_video_without_pictures_has_none(catalog: Catalog, reader: Catalog) -> None:
    catalog.finish(catalog.begin(new_video("sound")), media=MEDIA, duration_seconds=9.0, warnings=())
    board = read_storyboard(reader, reader.video("sound"), None, 5)
    assert (board.picture_seconds, board.shot_seconds) == ((), ())


def test_of_too_many_shots_the_clearest_count() -> None:
    count = MAX_SHOT_COUNT + 5
    strengths = np.linspace(0.2, 1.0, count).astype(np.float32)
    cuts = Changes(seconds=np.arange(count) + 0.5, strengths=strengths, is_cut=np.ones(count, np.bool_))
    chosen = clearest_cuts(cuts, TimeSpan(start_seconds=0.0, end_seconds=float(count)))
    assert chosen == tuple(n + 0.5 for n in range(5, count))


def test_collections_are_counted_with_their_jobs(catalog: Catalog, reader: Catalog, tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        put(catalog, f"film of {name}", collection=name)
    put(catalog, "another", collection="b")
    queue = JobQueue(catalog)
    for name, collection in (("waits", "b"), ("alone", "jobs")):
        uri = f"https://example.org/{name}.mp4"
        queue.submit(NewJob(collection=collection, video_id=name, uri=uri, display_uri=uri))
    every = count_collections(reader, None, after="", limit=10)
    assert [(each.collection, each.video_count, each.processing_count) for each in every] == [
        ("a", 1, 0),
        ("b", 2, 1),
        ("c", 1, 0),
        ("default", 0, 0),
        ("jobs", 0, 1),
    ]
    assert every[1].duration_seconds == sum(each.duration_seconds for each in reader.videos(collection="b"))
    assert count_collections(reader, None, after="a", limit=1) == every[1:2]
    assert count_collections(reader, ("c", "empty"), after="", limit=10) == [
        every[2],
        CollectionSummary(collection="empty"),
    ]
