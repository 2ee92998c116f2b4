"""Reads with ffprobe what a media file holds: its tracks, and the time of every picture and of all sound."""

import subprocess
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from pathlib import Path

PROBE_SECONDS = 300.0  # bound of one run of ffprobe, which decodes all tracks of a file
BACKWARD_SECONDS = 1.0  # a larger step back in a track's times is a jump; a smaller one is reordering
HEAD_BYTES = 1 << 20  # of an MP4, in which the boxes are looked for that say that it is encrypted
ENTRIES = (
    "frame=media_type,stream_index,pts_time,best_effort_timestamp_time,duration_time,pkt_duration_time,nb_samples"
    ":format=format_name,duration"
    ":stream=index,codec_type,codec_name,sample_rate"
    ":stream_disposition=attached_pic,timed_thumbnails,still_image"
)


@dataclass(slots=True, kw_only=True)
class Track:
    """One track of pictures or sound, decoded by ffprobe."""

    index: int
    is_video: bool
    codec: str = ""
    is_still: bool = False  # cover art and other pictures that are not the video
    rate_hz: int = 0
    times: list[float] = field(default_factory=list)  # of the frames that have one, in the decoder's order
    untimed_count: int = 0
    end: float = -inf  # at which the last frame ends
    sound_seconds: float = 0.0  # samples divided by the rate
    _sample_count: int = 0
    _last: tuple[float, int] = (-inf, 0)  # time and samples of the frame that begins last

    @property
    def begin(self) -> float:
        return min(self.times, default=0.0)

    @property
    def middle(self) -> float:
        return (self.begin + max(self.times, default=0.0)) / 2

    @property
    def frame_count(self) -> int:
        return len(self.times) + self.untimed_count

    @property
    def is_decoded(self) -> bool:
        return self.frame_count > 0 and (self.is_video or self.rate_hz > 0)

    def has_jump(self, forward_seconds: float) -> bool:
        """Whether times step back, or forward by more than the given seconds."""
        steps = [after - before for before, after in pairwise(self.times)]
        return any(not -BACKWARD_SECONDS <= step <= forward_seconds for step in steps)

    def add(self, frame: dict[str, str]) -> None:
        samples = int(_number(frame.get("nb_samples")))
        self._sample_count += samples
        words = frame.get("pts_time", "N/A"), frame.get("best_effort_timestamp_time", "N/A")
        time = next((float(word) for word in words if word != "N/A"), None)
        if time is None:
            self.untimed_count += 1
            self._last = self._last[0], self._last[1] + samples
            return
        self.times.append(time)
        self._last = max(self._last, (time, samples))
        if self.is_video:
            duration = max(_number(frame.get(name)) for name in ("duration_time", "pkt_duration_time"))
            self.end = max(self.end, time + duration)

    def follow(self, other: "Track") -> None:
        """Append a track that begins where this one ends, as in a transport stream whose PIDs change."""
        self.times += other.times
        self.untimed_count += other.untimed_count
        self._sample_count += other._sample_count
        self._last = max(self._last, other._last)
        self.end = max(self.end, other.end)
        self.set_rate(self.rate_hz or other.rate_hz)

    def set_rate(self, rate_hz: int) -> None:
        """Take the rate of the samples, which ffprobe prints last."""
        self.rate_hz = rate_hz
        if rate_hz:
            self.sound_seconds = self._sample_count / rate_hz
            self.end = (self._last[0] if self.times else 0.0) + self._last[1] / rate_hz


@dataclass(slots=True, kw_only=True)
class Truth:
    """A file as ffprobe reads it."""

    demuxer: str = ""
    declared_seconds: float = 0.0  # the container's duration; 0: none
    tracks: dict[int, Track] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)  # what ffprobe wrote about errors
    is_timeout: bool = False
    is_encrypted: bool = False  # ffprobe decodes what it cannot read, to noise

    def videos(self) -> list[Track]:
        return in_succession([t for t in self.tracks.values() if t.is_video and t.is_decoded and not t.is_still])

    def lacks(self, *, is_video: bool) -> bool:
        """Whether ffprobe has no decoder for the only tracks of pictures, or of sound."""
        kind = [t for t in self.tracks.values() if t.is_video == is_video and not t.is_still]
        return bool(kind) and not any(t.is_decoded for t in kind)

    def sounds(self) -> list[Track]:
        joined = in_succession([t for t in self.tracks.values() if not t.is_video and t.frame_count])
        return [track for track in joined if track.is_decoded]


def in_succession(tracks: list[Track]) -> list[Track]:
    """Return the tracks; as a single one if each begins where the one before it ends."""
    tracks = sorted((track for track in tracks if track.times), key=lambda track: track.begin) or tracks
    if len(tracks) < 2 or any(after.begin < before.middle for before, after in pairwise(tracks)):
        return tracks
    first, *others = deepcopy(tracks)
    for other in others:
        first.follow(other)
    return [first]


def probe(path: Path) -> Truth:
    """Decode all tracks of pictures and sound with ffprobe."""
    command = ["ffprobe", "-hide_banner", "-v", "error", "-threads", "1", "-show_entries", ENTRIES, "-of", "compact"]
    lines, complaints = [], []
    for kind in ("v", "a"):  # on its own, since ffprobe 5 can loop over subtitles without an end
        try:
            done = subprocess.run(
                [*command, "-select_streams", kind, str(path.resolve())],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=PROBE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Truth(is_timeout=True)
        lines += done.stdout.splitlines()
        complaints += done.stderr.splitlines()
    truth = read_truth(lines)
    truth.complaints = complaints
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    truth.is_encrypted = b"ftyp" in head[:12] and any(box in head for box in (b"encv", b"enca"))
    return truth


def read_truth(lines: Iterable[str]) -> Truth:
    """Read what ffprobe prints: `frame|name=value|...` for each frame in decoding order, then streams and format."""
    truth = Truth()
    frames: dict[int, Track] = {}
    for line in lines:
        section, *words = line.strip().split("|")
        fields = dict(word.split("=", 1) for word in words if "=" in word)
        if section == "format":
            truth.demuxer, truth.declared_seconds = fields["format_name"], _number(fields.get("duration"))
        elif section == "frame" and fields.get("stream_index", "").isdecimal():
            index = int(fields["stream_index"])
            frames.setdefault(index, Track(index=index, is_video=fields["media_type"] == "video")).add(fields)
        elif section == "stream" and fields.get("codec_type") in ("video", "audio"):
            index = int(fields["index"])
            track = frames.get(index, Track(index=index, is_video=fields["codec_type"] == "video"))
            track.codec = fields.get("codec_name", "unknown")
            track.is_still = any(value == "1" for name, value in fields.items() if name.startswith("disposition:"))
            track.set_rate(int(_number(fields.get("sample_rate"))))
            truth.tracks[index] = track
    return truth


def _number(word: str | None) -> float:
    return float(word) if word not in (None, "", "N/A") else 0.0
