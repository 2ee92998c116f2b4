"""Values of the stage: chunks of live streams, and the pictures and sound that decoding yields.

Times of decoded items are media time: seconds from the first picture or the first sound, whichever is earlier, as a
player shows them. With DecodeConfig.clock = "source", zero is instead a whole second of the container's time before the
first picture; DecodeSummary.zero_seconds is that second.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

MAX_SOUND_TRACKS = 8  # of one file that are heard to choose one: 12 MB each
SAMPLE_RATE_HZ = 16_000  # the rate that Whisper and silero-vad were trained on
MAX_DAMAGED_COUNT = 20  # of the damaged parts that a summary lists; people read no more
MAX_NUMBER = (1 << 63) - 1  # exclusive bound of session and chunk numbers: an int64 must hold the next number too
MAX_TIME_SECONDS = 1000 * 365.25 * 24 * 3600  # from 1970: times near it still fit into protobuf's Timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaInfo:
    """What the container claims, before anything is decoded. Every field may be absent or wrong."""

    container: str  # FFmpeg's demuxer name, e.g. "mov,mp4,m4a,3gp,3g2,mj2", or "heif" for a still picture
    duration_seconds: float | None
    video_codec: str | None  # None: no moving pictures; cover art does not count
    audio_codec: str | None
    width: int | None  # as displayed: after rotation and pixel aspect ratio
    height: int | None
    rotation_degrees: int  # 0, 90, 180 or 270, clockwise, already applied to every frame
    frame_rate_fps: float | None  # average, according to the container
    audio_language: str | None = None  # of the sound track that is decoded, as the file names it


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One sampled picture of an input."""

    epoch: int  # number of the stretch of unbroken timestamps, from 0
    pts_seconds: float  # media time; strictly increasing
    pixels: NDArray[np.uint8]  # (H, W, 3) RGB at the encoder's input size
    thumbnail: bytes  # JPEG of the whole picture, shorter side DecodeConfig.thumbnail_px
    # The whole picture to read text from, (H, W, 3) RGB, longer side at most DecodeConfig.reading_px. None: it is not
    # asked for, or looks like the last one that was made.
    reading: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[2] != 3 or self.pixels.dtype != np.uint8:
            raise ValueError(f"pixels must be uint8 (H, W, 3), got {self.pixels.dtype} {self.pixels.shape}")
        if self.pts_seconds < 0:
            raise ValueError(f"pts_seconds must be >= 0, got {self.pts_seconds}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioBlock:
    """Consecutive audio samples, mono, 16 kHz. Blocks come in order; a gap before start_seconds is silence."""

    epoch: int
    start_seconds: float = 0.0
    samples: NDArray[np.float32]  # (N,), -1..1

    def __post_init__(self) -> None:
        if self.samples.ndim != 1 or self.samples.dtype != np.float32:
            raise ValueError(f"samples must be float32 (N,), got {self.samples.dtype} {self.samples.shape}")

    @property
    def end_seconds(self) -> float:
        return self.start_seconds + len(self.samples) / SAMPLE_RATE_HZ


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundTrack:
    """One of several sound tracks that decode, and what is heard of it, for the choice of one."""

    index: int  # number of the track in its file
    language: str | None  # as the file names it, mostly in three letters of ISO 639-2; None or "und": it does not say
    rank: int  # 2: the file's default; 0: commentary, for the impaired, or without voices; 1: any other
    samples: NDArray[np.float32]  # (N,), 16 kHz mono, -1..1: of its first minutes, without the silent seconds


# full: all that is said; impaired: with sounds and names of speakers; forced: foreign lines and signs only; commentary:
# what somebody says about the film
SubtitleKind = Literal["full", "impaired", "forced", "commentary"]


@dataclass(frozen=True, slots=True)
class Subtitle:
    """One subtitle, as plain text. The text is untrusted."""

    start_seconds: float  # media time
    end_seconds: float
    text: str  # one line, without markup, control characters and marks of text direction

    def __post_init__(self) -> None:
        if not 0 <= self.start_seconds < self.end_seconds or not self.text:
            raise ValueError(f"a subtitle from {self.start_seconds} to {self.end_seconds}: {self.text[:20]!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SubtitleTrack:
    """The subtitles of one track of a file, or of one subtitle file."""

    name: str  # for people: "film.en.srt", "track 3"
    codec: str  # FFmpeg's name, e.g. "mov_text", "hdmv_pgs_subtitle"; of a file: its suffix, e.g. "srt"
    language: str | None  # as the file or its name says; None or "und": it does not say
    kind: SubtitleKind
    is_default: bool = False
    is_text: bool = True  # False: they are pictures
    subtitles: tuple[Subtitle, ...] = ()  # in order of their starts
    refused_count: int = 0  # subtitles left out because their times are wrong
    is_cut: bool = False  # it has more than the limits allow: the rest is left out
    problem: str = ""  # why nothing of it could be read


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeSummary:
    """What the input really contained, known at its end."""

    duration_seconds: float  # media time at which the last picture or sound ends
    epoch_count: int
    frame_count: int  # sampled frames
    error_count: int  # packets and frames that did not decode and were skipped
    truncated: bool  # the bytes end before the end that the container announced
    zero_seconds: float = 0.0  # the container's time at media time zero; 0 if nothing had a time
    start_seconds: float = 0.0  # the container's time of the first picture, or of the first sound without pictures
    pictures_end_seconds: float = 0.0  # media time at which the last picture ends; 0 without pictures
    unfollowed_count: int = 0  # streams that begin where a track ends in mid-file, and cannot be read
    mended_count: int = 0  # packets whose damaged timestamps were replaced
    # "video", "audio": the kinds of which there are tracks, and none that FFmpeg has a decoder for
    undecodable_kinds: tuple[str, ...] = ()
    # "video", "audio": the kinds of which a track has no decoder, beside one that has
    partly_decodable_kinds: tuple[str, ...] = ()
    # media times [start, end) of parts with pictures or sound that did not decode: in order, at least 2 s apart
    damaged: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        ends = [time for span in self.damaged for time in span]
        if len(self.damaged) > MAX_DAMAGED_COUNT or any(a >= b for a, b in pairwise(ends)):
            raise ValueError(f"damaged must be at most {MAX_DAMAGED_COUNT} spans in order, got {self.damaged}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Which part of an input becomes a clip, and how."""

    start_seconds: float  # media time
    end_seconds: float  # media time, exclusive; past the end of the media means its end
    is_exact: bool = False  # encode anew; False: copy what MP4 players take, from the keyframe before
    # displayed size of the clip, which is padded with black, and its sound becomes 48 kHz stereo, as the parts of a
    # montage need it; None: as the source is
    size: tuple[int, int] | None = None
    has_jumps: bool = False  # whether the input's timestamps jump (several epochs): it is read from its beginning

    def __post_init__(self) -> None:
        if not 0 <= self.start_seconds < self.end_seconds or not math.isfinite(self.end_seconds):
            raise ValueError(f"a cut must have 0 <= start < end, got {self.start_seconds} to {self.end_seconds}")
        if self.size is not None and (min(self.size) < 2 or self.size[0] % 2 or self.size[1] % 2 or not self.is_exact):
            raise ValueError(f"size must be even, >= 2 and of an exact cut, got {self.size}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A clip that was written: an MP4 file. Times are media times of its source."""

    start_seconds: float
    end_seconds: float  # of the cut, or of the media if that ends before
    video: Literal["copied", "encoded"] | None  # None: no pictures
    sounds: tuple[Literal["copied", "encoded"], ...]  # of each sound track
    subtitle_count: int  # tracks of subtitles
    left_out: tuple[str, ...]  # tracks that MP4 cannot hold or that do not decode, e.g. "subtitle hdmv_pgs_subtitle"
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of a live stream that decodes without its neighbours."""

    collection: str
    stream_id: str
    session: int  # greater each time the publisher restarts
    sequence: int  # 0, 1, 2, ... within the session
    media: bytes = b""
    uri: str = ""  # where to fetch the media, instead of `media`
    media_type: str = ""
    start_time: float | None = None  # of the first picture, or of the first sound without pictures; seconds since 1970
    end_of_stream: bool = False  # the session has no further chunk

    def __post_init__(self) -> None:
        for name in ("collection", "stream_id"):
            value = getattr(self, name)
            if not value or "/" in value or not value.isprintable():
                raise ValueError(f'{name} must not be empty and have no "/" or control characters, got {value!r}')
        for name in ("session", "sequence"):
            if not 0 <= getattr(self, name) < MAX_NUMBER:
                raise ValueError(f"{name} must be >= 0 and below 2**63 - 1, got {getattr(self, name)}")
        if self.media and self.uri:
            raise ValueError("a chunk has media or a uri, got both")
        if not self.media and not self.uri and not self.end_of_stream:
            raise ValueError("a chunk without media must be the end of the stream")
        if self.start_time is not None and not math.isfinite(self.start_time):
            raise ValueError(f"start_time must be a number of seconds, got {self.start_time}")
        if self.start_time is not None and abs(self.start_time) > MAX_TIME_SECONDS:
            raise ValueError(f"start_time must lie within 1000 years of 1970, got {self.start_time}")


Decoded = MediaInfo | SubtitleTrack | Frame | AudioBlock | DecodeSummary
ChooseSound = Callable[[Sequence[SoundTrack]], int]  # tracks in order of rank -> the place of the one to hear
