"""Reads the chapters of a stored video; they are worked out for each request, from what the catalog holds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoders.values import FrameEmbeddings, Utterance
from serve.catalog.catalog import Catalog
from serve.catalog.spelling import STOP_WORDS
from serve.values import Video
from temporal.chapters.chapters import find_chapters
from temporal.config import ChapterConfig
from temporal.values import Chapter, TimeSpan

LATEST_SECONDS = 24 * 3600.0  # of a live video, only its latest part: a month of vectors would not fit in the memory


def read_chapters(catalog: Catalog, video: Video, config: ChapterConfig = ChapterConfig()) -> list[Chapter]:  # noqa: B008
    """Return the chapters of a video, in order; at least one. Those of a growing live video still change.

    Raises:
        VideoNotFound: If the video is deleted.
    """
    content = _read(catalog, video)
    return find_chapters(content.frames, content.utterances, content.sentences, content.span, STOP_WORDS, config)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    """What is seen and said in a video."""

    frames: FrameEmbeddings
    utterances: Sequence[Utterance]
    sentences: NDArray[np.float32]  # (U, E)
    span: TimeSpan


def _read(catalog: Catalog, video: Video) -> _Content:
    since = max(0.0, video.duration_seconds - LATEST_SECONDS) if video.is_live else 0.0
    with catalog.snapshot():
        frames = catalog.frames(video.row, since_seconds=since)
        utterances, sentences = catalog.utterances(video.row), catalog.utterance_vectors(video.row)
    is_late = np.array([each.end_seconds > since for each in utterances], np.bool_)
    utterances = [each for each, late in zip(utterances, is_late, strict=True) if late]
    start = video.span.start_seconds
    if video.is_live:  # its start may be deleted
        begins = [*frames.pts_seconds[:1].tolist(), *(each.start_seconds for each in utterances[:1])]
        start = max(start, min(begins, default=since))
    end = max([video.duration_seconds, *frames.pts_seconds[-1:].tolist(), *(e.end_seconds for e in utterances[-1:])])
    return _Content(
        frames=frames,
        utterances=utterances,
        sentences=sentences[is_late],
        span=TimeSpan(start_seconds=min(start, end), end_seconds=end),
    )
