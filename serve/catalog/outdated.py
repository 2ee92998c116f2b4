"""rebuild_outdated() replaces a catalog that is too old to be migrated; `kinodex reindex` begins with it."""

import contextlib
import json
import os
import shutil
import sqlite3
from pathlib import Path

from serve.catalog import schema
from serve.catalog.sqlite import WriterLock, connect_outdated, translate_failures
from serve.files import PRIVATE_FILE
from serve.video_warnings import OUTDATED

FRESH_NAME = "reindex"  # folder in a data directory, in which a reindexing makes the new catalog
COPY_NAME = "catalog-outdated.sqlite"  # of the outdated catalog, until its videos are encoded again
# Tables whose rows the new catalog takes over, as far as they have the same columns.
CARRIED_TABLES = ("videos", "jobs", "requests", "deletions")


def rebuild_outdated(directory: Path) -> None:
    """Replace an outdated catalog by one of this version that lists the same videos, without their frames and words.

    It keeps jobs, request ids and the deletions of live videos, too. Live videos go, as Kafka's records bring them
    back. The outdated catalog is first copied to COPY_NAME; a half-done reindexing of the older program is deleted.
    The change is one transaction: a killed process leaves the outdated catalog unchanged.

    Raises:
        DataDirectoryBusy: If another process writes there.
        DataDirectoryInvalid: If the catalog is damaged, or may not be written.
    """
    with translate_failures(directory):
        lock = WriterLock(directory)
        try:
            shutil.rmtree(directory / FRESH_NAME, ignore_errors=True)
            with contextlib.closing(connect_outdated(directory)) as connection:
                copy = directory / COPY_NAME
                copy.unlink(missing_ok=True)  # a killed process may leave half a copy
                os.close(os.open(copy, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE))
                connection.execute("VACUUM INTO ?", (str(copy),))
                connection.execute("BEGIN IMMEDIATE")
                _rebuild(connection, directory)
                connection.commit()
        finally:
            lock.release()


def remove_copy(directory: Path) -> None:
    """Delete the copy of the outdated catalog, if there is one."""
    (directory / COPY_NAME).unlink(missing_ok=True)


def _rebuild(connection: sqlite3.Connection, directory: Path) -> None:
    tables = [name for (name,) in connection.execute(
        # Virtual tables first: their shadow tables go with them.
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        " ORDER BY sql LIKE 'CREATE VIRTUAL%' DESC"
    )]  # fmt: skip
    carried = [table for table in CARRIED_TABLES if table in tables]
    for table in carried:
        connection.execute(f"CREATE TEMP TABLE old_{table} AS SELECT * FROM main.{table}")
    if "jobs" in carried:
        schema.add_functions(connection, directory)
        connection.execute("ALTER TABLE temp.old_jobs ADD COLUMN uri_name TEXT")
        connection.execute(schema.STORE_SECRETS.format(table="temp.old_jobs"))
    for table in tables:
        connection.execute(f"DROP TABLE IF EXISTS main.{table}")
    schema.create(connection, directory)
    for table in carried:
        new = _column_names(connection, table)
        shared = ", ".join(name for name in _column_names(connection, f"old_{table}") if name in new)
        connection.execute(f"INSERT INTO main.{table} ({shared}) SELECT {shared} FROM temp.old_{table}")
    for statement in schema.REDACT:
        connection.execute(statement)
    connection.execute("DELETE FROM videos WHERE live OR state != 'READY'")
    # No encoder space has this fingerprint, so `kinodex index` does not take a video without rows for an indexed one.
    connection.execute(
        "UPDATE videos SET fingerprint = '', frame_count = 0, segment_count = 0, utterance_count = 0,"
        " text_line_count = 0, warnings = ?",
        (json.dumps([OUTDATED.text]),),
    )
    connection.execute(schema.FILL_PLACES)


def _column_names(connection: sqlite3.Connection, table: str) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))]
