"""The two speech channels: utterances near a question in meaning (dense), and utterances with its words (lexical)."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from encoders.batching import TextVectors
from encoders.calibration import logistic
from encoders.values import Utterance
from serve.catalog import Catalog
from serve.following import Said, SaidVectors, read_said_vectors
from serve.intent import Intent
from serve.lexical import content_terms, matches_term
from serve.nearest import NearestRows
from serve.pieces import Pieces
from serve.sharing import RowCache
from serve.values import MatchedWord
from temporal.values import TimeSpan
from temporal.window import overlaps

CACHED_VECTOR_BYTES = 256 << 20  # of the videos asked about lately: 170,000 utterances of 384 numbers
CANDIDATE_COUNT = 64  # utterances each channel brings: ten answers with room for overlap and filters
# Utterances that are weighed by their words. A question's commoner words are left out where its rarer ones have so
# many: BM25 takes 1 ms for some 500, and what has common words alone is seldom among the first.
WORDED_COUNT = 20_000
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
class Spoken:
    """One or two neighbouring utterances of one video that may answer a question."""

    row: int  # the video's
    first: int  # places among the video's utterances, inclusive
    last: int
    span: TimeSpan
    text: str
    cosine: float  # -1..1, dense
    coverage: float  # 0..1: the share of the question's words found, weighted by rarity
    matched_words: tuple[MatchedWord, ...]

    @property
    def score(self) -> float:
        return self.cosine + LEXICAL_SHARE * self.coverage - PAIR_COST * (self.last - self.first)

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


class SpeechChannel:
    """Finds what was said. Any number of threads may ask."""

    def __init__(
        self,
        catalog: Catalog,
        texts: TextVectors,
        index: NearestRows,
        utterances: Callable[[int], Said],
        version_of: Callable[[int], int],
    ) -> None:
        """Take what there is.

        Args:
            utterances: Of a video, by its row, in the state that is asked.
            version_of: Video.version, by row, in that state.
        """
        self.catalog, self.texts, self.index, self.utterances = catalog, texts, index, utterances
        self.version_of = version_of
        self.vectors: RowCache[SaidVectors] = RowCache(
            partial(read_said_vectors, catalog), lambda said: said.vectors.nbytes, CACHED_VECTOR_BYTES
        )

    def vectors_of(self, row: int) -> Pieces:
        """Return float32 (U, D), in the order of the utterances."""
        return self.vectors.get(row, self.version_of(row)).vectors

    def ask(self, query: NDArray[np.float32], terms: Sequence[str], rows: Sequence[int] | None) -> list[Spoken]:
        """Return the utterances that may answer, best first; of overlapping ones only the best.

        Args:
            query: float32 (D,), unit: of a sentence.
            terms: Words and phrases that count by themselves; may be none.
            rows: Of these videos only; None: of all.
        """
        holding = {term: self.catalog.document_frequency(term, rows) for term in terms}
        rarities = {term: rarity(*counts) for term, counts in holding.items()}
        rare = rarest({term: having for term, (having, _) in holding.items()})
        places = self.nearest(query, rows) | self.worded(rare, rows)
        singles = self.singles(places, query, rarities)
        singles.sort(key=lambda spoken: -spoken.score)
        pairs = self.pairs(singles[:PAIR_COUNT], query, rarities)
        return apart(sorted([*singles, *pairs], key=lambda spoken: -spoken.score))

    def example_vector(self, row: int, span: TimeSpan) -> NDArray[np.float32] | None:
        """Return float32 (D,), unit, of what is said in a span; None where nothing is."""
        inside = [n for n, one in enumerate(self.utterances(row).utterances) if overlaps(one, span)]
        if not inside:
            return None
        total = self.vectors_of(row).take(np.array(inside)).sum(axis=0)
        return np.asarray(total / np.linalg.norm(total), np.float32)

    def query_vector(self, question: str, intent: Intent) -> NDArray[np.float32]:
        """Return float32 (D,): midway between the question as asked and its target, which beats either alone."""
        whole = question if intent.said == intent.text else intent.said  # the question is of something else besides
        both = self.texts.encode([whole, intent.said]).sum(axis=0)
        return np.asarray(both / np.linalg.norm(both), np.float32)

    def nearest(self, query: NDArray[np.float32], rows: Sequence[int] | None) -> set[tuple[int, int]]:
        """Return (video row, position) of the utterances nearest in meaning."""
        ids, _ = self.index.search(query[None], CANDIDATE_COUNT, rows=rows)
        return set(self.catalog.locate("utterances", [int(n) for n in ids[0] if n >= 0]))

    def worded(self, terms: Sequence[str], rows: Sequence[int] | None) -> set[tuple[int, int]]:
        """Return (video row, position) of the utterances with most of the words, by BM25."""
        found = self.catalog.match_words(terms, limit=CANDIDATE_COUNT, rows=rows)
        return {(match.row, match.position) for match in found}

    def singles(
        self, places: Iterable[tuple[int, int]], query: NDArray[np.float32], rarities: Mapping[str, float]
    ) -> list[Spoken]:
        """Judge utterances by themselves, each video read once."""
        positions: dict[int, list[int]] = defaultdict(list)
        for row, position in places:
            positions[row].append(position)
        judged = []
        for row, wanted in positions.items():
            said = self.utterances(row)
            places = said.places(wanted)
            cosines = self.vectors_of(row).take(places) @ query
            judged += [
                self.described(row, said, int(n), int(n), float(cosine), rarities)
                for n, cosine in zip(places, cosines, strict=True)
            ]
        return judged

    def pairs(self, best: Sequence[Spoken], query: NDArray[np.float32], rarities: Mapping[str, float]) -> list[Spoken]:
        """Join the best utterances with their neighbours, when what was asked is said across both."""
        joined = {
            (spoken.row, first)
            for spoken in best
            for first in (spoken.first - 1, spoken.first)
            if first >= 0 and self.are_neighbours(spoken.row, first)
        }
        found = []
        for row, first in sorted(joined):
            # Encoding both together would take 8 ms a pair, to say much the same: a vector is a mean over words too.
            both = self.vectors_of(row).take(np.array([first, first + 1])).sum(axis=0)
            cosine = float(both @ query / max(np.linalg.norm(both), 1e-6))  # without vectors both are 0
            found.append(self.described(row, self.utterances(row), first, first + 1, cosine, rarities))
        return found

    def are_neighbours(self, row: int, first: int) -> bool:
        """Whether an utterance has another near enough behind it."""
        said = self.utterances(row).utterances
        return first + 1 < len(said) and neighbours(said[first], said[first + 1])

    def described(
        self, row: int, said: Said, first: int, last: int, cosine: float, rarities: Mapping[str, float]
    ) -> Spoken:
        """Judge neighbouring utterances as one."""
        mine = said.utterances[first : last + 1]
        text = " ".join(utterance.text for utterance in mine)
        found = [term for term in rarities if matches_term(text, term)]
        total = sum(rarities.values())
        words = self.catalog.words(row, int(said.positions[first]), int(said.positions[last])) if found else ()
        return Spoken(
            row=row,
            first=first,
            last=last,
            span=TimeSpan(
                start_seconds=mine[0].start_seconds, end_seconds=max(utterance.end_seconds for utterance in mine)
            ),
            text=text,
            cosine=cosine,
            coverage=sum(rarities[term] for term in found) / total if total else 0.0,
            matched_words=tuple(
                MatchedWord(text=word.text, start_seconds=word.start_seconds, end_seconds=word.end_seconds)
                for word in words
                if any(matches_term(word.text, term) for term in found)
            ),
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
    return [*content_terms(intent.said), *intent.phrases]


def neighbours(a: Utterance, b: Utterance) -> bool:
    """Whether two utterances are near enough in time to be one answer."""
    return (
        a.epoch == b.epoch
        and b.start_seconds - a.end_seconds <= PAIR_GAP_SECONDS
        and b.end_seconds - a.start_seconds <= PAIR_MAX_SECONDS
    )


def apart(ranked: Sequence[Spoken]) -> list[Spoken]:
    """Keep the best of those that share an utterance."""
    kept: list[Spoken] = []
    taken: set[tuple[int, int]] = set()
    for spoken in ranked:
        places = {(spoken.row, position) for position in range(spoken.first, spoken.last + 1)}
        if not places & taken:
            kept.append(spoken)
            taken |= places
    return kept
