"""Computes the figures of `kinodex eval --queries` from the replies.

Shares are in per cent with two decimals, times in seconds. Calibration errors, Brier scores, confidences and accuracies
are in [0, 1], with four decimals.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from serve.evaluate.queries import JudgedAnswer, Measurement, Reply, by_channel, by_thing
from serve.evaluate.reliability import Forecast, Interval, Reliability, measure_reliability, share_interval
from serve.values import Moment, Verdict
from temporal.metrics import (
    BEST_COUNT,
    Localisation,
    Localised,
    measure_by_length,
    measure_localisation,
    measure_rejection,
    median_rank,
    ndcg,
    recall_at,
)

VIDEOS = "videos"  # the name under which the figures of questions about whole videos stand, beside the channels
WRONG_COUNT = 30  # wrong answers that are listed: as many as a person looks at
VERDICTS = (Verdict.MATCH, Verdict.WEAK, Verdict.NO_MATCH)  # best first
TIOUS = (0.3, 0.5, 0.7)  # the overlaps of R1@tIoU that are reported


def query_figures(measurement: Measurement) -> dict[str, Any]:
    """Return the figures that `--json` prints: of all questions, then of each half, then the surest wrong answers."""
    seconds = [reply.seconds for reply in measurement.replies]
    return {
        **_figures_of(measurement),
        "halves": {half: _figures_of(measurement.of(half)) for half in measurement.halves},
        "seconds": {
            "median": round(float(np.median(seconds)), 4),
            "p95": round(float(np.quantile(seconds, 0.95)), 4),
        },
        "missing": dict(measurement.missing),
        "wrong": [wrong_figures(reply) for reply in surest_wrong(measurement, WRONG_COUNT)],
    }


def _figures_of(measurement: Measurement) -> dict[str, Any]:
    moments, absent = by_channel(measurement.moments), by_channel(measurement.absent)
    asked = by_channel((*measurement.moments, *measurement.absent))
    asked_by_thing = by_thing((*measurement.moments, *measurement.absent))
    if measurement.videos:
        asked[VIDEOS] = [*measurement.videos, *measurement.without]
    return {
        "moments": {name: _moment_figures(replies) for name, replies in moments.items()},
        "kinds": {
            name: {**_moment_figures(replies), "verdicts": _verdict_figures(asked_by_thing[name])}
            for name, replies in by_thing(measurement.moments).items()
        },
        "videos": _video_figures([reply.rank for reply in measurement.videos]),
        "rejection": {name: _rejection_figures(moments.get(name, []), replies) for name, replies in absent.items()},
        "verdicts": {name: _verdict_figures(replies) for name, replies in asked.items()},
        "reliability": {
            name: {
                "first": _reliability_figures(measure_reliability([forecasts_of(reply)[:1] for reply in replies])),
                "all": _reliability_figures(measure_reliability([forecasts_of(reply) for reply in replies])),
            }
            for name, replies in asked.items()
        },
    }


# ------------------------------------------------------------------ right answers
def _moment_figures(replies: Sequence[Reply]) -> dict[str, Any]:
    firsts = [reply.first for reply in replies]
    right_video = [first is not None and first.is_right_video for first in firsts]
    everywhere = [reply.everywhere for reply in replies if reply.everywhere is not None]
    inside = [reply.inside for reply in replies if reply.inside is not None]
    return {
        "library": {"right-video": _percent(float(np.mean(right_video))), **_localisation_figures(everywhere)},
        "video": _localisation_figures(inside),
    }


def _localisation_figures(queries: Sequence[Localised]) -> dict[str, Any]:
    parts = {name: _part_figures(part) for name, part in measure_by_length(queries).items()}
    return {**_part_figures(measure_localisation(queries)), "by-length": parts}


def _part_figures(part: Localisation) -> dict[str, float]:
    return {
        "n": part.query_count,
        "right-seconds": _percent(part.overlap),
        **{f"R1@{tiou}": _percent(part.recall[tiou]) for tiou in TIOUS},
        "mAP": _percent(part.mean_average_precision),
        "mIoU": _percent(part.mean_iou),
    }


def _video_figures(ranks: Sequence[int | None]) -> dict[str, Any]:
    return {
        "n": len(ranks),
        **{f"R@{k}": _percent(recall_at(ranks, k)) for k in (1, 5, 10)},
        "median-rank": None if not ranks or np.isinf(median_rank(ranks)) else median_rank(ranks),
        "nDCG@10": _percent(float(np.mean([_gain(rank) for rank in ranks])) if ranks else 0.0),
    }


def _gain(rank: int | None) -> float:
    """Return the nDCG@10 of a search whose only right answer is at this rank."""
    return 0.0 if rank is None else ndcg([0.0] * (rank - 1) + [1.0], [1.0], 10)


# ------------------------------------------------------------------ verdicts
def _rejection_figures(present: Sequence[Reply], absent: Sequence[Reply]) -> dict[str, Any]:
    scores = measure_rejection(
        [False] * len(present) + [True] * len(absent), [reply.is_rejected for reply in (*present, *absent)]
    )
    return {
        "n": scores.absent_count,
        "present": len(present),
        "precision": _percent(scores.precision),
        "recall": _percent(scores.recall),
        "F1": _percent(scores.f1),
    }


def _verdict_figures(replies: Sequence[Reply]) -> dict[str, Any]:
    """Count the verdicts: how many MATCHes are right, what right answers are called, and what absent questions get."""
    absent = [reply for reply in replies if reply.question.file is None]
    firsts = [reply.first for reply in replies if reply.first is not None]
    return {
        "present": len(replies) - len(absent),
        "absent": len(absent),
        "first": _match_figures(firsts),
        "all": _match_figures([answer for reply in replies for answer in reply.answers[:BEST_COUNT]]),
        "right-first": _count_verdicts([first.answer.verdict for first in firsts if first.is_right]),
        "absent-best": _count_verdicts([_best_verdict(reply) for reply in absent]),
    }


def _match_figures(answers: Sequence[JudgedAnswer]) -> dict[str, Any]:
    matches = [each for each in answers if each.answer.verdict is Verdict.MATCH]
    right_count = sum(each.is_right for each in matches)
    return {
        "n": len(answers),
        "match": len(matches),
        "right-video": sum(each.is_right_video for each in matches),
        "right": right_count,
        "precision": _percent(right_count / len(matches)) if matches else None,
        "precision-interval": _interval(share_interval(right_count, len(matches)), percent=True),
    }


def _count_verdicts(verdicts: Sequence[Verdict]) -> dict[str, int]:
    return {verdict.value: verdicts.count(verdict) for verdict in VERDICTS}


def _best_verdict(reply: Reply) -> Verdict:
    """Return the best verdict of the answers: NO_MATCH without answers."""
    given = {each.answer.verdict for each in reply.answers}
    return next((verdict for verdict in VERDICTS if verdict in given), Verdict.NO_MATCH)


# ------------------------------------------------------------------ confidence
def forecasts_of(reply: Reply) -> list[Forecast]:
    """Return the confidence of each answer of a reply, as far as a person reads them, and whether it is right."""
    best = reply.answers[:BEST_COUNT]
    return [Forecast(confidence=each.answer.confidence, is_right=each.is_right) for each in best]


def _reliability_figures(part: Reliability | None) -> dict[str, Any] | None:
    if part is None:
        return None
    return {
        "questions": part.question_count,
        "n": part.answer_count,
        "right": part.right_count,
        "ECE": round(part.error, 4),
        "ECE-interval": _interval(part.error_interval),
        "ECE-by-chance": round(part.chance_error, 4),
        "Brier": round(part.brier, 4),
        "Brier-interval": _interval(part.brier_interval),
        "bins": [
            {
                "from": each.start,
                "to": each.end,
                "n": each.count,
                "confidence": None if each.confidence is None else round(each.confidence, 4),
                "accuracy": None if each.accuracy is None else round(each.accuracy, 4),
            }
            for each in part.bins
        ],
    }


def _interval(interval: Interval | None, *, percent: bool = False) -> list[float] | None:
    if interval is None:
        return None
    return [_percent(end) if percent else round(end, 4) for end in interval]


# ------------------------------------------------------------------ wrong answers
def surest_wrong(measurement: Measurement, count: int) -> list[Reply]:
    """Return the replies about moments and absent events whose first answer is wrong, the most confident first."""
    wrong = [
        reply
        for reply in (*measurement.moments, *measurement.absent)
        if reply.first is not None and not reply.first.is_right
    ]
    wrong.sort(key=lambda reply: -reply.first.answer.confidence if reply.first is not None else 0.0)
    return wrong[:count]


def wrong_figures(reply: Reply) -> dict[str, Any]:
    """Describe a wrong first answer, and the right one."""
    assert reply.first is not None
    answer = reply.first.answer
    assert isinstance(answer, Moment)
    question = reply.question
    return {
        "query": question.text,
        "half": question.half,
        "channel": question.channel,
        "kind": question.thing,
        "answer": {
            "video_id": answer.video_id,
            "uri": answer.uri,
            "start_seconds": round(answer.start_seconds, 3),
            "end_seconds": round(answer.end_seconds, 3),
            "confidence": round(answer.confidence, 4),
            "verdict": answer.verdict,
            "is-right-video": reply.first.is_right_video,
        },
        "right": None
        if question.file is None
        else {
            "file": question.file,
            "spans": [
                {"start_seconds": each.start_seconds, "end_seconds": each.end_seconds} for each in question.spans
            ],
        },
    }


def _percent(share: float) -> float:
    return round(100 * share, 2)
