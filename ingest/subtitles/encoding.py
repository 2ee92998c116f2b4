"""Finds out the encoding of subtitle files."""

import codecs

import charset_normalizer

PROBE_BYTES = 256 << 10  # of a file that are looked at: its language does not change after two hours
# Encodings before Unicode, by language (ISO 639-1), the commonest first; "" for all others.
ENCODINGS = {
    "": ("cp1252",),
    **dict.fromkeys(("cs", "hr", "hu", "pl", "ro", "sk", "sl"), ("cp1250", "iso8859_2")),
    **dict.fromkeys(("be", "bg", "mk", "ru", "sr", "uk"), ("cp1251", "koi8_r", "iso8859_5", "cp866")),
    **dict.fromkeys(("et", "lt", "lv"), ("cp1257",)),
    "ar": ("cp1256", "iso8859_6"), "fa": ("cp1256",), "el": ("cp1253", "iso8859_7"), "he": ("cp1255", "iso8859_8"),
    "ja": ("cp932", "euc_jp"), "ko": ("cp949",), "th": ("cp874",), "tr": ("cp1254",), "vi": ("cp1258",),
    "zh": ("gb18030", "big5"),
}  # fmt: skip
# Where the language is not known; where two fit alike, the first wins.
COMMON = (
    "cp1252", "cp1250", "cp1251", "koi8_r", "cp1253", "cp1254", "cp1255", "cp1256", "cp932", "euc_jp", "gb18030",
    "big5", "cp949",
)  # fmt: skip
MARKS = (
    (codecs.BOM_UTF8, "utf_8"), (codecs.BOM_UTF32_LE, "utf_32_le"), (codecs.BOM_UTF32_BE, "utf_32_be"),
    (codecs.BOM_UTF16_LE, "utf_16_le"), (codecs.BOM_UTF16_BE, "utf_16_be"),
)  # fmt: skip
NUL_SHARE = 0.2  # of the bytes at even or odd places: UTF-16 without a mark; each line break and space has one


def decode_text(data: bytes, language: str | None) -> str | None:
    """Decode the bytes of a text file; None: they are no text.

    Args:
        language: ISO 639-1, as the file's name says; None: it does not say.
    """
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    found = find_encoding(data, language)
    return None if found is None else data.decode(found, "replace")


def find_encoding(data: bytes, language: str | None) -> str | None:
    """Return the encoding of text without a mark; None: it is no text. `language` as in decode_text()."""
    if encoding := _unmarked_utf16(data):
        return encoding
    if b"\0" in data:
        return None
    try:
        data.decode("utf_8")
    except UnicodeDecodeError as error:
        if error.start >= len(data) - 3:  # cut off within a letter
            return "utf_8"
    else:
        return "utf_8"
    telling = b"\n".join(line for line in data[:PROBE_BYTES].splitlines() if not line.isascii())  # not times and names
    for candidates in filter(None, (ENCODINGS.get(language or ""), COMMON)):
        matches = charset_normalizer.from_bytes(telling, cp_isolation=list(candidates))
        places = {encoding: place for place, encoding in enumerate(candidates)}
        best = min(
            matches,
            key=lambda match: (match.chaos, -match.coherence, places.get(match.encoding, len(places))),
            default=None,
        )
        if best is not None:
            return best.encoding
    return "cp1252" if _is_latin(data) else None


def _unmarked_utf16(data: bytes) -> str | None:
    probe = data[: PROBE_BYTES & ~1]
    pairs = len(probe) // 2
    if pairs and probe[1::2].count(0) > NUL_SHARE * pairs > probe[::2].count(0):
        return "utf_16_le"
    if pairs and probe[::2].count(0) > NUL_SHARE * pairs > probe[1::2].count(0):
        return "utf_16_be"
    return None


def _is_latin(data: bytes) -> bool:
    """Whether text of a Western language is likely: few bytes are control characters or beyond ASCII."""
    probe = data[:PROBE_BYTES]
    odd = sum(byte >= 0x80 or byte < 0x09 or 0x0D < byte < 0x20 for byte in probe)
    return odd <= len(probe) // 5


def load_codecs() -> None:
    """Load all codecs: later, the child process can open no file."""
    for encoding in {*COMMON, *sum(ENCODINGS.values(), ()), *(encoding for _, encoding in MARKS)}:
        codecs.lookup(encoding)
    for language in ("ru", "ja", None):
        find_encoding(b"caf\xe9 \xcf\xf0\xe8\xe2\xe5\xf2 " * 40, language)
