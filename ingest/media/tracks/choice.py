"""Chooses the tracks to decode: the moving pictures, and the sound with the speech."""

from __future__ import annotations  # av's Packet is generic for type checkers only

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition, Stream
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ingest.config import DecodeConfig
from ingest.media.audio import AudioTrack, keep_layouts
from ingest.media.container import MOV, MediaFile, is_heif_item, open_container
from ingest.media.damage import Damage
from ingest.media.timeline import Epoch
from ingest.values import MAX_SOUND_TRACKS, SAMPLE_RATE_HZ, ChooseSound, SoundTrack

STILL = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
SPECIAL = Disposition.comment | Disposition.hearing_impaired | Disposition.visual_impaired | Disposition.descriptions
SPECIAL |= Disposition.clean_effects | Disposition.karaoke  # without the voices
SPECIAL_TITLE = re.compile("comment|kommentar|descri", re.IGNORECASE)  # of such tracks whose file lacks the flag
# A track with fewer pictures than this share of another's does not move beside it: a still, thumbnails, slides.
MOVING_SHARE = Fraction(1, 8)
LOOK_SECONDS = 10  # of pictures that are counted where the container does not say how many there are
LEAST_PICTURE_COUNT = 16  # to be counted of one track, also past LOOK_SECONDS
LOOK_PACKET_COUNT = 5000  # and no more packets than these: a minute of two tracks at 40 pictures a second
PROBE_PACKET_COUNT = 100  # packets of each sound track to try, to find one that decodes
LISTEN_SECONDS = 180  # of each sound track that are heard to choose one: people begin to speak in the first minutes
LONGEST_LISTEN_SECONDS = 1800  # where nothing is to be heard before
ENOUGH_SECONDS = 10  # of sound that is not silent, of any track, to end after LISTEN_SECONDS
SILENCE = 1e-3  # root of the mean square of a second of silence, at most: -60 dB


class TrackChooser:
    """Chooses the tracks of one input.

    Args:
        choose_sound: Called where several sound tracks decode; None: the first of these by rank is taken.
    """

    def __init__(
        self, file: MediaFile, uri: str, config: DecodeConfig, choose_sound: ChooseSound | None = None
    ) -> None:
        self._file, self._uri, self._config, self._choose_sound = file, uri, config, choose_sound

    def choose(self, container: InputContainer) -> tuple[VideoStream | None, AudioStream | None]:
        """Return the tracks of a container of this input."""
        return self._choose_video(container), self._choose_audio(container)

    def _choose_video(self, container: InputContainer) -> VideoStream | None:
        indices = {s.index for s in _video_streams(container)}
        if len(indices) < 2 or _declared_counts(container) or not self._file.seekable():
            return choose_video(container)
        return choose_video(container, self._count_pictures(indices))

    def _count_pictures(self, indices: set[int]) -> dict[int, int]:
        """Count the pictures of the first LOOK_SECONDS of each stream."""
        counts, first = dict.fromkeys(indices, 0), None
        for count, packet in enumerate(self._read(indices)):
            time = packet.dts * packet.time_base if packet.dts is not None else None
            first = time if first is None else first
            counts[packet.stream.index] += 1
            has_looked = time is not None and first is not None and time > first + LOOK_SECONDS
            if count >= LOOK_PACKET_COUNT or (has_looked and max(counts.values()) >= LEAST_PICTURE_COUNT):
                break
        return counts

    def _choose_audio(self, container: InputContainer) -> AudioStream | None:
        ranked = rank_audio(container)
        if len(ranked) < 2 or not self._file.seekable():
            return ranked[0] if ranked else None
        if self._choose_sound is None:
            decodable = self._find_decodable({s.index for s in ranked})
            return next((s for s in ranked if s.index in decodable), ranked[0])
        tracks = self._listen(ranked[:MAX_SOUND_TRACKS])
        if len(tracks) < 2:
            return next((s for s in ranked if tracks and s.index == tracks[0].index), ranked[0])
        index = tracks[self._choose_sound(tracks)].index
        return next(s for s in ranked if s.index == index)

    def _find_decodable(self, indices: set[int]) -> set[int]:
        """Return which of the streams yield sound within PROBE_PACKET_COUNT packets."""
        decodable: set[int] = set()
        counts = dict.fromkeys(indices, 0)
        for packet in self._read(indices):
            index = packet.stream.index
            counts[index] += 1
            if index not in decodable and counts[index] <= PROBE_PACKET_COUNT:
                try:
                    if keep_layouts(cast("list[AudioFrame]", packet.decode())):
                        decodable.add(index)
                except av.error.FFmpegError:
                    continue
            if all(i in decodable or n > PROBE_PACKET_COUNT for i, n in counts.items()):
                break
            if max(counts.values()) > 10 * PROBE_PACKET_COUNT:  # the others are empty, or begin late
                break
        return decodable

    def _listen(self, streams: list[AudioStream]) -> list[SoundTrack]:
        """Return the tracks that decode, with what is to be heard of them, in the given order."""
        hearings: dict[int, _Hearing] = {}
        for packet in self._read({s.index for s in streams}):
            stream = cast(AudioStream, packet.stream)
            if stream.index not in hearings:
                hearings[stream.index] = _Hearing(stream)
            hearings[stream.index].feed(cast("Packet[AudioStream]", packet))
            is_enough = any(hearing.heard_seconds >= ENOUGH_SECONDS for hearing in hearings.values())
            limit = LISTEN_SECONDS if is_enough else LONGEST_LISTEN_SECONDS
            lengths = [hearings[s.index].seconds if s.index in hearings else 0 for s in streams]
            if min(lengths) >= limit or max(lengths) >= 2 * limit:
                break
        return [
            SoundTrack(
                index=stream.index,
                language=stream.language,
                rank=rank_of(stream),
                samples=hearings[stream.index].take_samples(),
            )
            for stream in streams
            if stream.index in hearings and hearings[stream.index].finish()
        ]

    def _read(self, indices: set[int]) -> Iterator[Packet[Stream]]:
        """Read packets of some streams from the beginning, until the first damaged place."""
        with open_container(self._file.view(), self._uri, self._config) as container:
            streams = [s for s in container.streams if s.index in indices]
            for stream in container.streams:
                if stream.index not in indices:
                    stream.discard = Discard.all
            try:
                for packet in container.demux(streams):
                    if packet.size:
                        yield packet
            except (av.error.FFmpegError, IndexError) as error:  # IndexError: a stream appeared
                if isinstance(error, MemoryError):
                    raise


class _Hearing:
    """What is heard of one track."""

    def __init__(self, stream: AudioStream) -> None:
        self._track = AudioTrack(stream, Damage())
        zero = Fraction(0)  # times do not matter
        self._epoch = Epoch(index=0, base=zero, origin=zero, clock="media", start=zero, end=zero)
        self._parts: list[NDArray[np.float32]] = []
        self.seconds = 0.0  # decoded
        self.heard_seconds = 0.0  # of these, not silent

    def feed(self, packet: Packet[AudioStream]) -> None:
        if self.seconds < LISTEN_SECONDS or (
            self.seconds < LONGEST_LISTEN_SECONDS and self.heard_seconds < ENOUGH_SECONDS
        ):
            for sound in self._track.feed(packet, self._epoch):
                self._take(sound.samples)

    def finish(self) -> bool:
        """Take the rest; return whether anything decoded."""
        for sound in self._track.finish():
            self._take(sound.samples)
        return self.seconds > 0

    def take_samples(self) -> NDArray[np.float32]:
        return np.concatenate(self._parts) if self._parts else np.zeros(0, dtype=np.float32)

    def _take(self, samples: NDArray[np.float32]) -> None:
        self.seconds += len(samples) / SAMPLE_RATE_HZ
        for begin in range(0, len(samples), SAMPLE_RATE_HZ):
            part = samples[begin : begin + SAMPLE_RATE_HZ]
            if np.sqrt(np.mean(np.square(part))) > SILENCE:
                self._parts.append(part)
                self.heard_seconds += len(part) / SAMPLE_RATE_HZ


def choose_audible(tracks: Sequence[SoundTrack]) -> int:
    """Return the place of the first track that is not silent, commentary last."""
    places = range(len(tracks))
    return max(places, key=lambda place: (len(tracks[place].samples) > 0, tracks[place].rank > 0, -place))


def choose_video(container: InputContainer, counts: dict[int, int] | None = None) -> VideoStream | None:
    """Return the best video stream: of those that move, the default, else the largest; never flagged cover art.

    Args:
        counts: How many pictures each stream has, by its index; None: as many as the container says.
    """
    streams = _video_streams(container)
    counts = counts or _declared_counts(container)
    if counts:
        most = max(counts.values())
        least = min(most, 2)  # a single picture moves beside none: the first of an animated AVIF is a track too
        streams = [s for s in streams if counts[s.index] >= least and counts[s.index] >= MOVING_SHARE * most]
    return max(streams, key=lambda s: (rank_of(s), s.width * s.height, -s.index), default=None)


def rank_audio(container: InputContainer) -> list[AudioStream]:
    """Return the sound tracks: the default first, commentary last, else in the file's order."""
    return sorted(filter(_has_decoder, container.streams.audio), key=lambda s: (-rank_of(s), s.index))


def _video_streams(container: InputContainer) -> list[VideoStream]:
    streams = [s for s in container.streams.video if _has_decoder(s) and not s.disposition & STILL]
    # FFmpeg makes a stream also of the cover of an animated AVIF or HEIF, which is no track.
    return [s for s in streams if not is_heif_item(s)] or streams


def _declared_counts(container: InputContainer) -> dict[int, int]:
    """Return how many pictures each video stream has; empty if the container does not say. AVI counts empty ones."""
    counts = {s.index: s.frames for s in _video_streams(container)}
    return counts if container.format.name == MOV and all(counts.values()) else {}


def _has_decoder(stream: Stream) -> bool:
    return bool(stream.codec_context)


def find_undecodable_kinds(container: InputContainer) -> tuple[str, ...]:
    """Return "video" or "audio" if there are tracks of the kind, and none of them has a decoder."""
    return tuple(kind for kind, streams in _by_kind(container) if streams and not any(map(_has_decoder, streams)))


def find_partly_decodable_kinds(container: InputContainer) -> tuple[str, ...]:
    """Return "video" or "audio" if a track of the kind has no decoder, and others have.

    Sound in the language of another track does not count: phones store their sound a second time, as spatial audio.
    """
    kinds = []
    for kind, streams in _by_kind(container):
        read = [stream for stream in streams if _has_decoder(stream)]
        languages = {stream.language for stream in read if kind == "audio"}
        if read and any(not _has_decoder(stream) and stream.language not in languages for stream in streams):
            kinds.append(kind)
    return tuple(kinds)


def _by_kind(container: InputContainer) -> Iterator[tuple[str, Sequence[Stream]]]:
    """Yield the tracks of each kind. Pictures that do not move are none."""
    yield "video", [stream for stream in container.streams.video if not stream.disposition & STILL]
    yield "audio", container.streams.audio


def is_readable(stream: Stream) -> bool:
    """Whether a stream can be decoded, and FFmpeg has found data of it."""
    if isinstance(stream, AudioStream):
        return _has_decoder(stream) and bool(stream.codec_context.sample_rate)
    return isinstance(stream, VideoStream) and _has_decoder(stream) and bool(stream.width)


def rank_of(stream: Stream) -> int:
    """Return 2 for the default track, 0 for commentary and tracks for the impaired, 1 for others."""
    if stream.disposition & SPECIAL or SPECIAL_TITLE.search(stream.metadata.get("title", "")):
        return 0
    return 2 if stream.disposition & Disposition.default else 1
