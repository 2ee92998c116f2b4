"""Text for people: names, times, counts and safe foreign text; and JSON for programs."""

import json
import math
import unicodedata
from pathlib import PurePath, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

DASH = "\N{EN DASH}"  # between two times, and in empty cells
# They can make a file name look like another.
BIDI_CONTROLS = frozenset(map(chr, [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]))


def printable(text: str) -> str:
    """Make foreign text safe to print: one line, no control characters, no reversed letters."""
    line = " ".join(text.split())
    return "".join(
        "�" if unicodedata.category(char) in ("Cc", "Cs") or char in BIDI_CONTROLS else char for char in line
    )


def title(uri: str) -> str:
    """Return a video's name for people: its file name, or the host of a URL without a file name."""
    if "://" not in uri:
        return printable(PurePath(uri).name or uri)
    try:
        parts = urlsplit(uri)
    except ValueError:  # no URL after all, e.g. half an IPv6 address
        return printable(uri)
    return printable(PurePosixPath(unquote(parts.path)).name or parts.netloc or uri)


def clock(seconds: float) -> str:
    """Write media time as m:ss, or h:mm:ss from an hour on; rounded down."""
    minutes, rest = divmod(math.floor(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def time_span(start_seconds: float, end_seconds: float) -> str:
    """Write a span as m:ss-m:ss. The end is rounded up, so that a short span is never empty."""
    # In whole nanoseconds, as servers send them: else 16.00000000001 s would be 0:17 here, and 0:16 from a server.
    return f"{clock(round(start_seconds, 9))}{DASH}{clock(math.ceil(round(end_seconds, 9)))}"


def plural(count: int, noun: str) -> str:
    """Write a count with its noun: "1 frame", "2 frames"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def to_json(value: Any) -> bytes:
    """Encode one JSON document: UTF-8, one line, never NaN.

    A file name that is no UTF-8 comes out as the JSON escapes of its surrogates: json.loads and os.fsencode
    give its bytes back.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")
