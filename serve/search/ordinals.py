"""read_ordinal(): which of several moments a question asks for: "the first time", "the last goal", "next to last".

Plain rules. A word such as "first" is an ordinal only before "time", "mention", "scene" or an event such as a goal,
and before or after the verb of a question ("when does she first mention Paris?"). Elsewhere it belongs to the subject:
"first aid", "the Last Supper", "for the first time in history" as words that are said.
"""

import re
from collections.abc import Callable

COUNTED = {
    word: number
    for number, words in enumerate(
        (
            ("first", "1st"), ("second", "2nd"), ("third", "3rd"), ("fourth", "4th"), ("fifth", "5th"),
            ("sixth", "6th"), ("seventh", "7th"), ("eighth", "8th"), ("ninth", "9th"), ("tenth", "10th"),
        ),
        start=1,
    )
    for word in words
}  # fmt: skip
FROM_END = {"last": -1, "final": -1, "penultimate": -2}
NAMES = "|".join(COUNTED)
ORDINAL = (
    rf"(?:next[\s-]to[\s-]last|last[\s-]but[\s-]one|(?:{NAMES})[\s-](?:to|from)[\s-](?:the[\s-])?last"
    rf"|{'|'.join(FROM_END)}|very\s+(?:first|last)|{NAMES})"
)
EVENT = (
    r"(?:goal|kiss|hug|explosion|crash|jump|fall|throw|catch|serve|attempt|try|lap|dive|punch|kick|pitch|swing|touchdown"
    r"|penalty|save|foul|joke|song|laugh|slide)s?"
)
NOT_A_TIME = r"(?!\s+(?:home|buyers?|users?|visitors?|parents?|mothers?|fathers?|voters?|investors?|customers?)\b)"
# What stands behind an ordinal and a noun that is one with it: "the first appearance of the dog".
SIGHTING = r"(?:appearance|sighting|occurrence|instance|glimpse)"
OCCASION = re.compile(  # at the start: "the second time she says Paris", "last mention of Paris"
    rf"^(?P<lead>(?:(?:please|find|show\s+me|jump\s+to|skip\s+to|go\s+to|when\s+is|when\s+was|what\s+is|where\s+is)\s+)*)"
    rf"(?:the\s+|her\s+|his\s+|their\s+)?(?P<ordinal>{ORDINAL})\s+"
    rf"(?:(?P<time>time){NOT_A_TIME}(?:\s+(?:that|when|where|in\s+which))?|(?P<mention>mention)\s+of|(?P<sighting>{SIGHTING})\s+of"
    rf"|(?P<noun>(?:moment|scene|shot|clip)s?(?=\s+(?:where|when|that|in\s+which|with|of|showing)\b)|{EVENT}\b))\s*",
    re.IGNORECASE,
)
AGAIN = re.compile(rf"\s+(?:for\s+the|for\s+a|the|a)\s+(?P<ordinal>{ORDINAL})\s+time$", re.IGNORECASE)
# "when does she first mention Paris?", "who last mentions Paris?": lower case, and behind the subject.
BEFORE_VERB = re.compile(
    r"^(?P<lead>who|(?:(?:at|in)\s+)?(?:what|which|when|where|who)\b.*?\b(?:does|do|did|is|are|was|were|has|have)\s+"
    r"(?:[\w'-]+\s+){1,4}?)\s*(?<!the )(?<!\ba )(?<!an )(?<!'s )(?<!his )(?<!her )(?<!our )(?<!their )"
    r"\b(?P<ordinal>first|last)\s+"
    r"(?!(?:aid|lady|class|name|names|hand|place|year|night|week|month|time|step|steps|person|of|in|on|at)\b)(?=[a-z])"
)
AFTER_VERB = re.compile(
    r"^(?P<lead>(?:when|where|who|what|which|at\s+what)\b.*\b(?:appears?|seen|shown|mentioned|visible|speaks?|talks?))\s+"
    r"(?P<ordinal>first|last)$"
)
SAYS = re.compile(  # words behind these are what is said: "when does she mention the first goal?"
    r"\b(?:say|says|said|mentions?|mentioned|explains?|explained|discuss(?:es)?|describes?|talks?|speaks?|names?|tells?"
    r"|learns?|teach(?:es)?|reads?)\b",
    re.IGNORECASE,
)
QUESTION = re.compile(r"^(?:when|where|who|what|which|at|in|find|show|the|is|are|does|do|did)\b", re.IGNORECASE)


def read_ordinal(question: str) -> tuple[str, int | None]:
    """Return a question without its ordinal, and which moment it asks for: 1 is the first, -1 the last; None: any."""
    for read in (_read_occasion, _read_again, _read_before_verb, _read_after_verb):
        if (found := read(question)) is not None:
            return found
    return question, None


def number_of(ordinal: str) -> int:
    """Return 2 for "second", -1 for "last", -2 for "next to last" or "second to last"."""
    words = re.split(r"[\s-]+", ordinal.lower())
    if words in (["next", "to", "last"], ["last", "but", "one"]):
        return -2
    if words[-1] == "last" and words[0] in COUNTED:
        return -COUNTED[words[0]]
    return FROM_END.get(words[-1], COUNTED.get(words[-1], 0))


def _read_occasion(question: str) -> tuple[str, int] | None:
    found = OCCASION.match(question)
    if found is None:
        return None
    rest = question[found.end() :]
    number = number_of(found["ordinal"])
    if found["noun"]:
        noun = found["noun"]
        if noun[0].isupper() or (found["ordinal"][0].isupper() and found.start("ordinal") > 0):
            return None  # a name, such as "Last Kiss"
        return f"{found['lead']}the {noun} {rest}".strip(), number
    if not rest:
        return None
    if found["mention"]:
        return f"when is {rest} mentioned", number
    return (f"when does {rest} appear" if found["sighting"] else f"when {rest}"), number


def _read_again(question: str) -> tuple[str, int] | None:
    found = AGAIN.search(question)
    if found is None or not QUESTION.match(question):
        return None  # a statement: these words are part of it
    return question[: found.start()], number_of(found["ordinal"])


def _read_with(pattern: re.Pattern[str]) -> Callable[[str], tuple[str, int] | None]:
    def read(question: str) -> tuple[str, int] | None:
        found = pattern.match(question)
        if found is None or (pattern is BEFORE_VERB and SAYS.search(found["lead"])):
            return None
        return f"{found['lead'].rstrip()} {question[found.end() :]}".strip(), number_of(found["ordinal"])

    return read


_read_before_verb, _read_after_verb = _read_with(BEFORE_VERB), _read_with(AFTER_VERB)
