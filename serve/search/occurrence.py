"""choose_occurrence(): puts the first, second or last of several moments first, if a question asks for it.

serve.search.engine calls it; serve.search.ordinals reads the question.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from serve.search.intent import Intent
from serve.search.ranking import RankedMoment

# Share of the best moment's evidence that another moment of the video needs to be the same thing once more.
ENOUGH = 0.6


def choose_occurrence(ranked: Sequence[RankedMoment], intent: Intent) -> list[RankedMoment]:
    """Exchange the best moment of each video for the one that the question asks for, by time.

    It is chosen among the moments that are nearly as good as the best one of their video. Where there are too few, the
    best one stays.

    Args:
        ranked: Best first.
    """
    moments = list(ranked)
    if intent.occurrence is None:
        return moments
    places: dict[int, list[int]] = defaultdict(list)  # in the ranking, by video
    for place, moment in enumerate(moments):
        places[moment.candidate.video.row].append(place)
    for mine in places.values():
        best = moments[mine[0]]
        good = [place for place in mine if is_as_good(moments[place], best, intent)]
        good.sort(key=lambda place: moments[place].candidate.span.start_seconds)
        number = intent.occurrence - 1 if intent.occurrence > 0 else len(good) + intent.occurrence
        if 0 <= number < len(good):
            order = [good[number], *(place for place in mine if place != good[number])]
            scores = [moments[place].score for place in mine]
            chosen = [replace(moments[place], score=score) for place, score in zip(order, scores, strict=True)]
            for place, moment in zip(mine, chosen, strict=True):
                moments[place] = moment
    return moments


def is_as_good(moment: RankedMoment, best: RankedMoment, intent: Intent) -> bool:
    """Whether a moment shows or says what the best moment of its video does, nearly as surely."""
    own, other = moment.candidate, best.candidate
    if other.written_confidence > max(other.visual_confidence, other.spoken_confidence):
        return own.written_confidence >= ENOUGH * other.written_confidence
    spoken = intent.speech_weight * other.passage.trust if other.passage is not None else 0.0
    if other.visual is None or spoken > intent.visual_weight * other.visual_confidence:
        if own.passage is None or other.passage is None:
            return False
        has_words = own.passage.coverage >= ENOUGH * other.passage.coverage
        return has_words and own.passage.trust >= ENOUGH * other.passage.trust
    return own.visual is not None and own.visual.score >= ENOUGH * other.visual.score
