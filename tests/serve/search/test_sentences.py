"""The span of a spoken answer is the sentence: not half of it, and not two."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from encoders.values import Utterance
from serve.catalog.reader import UtteranceRow
from serve.search.intent import read_intent
from serve.search.sentences import SentenceReader
from serve.search.speech import SpeechChannel, TermMatches

Said = tuple[float, float, str, Sequence[float]]  # start, end, text, and its vector before it has unit length


class Talk:
    """A catalog of one video's utterances."""

    def __init__(self, said: Sequence[Said], epochs: Sequence[int] | None = None) -> None:
        self.rows, self.look_count = [], 0
        for n, (start, end, text, vector) in enumerate(said):
            utterance = Utterance(
                epoch=epochs[n] if epochs else 0, start_seconds=start, end_seconds=end, text=text, words=(),
                language="en", avg_logprob=0.0, no_speech_prob=0.0,
            )  # fmt: skip
            unit = np.array(vector, np.float32) / np.linalg.norm(vector)
            self.rows.append(UtteranceRow(row=1, position=n, utterance=utterance, vector=unit, words="[]"))

    def utterances_around(
        self, places: Sequence[tuple[int, int]], count: int
    ) -> list[tuple[list[UtteranceRow], list[UtteranceRow]]]:
        self.look_count += 1
        return [(self.rows[max(0, at - count) : at], self.rows[at + 1 : at + 1 + count]) for _, at in places]

    def utterances_at(self, places: Sequence[tuple[int, int]]) -> list[UtteranceRow]:
        return [self.rows[position] for _, position in places]


def talk(*said: tuple[float, float, str]) -> Talk:
    return Talk([(*each, (1.0,)) for each in said])


@pytest.mark.parametrize(
    ("catalog", "at", "positions"),
    [
        (talk((0, 2, "We met on Discord,"), (3.2, 5, "the one for Python."), (5.4, 7, "It was fun.")), 0, [0, 1]),
        (talk((0, 2, "We met on Discord,"), (3.2, 5, "the one for Python."), (5.4, 7, "It was fun.")), 1, [0, 1]),
        (talk((0, 2, "We met on Discord,"), (3.2, 5, "the one for Python."), (5.4, 7, "It was fun.")), 2, [2]),
        (talk((0, 2, "He asked Dr."), (2.1, 4, "Smith for help.")), 0, [0, 1]),  # a dot that ends no sentence
        (talk((0, 2, "and so"), (4, 6, "we began")), 0, [0]),  # a long pause ends a sentence without its dot
        (talk((0, 5, "This suggests that it matters,"), (5, 10, "and we must prevent it.")), 0, [0]),  # too long
        (Talk([(0, 2, "and so", (1,)), (2, 4, "we began", (1,))], epochs=[0, 1]), 0, [0]),
        (talk(*((0.8 * n, 0.8 * n + 0.7, "and on") for n in range(10))), 5, list(range(10))),
    ],
)
def test_reads_the_sentence_around_an_utterance(catalog: Any, at: int, positions: list[int]) -> None:
    assert [each.position for each in SentenceReader(catalog, []).read(catalog.rows[at])] == positions


def best_span(catalog: Any, terms: Sequence[str]) -> tuple[float, float]:
    """Ask for the direction (1, 0) and some words; return the span of the best passage."""

    class Nearest:
        def search(self, *_: Any, **__: Any) -> tuple[Any, Any]:
            return np.arange(len(catalog.rows))[None], None

    catalog.locate = lambda _, ids: [(1, n) for n in ids]
    channel = SpeechChannel(catalog, None, Nearest(), lambda row: None)  # type: ignore[arg-type]
    words = TermMatches(rarities=dict.fromkeys(terms, 1.0), places=set())
    best = channel.find_passages(np.array([1, 0], np.float32), words, None, read_intent("sun"))[0]
    return best.span.start_seconds, best.span.end_seconds


def test_an_answer_is_the_sentence_of_its_best_utterance() -> None:
    halves = Talk([
        (0, 2, "So it goes.", (0, 1)), (2.5, 5, "We met on Discord,", (1, 0.2)), (5.5, 7, "like all.", (0, 1)),
        (7.5, 9, "It was fun.", (0, 1)),
    ])  # fmt: skip
    assert best_span(halves, ["discord"]) == (2.5, 7)
    assert halves.look_count == 1  # for all sentences and the ones beside them


def test_an_answer_has_two_sentences_only_if_the_second_adds_much() -> None:
    same = Talk([(0, 2, "The sun is a star.", (1, 0.4)), (2.5, 5, "It is hot.", (1, 0.5))])
    assert best_span(same, ["sun"]) == (0, 2)
    apart = Talk([(0, 2, "The sun is a star.", (1, 0.9)), (2.5, 5, "It melts ice.", (1, -0.9))])
    assert best_span(apart, ["sun", "ice"]) == (0, 5)


def test_of_a_long_sentence_the_parts_with_the_words_answer() -> None:
    long = Talk([
        (0, 5, "This suggests that injury is a risk,", (1, 0.1)), (5.5, 10, "and that we must prevent it,", (0.6, 1)),
        (10.5, 15, "as others have said before.", (0, 1)),
    ])  # fmt: skip
    assert best_span(long, ["injury", "risk"]) == (0, 5)
    assert best_span(long, ["injury", "prevent"]) == (0, 10)
