"""The last step of a reindexing: a catalog takes over the videos of another data directory."""

import json
from pathlib import Path

from serve.catalog.catalog import Catalog
from serve.catalog.reader import CatalogReader
from serve.catalog.sqlite import CATALOG_NAME

FRESH_NAME = "reindex"  # folder in a data directory, in which a reindexing makes the new catalog
FILE_TABLES = ("frame_blocks", "thumbnails", "utterances", "segments", "video_traits")


def replace_videos(catalog: Catalog, other: Path) -> None:
    """Replace the videos and the encoder space of a catalog by the READY files and the space of another data directory.

    The files are added as every video is: PROCESSING, each in its own transaction, then all READY at once. The rows
    have new keys, so that no cache takes them for the old rows. A video that was deleted here meanwhile does not come
    back.

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
        write.execute("INSERT INTO utterance_search (utterance_search) VALUES ('delete-all')")
        write.execute("DELETE FROM videos WHERE state = 'READY' AND NOT (live AND fingerprint = ?)", (fingerprint,))
        write.execute("DELETE FROM consumed_offsets WHERE fingerprint != ?", (fingerprint,))
        stayed = [row for (row,) in write.execute("SELECT row FROM videos WHERE state = 'READY'")]
        write.executemany("UPDATE videos SET state = 'READY' WHERE row = ?", ((row,) for row in moved))
        for row in [*moved, *stayed]:
            catalog.make_searchable(write, row)
        if space is not None:
            catalog.write_space(write, space)
        catalog.advance_generation(write, moved)


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
