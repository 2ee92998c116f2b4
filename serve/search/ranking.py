"""Fuses the candidates of the channels into one ranking: by confidence, and by rank within each channel.

A channel's ranks are weighed by its trust in its own answer. serve.search.engine uses it.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import numpy as np

from encoders.calibration import WEAK_CONFIDENCE
from serve.search.evidence import ScoredVideo
from serve.search.intent import Intent
from serve.search.speech import Passage
from serve.search.written import Screen
from serve.values import Video
from temporal.moments.moments import tiou
from temporal.values import ScoredSpan, TimeSpan

RANK_CONSTANT = 60  # k of reciprocal rank fusion, as published
# Weight of the visual ranks at confidence 0: an unsure look beats a wild guess at what is said
# (benchmarks/ablation.py).
MIN_VISUAL_TRUST = 0.4
# Weight of an answer's confidence in the order of answers, against its fused ranks, 1 at best. On the training
# half of the development questions, with 1 and more none of the first ten stands above one that is surer by 0.2, and
# with 1.5 most right videos and moments come first (benchmarks/results/answers.md).
CONFIDENCE_WEIGHT = 1.5
SAME_MOMENT_TIOU = 0.3  # a visual and a spoken span that overlap this much are one moment

Entry = TypeVar("Entry")


@dataclass(slots=True, kw_only=True)
class Candidate:
    """A span of one video that a channel, or several, proposes as a moment."""

    video: Video
    span: TimeSpan
    visual: ScoredSpan | None = None  # None: not proposed by the visual channel
    visual_confidence: float = 0.0
    passage: Passage | None = None  # None: not proposed by a speech channel
    spoken_confidence: float = 0.0
    screen: Screen | None = None  # None: not proposed by the text channel
    written_confidence: float = 0.0
    ranks: dict[str, int] = field(default_factory=dict)  # by channel, from 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedMoment:
    """A candidate with its score, by which answers are ordered, and its confidence."""

    candidate: Candidate
    score: float
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedVideo:
    """A video with its score, its confidence, and its best moments."""

    video: Video
    score: float
    confidence: float
    moments: tuple[RankedMoment, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking(Generic[Entry]):
    """All answers to a question, best first. Videos may be deleted before their entries are read."""

    entries: tuple[Entry, ...]
    degraded_channels: tuple[str, ...]  # asked for, but the library lacks them


def rank_in_channel(candidates: Sequence[Candidate], channel: str, keys: Sequence[float]) -> None:
    """Set each candidate's rank in a channel, smallest key first."""
    for rank, n in enumerate(np.argsort(np.asarray(keys), kind="stable"), 1):
        candidates[int(n)].ranks[channel] = rank


def merge_channels(visual: Sequence[Candidate], spoken: Sequence[Candidate], intent: Intent) -> list[Candidate]:
    """Merge each spoken candidate with the visual one that overlaps it most, if any does enough.

    The merged candidate has the span of the channel that weighs more, by the question's intent and by its trust.
    Words that are not even a weak answer take no span from a sight.
    """
    unmerged = list(visual)
    merged = []
    for candidate in spoken:
        assert candidate.passage is not None
        span, row = candidate.span, candidate.video.row
        partners = [c for c in unmerged if c.video.row == row and tiou(c.span, span) >= SAME_MOMENT_TIOU]
        if not partners:
            merged.append(candidate)
            continue
        partner = max(partners, key=lambda c: tiou(c.span, candidate.span))
        unmerged.remove(partner)
        visual_weight = intent.visual_weight * max(partner.visual_confidence, WEAK_CONFIDENCE)
        merged.append(
            replace(
                candidate,
                span=partner.span if visual_weight > intent.speech_weight * candidate.passage.trust else span,
                visual=partner.visual,
                visual_confidence=partner.visual_confidence,
                ranks={**partner.ranks, **candidate.ranks},
            )
        )
    return merged + unmerged


def merge_screens(written: Sequence[Candidate], others: Sequence[Candidate], intent: Intent) -> list[Candidate]:
    """Merge each candidate of the text channel with the one that overlaps it most, if any does enough.

    The merged candidate has the span of the text if that is surer than the other channels.
    """
    unmerged = list(others)
    merged = []
    for candidate in written:
        span, row = candidate.span, candidate.video.row
        partners = [c for c in unmerged if c.video.row == row and tiou(c.span, span) >= SAME_MOMENT_TIOU]
        if not partners:
            merged.append(candidate)
            continue
        partner = max(partners, key=lambda c: tiou(c.span, span))
        unmerged.remove(partner)
        other = combine_confidences(partner.visual_confidence, partner.spoken_confidence, intent)
        own = combine_confidences(0.0, 0.0, intent, candidate.written_confidence)
        merged.append(
            replace(
                partner,
                span=span if own > max(other, WEAK_CONFIDENCE) else partner.span,
                screen=candidate.screen,
                written_confidence=candidate.written_confidence,
                ranks={**partner.ranks, **candidate.ranks},
            )
        )
    return merged + unmerged


def channel_weights(
    visual_confidence: float, passage: Passage | None, intent: Intent, written_confidence: float = 0.0
) -> dict[str, float]:
    """Weigh each channel by the question's intent and by the channel's confidence in its own answer."""
    return {
        "visual": intent.visual_weight * (MIN_VISUAL_TRUST + (1 - MIN_VISUAL_TRUST) * visual_confidence),
        "dense": intent.speech_weight * (passage.dense_trust if passage else 0.0),
        "lexical": intent.speech_weight * (passage.lexical_trust if passage else 0.0),
        "written": intent.text_weight * written_confidence,
    }


def fuse_ranks(ranks: dict[str, int], weights: dict[str, float]) -> float:
    """Return the sum of the channels' weighted reciprocal ranks; 1.0 is rank 1 in every channel, fully trusted."""
    return sum(weights[channel] * (RANK_CONSTANT + 1) / (RANK_CONSTANT + rank) for channel, rank in ranks.items())


def combine_confidences(
    visual_confidence: float, spoken_confidence: float, intent: Intent, written_confidence: float = 0.0
) -> float:
    """Return the confidence 0..1 that the question is answered: the highest of the channels, each by its weight."""
    if intent.is_empty:
        return 0.0
    # Text beside the others does not lower them: a question that names writing may be one for a sight.
    heaviest = max(intent.visual_weight, intent.speech_weight) or 1.0
    visual = visual_confidence * intent.visual_weight / heaviest
    written = written_confidence if intent.text_weight > 0 else 0.0
    return max(visual, spoken_confidence * intent.speech_weight / heaviest, written)


def rank_by_score(candidates: Iterable[Candidate], intent: Intent) -> list[RankedMoment]:
    """Return the candidates by score, best first; equal scores by URI and time."""
    ranked = []
    for each in candidates:
        written = each.written_confidence
        confidence = combine_confidences(each.visual_confidence, each.spoken_confidence, intent, written)
        fused = fuse_ranks(each.ranks, channel_weights(each.visual_confidence, each.passage, intent, written))
        score = fused + CONFIDENCE_WEIGHT * confidence
        ranked.append(RankedMoment(candidate=each, score=score, confidence=confidence))
    ranked.sort(key=lambda each: (-each.score, each.candidate.video.uri, each.candidate.span.start_seconds))
    return ranked


def limit_per_video(ranked: Iterable[RankedMoment], count: int) -> list[RankedMoment]:
    """Return the first `count` moments of each video, in the same order."""
    counts: dict[int, int] = defaultdict(int)
    limited = []
    for moment in ranked:
        row = moment.candidate.video.row
        counts[row] += 1
        if counts[row] <= count:
            limited.append(moment)
    return limited


def score_video(
    candidates: Sequence[Candidate], visual: tuple[int, ScoredVideo] | None, visual_trust: float, intent: Intent
) -> tuple[float, float]:
    """Return the score and the confidence of a whole video.

    The score adds the confidence to the fused ranks: the video's own visual rank, and the best speech ranks of its
    candidates. `visual` is its rank in the visual channel, from 1, and its score there; `visual_trust` the confidence
    0..1 in the channel's whole list.
    """
    ranks: dict[str, int] = {}
    best_passage: Passage | None = None
    for candidate in candidates:
        for channel in ("dense", "lexical", "written"):
            if channel in candidate.ranks:
                ranks[channel] = min(ranks.get(channel, candidate.ranks[channel]), candidate.ranks[channel])
        if candidate.passage and (best_passage is None or candidate.passage.trust > best_passage.trust):
            best_passage = candidate.passage
    visual_confidence = 0.0
    if visual is not None:
        ranks["visual"], visual_confidence = visual[0], visual[1].confidence
    written = max((candidate.written_confidence for candidate in candidates), default=0.0)
    fused = fuse_ranks(ranks, channel_weights(visual_trust, best_passage, intent, written))
    spoken_confidence = max((candidate.spoken_confidence for candidate in candidates), default=0.0)
    confidence = combine_confidences(visual_confidence, spoken_confidence, intent, written)
    return fused + CONFIDENCE_WEIGHT * confidence, confidence
