"""Reads the packets of media from near a time on, with their media times."""

from __future__ import annotations  # av's Packet is generic for type checkers only

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.subtitles.stream import SubtitleStream
from av.video.stream import VideoStream

from ingest.config import DecodeConfig
from ingest.errors import DecodeError
from ingest.media.container import MediaFile, is_encrypted, is_shown_in_order, open_container, read_end
from ingest.media.decode import read_beginning
from ingest.media.jumps import DatedPacket, JumpFilter
from ingest.media.still.kinds import HEAD_BYTES, may_be_still
from ingest.media.timeline import Timeline
from ingest.media.tracks.choice import TrackChooser, rank_audio

# How far before a time reading begins, in seconds: first as little as a good index needs; None: from the beginning.
STEPS_BACK: tuple[int | None, ...] = (0, 5, 60, None)
MICROSECOND = Fraction(1, 1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaPacket:
    """A packet with its media times, in exact seconds."""

    packet: Packet[Stream]
    pts: Fraction
    dts: Fraction | None
    duration: Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracks:
    """The tracks of one opened container that a clip may take."""

    container: InputContainer
    video: VideoStream | None
    sounds: tuple[AudioStream, ...]  # the best first
    subtitles: tuple[SubtitleStream, ...]

    @property
    def anchor(self) -> Stream:
        """The track by which the container is searched: the pictures, else the first sound."""
        return self.video if self.video is not None else self.sounds[0]

    @property
    def all(self) -> tuple[Stream, ...]:
        video = (self.video,) if self.video is not None else ()
        return (*video, *self.sounds, *self.subtitles)


def lacks_pts(stream: VideoStream) -> bool:
    """Whether the container stores only when a picture is decoded, and pictures are reordered."""
    return stream.container.format.name == "avi" and not is_shown_in_order(stream)


class ClipSource:
    """One input, which is opened once for each reading.

    Args:
        has_jumps: As for ingest.values.Cut.
        on_progress: Called at each read and each packet.
    Raises:
        DecodeError: If it is a still picture, is not media, or nothing of it decodes.
        LimitExceeded: If it exceeds a limit of the config.
    """

    def __init__(
        self, file: BinaryIO, uri: str, config: DecodeConfig, *, has_jumps: bool, on_progress: Callable[[], None]
    ) -> None:
        self._media, self._uri, self._config = MediaFile(file, on_progress), uri, config
        self._has_jumps, self._on_progress = has_jumps, on_progress
        if not self._media.seekable():
            raise DecodeError(uri, "a pipe cannot be cut", "write it to a file first")
        if may_be_still(self._media.read(HEAD_BYTES)):
            raise DecodeError(uri, "a still picture has no clips")
        self.zero, self.info = read_beginning(self._media.view(), uri, config, on_progress)

    @contextlib.contextmanager
    def open(self) -> Iterator[Tracks]:
        """Open the input, and choose its tracks."""
        media = self._media.view()
        with open_container(media, self._uri, self._config) as container:
            chooser = TrackChooser(media.view(), self._uri, self._config)
            video, sound = chooser.choose(container)
            others = [stream for stream in rank_audio(container) if sound is None or stream.index != sound.index]
            sounds = (*([sound] if sound is not None else []), *others)
            if video is None and not sounds:
                raise DecodeError(self._uri, "no picture or sound inside")
            subtitles = tuple(stream for stream in container.streams.subtitles if stream.codec_context)
            yield Tracks(container=container, video=video, sounds=sounds, subtitles=subtitles)

    def read(self, tracks: Tracks, start: Fraction | None) -> Iterator[MediaPacket]:
        """Yield the packets of all tracks in the order of the file, from before a media time; None: all of them.

        Raises:
            DecodeError: If the input is encrypted.
        """
        container = tracks.container
        if start is not None and not self._has_jumps:
            self._seek(tracks, start)
        timed = self._dated_packets(container, tracks.all)
        if self._has_jumps:
            yield from self._place(timed, container)
            return
        for dated in timed:
            shown = dated.pts if dated.pts is not None else dated.dts
            if shown is None:
                continue
            yield MediaPacket(
                packet=dated.packet,
                pts=shown - self.zero,
                dts=dated.dts - self.zero if dated.dts is not None else None,
                duration=dated.duration or Fraction(0),
            )

    def steps_back(self) -> tuple[int | None, ...]:
        """Return how far before a time to begin reading, attempt by attempt."""
        return (None,) if self._has_jumps else STEPS_BACK

    def _seek(self, tracks: Tracks, start: Fraction) -> None:
        """Go to the keyframe before a media time; where the container cannot, reading begins at its beginning."""
        anchor = tracks.anchor
        base = anchor.time_base or MICROSECOND
        try:
            tracks.container.seek(int((start + self.zero) / base), stream=anchor, backward=True)
        except av.error.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise

    def _dated_packets(self, container: InputContainer, streams: tuple[Stream, ...]) -> Iterator[DatedPacket]:
        checked: set[int] = set()
        packets = container.demux(streams)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.error.FFmpegError as error:  # damaged or cut short: what came before is there
                if isinstance(error, MemoryError):
                    raise
                return
            self._on_progress()
            stream, base = packet.stream, packet.time_base
            if not packet.size:
                continue  # the mark of the end
            if stream.index not in checked:
                checked.add(stream.index)
                if is_encrypted(packet):
                    raise DecodeError(self._uri, "it is encrypted")
            if isinstance(stream, VideoStream) and is_shown_in_order(stream):
                packet.pts = packet.dts
            yield DatedPacket(
                packet,
                stream.index,
                base,
                packet.pts * base if packet.pts is not None else None,
                packet.dts * base if packet.dts is not None else None,
                packet.duration * base if packet.duration else None,
            )

    def _place(self, timed: Iterator[DatedPacket], container: InputContainer) -> Iterator[MediaPacket]:
        """Give packets the times of a file whose timestamps jump, as ingest.media.decode does."""
        timeline = Timeline("media", keeps_gaps=True, declared_end=read_end(container))
        for dated in JumpFilter(timeline).filter(timed):
            epoch = timeline.place(dated.stream, dts=dated.dts, pts=dated.pts, duration=dated.duration)
            if epoch is None:
                continue
            if epoch.origin is None:
                epoch.set_origin(self.zero)
            shown = dated.pts if dated.pts is not None else dated.dts
            if shown is None:
                continue
            yield MediaPacket(
                packet=dated.packet,
                pts=epoch.to_media(shown),
                dts=epoch.to_media(dated.dts) if dated.dts is not None else None,
                duration=dated.duration or Fraction(0),
            )
