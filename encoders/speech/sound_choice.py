"""Chooses, among the sound tracks of a file, the one to transcribe: by speech, and by language."""

from collections.abc import Sequence
from typing import Protocol

from whisper.tokenizer import LANGUAGES, TO_LANGUAGE_CODE

from encoders.speech.speech_stream import SpeechStream
from ingest.values import AudioBlock, SoundTrack

# A track has speech if it has this share of what the track with the most speech has: dubbed tracks pause alike.
SPEECH_SHARE = 0.5
LEAST_SPEECH_SECONDS = 1.0  # less is a cough that the detector took for speech
# ISO 639-2 names of Whisper's languages that its own list lacks, and names that are out of use. FFmpeg gives three
# letters for most containers, and what the file says for the others.
NAMES = """
eng:en chi:zh zho:zh cmn:zh ger:de deu:de spa:es rus:ru kor:ko fre:fr fra:fr jpn:ja por:pt tur:tr pol:pl cat:ca dut:nl
nld:nl ara:ar swe:sv ita:it ind:id in:id hin:hi fin:fi vie:vi heb:he iw:he ukr:uk gre:el ell:el may:ms msa:ms cze:cs
ces:cs rum:ro ron:ro mo:ro dan:da hun:hu tam:ta nor:no nob:no nb:no tha:th urd:ur hrv:hr scr:hr bul:bg lit:lt lat:la
mao:mi mri:mi mal:ml wel:cy cym:cy slo:sk slk:sk tel:te per:fa fas:fa lav:lv ben:bn srp:sr scc:sr aze:az slv:sl kan:kn
est:et mac:mk mkd:mk bre:br baq:eu eus:eu ice:is isl:is arm:hy hye:hy nep:ne mon:mn bos:bs kaz:kk alb:sq sqi:sq swa:sw
glg:gl mar:mr pan:pa sin:si khm:km sna:sn yor:yo som:so afr:af oci:oc geo:ka kat:ka bel:be tgk:tg snd:sd guj:gu amh:am
yid:yi ji:yi lao:lo uzb:uz fao:fo hat:ht pus:ps tuk:tk nno:nn mlt:mt san:sa ltz:lb bur:my mya:my tib:bo bod:bo tgl:tl
fil:tl mlg:mg asm:as tat:tt lin:ln hau:ha bak:ba jav:jw jv:jw sun:su
"""
CODES = dict(pair.split(":") for pair in NAMES.split())


class TranscribesSpeech(Protocol):
    """What the choice needs of a Transcriber."""

    @property
    def is_multilingual(self) -> bool: ...
    @property
    def languages(self) -> tuple[str, ...]: ...
    def open_stream(self) -> SpeechStream: ...


def choose_sound(transcriber: TranscribesSpeech, tracks: Sequence[SoundTrack]) -> int:
    """Return the place of the track to transcribe.

    Where languages are set, or the model knows only English, a track in one that has speech comes first, then those
    whose language the file does not say. Else the first that has speech is taken. Silent tracks come last, and before
    them commentary, sound for the impaired, and music without its voices.
    """
    wanted = transcriber.languages if transcriber.is_multilingual else ("en",)
    speech = [measure_speech(transcriber.open_stream(), track) for track in tracks]
    most = max((s for s, track in zip(speech, tracks, strict=True) if track.rank > 0), default=0.0)

    def worth(place: int) -> tuple[bool, bool, int, int]:
        track, language = tracks[place], language_code(tracks[place].language)
        has_speech = speech[place] >= max(LEAST_SPEECH_SECONDS, SPEECH_SHARE * most)
        fit = 0
        if language in wanted and speech[place] >= LEAST_SPEECH_SECONDS:
            fit = 3
        elif has_speech:
            fit = 2 if not wanted or language is None else 1
        return len(track.samples) > 0, track.rank > 0, fit, -place

    return max(range(len(tracks)), key=worth)


def measure_speech(stream: SpeechStream, track: SoundTrack) -> float:
    """Return the seconds of speech in what is heard of a track."""
    windows = stream.push(AudioBlock(epoch=0, samples=track.samples)) if len(track.samples) else []
    return float(sum(span[1] - span[0] for window in [*windows, *stream.finish()] for span in window.speech))


def language_code(name: str | None) -> str | None:
    """Return Whisper's code of a language that a file names, such as "de" for "deu", "de-AT" or "German"."""
    first = (name or "").lower().replace("_", "-").split("-")[0].strip()
    code = CODES.get(first, TO_LANGUAGE_CODE.get(first, first))
    return code if code in LANGUAGES else None
