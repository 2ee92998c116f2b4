"""Finds and opens subtitle files beside a video: film.srt, film.en.srt, film.eng.forced.srt, as players name them.

Only local files have any. The URI policy holds for a subtitle file as for its video: beside a file: URI, it must lie
below one of the roots, links resolved.
"""

import hashlib
import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import FileIO
from urllib.parse import quote

from ingest.config import SourceConfig
from ingest.errors import SourceError
from ingest.source.source import display_uri, open_file_uri, open_path, path_of_file_uri, scheme_of
from ingest.subtitles.limits import MAX_FILE_BYTES
from ingest.values import SubtitleKind

SUFFIXES = (".srt", ".vtt", ".ass", ".ssa", ".lrc")
KINDS: dict[str, SubtitleKind] = {
    "forced": "forced", "foreign": "forced", "commentary": "commentary", "comment": "commentary", "sdh": "impaired",
    "cc": "impaired", "hi": "impaired",
}  # fmt: skip
MAX_SIDECARS = 32  # of one video that are looked at: a film has one for each language
CACHED_FOLDERS = 8  # whose names are kept: about as many inputs are read at a time

LanguageCode = Callable[[str | None], str | None]  # a language as a file names it -> ISO 639-1; None: not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """A subtitle file beside a video."""

    name: str  # of the file, for people: one line
    uri: str  # to open: a path, or a file: URI as that of its video
    suffix: str  # without its dot, in lower case
    language: str | None  # ISO 639-1; None: its name does not say
    kind: SubtitleKind
    is_default: bool


def find_sidecars(uri: str, language_code: LanguageCode) -> list[Sidecar]:
    """Return the subtitle files beside a local file, by name; none for URLs.

    A file belongs to the video if its name is that of the video, and then only languages and kinds: a name with another
    part may be that of another video.
    """
    scheme = scheme_of(uri)
    if scheme not in (None, "file"):
        return []
    path = os.path.abspath(uri if scheme is None else path_of_file_uri(uri, display_uri(uri)))
    folder, own_name = os.path.split(path)
    stem, own_suffix = os.path.splitext(own_name)
    try:
        names = _subtitle_names(folder, os.stat(folder).st_mtime_ns)
    except OSError:
        return []
    found: list[Sidecar] = []
    for name in names[bisect_left(names, stem) :]:
        if not name.startswith(stem) or len(found) >= MAX_SIDECARS:
            break
        *parts, suffix = name[len(stem) :].split(".")
        if name == own_name or not parts or parts[0]:
            continue  # its name only begins as that of the video
        path = os.path.join(folder, name)
        at = path if scheme is None else f"file://{quote(os.fsencode(path))}"
        sidecar = _parse(at, name, parts[1:], suffix.lower(), own_suffix, language_code)
        if sidecar is not None:
            found.append(sidecar)
    return found


@contextmanager
def open_sidecar(sidecar: Sidecar, config: SourceConfig) -> Iterator[FileIO]:
    """Open a subtitle file under the URI policy.

    Raises:
        SourceError: If it may not be read, or is not a regular file.
    """
    if scheme_of(sidecar.uri) == "file":
        descriptor = open_file_uri(sidecar.uri, sidecar.name, config)
    else:
        descriptor = open_path(sidecar.uri, sidecar.name)
    with open(descriptor, "rb", buffering=0) as file:
        yield file


def digest_of(sidecars: Sequence[Sidecar], config: SourceConfig) -> str:
    """Return a hash that changes when a subtitle file is added, changed, renamed or removed; empty: there is none."""
    if not sidecars:
        return ""
    digest = hashlib.sha256()
    for sidecar in sidecars:
        digest.update(f"{sidecar.name}\n".encode(errors="surrogateescape"))
        try:
            with open_sidecar(sidecar, config) as file:
                digest.update(hashlib.sha256(file.read(MAX_FILE_BYTES + 1)).digest())
        except (SourceError, OSError):
            digest.update(b"unreadable")
    return digest.hexdigest()[:16]


def _parse(
    uri: str, name: str, parts: Sequence[str], suffix: str, own_suffix: str, language_code: LanguageCode
) -> Sidecar | None:
    """Return the sidecar of a name, given its parts between the video's name and its suffix; None: it is another's."""
    language: str | None = None
    kind: SubtitleKind = "full"
    is_default = False
    for part in parts:
        word = part.lower()
        if f".{word}" == own_suffix.lower():
            continue  # film.mkv.en.srt
        if word == "default":
            is_default = True
        elif word in KINDS and (word != "hi" or language is not None):  # alone, "hi" is Hindi
            kind = KINDS[word]
        elif language is None and (code := language_code(word)) is not None:
            language = code
        else:
            return None
    return Sidecar(name=display_uri(name), uri=uri, suffix=suffix, language=language, kind=kind, is_default=is_default)


@lru_cache(maxsize=CACHED_FOLDERS)
def _subtitle_names(folder: str, _mtime_ns: int) -> list[str]:
    """Return the names of the subtitle files of a folder, sorted. A folder that changes has another time."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.name.lower().endswith(SUFFIXES))
