"""Spans that channels propose -> one ranking: ranks within each channel, weighed by how far each may be trusted."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import numpy as np

from encoders.calibration import MATCH_CONFIDENCE, WEAK_CONFIDENCE
from serve.search.intent import Intent
from serve.search.speech import Passage
from serve.search.visual import ScoredVideo
from serve.values import Verdict, Video
from temporal.moments.moments import tiou
from temporal.values import ScoredSpan, TimeSpan

RANK_CONSTANT = 60  # k of reciprocal rank fusion, as published
# Least weight of the visual ranks: an unsure look beats a wild guess at what is said (benchmarks/ablation.py).
MIN_VISUAL_TRUST = 0.4
SAME_MOMENT_TIOU = 0.3  # a seen and a spoken span that overlap this much are one moment

Entry = TypeVar("Entry")


@dataclass(slots=True, kw_only=True)
class Candidate:
    """A span of one video on its way to being a moment."""

    video: Video
    span: TimeSpan
    seen: ScoredSpan | None = None
    seen_confidence: float = 0.0
    spoken: Passage | None = None
    ranks: dict[str, int] = field(default_factory=dict)  # channel -> place in its list, from 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedMoment:
    """A candidate in its place."""

    candidate: Candidate
    score: float
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedVideo:
    """A video in its place, with its best moments."""

    video: Video
    score: float
    confidence: float
    moments: tuple[RankedMoment, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking(Generic[Entry]):
    """Everything that answers a question, best first; what is not yet read of it may be gone when it is."""

    entries: tuple[Entry, ...]
    degraded_channels: tuple[str, ...]


def rank(candidates: Sequence[Candidate], channel: str, keys: Sequence[float]) -> None:
    """Write each candidate's place in a channel's list, from 1, smallest key first."""
    for place, n in enumerate(np.argsort(np.asarray(keys), kind="stable"), 1):
        candidates[int(n)].ranks[channel] = place


def merged(shown: Sequence[Candidate], spoken: Sequence[Candidate], intent: Intent) -> list[Candidate]:
    """Make one candidate of a seen and a spoken span that overlap, with the more trusted channel's edges."""
    left = list(shown)
    together = []
    for heard in spoken:
        assert heard.spoken is not None
        partners = [c for c in left if c.video.row == heard.video.row and tiou(c.span, heard.span) >= SAME_MOMENT_TIOU]
        if not partners:
            together.append(heard)
            continue
        sight = max(partners, key=lambda c: tiou(c.span, heard.span))
        left.remove(sight)
        by_sight = intent.visual_weight * sight.seen_confidence > intent.speech_weight * heard.spoken.confidence
        together.append(
            replace(
                heard,
                span=sight.span if by_sight else heard.span,
                seen=sight.seen,
                seen_confidence=sight.seen_confidence,
                ranks={**sight.ranks, **heard.ranks},
            )
        )
    return together + left


def channel_weights(seen_confidence: float, spoken: Passage | None, intent: Intent) -> dict[str, float]:
    """Weigh each channel by what the question asks for and by how far the channel trusts its own answer."""
    return {
        "visual": intent.visual_weight * (MIN_VISUAL_TRUST + (1 - MIN_VISUAL_TRUST) * seen_confidence),
        "dense": intent.speech_weight * (spoken.dense_confidence if spoken else 0.0),
        "lexical": intent.speech_weight * (spoken.lexical_confidence if spoken else 0.0),
    }


def fused(ranks: dict[str, int], weights: dict[str, float]) -> float:
    """Sum the channels' gated reciprocal ranks; 1.0 is first place, fully trusted, in every channel."""
    return sum(weights[channel] * (RANK_CONSTANT + 1) / (RANK_CONSTANT + place) for channel, place in ranks.items())


def agreed(seen_confidence: float, spoken: Passage | None, intent: Intent) -> float:
    """Return the confidence 0..1 that the question is answered, by the channels it asks for."""
    heaviest = max(intent.visual_weight, intent.speech_weight)
    visual = seen_confidence * intent.visual_weight / heaviest
    speech = (spoken.confidence if spoken else 0.0) * intent.speech_weight / heaviest
    return max(visual, speech)


def verdict_of(confidence: float) -> Verdict:
    if confidence >= MATCH_CONFIDENCE:
        return Verdict.MATCH
    return Verdict.WEAK if confidence >= WEAK_CONFIDENCE else Verdict.NO_MATCH


def by_score(candidates: Iterable[Candidate], intent: Intent) -> list[RankedMoment]:
    """Put candidates in order, best first; equal ones by URI and time."""
    ranked = [
        RankedMoment(
            candidate=one,
            score=fused(one.ranks, channel_weights(one.seen_confidence, one.spoken, intent)),
            confidence=agreed(one.seen_confidence, one.spoken, intent),
        )
        for one in candidates
    ]
    ranked.sort(key=lambda one: (-one.score, one.candidate.video.uri, one.candidate.span.start_seconds))
    return ranked


def first_of_each(ranked: Iterable[RankedMoment], count: int) -> list[RankedMoment]:
    """Keep the first `count` of each video."""
    taken: dict[int, int] = defaultdict(int)
    kept = []
    for one in ranked:
        row = one.candidate.video.row
        taken[row] += 1
        if taken[row] <= count:
            kept.append(one)
    return kept


def whole_video(
    candidates: Sequence[Candidate], seen: tuple[int, ScoredVideo] | None, visual_trust: float, intent: Intent
) -> tuple[float, float]:
    """Return a video's score and confidence: its own visual rank, weighed by the trust in that list, fused with the
    ranks of the best that is said in it."""
    ranks: dict[str, int] = {}
    best_spoken: Passage | None = None
    for candidate in candidates:
        for channel in ("dense", "lexical"):
            if channel in candidate.ranks:
                ranks[channel] = min(ranks.get(channel, candidate.ranks[channel]), candidate.ranks[channel])
        if candidate.spoken and (best_spoken is None or candidate.spoken.confidence > best_spoken.confidence):
            best_spoken = candidate.spoken
    seen_confidence = 0.0
    if seen is not None:
        ranks["visual"], seen_confidence = seen[0], seen[1].confidence
    return fused(ranks, channel_weights(visual_trust, best_spoken, intent)), agreed(
        seen_confidence, best_spoken, intent
    )
