"""Places: the paths and URLs at which the bytes of each file were last seen, by collection. A place has one video.

All functions take a connection inside a transaction of the catalog.
"""

import os
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from ingest.source.redaction import is_redacted
from serve.catalog.rows import metadata_json, uri_bytes, uri_of

UPLOAD_PREFIX = "upload:"  # of the URI of a video whose bytes were sent: it belongs to no place


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The video that a finished file becomes; serve.catalog.entries chooses it."""

    video_id: str
    replaces: int | None = None  # row of the video whose new version it is


def place_of(uri: str) -> str | None:
    """Return the place that a stored URI names: the path of a file, however it is spelled, or a URL.

    None: it names no place. An upload has none. A URL with secrets has none, because its stored form is the same for
    other secrets, which may lead to other videos.
    """
    if uri.startswith("/"):
        return uri
    scheme = uri.partition(":")[0].lower()
    if scheme == "file":
        try:
            return os.fsdecode(unquote_to_bytes(urlsplit(uri).path)) or None
        except ValueError:
            return None
    return uri if scheme in ("http", "https") and not is_redacted(uri) else None


def is_there(place: str) -> bool:
    """Whether a place still holds a file. A URL counts as still there: nobody is asked."""
    return not place.startswith("/") or os.path.exists(place)


def row_at(connection: sqlite3.Connection, collection: str, place: str | None) -> int | None:
    """Return the row of the video at a place; None: there is none."""
    found = connection.execute(
        "SELECT video_row FROM places WHERE collection = ? AND place = ?", (collection, uri_bytes(place or ""))
    ).fetchone()
    return None if found is None else int(found[0])


def places_of(connection: sqlite3.Connection, row: int) -> list[str]:
    """Return the places of a video, in the order of their names."""
    found = connection.execute("SELECT place FROM places WHERE video_row = ? ORDER BY place", (row,))
    return [uri_of(place) for (place,) in found]


def has_other_home(connection: sqlite3.Connection, row: int, place: str) -> bool:
    """Whether a video stays when other bytes are at one of its places: it is an upload, or at another place, too.

    A place whose file is gone does not count, nor another path of the same file.
    """
    return is_upload(uri_in(connection, row)) or has_other_file(places_of(connection, row), place)


def has_other_file(places: Iterable[str], place: str) -> bool:
    """Whether one of some places still holds a file that is not the file at another place."""
    return any(other != place and is_there(other) and not _is_same_file(other, place) for other in places)


def set_place(connection: sqlite3.Connection, collection: str, place: str, row: int) -> None:
    """Give a place to a video. The video that had it is listed under another of its places, if it has one."""
    holder = row_at(connection, collection, place)
    connection.execute("INSERT OR REPLACE INTO places VALUES (?, ?, ?)", (collection, uri_bytes(place), row))
    if holder is not None and holder != row:
        correct_uri(connection, holder)


def correct_uri(connection: sqlite3.Connection, row: int) -> bool:
    """List a video under one of its places if the place of its URI is gone or has another video; return whether so."""
    listed, places = place_of(uri_in(connection, row)), places_of(connection, row)
    if listed is None or (listed in places and is_there(listed)):
        return False
    found = next(filter(is_there, places), None)
    if found is None:
        return False
    connection.execute("UPDATE videos SET uri = ? WHERE row = ?", (uri_bytes(found), row))
    connection.execute("DELETE FROM places WHERE video_row = ? AND place = ?", (row, uri_bytes(listed)))  # it is gone
    return True


def take_place(connection: sqlite3.Connection, row: int) -> None:
    """Give a video the place that its URI names, if it names one."""
    collection, uri = connection.execute("SELECT collection, uri FROM videos WHERE row = ?", (row,)).fetchone()
    place = place_of(uri_of(uri))
    if place is not None:
        set_place(connection, collection, place, row)


def replace_version(connection: sqlite3.Connection, old: int, new: int) -> None:
    """Hand the metadata, the recorded time and the places of a video to its new version, where it has none itself.

    Other places had the old bytes: they are handed over only if the bytes are the same. A live stream hands over
    nothing.
    """
    connection.execute(
        "UPDATE videos AS new SET metadata = iif(new.metadata = '{}', old.metadata, new.metadata),"
        " recorded_time = coalesce(new.recorded_time, old.recorded_time) FROM videos AS old"
        " WHERE new.row = ? AND old.row = ? AND NOT old.live", (new, old)
    )  # fmt: skip
    connection.execute(
        "UPDATE places SET video_row = ?1 WHERE video_row = ?2 AND (SELECT content_sha256 FROM videos WHERE row = ?1)"
        " = (SELECT content_sha256 FROM videos WHERE row = ?2)", (new, old)
    )  # fmt: skip


def renew(
    connection: sqlite3.Connection, row: int, uri: str, metadata: Mapping[str, str], recorded_time: float | None
) -> bool:
    """Give a video the metadata, the recorded time and the place with which it was sent again, as far as there are any.

    Returns:
        Whether anything that readers see has changed.
    """
    place = place_of(uri)
    changed = connection.execute(
        "UPDATE videos SET metadata = coalesce(sent.metadata, videos.metadata), recorded_time ="
        " coalesce(sent.recorded_time, videos.recorded_time), uri = coalesce(sent.uri, videos.uri)"
        " FROM (SELECT nullif(?, '{}') AS metadata, ? AS recorded_time, ? AS uri) AS sent"
        " WHERE row = ? AND (sent.metadata != videos.metadata OR sent.uri != videos.uri"
        " OR coalesce(sent.recorded_time, videos.recorded_time) IS NOT videos.recorded_time)",
        (metadata_json(metadata), recorded_time, None if place is None else uri_bytes(uri), row),
    )
    if place is not None:
        take_place(connection, row)
    return changed.rowcount > 0


def is_ready(connection: sqlite3.Connection, row: int) -> bool:
    return connection.execute("SELECT 1 FROM videos WHERE row = ? AND state = 'READY'", (row,)).fetchone() is not None


def is_upload(uri: str) -> bool:
    """Whether a URI is that of a video whose bytes were sent, and not read from a place."""
    return uri.startswith(UPLOAD_PREFIX)


def uri_in(connection: sqlite3.Connection, row: int) -> str:
    """Return the URI of the video in a row."""
    (uri,) = connection.execute("SELECT uri FROM videos WHERE row = ?", (row,)).fetchone()
    return uri_of(uri)


def leftovers(connection: sqlite3.Connection, collection: str, place: str, row: int | None) -> list[int]:
    """Return the rows of older versions of the video at a place, besides one row.

    Programs before schema version 7 left them: each version was a video of its own, named after its content.
    """
    spellings = [uri_bytes(place)]
    if place.startswith("/"):
        spellings.append(uri_bytes(Path(place).as_uri()))
    found = connection.execute(
        "SELECT row FROM videos WHERE state = 'READY' AND NOT live AND collection = ?1 AND uri IN (?2, ?3)"
        " AND row IS NOT ?4 AND video_id = substr(content_sha256, 1, 16)"
        " AND NOT EXISTS (SELECT 1 FROM places WHERE video_row = row)",
        (collection, spellings[0], spellings[-1], row),
    )
    return [int(leftover) for (leftover,) in found]


def stored_place_of(uri: bytes) -> bytes | None:
    """Return place_of() of a URI as the catalog stores both."""
    place = place_of(uri_of(uri))
    return None if place is None else uri_bytes(place)


def _is_same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return False
