"""Spell text the one way in which it is searched."""

import re
import unicodedata


def normalise(text: str) -> str:
    """Return words in lower case, separated by single spaces, without punctuation."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", text.replace("'", "").replace("_", " ")))
