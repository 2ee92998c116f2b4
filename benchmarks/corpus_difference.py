"""Compares what we decode of a file with what ffprobe says, and explains each difference by its class."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from math import ceil, floor, inf

from corpus_truth import Track, Truth

from ingest.media.audio import UNTIMED_FORMATS
from ingest.media.container import DEMUXERS, WITH_DURATION
from ingest.media.timeline import MAX_GAP_SECONDS

TIME_SECONDS = 0.002  # ffprobe prints microseconds; FLV and Matroska count milliseconds
DURATION_SECONDS, SOUND_SECONDS = 0.25, 0.1  # a frame of a slow video; two frames of AAC
SOUND_SHARE = 0.005  # of the sound that may be missing: what the codec's delay takes at each end
MAX_OVERLAP_SECONDS = 1.0  # more is not the seam of two tracks but wrong timestamps
DAMAGED_SHARE = 0.2  # of the pictures that may be missing from a damaged file: a neighbour stands for the others
FEW_FRAMES = 2  # without a complaint of ffprobe about them, in a file of which nothing decodes
STILL_SECONDS = 1.0  # for which a picture without a duration counts as shown
HALF = 0.5
JUMP, TRUNCATED, DAMAGED, UNTIMED = "times jump", "truncated", "damaged", "without timestamps"
UNREADABLE, LIMIT, ENCRYPTED = "ffprobe cannot read it", "over a limit", "encrypted"
DENSE = "timestamps advance less than the sound"
REFUSED, STILL = "a format that is not allowed", "a single picture"
RATES = "raw AAC, of which ffprobe counts one sample rate"
DELAY = "codec delay"  # sound before time zero that primes the decoder: FFmpeg 5 shows it, FFmpeg 8 does not


@dataclass(slots=True, kw_only=True)
class Decoded:
    """What our decoder yields of a file. Times are media time."""

    pictures: list[float] = field(default_factory=list)
    sound: list[tuple[float, float]] = field(default_factory=list)  # begin and end of each block
    duration_seconds: float = 0.0
    error_count: int = 0
    is_truncated: bool = False
    epoch_count: int = 1
    error: str = ""  # why the file was refused; empty: it was not
    limit: str = ""  # the setting that it exceeds


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of ours that differs from ffprobe's."""

    figure: str  # "reading", "zero", "duration", "pictures", "times" or "sound"
    text: str
    reason: str = ""  # the class that explains it; empty: unexplained


def differences(truth: Truth, ours: Decoded, *, is_exact: bool) -> list[Difference]:
    """Return what differs, each explained if it can be, for the pair of tracks that fits best."""
    found = list(_refusals(truth, ours))
    if not found and not ours.error:
        pairs = product(truth.videos() or [None], truth.sounds() or [None])
        compared = [list(_compare(truth, ours, video, sound, is_exact=is_exact)) for video, sound in pairs]
        found = min(compared, key=lambda every: (sum(not one.reason for one in every), len(every)))
    return found


def _refusals(truth: Truth, ours: Decoded) -> Iterator[Difference]:
    """Yield the difference where one side reads nothing."""
    is_readable = bool(truth.videos() or truth.sounds())
    if truth.is_timeout:
        yield Difference("reading", "ffprobe takes too long", UNREADABLE)
    elif ours.error and is_readable:
        yield Difference("reading", ours.error, _why_refused(truth, ours))
    elif not ours.error and not is_readable:
        yield Difference("reading", f"ffprobe: {'; '.join(truth.complaints)[:200]}", UNREADABLE)


def _why_refused(truth: Truth, ours: Decoded) -> str:
    frame_count = sum(track.frame_count for track in truth.tracks.values())
    if ours.limit:
        return LIMIT
    if truth.is_encrypted:
        return ENCRYPTED
    if is_refused(truth.demuxer):
        return REFUSED
    return DAMAGED if len(truth.complaints) >= frame_count - FEW_FRAMES and truth.complaints else ""


def is_refused(demuxer: str) -> bool:
    """Whether a file is of a format that we refuse: one that opens other files, or takes text for a video."""
    return not set(demuxer.split(",")) <= set(DEMUXERS.split(","))


def _compare(
    truth: Truth, ours: Decoded, video: Track | None, sound: Track | None, *, is_exact: bool
) -> Iterator[Difference]:
    tracks = [track for track in (video, sound) if track is not None]
    reason = explain(truth, ours, tracks)
    zero = min((track.begin for track in tracks if track.times), default=0.0)
    if video is not None and not video.untimed_count:
        times = sorted({time - zero for time in video.times})
        shift = find_shift(times, ours.pictures)
        if shift and not _off_grid([at + shift for at in times], ours.pictures):
            is_delay = sound is not None and sound.begin < 0 and abs(shift) < SOUND_SECONDS
            yield Difference("zero", f"all times are {shift:+.3f} s off", DELAY if is_delay else reason)
            times, zero = [at + shift for at in times], zero - shift
        if off := _off_grid(times, ours.pictures):
            yield Difference("times", f"{len(off)} of {len(ours.pictures)} times are no picture's: {_few(off)}", reason)
        missing = missing_pictures(times, ours.pictures, is_exact=is_exact)
        if missing:
            count = len(ours.pictures)
            text = f"{count} taken, {len(missing)} missing: {_few(missing)}"
            yield Difference("pictures", text, reason if _may_miss(reason, missing, ours.pictures) else "")
    elif bool(video) != bool(ours.pictures):
        count = video.frame_count if video else 0
        lacking = UNREADABLE if truth.lacks(is_video=True) else reason
        yield Difference("pictures", f"{len(ours.pictures)} taken of {count}", lacking)
    if truth.lacks(is_video=True) or truth.lacks(is_video=False):
        return  # neither the sound nor the duration can be told
    yield from _compare_sound(ours, sound, zero, reason if reason != UNTIMED else "")
    end = max((track.end for track in tracks), default=0.0) - zero
    if reason != UNTIMED and abs(ours.duration_seconds - end) > DURATION_SECONDS:
        is_still = video is not None and video.frame_count == 1 and abs(ours.duration_seconds - end) <= STILL_SECONDS
        text = f"{ours.duration_seconds:.2f} s, ffprobe {end:.2f} s"
        yield Difference("duration", text, STILL if is_still else reason)


def _may_miss(reason: str, missing: Sequence[float], ours: Sequence[float]) -> bool:
    """Whether the class of a file explains pictures that were not taken."""
    if reason == DAMAGED:
        return len(missing) <= 1 + DAMAGED_SHARE * len(ours)
    return reason != TRUNCATED or not ours or missing[0] > ours[-1]  # a file that was cut lacks its end


def _compare_sound(ours: Decoded, sound: Track | None, zero: float, reason: str) -> Iterator[Difference]:
    seconds, wanted = sum(end - begin for begin, end in ours.sound), sound.sound_seconds if sound else 0.0
    slack = SOUND_SECONDS + SOUND_SHARE * wanted
    if sound is not None and wanted < (sound.end - sound.begin) / 2 < seconds:  # FFmpeg 5 decodes a fifth of AMR in MP4
        yield Difference("sound", f"{seconds:.2f} s, ffprobe {wanted:.2f} s", UNREADABLE)
    elif not wanted - _overlap(sound) - slack <= seconds <= wanted + slack:
        yield Difference("sound", f"{seconds:.2f} s, ffprobe {wanted:.2f} s", reason)
    elif sound is not None and sound.times and ours.sound:
        begin, end = ours.sound[0][0] - (sound.begin - zero), ours.sound[-1][1] - (sound.end - zero)
        if max(abs(begin), abs(end)) > SOUND_SECONDS:
            is_dense = sound.end - sound.begin < wanted / 2
            text = f"begins {begin:+.2f} s and ends {end:+.2f} s off"
            yield Difference("sound", text, DENSE if is_dense else reason)


def _overlap(sound: Track | None) -> float:
    """Return how long a track has two sounds at once, as where its PID changes: one of them counts."""
    if sound is None:
        return 0.0
    return min(max(0.0, sound.sound_seconds - (sound.end - sound.begin)), MAX_OVERLAP_SECONDS)


def explain(truth: Truth, ours: Decoded, tracks: Sequence[Track]) -> str:
    """Return the class of a file whose figures may differ; empty if nothing about it is special."""
    if truth.is_encrypted:
        return ENCRYPTED
    if truth.demuxer in UNTIMED_FORMATS:
        return RATES
    forward = inf if truth.demuxer in WITH_DURATION else MAX_GAP_SECONDS
    if any(track.has_jump(forward) for track in tracks):
        return JUMP
    if ours.is_truncated:
        return TRUNCATED
    if truth.complaints and ours.error_count:
        return DAMAGED
    if any(track.is_video and track.untimed_count for track in tracks):
        return UNTIMED
    return ""


def find_shift(times: Sequence[float], ours: Sequence[float]) -> float:
    """Return by how much the first of our times is off, if it is the time of none of the file's pictures."""
    if not times or not ours or not _off_grid(times, ours):
        return 0.0
    return ours[0] - times[0]


def _off_grid(times: Sequence[float], ours: Sequence[float]) -> list[float]:
    """Return those of our times at which the file has no picture."""
    return [at for at in ours if not any(abs(at - time) <= TIME_SECONDS for time in times)]


def missing_pictures(times: Sequence[float], ours: Sequence[float], *, is_exact: bool) -> list[float]:
    """Return which pictures a second must be taken and are not.

    With `fast`: the ticks, whole seconds, that have a picture within half a second. With `exact`: the times of pictures
    shown at a tick. A tick after the last picture may have one or not, as may one at which rounding decides.
    """
    if is_exact:
        shown = [time for time, following in pairwise(times) if ceil(time + TIME_SECONDS) < following - TIME_SECONDS]
        return [time for time in shown if not any(abs(at - time) <= TIME_SECONDS for at in ours)]
    ticks = {floor(t + HALF) for t in times if floor(t + HALF - TIME_SECONDS) == floor(t + HALF + TIME_SECONDS)}
    taken = {floor(at + HALF + slack) for at in ours for slack in (-TIME_SECONDS, TIME_SECONDS)}
    return sorted(tick for tick in ticks - taken if tick <= times[-1])


def _few(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:.3f}".rstrip("0").rstrip(".") for number in numbers[:5]) + (
        ", ..." if len(numbers) > 5 else ""
    )
