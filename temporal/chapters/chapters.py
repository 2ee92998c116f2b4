"""Chapters of a video: parts about one thing each, with a title of its own words and a picture."""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from encoders.values import FrameEmbeddings, Utterance
from temporal.chapters.boundaries import TimedVectors, find_parts, integrals, timed_pictures, timed_sentences
from temporal.chapters.titles import titles
from temporal.config import ChapterConfig
from temporal.values import Chapter, TimeSpan


def find_chapters(
    frames: FrameEmbeddings,
    utterances: Sequence[Utterance],
    sentences: NDArray[np.float32],
    span: TimeSpan,
    stop_words: Collection[str],
    config: ChapterConfig,
) -> list[Chapter]:
    """Divide a video into chapters, without gaps; at least one. They may span epochs, as media time does.

    Args:
        frames: All of the video; D is 0 without a visual encoder.
        utterances: All of the video, in order of time.
        sentences: Their vectors, (U, E), unit length; E is 0 without a sentence encoder.
        span: Of the video.
        stop_words: As in temporal.chapters.titles.
    """
    pictures = timed_pictures(frames, span)
    edges = find_parts(pictures, timed_sentences(utterances, sentences), span, config)
    middles = [(each.start_seconds + each.end_seconds) / 2 for each in utterances]
    cuts = [0, *np.searchsorted(middles, edges[1:-1]), len(utterances)]
    names = titles([utterances[cuts[i] : cuts[i + 1]] for i in range(len(edges) - 1)], stop_words)
    return [
        Chapter(
            span=TimeSpan(start_seconds=start, end_seconds=end),
            title=name,
            best_frame_seconds=typical_frame(frames, pictures, start, end),
        )
        for start, end, name in zip(edges[:-1].tolist(), edges[1:].tolist(), names, strict=True)
    ]


def typical_frame(
    frames: FrameEmbeddings, pictures: TimedVectors, start_seconds: float, end_seconds: float
) -> float | None:
    """Return the time of the frame, of those shown in a span, that is nearest to their mean; None: there is none."""
    first, last = np.searchsorted(pictures.ends, start_seconds, "right"), np.searchsorted(pictures.starts, end_seconds)
    if first >= last:
        return None
    sums, _ = integrals(pictures, np.array([start_seconds, end_seconds]))
    return float(frames.pts_seconds[first + int(np.argmax(pictures.vectors[first:last] @ (sums[1] - sums[0])))])
