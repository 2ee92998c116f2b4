"""Taking over the videos of another data directory, in place of those that are here: the end of a reindexing."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from serve.catalog.reader import CatalogReader
from serve.catalog.sqlite import CATALOG_NAME

if TYPE_CHECKING:
    from serve.catalog.catalog import Catalog

FRESH_NAME = "reindex"  # folder in a data directory, where a reindexing makes the new catalog
ROWS_OF_FILES = ("frame_blocks", "thumbnails", "utterances", "segments", "video_traits")


def replace_videos(catalog: "Catalog", other: Path) -> None:
    """Take the encoder space and the READY files of another data directory in place of the videos of a catalog.

    They come in as a video does: invisible, one transaction each, then all of them visible at once. Their rows are
    new here, so nothing that was remembered of an old row can be taken for theirs. One that is no longer here, as
    somebody deleted it meanwhile, does not come back.

    Live videos stay if they are of the same encoder space. Of another one, nothing can make them anew but Kafka's
    records: what was consumed of those is forgotten with them.
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


def _copy_attached(catalog: "Catalog", old_row: int) -> int:
    with catalog.writing() as write:
        columns = _columns(catalog, "videos", besides=("row", "state"))
        row = write.execute(
            f"INSERT INTO videos ({columns}, state) SELECT {columns}, 'PROCESSING' FROM fresh.videos WHERE row = ?",
            (old_row,),
        ).lastrowid
        for table in ROWS_OF_FILES:
            columns = _columns(catalog, table, besides=("id", "video_row", "segment_row"))
            write.execute(
                f"INSERT INTO main.{table} (video_row, {columns})"
                f" SELECT ?, {columns} FROM fresh.{table} WHERE video_row = ? ORDER BY rowid",
                (row, old_row),
            )
    assert row is not None  # an INSERT always has one
    return row


def _columns(catalog: "Catalog", table: str, *, besides: tuple[str, ...]) -> str:
    found = catalog.select("SELECT name FROM pragma_table_info(?)", table)
    return ", ".join(name for (name,) in found if name not in besides)
