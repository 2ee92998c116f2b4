"""Metrics of answers: ranking of videos, localisation of moments, rejection of absent events.

Ranking: recall@k, median rank, nDCG (Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques",
2002). Localisation: R1@tIoU, mAP over tIoU 0.5:0.05:0.95 and mIoU as QVHighlights defines them (Lei, Berg and Bansal,
"Detecting Moments and Highlights in Videos via Natural Language Queries", 2021). Their mAP is that of ActivityNet's
detection challenge, computed for each query alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IOU_THRESHOLDS = tuple(float(each) / 100 for each in range(50, 100, 5))
RECALL_THRESHOLDS = (0.3, *IOU_THRESHOLDS)  # of R1@tIoU; 0.3 is that of ActivityNet Captions and Charades-STA
BEST_COUNT = 10  # predictions that count for a query; QVHighlights ignores the rest
LENGTH_BUCKETS_SECONDS = {"short": (0.0, 10.0), "middle": (10.0, 30.0), "long": (30.0, 150.0)}  # (over, up to]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Localised:
    """The predicted and the true spans of one query."""

    predicted: NDArray[np.float64]  # (P, 2): start and end in seconds, best first
    truth: NDArray[np.float64]  # (T, 2): in seconds, in any order; T >= 1

    def __post_init__(self) -> None:
        for name, spans in (("predicted", self.predicted), ("truth", self.truth)):
            if spans.ndim != 2 or spans.shape[1] != 2 or not np.isfinite(spans).all():
                raise ValueError(f"{name} must be finite (N, 2), got shape {spans.shape}")
            if (spans[:, 0] > spans[:, 1]).any():
                raise ValueError(f"{name} has a span that ends before its start")
        if not len(self.truth):
            raise ValueError("a query of an absent event has no true span: use measure_rejection()")


@dataclass(frozen=True, slots=True, kw_only=True)
class Localisation:
    """Means over queries, each in [0, 1]."""

    query_count: int
    recall: dict[float, float]  # R1@tIoU: tIoU threshold -> share of queries whose first answer reaches it
    overlap: float  # share of queries whose first answer overlaps a true span at all
    average_precision: dict[float, float]  # tIoU threshold -> mAP
    mean_iou: float  # mIoU: of the first answer with the nearest true span

    @property
    def mean_average_precision(self) -> float:
        """mAP, averaged over the thresholds."""
        return float(np.mean(list(self.average_precision.values())))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Counts of rejected queries, and the precision and recall of a rejection (the answer that the event is absent)."""

    absent_count: int
    rejected_count: int
    right_count: int  # absent and rejected

    @property
    def precision(self) -> float:
        """Share of the rejected queries that are absent; 0 without rejected queries."""
        return self.right_count / self.rejected_count if self.rejected_count else 0.0

    @property
    def recall(self) -> float:
        """Share of the absent queries that were rejected; 0 without absent queries."""
        return self.right_count / self.absent_count if self.absent_count else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 if both are 0."""
        both = self.absent_count + self.rejected_count
        return 2 * self.right_count / both if both else 0.0


# ------------------------------------------------------------------ moments
def temporal_iou(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the intersection over union of spans (P, 2) with spans (T, 2), start and end in seconds.

    Returns:
        (P, T), in [0, 1]; 0 where both are empty.
    """
    common = np.minimum(one[:, None, 1], other[None, :, 1]) - np.maximum(one[:, None, 0], other[None, :, 0])
    common = np.maximum(common, 0.0)
    union = (one[:, 1] - one[:, 0])[:, None] + (other[:, 1] - other[:, 0])[None] - common
    overlaps: NDArray[np.float64] = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return overlaps


def measure_localisation(queries: Sequence[Localised]) -> Localisation:
    """Measure predicted moments against the truth. A query without an answer counts as wrong.

    Raises:
        ValueError: If there is no query.
    """
    if not queries:
        raise ValueError("no queries to measure")
    best = np.array([_best_iou(query) for query in queries])
    precisions = np.array([_average_precisions(query) for query in queries]).mean(axis=0)
    return Localisation(
        query_count=len(queries),
        recall={each: float((best >= each).mean()) for each in RECALL_THRESHOLDS},
        overlap=float((best > 0).mean()),
        average_precision=dict(zip(IOU_THRESHOLDS, precisions.tolist(), strict=True)),
        mean_iou=float(best.mean()),
    )


def measure_by_length(queries: Sequence[Localised]) -> dict[str, Localisation]:
    """Measure the true spans of each length bucket alone; empty buckets are left out.

    As in QVHighlights, predictions of all lengths are compared with the true spans of a bucket.
    """
    measures = {}
    for name, (over, up_to) in LENGTH_BUCKETS_SECONDS.items():
        inside = []
        for query in queries:
            lengths = query.truth[:, 1] - query.truth[:, 0]
            truth = query.truth[(lengths > over) & (lengths <= up_to)]
            if len(truth):
                inside.append(Localised(predicted=query.predicted, truth=truth))
        if inside:
            measures[name] = measure_localisation(inside)
    return measures


def _best_iou(query: Localised) -> float:
    return float(temporal_iou(query.predicted[:1], query.truth).max(initial=0.0))


def _average_precisions(query: Localised) -> list[float]:
    """Return the average precision at each threshold. The first prediction that overlaps enough matches a true span."""
    overlaps = temporal_iou(query.predicted[:BEST_COUNT], query.truth)
    return [_average_precision(_hits(overlaps, threshold), len(query.truth)) for threshold in IOU_THRESHOLDS]


def _hits(overlaps: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    """Mark the predictions, best first, that match a true span without an earlier match."""
    hits = np.zeros(len(overlaps), bool)
    is_free = np.ones(overlaps.shape[1], bool)
    for n, row in enumerate(overlaps):
        free = np.where(is_free, row, -1.0)
        nearest = int(free.argmax())
        if free[nearest] >= threshold:
            hits[n], is_free[nearest] = True, False
    return hits


def _average_precision(hits: NDArray[np.bool_], truth_count: int) -> float:
    """Return the area under precision over recall, with each precision raised to the best later precision."""
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    reached = np.maximum.accumulate(precision[::-1])[::-1]
    return float(reached[hits].sum() / truth_count)


# ------------------------------------------------------------------ ranking
def recall_at(ranks: Sequence[int | None], k: int) -> float:
    """Return the share of queries whose right answer is among the first k. Ranks start at 1; None means not found."""
    return float(np.mean([rank is not None and rank <= k for rank in ranks])) if ranks else 0.0


def median_rank(ranks: Sequence[int | None]) -> float:
    """Return the median rank of the right answer; infinity if more than half were not found."""
    return float(np.median([np.inf if rank is None else rank for rank in ranks])) if ranks else float("inf")


def ndcg(gains: Sequence[float], ideal: Sequence[float], k: int) -> float:
    """Return the normalised discounted cumulative gain of a ranking.

    Args:
        gains: Gain (>= 0) of each answer, in order.
        ideal: Gain (>= 0) of every possible answer, in any order.
        k: Number of answers that count.
    Returns:
        A value in [0, 1]; 0 if no answer has a gain.
    """
    best = _discounted(sorted(ideal, reverse=True)[:k])
    return _discounted(gains[:k]) / best if best else 0.0


def _discounted(gains: Sequence[float]) -> float:
    return float(sum(gain / np.log2(rank + 1) for rank, gain in enumerate(gains, start=1)))


# ------------------------------------------------------------------ absence
def measure_rejection(is_absent: Sequence[bool], is_rejected: Sequence[bool]) -> Rejection:
    """Measure how well absent events are recognised.

    Args:
        is_absent: For each query, whether its event is nowhere in the library.
        is_rejected: For each query, whether the answer was a rejection.
    """
    pairs = list(zip(is_absent, is_rejected, strict=True))
    return Rejection(
        absent_count=sum(is_absent),
        rejected_count=sum(is_rejected),
        right_count=sum(absent and rejected for absent, rejected in pairs),
    )
