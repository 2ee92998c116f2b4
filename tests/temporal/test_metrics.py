"""The metrics against hand-made cases, a plain restatement of their definitions, and published figures."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from temporal.metrics import (
    IOU_THRESHOLDS,
    Localised,
    measure_by_length,
    measure_localisation,
    measure_rejection,
    median_rank,
    ndcg,
    recall_at,
    temporal_iou,
)


def localised(predicted: list[tuple[float, float]], truth: list[tuple[float, float]]) -> Localised:
    return Localised(predicted=np.array(predicted, float).reshape(-1, 2), truth=np.array(truth, float).reshape(-1, 2))


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_equals_published_figures(shared: Path) -> None:
    folder = shared / "eval" / "qvhighlights"
    truth = {one["qid"]: one for one in lines_of(folder / "highlight_val_release.jsonl")}
    queries = [
        localised(
            [(start, end) for start, end, _ in one["pred_relevant_windows"]], truth[one["qid"]]["relevant_windows"]
        )
        for one in lines_of(folder / "sample_val_preds.jsonl")
    ]
    published = json.loads((folder / "sample_val_preds_metrics.json").read_text())
    parts = {"full": measure_localisation(queries)} | measure_by_length(queries)
    for name, part in parts.items():
        expected = published[name]
        for threshold in IOU_THRESHOLDS:
            assert f"{100 * part.recall[threshold]:.2f}" == f"{expected['MR-R1'][f'{threshold:g}']:.2f}"
            assert f"{100 * part.average_precision[threshold]:.2f}" == f"{expected['MR-mAP'][f'{threshold:g}']:.2f}"
        assert f"{100 * part.mean_average_precision:.2f}" == f"{expected['MR-mAP']['average']:.2f}"
    assert set(parts) == {"full", "short", "middle", "long"}


def test_iou_of_spans() -> None:
    spans = np.array([(0, 10), (5, 15), (20, 30), (7, 7)], float)
    np.testing.assert_allclose(temporal_iou(spans, spans[:2]), [[1, 1 / 3], [1 / 3, 1], [0, 0], [0, 0]])
    assert temporal_iou(spans[:0], spans).shape == (0, 4)


def plain_average_precision(query: Localised, threshold: float) -> float:
    """The definition, told as a story: walk down the answers, note precision and recall, then look back."""
    left, points, right = [tuple(span) for span in query.truth], [(0.0, 0.0)], 0
    for n, (start, end) in enumerate(query.predicted[:10], start=1):
        overlaps = [
            (max(0.0, min(end, b) - max(start, a)) / (max(end, b) - min(start, a)), (a, b))
            for a, b in left
            if min(end, b) > max(start, a)
        ]
        if overlaps and max(overlaps)[0] >= threshold:
            left.remove(max(overlaps)[1])
            right += 1
        points.append((right / len(query.truth), right / n))
    area = 0.0
    for (before, _), (recall, _) in itertools.pairwise(points):
        area += (recall - before) * max(precision for later, precision in points[1:] if later >= recall)
    return area


@pytest.mark.parametrize("seed", range(20))
def test_equals_the_definition_told_plainly(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def spans(count: int) -> list[tuple[float, float]]:
        return [(start, start + rng.uniform(1, 40)) for start in rng.uniform(0, 60, count)]

    queries = [localised(spans(int(rng.integers(0, 14))), spans(int(rng.integers(1, 5)))) for _ in range(30)]
    measured = measure_localisation(queries)
    for threshold in IOU_THRESHOLDS:
        expected = np.mean([plain_average_precision(query, threshold) for query in queries])
        assert measured.average_precision[threshold] == pytest.approx(expected)
        best = [temporal_iou(query.predicted[:1], query.truth).max(initial=0) for query in queries]
        assert measured.recall[threshold] == pytest.approx(np.mean([one >= threshold for one in best]))
        assert measured.mean_iou == pytest.approx(np.mean(best))


def test_no_answer_is_a_wrong_one() -> None:
    measured = measure_localisation([localised([], [(0, 10)]), localised([(0, 10)], [(0, 10)])])
    assert (measured.query_count, measured.recall[0.5], measured.mean_average_precision) == (2, 0.5, 0.5)
    assert measured.mean_iou == 0.5


def test_a_truth_is_found_once() -> None:
    twice = measure_localisation([localised([(0, 10), (0, 10), (20, 30)], [(0, 10), (20, 30)])])
    assert twice.mean_average_precision == pytest.approx(1 / 2 + (2 / 3) / 2)


def test_each_length_has_its_own_truths() -> None:
    parts = measure_by_length([localised([(0, 10)], [(0, 10), (20, 50.5)]), localised([(0, 5)], [(0, 31)])])
    assert {name: part.query_count for name, part in parts.items()} == {"short": 1, "long": 2}
    assert parts["short"].recall[0.5] == 1
    assert parts["long"].recall[0.5] == 0


@pytest.mark.parametrize(
    ("predicted", "truth", "message"),
    [
        ([(0.0, 1.0)], [], "absent"),
        ([(2.0, 1.0)], [(0.0, 1.0)], "predicted has a span that ends before"),
        ([(0.0, 1.0)], [(0.0, math.nan)], "truth must be finite"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    predicted: list[tuple[float, float]], truth: list[tuple[float, float]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        localised(predicted, truth)
    with pytest.raises(ValueError, match="no queries"):
        measure_localisation([])


def test_ranking() -> None:
    ranks = [1, 3, None, 2]
    assert [recall_at(ranks, k) for k in (1, 2, 3, 10)] == [0.25, 0.5, 0.75, 0.75]
    assert median_rank(ranks) == 2.5
    assert median_rank([None, None, 1]) == math.inf
    assert (recall_at([], 1), median_rank([])) == (0.0, math.inf)


def test_ndcg() -> None:
    assert ndcg([3, 2, 1], [1, 2, 3], 3) == 1
    assert ndcg([0, 1], [1], 2) == pytest.approx(1 / math.log2(3))
    assert ndcg([0, 1], [1], 1) == 0
    assert ndcg([0.0], [], 5) == 0


def test_rejection() -> None:
    found = measure_rejection([True, True, False, False], [True, False, True, False])
    assert (found.precision, found.recall, found.f1) == (0.5, 0.5, 0.5)
    nothing = measure_rejection([False], [False])
    assert (nothing.precision, nothing.recall, nothing.f1) == (0, 0, 0)
    with pytest.raises(ValueError, match="zip"):
        measure_rejection([True], [])
