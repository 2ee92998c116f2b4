"""normalise(): one spelling for spoken and typed words, so that the word search compares like with like.

The tokenizer of the search table folds accents and the endings of English words (porter). normalise() does the rest:
numbers ("twenty per cent", "20%"), apostrophes, dotted initials, and scripts without spaces.
"""

# ruff: noqa: SIM905 - tables of words read as words
import re
import sqlite3
import threading
import unicodedata
from functools import cache, lru_cache

# Of the search table: a change needs a migration in serve.catalog.schema.
TOKENIZER = "porter unicode61 remove_diacritics 2"

UNITS = {
    word: number
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen".split()
    )
}
TENS = {
    word: 10 * number
    for number, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2)
}
SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
# "second" stays a word: it is far more often a time than a rank.
ORDINALS = {"first": "1st", "third": "3rd"} | {
    word: f"{number}th"
    for number, word in enumerate(
        "fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth "
        "seventeenth eighteenth nineteenth twentieth".split(),
        start=4,
    )
}
CENTURIES = range(11, 21)  # spoken first halves of years: "eleven hundred" to "twenty twenty"
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
CURRENCY = re.compile(r"([£€$])\s?(\d[\d.,]*(?:\s(?:hundred|thousand|million|billion)\b)?)")  # spoken after the amount
GROUPED = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")  # the comma of 3,000
INITIALS = re.compile(r"\b(?:[^\W\d_]\.){2,}(?:[^\W\d_]\b)?")  # U.S.A.
DECIMAL = re.compile(r"(?<=\d)\.(\d+)")
APOSTROPHES = re.compile("['\u2018\u2019\u02bc`\u00b4]")

# Words that do not tell the subject of an utterance, as normalise() spells them.
STOP_WORDS = frozenset(
    "a about am an and any are as at be been being but by can could did do does dont for from had has have he her him "
    "his how i if im in into is it its just me my no not of on or our she so some than that thats the their them then "
    "there these they this those to too us was we were what whats when where which while who whom whose why will with "
    "would you your".split()
)


def normalise(text: str) -> str:
    """Return the words of a text as the search table has them: lower case, single spaces, no punctuation."""
    text = unicodedata.normalize("NFKC", APOSTROPHES.sub("", text)).casefold()
    text = INITIALS.sub(lambda initials: initials[0].replace(".", ""), text)
    text = GROUPED.sub("", CURRENCY.sub(r"\2\1", text))
    text = DECIMAL.sub(lambda decimal: " point " + " ".join(decimal[1]), text)  # spoken digit by digit
    for symbol, word in SYMBOLS.items():
        text = text.replace(symbol, word)
    text = "".join(_searchable(character) for character in UNSPACED.sub(r" \1 ", text))
    words = " ".join(_spell_numbers(text.split()))
    for spelling, chosen in SPELLINGS.items():
        words = re.sub(rf"\b{spelling}\b", chosen, words)
    return words


def content_terms(text: str) -> list[str]:
    """Return the words of a text to search for, each once, in order, without stop words unless all are stop words.

    Characters of a script without spaces come in overlapping pairs, since nothing marks where a word ends.
    """
    words = normalise(text).split()
    wanted = [word for word in words if word not in STOP_WORDS] or words
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


def matches_term(text: str, term: str) -> bool:
    """Whether a text holds a word or phrase, as the search table compares words: "hikes" holds "hiking"."""
    wanted, present = stems(term), stems(text)
    if len(wanted) == 1:
        return wanted[0] in present
    starts = range(len(present) - len(wanted) + 1)
    return bool(wanted) and any(present[at : at + len(wanted)] == wanted for at in starts)


def _searchable(character: str) -> str:
    if character.isdecimal():
        return str(unicodedata.decimal(character))  # digits of any script
    return character if character.isalnum() or unicodedata.category(character)[0] == "M" else " "


def _spell_numbers(words: list[str]) -> list[str]:
    spelled, at = [], 0
    while at < len(words):
        number, after = _read_number(words, at)
        following = words[after] if after < len(words) else ""
        if number is None:
            spelled.append(ORDINALS.get(words[at], words[at]))
        elif number % 10 == 0 and number % 100 >= 20 and ORDINALS.get(following, "")[1:] in ("st", "rd", "th"):
            spelled.append(f"{number // 10}{ORDINALS[following]}")  # twenty first: 21st
            after += 1
        else:
            spelled.append(str(number))
        at = after
    return spelled


def _read_number(words: list[str], at: int) -> tuple[int | None, int]:
    """Return the number that begins at words[at], None without a number, and the index of the next word."""
    following = words[at + 1] if at + 1 < len(words) else ""
    current, after = _read_below_hundred(words, at)
    if current is None and following in SCALES and (words[at] == "a" or words[at].isdecimal()):
        # 5 million; 18 digits at most, so that no text makes a huge number.
        current = 1 if words[at] == "a" else int(words[at][:18])
        after = at + 1
    if current is None:
        return None, at + 1
    if current in CENTURIES:  # nineteen eighty four; nineteen oh five
        oh = after < len(words) and words[after] == "oh"
        rest, after_rest = _read_below_hundred(words, after + oh)
        if rest is not None and (1 <= rest <= 9 if oh else rest >= 10):
            return 100 * current + rest, after_rest
    total = 0
    while after < len(words) and words[after] in SCALES:
        scale = SCALES[words[after]]
        after += 1
        if scale == 100:
            current *= 100
        else:
            total, current = total + current * scale, 0
        joined = after < len(words) and words[after] == "and"
        rest, after_rest = _read_below_hundred(words, after + joined)
        if rest:
            current, after = current + rest, after_rest
    return total + current, after


def _read_below_hundred(words: list[str], at: int) -> tuple[int | None, int]:
    if at >= len(words):
        return None, at
    if words[at] in UNITS:
        return UNITS[words[at]], at + 1
    if words[at] not in TENS:
        return None, at
    unit = UNITS.get(words[at + 1], 0) if at + 1 < len(words) else 0
    return (TENS[words[at]] + unit, at + 2) if 1 <= unit <= 9 else (TENS[words[at]], at + 1)


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
def stems(text: str) -> tuple[str, ...]:
    """Return the words of a text without their endings, as the search table compares them; may be empty."""
    return tuple(stem for word in normalise(text).split() for stem in _word_stems(word))
