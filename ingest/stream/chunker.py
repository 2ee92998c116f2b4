"""Cuts a source into the chunks of a stream: a file, HTTP, HLS, RTSP, UDP or standard input, opened by FFmpeg.

A source is *live* if it comes over a network and announces no duration (RTMP announces a duration of 0). When a live
source fails or ends, it is connected again with backoff, in the same session, until `stop` is set; only a failure of
the first connection is an error. An HLS playlist that has got an end since ends the stream, and what a playlist lists
again is left out. Any other source ends at its end. If a file over HTTP breaks off, FFmpeg asks the server for the
rest. If that fails too, the stream ends and the error is raised: reading again from the start would repeat everything.

A server may send the sound of a broadcast at once, and its pictures from the next keyframe on. The sound is published
alone until pictures come; then the source is connected again, with more time to look for both.

The operator chooses the source, so no URI policy applies. Packets are copied without decoding, except for the first
picture of an MP4 or Matroska file, which shows whether the container rotates it.
"""

from __future__ import annotations  # av's Packet is generic for type checkers only

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import ceil

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Stream
from av.video.stream import VideoStream

from ingest.config import DecodeConfig, PublishConfig
from ingest.errors import DecodeError, IngestError, SourceError, SourceNotFound, SourceUnavailable, SourceUnreadable
from ingest.media.container import (
    MISSING_SECONDS,
    MISSING_SHARE,
    NOT_MEDIA,
    WITH_DURATION,
    MediaFile,
    explain_unreadable,
    is_shown_in_order,
    read_duration,
    refuse_tiles,
)
from ingest.media.orientation import Orientation
from ingest.media.still.png import hide_profile
from ingest.media.tracks.choice import TrackChooser, choose_audible, choose_video, rank_audio
from ingest.source.source import display_uri, scheme_of
from ingest.stream.listed import HLS, ListedAgain
from ingest.stream.mux import EARLY_SECONDS
from ingest.stream.remux import ChunkCutter, ChunkMedia
from ingest.values import Chunk

MAX_READ_ERROR_COUNT = 100  # damaged places of one source that are skipped
MAX_SLEEP_SECONDS = 0.5  # between two looks at `stop`
RTSP = "rtsp"  # FFmpeg's name of the format
ROTATING_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")  # containers that can rotate pictures
STANDARD_INPUT = "-"
# How long to wait for pictures where sound came before them, in seconds of media: keyframes are rarely further apart.
LOOK_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkHooks:
    """Callbacks of cut_chunks(), and its clocks."""

    notes: Callable[[str], None] = lambda line: None  # gets a line about each omission, oddity or lost connection
    # Called after each chunk with the seconds of media, the chunks and the bytes so far.
    progress: Callable[[float, int, int], None] = lambda seconds, chunk_count, byte_count: None
    now: Callable[[], float] = time.time  # the wall clock, in seconds since 1970
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def cut_chunks(
    source: str,
    *,
    collection: str,
    stream_id: str,
    session: int,
    config: PublishConfig | None = None,
    recorded_time: float | None = None,
    stop: threading.Event | None = None,
    hooks: ChunkHooks | None = None,
) -> Iterator[Chunk]:
    """Cut a source into chunks, numbered from 0. The last chunk has no media and ends the stream.

    Args:
        source: A path, a URL, or "-" for standard input.
        recorded_time: Wall clock of the source's first picture, in seconds since 1970. Without it, a live source and
            standard input are dated by their arrival, a file in real time from now on, and any other file not at all.
        stop: Once it is set, the open chunk is yielded and the stream ends. A source that sends nothing is left after
            read_timeout_seconds.
    Raises:
        SourceError: If the source cannot be read.
        DecodeError: If it is no media, or contains nothing that can be sent.
    """
    run = _SourceRun(source, config or PublishConfig(), recorded_time, stop or threading.Event(), hooks or ChunkHooks())
    sequence = 0
    try:
        for piece in run.chunks():
            yield Chunk(
                collection=collection,
                stream_id=stream_id,
                session=session,
                sequence=sequence,
                media=piece.media,
                media_type=piece.media_type,
                start_time=run.start_time(piece),
            )
            sequence += 1
            run.report(piece, sequence)
    except IngestError:
        if sequence:
            yield Chunk(
                collection=collection, stream_id=stream_id, session=session, sequence=sequence, end_of_stream=True
            )
        raise
    yield Chunk(collection=collection, stream_id=stream_id, session=session, sequence=sequence, end_of_stream=True)


class _SourceRun:
    """One reading of a source, over all its connections."""

    def __init__(
        self, source: str, config: PublishConfig, recorded_time: float | None, stop: threading.Event, hooks: ChunkHooks
    ) -> None:
        self._source, self._config, self._stop, self._hooks = source, config, stop, hooks
        self._name = display_uri(source)
        self._recorded_time = recorded_time
        scheme = scheme_of(source)
        self._is_network = scheme is not None and scheme not in ("file", "pipe")
        self._is_live = False
        self._is_connected = False
        self._has_late_pictures = False  # whether pictures have come after sound that was opened without them
        self._listed = ListedAgain()
        self._media_seconds = 0.0  # of earlier connections
        self._seconds, self._byte_count = 0.0, 0
        self._started: float | None = None  # monotonic time of media time zero, when pacing a file

    def chunks(self) -> Iterator[ChunkMedia]:
        """Yield the chunks of all connections."""
        backoff, has_chunk = self._config.min_backoff_seconds, False
        while True:
            is_over = False
            try:
                with self._connect() as container:
                    try:
                        for piece in self._read(container):
                            backoff, has_chunk = self._config.min_backoff_seconds, True
                            yield piece
                    except SourceUnavailable:  # RTMP servers hang up at the end of a recording
                        if self._is_live or self._missing_seconds(container) != 0:
                            raise
                    self._check_length(container)
                    is_over = not self._is_live or (container.format.name == HLS and bool(container.duration))
                problem = "it ended"
            except IngestError as error:
                if not (self._is_live and self._is_connected):
                    raise
                problem = error.reason
            if self._stop.is_set():
                return
            if is_over:
                break
            self._hooks.notes(f"{problem}, connecting again in {backoff:g} s: {self._name}")
            self._wait_until(self._hooks.monotonic() + backoff)
            if self._stop.is_set():
                return
            backoff = min(2 * backoff, self._config.max_backoff_seconds)
        if not has_chunk:
            raise DecodeError(self._name, "it contains no picture or sound that can be sent")

    def start_time(self, piece: ChunkMedia) -> float | None:
        """Return the wall clock of a chunk's beginning; None if it is unknown."""
        if self._is_live:
            return piece.arrived
        if self._recorded_time is not None:
            return self._recorded_time + piece.start_seconds
        return piece.arrived if self._source == STANDARD_INPUT else None

    def report(self, piece: ChunkMedia, chunk_count: int) -> None:
        """Report a chunk that the caller has taken."""
        self._seconds = max(self._seconds, self._media_seconds + piece.end_seconds)
        self._byte_count += len(piece.media)
        self._hooks.progress(self._seconds, chunk_count, self._byte_count)

    @contextmanager
    def _connect(self) -> Iterator[InputContainer]:
        options = {"fflags": "+genpts"}
        if self._is_network:
            options |= {"rtsp_transport": self._config.rtsp_transport} if self._source.startswith("rtsp") else {}
            # If a file over HTTP breaks off, FFmpeg asks for the rest.
            options |= {"reconnect": "1", "reconnect_delay_max": "10"} if self._source.startswith("http") else {}
        open_seconds = self._config.open_timeout_seconds
        if self._has_late_pictures:
            options |= {
                "analyzeduration": str(LOOK_SECONDS * 1_000_000)
            }  # ends as soon as pictures and sound are there
            open_seconds += LOOK_SECONDS
        timeout = (open_seconds, self._config.read_timeout_seconds) if self._is_network else None
        if not self._is_network and self._source != STANDARD_INPUT and not os.path.exists(_path(self._source)):
            raise SourceNotFound(self._name, "no such file", "check the path")
        name = "pipe:0" if self._source == STANDARD_INPUT else self._source
        try:
            container = av.open(name, options=options, timeout=timeout, metadata_errors="replace")
        except (av.error.FFmpegError, OSError) as error:
            raise self._convert_error(error) from error
        with container:
            if not self._is_connected:
                self._is_live = self._is_network and not container.duration
                self._is_connected = True
            yield container

    def _read(self, container: InputContainer) -> Iterator[ChunkMedia]:
        """Yield the chunks of one connection. If it ends in an error, yield the open chunk before raising it."""
        refuse_tiles(container, self._name)
        video, audio = self._choose_tracks(container)
        streams: list[Stream] = [s for s in (video, audio) if s is not None]
        if not streams:
            raise DecodeError(self._name, "no picture or sound inside")
        for stream in container.streams:
            if stream not in streams:
                stream.discard = Discard.all
        first: list[Packet[Stream]] = []
        packets = self._packets(container, streams)
        is_turned = (
            video is not None and container.format.name in ROTATING_FORMATS and _is_turned(packets, video, first)
        )
        cutter = ChunkCutter(
            video,
            audio,
            uri=self._name,
            config=self._config,
            is_turned=is_turned,
            shift_seconds=_shift_seconds(container),
            notes=self._hooks.notes,
            now=self._hooks.now,
        )
        self._media_seconds, self._started = self._seconds, None
        self._listed.begin(container)
        in_order = video if video is not None and is_shown_in_order(video) else None
        problem: SourceError | None = None
        try:
            for part in (first, packets):
                for packet in part:
                    if self._listed.is_repeated(packet):
                        continue
                    if packet.stream is in_order:
                        packet.pts = packet.dts
                    for piece in cutter.push(packet):
                        self._pace(piece)
                        yield piece
        except SourceError as error:
            problem = error
        for piece in cutter.finish():
            self._pace(piece)
            yield piece
        if problem is not None:
            raise problem

    def _choose_tracks(self, container: InputContainer) -> tuple[VideoStream | None, AudioStream | None]:
        """Choose once for the whole source. Only a file can be looked at first."""
        if not self._is_network and self._source != STANDARD_INPUT and os.path.isfile(_path(self._source)):
            with open(_path(self._source), "rb") as file, suppress(DecodeError):  # a playlist, which names other files
                media = MediaFile(file, lambda: None)
                return TrackChooser(media, self._name, DecodeConfig(), choose_audible).choose(container)
        return choose_video(container), next(iter(rank_audio(container)), None)

    def _packets(self, container: InputContainer, streams: list[Stream]) -> Iterator[Packet[Stream]]:
        """Read the streams until they end or `stop` is set; skip damaged places."""
        is_sound = self._is_live and not any(isinstance(stream, VideoStream) for stream in streams)
        for error_count in range(MAX_READ_ERROR_COUNT):
            if error_count == 1:
                self._hooks.notes("damaged places are left out")
            try:
                for packet in container.demux(streams):
                    if self._stop.is_set():
                        return
                    if is_sound and _has_new_pictures(container):
                        self._has_late_pictures = True
                        raise SourceUnavailable(self._name, "pictures have come, and it was opened for sound alone")
                    if packet.size:  # an empty packet marks the end
                        yield packet
                return
            except av.error.FFmpegError as error:
                if isinstance(error, MemoryError):
                    raise
                if self._is_network and not isinstance(error, av.error.InvalidDataError):
                    raise self._convert_error(error) from error
            except IndexError:  # raised by PyAV at the end of a file in which a stream appeared after opening
                return

    def _check_length(self, container: InputContainer) -> None:
        """Report a source that ends before its announced end: some demuxers take a broken connection for the end."""
        missing = self._missing_seconds(container)
        if not missing or self._is_live or self._stop.is_set():
            return
        reason = f"it broke off after {self._seconds:.0f} of {self._seconds + missing:.0f} s"
        if self._is_network and container.format.name in WITH_DURATION:
            raise SourceUnavailable(self._name, reason)
        self._hooks.notes(reason)

    def _missing_seconds(self, container: InputContainer) -> float | None:
        """Return how much is missing of the announced duration: 0 if nothing worth a word; None: none is announced."""
        announced = read_duration(container)
        if announced is None:
            return None
        missing = announced - self._seconds
        return missing if missing > max(MISSING_SECONDS, MISSING_SHARE * announced) else 0.0

    def _pace(self, piece: ChunkMedia) -> None:
        """With `realtime`, wait until a chunk would have been played."""
        if not self._config.realtime or self._is_live or self._stop.is_set():
            return
        if self._started is None:
            self._started = self._hooks.monotonic()
            if self._recorded_time is None:
                self._recorded_time = self._hooks.now()
        self._wait_until(self._started + piece.end_seconds)

    def _wait_until(self, time_seconds: float) -> None:
        while not self._stop.is_set() and (left := time_seconds - self._hooks.monotonic()) > 0:
            self._hooks.sleep(min(left, MAX_SLEEP_SECONDS))

    def _convert_error(self, error: Exception) -> IngestError:
        if isinstance(error, FileNotFoundError | av.error.HTTPNotFoundError):
            return SourceNotFound(self._name, "it does not exist", "check the path or the URL")
        if isinstance(error, PermissionError | av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError):
            return SourceUnreadable(self._name, "permission denied", "check the rights or the password")
        if isinstance(error, IsADirectoryError):
            return SourceUnreadable(self._name, "a folder, not a file", "name a file")
        if isinstance(error, av.error.ExitError):
            return SourceUnavailable(self._name, "it does not answer")
        if isinstance(error, av.error.ProtocolNotFoundError):
            scheme = scheme_of(self._source)
            remedy = "use a build of PyAV that has it, or let a media server send the stream as RTSP or HLS"
            return SourceUnavailable(self._name, f"this build of FFmpeg has no protocol {scheme}", remedy)
        if self._is_network and not isinstance(error, av.error.InvalidDataError):
            reason = getattr(error, "strerror", None) or str(error)
            return SourceUnavailable(self._name, f"it cannot be read ({reason})")
        if self._is_network or self._source == STANDARD_INPUT:
            return DecodeError(self._name, NOT_MEDIA)
        with open(_path(self._source), "rb") as file:
            reason, _ = explain_unreadable(MediaFile(file, lambda: None))
            return DecodeError(self._name, reason)


def _shift_seconds(container: InputContainer) -> int:
    """Return how many whole seconds to add to all times, so that none is below zero."""
    early = EARLY_SECONDS if container.format.name == RTSP else 0  # its first pictures have no decoding times
    return ceil(max(0.0, early - (container.start_time or 0) / 1e6))


def _has_new_pictures(container: InputContainer) -> bool:
    """Whether pictures have come that were not there when the container was opened."""
    try:
        container.streams.best("video")
    except IndexError:  # FFmpeg's best stream is none of those that PyAV listed then
        return True
    return False


def _path(source: str) -> str:
    return source.removeprefix("file://") if scheme_of(source) == "file" else source


def _is_turned(packets: Iterator[Packet[Stream]], video: VideoStream, taken: list[Packet[Stream]]) -> bool:
    """Decode the first picture; return whether the container rotates it. The packets read go to `taken`."""
    context = video.codec_context
    for packet in packets:
        taken.append(packet)
        if packet.stream is not video:
            continue
        hide_profile(context, packet)
        try:
            frames = context.decode(packet) or context.decode(None)
        except av.error.FFmpegError:
            frames = []
        context.flush_buffers()
        return bool(frames) and Orientation.from_frame(frames[0]) != Orientation()
    return False
