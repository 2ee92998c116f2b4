"""The confidence of what is said: a passage near in meaning is no answer yet."""

from dataclasses import replace

import numpy as np
import pytest

from serve.search.intent import read_intent
from serve.search.speech import Passage
from serve.search.spoken import MAX_LEAD, MAX_SENTENCE_WORDS, judge_passages, spoken_evidence_of
from serve.search.verdict import verdict_of
from serve.values import Verdict
from temporal.values import TimeSpan

SIGHT = read_intent("a boy in a red jacket at a telescope")
WORDS = read_intent("what would space look like if it was empty?")


def passage(cosine: float, *, coverage: float = 0.0, words: int = 12, says: int | None = None) -> Passage:
    """Passages of one number `says` the same; without, a passage says something of its own."""
    vector = np.zeros(4, np.float32) if says is None else np.eye(4, dtype=np.float32)[says]
    return Passage(
        row=1, positions=(0,), span=TimeSpan(start_seconds=1.0, end_seconds=4.0), text=" ".join(["word"] * words),
        cosine=cosine, coverage=coverage, words=("[]",), terms=(), vector=vector,
    )  # fmt: skip


def test_the_evidence_of_each_passage() -> None:
    near, far = spoken_evidence_of([passage(0.6, coverage=0.5, words=1), passage(0.5)], WORDS)
    assert (near.cosine, near.words, near.log_length) == (0.6, 0.0, 0.0)
    assert near.lead == pytest.approx(MAX_LEAD)  # 0.2 by score: more says no more
    assert far.lead == pytest.approx(-MAX_LEAD)
    assert near.sentence_words == MAX_SENTENCE_WORDS
    assert spoken_evidence_of([passage(0.6)], SIGHT)[0].lead == 0.0  # a passage alone is ahead of nothing
    assert spoken_evidence_of([replace(passage(0.6), text="")], SIGHT)[0].log_length == 0.0
    assert judge_passages([], SIGHT) == []


def test_a_sentence_near_to_a_sight_is_no_match() -> None:
    """These cosines were 0.77 to 0.93 sure, and one in four such answers was right."""
    for cosine in (0.45, 0.50):
        [confidence, _] = judge_passages([passage(cosine), passage(cosine - 0.05)], SIGHT)
        assert verdict_of(confidence) is not Verdict.MATCH


def test_only_the_best_of_several_near_sentences_is_a_match() -> None:
    confidences = judge_passages([passage(0.75), passage(0.55), passage(0.52)], WORDS)
    assert [verdict_of(each) is Verdict.MATCH for each in confidences] == [True, False, False]


@pytest.mark.parametrize("copies", [2, 5])
def test_what_is_said_again_takes_no_confidence_from_an_answer(copies: int) -> None:
    answer, other = passage(0.75, says=0), passage(0.55, says=1)
    alone = judge_passages([answer, other], WORDS)
    assert verdict_of(alone[0]) is Verdict.MATCH
    assert judge_passages([*[answer] * copies, other], WORDS) == [*[alone[0]] * copies, alone[1]]


def test_words_of_the_question_length_and_form_each_raise_the_confidence() -> None:
    def confidence(of: Passage, question: str = "a star") -> float:
        return judge_passages([of, passage(0.3)], read_intent(question))[0]

    plain = confidence(passage(0.4))
    assert confidence(passage(0.4, coverage=1.0)) > plain
    assert confidence(passage(0.4, words=30)) > plain
    assert confidence(passage(0.4), "what is a star?") > plain


def test_an_example_without_words_is_judged_by_meaning_alone() -> None:
    same = passage(1.0, words=3)
    assert judge_passages([same, same], replace(SIGHT, text="", speech_text="")) == [same.dense_trust] * 2
