"""Reads the storyboard of a stored video: which of its pictures show a part of it evenly, and where shots begin."""

import json

import numpy as np

from serve.catalog.catalog import Catalog
from serve.catalog.reader import NEAR_SECONDS
from serve.catalog.rows import frame_times_of
from serve.timeline import VideoStoryboard
from serve.values import Video
from temporal.moments.shots import Changes, changes_of
from temporal.values import TimeSpan

MAX_SHOT_COUNT = 1_000  # shots of one storyboard or curve: a timeline has no more pixels


def read_storyboard(catalog: Catalog, video: Video, span: TimeSpan | None, picture_count: int) -> VideoStoryboard:
    """Return the pictures shown at `picture_count` even steps from the start of a part of a video, each once.

    Args:
        span: The part, of which only what the video has counts; None: the whole video.
    Raises:
        VideoNotFound: If the video is deleted.
    """
    part = clip_span(span, video)
    step = part.length_seconds / picture_count
    with catalog.snapshot():
        pictures = _pictures_at(catalog, video.row, [part.start_seconds + n * step for n in range(picture_count)])
        shots = () if video.is_live else shots_of(catalog, video.row, part)
    return VideoStoryboard(span=part, picture_seconds=pictures, shot_seconds=shots)


def clip_span(span: TimeSpan | None, video: Video) -> TimeSpan:
    """Return the part of a span that a video has; None stands for the whole video."""
    whole = video.span
    if span is None:
        return whole
    start, end = (
        min(max(seconds, whole.start_seconds), whole.end_seconds) for seconds in (span.start_seconds, span.end_seconds)
    )
    return TimeSpan(start_seconds=start, end_seconds=end)


def clearest_cuts(changes: Changes, span: TimeSpan) -> tuple[float, ...]:
    """Return where shots begin inside a span, in order: the MAX_SHOT_COUNT strongest cuts."""
    inside = changes.within(span.start_seconds, span.end_seconds)
    seconds, strengths = inside.cut_seconds, inside.strengths[inside.is_cut]
    if len(seconds) > MAX_SHOT_COUNT:
        seconds = seconds[np.sort(np.argpartition(-strengths, MAX_SHOT_COUNT)[:MAX_SHOT_COUNT])]
    return tuple(seconds.tolist())


def _pictures_at(catalog: Catalog, row: int, times: list[float]) -> tuple[float, ...]:
    """Return the times of the pictures that Catalog.thumbnail() finds at each of some times, ascending, each once."""
    near = "SELECT pts_seconds FROM thumbnails WHERE video_row = ?1 AND pts_seconds"
    rows = catalog.select(
        f"SELECT value, ({near} <= value ORDER BY pts_seconds DESC LIMIT 1), ({near} > value ORDER BY pts_seconds"
        " LIMIT 1) FROM json_each(?2)", row, json.dumps(times)
    )  # fmt: skip
    pictures = set()
    for at, before, after in rows:
        is_next_near = after is not None and after <= at + NEAR_SECONDS and (before is None or after - at < at - before)
        pictures.add(after if before is None or is_next_near else before)
    return tuple(sorted(pictures - {None}))


def shots_of(catalog: Catalog, row: int, span: TimeSpan) -> tuple[float, ...]:
    """Return where shots begin inside a part of a file; none if an older program indexed it."""
    traits = catalog.traits(row)
    if traits is None:
        return ()
    _, epochs, pts_seconds = frame_times_of(catalog.frame_times(row), catalog.directory)
    return clearest_cuts(changes_of(epochs, pts_seconds, traits.change_strengths), span)
