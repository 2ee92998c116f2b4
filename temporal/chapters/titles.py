"""Titles: the words that set each part of a video apart from its other parts, as they were said.

A term (one to three words of an utterance) counts by its class-based TF-IDF: how often the part says it, times
log(1 + A / f), where f is how often the video says it and A the mean number of words of a part. Source: Grootendorst,
"BERTopic: Neural topic modeling with a class-based TF-IDF procedure", 2022.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from encoders.values import Utterance

MAX_TERM_WORDS = 3
MAX_TERMS = 3  # of a title
MAX_TITLE_CHARS = 60  # players cut longer titles off
APOSTROPHES = str.maketrans("", "", "'\u2018\u2019\u02bc`\u00b4")

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Term:
    key: Key  # its words in lower case, without punctuation
    text: str  # as said, without the punctuation around it
    weight: int  # number of its words that are not stop words

    @property
    def is_name(self) -> bool:
        """Whether each of its words begins with a capital."""
        return all(word[0].isupper() for word in self.text.split())


def titles(parts: Sequence[Sequence[Utterance]], stop_words: Collection[str]) -> list[str]:
    """Return the title of each part of a video; empty for a part in which nothing is said.

    Args:
        parts: The utterances of each part, in order.
        stop_words: Words that tell no subject, in lower case without apostrophes. No term begins or ends with one.
    """
    terms = [[term for utterance in part for term in _terms(utterance, stop_words)] for part in parts]
    totals = Counter(term.key for part in terms for term in part)
    # Words that stand together once may do so by chance, unless they are a name.
    terms = [[t for t in part if len(t.key) == 1 or totals[t.key] > 1 or t.is_name] for part in terms]
    counts = [Counter(term.key for term in part) for part in terms]
    mean_words = sum(len(list(_words(each))) for part in parts for each in part) / max(1, len(parts))
    return [_title(said, count, totals, mean_words) for said, count in zip(terms, counts, strict=True)]


def _title(said: Sequence[_Term], counts: Counter[Key], totals: Counter[Key], mean_words: float) -> str:
    firsts = list({term.key: term for term in reversed(said)}.values())[::-1]  # each as first said, in that order

    def score(term: _Term) -> float:
        return counts[term.key] * math.log(1 + mean_words / totals[term.key]) * term.weight

    chosen: list[_Term] = []
    length = 0
    for term in sorted(firsts, key=score, reverse=True):
        taken = {word for other in chosen for word in other.key}
        if taken.isdisjoint(term.key) and length + len(term.text) <= MAX_TITLE_CHARS:
            chosen.append(term)
            length += len(term.text) + len(", ")
            if len(chosen) == MAX_TERMS:
                break
    return ", ".join(term.text for term in chosen)


def _words(utterance: Utterance) -> Iterator[str]:
    """Yield the words of an utterance with their punctuation: Whisper's, since not all scripts have spaces."""
    for word in [word.text for word in utterance.words] or utterance.text.split():
        if word.strip():
            yield word.strip()


def _terms(utterance: Utterance, stop_words: Collection[str]) -> Iterator[_Term]:
    """Yield the terms of an utterance, in order. None goes across punctuation."""
    words = list(_words(utterance))
    bare = [_strip(word) for word in words]
    keys = [word.lower().translate(APOSTROPHES) for word in bare]
    is_subject = [len(key) > 1 and key not in stop_words for key in keys]
    for first in range(len(words)):
        for count in range(1, MAX_TERM_WORDS + 1):
            last = first + count - 1
            if last >= len(words) or not bare[last]:
                break
            if is_subject[first] and is_subject[last]:
                text = _strip(" ".join(words[first : last + 1]))
                yield _Term(key=tuple(keys[first : last + 1]), text=text, weight=sum(is_subject[first : last + 1]))
            if not words[last][-1].isalnum():
                break


def _strip(text: str) -> str:
    """Remove what is neither letter nor digit from both ends."""
    kept = [index for index, letter in enumerate(text) if letter.isalnum()]
    return text[kept[0] : kept[-1] + 1] if kept else ""
