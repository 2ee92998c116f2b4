"""SpokenSubtitles: the subtitles of one video that become its utterances, beside or in the place of the speech model's.

Only the first epoch of a file has subtitles: where timestamps jump, nobody knows which clock they follow.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from encoders.speech.sound_choice import language_code
from encoders.speech.whisper import SpeechWindow
from encoders.values import Utterance, Word, WordSource
from ingest.config import SourceConfig
from ingest.errors import IngestError
from ingest.sandbox.pool import DecodePool
from ingest.source.sidecars import Sidecar, open_sidecar
from ingest.values import Subtitle, SubtitleTrack
from serve.catalog.speech.imports import ImportedTranscript
from serve.config import SubtitleUse

# A window of speech is left to the subtitles if they cover this share of it. The detector takes some music for speech.
COVERED_SHARE = 0.8
HEARD_SHARE = 0.5  # of an utterance of the speech model that subtitles may cover, for it to be kept
MARGIN_SECONDS = 0.5  # subtitles appear so much before or after their words
MISFIT_SHARE = 0.5  # of the subtitles that may begin behind the end of the video; more are another video's
SAMPLE_CHARS = 5000  # of a text whose language is detected
LEAST_CHARS = 40  # of a text whose language can be detected


@dataclass(frozen=True, slots=True)
class FoundTrack:
    """Subtitles, and the language they are in."""

    track: SubtitleTrack
    source: WordSource
    language: str | None  # ISO 639-1; None: it is too short to tell


class SpokenSubtitles:
    """The subtitles of one video whose words are taken.

    Args:
        found: The track.
        use: The setting: prefer or add.
    """

    def __init__(self, found: FoundTrack, use: SubtitleUse) -> None:
        self.found, self._use = found, use
        self._starts = [one.start_seconds for one in found.track.subtitles]
        longest = max((one.end_seconds - one.start_seconds for one in found.track.subtitles), default=0.0)
        self._reach_seconds = longest + MARGIN_SECONDS

    def is_enough(self, window: SpeechWindow) -> bool:
        """Whether the speech model need not hear a window of speech, as subtitles say its words."""
        if self._use == "add" or window.epoch != 0:
            return False
        speech = [(float(start), float(end)) for start, end in window.speech]
        return self._covered_seconds(speech) >= COVERED_SHARE * sum(end - start for start, end in speech)

    def join(self, heard: Sequence[Utterance], *, until_seconds: float) -> list[Utterance]:
        """Return the utterances of the video, in order of time.

        Args:
            heard: Those of the speech model. Where subtitles are preferred, one that they mostly cover is left out.
            until_seconds: Media time at which subtitles end: that of the video, or of its first epoch.
        """
        kept = [one for one in heard if self._use == "add" or one.epoch != 0 or not self._covers(one)]
        said = [
            to_utterance(one, until_seconds, self.found.language or "", self.found.source)
            for one in self.found.track.subtitles
            if one.start_seconds < until_seconds
        ]
        return sorted([*kept, *said], key=lambda one: one.start_seconds)

    def count_after(self, seconds: float) -> int:
        """Return how many subtitles begin at a media time or later."""
        return len(self._starts) - bisect_left(self._starts, seconds)

    def _covers(self, heard: Utterance) -> bool:
        seconds = heard.end_seconds - heard.start_seconds
        return self._covered_seconds([(heard.start_seconds, heard.end_seconds)]) > HEARD_SHARE * seconds

    def _covered_seconds(self, spans: Sequence[tuple[float, float]]) -> float:
        """Return how much of some spans subtitles cover, with MARGIN_SECONDS around each."""
        covered = 0.0
        for start, end in spans:
            first = bisect_left(self._starts, start - self._reach_seconds)
            last = bisect_right(self._starts, end + MARGIN_SECONDS)
            at = start
            for one in self.found.track.subtitles[first:last]:
                begin = max(at, one.start_seconds - MARGIN_SECONDS)
                finish = min(end, one.end_seconds + MARGIN_SECONDS)
                covered += max(0.0, finish - begin)
                at = max(at, finish)
        return covered


def choose_track(
    tracks: Sequence[tuple[SubtitleTrack, WordSource]],
    *,
    wanted: Collection[str],
    spoken: str | None,
    seconds: float | None,
) -> FoundTrack | None:
    """Return the track whose words are taken; None: there is none in the language of the library.

    Tracks of all that is said come before forced ones, then files before tracks, then those without sounds and names of
    speakers. Commentary is not what the video says.

    Args:
        wanted: The languages of the library; none: it has any.
        spoken: The language of the sound, as the file says; None: it does not say.
        seconds: How long the video is, as its header says; None: not known.
    """
    candidates = []
    for track, source in tracks:
        if not track.subtitles or track.kind == "commentary" or is_misfit(track, seconds):
            continue
        found = FoundTrack(track, source, language_code(track.language) or detect_language(track.subtitles))
        if not wanted or found.language is None or found.language in wanted:
            candidates.append(found)

    def worth(found: FoundTrack) -> tuple[bool, bool, bool, bool, bool]:
        track = found.track
        is_spoken = spoken is not None and found.language == spoken
        is_file = found.source == WordSource.SIDECAR
        return track.kind != "forced", is_spoken, is_file, track.kind == "full", track.is_default

    best = max(candidates, key=worth, default=None)  # the first of equals
    return FoundTrack(best.track, best.source, best.language or next(iter(wanted), None)) if best is not None else None


def to_import(imported: ImportedTranscript, until_seconds: float, languages: Collection[str]) -> list[Utterance]:
    """Return the utterances of an imported transcript; a text too short to tell is in the first of the languages."""
    spoken = detect_language(imported.lines) or next(iter(languages), "")
    return [
        to_utterance(one, until_seconds, spoken, WordSource.IMPORT)
        for one in imported.lines
        if one.start_seconds < until_seconds
    ]


def read_sidecar(pool: DecodePool, sidecar: Sidecar, config: SourceConfig, check: Callable[[], None]) -> SubtitleTrack:
    """Read a subtitle file beside a video, in a child process. One that cannot be read says why."""
    try:
        with open_sidecar(sidecar, config) as file:
            track = pool.read_subtitles(
                file, suffix=sidecar.suffix, name=sidecar.name, language=sidecar.language, kind=sidecar.kind,
                check=check,
            )  # fmt: skip
    except IngestError as error:
        return SubtitleTrack(
            name=sidecar.name, codec=sidecar.suffix, language=sidecar.language, kind=sidecar.kind, problem=error.reason
        )
    return replace(track, is_default=sidecar.is_default)


def describe_track(track: SubtitleTrack, seconds: float | None) -> SubtitleTrack:
    """Return a track without its subtitles, for the warnings of a video."""
    problem = "they are another video's, as most begin behind its end" if is_misfit(track, seconds) else track.problem
    return replace(track, subtitles=(), problem=problem)


def is_misfit(track: SubtitleTrack, seconds: float | None) -> bool:
    """Whether most subtitles of a track begin behind the end of the video: they are another video's."""
    late = sum(seconds is not None and one.start_seconds >= seconds for one in track.subtitles)
    return late > MISFIT_SHARE * len(track.subtitles)


def detect_language(subtitles: Sequence[Subtitle]) -> str | None:
    """Return the language of subtitles, ISO 639-1; None: there is too little text."""
    text, size = list[str](), 0
    for one in subtitles:
        text.append(one.text)
        size += len(one.text)
        if size >= SAMPLE_CHARS:
            break
    if size < LEAST_CHARS:
        return None
    import py3langid  # a table of 4 MB, which few videos need

    return str(py3langid.classify(" ".join(text)[:SAMPLE_CHARS])[0])


def to_utterance(one: Subtitle, until_seconds: float, language: str, source: WordSource) -> Utterance:
    """Return the utterance of a subtitle. Its words share its time by their letters, as subtitles do not time words."""
    start, end = one.start_seconds, min(one.end_seconds, until_seconds)
    texts = one.text.split()
    edges: NDArray[np.float64] = np.cumsum([0, *map(len, texts)]) / sum(map(len, texts)) * (end - start) + start
    return Utterance(
        epoch=0,
        start_seconds=start,
        end_seconds=end,
        text=one.text,
        words=tuple(
            Word(text=text, start_seconds=float(edges[n]), end_seconds=float(edges[n + 1]), probability=1.0)
            for n, text in enumerate(texts)
        ),
        language=language,
        avg_logprob=float("nan"),
        no_speech_prob=float("nan"),
        source=source,
    )
