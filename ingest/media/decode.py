"""Decodes bytes to sampled pictures and 16 kHz sound. ingest.sandbox runs it in a child process."""

from __future__ import annotations  # av's Packet is generic for type checkers only

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, suppress
from fractions import Fraction
from typing import TYPE_CHECKING, BinaryIO, cast

import av
import numpy as np
from av.audio.stream import AudioStream
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ingest.config import DecodeConfig
from ingest.errors import DecodeError, LimitExceeded
from ingest.media.audio import AudioTrack, Sound
from ingest.media.container import (
    MediaFile,
    is_encrypted,
    is_truncated,
    open_container,
    read_end,
    refuse_tiles,
)
from ingest.media.damage import Damage
from ingest.media.info import read_info, read_pixel_aspect
from ingest.media.jumps import DatedPacket, JumpFilter
from ingest.media.last_picture import PicturesEnd
from ingest.media.picture import PictureMaker
from ingest.media.start import FileStart
from ingest.media.still.kinds import HEAD_BYTES, may_be_still
from ingest.media.still.limits import check_pixels
from ingest.media.still.png import defuse, repair_exif
from ingest.media.timeline import Epoch, Timeline
from ingest.media.tracks.choice import TrackChooser, find_partly_decodable_kinds, find_undecodable_kinds
from ingest.media.tracks.packets import PacketReader
from ingest.media.tracks.scan import Kind
from ingest.media.video import Picture, VideoTrack
from ingest.subtitles.tracks import SubtitleTracks
from ingest.values import SAMPLE_RATE_HZ, AudioBlock, ChooseSound, Decoded, DecodeSummary, MediaInfo, SubtitleTrack

if TYPE_CHECKING:
    from ingest.media.profile import ColourProfile  # loads LittleCMS, which videos do not need

MAX_WAITING_SECONDS = 600  # of sound of a chunk held until the first picture, 38 MB; then the sound sets media time
STILL_FORMATS = frozenset({"jpeg_pipe", "png_pipe", "tiff_pipe", "bmp_pipe", "webp_pipe"})  # FFmpeg's demuxers


def decode(
    file: BinaryIO,
    *,
    uri: str,
    config: DecodeConfig,
    on_progress: Callable[[], None] = lambda: None,
    choose_sound: ChooseSound | None = None,
) -> Iterator[Decoded]:
    """Decode one input from its first byte.

    Yields MediaInfo, then Frame and AudioBlock roughly in order of time, then DecodeSummary.

    Args:
        file: Open for reading; a pipe works for formats that need no seeking.
        on_progress: Called at each read and each packet.
        choose_sound: As for DecodePool.decode().
    Raises:
        DecodeError: If it is not media, or nothing of it decodes.
        LimitExceeded: If it exceeds a limit of the config.
    """
    media = MediaFile(file, on_progress)
    try:
        profile = None
        if may_be_still(_read_head(media)):
            from ingest.media.still.photo import decode_photo, read_header  # loads libraries that videos do not need

            items = decode_photo(media, uri=uri, config=config, on_progress=on_progress)
            if items is not None:
                yield from items
                return
            profile = read_header(media, uri, config)
            media = defuse(media, uri)
        yield from _decode_tracks(media, uri, config, on_progress, choose_sound, profile)
    except MemoryError as error:
        raise LimitExceeded(
            uri, "max_memory_bytes", f"decoding needs more than {config.max_memory_bytes} bytes of memory"
        ) from error
    except OSError as error:
        raise DecodeError(uri, f"reading it failed ({error.strerror or error})") from error


def read_beginning(
    media: MediaFile, uri: str, config: DecodeConfig, on_progress: Callable[[], None]
) -> tuple[Fraction, MediaInfo]:
    """Decode the beginning of a seekable file; return the container's time at media time zero, and its facts.

    Raises:
        DecodeError: If it is not media, or nothing of it decodes.
        LimitExceeded: If it exceeds a limit of the config.
    """
    decoding = _Decoding(media, uri, config, on_progress, TrackChooser(media.view(), uri, config), None)
    info: MediaInfo | None = None
    with closing(decoding.run()) as items:
        for item in items:
            info = item if isinstance(item, MediaInfo) else info
            if info is not None and decoding.zero is not None:
                break
    assert info is not None  # without it, `run` raises
    return decoding.zero or Fraction(0), info


def _read_head(media: MediaFile) -> bytes:
    if not media.seekable():
        return b""
    media.seek(0)
    return media.read(HEAD_BYTES)


def _decode_tracks(
    media: MediaFile,
    uri: str,
    config: DecodeConfig,
    on_progress: Callable[[], None],
    choose_sound: ChooseSound | None,
    profile: ColourProfile | None,
) -> Iterator[Decoded]:
    """Decode by FFmpeg; a PNG of which nothing decodes, once more with its EXIF data repaired."""
    chooser = TrackChooser(media, uri, config, choose_sound)
    try:
        yield from _Decoding(media, uri, config, on_progress, chooser, profile).run()
    except DecodeError:
        for repaired in repair_exif(media):
            with suppress(DecodeError):
                yield from _Decoding(repaired, uri, config, on_progress, chooser, profile).run()
                return
        raise


class _Decoding:
    """One pass over one input."""

    def __init__(
        self,
        file: MediaFile,
        uri: str,
        config: DecodeConfig,
        on_progress: Callable[[], None],
        chooser: TrackChooser,
        profile: ColourProfile | None,
    ) -> None:
        self._file, self._uri, self._config, self._on_progress = file, uri, config, on_progress
        self._chooser = chooser
        self._maker = PictureMaker(config, profile)
        self._waiting: list[Sound] = []  # sound of epochs whose media time is not known yet
        self._info_frame: VideoFrame | None = None
        self._has_info = False
        self._frame_count = 0
        self._damage = Damage()
        self._pictures_end = PicturesEnd()
        self._end = Fraction(0)  # media time at which the last picture or sound ends
        self._sound_end = Fraction(0)
        self._left: set[Stream] = set()  # streams whose tracks went on with others
        self._ends_damaged = False  # whether the last packet read is corrupt or unreadable

    @property
    def zero(self) -> Fraction | None:
        """The container's time at media time zero, once `run` yields; None: it is not known yet."""
        first = self._timeline.first
        return first.origin if first is not None else None

    def run(self) -> Generator[Decoded]:
        with ExitStack() as stack:
            container = stack.enter_context(open_container(self._file, self._uri, self._config))
            self._container = container
            refuse_tiles(container, self._uri)
            self._video_stream, self._audio_stream = self._chooser.choose(container)
            clock = self._config.clock
            self._timeline = Timeline(clock, keeps_gaps=clock == "media", declared_end=read_end(container))
            self._jumps = JumpFilter(self._timeline)
            packets = self._packets = stack.enter_context(
                PacketReader(container, self._file, self._uri, self._config, on_error=self._note_unreadable)
            )
            self._video_stream = cast("VideoStream | None", packets.add("video", self._video_stream))
            self._audio_stream = cast("AudioStream | None", packets.add("audio", self._audio_stream))
            if self._video_stream is None and self._audio_stream is None:
                has_tracks = bool(find_undecodable_kinds(container))
                what = "there is no decoder for what is inside" if has_tracks else "no picture or sound inside"
                raise DecodeError(self._uri, what)
            self._video = self._open_video()
            self._audio = AudioTrack(self._audio_stream, self._damage) if self._audio_stream is not None else None
            self._start = FileStart(self._video_stream, self._audio_stream)
            self._subtitles = SubtitleTracks(container, self._file, self._uri, self._config)
            timed = self._timed_packets(packets)
            for packet in timed if clock == "source" else self._jumps.filter(timed):
                yield from self._decode_packet(packet)
            yield from self._finish()

    def _open_video(self) -> VideoTrack | None:
        stream = self._video_stream
        if stream is None:
            return None
        self._prepare(stream)
        if not self._config.decode_video:
            return None
        return VideoTrack(
            stream,
            self._config.sampling,
            self._damage,
            keeps_first=self._config.clock == "media",
            check=self._check,
        )

    def _prepare(self, stream: VideoStream) -> None:
        self._check_size(stream.width, stream.height)
        stream.codec_context.thread_type = "AUTO"
        stream.codec_context.thread_count = 1

    def _check(self, frame: VideoFrame) -> None:
        self._on_progress()
        self._check_size(frame.width, frame.height)
        if self._info_frame is None:
            self._info_frame = frame

    def _check_size(self, width: int, height: int) -> None:
        is_still = self._container.format.name in STILL_FORMATS
        most = self._config.max_still_pixels if is_still else self._config.max_pixels
        check_pixels(self._uri, (width, height), most)

    def _note_unreadable(self) -> None:
        current = self._timeline.current
        self._damage.note(current, current.end if current is not None else None)
        self._ends_damaged = True

    def _timed_packets(self, packets: PacketReader) -> Iterator[DatedPacket]:
        checked: set[int] = set()  # numbers of streams
        for track, packet in packets.read():
            self._on_progress()
            if track.number not in checked:
                checked.add(track.number)
                if is_encrypted(packet):
                    raise DecodeError(self._uri, "it is encrypted")
            base = track.base
            if base is None:
                continue
            if track.kind == "video" and self._video is not None and self._video.is_shown_in_order:
                packet.pts = packet.dts
            if self._audio is not None and self._audio.is_untimed and packet.stream is self._audio_stream:
                now = self._audio.next_time
                yield DatedPacket(packet=packet, stream=track.number, base=base, pts=now, dts=now, duration=None)
                continue
            frame_count, error_count = self._decoded_count(track.kind), self._damage.count
            pts = track.to_seconds(packet.pts)
            dts = pts if packet.dts == packet.pts else track.to_seconds(packet.dts)
            yield DatedPacket(packet, track.number, base, pts, dts, track.duration_of(packet), track.before)
            track.note(
                has_decoded=self._decoded_count(track.kind) > frame_count, has_failed=self._damage.count > error_count
            )

    def _decoded_count(self, kind: Kind) -> int:
        track = self._video if kind == "video" else self._audio
        return track.frame_count if track is not None else 0

    def _follow(self, stream: Stream) -> Iterator[Decoded]:
        """Go on with another stream in the track of its kind."""
        if isinstance(stream, AudioStream) and self._audio is not None and self._audio_stream is not None:
            self._left.add(self._audio_stream)
            for sound in self._audio.follow(stream):
                yield from self._yield_sound(sound)
            self._audio_stream = stream
        elif isinstance(stream, VideoStream) and self._video_stream is not None:
            self._left.add(self._video_stream)
            self._prepare(stream)
            if self._video is not None:
                for picture in self._video.follow(stream):
                    yield from self._yield_frame(picture)
            self._video_stream = stream

    def _decode_packet(self, timed: DatedPacket) -> Iterator[Decoded]:
        packet, pts, dts, duration = timed.packet, timed.pts, timed.dts, timed.duration
        stream = packet.stream
        if stream not in (self._video_stream, self._audio_stream):
            if stream in self._left:
                return  # it was held back for too long
            yield from self._follow(stream)
            if timed.before is not None:
                self._timeline.go_on(timed.before, timed.stream)
        has_no_pts = self._video is not None and stream is self._video_stream and self._video.lacks_pts
        epoch = self._timeline.place(timed.stream, dts=dts, pts=None if has_no_pts else pts, duration=duration)
        if epoch is None:
            # No packet had a timestamp: raw streams begin at zero.
            epoch = self._timeline.place(timed.stream, dts=Fraction(0), pts=Fraction(0), duration=None)
            assert epoch is not None
        self._ends_damaged = packet.is_corrupt
        if stream is self._video_stream and pts is not None:
            self._pictures_end.note(epoch, pts, duration)
        if stream is self._audio_stream:
            assert self._audio is not None
            for sound in self._audio.feed(cast("Packet[AudioStream]", packet), epoch):
                yield from self._yield_sound(sound)
        elif self._video is None:
            if epoch.first_picture is None and packet.is_keyframe and pts is not None:
                epoch.first_picture = pts  # with sound only, pictures still set media time
                if epoch.clock == "source":
                    epoch.set_origin(pts)
        elif not self._start.hold(timed, epoch, has_pts=not has_no_pts):
            yield from self._feed_picture(timed, epoch)
        self._start.settle(epoch)
        for held in self._start.release():
            yield from self._feed_picture(*held)

    def _feed_picture(self, timed: DatedPacket, epoch: Epoch) -> Iterator[Decoded]:
        assert self._video is not None
        packet = cast("Packet[VideoStream]", timed.packet)
        for picture in self._video.feed(packet, epoch, pts=timed.pts, dts=timed.dts, duration=timed.duration):
            yield from self._yield_frame(picture)

    def _finish(self) -> Iterator[Decoded]:
        if self._audio is not None:
            for sound in self._audio.finish():
                yield from self._yield_sound(sound)
        for held in self._start.release(is_last=True):
            yield from self._feed_picture(*held)
        if self._video is not None:
            for picture in self._video.finish():
                yield from self._yield_frame(picture)
        if self._waiting:
            yield from self._yield_waiting_sound()
        if not self._has_decoded() and (self._config.decode_video or self._audio):
            raise DecodeError(self._uri, "no picture or sound in it decodes")
        yield from self._yield_info()
        first, current = self._timeline.first, self._timeline.current
        if current is not None and current.origin is not None:
            self._extend_to(current.to_media(current.end))  # packets that were not decoded count too
        last = current.end if current is not None and current.index == 0 else None
        yield DecodeSummary(
            duration_seconds=float(self._end),
            epoch_count=current.index + 1 if current is not None else 1,
            frame_count=self._frame_count,
            error_count=self._damage.count,
            truncated=self._ends_damaged or is_truncated(self._container, self._file, last),
            zero_seconds=float(first.origin or 0) if first is not None else 0.0,
            start_seconds=float(first.first or 0) if first is not None else 0.0,
            pictures_end_seconds=self._pictures_end.to_media(current) if self._frame_count else 0.0,
            damaged=self._damage.spans(),
            unfollowed_count=self._packets.unfollowed_count,
            mended_count=self._jumps.mended_count,
            undecodable_kinds=find_undecodable_kinds(self._container),
            partly_decodable_kinds=find_partly_decodable_kinds(self._container),
        )

    def _has_decoded(self) -> bool:
        if self._config.clock == "source" and self._video is not None and self._video.frame_count:
            return True  # a chunk can lie between two ticks
        return self._frame_count > 0 or self._sound_end > 0

    def _yield_info(self) -> Iterator[MediaInfo | SubtitleTrack]:
        if self._has_info:
            return
        self._has_info = True
        yield read_info(self._container, self._video_stream, self._audio_stream, self._info_frame)
        first = self._timeline.first
        yield from self._subtitles.decode(first.origin or Fraction(0) if first is not None else Fraction(0))

    def _yield_frame(self, picture: Picture) -> Iterator[Decoded]:
        yield from self._yield_info()
        yield from self._yield_waiting_sound()
        assert self._video_stream is not None
        try:
            made = self._maker.make(picture.frame, read_pixel_aspect(self._video_stream))
        except av.error.FFmpegError as error:  # a pixel format that libswscale cannot read
            if isinstance(error, MemoryError):
                raise
            self._damage.note()
            return
        self._frame_count += 1
        self._extend_to(picture.pts)
        yield made.to_frame(picture.epoch.index, float(picture.pts))

    def _yield_sound(self, sound: Sound) -> Iterator[Decoded]:
        if sound.epoch.origin is None:
            self._waiting.append(sound)
            seconds = sum(len(waiting.samples) for waiting in self._waiting) / SAMPLE_RATE_HZ
            if self._video_stream is not None and (sound.epoch.clock == "media" or seconds < MAX_WAITING_SECONDS):
                return
            yield from self._yield_waiting_sound()
            return
        if self._waiting:  # undecoded pictures set media time without a call of _yield_frame()
            yield from self._yield_waiting_sound()
        yield from self._yield_info()
        start, samples = sound.epoch.to_media(sound.start), sound.samples
        # Cut sound before the first picture, and sound that overlaps earlier sound.
        begin = max(sound.epoch.base, self._sound_end)
        if start < begin:
            cut = min(len(samples), round((begin - start) * SAMPLE_RATE_HZ))
            samples, start = samples[cut:], max(begin, start + Fraction(cut, SAMPLE_RATE_HZ))
        if sound.epoch.limit is not None:
            samples = samples[: max(0, round((sound.epoch.limit - start) * SAMPLE_RATE_HZ))]
        if not len(samples):
            return
        self._sound_end = start + Fraction(len(samples), SAMPLE_RATE_HZ)
        self._extend_to(self._sound_end)
        yield AudioBlock(
            epoch=sound.epoch.index, start_seconds=float(start), samples=np.ascontiguousarray(samples, dtype=np.float32)
        )

    def _yield_waiting_sound(self) -> Iterator[Decoded]:
        """Yield sound that waited for media time. Without a picture, the sound itself sets media time."""
        waiting, self._waiting = self._waiting, []
        current = self._timeline.current
        for sound in waiting:
            if sound.epoch.origin is None and sound.epoch is current:
                sound.epoch.set_origin(sound.start)
            if sound.epoch.origin is not None:
                yield from self._yield_sound(sound)

    def _extend_to(self, media: Fraction) -> None:
        self._end = max(self._end, media)
        first = self._timeline.first
        begin = first.to_media(first.start) if first is not None and first.origin is not None else Fraction(0)
        if self._end - max(Fraction(0), begin) > self._config.max_duration_seconds:
            raise LimitExceeded(
                self._uri, "max_duration_seconds", f"longer than {self._config.max_duration_seconds:g} s"
            )
