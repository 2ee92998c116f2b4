"""A pool of child processes that decode untrusted bytes: a crash, hang or bomb fails one input, never the caller."""

import contextlib
import io
import logging
import os
import queue
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import BinaryIO

from ingest.config import DecodeConfig
from ingest.errors import DecodeError, DecoderCrashed, DecoderTimeout, LimitExceeded, SpanOutside
from ingest.media.still.kinds import HEAD_BYTES, may_be_still
from ingest.sandbox import protocol
from ingest.sandbox.process import CPU_GRACE_SECONDS, ChildProcess
from ingest.values import ChooseSound, Clip, Cut, Decoded, DecodeSummary, SubtitleKind, SubtitleTrack

logger = logging.getLogger(__name__)

SUBTITLE_CPU_SECONDS = 20.0  # of processor time to read a subtitle file; one of 8 MiB takes some seconds


@dataclass(slots=True)
class _Loan:
    """A child that works on an input."""

    child: ChildProcess
    is_reusable: bool = False  # whether it can take another input afterwards


class DecodePool:
    """Decodes in child processes. Several threads may use it.

    Args:
        workers: How many inputs are decoded at once; further ones wait for a free child.
    """

    def __init__(self, config: DecodeConfig, *, workers: int) -> None:
        if workers <= 0:
            raise ValueError(f"workers must be > 0, got {workers}")
        self._config = config
        self._idle: queue.LifoQueue[ChildProcess | None] = queue.LifoQueue()  # None: a slot whose child is not started
        for _ in range(workers):
            self._idle.put(None)
        self._lock = threading.Lock()
        self._children: set[ChildProcess] = set()
        self._is_closed = False
        # Linux ends a child when the *thread* that started it ends, so one lasting thread starts them all.
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode-starter")

    def decode(
        self,
        file: BinaryIO | int,
        *,
        uri: str,
        config: DecodeConfig | None = None,
        choose_sound: ChooseSound | None = None,
        max_cpu_seconds: float | None = None,
        subtitle_file: Mapping[str, str | None] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> Iterator[Decoded]:
        """Decode one input from its first byte, in a child. Work begins when the first item is requested.

        Closing the iterator early stops the work. A slow consumer makes the child wait.

        Args:
            file: A file object or descriptor, open for reading. The caller closes it afterwards.
            uri: The input's name in errors.
            config: Replaces the pool's config; a max_memory_bytes above the pool's means the pool's.
            choose_sound: Called, before the first item, where several sound tracks decode, with what is heard of them
                in order of rank; returns the place of the one to hear. None: the first is heard.
            max_cpu_seconds: Bound of the processor time, in whole seconds, which a loaded machine does not use up
                sooner. None: somewhat more than max_wall_seconds.
            subtitle_file: The input is a subtitle file; see read_subtitles().
            check: Called some times a second while the caller waits; what it raises stops the work.
        Returns:
            MediaInfo, then SubtitleTracks if the config asks for them, then Frame and AudioBlock roughly in order of
            time, then DecodeSummary. Of a subtitle file, one SubtitleTrack.
        Raises:
            DecodeError: If the bytes are not media that decodes.
            DecoderCrashed: If the child died.
            DecoderTimeout: If the child made no progress for max_stall_seconds, or was busy for max_wall_seconds or for
                max_cpu_seconds.
            LimitExceeded: If the input exceeds a limit of the config.
        """
        config = config or self._config
        if max_cpu_seconds is None:
            max_cpu_seconds = config.max_wall_seconds + CPU_GRACE_SECONDS
        with _open_descriptor(file) as descriptor:
            is_still = may_be_still(_read_head(descriptor))
            with self._borrow(uri, check, decodes_stills=is_still) as loan:
                items = loan.child.decode(
                    descriptor, uri, config, choose_sound, max_cpu_seconds, check, subtitle_file=subtitle_file
                )
                with closing(items):
                    for item in items:
                        loan.is_reusable = isinstance(item, DecodeSummary) or subtitle_file is not None
                        yield item

    def read_subtitles(
        self,
        file: BinaryIO | int,
        *,
        suffix: str,
        name: str,
        language: str | None,
        kind: SubtitleKind,
        check: Callable[[], None] = lambda: None,
    ) -> SubtitleTrack:
        """Read a subtitle file in a child, as its text is untrusted too; see ingest.subtitles.text_file.

        Raises:
            DecoderCrashed: If the child died.
            DecoderTimeout: If the child was busy for too long.
        """
        named = {"suffix": suffix, "name": "", "language": language, "kind": kind}
        (track,) = self.decode(file, uri=name, max_cpu_seconds=SUBTITLE_CPU_SECONDS, subtitle_file=named, check=check)
        assert isinstance(track, SubtitleTrack)  # the child's items are checked
        return replace(track, name=name)

    def cut(
        self,
        file: BinaryIO | int,
        wanted: Cut,
        write: Callable[[int, bytes], None],
        *,
        uri: str,
        config: DecodeConfig | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> Clip:
        """Make a clip of a part of one input, in a child, as an MP4 file (ingest.clip.cut).

        Args:
            file: As for decode(), seekable.
            write: Takes the position of a piece in the MP4 file, and its bytes, at most PIECE_BYTES. A later piece may
                replace what an earlier one wrote. What it raises stops the work.
            check: Called some times a second while the caller waits; what it raises stops the work.
        Raises:
            DecodeError: If the bytes are not media, or what they hold can be neither copied nor decoded.
            DecoderCrashed: As decode().
            DecoderTimeout: As decode().
            SpanOutside: If the media has nothing at the wanted time.
            LimitExceeded: If the input exceeds a limit of the config.
        """
        config = config or self._config
        with _open_descriptor(file) as descriptor, self._borrow(uri, check) as loan:
            clip = loan.child.cut(descriptor, uri, config, {"cut": asdict(wanted)}, write, check)
            loan.is_reusable = True
            return clip

    @contextlib.contextmanager
    def _borrow(self, uri: str, check: Callable[[], None], *, decodes_stills: bool = False) -> Iterator["_Loan"]:
        """Yield a child; afterwards it waits for the next input if it is as good as new, else it ends."""
        child = self._take_slot(check)
        loan: _Loan | None = None
        try:
            if self._is_closed:
                raise RuntimeError("the decode pool is closed")
            if child is None or not child.is_alive() or (decodes_stills and not child.decodes_stills):
                self._forget(child)
                child = None
                child = self._start(uri, decodes_stills)
            loan = _Loan(child)
            yield loan
        except (DecoderCrashed, DecoderTimeout) as error:
            logger.warning("decoder replaced uri=%s reason=%s", uri, error.reason)
            raise
        except (DecodeError, SpanOutside):
            if loan is not None:
                loan.is_reusable = True
            raise
        except LimitExceeded as error:
            if loan is not None:
                loan.is_reusable = error.limit != "max_memory_bytes"  # libraries may be inconsistent after it
            raise
        finally:
            if loan is None or not loan.is_reusable or self._is_closed:
                self._forget(child)
                child = None
            self._idle.put(child)

    def missing_walls(self) -> dict[str, str]:
        """Start a child; return which walls around it this machine lacks, and why (ingest.sandbox.confinement).

        Raises:
            DecoderCrashed: If the child does not start.
        """
        child = self._start("", False)
        self._forget(child)
        return child.missing_walls

    def close(self) -> None:
        """End all children. Running decodes fail with DecoderCrashed."""
        with self._lock:
            self._is_closed = True
            children = list(self._children)
        for child in children:
            self._forget(child)
        self._starter.shutdown(wait=True)

    def __enter__(self) -> "DecodePool":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _take_slot(self, check: Callable[[], None]) -> "ChildProcess | None":
        """Wait for a child that is idle, or for a slot whose child is not started."""
        while True:
            try:
                return self._idle.get(timeout=protocol.CHECK_SECONDS)
            except queue.Empty:
                check()

    def _start(self, uri: str, decodes_stills: bool) -> "ChildProcess":
        child: ChildProcess = self._starter.submit(ChildProcess, decodes_stills, self._config.max_memory_bytes).result()
        try:
            with self._lock:
                if self._is_closed:  # while the child started: close() did not see it
                    raise RuntimeError("the decode pool is closed")
                self._children.add(child)
            child.wait_ready(uri)
        except BaseException:
            self._forget(child)
            raise
        return child

    def _forget(self, child: "ChildProcess | None") -> None:
        if child is None:
            return
        with self._lock:
            self._children.discard(child)
        child.kill()


def _read_head(descriptor: int) -> bytes:
    try:
        return os.pread(descriptor, HEAD_BYTES, 0)
    except OSError:  # a pipe, whose bytes the child alone reads
        return b""


@contextlib.contextmanager
def _open_descriptor(file: BinaryIO | int) -> Iterator[int]:
    """Yield a descriptor of a file. Bytes that exist only in memory are copied to an unlinked temporary file."""
    if isinstance(file, int):
        yield file
        return
    try:
        descriptor = file.fileno()
    except (AttributeError, io.UnsupportedOperation):
        with tempfile.TemporaryFile() as copy:
            file.seek(0)
            while data := file.read(1 << 20):
                copy.write(data)
            copy.flush()
            yield copy.fileno()
    else:
        yield descriptor
