"""The moderation policies that hold: those of a file, taken over when it changes.

What held holds on when a file has a mistake, also in the next process: a copy of the last file that was right is kept
in the data directory, and a start begins with it.
"""

import contextlib
import logging
import os
import shutil
from pathlib import Path
from typing import Self

from serve.errors import PolicyInvalid
from serve.policies import Policies, read_policies

logger = logging.getLogger(__name__)

POLICIES_NAME = "policies.yaml"  # in the data directory
KEPT_NAME = "policies.in-force.yaml"  # in the data directory too: the copy


class PoliciesInForce:
    """The policies of a file, read again when it changes. A file with a mistake changes nothing: what held, holds."""

    def __init__(self, path: Path, kept: Path) -> None:
        """Begin with what held last.

        Args:
            kept: The copy.
        """
        self.path, self.kept = path, kept
        self.policies: Policies | None = None  # None: there is no file, or none was ever right
        self.mistake: PolicyInvalid | None = None  # in the file as it is now
        self._stamp: tuple[int, int] | None = None
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
        return cls(Path(path or directory / POLICIES_NAME), directory / KEPT_NAME)

    def refresh(self) -> bool:
        """Read the file if it is another one than last time; return whether other policies hold now."""
        before = self.policies
        try:
            status = self.path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
        except OSError:
            stamp = None
        if stamp is None:  # taken away, which is a way to say that none is to hold
            self.policies = self.mistake = self._stamp = None
            with contextlib.suppress(OSError):
                self.kept.unlink(missing_ok=True)
            return before is not None
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            self.policies, self.mistake = read_policies(self.path), None
        except PolicyInvalid as error:
            self.mistake = error
            held = "none hold" if self.policies is None else f"version {self.policies.version} holds on"
            logger.error("policies refused, %s: %s", held, error)
            return False
        if self.policies != before or not self.kept.exists():
            self._keep()
        logger.info("policies hold version=%s count=%d", self.policies.version, len(self.policies.policies))
        return self.policies != before

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
