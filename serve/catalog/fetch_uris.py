"""The URIs with secrets that jobs fetch: each in a file of its own, outside the catalog, until its job ends.

The catalog is copied for backups and read by others; it holds redacted URIs only. A file is made and removed inside a
transaction of the catalog, so that remove_unnamed() never meets a file whose job is not yet committed. A crash leaves
at most a file that no job names, which the next remove_unnamed() removes.
"""

import contextlib
import os
import sqlite3
from pathlib import Path
from uuid import uuid4

from serve.catalog.rows import uri_bytes, uri_of
from serve.files import PRIVATE_FILE, make_private_folder

FOLDER_NAME = "fetch-uris"  # in the data directory


def store_uri(directory: Path, uri: str) -> str:
    """Store a URI that a job of a data directory fetches, for its owner only; return the name of its file.

    Raises:
        OSError: If it cannot be stored.
    """
    folder = directory / FOLDER_NAME
    make_private_folder(folder)
    name = uuid4().hex
    descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        with open(descriptor, "wb") as file:
            file.write(uri_bytes(uri))
            file.flush()
            os.fsync(descriptor)
        _sync(folder)
    except BaseException:
        (folder / name).unlink()
        raise
    return name


def load_uri(directory: Path, name: str) -> str | None:
    """Return a stored URI; None: its file is gone, which happens if a catalog is restored without its folder."""
    try:
        return uri_of((directory / FOLDER_NAME / name).read_bytes())
    except FileNotFoundError:
        return None


def remove_unnamed(directory: Path, edit: sqlite3.Connection) -> None:
    """Remove the files that no job names, inside a transaction of the catalog that ended jobs."""
    with contextlib.suppress(FileNotFoundError):
        present = os.listdir(directory / FOLDER_NAME)
        if present:
            named = {name for (name,) in edit.execute("SELECT uri_name FROM jobs WHERE uri_name IS NOT NULL")}
            for name in set(present) - named:
                (directory / FOLDER_NAME / name).unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
