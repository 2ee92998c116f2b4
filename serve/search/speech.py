"""The two speech channels: utterances near a question in meaning (dense), and utterances with its words (lexical)."""

import math
import threading
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoders.batching import TextVectors
from encoders.calibration import logistic
from encoders.values import Utterance
from serve.catalog.catalog import Catalog
from serve.catalog.reader import SpokenRow
from serve.catalog.rows import words_of
from serve.catalog.spelling import content_terms, matches_term
from serve.index.nearest import NearestIndex
from serve.search.intent import Intent
from serve.search.video_rows import Transcript
from serve.values import MatchedWord
from temporal.values import TimeSpan
from temporal.window import overlaps

CANDIDATE_COUNT = 64  # utterances each channel brings: ten answers with room for overlap and filters
# Utterances that are weighed by their words. A question's commoner words are left out where its rarer ones have so
# many: BM25 takes 1 ms for some 500, and what has common words alone is seldom among the first.
WORDED_COUNT = 20_000
COUNTED_TERM_COUNT = 50_000  # words and phrases whose frequencies are remembered: 5 MB
PAIR_COUNT = 8  # best utterances that are also tried together with a neighbour
PAIR_GAP_SECONDS = 2.0  # a longer pause separates what is said
PAIR_MAX_SECONDS = 20.0
PAIR_COST = 0.05  # a pair must be nearer than its half by this much, or every answer would grow
LEXICAL_SHARE = 0.2  # of the word coverage in the order of the answers
# MiniLM's cosine of a question and what answers it, on the development videos: 0.35..1.0 for things that are said
# there, 0.16..0.35 for the best of what is not. The logistic is at one half between the two.
COSINE_MIDDLE = 0.40
COSINE_WIDTH = 0.04
COVERED_ENOUGH = 0.5  # share of a question's words, by rarity, under which finding them means nothing
WORD_CONFIDENCE = 0.95  # of finding every word: Whisper mishears some


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """One or two neighbouring utterances of one video that may answer a question."""

    row: int  # the video's
    positions: tuple[int, ...]  # of Catalog.locate(), in order
    span: TimeSpan
    text: str
    cosine: float  # -1..1, dense
    coverage: float  # 0..1: the share of the question's words found, weighted by rarity
    words: tuple[str, ...]  # of each utterance, as SpokenRow has them
    terms: tuple[str, ...]  # of the question, those that are in it

    @property
    def matched_words(self) -> tuple[MatchedWord, ...]:
        """The words that the question has too."""
        return tuple(
            MatchedWord(text=word.text, start_seconds=word.start_seconds, end_seconds=word.end_seconds)
            for words in self.words
            for word in words_of(words)
            if any(matches_term(word.text, term) for term in self.terms)
        )

    @property
    def score(self) -> float:
        return self.cosine + LEXICAL_SHARE * self.coverage - PAIR_COST * (len(self.positions) - 1)

    @property
    def dense_confidence(self) -> float:
        return logistic((self.cosine - COSINE_MIDDLE) / COSINE_WIDTH)

    @property
    def lexical_confidence(self) -> float:
        return WORD_CONFIDENCE * max(0.0, (self.coverage - COVERED_ENOUGH) / (1 - COVERED_ENOUGH))

    @property
    def confidence(self) -> float:
        """That this answers the question, by meaning or by words: 0..1."""
        return 1.0 - (1.0 - self.dense_confidence) * (1.0 - self.lexical_confidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The words and phrases of a question, as they are said in the videos asked about."""

    rarities: Mapping[str, float]  # of each
    places: Set[tuple[int, int]]  # (video row, position) of the utterances with most of them, by BM25


class Frequencies:
    """Catalog.document_frequencies(), of all videos remembered until something changes.

    The words that take longest to count are the common ones, which come again.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog, self._lock = catalog, threading.Lock()
        self._state: tuple[str, int] | None = None  # of the catalog, in which the next two were counted
        self._holding: dict[str, int] = {}
        self._total = 0

    def of(self, terms: Sequence[str], rows: Sequence[int] | None) -> tuple[dict[str, int], int]:
        """Return how many utterances hold each term, and how many there are: of some videos, None: of all."""
        if rows is not None:
            return self._catalog.document_frequencies(terms, rows)
        with self._catalog.snapshot():
            state = self._catalog.identity(), self._catalog.generation()
            with self._lock:
                is_known, total = self._state == state, self._total
                holding = {term: self._holding[term] for term in terms if is_known and term in self._holding}
            lacking = [term for term in terms if term not in holding]
            if lacking or not is_known:
                found, total = self._catalog.document_frequencies(lacking)
                holding |= found
        with self._lock:
            if self._state != state or len(self._holding) > COUNTED_TERM_COUNT:
                self._state, self._holding = state, {}
            self._holding |= holding
            self._total = total
        return {term: holding[term] for term in terms}, total


class SpeechChannel:
    """Finds what was said. Any number of threads may ask."""

    def __init__(
        self, catalog: Catalog, texts: TextVectors, index: NearestIndex, utterances: Callable[[int], Transcript]
    ) -> None:
        """Take what there is.

        Args:
            utterances: Of a video, by its row, in the state that is asked.
        """
        self.catalog, self.texts, self.index, self.utterances = catalog, texts, index, utterances
        self.frequencies = Frequencies(catalog)

    def words(self, terms: Sequence[str], rows: Sequence[int] | None) -> "Words":
        """Look for the words of a question; what is near to it in meaning, ask() finds.

        Args:
            terms: Words and phrases that count by themselves; may be none.
            rows: Of these videos only; None: of all.
        """
        holding, total = self.frequencies.of(terms, rows)
        found = self.catalog.match_words(rarest(holding), limit=CANDIDATE_COUNT, rows=rows)
        return Words(
            rarities={term: rarity(having, total) for term, having in holding.items()},
            places={(match.row, match.position) for match in found},
        )

    def ask(self, query: NDArray[np.float32], words: "Words", rows: Sequence[int] | None) -> list[Passage]:
        """Return the utterances that may answer, best first; of overlapping ones only the best.

        Args:
            query: float32 (D,), unit: of a sentence.
            words: What words() found of the same question.
            rows: Of these videos only; None: of all.
        """
        places = self.nearest(query, rows) | words.places
        rows_of = {(one.row, one.position): one for one in self.catalog.spoken_at(sorted(places))}
        singles = [described([one], float(one.vector @ query), words.rarities) for one in rows_of.values()]
        singles.sort(key=lambda spoken: -spoken.score)
        best = [rows_of[spoken.row, spoken.positions[0]] for spoken in singles[:PAIR_COUNT]]
        pairs = self.pairs(best, query, words.rarities)
        return apart(sorted([*singles, *pairs], key=lambda spoken: -spoken.score))

    def example_vector(self, row: int, span: TimeSpan) -> NDArray[np.float32] | None:
        """Return float32 (D,), unit, of what is said in a span; None where nothing is."""
        inside = [n for n, one in enumerate(self.utterances(row).utterances) if overlaps(one, span)]
        if not inside:
            return None
        total = self.catalog.utterance_vectors(row)[inside].sum(axis=0)
        return np.asarray(total / np.linalg.norm(total), np.float32)

    def query_vector(self, question: str, intent: Intent) -> NDArray[np.float32]:
        """Return float32 (D,): midway between the question as asked and its target, which beats either alone."""
        both = self.texts.encode(self.prompts(question, intent)).sum(axis=0)
        return np.asarray(both / np.linalg.norm(both), np.float32)

    def prompts(self, question: str, intent: Intent) -> list[str]:
        """Return what query_vector() encodes."""
        # Where a question names one thing seen and another said, only the part that is said counts.
        whole = question if intent.speech_text == intent.text else intent.speech_text
        return [whole, intent.speech_text]

    def nearest(self, query: NDArray[np.float32], rows: Sequence[int] | None) -> set[tuple[int, int]]:
        """Return (video row, position) of the utterances nearest in meaning."""
        ids, _ = self.index.search(query[None], CANDIDATE_COUNT, rows=rows)
        return set(self.catalog.locate("utterances", [int(n) for n in ids[0] if n >= 0]))

    def pairs(
        self, best: Sequence[SpokenRow], query: NDArray[np.float32], rarities: Mapping[str, float]
    ) -> list[Passage]:
        """Join the best utterances with their neighbours, when what was asked is said across both."""
        joined: dict[tuple[int, int], tuple[SpokenRow, SpokenRow]] = {}
        for one in best:
            before, after = self.catalog.spoken_beside(one.row, one.position)
            for a, b in ((before, one), (one, after)):
                if a is not None and b is not None and neighbours(a.utterance, b.utterance):
                    joined[a.row, a.position] = (a, b)
        found = []
        for pair in joined.values():
            # Encoding both together would take 8 ms a pair, to say much the same: a vector is a mean over words too.
            both = pair[0].vector + pair[1].vector
            cosine = float(both @ query) / max(float(np.linalg.norm(both)), 1e-6)  # without vectors both are 0
            found.append(described(pair, cosine, rarities))
        return found


def described(said: Sequence[SpokenRow], cosine: float, rarities: Mapping[str, float]) -> Passage:
    """Judge neighbouring utterances as one."""
    text = " ".join(one.utterance.text for one in said)
    found = [term for term in rarities if matches_term(text, term)]
    total = sum(rarities.values())
    return Passage(
        row=said[0].row,
        positions=tuple(one.position for one in said),
        span=TimeSpan(
            start_seconds=said[0].utterance.start_seconds, end_seconds=max(one.utterance.end_seconds for one in said)
        ),
        text=text,
        cosine=cosine,
        coverage=sum(rarities[term] for term in found) / total if total else 0.0,
        words=tuple(one.words for one in said),
        terms=tuple(found),
    )


def rarity(having: int, total: int) -> float:
    """Weigh a word or phrase by how few of the utterances have it: BM25's idf.

    Counted among the videos that are asked: what is said in others, which a caller may not read, has no part in it.
    """
    return math.log1p((total - having + 0.5) / (having + 0.5))


def rarest(holding: Mapping[str, int]) -> list[str]:
    """Choose the terms to look for from how many utterances hold each: the rarest, and more while they are quick."""
    chosen, count = [], 0
    for term, having in sorted(holding.items(), key=lambda entry: entry[1]):
        count += having
        if count > WORDED_COUNT and count > having:
            break
        chosen.append(term)
    return chosen


def terms_of(intent: Intent) -> list[str]:
    """Return what of a question is looked for word for word."""
    return [*content_terms(intent.speech_text), *intent.phrases]


def neighbours(a: Utterance, b: Utterance) -> bool:
    """Whether two utterances are near enough in time to be one answer."""
    return (
        a.epoch == b.epoch
        and b.start_seconds - a.end_seconds <= PAIR_GAP_SECONDS
        and b.end_seconds - a.start_seconds <= PAIR_MAX_SECONDS
    )


def apart(ranked: Sequence[Passage]) -> list[Passage]:
    """Keep the best of those that share an utterance."""
    kept: list[Passage] = []
    taken: set[tuple[int, int]] = set()
    for spoken in ranked:
        places = {(spoken.row, position) for position in spoken.positions}
        if not places & taken:
            kept.append(spoken)
            taken |= places
    return kept
