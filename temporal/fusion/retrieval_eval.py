"""Evaluates segment vectors by retrieval: do captions find their videos, and their moments inside them?"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from temporal.config import MomentConfig, WindowConfig
from temporal.fusion.training_set import TrainingSet, TrainingVideo
from temporal.metrics import Localised, measure_localisation, recall_at
from temporal.moments.moments import find_moments
from temporal.values import Pooling, Segment
from temporal.window import cut_video

PART_SHARE = 0.8  # a caption of a smaller share of its video is a moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The result of an evaluation: shares in [0, 1]."""

    recall_at_1: float  # share of captions whose video has the nearest segment
    moment_map: float | None  # mAP over tIoU 0.5:0.05:0.95 of the captions of moments; None without such captions
    caption_count: int
    moment_count: int

    def is_no_worse_than(self, other: "Judgement") -> bool:
        """Whether neither share is lower than in the other."""
        return self.recall_at_1 >= other.recall_at_1 and (self.moment_map or 0.0) >= (other.moment_map or 0.0)


def judge(pooling: Pooling, data: TrainingSet, config: WindowConfig | None = None) -> Judgement:
    """Evaluate a way of making segment vectors, by segments alone.

    The similarity of a video is that of its nearest segment. Moments are found on a curve: the mean similarity, at each
    second, of the segments that contain it. If captions are utterances, the model gets no words, because the answer
    would be among them.
    """
    grid = config or WindowConfig()
    cut = [segments_of(video, pooling, grid, shows_words=not data.has_spoken_captions) for video in data.videos]
    similarities = np.stack([_nearest(segments, data.caption_vectors) for segments in cut])  # (V, C)
    ranks, moments = [], []
    for row, caption in enumerate(data.captions):
        near, own = similarities[:, row], similarities[caption.video, row]
        ranks.append(1 + int((near > own).sum()) + int((near[: caption.video] == own).sum()))  # ties rank in order
        video = data.videos[caption.video]
        if 0 < caption.span.length_seconds < PART_SHARE * video.duration_seconds:
            predicted = moments_of(cut[caption.video], data.caption_vectors[row], video.duration_seconds)
            truth = np.array([[caption.span.start_seconds, caption.span.end_seconds]])
            moments.append(Localised(predicted=predicted, truth=truth))
    return Judgement(
        recall_at_1=recall_at(ranks, 1),
        moment_map=measure_localisation(moments).mean_average_precision if moments else None,
        caption_count=len(ranks),
        moment_count=len(moments),
    )


def segments_of(video: TrainingVideo, pooling: Pooling, grid: WindowConfig, *, shows_words: bool) -> list[Segment]:
    """Return the segments of a video that have a vector."""
    utterances = video.utterances if shows_words else ()
    sentences = video.sentences if shows_words else video.sentences[:0]
    cut = cut_video(
        video.name, video.embeddings, utterances, sentences,
        duration_seconds=video.duration_seconds, config=grid, pooling=pooling,
    )  # fmt: skip
    return [part.segment for part in cut if part.segment.vector is not None]


def moments_of(segments: list[Segment], query: NDArray[np.float32], duration_seconds: float) -> NDArray[np.float64]:
    """Return the moments of a query by its similarity to segments: (N, 2), best first."""
    seconds = np.arange(max(1, int(duration_seconds)), dtype=np.float64)
    sums, counts = np.zeros(len(seconds)), np.zeros(len(seconds))
    for segment in segments:
        assert segment.vector is not None
        inside = slice(*np.searchsorted(seconds + 0.5, (segment.span.start_seconds, segment.span.end_seconds)))
        sums[inside] += float(segment.vector @ query)
        counts[inside] += 1
    level = sums.sum() / max(counts.sum(), 1)
    curve = np.where(counts > 0, sums / np.maximum(counts, 1), level).astype(np.float32)
    spans = find_moments(
        seconds, curve, duration_seconds=max(duration_seconds, float(seconds[-1])), config=MomentConfig()
    )
    return np.array([[s.span.start_seconds, s.span.end_seconds] for s in spans], np.float64).reshape(-1, 2)


def _nearest(cut: list[Segment], queries: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the similarity of each query (C, D) to its nearest segment: (C,)."""
    if not cut:
        return np.full(len(queries), -1.0, np.float32)
    vectors = np.stack([segment.vector for segment in cut if segment.vector is not None])
    nearest: NDArray[np.float32] = (queries @ vectors.T).max(axis=1)
    return nearest
