"""SentenceReader: puts the sentence of an utterance together, for serve.search.speech.

A sentence may be several utterances (encoders.speech.utterances): it has pauses, or is long. An answer is the whole
sentence, or of a long one the part that answers.
"""

from collections.abc import Sequence

from encoders.speech.sentences import ends_sentence
from encoders.values import Utterance
from serve.catalog.catalog import Catalog
from serve.catalog.reader import UtteranceRow

SENTENCE_PAUSE_SECONDS = 1.5  # longest pause inside a sentence; a longer one ends it, whatever its punctuation
SENTENCE_MAX_SECONDS = 8.0  # longest sentence that is always one answer; a longer one is found by its clauses


class SentenceReader:
    """Reads the sentences around utterances."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def read(self, utterance: UtteranceRow) -> list[UtteranceRow]:
        """Return the utterances of the sentence that holds an utterance, in order; of a long sentence it alone."""
        sentence = [utterance]
        while (before := self._catalog.utterances_beside(utterance.row, sentence[0].position)[0]) is not None:
            if not is_same_sentence(before.utterance, sentence[0].utterance):
                break
            sentence.insert(0, before)
            if _length_seconds(sentence) > SENTENCE_MAX_SECONDS:
                return [utterance]
        while (after := self._catalog.utterances_beside(utterance.row, sentence[-1].position)[1]) is not None:
            if not is_same_sentence(sentence[-1].utterance, after.utterance):
                break
            sentence.append(after)
            if _length_seconds(sentence) > SENTENCE_MAX_SECONDS:
                return [utterance]
        return sentence

    def read_beside(self, sentence: Sequence[UtteranceRow]) -> tuple[list[UtteranceRow], list[UtteranceRow]]:
        """Return the sentences before and after a sentence; empty: there is none."""
        row = sentence[0].row
        before, _ = self._catalog.utterances_beside(row, sentence[0].position)
        _, after = self._catalog.utterances_beside(row, sentence[-1].position)
        return self.read(before) if before is not None else [], self.read(after) if after is not None else []


def is_same_sentence(a: Utterance, b: Utterance) -> bool:
    """Whether a sentence goes on from one utterance to the next."""
    return (
        (a.epoch, a.speaker) == (b.epoch, b.speaker)
        and b.start_seconds - a.end_seconds <= SENTENCE_PAUSE_SECONDS
        and not ends_sentence(a.text)
    )


def _length_seconds(sentence: list[UtteranceRow]) -> float:
    return sentence[-1].utterance.end_seconds - sentence[0].utterance.start_seconds
