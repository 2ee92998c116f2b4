"""Finds the video and audio files of folders: by suffix, and by content where the suffix tells nothing."""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ingest.errors import SourceError, SourceNotFound, SourceUnreadable
from ingest.source.signatures import HEAD_BYTES, is_media, is_text
from ingest.source.source import OPEN_FLAGS, check_name, display_uri, scheme_of, to_source_error

# Files with these suffixes are taken unseen: of video and audio containers that FFmpeg reads.
_SUFFIXES = """
    3g2 3gp amv asf avi divx dv f4v flv gif ivf m1v m2t m2ts m2v m4v mj2 mjpeg mjpg mk3d mkv mov mp4 mpe mpeg mpg mpv
    mts mxf nut ogm ogv ogx qt rm rmvb ts vob webm wmv wtv y4m 264 265 266 avc h261 h263 h264 h265 h266 hevc obu vvc
    aac ac3 aif aiff alac amr ape au caf dts eac3 flac m4a m4b mka mp2 mp3 mpc oga ogg opus spx tta wav weba wma wv
"""
MEDIA_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())
# Of these, the ones that also name text: TypeScript, translations of Qt, device trees, Squirrel, and so on.
_TEXT_SUFFIXES = frozenset((".ts", ".mts", ".qt", ".dts", ".nut", ".rm", ".tta"))
# Never taken, although their content may look like media: unfinished downloads; subtitles, and fragments of a stream.
_PASSED_SUFFIXES = frozenset((
    ".part", ".partial", ".crdownload", ".download", ".opdownload", ".filepart", ".tmp", ".!qb", ".!ut",
    ".sub", ".mks", ".m4s",
))  # fmt: skip


@dataclass(slots=True)
class FoundSources:
    """What list_sources() found.

    Attributes:
        entries: Files and URIs to read, and an error in the place of each input that cannot be read.
        left_out: Count of the other files of folders, by suffix in lower case; "" are those without one.
    """

    entries: list[str | SourceError] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def list_sources(inputs: Sequence[str]) -> FoundSources:
    """Return the sources that the inputs name: files and URIs as they are, and the media files below each folder.

    Files of a folder come in the order of their names. Hidden files and folders are passed over. Links are followed,
    but no folder is read twice. Still pictures and playlists are not media. Of a file whose suffix tells nothing,
    the first HEAD_BYTES bytes are read.
    """
    found = FoundSources()
    for item in inputs:
        if scheme_of(item) is not None:
            found.entries.append(item)
            continue
        problem = check_name(item)
        if problem is not None:
            found.entries.append(problem)
            continue
        try:
            is_folder = stat.S_ISDIR(os.stat(item).st_mode)
        except OSError as e:
            found.entries.append(to_source_error(e, display_uri(item)))
            continue
        if not is_folder:
            found.entries.append(item)
            continue
        media = list(_walk(item, found.left_out))
        found.entries += media or [SourceNotFound(display_uri(item), "no video or audio file in this folder")]
    return found


def _walk(top: str, left_out: Counter[str]) -> Iterator[str | SourceError]:
    seen: set[tuple[int, int]] = set()  # device and inode of folders: links may form a circle
    pending = [(top, True)]  # not recursive: folders can nest deeper than Python calls
    while pending:
        path, is_folder = pending.pop()
        if not is_folder:
            suffix = os.path.splitext(path)[1].lower()
            if _is_wanted(path, suffix):
                yield path
            else:
                left_out[suffix] += 1
            continue
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(path) as entries:
                listed = sorted(entries, key=lambda entry: entry.name, reverse=True)
        except OSError as e:
            reason = f"cannot list this folder, {e.strerror}"
            yield SourceUnreadable(display_uri(path), reason, "check its permissions")
            continue
        pending += [(entry.path, _is_folder(entry)) for entry in listed if not entry.name.startswith(".")]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circle of links
        return False


def _is_wanted(path: str, suffix: str) -> bool:
    """Whether a file of a folder is video or audio, or claims to be."""
    if suffix in MEDIA_SUFFIXES and suffix not in _TEXT_SUFFIXES:
        return True
    if suffix in _PASSED_SUFFIXES:
        return False
    head, size_bytes = _read_head(path)
    if suffix in _TEXT_SUFFIXES:
        return head is None or not is_text(head)  # one that may not be read is an error, as any with its suffix
    return head is not None and is_media(head, size_bytes)


def _read_head(path: str) -> tuple[bytes | None, int]:
    """Return the first bytes of a file, and its size; None if it is not regular or may not be read."""
    try:
        if stat.S_ISREG(os.stat(path).st_mode):  # before opening: opening a device can have effects
            descriptor = os.open(path, OPEN_FLAGS)
            try:
                status = os.fstat(descriptor)
                if stat.S_ISREG(status.st_mode):  # files of /proc seem empty: reading some has effects
                    return os.read(descriptor, HEAD_BYTES) if status.st_size else b"", status.st_size
            finally:
                os.close(descriptor)
    except OSError:
        pass
    return None, 0
