"""ends_sentence(): where sentences end in spoken text, by its punctuation."""

SENTENCE_ENDS = tuple(".?!…。！？")  # noqa: RUF001
CLAUSE_ENDS = tuple(",;:—、，：；")  # noqa: RUF001
ABBREVIATIONS = frozenset({"mr.", "mrs.", "ms.", "dr.", "st.", "vs.", "prof.", "no.", "e.g.", "i.e.", "u.s."})


def ends_sentence(text: str) -> bool:
    """Whether a sentence ends with the last word of a text. The dot of "Dr." ends none."""
    last = text.split()[-1] if text.split() else ""
    bare = last.rstrip("\"'”)]}")
    return bare.endswith(SENTENCE_ENDS) and bare.lower() not in ABBREVIATIONS
