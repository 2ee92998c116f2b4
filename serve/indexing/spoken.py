"""The words of one video of a run: which subtitles say them, and what the speech model must hear."""

from collections.abc import Sequence

from encoders.speech.sound_choice import language_code
from encoders.speech.whisper import SpeechWindow, Transcriber
from encoders.values import Utterance
from ingest.source.sidecars import Sidecar, find_sidecars
from serve.catalog.places import place_of
from serve.indexing.subtitles import SpokenSubtitles, choose_track, describe_track, to_import
from serve.indexing.work import VideoWork
from serve.settings import Settings


def sidecars_of(work: VideoWork, settings: Settings) -> list[Sidecar]:
    """Return the subtitle files beside an input: a local file that is stored under its place."""
    place = place_of(work.uri)
    is_local = place is not None and place.startswith("/")
    if settings.subtitles.use == "ignore" or not is_local:
        return []
    return find_sidecars(work.input.uri, language_code)


def library_languages(settings: Settings, transcriber: Transcriber | None) -> tuple[str, ...]:
    """Return the languages of a library's words, ISO 639-1; none: it has any."""
    if transcriber is not None and (not transcriber.is_multilingual or settings.speech.translate):
        return ("en",)
    return settings.speech.languages


def choose_subtitles(work: VideoWork, settings: Settings, transcriber: Transcriber | None) -> None:
    """Choose the subtitles of a video, of which all are known."""
    media = work.facts.media
    seconds = media.duration_seconds if media is not None else None
    work.facts.language = language_code(media.audio_language if media is not None else None)
    work.facts.tracks = [describe_track(track, seconds) for track, _ in work.tracks]
    found = choose_track(
        work.tracks,
        wanted=library_languages(settings, transcriber),
        spoken=work.facts.language,
        seconds=seconds,
    )
    work.has_chosen, work.tracks = True, []
    if found is not None:
        work.subtitles = SpokenSubtitles(found, settings.subtitles.use)
        work.facts.subtitles = found.track


def windows_to_hear(work: VideoWork, windows: Sequence[SpeechWindow]) -> list[SpeechWindow]:
    """Return the windows of speech whose words no subtitles say."""
    heard = []
    for window in windows:
        if work.imported is not None or (work.subtitles is not None and work.subtitles.is_enough(window)):
            work.facts.take_subtitled(window.speech)
        else:
            heard.append(window)
    return heard


def spoken_words(work: VideoWork, languages: tuple[str, ...]) -> list[Utterance]:
    """Return the utterances of a video whose words are all known, in order of time.

    Args:
        languages: Those of the library, for a text that is too short to tell its own.
    """
    summary = work.facts.summary
    assert summary is not None
    if work.imported is not None:
        return to_import(work.imported, summary.duration_seconds, languages)
    heard = work.heard()
    if work.subtitles is None:
        return heard
    until = min([summary.duration_seconds, *(at for epoch, at in work.facts.epoch_starts.items() if epoch)])
    work.facts.late_subtitle_count = work.subtitles.count_after(until)
    return work.subtitles.join(heard, until_seconds=until)
