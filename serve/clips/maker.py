"""ClipMaker: cuts clips out of the files of the library's videos, in child processes."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Self

from ingest.errors import LimitExceeded, SourceNotFound, SourceUnavailable, SpanOutside
from ingest.sandbox.pool import DecodePool
from ingest.source.redaction import is_redacted
from ingest.source.source import SourceFile, display_uri, open_source, scheme_of
from ingest.values import Clip, Cut
from serve.catalog.places import is_upload
from serve.catalog.reader import CatalogReader
from serve.errors import MediaChanged, MediaGone
from serve.settings import Settings
from serve.text import clock
from serve.values import Video

SPOOL_NAME = "spool"  # as for indexing, in the data directory: files without names, which vanish with their process
MAX_KNOWN_HASHES = 1000  # of files whose content was read; each is some 200 bytes
CLIP_SECONDS = 1800.0  # longest work on one clip; the longest of 4K takes some minutes to encode

# What tells a version of a file: device, inode, size, and the times of its content and of its inode.
FileVersion = tuple[int, int, int, int, int]


class ClipMaker:
    """Makes clips of videos. Several threads may use it.

    Args:
        workers: How many clips are made at once; further ones wait.
    """

    def __init__(self, catalog: CatalogReader, directory: Path, settings: Settings, *, workers: int = 1) -> None:
        self._catalog, self._settings = catalog, settings
        self._spool = directory / SPOOL_NAME
        config = replace(settings.decode, max_wall_seconds=min(settings.decode.max_wall_seconds, CLIP_SECONDS))
        self._pool = DecodePool(config, workers=workers)
        self._hashes: dict[FileVersion, str] = {}

    def close(self) -> None:
        """End the child processes."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def make(self, video: Video, wanted: Cut, target: BinaryIO, *, check: Callable[[], None] = lambda: None) -> Clip:
        """Write a clip of a video as MP4 into a file.

        Args:
            wanted: Which part, in media time. Its `has_jumps` is taken from the catalog.
            target: Open for writing, seekable, empty. After an error, its content is of no use.
            check: Called some times a second; what it raises stops the work: so a caller who leaves ends it.
        Raises:
            SpanOutside: If the span lies behind the end of the video.
            LimitExceeded: If the clip is longer than clip.max_seconds or larger than clip.max_bytes.
            MediaGone: If the video is live, was uploaded, or its file is gone.
            MediaChanged: If its file has other content than was indexed.
            SourceError: If its file cannot be read, or its address may not be.
            DecodeError: If its file can be neither copied nor decoded.
        """
        limits = self._settings.clip
        if wanted.start_seconds >= video.duration_seconds:
            begin, end = clock(wanted.start_seconds), clock(video.duration_seconds)
            raise SpanOutside(video.uri, f"nothing at {begin}: the video ends at {end}")
        if min(wanted.end_seconds, video.duration_seconds) - wanted.start_seconds > limits.max_seconds:
            raise LimitExceeded(video.uri, "clip.max_seconds", f"longer than {limits.max_seconds:g} s")
        has_jumps = any(segment.epoch for segment in self._catalog.segments(video.row))

        def write(position: int, data: bytes) -> None:
            check()  # a child that is quick makes nobody wait
            if position + len(data) > limits.max_bytes:
                raise LimitExceeded(video.uri, "clip.max_bytes", f"larger than {limits.max_bytes} bytes")
            target.seek(position)
            target.write(data)

        with self._open_checked(video, check) as source:
            wanted = replace(wanted, has_jumps=has_jumps)
            clip = self._pool.cut(source.file, wanted, write, uri=video.uri, check=check)
        target.flush()
        return clip

    @property
    def spool(self) -> Path:
        """The folder for files without names."""
        self._spool.mkdir(mode=0o700, exist_ok=True)
        return self._spool

    @contextmanager
    def open_media(self, video: Video, check: Callable[[], None]) -> Iterator[BinaryIO]:
        """Open the file of a video on this machine, whose content is what was indexed.

        Raises:
            MediaGone: If the video is live, was uploaded or fetched, or its file is gone.
            MediaChanged: If its file has other content than was indexed.
            SourceError: If its file cannot be read, or its address may not be.
        """
        if scheme_of(video.uri) not in (None, "file"):
            raise MediaGone(video.video_id, "it was fetched from another machine")
        with self._open_checked(video, check) as source:
            yield source.file

    @contextmanager
    def _open_checked(self, video: Video, check: Callable[[], None]) -> Iterator[SourceFile]:
        with self._open(video, check) as source:
            if source.content_sha256 != video.content_sha256:
                raise MediaChanged(video.video_id, video.uri)
            yield source

    @contextmanager
    def _open(self, video: Video, check: Callable[[], None]) -> Iterator[SourceFile]:
        """Open the file of a video, and hash it, unless that was done before."""
        if video.is_live:
            raise MediaGone(video.video_id, "the media of live streams are not kept")
        if is_upload(video.uri):
            raise MediaGone(video.video_id, "uploaded files are not kept")
        if is_redacted(video.uri):
            raise MediaGone(video.video_id, "its address had secrets, which are not stored")
        with ExitStack() as stack:
            try:
                source = stack.enter_context(
                    open_source(
                        video.uri,
                        self._settings.source,
                        spool=self._spool,
                        progress=lambda done, total: check(),
                        known_hash=lambda status: self._hashes.get(_version_of(status)),
                    )
                )
            except SourceNotFound as error:
                raise MediaGone(video.video_id, f"{error.reason}: {display_uri(video.uri)}") from error
            except SourceUnavailable as error:
                if scheme_of(video.uri) in (None, "file"):
                    raise MediaChanged(video.video_id, video.uri) from error
                raise
            if len(self._hashes) >= MAX_KNOWN_HASHES:
                self._hashes.clear()
            self._hashes[_version_of(os.fstat(source.file.fileno()))] = source.content_sha256
            yield source


def _version_of(status: os.stat_result) -> FileVersion:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
