"""Spoken evidence: measures what speaks for each passage as the answer to a question, and turns it into confidences.

A sentence near to a question in meaning need not answer it. Most such sentences are short, or are as near as the next
one, or answer a question that asks for a sight. serve.search.engine asks; serve.search.evidence does the same for
pictures.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from operator import attrgetter, mul

import numpy as np

from encoders.calibration import logistic
from serve.search.evidence import lead_over_others
from serve.search.intent import Intent
from serve.search.speech import Passage

# Passages whose vectors have at least this cosine say the same: a refrain, or a copy of the film. MiniLM's of "left
# surround channel" and "right surround channel" is 0.95.
ALIKE_COSINE = 0.97
MAX_LEAD = 0.15  # a larger lead says no more
MAX_SENTENCE_WORDS = 3  # more say no more


@dataclass(frozen=True, slots=True, kw_only=True)
class SpokenEvidence:
    """What speaks for one passage."""

    cosine: float  # -1..1, of the passage and the question
    words: float  # 0..0.95: trust in the words that both have, see Passage.lexical_trust
    log_length: float  # logarithm of the passage's count of words: the nearest of many short texts is near by chance
    lead: float  # -0.15..0.15, by how much its score is above that of the best that says something else
    sentence_words: float  # 0..3, of the question: see Intent.sentence_word_count


# A logistic regression of "the passage answers", fitted by `python -m benchmarks.spoken` to the passages nearest to the
# training half of the questions, of sights and of words. The cosines are MiniLM's.
INTERCEPT = -7.8757
WEIGHTS = SpokenEvidence(cosine=6.8286, words=3.4710, log_length=1.2937, lead=12.5012, sentence_words=0.4572)

INPUTS = tuple(each.name for each in fields(SpokenEvidence))
read_inputs = attrgetter(*INPUTS)


def spoken_evidence_of(passages: Sequence[Passage], intent: Intent) -> list[SpokenEvidence]:
    """Return the evidence for each of the passages that a search finds."""
    if not passages:
        return []
    vectors = np.stack([passage.vector for passage in passages])
    sentence_words = float(min(intent.sentence_word_count, MAX_SENTENCE_WORDS))
    leads = lead_over_others([passage.score for passage in passages], vectors, ALIKE_COSINE)
    return [
        SpokenEvidence(
            cosine=passage.cosine,
            words=passage.lexical_trust,
            log_length=math.log(max(1, len(passage.text.split()))),
            lead=min(max(lead or 0.0, -MAX_LEAD), MAX_LEAD),
            sentence_words=sentence_words,
        )
        for passage, lead in zip(passages, leads, strict=True)
    ]


def judge_passages(passages: Sequence[Passage], intent: Intent) -> list[float]:
    """Return the confidence 0..1 of each passage that it answers the question.

    An example ("more like this") has no words, so the regression does not hold: nearness in meaning alone counts.
    """
    if not intent.speech_text:
        return [passage.dense_trust for passage in passages]
    return [
        logistic(INTERCEPT + sum(map(mul, read_inputs(WEIGHTS), read_inputs(evidence))))
        for evidence in spoken_evidence_of(passages, intent)
    ]
