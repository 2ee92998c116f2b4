"""Files and folders for their owner only, and files of settings that are read whole."""

import contextlib
import os
import stat
from pathlib import Path

PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700  # permissions: only the owner reads and writes
# O_NONBLOCK: opening a FIFO without a writer would wait for ever. O_NOCTTY: a terminal must not become ours.
_OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


# What Kinodex itself puts into a data directory. Files that people write keep their permissions.
LIBRARY_NAMES = (
    "calibration.json", "catalog-outdated.sqlite", "catalog.sqlite", "catalog.sqlite-shm", "catalog.sqlite-wal",
    "fetch-uris", "index", "lock", "policies.in-force.yaml", "reindex", "serve.lock", "server.key", "spool",
    "token-uses", "tokens.json", "uploads", "webhook-deadletters.jsonl",
)  # fmt: skip
PEOPLES_NAMES = ("kinodex.toml", "policies.yaml")


def make_library_private(directory: Path) -> None:
    """Take the rights of others from all that Kinodex puts into a data directory.

    The folder itself loses them, too, if it holds nothing else: `--data .` must not shut others out of a project.
    """
    present = {path.name for path in directory.iterdir()}
    for name in LIBRARY_NAMES:
        make_private(directory / name)
    if present <= {*LIBRARY_NAMES, *PEOPLES_NAMES}:
        make_private(directory)


def make_private_folder(folder: Path) -> None:
    """Make a folder that only its owner may enter, with its parents. One that is there stays as it is.

    Raises:
        OSError: If it cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)


def private_opener(path: str, flags: int) -> int:
    """Open a file for open(); one that is made is for its owner only."""
    return os.open(path, flags, PRIVATE_FILE)


def make_private(path: Path) -> None:
    """Take the rights of others from a file or folder that is ours; one that is missing or another user's stays."""
    with contextlib.suppress(FileNotFoundError):
        status = path.stat()
        if status.st_mode & 0o077 and status.st_uid == os.geteuid():
            with contextlib.suppress(OSError):  # a file system without permissions, or read-only
                path.chmod(stat.S_IMODE(status.st_mode) & ~0o077)


def read_regular_file(path: Path, max_bytes: int) -> tuple[bytes, os.stat_result]:
    """Return the content of a file, and its status when it was opened. Never waits: a FIFO or a device is an error.

    Raises:
        OSError: If it cannot be read, is no regular file, or has more than `max_bytes`. `strerror` is the reason.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # before opening: opening a device can have effects
        raise OSError(0, "not a regular file", str(path))
    descriptor = os.open(path, _OPEN_FLAGS)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "not a regular file", str(path))
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(0, f"larger than {max_bytes >> 20} MiB", str(path))
    return content, status


def is_open_to_all(path: str | Path) -> bool:
    """Whether every user of this machine may read or write a file. A group that may is common for keys.

    Raises:
        OSError: If it is not there.
    """
    return bool(os.stat(path).st_mode & 0o007)
