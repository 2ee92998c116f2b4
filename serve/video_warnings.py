"""Warnings of videos: all their texts, and FileFacts, which makes those of a file that was indexed.

docs/warnings.md is written from the kinds. A video has at most one warning of each kind, apart from MISSING_CHUNKS.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from encoders.values import Utterance
from ingest.values import AudioBlock, Decoded, DecodeSummary, Frame, MediaInfo, SubtitleTrack
from serve.text import clock, plural, time_span

MAX_PLACES = 5  # of one warning: bounds its length
JOIN_SECONDS = 1.0  # places this close to each other are named as one span; also the resolution of clock()
CUT_SECONDS = 2.0  # before the end of a file that is cut off: damage there is the cut
# Peak below which a track is silent, -60 dB: nobody hears it, and the noise of a muted microphone stays below it.
SILENCE_PEAK = 0.001
# Speech of a video below which nothing is said about words: the detector takes some seconds of noise for speech.
MIN_SPEECH_SECONDS = 5.0
MIN_LANGUAGE_SHARE = 0.2  # of the utterances of a video: Whisper takes some mumbling for another language
ENGLISH_SENTENCE_MODEL = "all-MiniLM-L6-v2"
MAX_MISSED_SHARE = 0.5  # of a video's speech: a larger share without words is worth a warning
SECONDS_PER_MINUTE = 60
# FFmpeg's demuxers of bare pictures for which it assumes a rate, whatever was recorded. Other such formats (MPEG-2,
# MPEG-4) state their rate.
UNTIMED_CONTAINERS = frozenset({"h264", "hevc", "vvc", "mjpeg"})


@dataclass(frozen=True, slots=True, kw_only=True)
class WarningKind:
    """One kind of warning."""

    text: str  # of its warnings; names in braces stand for what varies
    sample: Mapping[str, str | float] = field(default_factory=dict)  # of what varies; for docs/warnings.md, as the next
    meaning: str
    remedy: str


TRUNCATED = WarningKind(
    text="it is cut off at {end}",
    sample={"end": "3:10 of 5:00"},
    meaning="The bytes end before the end that their header announces, as after an interrupted download or recording."
    " Everything before that time is indexed.",
    remedy="Copy or download the file again, and index it again.",
)
DAMAGED = WarningKind(
    text="damaged{places}: {packets} skipped",
    sample={"places": " at 0:12\N{EN DASH}0:15 and 3:40", "packets": "12 packets were"},
    meaning="Some of the bytes do not decode. Pictures and sound are missing there; everything else is indexed.",
    remedy="Copy the file again from where it is whole. If the damage was recorded, nothing is to be done.",
)
TIMES_JUMP = WarningKind(
    text="its timestamps jump {places}: times run on without the jumps",
    sample={"places": "at 3:20"},
    meaning="Recordings were joined, or a device was restarted, so that the file's clock begins anew. Kinodex gives"
    " each part the times that follow the part before. No moment crosses a jump. A player may show other times.",
    remedy="Nothing, unless another program must show the same times: then remux the file first, for instance with"
    " FFmpeg.",
)
TIMES_MENDED = WarningKind(
    text="the timestamps of {packets} are damaged: their times were taken from the packets beside them",
    sample={"packets": "3 packets"},
    meaning="Single timestamps lie far from all others. Everything is indexed; the times of a few pictures or of some"
    " sound may be wrong by a fraction of a second.",
    remedy="Nothing.",
)
NO_TIMES = WarningKind(
    text="it has no timestamps: its times assume {rate} pictures a second",
    sample={"rate": "25"},
    meaning="The file holds pictures and nothing else, as raw recordings of cameras do (`.264`, `.265`, `.mjpeg`). If"
    " it was recorded at another rate, all times are too short or too long by the same factor.",
    remedy="Put the pictures into a container at their rate, for instance with `ffmpeg -r 15 -i FILE -c copy OUT.mp4`,"
    " and index that.",
)
NO_DECODER = WarningKind(
    text="there is no decoder for its {kind}: only its {rest} indexed",
    sample={"kind": "pictures", "rest": "sound is"},
    meaning="FFmpeg, as it comes with Kinodex, does not know the format of the video track or of the sound track.",
    remedy="Transcode the file with the program of the camera or recorder, to H.264 and AAC.",
)
NO_DECODER_BESIDE = WarningKind(
    text="there is no decoder for one of its {kind} tracks: another is indexed",
    sample={"kind": "sound"},
    meaning="The file has several tracks, and FFmpeg, as it comes with Kinodex, does not know the format of at least"
    " one. The best of the others is indexed.",
    remedy="Nothing, if the other track is the one you need. Else transcode the file to H.264 and AAC.",
)
NOT_FOLLOWED = WarningKind(
    text="{streams} in mid-file cannot be read: pictures or sound are missing from there on",
    sample={"streams": "1 stream that begins"},
    meaning="The pictures or the sound go on in another format from some place on, as where recordings are joined, and"
    " FFmpeg, as it comes with Kinodex, does not know it.",
    remedy="Cut the file at that place, and transcode the rest to H.264 and AAC.",
)
NO_PICTURES = WarningKind(
    text="its pictures ({codec}) are missing or damaged: only its sound is indexed",
    sample={"codec": "h264"},
    meaning="There is a video track, and it is empty, or not one picture of it could be decoded.",
    remedy="See whether a player shows it. If so, transcode it to H.264; otherwise copy the file again.",
)
NO_SOUND = WarningKind(
    text="its sound ({codec}) is missing or damaged: only its pictures are indexed",
    sample={"codec": "aac"},
    meaning="There is a sound track, and it is empty, or nothing of it could be decoded. Cameras without a microphone"
    " announce such tracks.",
    remedy="Nothing, if there never was sound. If a player plays it, transcode the sound to AAC.",
)
SILENT = WarningKind(
    text="its sound is silent",
    meaning="There is a sound track, and nothing can be heard in it, so no word is indexed.",
    remedy="Nothing, if it was recorded so.",
)
NO_WORDS = WarningKind(
    text="no word was understood in {speech} of speech: {hint}",
    sample={
        "speech": "4:10",
        "hint": "speech.model is tiny.en, which knows only English; a larger one such as small knows more",
    },
    meaning="Voices were heard, and the speech model made no words of them. Singing counts as a voice: words of"
    " songs are often not understood, and nothing is wrong then.",
    remedy="Set `speech.model` to a larger model, which for a language other than English must be multilingual, and"
    " run `kinodex reindex`. [models.md](models.md) has the models.",
)
FEW_WORDS = WarningKind(
    text="words were understood in only {understood} of {speech} of speech: {hint}",
    sample={"understood": "0:30", "speech": "4:10", "hint": "speech.model is tiny; a larger one understands more"},
    meaning="The same, for more than half of the speech of the file.",
    remedy="The same: a larger model, or a multilingual one.",
)
OTHER_LANGUAGE = WarningKind(
    text="it speaks {languages}: {hint}",
    sample={
        "languages": "de",
        "hint": "speech.model is tiny.en and sentence.model is all-MiniLM-L6-v2, which know only English",
    },
    meaning="The file names another language than English for its sound, or a multilingual speech model heard one. A"
    " speech model that knows only English makes wrong words of it. A sentence model that knows only English does not"
    " see what they mean: questions find them only as they are spelled.",
    remedy="Set `speech.model` to a multilingual model such as `small`, and `sentence.model` to a multilingual one such"
    " as `paraphrase-multilingual-MiniLM-L12-v2`, and run `kinodex reindex`."
    " [models.md](models.md#other-languages) has more.",
)
BEING_WRITTEN = WarningKind(
    text="it was still being written: what was there was indexed",
    meaning="A recorder or a copying program still wrote to the file while it was indexed. A file that rests within"
    " 20 s has no such warning: it is waited for.",
    remedy="Index it again when it is complete. Its video then gets the whole content, under the same id.",
)
NOT_ENCODED = WarningKind(
    text="not encoded again, so {effect}: {reason}",
    sample={"effect": "no question finds it", "reason": "no such file: /videos/a.mp4 (check the path)"},
    meaning="`kinodex reindex` could not read the video again. Its old index answers if the encoders are the same as"
    " before. Otherwise no question finds it; its transcript and its pictures can still be read.",
    remedy="Put the file back and index it (`kinodex index PATH`), or delete the video.",
)
OUTDATED = WarningKind(
    text="indexed by an older version of kinodex, so no question finds it: run kinodex reindex",
    meaning="The library was made by a version whose vectors this version cannot use.",
    remedy="Run `kinodex reindex`.",
)
MISSING_CHUNKS = WarningKind(
    text="{chunks} missing at {at_seconds:.1f} s ({reason})",
    sample={"chunks": "2 chunks are", "at_seconds": 62.5, "reason": "MISSING"},
    meaning="A part of a live stream never came (`MISSING`), left Kafka before a worker was done with it (`EXPIRED`),"
    " or did not decode (the reason of its dead letter). Each gap has such a warning.",
    remedy="See whether the publisher ran and reached Kafka at that time, and read the dead letters. Let Kafka keep"
    " chunks for longer than workers are away.",
)
MANY_GAPS = WarningKind(
    text="only the last {gaps} are named here",
    sample={"gaps": "10 gaps"},
    meaning="A live stream has more gaps than its warnings name.",
    remedy="The metrics of the workers count all of them.",
)
SUBTITLES_NOT_READ = WarningKind(
    text="the subtitles {name} were left out: {reason}",
    sample={"name": "film.en.srt", "reason": "all its times are wrong"},
    meaning="A subtitle file beside the video, or a subtitle track, could not be read, or is another video's.",
    remedy="See whether a player shows them. Convert the file to SubRip in UTF-8, and index the video again.",
)
SUBTITLES_REFUSED = WarningKind(
    text="{lines} of the subtitles {name} left out: {reason}",
    sample={"lines": "3 lines", "name": "film.en.srt", "reason": "wrong times"},
    meaning="Some subtitles end before they begin, last for more than five minutes, begin behind the end of the video,"
    " or are more than 50,000 or than 8 MiB. The others are indexed.",
    remedy="Correct the file, and index the video again.",
)
SUBTITLE_PICTURES = WarningKind(
    text="its subtitles are pictures ({codec}), which have no text: they are not indexed",
    sample={"codec": "hdmv_pgs_subtitle"},
    meaning="DVDs, Blu-rays and broadcasts store subtitles as pictures. No other subtitles of the video are indexed.",
    remedy="Put a subtitle file with text beside the video, such as `film.en.srt`, and index it again.",
)
IMPORT_LOST = WarningKind(
    text="the imported transcript {name} was left out, as the new version of the file has another length",
    sample={"name": "talk.srt"},
    meaning="Somebody imported the words of the video (`kinodex transcript import`). The file has changed since, and is"
    " longer or shorter than before, so that their times may be wrong.",
    remedy="Correct the times, and import the transcript again.",
)
KINDS = (
    TRUNCATED, DAMAGED, TIMES_JUMP, TIMES_MENDED, NO_TIMES, NO_DECODER, NO_DECODER_BESIDE, NOT_FOLLOWED, NO_PICTURES,
    NO_SOUND, SILENT, NO_WORDS, FEW_WORDS, OTHER_LANGUAGE, SUBTITLES_NOT_READ, SUBTITLES_REFUSED, SUBTITLE_PICTURES,
    IMPORT_LOST, BEING_WRITTEN, NOT_ENCODED, OUTDATED, MISSING_CHUNKS, MANY_GAPS,
)  # fmt: skip


def is_not_encoded(warning: str) -> bool:
    """Whether a warning of a video says that a reindexing could not read it, or none has read it yet."""
    return warning == OUTDATED.text or warning.startswith(NOT_ENCODED.text.partition("{")[0])


class SpeechModel(Protocol):
    """A transcriber, as far as a warning names it."""

    @property
    def name(self) -> str: ...

    @property
    def is_multilingual(self) -> bool: ...

    @property
    def language(self) -> str | None:
        """The language that the settings name; None: detected."""

    @property
    def translates(self) -> bool:
        """Whether its words are English whatever is spoken."""


@dataclass(slots=True, kw_only=True)
class FileFacts:
    """What decoding and transcription found in one file."""

    expects_pictures: bool = True  # False: the settings leave pictures out
    finds_only_english: bool = False  # by meaning: the sentence model knows no other language
    language: str | None = None  # of the sound, as the file says: ISO 639-1
    heard: Counter[str] = field(default_factory=Counter)  # utterances by the language that is spoken
    is_being_written: bool = False  # its bytes changed while they were read
    media: MediaInfo | None = None
    summary: DecodeSummary | None = None  # set when decoding is over
    epoch_starts: dict[int, float] = field(default_factory=dict)  # media time of the first item of each epoch
    peak: float = 0.0  # of the sound, 0..1
    sound_seconds: float = 0.0
    speech_seconds: float = 0.0
    understood_seconds: float = 0.0  # of the speech: those in windows that gave words
    tracks: list[SubtitleTrack] = field(default_factory=list)  # without their subtitles
    subtitles: SubtitleTrack | None = None  # that became utterances
    subtitled_seconds: float = 0.0  # of the speech: those whose words subtitles say
    lost_import: str = ""  # name of the imported transcript of the older version that does not fit
    late_subtitle_count: int = 0  # of these, those behind the end

    def take(self, item: Decoded) -> None:
        """Take the next item of the decoder."""
        match item:
            case MediaInfo():
                self.media = item
            case DecodeSummary():
                self.summary = item
            case Frame():
                self._take_time(item.epoch, item.pts_seconds)
            case AudioBlock():
                self._take_time(item.epoch, item.start_seconds)
                self.sound_seconds += item.end_seconds - item.start_seconds
                self.peak = max(self.peak, float(np.abs(item.samples).max(initial=0.0)))

    def _take_time(self, epoch: int, seconds: float) -> None:
        self.epoch_starts[epoch] = min(seconds, self.epoch_starts.get(epoch, seconds))

    def take_words(self, speech: NDArray[np.float64], utterances: Sequence[Utterance]) -> None:
        """Take a window of speech.

        Args:
            speech: (S, 2), media time: its spans of speech.
            utterances: What was understood; empty: nothing.
        """
        seconds = float((speech[:, 1] - speech[:, 0]).sum())
        self.speech_seconds += seconds
        self.understood_seconds += seconds if utterances else 0.0
        self.heard.update(each.spoken_language or each.language for each in utterances)

    def take_subtitled(self, speech: NDArray[np.float64]) -> None:
        """Take a window of speech whose words subtitles say; `speech` as in take_words()."""
        seconds = float((speech[:, 1] - speech[:, 0]).sum())
        self.speech_seconds += seconds
        self.understood_seconds += seconds
        self.subtitled_seconds += seconds

    def warnings(self, model: SpeechModel | None) -> tuple[str, ...]:
        """Return the warnings of the file once all of it is decoded and transcribed.

        Args:
            model: The transcriber; None: the settings leave sound out.
        """
        if self.media is None or self.summary is None:
            return ()
        warnings = [BEING_WRITTEN.text] if self.is_being_written else []
        warnings += self._picture_warnings(self.media, self.summary)
        if model is not None and self.media.audio_codec is not None:
            # One of the two: both name the model that would help.
            warnings += list(self._language_warnings(model)) or self._sound_warnings(self.media.audio_codec, model)
            if "audio" in self.summary.partly_decodable_kinds:
                warnings.append(NO_DECODER_BESIDE.text.format(kind="sound"))
        elif model is not None and "audio" in self.summary.undecodable_kinds:
            warnings.append(NO_DECODER.text.format(kind="sound", rest="pictures are"))
        warnings += self._subtitle_warnings(self.summary)
        return tuple(warnings)

    def _subtitle_warnings(self, summary: DecodeSummary) -> Iterator[str]:
        if self.lost_import:
            yield IMPORT_LOST.text.format(name=self.lost_import)
        unread = next((track for track in self.tracks if track.problem), None)
        if unread is not None:
            yield SUBTITLES_NOT_READ.text.format(name=unread.name, reason=unread.problem)
        used = self.subtitles
        if used is not None:
            late = 0 if summary.truncated else self.late_subtitle_count
            lines = plural(used.refused_count + late, "line")
            if used.is_cut:
                yield SUBTITLES_REFUSED.text.format(lines="the rest", name=f"{used.name} is", reason="it is too long")
            elif used.refused_count or late:
                be = "is" if used.refused_count + late == 1 else "are"
                yield SUBTITLES_REFUSED.text.format(lines=lines, name=f"{used.name} {be}", reason="wrong times")
        elif self.tracks and not any(track.is_text for track in self.tracks):
            yield SUBTITLE_PICTURES.text.format(codec=self.tracks[0].codec)

    def _picture_warnings(self, media: MediaInfo, summary: DecodeSummary) -> Iterator[str]:
        """Yield the warnings of the container and its pictures."""
        if summary.truncated:
            end, declared = summary.duration_seconds, media.duration_seconds or 0.0
            of = f" of {clock(round(declared))}" if declared - end >= JOIN_SECONDS else ""
            yield TRUNCATED.text.format(end=clock(round(end)) + of)
        if summary.error_count and not _is_cut_only(summary):
            places = f" at {list_places(summary.damaged)}" if summary.damaged else ""
            packets = plural(summary.error_count, "packet") + (" was" if summary.error_count == 1 else " were")
            yield DAMAGED.text.format(places=places, packets=packets)
        jumps = [start for epoch, start in sorted(self.epoch_starts.items()) if epoch > 0]
        if jumps:
            yield TIMES_JUMP.text.format(places=f"at {list_places([(at, at) for at in jumps])}")
        if summary.mended_count:
            yield TIMES_MENDED.text.format(packets=plural(summary.mended_count, "packet"))
        if media.container in UNTIMED_CONTAINERS and media.frame_rate_fps:
            yield NO_TIMES.text.format(rate=f"{media.frame_rate_fps:g}")
        if "video" in summary.undecodable_kinds and self.expects_pictures:
            yield NO_DECODER.text.format(kind="pictures", rest="sound is")
        if "video" in summary.partly_decodable_kinds and self.expects_pictures:
            yield NO_DECODER_BESIDE.text.format(kind="video")
        if summary.unfollowed_count:
            count = summary.unfollowed_count
            streams = plural(count, "stream") + (" that begins" if count == 1 else " that begin")
            yield NOT_FOLLOWED.text.format(streams=streams)
        if media.video_codec is not None and self.expects_pictures and not summary.frame_count:
            yield NO_PICTURES.text.format(codec=media.video_codec)

    def _sound_warnings(self, codec: str, model: SpeechModel) -> Iterator[str]:
        missed = self.speech_seconds - self.understood_seconds
        if not self.sound_seconds:
            yield NO_SOUND.text.format(codec=codec)
        elif self.peak < SILENCE_PEAK:
            yield SILENT.text
        elif self.speech_seconds < MIN_SPEECH_SECONDS or missed <= MAX_MISSED_SHARE * self.speech_seconds:
            return
        elif not self.understood_seconds:
            yield NO_WORDS.text.format(speech=length(self.speech_seconds), hint=hint_of(model))
        else:
            understood, speech = length(self.understood_seconds), length(self.speech_seconds)
            yield FEW_WORDS.text.format(understood=understood, speech=speech, hint=hint_of(model))

    def _language_warnings(self, model: SpeechModel) -> Iterator[str]:
        """Yield the warning of speech that a model of English cannot use; a few words in another language are none."""
        if self.speech_seconds - self.subtitled_seconds < MIN_SPEECH_SECONDS:
            return
        english = [f"sentence.model is {ENGLISH_SENTENCE_MODEL}"] if self.finds_only_english else []
        if not model.is_multilingual:
            english.insert(0, f"speech.model is {model.name}")
            spoken = [self.language] if self.language is not None and self.language != "en" else []
        else:
            least = MIN_LANGUAGE_SHARE * self.heard.total()
            spoken = sorted(name for name, count in self.heard.items() if name != "en" and count >= least)
        if spoken and english and not (model.is_multilingual and model.translates):
            verb = "knows" if len(english) == 1 else "know"
            hint = f"{' and '.join(english)}, which {verb} only English"
            yield OTHER_LANGUAGE.text.format(languages=", ".join(spoken), hint=hint)


def _is_cut_only(summary: DecodeSummary) -> bool:
    """Whether all damage lies where the file is cut off: half a packet, which TRUNCATED explains."""
    edge = summary.duration_seconds - CUT_SECONDS
    return summary.truncated and bool(summary.damaged) and all(start >= edge for start, _ in summary.damaged)


def hint_of(model: SpeechModel) -> str:
    """Return which setting may help a model that understands too little."""
    if not model.is_multilingual:
        return f"speech.model is {model.name}, which knows only English; a larger one such as small knows more"
    if model.language is not None:
        return f"speech.languages is {model.language}; leave it out if that is not the language"
    return f"speech.model is {model.name}; a larger one understands more"


def live_jump_warning(jump_count: int) -> str:
    """Return the warning of a live stream whose timestamps began anew."""
    return TIMES_JUMP.text.format(places="once" if jump_count == 1 else f"{jump_count} times")


def length(seconds: float) -> str:
    """Write a length for people: "25 s", or m:ss from a minute on."""
    return f"{seconds:.0f} s" if seconds < SECONDS_PER_MINUTE - 0.5 else clock(seconds)


def list_places(spans: Sequence[tuple[float, float]]) -> str:
    """Write media times for people: "0:12-0:15, 3:40 and 5 more places".

    Args:
        spans: Start and end, in any order; those within JOIN_SECONDS of each other become one.
    """
    joined: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if joined and start - joined[-1][1] < JOIN_SECONDS:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    texts = [time_span(start, end) if end - start >= JOIN_SECONDS else clock(start) for start, end in joined]
    if len(texts) > MAX_PLACES:
        texts[MAX_PLACES - 1 :] = [f"{len(texts) - MAX_PLACES + 1} more places"]
    return " and ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))
