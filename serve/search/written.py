"""WrittenChannel: what is written in pictures, near a question in meaning or with its words.

An answer is a screen: the lines that stand in the picture together, as the words of a question may be spread over a
slide. serve.search.engine asks. What is written is untrusted: it is compared and shown, and decides nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from encoders.calibration import logistic
from encoders.values import TextLine
from encoders.writing.text_track import is_same_line
from serve.catalog.catalog import Catalog
from serve.catalog.spelling import content_terms, matches_term, stems
from serve.catalog.text_lines import TextLineRow, lines_with
from serve.index.nearest import NearestIndex
from serve.search.intent import Intent
from serve.search.speech import CANDIDATE_COUNT, choose_rarest, rarity
from serve.values import MatchedText
from temporal.values import TimeSpan

SAME_SECONDS = 1e-3  # between the end of a line and the start of the next, which goes on with it
LEXICAL_SHARE = 0.5  # weight of the word coverage, against the cosine, in the order of screens


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """Lines that one picture of a video shows together, as an answer to a question."""

    row: int  # of the video
    line: TextLine  # the nearest
    span: TimeSpan  # while it stands there
    cosine: float  # -1..1, of the nearest line and the question
    coverage: float  # 0..1: share of the question's terms on the screen, weighted by rarity
    matched: tuple[MatchedText, ...]  # lines with a term of the question

    @property
    def score(self) -> float:
        """For the order of screens."""
        return self.cosine + LEXICAL_SHARE * self.coverage


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenEvidence:
    """What speaks for one screen."""

    cosine: float  # -1..1, of the nearest line and the question
    coverage: float  # 0..1, of the question's terms
    asks_for_text: float  # 0 or 1: the question names writing, or quotes it


# A logistic regression of "the screen answers", fitted by `python -m benchmarks.written` to the training half of the
# questions, of writing and of other things. The cosines are MiniLM's.
INTERCEPT = -5.9638
WEIGHTS = WrittenEvidence(cosine=9.3035, coverage=2.0036, asks_for_text=0.8518)
INPUTS = tuple(each.name for each in fields(WrittenEvidence))


class WrittenChannel:
    """Finds screens. Any number of threads may ask."""

    def __init__(self, catalog: Catalog, index: NearestIndex) -> None:
        """Take what a search uses: the catalog, and the index of lines of text."""
        self._catalog, self._index = catalog, index

    def find_screens(self, query: NDArray[np.float32], intent: Intent, rows: Sequence[int] | None) -> list[Screen]:
        """Return the screens that may answer, best first; of screens that overlap only the best.

        Args:
            query: float32 (D,), unit length, of the intent's written_text.
            intent: Of the question.
            rows: Search these videos only; None: all.
        """
        if not len(self._index):
            return []
        terms = terms_of_text(intent)
        counts, total = self._catalog.document_frequencies(terms, rows, "text_lines")
        if not total:
            return []
        ids, _ = self._index.search(query[None], CANDIDATE_COUNT, rows=rows)
        places = set(self._catalog.locate("text_lines", [int(n) for n in ids[0] if n >= 0]))
        matches = self._catalog.match_words(choose_rarest(counts), limit=CANDIDATE_COUNT, rows=rows, kind="text_lines")
        places |= {(match.row, match.position) for match in matches}
        rarities = {term: rarity(count, total) for term, count in counts.items()}
        lines = lines_with(self._catalog, sorted(places))
        screens = [make_screen(line, lines, query, rarities) for line in lines if (line.row, line.position) in places]
        joined = join_continued(screens)
        return drop_simultaneous(sorted(joined, key=lambda each: (-each.score, each.row, each.span.start_seconds)))


def terms_of_text(intent: Intent) -> list[str]:
    """Return the words and phrases that a question looks for in pictures."""
    return list(dict.fromkeys([*content_terms(intent.written_text), *intent.phrases]))


def make_screen(
    nearest: TextLineRow, lines: Sequence[TextLineRow], query: NDArray[np.float32], rarities: Mapping[str, float]
) -> Screen:
    """Make the screen of a line: it, and those of `lines` that share a picture with it."""
    own = nearest.line
    beside = [
        each.line
        for each in lines
        if each.row == nearest.row and each.line.epoch == own.epoch and share_time(each.line, own)
    ]
    text = "\n".join(line.text for line in beside)
    found = [term for term in rarities if matches_term(text, term)]
    total = sum(rarities.values())
    parts = {stem for term in found for stem in stems(term)}
    return Screen(
        row=nearest.row,
        line=own,
        span=TimeSpan(start_seconds=own.start_seconds, end_seconds=own.end_seconds),
        cosine=float(nearest.vector @ query),
        coverage=sum(rarities[term] for term in found) / total if total else 0.0,
        matched=tuple(
            MatchedText(
                text=line.text,
                box=(line.box.left, line.box.top, line.box.right, line.box.bottom),
                start_seconds=line.start_seconds,
                end_seconds=line.end_seconds,
                confidence=line.confidence,
            )
            for line in beside
            if line is own or parts & set(stems(line.text))
        ),
    )


def join_continued(screens: Sequence[Screen]) -> list[Screen]:
    """Join the screens of a line that stands through several segments of a live video, where it is a line in each."""
    joined: list[Screen] = []
    for screen in sorted(screens, key=lambda each: (each.row, each.line.epoch, each.span.start_seconds)):
        before = next((each for each in joined if _goes_on(each, screen)), None)
        if before is None:
            joined.append(screen)
            continue
        joined.remove(before)
        best = max(before, screen, key=lambda each: each.score)
        span = TimeSpan(start_seconds=before.span.start_seconds, end_seconds=screen.span.end_seconds)
        joined.append(replace(best, line=screen.line, span=span, matched=_join_matched(before, screen)))
    return joined


def _goes_on(before: Screen, screen: Screen) -> bool:
    """Whether the line of a screen goes on in another."""
    return (
        (before.row, before.line.epoch) == (screen.row, screen.line.epoch)
        and abs(before.span.end_seconds - screen.span.start_seconds) < SAME_SECONDS
        and is_same_line(before.line, screen.line)
    )


def _join_matched(before: Screen, screen: Screen) -> tuple[MatchedText, ...]:
    """Return the matched lines of two screens, those that go on once."""
    later = list(screen.matched)
    lines = []
    for line in before.matched:
        same = next((each for each in later if each.text == line.text), None)
        if same is not None:
            later.remove(same)
            line = replace(line, end_seconds=same.end_seconds)
        lines.append(line)
    return (*lines, *later)


def drop_simultaneous(ranked: Sequence[Screen]) -> list[Screen]:
    """Return the screens that share no time with a better one of their video."""
    kept: list[Screen] = []
    for screen in ranked:
        if not any(each.row == screen.row and share_time(each.span, screen.span) for each in kept):
            kept.append(screen)
    return kept


def share_time(a: TextLine | TimeSpan, b: TextLine | TimeSpan) -> bool:
    """Whether two lines or spans share some time; in a still picture, which has no length, they do."""
    return a.start_seconds == b.start_seconds or (a.start_seconds < b.end_seconds and a.end_seconds > b.start_seconds)


def written_evidence_of(screens: Sequence[Screen], intent: Intent) -> list[WrittenEvidence]:
    """Return the evidence for each of the screens that a search finds."""
    return [
        WrittenEvidence(cosine=screen.cosine, coverage=screen.coverage, asks_for_text=float(intent.names_text))
        for screen in screens
    ]


def judge_screens(screens: Sequence[Screen], intent: Intent) -> list[float]:
    """Return the confidence 0..1 of each screen that it answers the question."""
    return [
        logistic(INTERCEPT + sum(getattr(WEIGHTS, name) * getattr(evidence, name) for name in INPUTS))
        for evidence in written_evidence_of(screens, intent)
    ]
