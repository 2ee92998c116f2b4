"""Makes plain text of the text of subtitles: no tags, no styling, nothing that changes how other text is shown."""

import html
import re
import unicodedata

from pysubs2 import SSAEvent

from ingest.subtitles.limits import MAX_LINE_CHARS, MAX_LINES, MAX_TEXT_CHARS

_DRAWING = re.compile(r"\\p[1-9]")  # ASS: what follows is a shape, not text
_MARKUP = re.compile(r"</?[a-zA-Z0-9][^<>]*>")  # HTML, WebVTT's voices and its times within a line
_BRACE, _BACKSLASH = "\ue000", "\ue001"  # stand for these characters of the text, while tags are removed
_JOINERS = "\u200c\u200d"  # letters of Persian and of Indian scripts need them


def plain_lines(text: str) -> list[str]:
    """Return the lines of an ASS text, as plain text; empty: a drawing, or nothing with a letter or a digit."""
    if _DRAWING.search(text[:MAX_LINE_CHARS]):
        return []
    # FFmpeg escapes braces and backslashes of other formats so.
    text = text[: MAX_LINES * MAX_LINE_CHARS].replace("\\{{}", _BRACE).replace("\\\u2060", _BACKSLASH)
    plain = SSAEvent(text=text).plaintext.replace(_BRACE, "{").replace(_BACKSLASH, "\\")
    lines = [_clean(html.unescape(_MARKUP.sub("", line))) for line in plain.split("\n")[:MAX_LINES]]
    return [line for line in lines if any(map(str.isalnum, line))]


def _clean(line: str) -> str:
    """Remove control characters and marks of direction, and join white space. The form is Unicode's NFC."""
    shown = "".join(" " if char.isspace() else char for char in line if _is_shown(char))
    return unicodedata.normalize("NFC", " ".join(shown.split()))[:MAX_TEXT_CHARS]


def _is_shown(char: str) -> bool:
    return char in _JOINERS or char.isspace() or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn")
