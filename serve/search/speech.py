"""SpeechChannel: passages of speech near a question in meaning (dense), or with its words (lexical).

serve.search.engine asks it; serve.search.ranking fuses the two rankings.
"""

import math
import threading
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from encoders.batching import TextVectors
from encoders.calibration import logistic
from encoders.values import Word
from serve.catalog.catalog import Catalog
from serve.catalog.reader import UtteranceRow
from serve.catalog.rows import words_of
from serve.catalog.speech.speakers import said_by
from serve.catalog.speech.stemming import ENGLISH, drop_stop_words
from serve.catalog.spelling import PhraseFinder, content_terms, matches_term
from serve.index.nearest import NearestIndex
from serve.search.intent import Intent
from serve.search.sentences import SentenceReader, is_same_sentence
from serve.search.video_rows import Transcript
from serve.values import MatchedWord
from temporal.values import TimeSpan
from temporal.window import overlaps

CANDIDATE_COUNT = 64  # utterances that each channel finds: ten answers with room for overlap and filters
MAX_CANDIDATE_COUNT = 16_384  # utterances among which those of one speaker are looked for: Milvus finds no more at once
# Utterances scored by BM25, which takes 1 ms for some 500. Common words of a question are not looked for if its rarer
# words are in that many utterances: an utterance with only common words is seldom among the first.
WORDED_COUNT = 20_000
COUNTED_TERM_COUNT = 50_000  # words and phrases whose frequencies are kept in memory: 5 MB
JOINED_COUNT = 8  # best utterances that are also scored as sentences, alone and with a neighbour
PAIR_GAP_SECONDS = 2.0  # longest pause within a pair: a longer one separates statements
PAIR_MAX_SECONDS = 20.0  # longest pair
PAIR_COST = 0.05  # two sentences must score higher than one of them by this much, or every answer would grow
PART_COST = 0.01  # the same for two parts of a long sentence: the second must have a word of the question
LEXICAL_SHARE = 0.2  # weight of the word coverage, against the cosine, in the order of passages
# MiniLM's cosine of a question and its answer, on the development videos: 0.35..1.0 if the answer is said there,
# 0.16..0.35 for the nearest passage if it is not. The logistic is one half between the two.
COSINE_MIDDLE = 0.40
COSINE_WIDTH = 0.04
COVERED_ENOUGH = 0.5  # word coverage that still means nothing: lexical trust is 0 up to here
WORD_TRUST = 0.95  # lexical trust in a passage with every word: Whisper mishears some


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A sentence, or two neighbouring sentences or parts of a long one, of one video that may answer a question."""

    row: int  # of the video
    positions: tuple[int, ...]  # of the utterances in the video, ascending; see Catalog.locate()
    span: TimeSpan
    text: str
    cosine: float  # -1..1, of the passage and the question
    coverage: float  # 0..1: share of the question's terms in the passage, weighted by rarity
    words: tuple[str, ...]  # words of each utterance, encoded as in UtteranceRow
    terms: tuple[str, ...]  # terms of the question that are in the passage
    vector: NDArray[np.float32] = field(compare=False, repr=False)  # (D,), unit length or 0: what it says as a whole
    language: str = ENGLISH  # of the text, ISO 639-1
    cost: float = 0.0  # what it must score above its half

    @property
    def matched_words(self) -> tuple[MatchedWord, ...]:
        """The words that match a term of the question."""
        return tuple(match for words in self.words for match in match_words(words_of(words), self.terms, self.language))

    @property
    def score(self) -> float:
        """For the order of passages."""
        return self.cosine + LEXICAL_SHARE * self.coverage - self.cost

    @property
    def dense_trust(self) -> float:
        """Weight 0..1 of the passage's rank by meaning."""
        return logistic((self.cosine - COSINE_MIDDLE) / COSINE_WIDTH)

    @property
    def lexical_trust(self) -> float:
        """Weight 0..1 of the passage's rank by words."""
        return WORD_TRUST * max(0.0, (self.coverage - COVERED_ENOUGH) / (1 - COVERED_ENOUGH))

    @property
    def trust(self) -> float:
        """Weight 0..1 of the passage against a sight. Its confidence is another number: see serve.search.spoken."""
        return 1.0 - (1.0 - self.dense_trust) * (1.0 - self.lexical_trust)


@dataclass(frozen=True, slots=True, kw_only=True)
class TermMatches:
    """Where the terms of a question, words and phrases, are said in the videos that are searched."""

    rarities: Mapping[str, float]  # by term
    places: Set[tuple[int, int]]  # (video row, position) of the best utterances by BM25


class Frequencies:
    """Catalog.document_frequencies(), kept in memory for searches of all videos, until the catalog changes.

    Common words take longest to count, and they come up again.
    """

    def __init__(self, catalog: Catalog, *, max_term_count: int = COUNTED_TERM_COUNT) -> None:
        self._catalog, self._max_term_count, self._lock = catalog, max_term_count, threading.Lock()
        self._state: tuple[str, int] | None = None  # of the catalog to which the counts belong
        self._counts: dict[str, int] = {}  # utterances by term
        self._total = 0  # utterances

    def of(self, terms: Sequence[str], rows: Sequence[int] | None) -> tuple[dict[str, int], int]:
        """Return the number of utterances of some videos (None: of all) with each term, and of all their utterances."""
        if rows is not None:
            return self._catalog.document_frequencies(terms, rows)
        with self._catalog.snapshot():
            state = self._catalog.identity(), self._catalog.generation()
            with self._lock:
                is_current, total = self._state == state, self._total
                counts = {term: self._counts[term] for term in terms if is_current and term in self._counts}
            missing = [term for term in terms if term not in counts]
            if missing or not is_current:
                counted, total = self._catalog.document_frequencies(missing)
                counts |= counted
        with self._lock:
            if self._state != state or len(self._counts) > self._max_term_count:
                self._state, self._counts = state, {}
            self._counts |= counts
            self._total = total
        return {term: counts[term] for term in terms}, total


class SpeechChannel:
    """Finds passages of speech. Any number of threads may ask."""

    def __init__(
        self, catalog: Catalog, texts: TextVectors, index: NearestIndex, transcript_of: Callable[[int], Transcript]
    ) -> None:
        """Take what a search uses.

        Args:
            texts: Encodes sentences.
            index: The index of utterances.
            transcript_of: Returns the transcript of the version of a video that is searched, by row.
        """
        self._catalog, self._texts, self._index, self._transcript_of = catalog, texts, index, transcript_of
        self._frequencies = Frequencies(catalog)

    def find_words(self, terms: Sequence[str], rows: Sequence[int] | None, speaker: str = "") -> TermMatches:
        """Find the utterances of some videos (None: of all) with the terms of a question, which may be none.

        Needs no vectors, so it can run while they are encoded.

        Args:
            speaker: As in Query: only what they say.
        """
        counts, total = self._frequencies.of(drop_stop_words(terms, self._catalog.languages()), rows)
        rarest = choose_rarest(counts)

        def find(limit: int) -> list[tuple[int, int]]:
            matches = self._catalog.match_words(rarest, limit=limit, rows=rows)
            return [(match.row, match.position) for match in matches]

        return TermMatches(
            rarities={term: rarity(count, total) for term, count in counts.items()},
            places=self._find_said_by(speaker, find),
        )

    def find_passages(
        self,
        query: NDArray[np.float32],
        words: TermMatches,
        rows: Sequence[int] | None,
        intent: Intent,
        speaker: str = "",
    ) -> list[Passage]:
        """Return the passages that may answer, best first; of passages that share an utterance only the best.

        Args:
            query: float32 (D,), unit length, of a sentence.
            words: Result of find_words() for the same question.
            rows: Search these videos only; None: all.
            intent: Of the question. Where it counts the times that something is said, each sentence is one.
            speaker: As in find_words().
        """

        def find(limit: int) -> list[tuple[int, int]]:
            ids, _ = self._index.search(query[None], limit, rows=rows)
            return self._catalog.locate("utterances", [int(n) for n in ids[0] if n >= 0])

        places = self._find_said_by(speaker, find) | words.places
        spoken = {(each.row, each.position): each for each in self._catalog.utterances_at(sorted(places))}
        singles = [make_passage([each], query, words.rarities) for each in spoken.values()]
        singles.sort(key=lambda passage: -passage.score)
        best = [spoken[passage.row, passage.positions[0]] for passage in singles[:JOINED_COUNT]]
        joined = self._join(best, query, words.rarities)
        if speaker:
            all_places = [(each.row, position) for each in joined for position in each.positions]
            own = said_by(self._catalog, speaker, all_places)
            joined = [each for each in joined if own.issuperset((each.row, position) for position in each.positions)]
        if intent.occurrence is not None:
            joined = [passage for passage in joined if passage.cost < PAIR_COST]
        # Of equal scores the longer passage: a sentence comes before its parts.
        ranked = sorted([*singles, *joined], key=lambda passage: (-passage.score, -passage.span.length_seconds))
        return drop_overlapping(ranked)

    def average_utterances(self, row: int, span: TimeSpan) -> NDArray[np.float32] | None:
        """Return the mean vector of the utterances in a span, float32 (D,), unit length; None if there are none."""
        inside = [n for n, each in enumerate(self._transcript_of(row).utterances) if overlaps(each, span)]
        if not inside:
            return None
        total = self._catalog.utterance_vectors(row)[inside].sum(axis=0)
        return np.asarray(total / np.linalg.norm(total), np.float32)

    def encode_question(self, question: str, intent: Intent) -> NDArray[np.float32]:
        """Return float32 (D,), unit length: the mean of the question and of its target, which beats either alone."""
        both = self._texts.encode(self.prompts_of(question, intent)).sum(axis=0)
        return np.asarray(both / np.linalg.norm(both), np.float32)

    def prompts_of(self, question: str, intent: Intent) -> list[str]:
        """Return the texts that encode_question() encodes."""
        # Where a question names one thing seen and another said, only the part that is said counts.
        whole = question if intent.speech_text == intent.text else intent.speech_text
        return [whole, intent.speech_text]

    def _find_said_by(self, speaker: str, find: Callable[[int], Sequence[tuple[int, int]]]) -> set[tuple[int, int]]:
        """Return at least CANDIDATE_COUNT places of utterances that a speaker says, as far as there are so many.

        Args:
            speaker: Empty: anybody.
            find: Returns the best places, at most so many.
        """
        limit = CANDIDATE_COUNT
        while True:
            found = find(limit)
            own = said_by(self._catalog, speaker, found) if speaker else set(found)
            if not speaker or len(own) >= CANDIDATE_COUNT or len(found) < limit or limit >= MAX_CANDIDATE_COUNT:
                return own
            limit *= 4

    def _join(
        self, best: Sequence[UtteranceRow], query: NDArray[np.float32], rarities: Mapping[str, float]
    ) -> list[Passage]:
        """Return the sentences of the best utterances, and each with a neighbour, as an answer may take two."""
        sentences: dict[tuple[int, int], list[UtteranceRow]] = {}  # by video row and first position
        pairs: dict[tuple[int, int], tuple[list[UtteranceRow], list[UtteranceRow]]] = {}  # by the place of the second
        reader = SentenceReader(self._catalog, best)
        for utterance in best:
            sentence = reader.read(utterance)
            sentences[utterance.row, sentence[0].position] = sentence
            before, after = reader.read_beside(sentence)
            for first, second in ((before, sentence), (sentence, after)):
                if first and second and are_neighbours(first, second):
                    pairs[utterance.row, second[0].position] = (first, second)
        passages = [make_passage(sentence, query, rarities) for sentence in sentences.values()]
        for first, second in pairs.values():
            both = [*first, *second]
            passages.append(make_passage(both, query, rarities, cost=PAIR_COST, is_sentence=False))
            if is_same_sentence(first[-1].utterance, second[0].utterance):
                passages.append(make_passage(both, query, rarities, cost=PART_COST))
        return passages


def make_passage(
    utterances: Sequence[UtteranceRow],
    query: NDArray[np.float32],
    rarities: Mapping[str, float],
    *,
    cost: float = 0.0,
    is_sentence: bool = True,
) -> Passage:
    """Make a passage of neighbouring utterances; work out its cosine and its coverage of the question's terms.

    A sentence is as near to the question as its nearest utterance: the others may say more than was asked.
    """
    # Encoding the joined text would take 8 ms and give nearly the same: a vector is a mean over words.
    vector = utterances[0].vector
    if len(utterances) > 1:
        total_vector = np.sum([each.vector for each in utterances], axis=0)
        vector = np.asarray(total_vector / max(float(np.linalg.norm(total_vector)), 1e-6), np.float32)
    cosine = max(float(each.vector @ query) for each in utterances) if is_sentence else float(vector @ query)
    text = " ".join(each.utterance.text for each in utterances)
    language = utterances[0].utterance.language
    terms = [term for term in rarities if matches_term(text, term, language)]
    total = sum(rarities.values())
    return Passage(
        row=utterances[0].row,
        positions=tuple(each.position for each in utterances),
        span=TimeSpan(
            start_seconds=utterances[0].utterance.start_seconds,
            end_seconds=max(each.utterance.end_seconds for each in utterances),
        ),
        text=text,
        cosine=cosine,
        cost=cost,
        coverage=sum(rarities[term] for term in terms) / total if total else 0.0,
        words=tuple(each.words for each in utterances),
        terms=tuple(terms),
        vector=vector,
        language=language,
    )


def match_words(words: Sequence[Word], terms: Collection[str], language: str) -> tuple[MatchedWord, ...]:
    """Return the words of an utterance in a language that match one of the terms."""
    found = {n for n, word in enumerate(words) if any(matches_term(word.text, term, language) for term in terms)}
    for start, end, _ in PhraseFinder(terms, language).find([word.text for word in words]):  # numbers and quotations
        found.update(range(start, end))
    return tuple(
        MatchedWord(text=words[n].text, start_seconds=words[n].start_seconds, end_seconds=words[n].end_seconds)
        for n in sorted(found)
    )


def rarity(count: int, total: int) -> float:
    """Return BM25's idf of a term that `count` of `total` utterances have.

    Both are counted in the searched videos only: other videos, which the caller may not read, must not show in answers.
    """
    return math.log1p((total - count + 0.5) / (count + 0.5))


def choose_rarest(counts: Mapping[str, int]) -> list[str]:
    """Choose the terms to look for, given the number of utterances with each: the rarest ones, up to WORDED_COUNT."""
    chosen, total = [], 0
    for term, count in sorted(counts.items(), key=lambda entry: entry[1]):
        total += count
        if total > WORDED_COUNT and total > count:
            break
        chosen.append(term)
    return chosen


def terms_of(intent: Intent) -> list[str]:
    """Return the words and phrases of a question that are looked for literally."""
    return [*content_terms(intent.speech_text), *intent.phrases]


def are_neighbours(first: Sequence[UtteranceRow], second: Sequence[UtteranceRow]) -> bool:
    """Whether two sentences are near enough in time to be one passage."""
    a, b = first[-1].utterance, second[0].utterance
    return (
        a.epoch == b.epoch
        and b.start_seconds - a.end_seconds <= PAIR_GAP_SECONDS
        and second[-1].utterance.end_seconds - first[0].utterance.start_seconds <= PAIR_MAX_SECONDS
    )


def drop_overlapping(ranked: Sequence[Passage]) -> list[Passage]:
    """Return the passages that share no utterance with a better one."""
    distinct: list[Passage] = []
    used: set[tuple[int, int]] = set()
    for passage in ranked:
        places = {(passage.row, position) for position in passage.positions}
        if not places & used:
            distinct.append(passage)
            used |= places
    return distinct
