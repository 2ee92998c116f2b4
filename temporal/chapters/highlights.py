"""Highlights: the few moments of a video that together tell most of it.

Each second of the video counts as told by the chosen moment that is most like it, in pictures and words. The moments
are chosen one by one, each the one that tells most beyond those before it: so they are typical, and none tells the same
twice. This is facility location, for which such greedy choice is within 1 - 1/e of the best. Sources: Nemhauser, Wolsey
and Fisher, "An analysis of approximations for maximizing submodular set functions", 1978; Lin and Bilmes, "A class of
submodular functions for document summarization", ACL 2011.
"""

import numpy as np

from temporal.chapters.boundaries import Floats, TimedVectors, find_parts, integrals, timed_pictures, timed_sentences
from temporal.chapters.chapters import typical_frame
from temporal.config import ChapterConfig
from temporal.values import Highlight, TimeSpan, VideoContent

# Moments of 5 to 15 s that begin at changes of the picture and in pauses.
MOMENTS = ChapterConfig(price_factor=0.05, min_seconds=5.0, max_seconds=15.0, max_count=10_000)


def find_highlights(content: VideoContent, count: int) -> tuple[Highlight, ...]:
    """Return at most `count` moments of a video, in order of time; fewer if the others tell nothing more."""
    pictures = timed_pictures(content.frames, content.span)
    speech = timed_sentences(content.utterances, content.sentences)
    edges = find_parts(pictures, speech, content.span, MOMENTS)
    likeness = _likeness(pictures, edges) + MOMENTS.speech_weight * _likeness(speech, edges)
    return tuple(
        _highlight(content, pictures, edges[i], edges[i + 1]) for i in _choose(likeness, np.diff(edges), count)
    )


def _likeness(track: TimedVectors, edges: Floats) -> Floats:
    """Return how alike the mean vectors of two parts are: (P, P), 0 to 1; 0 for a part without any."""
    sums, _ = integrals(track, edges)
    means = np.diff(sums, axis=0)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    means = np.divide(means, lengths, out=np.zeros_like(means), where=lengths > 1e-6)
    likeness: Floats = np.maximum(means @ means.T, 0)
    return likeness


def _choose(likeness: Floats, seconds: Floats, count: int) -> list[int]:
    """Return the parts to choose, (H,), ascending; `seconds` (P,) says how much each part counts."""
    told = np.zeros(len(seconds))
    chosen: list[int] = []
    for _ in range(min(count, len(seconds))):
        gains = seconds @ np.maximum(likeness - told[:, None], 0)
        best = int(np.argmax(gains))
        if gains[best] <= 1e-6 * seconds.sum():
            break
        chosen.append(best)
        told = np.maximum(told, likeness[:, best])
    return sorted(chosen)


def _highlight(content: VideoContent, pictures: TimedVectors, start_seconds: float, end_seconds: float) -> Highlight:
    start, end = float(start_seconds), float(min(end_seconds, start_seconds + MOMENTS.max_seconds))
    return Highlight(
        span=TimeSpan(start_seconds=start, end_seconds=end),
        best_frame_seconds=typical_frame(content.frames, pictures, start, end),
        transcript=" ".join(
            each.text for each in content.utterances if each.start_seconds < end and each.end_seconds > start
        ),
    )
