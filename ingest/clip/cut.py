"""cut(): writes a part of a media file as an MP4 file. ingest.sandbox runs it in a child process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from typing import BinaryIO, Literal

import av
from av.container import OutputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from ingest.clip.copying import CopiedTrack, can_copy
from ingest.clip.output import ClipFile, SendPiece
from ingest.clip.pictures import EncodedPictures
from ingest.clip.plan import ClipPlan, make_plan
from ingest.clip.sound import EncodedSound
from ingest.clip.source import ClipSource, Tracks
from ingest.clip.subtitles import LineTrack, has_text
from ingest.config import DecodeConfig
from ingest.errors import DecodeError, LimitExceeded, SpanOutside
from ingest.values import Clip, Cut

MICROSECONDS = 1_000_000  # to which the times of a cut are rounded
# Reading ends when a track is this far past the end: tracks that end early must not make it read a whole film.
INTERLEAVE_SECONDS = 10
MOVIE_HZ = 90_000  # of the edit lists' durations; FFmpeg's default, a millisecond, would be heard between the tracks
PROBE_PACKETS = 200  # of a sound track that is to be encoded, to see whether it decodes

How = Literal["copied", "encoded"]


def cut(
    file: BinaryIO,
    wanted: Cut,
    send: SendPiece,
    *,
    uri: str,
    config: DecodeConfig,
    on_progress: Callable[[], None] = lambda: None,
) -> Clip:
    """Write a part of a media file as MP4.

    Tracks that MP4 players take are copied from the keyframe before the start, and an edit list has players begin
    exactly there, with the picture that is shown at that time. Other tracks are encoded anew: pictures as H.264, sound
    as AAC, subtitles as timed text. With `wanted.is_exact`, all are.

    Args:
        file: Open for reading, seekable.
        send: Takes the pieces of the MP4 file.
        on_progress: Called at each read and each packet.
    Raises:
        DecodeError: If it is not media, or what it holds can be neither copied nor decoded.
        SpanOutside: If the media has nothing at the wanted time.
        LimitExceeded: If the input exceeds a limit of the config.
    """
    start, end = (
        Fraction(round(time * MICROSECONDS), MICROSECONDS) for time in (wanted.start_seconds, wanted.end_seconds)
    )
    try:
        source = ClipSource(file, uri, config, has_jumps=wanted.has_jumps, on_progress=on_progress)
        plan = make_plan(source, start)
        return _Cutting(source, plan, start, end, wanted, uri, config).run(send)
    except MemoryError as error:
        reason = f"cutting needs more than {config.max_memory_bytes} bytes of memory"
        raise LimitExceeded(uri, "max_memory_bytes", reason) from error


class _Cutting:
    """One pass over one input, which writes one clip."""

    def __init__(
        self,
        source: ClipSource,
        plan: ClipPlan,
        start: Fraction,
        end: Fraction,
        wanted: Cut,
        uri: str,
        config: DecodeConfig,
    ) -> None:
        self._source, self._plan, self._start, self._end = source, plan, start, end
        self._wanted, self._uri, self._config = wanted, uri, config
        self._tracks: dict[int, CopiedTrack | EncodedPictures | EncodedSound | LineTrack] = {}
        self._left_out: list[str] = []
        self._last = Fraction(0)  # media time up to which there is something in the clip's span

    def run(self, send: SendPiece) -> Clip:
        target = ClipFile(send)
        with self._source.open() as tracks:
            options = {"movie_timescale": str(MOVIE_HZ), "avoid_negative_ts": "disabled", "use_editlist": "1"}
            container = av.open(target, "w", format="mp4", options=options)
            try:
                self._add_tracks(container, tracks)
                self._write(tracks)
                target.keep_tail()
                container.close()
            except (av.error.FFmpegError, ValueError) as error:
                if isinstance(error, MemoryError):
                    raise
                raise DecodeError(self._uri, f"cannot be cut ({error})", "try an exact clip") from error
            finally:
                with suppress(av.error.FFmpegError, ValueError):
                    container.close()
        length = min(self._end, self._last) - self._start
        target.finish(length if self._wanted.size is None else self._end - self._start)
        return self._describe(target.size_bytes, length)

    def _add_tracks(self, container: OutputContainer, tracks: Tracks) -> None:
        is_exact, size = self._wanted.is_exact, self._wanted.size
        if tracks.video is not None and can_copy(tracks.video) and not is_exact:
            self._add(tracks.video, CopiedTrack(container, tracks.video, self._start, self._end, self._plan))
        elif tracks.video is not None or size is not None:
            self._add(tracks.video, self._encode_pictures(container, tracks.video))
        for sound in tracks.sounds if size is None else tracks.sounds[:1]:
            if can_copy(sound) and not is_exact:
                self._add(sound, CopiedTrack(container, sound, self._start, self._end, self._plan))
            else:
                self._add(sound, EncodedSound(container, sound, self._start, self._end, is_padded=size is not None))
        if size is not None and not tracks.sounds:
            self._add(None, EncodedSound(container, None, self._start, self._end, is_padded=True))
        for subtitles in tracks.subtitles if size is None else ():
            if has_text(subtitles):
                self._add(subtitles, LineTrack(container, subtitles, self._start, self._end))
            else:
                self._left_out.append(f"subtitle {subtitles.codec_context.codec.canonical_name}")

    def _encode_pictures(self, container: OutputContainer, video: VideoStream | None) -> EncodedPictures:
        size, info = self._wanted.size, self._source.info
        if size is None:  # as displayed
            assert video is not None
            size = info.width or video.width, info.height or video.height
        return EncodedPictures(
            container,
            video,
            self._start,
            self._end,
            self._plan,
            self._config,
            size,
            is_part=self._wanted.size is not None,
            uri=self._uri,
        )

    def _add(self, source: Stream | None, track: CopiedTrack | EncodedPictures | EncodedSound | LineTrack) -> None:
        """Add a track to the clip, with the language and the flags of the source's."""
        self._tracks[-1 - len(self._tracks) if source is None else source.index] = track
        if source is not None:
            if source.language:
                track.stream.metadata["language"] = source.language
            track.stream.disposition = source.disposition & ~Disposition.attached_pic

    def _write(self, tracks: Tracks) -> None:
        timed = [track for track in self._tracks.values() if not isinstance(track, LineTrack)]
        for each in self._source.read(tracks, self._plan.begin):
            track = self._tracks.get(each.packet.stream.index)
            if track is None:
                continue
            shown = each.pts + each.duration  # read before the track changes the packet
            if not isinstance(track, LineTrack):
                self._last = max(self._last, shown)
            track.feed(each)
            if each.pts > self._end + INTERLEAVE_SECONDS or all(one.is_done for one in timed):
                break
        if self._last <= self._start:
            raise SpanOutside(self._uri, f"nothing at {float(self._start):g} s: it ends at {float(self._last):g} s")
        for track in timed:
            track.finish(min(self._end, self._last))

    def _describe(self, size_bytes: int, length: Fraction) -> Clip:
        tracks = self._tracks.values()
        is_copied = any(isinstance(track, CopiedTrack) and track.is_video for track in tracks)
        is_encoded = any(isinstance(track, EncodedPictures) for track in tracks)
        sounds: list[How] = [
            "encoded" if isinstance(track, EncodedSound) else "copied"
            for track in tracks
            if isinstance(track, EncodedSound) or (isinstance(track, CopiedTrack) and not track.is_video)
        ]
        return Clip(
            start_seconds=float(self._start),
            end_seconds=float(self._start + length),
            video="copied" if is_copied else "encoded" if is_encoded else None,
            sounds=tuple(sounds),
            subtitle_count=sum(isinstance(track, LineTrack) for track in tracks),
            left_out=tuple(self._left_out),
            size_bytes=size_bytes,
        )
