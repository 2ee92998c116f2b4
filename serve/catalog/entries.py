"""Entries: which video of the library each input of an indexing run becomes; the caller gives no id.

1. Bytes that the collection has stay the video that they are. Its place is added, or the video moves there.
2. New bytes from a place with a video are the new version of that video: it keeps its id. But if the old bytes are at
   another place, too, the old video stays there and the new bytes are a new video.
3. New bytes from elsewhere are a new video. Its id is the start of its content's SHA-256, if no other video has that.

An input may have the bytes of one video and come from the place of another. Then the place changes hands at the end of
the run, when all inputs are read: two files that were exchanged keep their videos, and are not decoded again.
"""

import hashlib
import sqlite3

from ingest.source.source import video_id_of
from serve.catalog.catalog import Catalog
from serve.catalog.places import (
    Entry,
    correct_uri,
    has_other_file,
    has_other_home,
    is_ready,
    is_upload,
    leftovers,
    place_of,
    places_of,
    row_at,
    set_place,
    uri_in,
)
from serve.catalog.reader import CatalogReader
from serve.catalog.rows import uri_bytes, uri_of
from serve.values import Video


class Entries:
    """The entries of one run.

    The caller holds a lock in all calls, and from choose() to the end of Catalog.finish().
    """

    def __init__(self, catalog: Catalog, fingerprint: str) -> None:
        self._catalog, self._fingerprint = catalog, fingerprint
        self._moves: dict[tuple[str, str], int] = {}  # collection and place -> row of the video whose bytes it has

    def find(self, collection: str, uri: str, content_sha256: str) -> int | None:
        """Return the row of the video that has an input's bytes, and give it the input's place; None: it is new."""
        with self._catalog.writing() as write:
            found = write.execute(
                "SELECT row FROM videos WHERE state = 'READY' AND NOT live AND collection = ? AND content_sha256 = ?"
                " AND fingerprint = ? ORDER BY row IS ? DESC, row LIMIT 1",
                (collection, content_sha256, self._fingerprint, row_at(write, collection, place_of(uri))),
            ).fetchone()
            if found is not None:
                self._add_place(write, found[0], collection, uri)
        return None if found is None else int(found[0])

    def add_place(self, row: int, collection: str, uri: str) -> None:
        """Note that a video's bytes are at another place, too."""
        with self._catalog.writing() as write:
            if is_ready(write, row):
                self._add_place(write, row, collection, uri)

    def has_entry(self, collection: str, uri: str) -> bool:
        """Whether the place of an input has a video."""
        place = place_of(uri)
        return place is not None and bool(
            self._catalog.select(
                "SELECT 1 FROM places WHERE collection = ? AND place = ?", collection, uri_bytes(place)
            )
        )

    def choose(self, collection: str, uri: str, content_sha256: str) -> Entry:
        """Return the entry of an input with new bytes, whose rows are complete."""
        place = place_of(uri)
        with self._catalog.writing() as write:
            holder = row_at(write, collection, place)
            if place is not None:
                self._moves.pop((collection, place), None)
                self._remove_leftovers(write, collection, place, holder)
            replaces = None
            if holder is not None and place is not None and not self._stays(write, holder, place):
                replaces = holder
            elif (outdated := self._find_outdated(write, collection, content_sha256)) is not None:
                replaces = outdated
            if replaces is None:
                return Entry(video_id=free_id(self._catalog, collection, uri, content_sha256))
            (video_id,) = write.execute("SELECT video_id FROM videos WHERE row = ?", (replaces,)).fetchone()
            return Entry(video_id=video_id, replaces=replaces)

    def settle(self) -> None:
        """Let places change hands whose files have the bytes of other videos; remove the videos that have none left.

        Called at the end of a run.
        """
        if not self._moves:
            return
        with self._catalog.writing() as write:
            touched = set()
            for (collection, place), row in self._moves.items():
                if is_ready(write, row):
                    touched |= {row, row_at(write, collection, place)}
                    set_place(write, collection, place, row)
            stayed = []
            for row in filter(None, touched):
                if places_of(write, row) or is_upload(uri_in(write, row)):
                    correct_uri(write, row)
                    stayed.append(row)
                else:
                    self._catalog.remove_row(write, row)
            self._catalog.advance_generation(write, stayed)
        self._moves = {}

    def remove_all_leftovers(self) -> None:
        """Remove the older versions that programs before schema version 7 left: each was a video of its own."""
        with self._catalog.writing() as write:
            for collection, place, row in write.execute("SELECT collection, place, video_row FROM places").fetchall():
                self._remove_leftovers(write, collection, uri_of(place), row)

    def _add_place(self, write: sqlite3.Connection, row: int, collection: str, uri: str) -> None:
        place = place_of(uri)
        if place is None:
            return
        holder = row_at(write, collection, place)
        if holder is None:
            set_place(write, collection, place, row)
            if correct_uri(write, row):
                self._catalog.advance_generation(write, [row])
        elif holder != row:
            self._moves[collection, place] = row
        self._remove_leftovers(write, collection, place, row)

    def _stays(self, write: sqlite3.Connection, row: int, place: str) -> bool:
        """Whether a video stays when one of its places gets other bytes."""
        return row in self._moves.values() or has_other_home(write, row, place)

    def _find_outdated(self, write: sqlite3.Connection, collection: str, content_sha256: str) -> int | None:
        """Return the row of a video of the same bytes that the last reindexing could not read; None: there is none."""
        found = write.execute(
            "SELECT row FROM videos WHERE state = 'READY' AND NOT live AND collection = ? AND content_sha256 = ?"
            " AND fingerprint != ? ORDER BY row LIMIT 1", (collection, content_sha256, self._fingerprint)
        ).fetchone()  # fmt: skip
        return None if found is None else int(found[0])

    def _remove_leftovers(self, write: sqlite3.Connection, collection: str, place: str, row: int | None) -> None:
        rows = [
            leftover for leftover in leftovers(write, collection, place, row) if leftover not in self._moves.values()
        ]
        for leftover in rows:
            self._catalog.remove_row(write, leftover)
        if rows:
            self._catalog.advance_generation(write)


def video_at(catalog: CatalogReader, collection: str, uri: str) -> Video | None:
    """Return the video at the place that a URI names; None: there is none, or it stays when the place changes."""
    place = place_of(uri)
    if place is None:
        return None
    at = catalog.select("SELECT video_row FROM places WHERE (collection, place) = (?, ?)", collection, uri_bytes(place))
    video = catalog.video_in(at[0][0]) if at else None
    if video is None or is_upload(video.uri):
        return None
    others = catalog.select("SELECT place FROM places WHERE video_row = ?", video.row)
    return None if has_other_file([uri_of(other) for (other,) in others], place) else video


def free_id(catalog: CatalogReader, collection: str, uri: str, content_sha256: str) -> str:
    """Return the id of new bytes that the caller does not name: the start of their SHA-256.

    If the video that had these bytes got a new version and kept that id, return one derived from the URI, too.
    """
    default = video_id_of(content_sha256)
    taken = catalog.select(
        "SELECT 1 FROM videos WHERE state = 'READY' AND NOT live AND collection = ? AND video_id = ?"
        " AND content_sha256 != ?", collection, default, content_sha256
    )  # fmt: skip
    return (
        video_id_of(hashlib.sha256(f"{content_sha256}\n".encode() + uri_bytes(uri)).hexdigest()) if taken else default
    )
