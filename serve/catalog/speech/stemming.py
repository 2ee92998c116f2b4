"""stem(): a word without its ending, by its language. English words are left to the search table's own tokenizer."""

# ruff: noqa: SIM905 - a table of words reads as words
import threading
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

ENGLISH = "en"
# Snowball's algorithms by ISO 639-1. A change of this table, or of an algorithm, needs a migration in
# serve.catalog.schema.
ALGORITHMS = dict(
    pair.split(":")
    for pair in (
        "ar:arabic ca:catalan cs:czech da:danish de:german el:greek es:spanish et:estonian eu:basque fa:persian"
        " fi:finnish fr:french hi:hindi hu:hungarian hy:armenian id:indonesian it:italian lt:lithuanian ne:nepali"
        " nl:dutch nn:norwegian no:norwegian pl:polish pt:portuguese ro:romanian ru:russian sr:serbian sv:swedish"
        " ta:tamil tr:turkish yi:yiddish"
    ).split()
)
STOP_LANGUAGES = {"no": "nb", "nn": "nb"}  # names of the package stop-words that differ from ours
STOP_SHARE = 0.3  # of the words of a question that tell no subject in a language, for it to be in that language

_lock = threading.Lock()  # the stemmers hold the word that they work on


def stemming_of(language: str) -> str:
    """Return the language by which words are stemmed: English for one without an algorithm."""
    return language if language in ALGORITHMS else ENGLISH


@lru_cache(maxsize=1 << 16)  # words: more than a person's vocabulary
def stem(word: str, language: str) -> str:
    """Return a lower-case word without its ending; one of English, or of a language without an algorithm, as it is.

    Source: Snowball, https://snowballstem.org
    """
    if language not in ALGORITHMS:
        return word
    with _lock:
        return str(_stemmer(ALGORITHMS[language]).stemWord(word)) or word


@cache
def _stemmer(algorithm: str) -> Any:
    import snowballstemmer

    return snowballstemmer.stemmer(algorithm)


@cache
def stop_words(language: str) -> frozenset[str]:
    """Return the words of a language that do not tell a subject; none: the language has no list.

    English is left out: serve.catalog.spelling has a list of its own.
    """
    from stop_words import LANGUAGE_MAPPING, get_stop_words

    name = STOP_LANGUAGES.get(language, language)
    return frozenset(get_stop_words(name)) if name in LANGUAGE_MAPPING and language != ENGLISH else frozenset()


def drop_stop_words(terms: Sequence[str], languages: Sequence[str]) -> list[str]:
    """Return the terms of a question without those that tell no subject, if it is in one of some languages.

    Where nothing would be left, all are returned.
    """
    dropped = max((stop_words(language).intersection(terms) for language in languages), key=len, default=frozenset())
    if len(dropped) < STOP_SHARE * len(terms):
        return list(terms)
    return [term for term in terms if term not in dropped] or list(terms)
