"""The last step of a reindexing: a catalog takes over the videos of another data directory."""

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from serve.catalog.catalog import Catalog
from serve.catalog.reader import WORDED, CatalogReader, search_table
from serve.catalog.speech.speakers import hand_over_names
from serve.catalog.sqlite import CATALOG_NAME
from serve.video_warnings import NOT_ENCODED, is_not_encoded

FILE_TABLES = (
    "frame_blocks",
    "thumbnails",
    "utterances",
    "text_lines",
    "segments",
    "video_traits",
    "imported_transcripts",
)
Failures = Mapping[tuple[str, str], str]  # collection and id of a video -> why it was not encoded again


def replace_videos(catalog: Catalog, other: Path, failures: Failures | None = None) -> None:
    """Replace the files and the encoder space of a catalog by the READY files and the space of another data directory.

    The files are added as every video is: PROCESSING, each in its own transaction, then all READY at once. The rows
    have new keys, so that no cache takes them for the old rows. A video that was deleted here meanwhile does not come
    back. A video of `failures` that the other directory does not have keeps its rows, and says why in a warning: if
    they are of another encoder space, no question finds it any more.

    Live videos of the same encoder space stay. Live videos of other spaces go with their consumed offsets, so that
    Kafka's records make them anew.
    """
    with CatalogReader.open_reader(other) as fresh:
        space, rows = fresh.space(), [video.row for video in fresh.videos() if not video.is_live]
    with catalog.attach(other / CATALOG_NAME):
        moved = [_copy_attached(catalog, row) for row in rows]
    fingerprint = "" if space is None else space.fingerprint
    with catalog.writing() as write:
        write.execute(
            "DELETE FROM videos AS new WHERE row IN (SELECT value FROM json_each(?)) AND NOT EXISTS (SELECT 1"
            " FROM videos AS old WHERE state = 'READY' AND NOT old.live AND old.collection = new.collection"
            " AND old.video_id = new.video_id)",
            (json.dumps(moved),),
        )
        _hand_over_places(write, moved)
        _hand_over_names(write, moved)
        kept = [
            row for name, reason in (failures or {}).items() if (row := _keep(write, name, reason, moved, fingerprint))
        ]
        for kind in WORDED:
            write.execute(f"INSERT INTO {search_table(kind)} ({search_table(kind)}) VALUES ('delete-all')")
        write.execute(
            "DELETE FROM videos WHERE state = 'READY' AND NOT (live AND fingerprint = ?)"
            " AND row NOT IN (SELECT value FROM json_each(?))",
            (fingerprint, json.dumps(kept)),
        )
        write.execute("DELETE FROM consumed_offsets WHERE fingerprint != ?", (fingerprint,))
        stayed = [row for (row,) in write.execute("SELECT row FROM videos WHERE state = 'READY'")]
        write.executemany("UPDATE videos SET state = 'READY' WHERE row = ?", ((row,) for row in moved))
        for row in [*moved, *stayed]:
            catalog.make_searchable(write, row)
        if space is not None:
            catalog.write_space(write, space)
        catalog.advance_generation(write, [*moved, *kept])


def note_failures(catalog: Catalog, failures: Failures) -> None:
    """Say in a warning of each video why it was not encoded again, where a reindexing could read none."""
    space = catalog.space()
    with catalog.writing() as write:
        kept = [
            row
            for name, reason in failures.items()
            if (row := _keep(write, name, reason, [], "" if space is None else space.fingerprint))
        ]
        catalog.advance_generation(write, kept)


def _keep(
    write: sqlite3.Connection, name: tuple[str, str], reason: str, moved: list[int], fingerprint: str
) -> int | None:
    """Warn of a video that was not encoded again, and return its row.

    None: it was deleted meanwhile, or a killed reindexing had encoded it before its file was gone.
    """
    found = write.execute(
        "SELECT row, warnings, fingerprint FROM videos WHERE state = 'READY' AND NOT live AND (collection, video_id)"
        " = (?, ?) AND NOT EXISTS (SELECT 1 FROM videos AS new WHERE new.row IN (SELECT value FROM json_each(?))"
        " AND (new.collection, new.video_id) = (videos.collection, videos.video_id))",
        (*name, json.dumps(moved)),
    ).fetchone()
    if found is None:
        return None
    row, warnings, own = found
    effect = "its old index answers" if own and own == fingerprint else "no question finds it"
    others = [text for text in json.loads(warnings) if not is_not_encoded(text)]
    texts = [NOT_ENCODED.text.format(effect=effect, reason=reason), *others]
    write.execute("UPDATE videos SET warnings = ? WHERE row = ?", (json.dumps(texts), row))
    return int(row)


def _hand_over_places(write: sqlite3.Connection, moved: list[int]) -> None:
    """Give the places of the old rows to the new rows."""
    write.execute(
        "UPDATE places SET video_row = new.row FROM videos AS old JOIN videos AS new USING (collection, video_id)"
        " WHERE places.video_row = old.row AND old.state = 'READY' AND new.row IN (SELECT value FROM json_each(?))",
        (json.dumps(moved),),
    )


def _hand_over_names(write: sqlite3.Connection, moved: list[int]) -> None:
    """Name the speakers of the new rows as those of the old rows."""
    pairs = write.execute(
        "SELECT old.row, new.row FROM videos AS old JOIN videos AS new USING (collection, video_id)"
        " WHERE old.state = 'READY' AND new.row IN (SELECT value FROM json_each(?))"
        " AND old.row IN (SELECT video_row FROM speaker_names)",
        (json.dumps(moved),),
    ).fetchall()
    for old, new in pairs:
        hand_over_names(write, old, new)


def _copy_attached(catalog: Catalog, old_row: int) -> int:
    with catalog.writing() as write:
        columns = _copied_columns(catalog, "videos", besides=("row", "state"))
        row = write.execute(
            f"INSERT INTO videos ({columns}, state) SELECT {columns}, 'PROCESSING' FROM fresh.videos WHERE row = ?",
            (old_row,),
        ).lastrowid
        for table in FILE_TABLES:
            columns = _copied_columns(catalog, table, besides=("id", "video_row", "segment_row"))
            write.execute(
                f"INSERT INTO main.{table} (video_row, {columns})"
                f" SELECT ?, {columns} FROM fresh.{table} WHERE video_row = ? ORDER BY rowid",
                (row, old_row),
            )
    assert row is not None  # every INSERT has a lastrowid
    return row


def _copied_columns(catalog: Catalog, table: str, *, besides: tuple[str, ...]) -> str:
    names = catalog.select("SELECT name FROM pragma_table_info(?)", table)
    return ", ".join(name for (name,) in names if name not in besides)
