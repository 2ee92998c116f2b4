"""Which policies' words are said: words and phrases in any form and spelling, and regular expressions.

Sentences do not end where utterances do, so a phrase may begin in the words before.
"""

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from encoders.values import Utterance, Word
from serve.catalog.spelling import stems
from serve.moderation.policies import Policy, compiled

CONTEXT_COUNT = 15  # words before an utterance in which a phrase may begin
CONTEXT_SECONDS = 10.0  # after a longer pause, nothing goes on
NUMBER_WORDS = 3  # more words than a phrase has, for numbers said in several: "twenty twenty four"


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """Words that give something away."""

    policy: int  # which one of the listener's
    words: tuple[Word, ...]

    @property
    def confidence(self) -> float:
        """How sure the transcript is of them, 0..1: the geometric mean over the words."""
        logs = [math.log(max(word.probability, 1e-6)) for word in self.words]
        return math.exp(sum(logs) / len(logs))


class Listener:
    """Finds policies' terms in utterances, one after the other."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        self._phrases: dict[tuple[str, ...], set[int]] = defaultdict(set)  # stems -> policies
        self._longest = 0
        for number, policy in enumerate(policies):
            for phrase in policy.says:
                if wanted := stems(phrase):
                    self._phrases[wanted].add(number)
                    self._longest = max(self._longest, len(phrase.split()) + NUMBER_WORDS)
        self._firsts = {wanted[0] for wanted in self._phrases}
        self._has_numbers = any(first.isdecimal() for first in self._firsts)  # which may be said in several words
        self._patterns = [(compiled(text), n) for n, policy in enumerate(policies) for text in policy.patterns]

    def hear(self, before: Sequence[Word], utterance: Utterance) -> list[Heard]:
        """Return what is said in an utterance, in order.

        Args:
            before: The words before it, as following() gives them.
        """
        own = words_of(utterance)
        words = [*context(before, own), *own]
        first = len(words) - len(own)
        found = {*self._said(words, first), *self._matched(words, first)}  # both may find the same
        return [Heard(policy=n, words=tuple(words[start:end])) for start, end, n in sorted(found)]

    def _said(self, words: Sequence[Word], first: int) -> list[tuple[int, int, int]]:
        """Return the places of words and phrases that end in words[first:], and whose they are."""
        found = []
        for start, word in enumerate(words):
            own = stems(word.text)
            if not own or not (own[0] in self._firsts or (self._has_numbers and own[0].isdecimal())):
                continue
            for end in range(max(start, first) + 1, min(start + self._longest, len(words)) + 1):
                said = stems(" ".join(word.text for word in words[start:end]))
                found += [(start, end, policy) for policy in self._phrases.get(said, ())]
        return found

    def _matched(self, words: Sequence[Word], first: int) -> list[tuple[int, int, int]]:
        """As _said(), of regular expressions."""
        if not self._patterns or not words:
            return []
        text = " ".join(word.text for word in words)
        starts = [0]
        for word, _ in pairwise(words):
            starts.append(starts[-1] + len(word.text) + 1)
        found = []
        for pattern, policy in self._patterns:
            for match in pattern.finditer(text):
                if match.start() == match.end():
                    continue
                start = bisect_right(starts, match.start()) - 1
                end = bisect_left(starts, match.end())
                if end > first:
                    found.append((start, end, policy))
        return found


def words_of(utterance: Utterance) -> tuple[Word, ...]:
    """Return an utterance's words; one whose words have no times has them all through."""
    if utterance.words:
        return utterance.words
    return tuple(
        Word(text=text, start_seconds=utterance.start_seconds, end_seconds=utterance.end_seconds, probability=1.0)
        for text in utterance.text.split()
    )


def context(before: Sequence[Word], own: Sequence[Word]) -> Sequence[Word]:
    """Return the words before that what is said now may go on from."""
    if not before or not own or own[0].start_seconds - before[-1].end_seconds > CONTEXT_SECONDS:
        return ()
    return before[-CONTEXT_COUNT:]


def following(before: Sequence[Word], utterance: Utterance) -> tuple[Word, ...]:
    """Return the words that an utterance leaves for the next one."""
    own = words_of(utterance)
    return (*context(before, own), *own)[-CONTEXT_COUNT:]


def earliest_seconds(before: Sequence[Word], until_seconds: float) -> float:
    """Return where what is found next can begin at the earliest, when the next utterance begins at `until` or later."""
    if not before or until_seconds - before[-1].end_seconds > CONTEXT_SECONDS:
        return until_seconds
    return min(before[0].start_seconds, until_seconds)
