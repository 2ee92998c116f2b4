"""Finds the words of policies in utterances: words and phrases in any form and spelling, and regular expressions.

Sentences do not end where utterances do. So a phrase may begin in the words before an utterance, its context.
"""

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from encoders.values import TextLine, Utterance, Word
from serve.catalog.speech.stemming import ENGLISH, stemming_of
from serve.catalog.spelling import PhraseFinder, stems
from serve.moderation.policies import Policy, compile_pattern

WordChannel = Literal["speech", "text"]

CONTEXT_COUNT = 15  # words before an utterance in which a phrase may begin
CONTEXT_SECONDS = 10.0  # a longer pause ends every phrase


@dataclass(frozen=True, slots=True, kw_only=True)
class TermMatch:
    """Words that match a term of a policy."""

    policy: int  # index into the policies of the TermFinder
    words: tuple[Word, ...]

    @property
    def confidence(self) -> float:
        """How sure the transcript, or the reader, is of the words, 0..1: the geometric mean of their probabilities."""
        logs = [math.log(max(word.probability, 1e-6)) for word in self.words]
        return math.exp(sum(logs) / len(logs))


class PolicyPhrases:
    """The words and phrases of policies, as a language spells them."""

    def __init__(self, phrases: Sequence[Sequence[str]], language: str) -> None:
        """Take the phrases of each policy."""
        self._policies: dict[tuple[str, ...], set[int]] = defaultdict(set)  # by the stems of a phrase
        for number, own in enumerate(phrases):
            for phrase in own:
                if phrase_stems := stems(phrase, language):
                    self._policies[phrase_stems].add(number)
        self._finder = PhraseFinder((phrase for own in phrases for phrase in own), language)

    def find(self, words: Sequence[str], first: int) -> list[tuple[int, int, int]]:
        """Return (start, end, policy) of the words and phrases that end in words[first:]."""
        found = self._finder.find(words, first)
        return [(start, end, policy) for start, end, said in found for policy in self._policies[said]]


class TermFinder:
    """Finds the terms of policies in one utterance after the other, or in one line of text after the other."""

    def __init__(self, policies: Sequence[Policy], channel: WordChannel = "speech") -> None:
        """Take the terms for what is said ("speech"), or for the text in pictures ("text")."""
        terms = [(policy.says, policy.patterns) for policy in policies]
        if channel == "text":
            terms = [(policy.reads, policy.read_patterns) for policy in policies]
        self._phrases = [phrases for phrases, _ in terms]
        self._finders = {ENGLISH: PolicyPhrases(self._phrases, ENGLISH)}  # by the language of the words
        self._patterns = [(compile_pattern(text), n) for n, (_, patterns) in enumerate(terms) for text in patterns]

    def __bool__(self) -> bool:
        """Whether any policy has a term."""
        return any(self._phrases) or bool(self._patterns)

    def find(self, context: Sequence[Word], own: Sequence[Word], language: str = ENGLISH) -> list[TermMatch]:
        """Return the matches that end in an utterance's words, in order; `context` is as of next_context()."""
        words = [*words_in_reach(context, own), *own]
        first = len(words) - len(own)
        # A set: a phrase and a pattern of one policy may match the same words.
        phrases = self._phrase_places(words, first, stemming_of(language))
        places = {*phrases, *self._pattern_places(words, first)}
        return [TermMatch(policy=n, words=tuple(words[start:end])) for start, end, n in sorted(places)]

    def _phrase_places(self, words: Sequence[Word], first: int, language: str) -> list[tuple[int, int, int]]:
        """Return (start, end, policy) of the words and phrases that end in words[first:]."""
        if language not in self._finders:
            self._finders[language] = PolicyPhrases(self._phrases, language)
        return self._finders[language].find([word.text for word in words], first)

    def _pattern_places(self, words: Sequence[Word], first: int) -> list[tuple[int, int, int]]:
        """Return (start, end, policy) of the regular expressions that end in words[first:]."""
        if not self._patterns or not words:
            return []
        text = " ".join(word.text for word in words)
        starts = [0]
        for word, _ in pairwise(words):
            starts.append(starts[-1] + len(word.text) + 1)
        places = []
        for pattern, policy in self._patterns:
            for match in pattern.finditer(text):
                if match.start() == match.end():
                    continue
                start = bisect_right(starts, match.start()) - 1
                end = bisect_left(starts, match.end())
                if end > first:
                    places.append((start, end, policy))
        return places


def words_in(utterance: Utterance) -> tuple[Word, ...]:
    """Return an utterance's words. Words without times of their own have the times of the utterance."""
    if utterance.words:
        return utterance.words
    return tuple(
        Word(text=text, start_seconds=utterance.start_seconds, end_seconds=utterance.end_seconds, probability=1.0)
        for text in utterance.text.split()
    )


def words_of_line(line: TextLine) -> tuple[Word, ...]:
    """Return the words of a line of text. Each has the times and the confidence of the line."""
    return tuple(
        Word(text=text, start_seconds=line.start_seconds, end_seconds=line.end_seconds, probability=line.confidence)
        for text in line.text.split()
    )


def words_in_reach(context: Sequence[Word], own: Sequence[Word]) -> Sequence[Word]:
    """Return the words before an utterance in which its phrases may begin; empty after a long pause."""
    if not context or not own or own[0].start_seconds - context[-1].end_seconds > CONTEXT_SECONDS:
        return ()
    return context[-CONTEXT_COUNT:]


def next_context(context: Sequence[Word], own: Sequence[Word]) -> tuple[Word, ...]:
    """Return the context of the utterance that follows these words."""
    return (*words_in_reach(context, own), *own)[-CONTEXT_COUNT:]


def earliest_start_seconds(context: Sequence[Word], until_seconds: float) -> float:
    """Return the earliest start of a match in the next utterance, which begins at `until_seconds` or later."""
    if not context or until_seconds - context[-1].end_seconds > CONTEXT_SECONDS:
        return until_seconds
    return min(context[0].start_seconds, until_seconds)
