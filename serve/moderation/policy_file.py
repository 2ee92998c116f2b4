"""The moderation policies that hold: those of a file, taken over when it changes.

What held holds on when a file has a mistake, also in the next process: a copy of the last file that was right is kept
in the data directory, and a start begins with it.
"""

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from serve.errors import PolicyInvalid
from serve.moderation.policies import Policies, read_policies

logger = logging.getLogger(__name__)

POLICIES_NAME = "policies.yaml"  # in the data directory
COPY_NAME = "policies.in-force.yaml"  # in the data directory too: the copy
ABSENCE_SECONDS = 10.0  # so long a file is away until that is meant


class ActivePolicies:
    """The policies of a file, read again when it changes. One with a mistake changes nothing: what held, holds."""

    def __init__(self, path: Path, kept: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with what held last.

        Args:
            kept: The copy.
            clock: Tells seconds.
        """
        self.path, self.kept, self._clock = path, kept, clock
        self.policies: Policies | None = None  # None: there is no file, or none was ever right
        self.is_taken_away = False  # the file, which is a way to say that none is to hold
        self.mistake: PolicyInvalid | None = None  # in the file as it is now
        self._stamp: tuple[int, int] | None = None  # of the file that was read; None: none was
        self._missed_at: float | None = None  # since when there is no file; None: there is one
        if kept.exists():
            try:
                self.policies = read_policies(kept)
            except PolicyInvalid as error:  # of another version, or damaged
                logger.warning("the policies that held are not known reason=%s", error)

    @classmethod
    def of(cls, directory: Path, path: str) -> Self:
        """Return those of a data directory.

        Args:
            path: As in server.policies; empty: the file is in the directory, too.
        """
        return cls(Path(path or directory / POLICIES_NAME), directory / COPY_NAME)

    def refresh(self) -> bool:
        """Read the file if it is another one than last time; return whether other policies hold now."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return self._missed()
        except OSError as error:
            self._stamp = None
            return self._refused(PolicyInvalid(str(self.path), error.strerror or str(error)))
        self._missed_at = None
        stamp = (status.st_mtime_ns, status.st_size)
        if stamp == self._stamp:
            return False
        before = self.policies
        try:
            self.policies = read_policies(self.path)
        except PolicyInvalid as error:
            if not isinstance(error.__cause__, OSError):  # else the disk may come back: it is read again
                self._stamp = stamp
            return self._refused(error)
        self._stamp, self.mistake, self.is_taken_away = stamp, None, False
        if self.policies != before or not self.kept.exists():
            self._keep()
        logger.info("policies hold version=%s count=%d", self.policies.version, len(self.policies.policies))
        return self.policies != before

    def _missed(self) -> bool:
        """Let no policies hold once the file was away for long; an editor that saves it moves it away and back."""
        now = self._clock()
        self._stamp = None
        self._missed_at = now if self._missed_at is None else self._missed_at
        if self.is_taken_away or now - self._missed_at < ABSENCE_SECONDS:
            return False
        self.policies, self.mistake, self.is_taken_away = None, None, True
        with contextlib.suppress(OSError):
            self.kept.unlink(missing_ok=True)
        logger.info("policies were taken away")
        return True

    def _refused(self, mistake: PolicyInvalid) -> bool:
        if str(mistake) != str(self.mistake):
            held = "none hold" if self.policies is None else f"version {self.policies.version} holds on"
            logger.error("policies refused, %s: %s", held, mistake)
        self.mistake = mistake
        return False

    def _keep(self) -> None:
        """Copy the file: however this process ends, the copy is the old one or the new one, whole."""
        part = self.kept.with_suffix(f".{os.getpid()}.part")
        try:
            shutil.copyfile(self.path, part)
            if read_policies(part) == self.policies:  # else it was changed meanwhile, and is read again
                os.replace(part, self.kept)
        except (OSError, PolicyInvalid) as error:
            logger.warning("a restart will not know these policies reason=%s", error)
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
