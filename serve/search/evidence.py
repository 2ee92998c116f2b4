"""Evidence: measures what speaks for each answer of the visual channel, and turns it into confidences.

Each moment is judged by its own seconds. The question's similarity to the mean picture of these seconds is compared
with that of captions of anything to the same picture. So a picture that is near to every text does not count, and the
length of a video does not either. The best frames of the video, the best other video, and the question itself say how
much that means. The encoder's calibration weighs them. An answer that looks alike is no other answer: a copy of a film,
or a scene that returns, says nothing against the first.

A picture as the question has a scale of its own: pictures are nearer to pictures than texts are. Its confidence is read
off its cosine with the best frame of the moment.

Source: comparing a score with those of other questions on the same sample, and with those of the same question on other
samples, is the score normalisation of speaker verification (Z-norm and T-norm, R. Auckenthaler et al., 2000).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoders.calibration import Calibration, Evidence
from serve.search.traits import CaptionBank
from serve.values import Video
from temporal.values import ScoredSpan

Floats = NDArray[np.float32]

MAX_Z = 8.0  # larger z scores and margins say no more
# Videos beyond this count are not counted: no larger library was calibrated. The margin falls with their number anyway.
MAX_VIDEO_COUNT = 50
COMPARED_COUNT = 8  # answers, best first, with which the others are compared in one step
# Moments whose mean pictures have at least this cosine look alike. One in a thousand pairs of moments of different
# development videos has 0.93.
ALIKE_COSINE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VisualQuery:
    """What the visual channel looks for, as unit vectors float32 (D,), and its parts. At least one part is there."""

    vector: Floats  # by which frames are ranked: the parts, mixed
    text: Floats | None = None
    picture: Floats | None = None
    picture_share: float = 0.0  # 0..1, of the picture in the confidence

    @classmethod
    def of_text(cls, vector: Floats) -> "VisualQuery":
        return cls(vector=vector, text=vector)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredVideo:
    """How well one video shows what a question asks for. The defaults are for a video too far down to be judged."""

    video: Video
    score: float  # de-biased similarity of the whole video, about -0.2..0.5
    confidence: float = 0.0  # 0..1 that the video shows it
    moment_score: float = 0.0  # as score, of the video's best frames
    moments: tuple[ScoredSpan, ...] = ()  # best first
    confidences: tuple[float, ...] = ()  # of each moment, 0..1 that it shows it


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WeighedVideo:
    """One video's part of the evidence. It does not depend on the other videos that are searched."""

    video: Video
    score: float  # as in ScoredVideo
    moment_score: float  # as in ScoredVideo
    frame_count: int
    z: float  # z score of the best frames
    moments: tuple[ScoredSpan, ...]
    own: tuple[float, ...]  # z score of the frames of each moment
    pictures: Floats  # (M, D), unit length: the mean picture of each moment
    likeness: tuple[float, ...]  # cosine of the best frame of each moment and the question's picture; 0 without one

    @property
    def moment_scores(self) -> tuple[float, ...]:
        """The score of each moment, by which moments of all videos are ranked."""
        return tuple(self.moment_score + moment.score for moment in self.moments)

    @property
    def best_picture(self) -> Floats:
        """The mean picture of the best moment, (D,): videos in which it looks alike are copies. 0 without a moment."""
        return self.pictures[0] if len(self.pictures) else np.zeros(self.pictures.shape[1], np.float32)


def z_score(score: float, mean: float, spread: float) -> float:
    """Return how many standard deviations a score is above the scores of captions of anything on the same frames."""
    return (score - mean) / max(spread, 1e-6)


def z_scores(vectors: Floats, query: Floats, captions: CaptionBank) -> list[float]:
    """Return the z score of a question on each of M pictures, (M, D) of any length."""
    generic = vectors @ captions.unbiased  # (M, K)
    spread = np.maximum(generic.std(axis=1), 1e-6 * np.linalg.norm(vectors, axis=1))
    scores: list[float] = ((vectors @ (query - captions.bias) - generic.mean(axis=1)) / spread).tolist()
    return scores


def evidence_of(
    weighed: Sequence[WeighedVideo], generality: float, video_count: int
) -> list[tuple[Evidence, list[Evidence]]]:
    """Return the evidence for each video and for each of its moments.

    Args:
        weighed: The best videos.
        generality: See encoders.calibration.Evidence.
        video_count: All videos that were searched.
    """
    best_pictures = np.stack([video.best_picture for video in weighed]) if weighed else np.empty((0, 0), np.float32)
    pictures = np.concatenate([video.pictures for video in weighed]) if weighed else best_pictures
    margins = lead_over_others([video.z for video in weighed], best_pictures, ALIKE_COSINE)
    leads = lead_over_others([video.score for video in weighed], best_pictures, ALIKE_COSINE)
    moment_leads = iter(
        lead_over_others([each for video in weighed for each in video.moment_scores], pictures, ALIKE_COSINE)
    )
    found = []
    for video, margin, lead in zip(weighed, margins, leads, strict=True):

        def evidence(
            own: float, lead: float | None, video: WeighedVideo = video, margin: float | None = margin
        ) -> Evidence:
            return Evidence(
                own=_clip(own),
                video=_clip(video.z),
                margin=_clip(margin or 0.0),
                lead=lead or 0.0,
                generality=generality,
                log_frames=math.log(video.frame_count),
                log_videos=math.log(min(video_count, MAX_VIDEO_COUNT)),
                is_alone=float(margin is None),
            )

        whole = evidence(max(video.own, default=video.z), lead)
        found.append((whole, [evidence(own, next(moment_leads)) for own in video.own]))
    return found


def lead_over_others(values: Sequence[float], vectors: Floats, alike_cosine: float) -> list[float | None]:
    """Return by how much each of N values is above the best of the others: negative below it, None without others.

    Args:
        values: Of the answers.
        vectors: Of the answers, (N, D), unit length or 0.
        alike_cosine: Answers whose vectors have at least this cosine are one answer.
    """
    ranked = np.argsort(values)[::-1]
    best: list[float | None] = [None] * len(values)
    left = np.arange(len(values))  # answers whose best other is not found yet: after the first few of `ranked`, copies
    for start in range(0, len(values), COMPARED_COUNT):
        others = ranked[start : start + COMPARED_COUNT]
        is_other = (vectors[left] @ vectors[others].T < alike_cosine) & (left[:, None] != others)
        has_other = is_other.any(axis=1)
        for answer, other in zip(left[has_other], others[is_other[has_other].argmax(axis=1)], strict=True):
            best[answer] = values[other]
        left = left[~has_other]
        if not len(left):
            break
    return [None if other is None else value - other for value, other in zip(values, best, strict=True)]


def judge_videos(
    weighed: Sequence[WeighedVideo], query: VisualQuery, video_count: int, captions: CaptionBank, by: Calibration
) -> list[ScoredVideo]:
    """Return the videos, and their moments, with their confidences.

    For a text and a picture together, the two confidences are mixed as the question says.
    """
    share = query.picture_share if query.text is not None else 1.0
    generality = float(captions.direction @ query.text) if query.text is not None else 0.0
    scored = []
    for video, (whole, parts) in zip(weighed, evidence_of(weighed, generality, video_count), strict=True):
        alike = [by.picture.confidence(each) if share else 0.0 for each in video.likeness]
        confidences = [share * alike[n] + (1 - share) * by.moment.confidence(part) for n, part in enumerate(parts)]
        confidence = share * max(alike, default=0.0) + (1 - share) * by.video.confidence(whole)
        scored.append(
            ScoredVideo(
                video=video.video,
                score=video.score,
                confidence=confidence,
                moment_score=video.moment_score,
                moments=video.moments,
                confidences=tuple(confidences),
            )
        )
    return scored


def _clip(z: float) -> float:
    return min(max(z, -MAX_Z), MAX_Z)
