"""spell_numbers(): one spelling for numbers, written or said: "3.5 million" and "three and a half million"."""

# ruff: noqa: SIM905 - tables of words read as words
from collections.abc import Sequence

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
SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}  # zeros
# "second" stays a word, and "2nd" becomes it: it is far more often a time than a rank.
ORDINALS = {"first": "1st", "2nd": "second", "third": "3rd"} | {
    word: f"{number}th"
    for number, word in enumerate(
        "fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth "
        "seventeenth eighteenth nineteenth twentieth".split(),
        start=4,
    )
}
CENTURIES = range(11, 21)  # spoken first halves of years: "eleven hundred" to "twenty twenty"
# Parts of one, as they are said, and their digits after the point.
PARTS = {
    ("three", "quarters"): "75",
    ("3", "quarters"): "75",
    ("a", "quarter"): "25",
    ("a", "half"): "5",
    ("quarter",): "25",
    ("half",): "5",
}
MAX_DIGITS = 18  # of a number that is multiplied, so that no text makes a huge number


def spell_numbers(words: Sequence[str]) -> list[str]:
    """Return lower-case words with their numbers in digits: "3500000", "2 point 5", "21st".

    Decimal places become single digits after the word "point".
    """
    spelled: list[str] = []
    at = 0
    while at < len(words):
        if (part := _read_part_of_scale(words, at)) is not None:
            number, at = part
            spelled.append(number)
            continue
        whole, after = _read_whole(words, at)
        decimals, after_decimals = _read_decimals(words, after) if whole or words[at].isdecimal() else ("", after)
        following = ORDINALS.get(_word(words, after), "")
        if decimals:
            number, decimals, after = _multiply(words, after_decimals, whole or words[at], decimals)
            spelled += [number, *(["point", *decimals] if decimals else [])]
        elif not whole:
            spelled.append(ORDINALS.get(words[at], words[at]))
        elif whole.endswith("0") and whole[-2:-1] not in ("", "0", "1") and following[1:] in ("st", "rd", "th"):
            spelled.append(f"{whole[:-1]}{following}")  # twenty first: 21st
            after += 1
        else:
            spelled.append(whole)
        at = after
    return spelled


def _word(words: Sequence[str], at: int) -> str:
    return words[at] if at < len(words) else ""


def _read_part(words: Sequence[str], at: int) -> tuple[str, int]:
    """Return the decimals of "a half" and its like, empty without one, and the index of the next word."""
    for part, decimals in PARTS.items():
        if tuple(words[at : at + len(part)]) == part:
            return decimals, at + len(part)
    return "", at


def _read_part_of_scale(words: Sequence[str], at: int) -> tuple[str, int] | None:
    """Return "500000" for "half a million", and the index of the next word; None without such a number."""
    decimals, after = _read_part(words, at)
    after += _word(words, after) == "of"
    after += _word(words, after) == "a"
    if not decimals or _word(words, after) not in SCALES:
        return None
    number, rest, after = _multiply(words, after, "0", decimals)
    return None if rest else (number, after)


def _read_decimals(words: Sequence[str], at: int) -> tuple[str, int]:
    """Return the decimals that follow a whole number at words[at], and the index of the next word.

    They are said as "point two five" or "and a quarter".
    """
    if _word(words, at) == "and":
        return _read_part(words, at + 1)
    decimals, after = "", at + 1
    while _word(words, at) == "point" and (digit := _digits(_word(words, after))):
        decimals += digit
        after += 1
    return decimals, after


def _digits(word: str) -> str:
    if word.isdecimal():
        return word
    return str(UNITS[word]) if UNITS.get(word, 10) < 10 else "0" if word == "oh" else ""


def _multiply(words: Sequence[str], at: int, whole: str, decimals: str) -> tuple[str, str, int]:
    """Multiply a number by the scale at words[at], if there is one; return it, its decimals, and the next index."""
    scale = _word(words, at)
    if scale not in SCALES:
        return whole, decimals, at
    zeros = SCALES[scale]
    decimals = decimals.ljust(zeros, "0")
    return str(int(whole[:MAX_DIGITS] + decimals[:zeros])), decimals[zeros:].rstrip("0"), at + 1


def _read_whole(words: Sequence[str], at: int) -> tuple[str, int]:
    """Return the whole number that begins at words[at], and the index of the next word.

    It is empty without a number, and for digits without a scale, which need no other spelling.
    """
    current, after = _read_below_hundred(words, at)
    if current is None and _word(words, at + 1) in SCALES and (words[at] == "a" or words[at].isdecimal()):
        current = 1 if words[at] == "a" else int(words[at][:MAX_DIGITS])
        after = at + 1
    if current is None:
        return "", at + 1
    if current in CENTURIES:  # nineteen eighty four; nineteen oh five
        oh = _word(words, after) == "oh"
        rest, after_rest = _read_below_hundred(words, after + oh)
        if rest is not None and (1 <= rest <= 9 if oh else rest >= 10):
            return str(100 * current + rest), after_rest
    total = 0
    while (scale := _word(words, after)) in SCALES:
        after += 1
        if scale == "hundred":
            current *= 100
        else:
            total, current = total + current * 10 ** SCALES[scale], 0
        rest, after_rest = _read_below_hundred(words, after + (_word(words, after) == "and"))
        if rest:
            current, after = current + rest, after_rest
        elif scale != "hundred" and _word(words, after) == "and":  # a million and a half
            decimals, after_part = _read_part(words, after + 1)
            if decimals:
                return str(total + int(decimals.ljust(SCALES[scale], "0"))), after_part
    return str(total + current), after


def _read_below_hundred(words: Sequence[str], at: int) -> tuple[int | None, int]:
    word = _word(words, at)
    if word in UNITS:
        return UNITS[word], at + 1
    if word not in TENS:
        return None, at
    unit = UNITS.get(_word(words, at + 1), 0)
    return (TENS[word] + unit, at + 2) if 1 <= unit <= 9 else (TENS[word], at + 1)
