"""ActivePolicies: the moderation policies of a file, read again whenever the file changes.

A file with a mistake changes nothing: the policies of its last valid version stay active. A copy of that version in the
data directory makes them active again when a process starts.
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
from serve.files import make_private
from serve.moderation.policies import Policies, read_policies

logger = logging.getLogger(__name__)

POLICIES_NAME = "policies.yaml"  # in the data directory
COPY_NAME = "policies.in-force.yaml"  # in the data directory: the last valid version
ABSENCE_SECONDS = 10.0  # a policy file missing this long counts as removed; editors move files away and back


class ActivePolicies:
    """The policies of a file, and the mistake that its present version may have."""

    def __init__(self, path: Path, copy: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with the policies of the copy, if there is one.

        Args:
            path: The policy file.
            copy: Where its last valid version is copied to.
            clock: Returns seconds.
        """
        self.path, self._copy, self._clock = path, copy, clock
        self.policies: Policies | None = None  # None: there was never a valid file, or the file was removed
        self.is_removed = False  # the file was removed, which ends its policies
        self.mistake: PolicyInvalid | None = None  # in the present version of the file
        self._stamp: tuple[int, int] | None = None  # time and size of the file that was read last; None: read it again
        self._absent_since: float | None = None  # None: the file is there
        if copy.exists():
            try:
                self.policies = read_policies(copy)
            except PolicyInvalid as error:  # written by another version of this program, or damaged
                logger.warning("the copy of the last valid policies cannot be read reason=%s", error)

    @classmethod
    def of(cls, directory: Path, path: str) -> Self:
        """Return the policies of a directory: of `path` (server.policies), or if that is empty of policies.yaml."""
        return cls(Path(path or directory / POLICIES_NAME), directory / COPY_NAME)

    def refresh(self) -> bool:
        """Read the file if it changed since the last call; return whether the active policies changed."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return self._note_absence()
        except OSError as error:
            self._stamp = None
            return self._refuse(PolicyInvalid(str(self.path), error.strerror or str(error)))
        self._absent_since = None
        stamp = (status.st_mtime_ns, status.st_size)
        if stamp == self._stamp:
            return False
        before = self.policies
        try:
            self.policies = read_policies(self.path)
        except PolicyInvalid as error:
            if not isinstance(error.__cause__, OSError):  # after an OSError the same file may become readable
                self._stamp = stamp
            return self._refuse(error)
        self._stamp, self.mistake, self.is_removed = stamp, None, False
        if self.policies != before or not self._copy.exists():
            self._write_copy()
        logger.info("policies active version=%s count=%d", self.policies.version, len(self.policies.policies))
        return self.policies != before

    def _note_absence(self) -> bool:
        """Deactivate the policies once the file is missing for ABSENCE_SECONDS; return whether they changed."""
        now = self._clock()
        self._stamp = None
        self._absent_since = now if self._absent_since is None else self._absent_since
        if self.is_removed or now - self._absent_since < ABSENCE_SECONDS:
            return False
        was_there = self.policies is not None or self.mistake is not None or self._copy.exists()
        self.policies, self.mistake, self.is_removed = None, None, True
        with contextlib.suppress(OSError):
            self._copy.unlink(missing_ok=True)
        if was_there:
            logger.info("policies ended: their file was removed")
        return True

    def _refuse(self, mistake: PolicyInvalid) -> bool:
        """Note a mistake, and log it once; return False, as the active policies stay."""
        if str(mistake) != str(self.mistake):
            active = "none are active" if self.policies is None else f"version {self.policies.version} stays active"
            logger.error("policies refused, %s: %s", active, mistake)
        self.mistake = mistake
        return False

    def _write_copy(self) -> None:
        """Copy the file by a rename, so that the copy is always a whole version, the old or the new."""
        part = self._copy.with_suffix(f".{os.getpid()}.part")
        try:
            shutil.copyfile(self.path, part)
            make_private(part)
            if read_policies(part) == self.policies:  # else it changed meanwhile, and the next refresh() reads it
                os.replace(part, self._copy)
        except (OSError, PolicyInvalid) as error:
            logger.warning("policies not copied, a restart cannot restore them reason=%s", error)
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
