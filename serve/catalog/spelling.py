"""normalise(): one spelling for spoken and typed words, so that the word search compares like with like.

The tokenizer of the search table folds accents and the endings of English words (porter). normalise() does the rest:
numbers ("twenty per cent", "20%"), apostrophes, dotted initials, and scripts without spaces. search_words() removes the
endings of other languages.
"""

# ruff: noqa: SIM905 - a table of words reads as words
import re
import sqlite3
import threading
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache

from serve.catalog.number_words import spell_numbers
from serve.catalog.speech.stemming import ENGLISH, stem

# Of the search table: a change needs a migration in serve.catalog.schema.
TOKENIZER = "porter unicode61 remove_diacritics 2"

SYMBOLS = {"%": " percent ", "&": " and ", "£": " pounds ", "€": " euros ", "$": " dollars "}
SPELLINGS = {"per cent": "percent", "o clock": "oclock", "ok": "okay"}

# Scripts without spaces between words, or (Hangul) with endings joined to words. Each character becomes a word, and
# several characters a phrase, which matches where they stand side by side.
UNSPACED = re.compile(
    "(["
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Myanmar, Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"  # iteration marks, kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # Han
    "\uac00-\ud7a3"  # Hangul syllables
    "\U00020000-\U0003134f"  # Han, rare
    "])"
)
# A currency is spoken after its amount. Only beside one is a letter a scale: elsewhere, "m" may be metres.
CURRENCY = re.compile(r"([£€$])\s?(\d[\d.,]*)(?:\s?(hundred|thousand|million|billion|trillion|k|mn?|bn?|tn)\b)?")
SHORT_SCALES = {"k": "thousand", "m": "million", "mn": "million", "b": "billion", "bn": "billion", "tn": "trillion"}
FRACTION = re.compile(r"(?:(?<=\d)\s?)?[½¼¾]")
FRACTIONS = {"½": (".5", " half "), "¼": (".25", " quarter "), "¾": (".75", " three quarters ")}  # after a digit; alone
GROUPED = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")  # the comma of 3,000
INITIALS = re.compile(r"\b(?:[^\W\d_]\.){2,}(?:[^\W\d_]\b)?")  # U.S.A.
DECIMAL = re.compile(r"(?<=\d)\.(\d+)")
APOSTROPHES = re.compile("['\u2018\u2019\u02bc`\u00b4]")

NUMBER_WORDS = 6  # words that a phrase may have in speech beyond its own: "three and a half million"
NUMBER_STARTS = frozenset({"a", "half", "quarter"})  # words without a number of their own that may begin one

# Words that do not tell the subject of an utterance, as normalise() spells them.
STOP_WORDS = frozenset(
    "a about am an and any are as at be been being but by can could did do does dont for from had has have he her him "
    "his how i if im in into is it its just me my no not of on or our she so some than that thats the their them then "
    "there these they this those to too us was we were what whats when where which while who whom whose why will with "
    "would you your".split()
)

PHRASE_COUNT = 4  # least number of stop words that are a phrase to search for


def normalise(text: str) -> str:
    """Return the words of a text as the search table has them: lower case, single spaces, no punctuation."""
    text = FRACTION.sub(_speak_fraction, APOSTROPHES.sub("", text))
    text = unicodedata.normalize("NFKC", text).casefold()
    text = INITIALS.sub(lambda initials: initials[0].replace(".", ""), text)
    text = GROUPED.sub("", CURRENCY.sub(_speak_amount, text))
    text = DECIMAL.sub(lambda decimal: " point " + " ".join(decimal[1]), text)  # spoken digit by digit
    for symbol, word in SYMBOLS.items():
        text = text.replace(symbol, word)
    text = "".join(_searchable(character) for character in UNSPACED.sub(r" \1 ", text))
    words = " ".join(spell_numbers(text.split()))
    for spelling, chosen in SPELLINGS.items():
        words = re.sub(rf"\b{spelling}\b", chosen, words)
    return words


def search_words(text: str, language: str = ENGLISH) -> str:
    """Return the words of a text in a language as the search table stores them: normalised, and without endings.

    The table's own tokenizer removes the endings of English words.
    """
    return " ".join(stem(word, language) for word in normalise(text).split())


def _speak_fraction(fraction: re.Match[str]) -> str:
    follows_digit = fraction.start() > 0 and fraction.string[fraction.start() - 1].isdecimal()
    return FRACTIONS[fraction[0][-1]][not follows_digit]


def _speak_amount(amount: re.Match[str]) -> str:
    symbol, number, scale = amount.groups(default="")
    return f"{number} {SHORT_SCALES.get(scale, scale)}{symbol}"


def content_terms(text: str) -> list[str]:
    """Return the words of a text to search for, each once, in order, without stop words.

    Many stop words alone are a phrase ("to be or not to be"), a few are nothing to search for.
    Characters of a script without spaces come in overlapping pairs, since nothing marks where a word ends.
    """
    words = normalise(text).split()
    wanted = [word for word in words if word not in STOP_WORDS]
    if not wanted:
        return [" ".join(words)] if len(words) >= PHRASE_COUNT else []
    terms = []
    for at, word in enumerate(wanted):
        if not UNSPACED.fullmatch(word):
            terms.append(word)
            continue
        after = wanted[at + 1] if at + 1 < len(wanted) else ""
        if UNSPACED.fullmatch(after):
            terms.append(f"{word} {after}")
        elif at == 0 or not UNSPACED.fullmatch(wanted[at - 1]):
            terms.append(word)
    return list(dict.fromkeys(terms))


def matches_term(text: str, term: str, language: str = ENGLISH) -> bool:
    """Whether a text holds a word or phrase, as the search table compares words: "hikes" holds "hiking".

    Args:
        language: Of the text, ISO 639-1.
    """
    wanted, present = stems(term, language), stems(text, language)
    if len(wanted) == 1:
        return wanted[0] in present
    starts = range(len(present) - len(wanted) + 1)
    return bool(wanted) and any(present[at : at + len(wanted)] == wanted for at in starts)


def _searchable(character: str) -> str:
    if character.isdecimal():
        return str(unicodedata.decimal(character))  # digits of any script
    return character if character.isalnum() or unicodedata.category(character)[0] == "M" else " "


class PhraseFinder:
    """Finds phrases in consecutive words, compared as matches_term() does.

    A number may be said in several words: "three and a half million" is "3500000".
    """

    def __init__(self, phrases: Iterable[str], language: str = ENGLISH) -> None:
        self._language = language  # of the words
        self._counts = {
            phrase_stems: len(phrase.split()) for phrase in phrases if (phrase_stems := stems(phrase, language))
        }
        self._first_stems = {phrase_stems[0] for phrase_stems in self._counts}
        if any(stem.isdecimal() for stem in self._first_stems):
            self._first_stems |= NUMBER_STARTS
        self._has_numbers = self._first_stems >= NUMBER_STARTS
        self._max_count = max(self._counts.values(), default=0) + NUMBER_WORDS * self._has_numbers

    def find(self, words: Sequence[str], first: int = 0) -> list[tuple[int, int, tuple[str, ...]]]:
        """Return (start, end, stems) of each phrase in words[start:end], in order, if it ends after words[first]."""
        places = []
        for start, word in enumerate(words):
            own = stems(word, self._language)
            if not own or not (own[0] in self._first_stems or (self._has_numbers and own[0].isdecimal())):
                continue
            for end in range(max(start, first) + 1, min(start + self._max_count, len(words)) + 1):
                said = stems(" ".join(words[start:end]), self._language)
                if said in self._counts:
                    places.append((start, end, said))
        return places


class _Tokenizer:
    """The search table's own tokenizer: another porter stemmer would differ somewhere."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._memory.execute(f"CREATE VIRTUAL TABLE text USING fts5 (words, tokenize = '{TOKENIZER}')")
        self._memory.execute("CREATE VIRTUAL TABLE token USING fts5vocab (text, instance)")

    def stems(self, word: str) -> tuple[str, ...]:
        with self._lock:
            self._memory.execute("INSERT INTO text VALUES (?)", (word,))
            terms = self._memory.execute("SELECT term FROM token ORDER BY offset").fetchall()
            self._memory.execute("DELETE FROM text")
        return tuple(stem for (stem,) in terms)


@cache
def _tokenizer() -> _Tokenizer:
    return _Tokenizer()


@lru_cache(maxsize=1 << 16)  # words: more than a person's vocabulary
def _word_stems(word: str) -> tuple[str, ...]:
    return _tokenizer().stems(word)


@lru_cache(maxsize=1 << 12)  # utterances and terms of recent questions
def stems(text: str, language: str = ENGLISH) -> tuple[str, ...]:
    """Return the words of a text in a language without endings, as the search table compares them; may be empty."""
    return tuple(found for word in search_words(text, language).split() for found in _word_stems(word))
