"""Reads the chapters and highlights of a stored video, worked out for each request from what the catalog holds."""

from serve.catalog.catalog import Catalog
from serve.catalog.spelling import STOP_WORDS
from serve.values import Video
from temporal.chapters.chapters import find_chapters
from temporal.chapters.highlights import find_highlights
from temporal.config import ChapterConfig
from temporal.values import Outline, TimeSpan, VideoContent

LATEST_SECONDS = 24 * 3600.0  # of a live video, only its latest part: a month of vectors would not fit in the memory


def read_outline(catalog: Catalog, video: Video, highlight_count: int = 0) -> Outline:
    """Return the chapters and some highlights of a video. Those of a growing live video still change.

    Raises:
        VideoNotFound: If the video is deleted.
    """
    content = _read(catalog, video)
    return Outline(
        chapters=find_chapters(content, STOP_WORDS, ChapterConfig()),
        highlights=find_highlights(content, highlight_count) if highlight_count else (),
    )


def _read(catalog: Catalog, video: Video) -> VideoContent:
    since = max(0.0, video.duration_seconds - LATEST_SECONDS) if video.is_live else 0.0
    with catalog.snapshot():
        frames = catalog.frames(video.row, since_seconds=since)
        utterances = catalog.utterances(video.row, since_seconds=since)
        sentences = catalog.utterance_vectors(video.row, since_seconds=since)
    start = video.span.start_seconds
    if video.is_live:  # its start may be deleted
        begins = [*frames.pts_seconds[:1].tolist(), *(each.start_seconds for each in utterances[:1])]
        start = max(start, min(begins, default=since))
    end = max([video.duration_seconds, *frames.pts_seconds[-1:].tolist(), *(e.end_seconds for e in utterances[-1:])])
    return VideoContent(
        frames=frames,
        utterances=utterances,
        sentences=sentences,
        span=TimeSpan(start_seconds=min(start, end), end_seconds=end),
    )
