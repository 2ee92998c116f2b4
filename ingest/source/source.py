"""Opens files and URLs, under the URI policy of SourceConfig.

A plain path is the caller's own file and is opened as given. A URI is untrusted: `file:` is allowed only below the
configured roots, `http:` and `https:` only to allowed hosts and addresses, and no other scheme is allowed.
"""

import hashlib
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote_to_bytes, urlsplit

from ingest.config import SourceConfig
from ingest.errors import LimitExceeded, SourceError, SourceNotFound, SourceRefused, SourceUnavailable, SourceUnreadable
from ingest.source.fetch import (
    READ_BYTES,
    Progress,
    check_host,
    download,
    has_control_characters,
    parse_url,
)
from ingest.source.redaction import escape_unprintable, redact_uri

_HTTP_SCHEMES = ("http", "https")
_SCHEMES = (*_HTTP_SCHEMES, "file")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):(//)?", re.IGNORECASE | re.ASCII)  # at least two letters: C: is a drive
# Seconds without a write after which a file counts as complete. Recorders and copying programs write at least once a
# second; a file that was just made costs at most this wait.
REST_SECONDS = 2.0
GROWING_SECONDS = 20.0  # bounds the wait for a file that is being recorded or copied: it occupies a decoding thread
_POLL_SECONDS = 0.1  # between two looks at such a file: the longest that a stopped run waits for it
# O_NONBLOCK: opening a FIFO without a writer would wait for ever. O_NOCTTY: a terminal must not become ours.
OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """An open file with the bytes of one source."""

    uri: str  # as stored: an absolute path, or a URI without secrets (redact_uri)
    file: BinaryIO  # seekable, unbuffered, at position 0
    size_bytes: int
    content_sha256: str  # 64 hex digits
    is_being_written: bool = False  # also after a wait: the hash is that of its bytes so far


def video_id_of(content_sha256: str) -> str:
    """Return the id of a video that the caller does not name: 64 bits of its content's hash."""
    return content_sha256[:16]


def scheme_of(uri: str) -> str | None:
    """Return a URI's scheme in lower case, or None for a plain path.

    A name with a colon that exists as a file is a path, unless it begins with http:, https: or file:. Input from a
    network must have a scheme, since a plain path is opened without any policy.
    """
    match = _SCHEME.match(uri)
    if match is None:
        return None
    scheme = match[1].lower()
    if scheme in _SCHEMES or match[2] or "\0" in uri or not os.path.lexists(uri):
        return scheme
    return None


def display_uri(uri: str) -> str:
    """Return a source for messages: one line, without secrets."""
    return escape_unprintable(redact_uri(uri))


def check_name(path: str) -> SourceError | None:
    """Return an error if a path's spelling is not acceptable; opens nothing.

    A name in another encoding than UTF-8 is acceptable: Python spells its bytes as surrogates (PEP 383).
    """
    try:
        if path and b"\0" not in os.fsencode(path):
            return None
    except UnicodeEncodeError:  # other surrogates: no bytes of a name
        pass
    return SourceNotFound(display_uri(path), "not a path")


@contextmanager
def open_source(
    uri: str,
    config: SourceConfig,
    *,
    spool: Path,
    progress: Progress | None = None,
    may_grow: bool = False,
    known_hash: Callable[[os.stat_result], str | None] = lambda status: None,
) -> Iterator[SourceFile]:
    """Open a path or URI, and hash its content.

    Args:
        uri: A path, or a file:, http: or https: URI.
        config: The URI policy and its limits. max_bytes applies to files too.
        spool: Folder for downloads. They have no name in it, so that not even a killed process leaves one.
        progress: Called after each read.
        known_hash: Returns the SHA-256 of a file, as hex digits, if the caller knows it for the file's size and times:
            then its content is not read. Not called for downloads.
        may_grow: Wait, at most GROWING_SECONDS, for a file that is being written; then take what is there.
    Raises:
        SourceNotFound: If there is no such file or page.
        SourceUnreadable: If it is empty, or may not be read.
        SourceRefused: If the policy forbids it, or it is not a regular file.
        SourceUnavailable: If the server fails, or the file changes while it is read and `may_grow` is False.
        LimitExceeded: If it exceeds max_bytes, max_redirects or max_fetch_seconds.
    """
    name, scheme = display_uri(uri), scheme_of(uri)
    if scheme in _HTTP_SCHEMES:
        with _make_download_file(spool, name) as file:
            content_sha256 = download(uri, config, into=file, progress=progress)
            yield _to_source_file(name, redact_uri(uri), file, content_sha256)
        return
    if scheme not in (None, "file"):
        reason = f"no such file, and the scheme {scheme}: is not supported"
        raise SourceRefused(name, reason, f"use one of {', '.join(_SCHEMES)}, or a path")
    descriptor = open_path(uri, name) if scheme is None else open_file_uri(uri, name, config)
    with open(descriptor, "rb", buffering=0) as file:
        known = known_hash(os.fstat(file.fileno()))
        content_sha256, is_being_written = (
            (known, False) if known is not None else _hash_at_rest(file, name, config, progress, may_grow=may_grow)
        )
        absolute = _to_absolute(uri, file) if scheme is None else uri
        yield _to_source_file(name, absolute, file, content_sha256, is_being_written=is_being_written)


def check_policy(uri: str, config: SourceConfig) -> None:
    """Check a URI's spelling against the policy, as open_source() does. Opens nothing and looks up no name.

    Raises:
        SourceRefused: If its scheme, its host or its folder is not allowed, or it has no scheme.
    """
    name, scheme = display_uri(uri), scheme_of(uri)
    if scheme in _HTTP_SCHEMES:
        check_host(parse_url(uri, name), name, config)
    elif scheme == "file":
        _resolve_allowed(uri, name, config)
    else:
        raise SourceRefused(name, "not a URI of a supported scheme", f"use one of {', '.join(_SCHEMES)}")


def _make_download_file(spool: Path, name: str) -> FileIO:
    """Make a file without a name; it vanishes with its last descriptor."""
    try:
        spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=spool, buffering=0)
    except OSError as e:
        raise SourceUnavailable(name, f"cannot store downloads in {spool}, {e.strerror}") from e


def _to_source_file(
    name: str, uri: str, file: FileIO, content_sha256: str, *, is_being_written: bool = False
) -> SourceFile:
    size_bytes = file.seek(0, os.SEEK_END)
    if size_bytes == 0:
        raise SourceUnreadable(name, "empty file")
    file.seek(0)
    return SourceFile(
        uri=uri, file=file, size_bytes=size_bytes, content_sha256=content_sha256, is_being_written=is_being_written
    )


def _to_absolute(path: str, file: FileIO) -> str:
    """Return the absolute path of an open file, with the caller's links in it if it still names the file."""
    absolute = os.path.abspath(path)  # resolves "link/.." by spelling, which may name another file
    try:
        if os.path.samestat(os.stat(absolute), os.fstat(file.fileno())):
            return absolute
    except OSError:
        pass
    return os.path.realpath(path)


def has_changed(before: os.stat_result, after: os.stat_result) -> bool:
    """Whether a file was written between two looks at it."""
    return (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns)


def _hash_at_rest(
    file: FileIO, name: str, config: SourceConfig, progress: Progress | None, *, may_grow: bool
) -> tuple[str, bool]:
    """Hash a file, and again as long as it changes meanwhile; return the hash and whether the file still grows.

    Raises:
        SourceUnavailable: If it changes and `may_grow` is False.
    """
    deadline = time.monotonic() + GROWING_SECONDS
    while True:
        is_resting = not may_grow or _wait_for_rest(file, deadline, progress)
        content_sha256, has_grown = _hash_file(file, name, config, progress)
        if has_grown and not may_grow:
            raise SourceUnavailable(name, "the file changed while it was read", "wait until it is complete")
        if is_resting and not has_grown:
            return content_sha256, False
        if time.monotonic() >= deadline:
            return content_sha256, True


def _wait_for_rest(file: FileIO, deadline: float, progress: Progress | None) -> bool:
    """Wait until a file was not written for REST_SECONDS; return False at the deadline, as time.monotonic()."""
    while True:
        status = os.fstat(file.fileno())
        rested_seconds = time.time() - status.st_mtime
        if not 0 <= rested_seconds < REST_SECONDS:  # a time in the future is another machine's clock: no wait helps
            return True
        if time.monotonic() >= deadline:
            return False
        if progress is not None:
            progress(0, status.st_size)
        time.sleep(min(_POLL_SECONDS, REST_SECONDS - rested_seconds))


def _hash_file(file: FileIO, name: str, config: SourceConfig, progress: Progress | None) -> tuple[str, bool]:
    """Hash the bytes of a file as long as it is now; return the hash and whether it was written meanwhile."""
    before = os.fstat(file.fileno())
    if before.st_size > config.max_bytes:
        raise LimitExceeded(name, "max_bytes", f"{before.st_size} bytes, over {config.max_bytes}")
    digest, done_bytes, buffer = hashlib.sha256(), 0, memoryview(bytearray(READ_BYTES))
    file.seek(0)
    try:
        while done_bytes < before.st_size and (count := file.readinto(buffer[: before.st_size - done_bytes])):
            digest.update(buffer[:count])
            done_bytes += count
            if progress is not None:
                progress(done_bytes, before.st_size)
    except OSError as e:
        raise SourceUnreadable(name, f"cannot be read, {e.strerror}") from e
    return digest.hexdigest(), has_changed(before, os.fstat(file.fileno())) or done_bytes != before.st_size


def open_path(path: str, name: str) -> int:
    """Open a path of the caller's own, if it is a regular file; return its descriptor. `name` is for messages."""
    problem = check_name(path)
    if problem is not None:
        raise problem
    try:
        _check_regular(os.stat(path), name)  # before opening: opening a device can have effects
        return _require_regular(os.open(path, OPEN_FLAGS), name)
    except OSError as e:
        raise to_source_error(e, name) from e


def open_file_uri(uri: str, name: str, config: SourceConfig) -> int:
    """Open a file: URI below one of the roots.

    The path is resolved first, then opened from its root one component at a time, never through a link. If a
    component is replaced by a link in between, opening fails instead of leading outside.
    """
    path, root = _resolve_allowed(uri, name, config)
    *folders, last = os.path.relpath(path, root).split(os.sep)
    try:
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in folders:
                deeper = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                os.close(folder)
                folder = deeper
            _check_regular(os.stat(last, dir_fd=folder, follow_symlinks=False), name)
            return _require_regular(os.open(last, OPEN_FLAGS | os.O_NOFOLLOW, dir_fd=folder), name)
        finally:
            os.close(folder)
    except OSError as e:
        raise to_source_error(e, name) from e


def _resolve_allowed(uri: str, name: str, config: SourceConfig) -> tuple[str, str]:
    """Return the resolved path of a file: URI, and the root that contains it.

    Raises:
        SourceRefused: If no root contains it.
    """
    if "file" not in config.schemes:
        raise SourceRefused(name, "the scheme file: is not allowed", "list it in schemes")
    path = os.path.realpath(path_of_file_uri(uri, name))
    for root in map(os.path.realpath, config.file_roots):
        if path != root and os.path.commonpath([path, root]) == root:
            return path, root
    raise SourceRefused(name, "outside the allowed folders", "list its folder in source.file_roots")


def path_of_file_uri(uri: str, name: str) -> str:
    """Return the absolute path of a file: URI, which must be spelled as in RFC 8089."""
    problem = SourceRefused(
        name, "not a valid file: URI of this machine", "write file:///folder/name, ? and # and % percent-encoded"
    )
    try:
        parts = urlsplit(uri)
    except ValueError:
        raise problem from None
    path = os.fsdecode(unquote_to_bytes(parts.path))
    if (
        parts.netloc.lower() not in ("", "localhost")
        or not path.startswith("/")
        or path.startswith("//")  # a network share on some systems
        or has_control_characters(uri)  # urlsplit would silently drop them, and the path would lose what follows ? or #
        or "?" in uri
        or "#" in uri
    ):
        raise problem
    name_error = check_name(path)
    if name_error is not None:
        raise name_error
    return path


def _require_regular(descriptor: int, name: str) -> int:
    """Make a descriptor blocking and return it; close it and raise if it is not of a regular file."""
    try:
        _check_regular(os.fstat(descriptor), name)
        os.set_blocking(descriptor, True)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_regular(status: os.stat_result, name: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise SourceUnreadable(name, "a folder, not a file", "name a file")
    if not stat.S_ISREG(status.st_mode):  # it could block, be endless, or return other bytes each time
        raise SourceRefused(name, "not a regular file", "copy its content into a file")


def to_source_error(error: OSError, name: str) -> SourceError:
    """Return the error for a path that the system does not open."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return SourceNotFound(name, "no such file", "check the path")
    if isinstance(error, PermissionError):
        return SourceUnreadable(name, "permission denied", "make it readable for this user")
    return SourceUnreadable(name, f"cannot be opened, {error.strerror}")
