"""TokenUses: when each token was last used, as the modification time of an empty file of the token's id."""

import contextlib
import logging
import os
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from serve.files import PRIVATE_FILE, PRIVATE_FOLDER

FOLDER_NAME = "token-uses"  # in the data directory
NOTE_SECONDS = 60.0  # between two notes of one token: so exact is the time of its last use

logger = logging.getLogger(__name__)


class TokenUses:
    """Notes the uses of tokens. Thread-safe. Calls go on if a use cannot be noted; the log says so once."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._noted: dict[str, datetime] = {}
        self._has_failed = False

    def note(self, token_id: str, now: datetime) -> None:
        with self._lock:
            last = self._noted.get(token_id)
            if last is not None and 0 <= (now - last).total_seconds() < NOTE_SECONDS:
                return
            self._noted[token_id] = now
        try:
            self._folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
            path = self._folder / token_id
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE))
            os.utime(path, (now.timestamp(), now.timestamp()))
        except OSError as error:
            if not self._has_failed:
                logger.error("uses of tokens cannot be noted folder=%s reason=%s", self._folder, error.strerror)
            self._has_failed = True


def last_uses(folder: Path) -> dict[str, datetime]:
    """Return the time of the last use by a token's id, as far as servers of this data directory noted it.

    Raises:
        OSError: If the folder cannot be read.
    """
    uses: dict[str, datetime] = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # revoked meanwhile
                uses[entry.name] = datetime.fromtimestamp(entry.stat().st_mtime, UTC)
    return uses


def forget_uses(folder: Path, token_ids: Iterable[str]) -> None:
    """Remove the notes of tokens that are gone, unless this process may not: an old note harms nobody."""
    for token_id in token_ids:
        with contextlib.suppress(OSError):
            (folder / token_id).unlink()
