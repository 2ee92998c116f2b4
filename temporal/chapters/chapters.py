"""Chapters of a video: parts about one thing each, with a title of its own words and a picture."""

from collections.abc import Collection

import numpy as np

from encoders.values import FrameEmbeddings
from temporal.chapters.boundaries import TimedVectors, find_parts, timed_pictures, timed_sentences
from temporal.chapters.titles import titles
from temporal.config import ChapterConfig
from temporal.values import Chapter, TimeSpan, VideoContent


def find_chapters(content: VideoContent, stop_words: Collection[str], config: ChapterConfig) -> tuple[Chapter, ...]:
    """Divide a video into chapters, without gaps; at least one. They may span epochs, as media time does.

    Args:
        stop_words: As in temporal.chapters.titles.
    """
    utterances = content.utterances
    pictures = timed_pictures(content.frames, content.span)
    edges = find_parts(pictures, timed_sentences(utterances, content.sentences), content.span, config)
    middles = [(each.start_seconds + each.end_seconds) / 2 for each in utterances]
    cuts = [0, *np.searchsorted(middles, edges[1:-1]), len(utterances)]
    names = titles([utterances[cuts[i] : cuts[i + 1]] for i in range(len(edges) - 1)], stop_words)
    return tuple(
        Chapter(
            span=TimeSpan(start_seconds=start, end_seconds=end),
            title=name,
            best_frame_seconds=typical_frame(content.frames, pictures, start, end),
        )
        for start, end, name in zip(edges[:-1].tolist(), edges[1:].tolist(), names, strict=True)
    )


def typical_frame(
    frames: FrameEmbeddings, pictures: TimedVectors, start_seconds: float, end_seconds: float
) -> float | None:
    """Return the time of the frame, of those shown in a span, that is nearest to their mean; None: there is none."""
    first, last = np.searchsorted(pictures.ends, start_seconds, "right"), np.searchsorted(pictures.starts, end_seconds)
    if first >= last:
        return None
    last = max(first + 1, np.searchsorted(frames.pts_seconds, end_seconds))  # a later one is of what comes after
    shown, vectors = slice(first, last), pictures.vectors[first:last]
    seconds = np.minimum(pictures.ends[shown], end_seconds) - np.maximum(pictures.starts[shown], start_seconds)
    return float(frames.pts_seconds[first + int(np.argmax(vectors @ (seconds.astype(np.float32) @ vectors)))])
