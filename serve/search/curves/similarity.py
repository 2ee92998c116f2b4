"""Traces how close one video is to a question along its time: what the channels score, not only what they answer."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from serve.catalog.storyboard import clearest_cuts, clip_span, shots_of
from serve.errors import VideoNotFound
from serve.search.engine import Engine
from serve.search.speech import terms_of
from serve.search.target import Target
from serve.search.visual import FrameScores
from serve.search.written import share_time
from serve.timeline import ScoredPart, SimilarityCurve
from serve.values import Filter, Query, Video
from temporal.values import TimeSpan

MAX_MOMENT_COUNT = 100  # moments of one curve: a page of SearchMoments has no more


def trace_similarity(
    engine: Engine,
    query: Query,
    video: Video,
    span: TimeSpan | None,
    point_count: int,
    pixels: NDArray[np.uint8] | None = None,
    check: Callable[[], None] = lambda: None,
) -> SimilarityCurve:
    """Return the curve of a question along a video that is in the answers.

    Args:
        query: The question. Its filter does not count.
        span: The part, of which only what the video has counts; None: the whole video.
        point_count: The most points of the visual curve.
        pixels, check: As in Engine.rank_moments().
    Raises:
        VideoNotFound, NoVisualEncoder: As Engine.rank_moments().
    """
    part = clip_span(span, video)
    only = Filter(collections=(video.collection,), video_ids=(video.video_id,))
    ranking = engine.rank_moments(replace(query, filter=only), pixels, check)
    entries = [entry for entry in ranking.entries if share_time(entry.candidate.span, part)]
    moments, _ = engine.page_of_moments(replace(ranking, entries=tuple(entries)), 0, MAX_MOMENT_COUNT)
    with engine.snapshot():
        if (now := engine.videos.get(video.row)) is None:
            raise VideoNotFound(video.video_id)
        video = now  # a live video may have grown since
        target = engine.target_of(query, pixels)
        curve = _score_frames(engine, target, video)
        check()
        shots: tuple[float, ...] = ()
        if curve is not None and engine.visual is not None:
            shots = clearest_cuts(engine.visual.changes_along(curve), part)
        elif not video.is_live:
            shots = shots_of(engine.catalog, video.row, part)
        return SimilarityCurve(
            span=part,
            visual_points=() if curve is None else _thin_out(curve, part, point_count),
            speech_parts=_order(_spoken_parts(engine, target, video), part),
            text_parts=_order(_written_parts(engine, query, target, video), part),
            shot_seconds=shots,
            moments=moments,
            degraded_channels=ranking.degraded_channels,
        )


def _score_frames(engine: Engine, target: Target, video: Video) -> FrameScores | None:
    if target.visual is None or engine.visual is None:
        return None
    return engine.visual.score_frames(target.visual.vector, video, target.excluded_visual)


def _thin_out(curve: FrameScores, part: TimeSpan, point_count: int) -> tuple[tuple[float, float], ...]:
    """Return time and score of the frames in a part: of each of `point_count` even steps, the highest."""
    times = curve.frames.pts_seconds
    first, last = (int(n) for n in np.searchsorted(times, (part.start_seconds, part.end_seconds)))
    times, values = times[first:last], curve.values[first:last]
    if len(times) > point_count:
        steps = ((times - part.start_seconds) * (point_count / part.length_seconds)).astype(np.int64)
        order = np.lexsort((values, steps))
        chosen = order[np.flatnonzero(np.diff(steps[order], append=steps[order[-1]] + 1))]
        times, values = times[chosen], values[chosen]
    return tuple(zip(times.tolist(), values.tolist(), strict=True))


def _spoken_parts(engine: Engine, target: Target, video: Video) -> Iterator[ScoredPart]:
    if target.speech is None or target.intent is None:
        return
    rows = [video.row]
    words = engine.speech.find_words(terms_of(target.intent), rows)
    for passage in engine.speech.find_passages(target.speech, words, rows, target.intent):
        if not engine.is_excluded(passage, target):
            yield ScoredPart(span=passage.span, score=passage.cosine, text=passage.text)


def _written_parts(engine: Engine, query: Query, target: Target, video: Video) -> Iterator[ScoredPart]:
    intent = target.intent
    if engine.written is None or intent is None or intent.text_weight <= 0 or not query.text.strip():
        return
    vector = engine.sentences.encode([intent.written_text])[0]
    for screen in engine.written.find_screens(vector, intent, [video.row]):
        text = "\n".join(line.text for line in screen.matched)
        yield ScoredPart(span=screen.span, score=screen.cosine, text=text)


def _order(parts: Iterator[ScoredPart], part: TimeSpan) -> tuple[ScoredPart, ...]:
    """Return the parts that share time with a part of the video, in order of time."""
    inside = [each for each in parts if share_time(each.span, part)]
    return tuple(sorted(inside, key=lambda each: (each.span.start_seconds, each.span.end_seconds)))
