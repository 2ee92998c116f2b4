"""SentenceReader: puts the sentence of an utterance together, for serve.search.speech.

A sentence may be several utterances (encoders.speech.utterances): it has pauses, or is long. An answer is the whole
sentence, or of a long one the part that answers.
"""

from collections.abc import Sequence
from itertools import pairwise

from encoders.speech.sentences import ends_sentence
from encoders.values import Utterance
from serve.catalog.catalog import Catalog
from serve.catalog.reader import UtteranceRow

SENTENCE_PAUSE_SECONDS = 1.5  # longest pause inside a sentence; a longer one ends it, whatever its punctuation
NEIGHBOUR_COUNT = 3  # utterances read at once on each side of another: enough for it and the two sentences beside it
SENTENCE_MAX_SECONDS = 8.0  # longest sentence that is always one answer; a longer one is found by its clauses


class SentenceReader:
    """Reads the sentences around the best utterances of one question, most of them with one look at the catalog."""

    def __init__(self, catalog: Catalog, utterances: Sequence[UtteranceRow]) -> None:
        self._catalog = catalog
        self._before: dict[tuple[int, int], UtteranceRow | None] = {}  # by video row and position; None: there is none
        self._after: dict[tuple[int, int], UtteranceRow | None] = {}
        self._read_around(utterances)

    def read(self, utterance: UtteranceRow) -> list[UtteranceRow]:
        """Return the utterances of the sentence that holds an utterance, in order; of a long sentence it alone."""
        sentence = [utterance]
        while (before := self._find_before(sentence[0])) is not None:
            if not is_same_sentence(before.utterance, sentence[0].utterance):
                break
            sentence.insert(0, before)
            if _length_seconds(sentence) > SENTENCE_MAX_SECONDS:
                return [utterance]
        while (after := self._find_after(sentence[-1])) is not None:
            if not is_same_sentence(sentence[-1].utterance, after.utterance):
                break
            sentence.append(after)
            if _length_seconds(sentence) > SENTENCE_MAX_SECONDS:
                return [utterance]
        return sentence

    def read_beside(self, sentence: Sequence[UtteranceRow]) -> tuple[list[UtteranceRow], list[UtteranceRow]]:
        """Return the sentences before and after a sentence; empty: there is none."""
        before, after = self._find_before(sentence[0]), self._find_after(sentence[-1])
        return self.read(before) if before is not None else [], self.read(after) if after is not None else []

    def _find_before(self, utterance: UtteranceRow) -> UtteranceRow | None:
        if _place(utterance) not in self._before:
            self._read_around([utterance])
        return self._before[_place(utterance)]

    def _find_after(self, utterance: UtteranceRow) -> UtteranceRow | None:
        if _place(utterance) not in self._after:
            self._read_around([utterance])
        return self._after[_place(utterance)]

    def _read_around(self, utterances: Sequence[UtteranceRow]) -> None:
        around = self._catalog.utterances_around([_place(each) for each in utterances], NEIGHBOUR_COUNT)
        for utterance, (before, after) in zip(utterances, around, strict=True):
            line = [*before, utterance, *after]
            for first, second in pairwise(line):
                self._after[_place(first)], self._before[_place(second)] = second, first
            if len(before) < NEIGHBOUR_COUNT:
                self._before[_place(line[0])] = None
            if len(after) < NEIGHBOUR_COUNT:
                self._after[_place(line[-1])] = None


def _place(utterance: UtteranceRow) -> tuple[int, int]:
    return utterance.row, utterance.position


def is_same_sentence(a: Utterance, b: Utterance) -> bool:
    """Whether a sentence goes on from one utterance to the next."""
    return (
        (a.epoch, a.speaker) == (b.epoch, b.speaker)
        and b.start_seconds - a.end_seconds <= SENTENCE_PAUSE_SECONDS
        and not ends_sentence(a.text)
    )


def _length_seconds(sentence: list[UtteranceRow]) -> float:
    return sentence[-1].utterance.end_seconds - sentence[0].utterance.start_seconds
